"""HTTP/1.1 on 127.0.0.1, one thread a connection, with latency and faults on the wire."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bot.clock import sleep
from bot.simulator.api import PRIVATE, Api
from bot.simulator.faults import Faults
from bot.simulator.options import SimulatorOptions

MAXIMUM_BODY_BYTES = 1_000_000
IDLE_SECONDS = 300.0
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><center>cloudflare</center></body></html>"
_REASONS = {200: "OK", 307: "Temporary Redirect", 413: "Content Too Large", 502: "Bad Gateway"}


class _Handler(BaseHTTPRequestHandler):
    """One connection. Nagle is off: with it every answer takes 40 ms."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    server: WireServer

    def do_GET(self) -> None:
        """Answer a public request."""
        self._serve(b"")

    def do_POST(self) -> None:
        """Answer a private request."""
        text = self.headers.get("Content-Length") or "0"
        length = int(text) if text.isdigit() else MAXIMUM_BODY_BYTES + 1
        if length > MAXIMUM_BODY_BYTES:
            self.close_connection = True
            self._send(413, _HTML, "text/html")
            return
        self._serve(self.rfile.read(length))

    def _serve(self, body: bytes) -> None:
        options, faults = self.server.options, self.server.faults
        delay = faults.latency(options.latency_seconds)
        if delay:
            sleep(delay)
        path = self.path.partition("?")[0]
        fault = faults.draw(path.rpartition("/")[2], path.startswith(PRIVATE))
        name = fault.name if fault else ""
        if name == "refuse_502":
            self._send(502, _HTML, "text/html")
        elif name == "redirect_307":
            self._send(307, b"", "text/html", f"Location: {options.redirect_url}{self.path}\r\n")
        else:
            headers = {name: self.headers.get(name) or "" for name in ("API-Key", "API-Sign")}
            status, answer = self.server.api.handle(self.command, self.path, headers, body, fault)
            self._answer(status, answer, name)

    def _answer(self, status: int, answer: bytes, fault: str) -> None:
        """Send the answer, or what the fault makes of it."""
        if fault == "slow":
            sleep(self.server.options.slow_seconds)
        if fault == "reset":
            self._reset()
        elif fault == "half_body":
            self._send(status, answer, "application/json", cut=len(answer) // 2)
        elif fault == "answer_502":
            self._send(502, _HTML, "text/html")
        elif fault == "html":
            self._send(200, _HTML, "text/html")
        else:
            self._send(status, answer, "application/json; charset=utf-8")

    def _send(self, status: int, body: bytes, kind: str, more: str = "", cut: int | None = None) -> None:
        """Write status, headers and body at once. `cut` leaves the body unfinished and hangs up."""
        head = f"HTTP/1.1 {status} {_REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n{more}"
        if self.close_connection or cut is not None:
            self.close_connection = True
            head += "Connection: close\r\n"
        self.wfile.write(head.encode() + b"\r\n" + body[:cut])

    def _reset(self) -> None:
        """Hang up without an answer, with a TCP reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Print nothing: requests are in `Api.log`."""


class WireServer(ThreadingHTTPServer):
    """The listening socket and its connections. Raises OSError when the port is taken."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, api: Api, faults: Faults, options: SimulatorOptions) -> None:
        self.api = api
        self.faults = faults
        self.options = options
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(("127.0.0.1", options.port), _Handler)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Remember the connection, so that it can be ended."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Forget the connection and close it."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Pass over a client that hangs up; show everything else."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def hang_up(self) -> None:
        """End the connections that clients keep alive; each one's thread then closes its socket."""
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

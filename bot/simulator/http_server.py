"""HTTP/1.1 on 127.0.0.1, one thread a connection, with latency and faults on the wire."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bot.base.clock import MarketClock, sleep
from bot.simulator.api import PRIVATE, Api
from bot.simulator.faults import NO_FAULT, Answer, Arrival, Fault, Faults
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
        latency = faults.latency(options.latency_seconds)
        if latency:
            sleep(latency)
        path = self.path.partition("?")[0]
        fault = faults.draw(path.rpartition("/")[2], path.startswith(PRIVATE)) or NO_FAULT
        status, answer = self._deliver(body, fault)
        self._answer(status, answer, fault.answer)

    def _deliver(self, body: bytes, fault: Fault) -> tuple[int, bytes]:
        """Hand the request to the exchange as the fault has it arrive; return its status and body."""
        server = self.server
        headers = {name: self.headers.get(name) or "" for name in ("API-Key", "API-Sign")}
        if fault.arrival in (Arrival.AT_ONCE, Arrival.TWICE):
            answered = server.api.handle(self.command, self.path, headers, body, fault)
        else:
            answered = 200, b""
        if fault.arrival not in (Arrival.LATE, Arrival.TWICE):
            return answered
        delay = server.faults.delay(fault, server.options.delay_seconds)
        if fault.answer is not Answer.LAST:
            server.api.handle_later(delay, self.command, self.path, headers, body)
            return answered
        if server.clock.wait(delay, server.stopped):
            raise ConnectionAbortedError("stopped before the second copy arrived")
        return server.api.handle(self.command, self.path, headers, body)

    def _answer(self, status: int, answer: bytes, fate: Answer) -> None:
        """Send the answer, or what becomes of it."""
        if fate is Answer.SLOW:
            sleep(self.server.options.slow_seconds)
        if fate is Answer.RESET:
            self._reset()
        elif fate is Answer.NOTHING:
            self.close_connection = True
        elif fate is Answer.HALF:
            self._send(status, answer, "application/json", cut=len(answer) // 2)
        elif fate is Answer.HTTP_502:
            self._send(502, _HTML, "text/html")
        elif fate is Answer.HTML:
            self._send(200, _HTML, "text/html")
        elif fate is Answer.REDIRECT:
            self._send(307, b"", "text/html", f"Location: {self.server.options.redirect_url}{self.path}\r\n")
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

    def __init__(self, api: Api, faults: Faults, options: SimulatorOptions, clock: MarketClock) -> None:
        self.api = api
        self.faults = faults
        self.options = options
        self.clock = clock
        self.stopped = threading.Event()
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
        self.stopped.set()
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

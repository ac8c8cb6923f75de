"""HTTP/1.1 on 127.0.0.1, one thread for each connection, with latency and faults."""

from __future__ import annotations

import socket
import struct
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from bot.base.clock import MarketClock, sleep
from bot.simulator.api import PRIVATE_PATH, Api
from bot.simulator.faults import NO_FAULT, DelayedRequest, Fault, FaultInjector, RequestDelivery, ResponseMode
from bot.simulator.options import SimulatorOptions

BODY_BYTES_MAX = 1_000_000
IDLE_TIMEOUT_SECONDS = 300.0
_BAD_GATEWAY_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><center>cloudflare</center></body></html>"
_REASON_PHRASES = {200: "OK", 307: "Temporary Redirect", 413: "Content Too Large", 502: "Bad Gateway"}


class _RequestHandler(BaseHTTPRequestHandler):
    """One connection. Nagle's algorithm is off: with it every answer takes 40 ms."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_TIMEOUT_SECONDS
    server: SimulatorHttpServer

    def do_GET(self) -> None:
        """Answer a public request."""
        self._serve(b"")

    def do_POST(self) -> None:
        """Answer a private request."""
        text = self.headers.get("Content-Length") or "0"
        length = int(text) if text.isdigit() else BODY_BYTES_MAX + 1
        if length > BODY_BYTES_MAX:
            self.close_connection = True
            self._send(413, _BAD_GATEWAY_HTML, "text/html")
            return
        self._serve(self.rfile.read(length))

    def _serve(self, body: bytes) -> None:
        options, faults = self.server.options, self.server.faults
        latency = faults.random_latency(options.latency_seconds)
        if latency:
            sleep(latency)
        path = self.path.partition("?")[0]
        fault = faults.next_fault(path.rpartition("/")[2], path.startswith(PRIVATE_PATH)) or NO_FAULT
        headers = {name: self.headers.get(name) or "" for name in ("API-Key", "API-Sign")}
        status, response_body = self.server.deliver(self.command, self.path, headers, body, fault)
        self._respond(status, response_body, fault.response)

    def _respond(self, status: int, body: bytes, mode: ResponseMode) -> None:
        """Send the answer, or what the fault leaves of it."""
        if mode is ResponseMode.SLOW:
            sleep(self.server.options.slow_seconds)
        if mode is ResponseMode.RESET:
            self._reset_connection()
        elif mode is ResponseMode.CLOSE:
            self.close_connection = True
        elif mode is ResponseMode.TRUNCATED:
            self._send(status, body, "application/json", body_limit=len(body) // 2)
        elif mode is ResponseMode.HTTP_502:
            self._send(502, _BAD_GATEWAY_HTML, "text/html")
        elif mode is ResponseMode.HTML:
            self._send(200, _BAD_GATEWAY_HTML, "text/html")
        elif mode is ResponseMode.REDIRECT:
            self._send(307, b"", "text/html", f"Location: {self.server.options.redirect_url}{self.path}\r\n")
        else:
            self._send(status, body, "application/json; charset=utf-8")

    def _send(
        self, status: int, body: bytes, content_type: str, extra_headers: str = "", body_limit: int | None = None
    ) -> None:
        """Write status, headers and body at once. With `body_limit` the body is cut off and the connection closed."""
        head = f"HTTP/1.1 {status} {_REASON_PHRASES[status]}\r\nContent-Type: {content_type}\r\n"
        date = self.date_time_string(int(self.server.exchange_time()))
        head += f"Date: {date}\r\nContent-Length: {len(body)}\r\n{extra_headers}"
        if self.close_connection or body_limit is not None:
            self.close_connection = True
            head += "Connection: close\r\n"
        self.wfile.write(head.encode() + b"\r\n" + body[:body_limit])

    def _reset_connection(self) -> None:
        """Close the connection without an answer, with a TCP reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name of the base class
        """Print nothing: requests are in `Api.request_log`."""


class SimulatorHttpServer(ThreadingHTTPServer):
    """The listening socket and its connections. Raises OSError when the port is in use."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, api: Api, faults: FaultInjector, options: SimulatorOptions, clock: MarketClock) -> None:
        self.faults = faults
        self.options = options
        self._api = api
        self._clock = clock
        self._stopped = threading.Event()
        self._connections: set[socket.socket] = set()
        self._connections_lock = threading.Lock()
        super().__init__(("127.0.0.1", options.port), _RequestHandler)

    def exchange_time(self) -> float:
        """Return the exchange's time in Unix seconds, for the Date of an answer."""
        return self._clock.now() + self.options.clock_offset_seconds

    def deliver(
        self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault
    ) -> tuple[int, bytes]:
        """Pass a request to the exchange, once, twice, later or never, as its fault requires; return status and body.

        Raises ConnectionAbortedError when the server stops before the answer.
        """
        response = 200, b""
        if fault.delivery in (RequestDelivery.IMMEDIATE, RequestDelivery.DUPLICATED):
            response = self._api.handle(http_method, target, headers, body, fault)
        if fault.delivery in (RequestDelivery.IMMEDIATE, RequestDelivery.DROPPED):
            return response
        delay_seconds = self.faults.copy_delay(fault, self.options.delay_seconds)
        if fault.response is not ResponseMode.SECOND_RESPONSE:
            self._api.schedule(DelayedRequest(self._clock.now() + delay_seconds, http_method, target, headers, body))
            return response
        if self._clock.wait(delay_seconds, self._stopped):
            raise ConnectionAbortedError("stopped before the second copy arrived")
        return self._api.handle(http_method, target, headers, body)

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """Remember the connection, so that it can be closed."""
        with self._connections_lock:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:  # type: ignore[override]
        """Forget the connection and close it."""
        with self._connections_lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore a client that closes its connection; report everything else."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def close_connections(self) -> None:
        """Close the connections that clients keep alive; each connection's thread then closes its socket."""
        self._stopped.set()
        with self._connections_lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

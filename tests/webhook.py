"""A webhook server on loopback, which answers as a test scripts it: well, badly, late, or not at all."""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

LIMIT_SECONDS = 20.0
# As long as Telegram's, but not in the format of a token.
TOKEN = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghi"


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length", "0"))
        body = json.loads(self.rfile.read(length)) if length else None
        self.server.hook.requests.put(Request(self.command, self.path, dict(self.headers), body))
        with contextlib.suppress(OSError):
            self.server.hook.respond(self)

    do_GET = do_POST  # noqa: N815 - the name that http.server looks for

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    hook: Webhook


# A status, the bytes of a whole answer (none: the connection ends), or a function that writes one itself.
ScriptedResponse = int | bytes | Callable[[_Handler], None]


class Webhook:
    """Open in a `with` block. `responses` answer the next requests, one each; after that all succeed."""

    def __init__(self, port: int = 0, responses: list[ScriptedResponse] | None = None) -> None:
        self.requests: queue.Queue[Request] = queue.Queue()
        self.responses = responses or []
        # Ends hanging answers.
        self.released = threading.Event()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.hook = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    @property
    def url(self) -> str:
        """An address in no service's format."""
        return f"http://127.0.0.1:{self._server.server_port}/hook/{TOKEN}"

    @property
    def telegram_url(self) -> str:
        """An address in Telegram's format."""
        return f"http://127.0.0.1:{self._server.server_port}/bot123456:{TOKEN}/sendMessage?chat_id=-1001"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def next_request(self) -> Request:
        """Wait for the next request."""
        return self.requests.get(timeout=LIMIT_SECONDS)

    def respond(self, handler: _Handler) -> None:
        """Answer as scripted."""
        response = self.responses.pop(0) if self.responses else 200
        if callable(response):
            response(handler)
        elif isinstance(response, bytes):
            handler.wfile.write(response)
        else:
            handler.send_response(response)
            handler.send_header("Content-Length", "0")
            handler.end_headers()

    def hang(self, _handler: _Handler) -> None:
        """Answer nothing until the test ends or sets `released`."""
        self.released.wait(LIMIT_SECONDS)

    def drip(self, handler: _Handler) -> None:
        """Answer without an end, a byte at a time."""
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Slow: ")
        while not self.released.wait(0.01):
            handler.wfile.write(b"a")
            handler.wfile.flush()

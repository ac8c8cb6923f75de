"""A server of raw answers on loopback, plain or with TLS, which counts what arrives; it can be a proxy as well."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Self

Answer = bytes | Callable[[ssl.SSLSocket | socket.socket], None]


class HttpServer:
    """Sends one of `answers` for each request, in turn and on every connection; a context manager.

    `requests` has what each read of a connection returned, and one request is expected to come in one read. After an
    answer the connection stays open, unless the server `closes` it.
    """

    def __init__(
        self, *answers: Answer, tls: ssl.SSLContext | None = None, closes: bool = False, host: str = "127.0.0.1"
    ) -> None:
        self._answers = list(answers)
        self._tls = tls
        self._closes = closes
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family)
        self.address = f"[{host}]" if ":" in host else host
        self.address += f":{self._listener.getsockname()[1]}"
        self.url = f"{'https' if tls else 'http'}://{self.address}"
        self.requests: list[bytes] = []
        self.connections: list[socket.socket] = []
        # Released each time that the server has closed a connection.
        self.closed = threading.Semaphore(0)
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                thread = threading.Thread(target=self._serve, args=(connection,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, connection: socket.socket) -> None:
        # By a copy of the descriptor: TLS takes the connection itself.
        with suppress(OSError), connection, connection.dup() as copy:
            self.connections.append(copy)
            with self._tls.wrap_socket(connection, server_side=True) if self._tls else connection as stream:
                self._answer(stream)
        self.closed.release()

    def _answer(self, stream: ssl.SSLSocket | socket.socket) -> None:
        while request := stream.recv(65_536):
            self.requests.append(request)
            answer = self._answers.pop(0)
            if callable(answer):
                answer(stream)
            else:
                stream.sendall(answer)
            if self._closes:
                return

    def tunnel(self, stream: socket.socket) -> None:
        """Answer CONNECT as a proxy does, and pass bytes on in both directions until one side ends."""
        host, _, port = self.requests[-1].split()[1].decode().rpartition(":")
        with socket.create_connection((host.strip("[]"), int(port))) as target:
            stream.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            back = threading.Thread(target=_copy, args=(target, stream))
            back.start()
            _copy(stream, target)
            back.join()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):
        while data := source.recv(65_536):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_RDWR)


def http_answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """Return a complete answer with this body."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body

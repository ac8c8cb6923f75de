"""One kept-alive HTTP connection: bounded in time and size, and a request leaves at most once.

`http.client.HTTPConnection` reopens a closed connection without telling its caller and bounds each read instead of the
whole answer, so this module opens the socket itself and leaves to `http.client` what it does well: reading an answer.
"""

from __future__ import annotations

import base64
import http.client
import io
import math
import os
import select
import socket
import ssl
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from http import HTTPStatus
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

import certifi

from bot.base import clock, fork_safety
from bot.base.errors import NoAnswerError, NotSentError

# One deadline over connect, the proxy's CONNECT and the TLS handshake. The name look-up before them cannot be bounded.
CONNECT_TIMEOUT_SECONDS = 3.0
# The longest silence within an answer.
READ_TIMEOUT_SECONDS = 10.0
# With the connection's 3 s this bounds a request, and so the request lock, to 15 s.
RESPONSE_TIMEOUT_SECONDS = 12.0
_READ_BYTES = 65_536


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """An answer that was read completely; `body` is unpacked."""

    status: int
    headers: Message
    body: bytes


class HttpConnection:
    """A connection to the server of `url`, opened by the first request and kept while the server keeps it.

    No redirect is followed, nothing is sent again, and no proxy is used but `proxy` (http://host:port). TLS is verified
    against the system's certificates, or those that SSL_CERT_FILE names. An answer whose body is longer than
    `body_bytes_max`, packed or unpacked, is no answer. Safe to share between threads: one request at a time.
    """

    def __init__(self, url: str, *, proxy: str = "", body_bytes_max: int) -> None:
        self._socket: socket.socket | None = None
        self._server = urlsplit(str.__str__(url))
        self._proxy = urlsplit(str.__str__(proxy)) if proxy else None
        self._body_bytes_max = body_bytes_max
        self._lock = threading.Lock()
        self._tls_context: ssl.SSLContext | None = None
        self._answered_seconds = 0.0
        fork_safety.register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Drop the parent's connection: closing a descriptor shuts nothing down while the parent has it too."""
        self._lock = threading.Lock()
        self._disconnect()

    def close(self) -> None:
        """Close the connection; the next request opens a new one."""
        with self._lock:
            self._disconnect()

    def __del__(self) -> None:
        # A script that never calls `close` leaves no open socket behind.
        self._disconnect()

    def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str],
        body: bytes = b"",
        *,
        connect_seconds_max: float = math.inf,
        answer_seconds_max: float = math.inf,
        idle_seconds_max: float = math.inf,
    ) -> HttpResponse:
        """Send a request once and read its answer.

        The two first limits can only shorten the time-outs of this module. A connection that was idle for more than
        `idle_seconds_max` is reopened first. Raises NotSentError where it failed before its first byte left,
        NoAnswerError for everything after that which is not a complete answer.
        """
        data = self._encode(method, target, headers, body)
        with self._lock:
            try:
                self._drop_unusable(idle_seconds_max)
                connection = self._socket = self._socket or self._connect(connect_seconds_max)
                deadline_seconds = clock.boottime_seconds() + min(RESPONSE_TIMEOUT_SECONDS, answer_seconds_max)
                _send(connection, data, deadline_seconds)
                response, will_close = self._read_response(connection, method, deadline_seconds)
            except BaseException:
                # Also after Ctrl-C: what is left of this answer must not be taken for the next one.
                self._disconnect()
                raise
            self._answered_seconds = clock.boottime_seconds()
            if will_close:
                self._disconnect()
            return response

    def _encode(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> bytes:
        # Joined, not formatted: a Secret formats itself as "[hidden]".
        lines = [" ".join((method, self._request_target(target), "HTTP/1.1"))]
        fields = {"Host": _address(self._server), "Accept-Encoding": "gzip", **headers}
        if body or method != "GET":
            fields["Content-Length"] = str(len(body))
        if self._server.username is not None:
            fields["Authorization"] = _basic_authorization(self._server)
        if self._proxy is not None and self._proxy.username is not None and self._server.scheme == "http":
            fields["Proxy-Authorization"] = _basic_authorization(self._proxy)
        lines += [": ".join(field) for field in fields.items()]
        if " " in target or not all(line.isascii() and line.isprintable() for line in lines):
            raise NotSentError("the address or a header has characters that HTTP does not allow")
        return "\r\n".join((*lines, "", "")).encode("ascii") + body

    def _request_target(self, target: str) -> str:
        # A proxy gets the absolute form of a plain request, and only the CONNECT of an encrypted one.
        is_absolute = self._proxy is not None and self._server.scheme == "http"
        return f"http://{_address(self._server)}{target}" if is_absolute else target

    # Connect

    def _drop_unusable(self, idle_seconds_max: float) -> None:
        """Close a connection that the server has closed, that holds unread bytes, or that was idle for too long.

        A fresh connection is never polled: the session tickets of TLS 1.3 make it readable.
        """
        if self._socket is None:
            return
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        idle_seconds = clock.boottime_seconds() - self._answered_seconds
        if poll.poll(0) or idle_seconds > idle_seconds_max:
            self._disconnect()

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _connect(self, seconds_max: float) -> socket.socket:
        deadline_seconds = clock.boottime_seconds() + min(CONNECT_TIMEOUT_SECONDS, seconds_max)
        peer = self._proxy or self._server
        try:
            connection = _connect_tcp(peer, deadline_seconds)
            try:
                if self._server.scheme == "https":
                    if self._proxy is not None:
                        _open_tunnel(connection, self._proxy, self._server, deadline_seconds)
                    connection = self._start_tls(connection, deadline_seconds)
            except BaseException:
                connection.close()
                raise
        except ssl.SSLCertVerificationError as error:
            raise NotSentError(
                f"the certificate of {self._server.hostname} was refused ({error.verify_message}). Check the clock; "
                "where a proxy or a company's own authority signs certificates, name its file in SSL_CERT_FILE"
            ) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            reason = str(error) if isinstance(error, _TunnelError) else type(error).__name__
            raise NotSentError(f"no connection to {_address(peer)} ({reason}). Check the network") from error
        return connection

    def _start_tls(self, connection: socket.socket, deadline_seconds: float) -> ssl.SSLSocket:
        if self._tls_context is None:
            self._tls_context = _make_tls_context()
        # The handshake's time-out covers all of it.
        connection.settimeout(_remaining_seconds(deadline_seconds))
        return self._tls_context.wrap_socket(connection, server_hostname=self._server.hostname)

    # Read

    def _read_response(
        self, connection: socket.socket, method: str, deadline_seconds: float
    ) -> tuple[HttpResponse, bool]:
        """Return the answer, and whether the server closes the connection."""
        try:
            with _parse_head(connection, method, deadline_seconds) as response:
                body = self._unpack(self._read_body(response), response.headers.get("Content-Encoding", ""))
                return HttpResponse(response.status, response.headers, body), response.will_close
        except (OSError, ValueError, http.client.HTTPException, zlib.error) as error:
            raise NoAnswerError(f"no readable answer ({error or type(error).__name__})") from error

    def _read_body(self, response: http.client.HTTPResponse) -> bytes:
        if response.length is not None and response.length > self._body_bytes_max:
            raise NoAnswerError(f"the answer has {response.length} bytes; the limit is {self._body_bytes_max}")
        # `read(n)` of http.client returns what came before the end of a broken connection without an error.
        length_expected = response.length
        body = response.read(self._body_bytes_max + 1)
        if len(body) > self._body_bytes_max:
            raise NoAnswerError(f"the answer has more than {self._body_bytes_max} bytes")
        if length_expected is not None and len(body) != length_expected:
            raise NoAnswerError(f"the answer ended after {len(body)} of {length_expected} bytes")
        return body

    def _unpack(self, body: bytes, encoding: str) -> bytes:
        if encoding in ("", "identity"):
            return body
        if encoding not in ("gzip", "x-gzip"):
            raise NoAnswerError("the answer has an encoding that was not asked for")
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        text = unpacker.decompress(body, self._body_bytes_max + 1)
        if len(text) > self._body_bytes_max:
            raise NoAnswerError(f"the unpacked answer has more than {self._body_bytes_max} bytes")
        if not unpacker.eof or unpacker.unused_data:
            raise NoAnswerError("the packed answer is not complete")
        return text


class _TunnelError(OSError):
    """The proxy did not open a tunnel."""


class _AnswerStream(io.RawIOBase):
    """Reads from a socket until a deadline: a server that trickles bytes would renew a plain time-out for ever."""

    def __init__(self, connection: socket.socket, deadline_seconds: float) -> None:
        self._socket = connection
        self._deadline_seconds = deadline_seconds

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that HTTPResponse asks a socket for."""
        return io.BufferedReader(self, _READ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(min(_remaining_seconds(self._deadline_seconds), READ_TIMEOUT_SECONDS))
        return self._socket.recv_into(buffer)


def _send(connection: socket.socket, data: bytes, deadline_seconds: float) -> None:
    connection.settimeout(READ_TIMEOUT_SECONDS)
    try:
        # Header and body in one write. A write that fails has sent nothing: TLS refuses half a record.
        sent_bytes = connection.send(data)
    except OSError as error:
        raise NotSentError(f"the connection broke before the request left ({type(error).__name__})") from error
    try:
        if sent_bytes < len(data):
            connection.settimeout(_remaining_seconds(deadline_seconds))
            connection.sendall(data[sent_bytes:])
    except OSError as error:
        raise NoAnswerError(f"the connection broke within the request ({type(error).__name__})") from error


def _parse_head(connection: socket.socket, method: str, deadline_seconds: float) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(_AnswerStream(connection, deadline_seconds), method=method)  # type: ignore[arg-type]
    response.begin()
    return response


def _remaining_seconds(deadline_seconds: float) -> float:
    remaining_seconds = deadline_seconds - clock.boottime_seconds()
    if remaining_seconds <= 0:
        raise TimeoutError("it took too long")
    return remaining_seconds


def _address(server: SplitResult) -> str:
    """Return host and port, without the password that a URL may have."""
    return server.netloc.rpartition("@")[2]


def _connect_tcp(server: SplitResult, deadline_seconds: float) -> socket.socket:
    port = server.port or (443 if server.scheme == "https" else 80)
    failure: OSError | None = None
    for family, kind, protocol, _, address in socket.getaddrinfo(server.hostname, port, type=socket.SOCK_STREAM):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(_remaining_seconds(deadline_seconds))
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:
            connection.close()
            failure = error
        else:
            return connection
    raise failure or OSError("the host has no address")


def _open_tunnel(connection: socket.socket, proxy: SplitResult, server: SplitResult, deadline_seconds: float) -> None:
    host = f"[{server.hostname}]" if ":" in (server.hostname or "") else server.hostname
    address = f"{host}:{server.port or 443}"
    lines = [f"CONNECT {address} HTTP/1.1", f"Host: {address}"]
    if proxy.username is not None:
        lines.append(f"Proxy-Authorization: {_basic_authorization(proxy)}")
    connection.settimeout(_remaining_seconds(deadline_seconds))
    connection.sendall("\r\n".join((*lines, "", "")).encode("ascii"))
    with _parse_head(connection, "CONNECT", deadline_seconds) as response:
        if response.status != HTTPStatus.OK:
            raise _TunnelError(f"the proxy answered CONNECT with HTTP {response.status}")


def _basic_authorization(server: SplitResult) -> str:
    credentials = f"{unquote(server.username or '')}:{unquote(server.password or '')}"
    return f"Basic {base64.b64encode(credentials.encode()).decode('ascii')}"


def _make_tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    has_folder = paths.capath is not None and bool(os.listdir(paths.capath))
    if not context.cert_store_stats()["x509_ca"] and not has_folder and "SSL_CERT_FILE" not in os.environ:
        # Some Pythons for macOS and slim images come without certificates.
        context.load_verify_locations(certifi.where())
    return context

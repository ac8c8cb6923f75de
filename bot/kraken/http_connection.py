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
import re
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
# More than any server sends; what is left of it may go into the frames of chunks.
HEAD_BYTES_MAX = 256 * 1024
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
    `body_bytes_max`, packed or unpacked, is no answer. Only an answer with status 200 that was read to its end keeps
    the connection open. Safe to share between threads: one request at a time.
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
        """Close the connection, unless a request is using it; the next request opens a new one."""
        # Not waited for: at the end of the program that would take as long as a lost answer.
        if self._lock.acquire(blocking=False):
            try:
                self._disconnect()
            finally:
                self._lock.release()

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
            is_reusable = False
            try:
                self._drop_unusable(idle_seconds_max)
                connection = self._socket = self._socket or self._connect(connect_seconds_max)
                deadline_seconds = clock.boottime_seconds() + min(RESPONSE_TIMEOUT_SECONDS, answer_seconds_max)
                _send(connection, data, deadline_seconds)
                response, is_reusable = self._read_response(connection, method, deadline_seconds)
                self._answered_seconds = clock.boottime_seconds()
                return response
            finally:
                # Also after Ctrl-C: what is left of this answer must not be taken for the next one.
                if not is_reusable:
                    self._disconnect()

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
        if " " in target + self._server.netloc or not all(line.isascii() and line.isprintable() for line in lines):
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
        peer = self._proxy or self._server
        # Without a name the system would connect to this machine, and with another scheme send in plain text.
        if not (self._server.hostname and self._server.scheme in ("https", "http")):
            raise NotSentError("the address must look like https://api.kraken.com")
        if not (peer.hostname and (peer is self._server or peer.scheme == "http")):
            raise NotSentError("the address of the proxy must look like http://proxy.example:3128")
        deadline_seconds = clock.boottime_seconds() + min(CONNECT_TIMEOUT_SECONDS, seconds_max)
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
        """Return the answer, and whether the next request may use the connection."""
        stream = _AnswerStream(connection, deadline_seconds, HEAD_BYTES_MAX + self._body_bytes_max)
        try:
            with _parse_head(stream, method) as response:
                body = self._unpack(self._read_body(response), response.headers.get("Content-Encoding", "").lower())
        except (OSError, ValueError, http.client.HTTPException, zlib.error) as error:
            # An HTTPException may quote a line of 64 KiB.
            reason = type(error).__name__ if isinstance(error, http.client.HTTPException) else error
            raise NoAnswerError(f"no readable answer ({reason})") from error
        # http.client takes 103 for an answer, behind which the real one comes, and expects no body with 204 or 304.
        is_reusable = response.status == HTTPStatus.OK and not response.will_close and not stream.has_excess
        return HttpResponse(response.status, response.headers, body), is_reusable

    def _read_body(self, response: http.client.HTTPResponse) -> bytes:
        lengths = response.headers.get_all("Content-Length", [])
        framings = lengths + response.headers.get_all("Transfer-Encoding", [])
        # http.client would take one of two lengths, or read to the end of the connection.
        if len(framings) > 1 or not all(re.fullmatch(r"\d{1,18}", length.strip()) for length in lengths):
            raise NoAnswerError("the answer does not say clearly how long it is")
        length_expected = response.length
        if length_expected is not None and length_expected > self._body_bytes_max:
            raise NoAnswerError(f"the answer has {length_expected} bytes; the limit is {self._body_bytes_max}")
        body = response.read(self._body_bytes_max + 1)
        if len(body) > self._body_bytes_max:
            raise NoAnswerError(f"the answer has more than {self._body_bytes_max} bytes")
        # `read(n)` of http.client returns what came before the end of a broken connection without an error.
        if length_expected is not None and len(body) != length_expected:
            raise NoAnswerError(f"the answer ended after {len(body)} of {length_expected} bytes")
        return body

    def _unpack(self, body: bytes, encoding: str) -> bytes:
        if not body or encoding in ("", "identity"):
            return body
        if encoding not in ("gzip", "x-gzip"):
            raise NoAnswerError("the answer has an encoding that was not asked for")
        unpacker = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        text = unpacker.decompress(body, self._body_bytes_max + 1)
        if len(text) > self._body_bytes_max:
            raise NoAnswerError(f"the unpacked answer has more than {self._body_bytes_max} bytes")
        if not unpacker.eof or unpacker.unused_data:
            raise NoAnswerError("the packed answer is not one whole gzip member")
        return text


class _TunnelError(OSError):
    """The proxy did not open a tunnel."""


class _AnswerStream(io.RawIOBase):
    """Reads from a socket, until a deadline and up to a limit.

    A server that trickles bytes would renew a plain time-out for ever, and http.client reads a chunk of length -1 up to
    the end of the connection.
    """

    def __init__(self, connection: socket.socket, deadline_seconds: float, bytes_max: int) -> None:
        self._socket = connection
        self._deadline_seconds = deadline_seconds
        self._bytes_max = bytes_max
        self._received_bytes = 0
        # Once the answer is closed: whether bytes came with it that are not part of it.
        self.has_excess = False

    def makefile(self, _mode: str) -> io.BufferedReader:
        """Return the file that HTTPResponse asks a socket for."""
        return _AnswerReader(self, _READ_BYTES)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._socket.settimeout(min(_remaining_seconds(self._deadline_seconds), READ_TIMEOUT_SECONDS))
        count = self._socket.recv_into(buffer)
        self._received_bytes += count
        if self._received_bytes > self._bytes_max:
            raise OSError(f"it has more than {self._bytes_max} bytes")
        return count

    def tell(self) -> int:
        return self._received_bytes


class _AnswerReader(io.BufferedReader):
    raw: _AnswerStream

    def close(self) -> None:
        # http.client closes it at the end of the answer, and what is in the buffer then would be lost in silence.
        if not self.closed:
            self.raw.has_excess = self.tell() < self.raw.tell()
        super().close()


def _send(connection: socket.socket, data: bytes, deadline_seconds: float) -> None:
    try:
        connection.settimeout(min(_remaining_seconds(deadline_seconds), READ_TIMEOUT_SECONDS))
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


def _parse_head(stream: _AnswerStream, method: str) -> http.client.HTTPResponse:
    response = http.client.HTTPResponse(stream, method=method)  # type: ignore[arg-type]
    try:
        response.begin()
    except BaseException:
        # Left to the garbage collector it would warn.
        response.close()
        raise
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
    addresses = socket.getaddrinfo(server.hostname, port, type=socket.SOCK_STREAM)
    failure: OSError | None = None
    for index, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        try:
            # An equal share for each address that is left: a dead one, such as IPv6 without a route, must not take all.
            connection.settimeout(_remaining_seconds(deadline_seconds) / (len(addresses) - index))
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
    with _parse_head(_AnswerStream(connection, deadline_seconds, HEAD_BYTES_MAX), "CONNECT") as response:
        if response.status != HTTPStatus.OK:
            raise _TunnelError(f"the proxy answered CONNECT with HTTP {response.status}")


def _basic_authorization(server: SplitResult) -> str:
    credentials = f"{unquote(server.username or '')}:{unquote(server.password or '')}"
    return f"Basic {base64.b64encode(credentials.encode()).decode('ascii')}"


def _make_tls_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    paths = ssl.get_default_verify_paths()
    # By these names OpenSSL finds certificates in a folder.
    has_folder = paths.capath is not None and any(
        re.fullmatch(r"[0-9a-f]{8}\.\d+", name) for name in os.listdir(paths.capath)
    )
    is_named = any(os.environ.get(name) for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"))
    if not (is_named or has_folder or context.cert_store_stats()["x509_ca"]):
        # Some Pythons for macOS and slim images come without certificates.
        context.load_verify_locations(certifi.where())
    return context

"""Limits on the dashboard's clients: their number and the time-outs, over real sockets with shorter times."""

from __future__ import annotations

import asyncio
import gc
import logging
import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import pytest
from starlette.types import Receive, Scope, Send

from bot.dashboard import auth_middleware, connections
from bot.dashboard.auth import Authenticator
from bot.dashboard.auth_middleware import AuthMiddleware
from tests.dashboard_tools import Client, serving

LONG_SECONDS = 60
SHORT_SECONDS = 0.3
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
OK = b"HTTP/1.1 200"
BIG = b"x" * 40_000_000
SMALL = b"x" * 60_000
FORM_HEAD = (
    b"POST /stop HTTP/1.1\r\nHost: localhost\r\nSec-Fetch-Site: same-origin\r\nContent-Length: 20\r\n"
    b"Content-Type: application/x-www-form-urlencoded\r\n\r\n"
)


@dataclass
class App:
    """An app with a large response, an endless one and a small one."""

    streams_ended: threading.Event = field(default_factory=threading.Event)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/events":
            await self._stream(receive, send)
        body = {"/big": BIG, "/small": SMALL}.get(scope["path"], b"ok")
        await send({"type": "http.response.body", "body": body, "more_body": False})

    async def _stream(self, receive: Receive, send: Send) -> None:
        async def write() -> None:
            while True:
                await send({"type": "http.response.body", "body": b"x" * 100_000, "more_body": True})
                await asyncio.sleep(0)

        writing = asyncio.create_task(write())
        while (await receive())["type"] != "http.disconnect":
            pass
        writing.cancel()
        self.streams_ended.set()


@pytest.fixture
def set_timeouts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set long time-outs, except those that a test names."""

    def apply(**seconds: float) -> None:
        for name in ("HEAD_TIMEOUT_SECONDS", "UNREAD_TIMEOUT_SECONDS", "KEEP_ALIVE_SECONDS"):
            monkeypatch.setattr(connections, name, seconds.get(name, LONG_SECONDS))
        monkeypatch.setattr(auth_middleware, "FORM_TIMEOUT_SECONDS", seconds.get("FORM_TIMEOUT_SECONDS", LONG_SECONDS))

    apply()
    return apply


@contextmanager
def serve(listener: socket.socket | None = None) -> Iterator[tuple[int, App]]:
    """Serve behind the auth middleware; yield port and app."""
    app = App()
    authenticator = Authenticator("", is_public=False, monotonic=lambda: 0.0, wall_clock=lambda: 0.0)
    with serving(AuthMiddleware(app, authenticator, str), listener) as port:
        yield port, app


def open_connection(port: int, source_address: str = "127.0.0.1") -> socket.socket:
    """Open a connection with a read time-out."""
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(source_address, 0))


def read_until_closed(connection: socket.socket) -> bytes:
    """Read until the server closes or resets the connection."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received


def read_response(connection: socket.socket) -> bytes:
    """Read one short response."""
    received = b""
    while not received.endswith(b"0\r\n\r\n"):
        received += connection.recv(1000)
    return received


def reset_on_close(connection: socket.socket) -> None:
    """Reset the connection instead of closing it."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def send_slowly(connection: socket.socket, piece: bytes) -> None:
    """Send a byte at intervals until the server closes the connection."""
    connection.settimeout(SHORT_SECONDS / 5)
    for _ in range(1000):
        try:
            connection.sendall(piece)
            if not connection.recv(1000):
                return
        except TimeoutError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            return
    raise AssertionError("it goes on")


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: loc", HEALTH + b"GET /"])
def test_incomplete_head_times_out(set_timeouts: Callable[..., None], first: bytes) -> None:
    """A client that does not complete a request head is disconnected: with no byte, a part, or after a response."""
    set_timeouts(HEAD_TIMEOUT_SECONDS=SHORT_SECONDS)
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(first)
        assert read_until_closed(link).count(OK) == first.count(HEALTH)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nX-Drip: ", HEALTH + b"GET /?", HEALTH + b"\r\n"])
def test_slow_head_times_out(set_timeouts: Callable[..., None], first: bytes) -> None:
    """A byte at intervals does not keep a connection open."""
    set_timeouts(HEAD_TIMEOUT_SECONDS=SHORT_SECONDS)
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(first)
        send_slowly(link, b"x")


def test_slow_second_head_times_out(set_timeouts: Callable[..., None]) -> None:
    """Nor does it keep a connection open that has had a response."""
    set_timeouts(HEAD_TIMEOUT_SECONDS=SHORT_SECONDS)
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(HEALTH)
        read_response(link)
        send_slowly(link, b"x")


def test_slow_form_gets_408(set_timeouts: Callable[..., None]) -> None:
    """A form that does not arrive is answered with 408, and the connection is closed."""
    set_timeouts(FORM_TIMEOUT_SECONDS=SHORT_SECONDS)
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(FORM_HEAD + b"confirm")
        assert read_until_closed(link).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("head", ["Content-Length: 99999999999", "Transfer-Encoding: chunked"])
def test_body_of_a_get_is_refused(set_timeouts: Callable[..., None], head: str) -> None:
    """A body that the request may not have does not keep a connection open."""
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        assert read_until_closed(link).startswith(b"HTTP/1.1 400 ")


@pytest.fixture
def connection_lost_event(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event that is set when the server loses a connection."""
    event = threading.Event()
    original_connection_lost = connections.Connection.connection_lost

    def connection_lost(self: connections.Connection, exc: Exception | None) -> None:
        original_connection_lost(self, exc)
        event.set()

    monkeypatch.setattr(connections.Connection, "connection_lost", connection_lost)
    return event


def test_unread_response_closes_the_connection(
    set_timeouts: Callable[..., None], connection_lost_event: threading.Event
) -> None:
    """A client that does not read its response is disconnected before the response is complete."""
    set_timeouts(UNREAD_TIMEOUT_SECONDS=SHORT_SECONDS)
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection_lost_event.wait(20)
        assert len(read_until_closed(link)) < len(BIG)


def test_unread_stream_closes_the_connection(set_timeouts: Callable[..., None]) -> None:
    """A stream that nobody reads is closed."""
    set_timeouts(UNREAD_TIMEOUT_SECONDS=SHORT_SECONDS)
    with serve() as (port, app), open_connection(port) as link:
        link.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert app.streams_ended.wait(20)


def test_small_unread_rest_closes_the_connection(
    set_timeouts: Callable[..., None], connection_lost_event: threading.Event
) -> None:
    """The same holds if the unread rest is so small that asyncio would still buffer more."""
    set_timeouts(UNREAD_TIMEOUT_SECONDS=SHORT_SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as link:
        for one, option in ((listener, socket.SO_SNDBUF), (link, socket.SO_RCVBUF)):
            one.setsockopt(socket.SOL_SOCKET, option, 8192)
        link.connect(listener.getsockname())
        with serve(listener):
            link.sendall(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert connection_lost_event.wait(20)


def test_read_stream_stays_open(set_timeouts: Callable[..., None]) -> None:
    """A stream that is read lasts longer than any time-out."""
    set_timeouts(HEAD_TIMEOUT_SECONDS=SHORT_SECONDS, UNREAD_TIMEOUT_SECONDS=SHORT_SECONDS)
    with serve() as (port, app), open_connection(port) as link:
        link.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(3):
            with open_connection(port) as idle:
                while not select.select([idle], [], [], 0)[0]:
                    assert link.recv(65536)
                assert idle.recv(1) == b""
        assert not app.streams_ended.is_set()


def test_idle_connection_is_closed(set_timeouts: Callable[..., None]) -> None:
    """An idle keep-alive connection is closed."""
    set_timeouts(KEEP_ALIVE_SECONDS=1)
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(HEALTH + HEALTH)
        assert read_until_closed(link).count(OK) == 2


def test_connections_of_the_greediest_peer_are_evicted(
    set_timeouts: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Above the limit, the peer with most connections loses its oldest idle ones; others and new ones are served."""
    monkeypatch.setattr(connections, "CONNECTIONS_MAX", 10)
    with serve() as (port, app), ExitStack() as stack:
        stream = stack.enter_context(open_connection(port, "127.0.0.2"))
        stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream.recv(1)
        modest = stack.enter_context(open_connection(port, "127.0.0.3"))
        modest.sendall(HEALTH)
        assert OK in read_response(modest)
        greedy = [stack.enter_context(open_connection(port, "127.0.0.2")) for _ in range(9)]
        assert Client(port).get("/healthz").status == 200
        assert read_until_closed(greedy[0]) == read_until_closed(greedy[1]) == b""
        for link in (modest, *greedy[2:]):
            link.sendall(HEALTH)
            assert OK in read_response(link)
        assert stream.recv(1)
        assert not app.streams_ended.is_set()


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 20_000,
    ],
)
def test_invalid_http_gets_400(
    set_timeouts: Callable[..., None], sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """Invalid HTTP is answered with 400 and a closed connection, and logs nothing."""
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(sent)
        assert read_until_closed(link).startswith(b"HTTP/1.1 400 ")
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("answered", [0, 1, 50])
def test_garbage_after_requests_closes_the_connection(
    set_timeouts: Callable[..., None], answered: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Invalid HTTP after valid requests closes the connection once these are answered, and logs nothing."""
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(HEALTH * answered + b"\0\r\n\r\n")
        assert read_until_closed(link).count(OK) == answered
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_invalid_chunked_body_gets_no_response(
    set_timeouts: Callable[..., None], method: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A request with an invalid body gets no response and logs nothing."""
    head = FORM_HEAD.replace(b"POST", method).replace(b"Content-Length: 20", b"Transfer-Encoding: chunked")
    with serve() as (port, _):
        for _ in range(20):
            with open_connection(port) as link:
                link.sendall(head + b"not a length\r\n")
                assert read_until_closed(link) == b""
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


def test_client_reset_ends_its_stream(set_timeouts: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """A client that disappears ends its stream and logs nothing."""
    with serve() as (port, app):
        with open_connection(port) as link:
            link.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            link.recv(100)
            reset_on_close(link)
        assert app.streams_ended.wait(20)
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


def test_pipelined_requests_are_bounded(set_timeouts: Callable[..., None]) -> None:
    """A client that pipelines many requests is disconnected, so no memory grows."""
    with serve() as (port, _), open_connection(port) as link:
        link.sendall(HEALTH * 2000)
        assert read_until_closed(link).count(OK) < 2000


def test_closed_connection_is_garbage_collected(set_timeouts: Callable[..., None]) -> None:
    """Nothing that a client has sent outlives its connection, however it was closed."""

    def count_connections() -> int:
        gc.collect()
        return sum(isinstance(one, connections.Connection) for one in gc.get_objects())

    with serve() as (port, _):
        before = count_connections()
        for is_reset in [False, True] * 10:
            with open_connection(port) as link:
                link.sendall(HEALTH)
                read_response(link)
                if is_reset:
                    reset_on_close(link)
        # Each request gives the server's thread another chance to run.
        for _ in range(100):
            assert Client(port).get("/healthz").status == 200
            if count_connections() <= before + 1:
                break
        else:
            raise AssertionError(f"{count_connections()} connections remain")


def test_shutdown_does_not_wait_for_clients(
    set_timeouts: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    """The server stops although clients stay connected: one reads a stream, one does not, one is idle, one sends its
    head."""
    with ExitStack() as stack:
        with serve() as (port, app):
            links = [stack.enter_context(open_connection(port)) for _ in range(4)]
            for link, sent in zip(links, (b"GET /events", b"GET /big", HEALTH, b"GET"), strict=True):
                link.sendall(sent if sent in {HEALTH, b"GET"} else sent + HEALTH[len(b"GET /healthz") :])
            for link in links[:3]:
                link.recv(1)
        assert app.streams_ended.is_set()
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []

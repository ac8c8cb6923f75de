"""How many clients the status server has, and how long it waits for them: over real sockets, with shorter waits."""

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
from bot.dashboard.auth import Access
from bot.dashboard.auth_middleware import Gate
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
    """A page that is big, one that never ends, and one that is neither."""

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
def waits(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the waits: long ones, but for those that a test names."""

    def set_waits(**seconds: float) -> None:
        for name in ("HEAD_SECONDS", "UNREAD_SECONDS", "KEEP_ALIVE_SECONDS"):
            monkeypatch.setattr(connections, name, seconds.get(name, LONG_SECONDS))
        monkeypatch.setattr(auth_middleware, "FORM_SECONDS", seconds.get("FORM_SECONDS", LONG_SECONDS))

    set_waits()
    return set_waits


@contextmanager
def served(listener: socket.socket | None = None) -> Iterator[tuple[int, App]]:
    """Serve behind the gate; yield port and app."""
    app = App()
    access = Access("", is_public=False, now=lambda: 0.0, wall=lambda: 0.0)
    with serving(Gate(app, access, str), listener) as port:
        yield port, app


def connect(port: int, address: str = "127.0.0.1") -> socket.socket:
    """Open a connection whose reads end after a while."""
    return socket.create_connection(("127.0.0.1", port), timeout=20, source_address=(address, 0))


def said(link: socket.socket) -> bytes:
    """Read until the server closes the connection, in whatever way."""
    heard = b""
    try:
        while piece := link.recv(65536):
            heard += piece
    except ConnectionResetError:
        pass
    return heard


def answer(link: socket.socket) -> bytes:
    """Read one short answer."""
    heard = b""
    while not heard.endswith(b"0\r\n\r\n"):
        heard += link.recv(1000)
    return heard


def reset_at_close(link: socket.socket) -> None:
    """Let the connection be reset instead of ended."""
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def drip(link: socket.socket, piece: bytes) -> None:
    """Send a byte now and then until the server closes the connection."""
    link.settimeout(SHORT_SECONDS / 5)
    for _ in range(1000):
        try:
            link.sendall(piece)
            if not link.recv(1000):
                return
        except TimeoutError:
            pass
        except (ConnectionResetError, BrokenPipeError):
            return
    raise AssertionError("it goes on")


@pytest.mark.parametrize("first", [b"", b"GET / HTTP/1.1\r\nHost: loc", HEALTH + b"GET /"])
def test_a_head_that_does_not_come(waits: Callable[..., None], first: bytes) -> None:
    """Who does not send a whole head is cut off: with nothing, with a part, with a part after an answer."""
    waits(HEAD_SECONDS=SHORT_SECONDS)
    with served() as (port, _), connect(port) as link:
        link.sendall(first)
        assert said(link).count(OK) == first.count(HEALTH)


@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\nX-Drip: ", HEALTH + b"GET /?", HEALTH + b"\r\n"])
def test_a_head_that_drips(waits: Callable[..., None], first: bytes) -> None:
    """A byte now and then does not keep a connection."""
    waits(HEAD_SECONDS=SHORT_SECONDS)
    with served() as (port, _), connect(port) as link:
        link.sendall(first)
        drip(link, b"x")


def test_a_second_head_that_drips(waits: Callable[..., None]) -> None:
    """Nor does it keep one that has had an answer."""
    waits(HEAD_SECONDS=SHORT_SECONDS)
    with served() as (port, _), connect(port) as link:
        link.sendall(HEALTH)
        answer(link)
        drip(link, b"x")


def test_a_form_that_drips(waits: Callable[..., None]) -> None:
    """A form that does not come is answered with 408, and the connection ends."""
    waits(FORM_SECONDS=SHORT_SECONDS)
    with served() as (port, _), connect(port) as link:
        link.sendall(FORM_HEAD + b"confirm")
        assert said(link).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("head", ["Content-Length: 99999999999", "Transfer-Encoding: chunked"])
def test_a_body_without_end(waits: Callable[..., None], head: str) -> None:
    """A body where none is read does not keep a connection."""
    with served() as (port, _), connect(port) as link:
        link.sendall(f"GET / HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
        assert said(link).startswith(b"HTTP/1.1 400 ")


@pytest.fixture
def is_lost(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Tell when the server has lost a connection."""
    event = threading.Event()
    lose = connections.Connection.connection_lost

    def connection_lost(self: connections.Connection, exc: Exception | None) -> None:
        lose(self, exc)
        event.set()

    monkeypatch.setattr(connections.Connection, "connection_lost", connection_lost)
    return event


def test_an_answer_that_is_not_read(waits: Callable[..., None], is_lost: threading.Event) -> None:
    """Who does not read an answer is cut off before it is complete."""
    waits(UNREAD_SECONDS=SHORT_SECONDS)
    with served() as (port, _), connect(port) as link:
        link.sendall(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert is_lost.wait(20)
        assert len(said(link)) < len(BIG)


def test_a_stream_that_is_not_read(waits: Callable[..., None]) -> None:
    """A stream that nobody reads ends."""
    waits(UNREAD_SECONDS=SHORT_SECONDS)
    with served() as (port, app), connect(port) as link:
        link.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert app.streams_ended.wait(20)


def test_the_rest_of_an_answer_that_is_not_read(waits: Callable[..., None], is_lost: threading.Event) -> None:
    """So is who leaves so little unread that asyncio would still take more."""
    waits(UNREAD_SECONDS=SHORT_SECONDS)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as link:
        for one, option in ((listener, socket.SO_SNDBUF), (link, socket.SO_RCVBUF)):
            one.setsockopt(socket.SOL_SOCKET, option, 8192)
        link.connect(listener.getsockname())
        with served(listener):
            link.sendall(b"GET /small HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert is_lost.wait(20)


def test_a_stream_that_is_read_goes_on(waits: Callable[..., None]) -> None:
    """A stream that is read lasts longer than any wait."""
    waits(HEAD_SECONDS=SHORT_SECONDS, UNREAD_SECONDS=SHORT_SECONDS)
    with served() as (port, app), connect(port) as link:
        link.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        for _ in range(3):
            with connect(port) as idle:
                while not select.select([idle], [], [], 0)[0]:
                    assert link.recv(65536)
                assert idle.recv(1) == b""
        assert not app.streams_ended.is_set()


def test_an_idle_connection(waits: Callable[..., None]) -> None:
    """A connection that is kept for more requests, and is not used, ends."""
    waits(KEEP_ALIVE_SECONDS=1)
    with served() as (port, _), connect(port) as link:
        link.sendall(HEALTH + HEALTH)
        assert said(link).count(OK) == 2


def test_room_for_others(waits: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there are too many, the peer that has most loses its oldest idle ones; others and new ones are served."""
    monkeypatch.setattr(connections, "CONNECTIONS", 10)
    with served() as (port, app), ExitStack() as stack:
        stream = stack.enter_context(connect(port, "127.0.0.2"))
        stream.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        stream.recv(1)
        kept = stack.enter_context(connect(port, "127.0.0.3"))
        kept.sendall(HEALTH)
        assert OK in answer(kept)
        greedy = [stack.enter_context(connect(port, "127.0.0.2")) for _ in range(9)]
        assert Client(port).get("/healthz").status == 200
        assert said(greedy[0]) == said(greedy[1]) == b""
        for link in (kept, *greedy[2:]):
            link.sendall(HEALTH)
            assert OK in answer(link)
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
def test_what_is_not_http(waits: Callable[..., None], sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """What is not HTTP is answered with 400 and the end of the connection, and leaves nothing in the log."""
    with served() as (port, _), connect(port) as link:
        link.sendall(sent)
        assert said(link).startswith(b"HTTP/1.1 400 ")
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("answered", [0, 1, 50])
def test_garbage_after_requests(waits: Callable[..., None], answered: int, caplog: pytest.LogCaptureFixture) -> None:
    """What is not HTTP after requests ends the connection when they are answered, and leaves nothing in the log."""
    with served() as (port, _), connect(port) as link:
        link.sendall(HEALTH * answered + b"\0\r\n\r\n")
        assert said(link).count(OK) == answered
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST"])
def test_garbage_as_a_body(waits: Callable[..., None], method: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """A request with a body that is not HTTP is not answered, and leaves nothing in the log."""
    head = FORM_HEAD.replace(b"POST", method).replace(b"Content-Length: 20", b"Transfer-Encoding: chunked")
    with served() as (port, _):
        for _ in range(20):
            with connect(port) as link:
                link.sendall(head + b"not a length\r\n")
                assert said(link) == b""
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


def test_a_reset_during_an_answer(waits: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """A client that vanishes ends its stream, and leaves nothing in the log."""
    with served() as (port, app):
        with connect(port) as link:
            link.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            link.recv(100)
            reset_at_close(link)
        assert app.streams_ended.wait(20)
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []


def test_many_requests_behind_one(waits: Callable[..., None]) -> None:
    """Who sends a lot without waiting for answers is cut off, so that nothing of it is kept."""
    with served() as (port, _), connect(port) as link:
        link.sendall(HEALTH * 2000)
        assert said(link).count(OK) < 2000


def test_a_client_that_vanished_is_forgotten(waits: Callable[..., None]) -> None:
    """Nothing that a client has sent outlives its connection, however it ended."""

    def kept() -> int:
        gc.collect()
        return sum(isinstance(one, connections.Connection) for one in gc.get_objects())

    with served() as (port, _):
        before = kept()
        for is_reset in [False, True] * 10:
            with connect(port) as link:
                link.sendall(HEALTH)
                answer(link)
                if is_reset:
                    reset_at_close(link)
        # Each question gives the server's thread another turn.
        for _ in range(100):
            assert Client(port).get("/healthz").status == 200
            if kept() <= before + 1:
                break
        else:
            raise AssertionError(f"{kept()} connections are kept")


def test_the_end(waits: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    """The server ends although clients hold on: one reads a stream, one does not, one is idle, one is in its head."""
    with ExitStack() as stack:
        with served() as (port, app):
            links = [stack.enter_context(connect(port)) for _ in range(4)]
            for link, sent in zip(links, (b"GET /events", b"GET /big", HEALTH, b"GET"), strict=True):
                link.sendall(sent if sent in {HEALTH, b"GET"} else sent + HEALTH[len(b"GET /healthz") :])
            for link in links[:3]:
                link.recv(1)
        assert app.streams_ended.is_set()
    assert [line.getMessage() for line in caplog.records if line.levelno >= logging.WARNING] == []

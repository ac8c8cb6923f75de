"""The HTTP connection: when nothing was sent, when it is used again, and how much of an answer is read."""

from __future__ import annotations

import base64
import gzip
import os
import select
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import certifi
import krakenex
import pytest
import trustme

from bot.base.errors import NoAnswerError, NotSentError
from bot.config import Secret
from bot.kraken import http_connection
from bot.kraken.http_connection import HttpConnection
from bot.kraken.transport import PRIVATE_BODY_BYTES_MAX, PUBLIC_BODY_BYTES_MAX, KrakenAPI
from tests.acceptance import http_child
from tests.acceptance.broker_tools import ORDER, open_broker_setup, run_in_threads
from tests.child_process import Child
from tests.conftest import ROOT
from tests.http_server import Answer, HttpServer, http_answer

KEY, SECRET = "key", "c2VjcmV0"
LIMIT = 1000
PASSWORD = "pass:w/rd"
ENVELOPE = http_answer(b'{"error":[],"result":{"Z":"1"}}')
ONE, TWO, THREE = http_answer(b"1"), http_answer(b"2"), http_answer(b"3")
FIRST_HALF, SECOND_HALF = http_answer(b"first")[:-2], http_answer(b"first")[-2:]
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return an authority that SSL_CERT_FILE names."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    return authority


@pytest.fixture
def tls(authority: trustme.CA) -> ssl.SSLContext:
    """Return the context of a server whose certificate is trusted."""
    return server_context(authority, "127.0.0.1", "::1")


def server_context(authority: trustme.CA, *hosts: str) -> ssl.SSLContext:
    """Return the context of a server with a certificate for these hosts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*hosts).configure_cert(context)
    return context


@pytest.fixture(params=["plain", "tls"])
def server_tls(request: pytest.FixtureRequest) -> ssl.SSLContext | None:
    """Return the TLS context of a server, and none for a plain one."""
    return request.getfixturevalue("tls") if request.param == "tls" else None


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten all time-outs."""
    monkeypatch.setattr(http_connection, "CONNECT_TIMEOUT_SECONDS", 0.3)
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_SECONDS", 0.3)


def connect(url: str, proxy: str = "") -> closing[HttpConnection]:
    """Return a connection that reads up to LIMIT bytes, to be closed."""
    return closing(HttpConnection(url, proxy=proxy, body_bytes_max=LIMIT))


def get(connection: HttpConnection, target: str = "/") -> bytes:
    """Return the body of a GET."""
    return connection.request("GET", target, {}).body


def with_password(url: str) -> str:
    """Return the address of a proxy with a user's name and password in it."""
    return url.replace("http://", "http://user:pass%3Aw%2Frd@")


@pytest.fixture
def dead_address() -> Iterator[tuple[str, int]]:
    """Return an address that accepts no connection and refuses none."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()


# Nothing was sent


@pytest.mark.parametrize("phase", ["handshake", "CONNECT", "handshake after CONNECT", "addresses"])
def test_one_deadline_covers_the_whole_connection(
    phase: str, dead_address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handshake or CONNECT that is never answered, both in turn, or several dead addresses raise NotSentError after
    one time-out, not after one for each."""
    monkeypatch.setattr(http_connection, "CONNECT_TIMEOUT_SECONDS", 0.6)

    def answer_late(stream: socket.socket) -> None:
        time.sleep(0.45)
        stream.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with HttpServer(answer_late, lambda _: None) as late, socket.create_server(("127.0.0.1", 0)) as silent:
        silent_address = f"127.0.0.1:{silent.getsockname()[1]}"
        url, proxy = f"https://{silent_address}", ""
        if phase == "CONNECT":
            url, proxy = "https://127.0.0.1:9", f"http://{silent_address}"
        elif phase == "handshake after CONNECT":
            proxy = late.url
        elif phase == "addresses":
            entry = (socket.AF_INET, socket.SOCK_STREAM, 0, "", dead_address)
            monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: [entry] * 4)
        with connect(url, proxy) as connection:
            before_seconds = time.monotonic()
            with pytest.raises(NotSentError):
                get(connection)
            assert 0.55 <= time.monotonic() - before_seconds < 1.0


@pytest.mark.usefixtures("short_timeouts")
def test_a_dead_address_leaves_time_for_the_next(
    dead_address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the first address of a host does not accept, the second one is used."""
    with HttpServer(ONE) as server, connect(server.url) as connection:
        live_address = server._listener.getsockname()
        entries = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in (dead_address, live_address)]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
        assert get(connection) == b"1"


def untrusted_server() -> HttpServer:
    """Return a server with a certificate of an unknown authority."""
    return HttpServer(tls=server_context(trustme.CA(), "127.0.0.1"))


REFUSAL = http_answer(b"", status="407 Proxy Authentication Required")
FAILURES: dict[str, tuple[Callable[[], HttpServer], bool, str]] = {
    "no TLS": (lambda: HttpServer(b"HTTP/1.1 400 Bad Request\r\n\r\n", closes=True), False, "SSLError"),
    "TLS that ends": (lambda: HttpServer(b"", closes=True), False, "no connection"),
    "an unknown authority": (untrusted_server, False, "SSL_CERT_FILE"),
    "a proxy with 407": (lambda: HttpServer(REFUSAL), True, "HTTP 407"),
    "a proxy with 502": (lambda: HttpServer(http_answer(b"", status="502 Bad Gateway")), True, "HTTP 502"),
    "a proxy that closes": (lambda: HttpServer(b"", closes=True), True, "RemoteDisconnected"),
    "a proxy without HTTP": (lambda: HttpServer(b"\x00\r\n\r\n"), True, "BadStatusLine"),
    "a proxy without end": (lambda: HttpServer(b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 100_000), True, "HTTPException"),
}


@pytest.mark.usefixtures("nonce_file")
@pytest.mark.parametrize(("make_server", "is_proxy", "reason"), FAILURES.values(), ids=FAILURES)
def test_an_order_that_meets_no_connection_is_not_unknown(
    make_server: Callable[[], HttpServer], is_proxy: bool, reason: str
) -> None:
    """Where TLS or the proxy fails, an order raises NotSentError, which says why, and is not unknown; nothing of it
    arrives, and no second connection is tried."""
    with open_broker_setup() as setup, make_server() as peer:
        setup.broker.private_call("AddOrder", ORDER)
        setup.broker.api._proxy = peer.url if is_proxy else ""
        setup.broker.api.uri = "https://127.0.0.1:9" if is_proxy else peer.url.replace("http:", "https:")
        with pytest.raises(NotSentError, match=reason):
            setup.broker.private_call("AddOrder", ORDER)
        assert setup.broker.unknown_orders() == []
        assert len(peer.connections) == 1
        assert not any(b"AddOrder" in request for request in peer.requests)


def test_a_certificate_for_another_host_is_refused(authority: trustme.CA) -> None:
    """A trusted certificate with another host's name raises NotSentError, and the server gets no request."""
    with HttpServer(tls=server_context(authority, "other.example")) as server, connect(server.url) as connection:
        with pytest.raises(NotSentError, match="SSL_CERT_FILE"):
            get(connection)
        assert server.requests == []


INJECTION = "x HTTP/1.1\r\nX-More: 1"
INJECTIONS: dict[str, Callable[[str], Any]] = {
    "key": lambda url: KrakenAPI(INJECTION, SECRET, url).query_private("Balance"),
    "method": lambda url: KrakenAPI(KEY, SECRET, url).query_private(INJECTION),
    "public method": lambda url: KrakenAPI("", "", url).query_public("Time HTTP/1.0"),
    "host": lambda url: KrakenAPI(KEY, SECRET, f"{url} HTTP/1.0").query_private("Balance"),
    "host of a proxy": lambda url: KrakenAPI(KEY, SECRET, "https://a b", url).query_private("Balance"),
    "no scheme": lambda url: KrakenAPI(KEY, SECRET, url.removeprefix("http:")).query_private("Balance"),
    "another scheme": lambda url: KrakenAPI(KEY, SECRET, url.replace("http", "ftp")).query_private("Balance"),
    "another proxy": lambda url: KrakenAPI(KEY, SECRET, url, url.replace("http", "https")).query_private("Balance"),
}


@pytest.mark.parametrize("inject", INJECTIONS.values(), ids=INJECTIONS)
def test_nothing_can_be_put_between_the_headers(inject: Callable[[str], Any]) -> None:
    """A key, method or address with blanks, line breaks or another scheme raises NotSentError, before a connection."""
    with HttpServer(ONE) as server:
        with pytest.raises(NotSentError):
            inject(server.url)
        assert server.connections == []


# Used again


def closed_by(server: HttpServer) -> None:
    """Wait until the server has closed its connection."""
    assert server.closed.acquire(timeout=10)


def send_unasked(server: HttpServer) -> None:
    """Let the server send an answer that nobody has asked for."""
    server.connections[-1].sendall(http_answer(b"unasked"))


@pytest.mark.parametrize("event", [closed_by, send_unasked])
def test_a_connection_that_is_closed_or_readable_is_replaced(
    event: Callable[[HttpServer], None], server_tls: ssl.SSLContext | None
) -> None:
    """Where the server has closed the connection, or sent bytes, the next call uses another and gets its own answer."""
    with HttpServer(ONE, TWO, tls=server_tls, closes=event is closed_by) as server, connect(server.url) as connection:
        assert get(connection) == b"1"
        event(server)
        assert get(connection) == b"2"
        assert (len(server.connections), len(server.requests)) == (2, 2)


def test_a_fresh_tls_connection_is_used(tls: ssl.SSLContext) -> None:
    """The session tickets of TLS 1.3, which the server sends first, neither replace a connection nor are an answer."""
    sent: list[bool] = []

    with HttpServer(ONE, TWO, THREE, tls=tls) as server, connect(server.url) as connection:
        start_tls = connection._start_tls

        def start_and_wait(*arguments: Any) -> ssl.SSLSocket:
            stream = start_tls(*arguments)
            poller = select.poll()
            poller.register(stream, select.POLLIN)
            sent.append(stream.version() == "TLSv1.3" and bool(poller.poll(10_000)))
            return stream

        connection._start_tls = start_and_wait  # type: ignore[assignment, method-assign]
        assert [get(connection), get(connection), get(connection)] == [b"1", b"2", b"3"]
        assert (sent, len(server.connections)) == ([True], 1)


ONCE = {
    "bytes after the answer": ONE + http_answer(b"unasked"),
    "103 before the answer": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "101": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n",
    "204": http_answer(b"", status="204 No Content"),
    "304": b"HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\n",
    "500": http_answer(b"1", status="500 Internal Server Error"),
    "Connection: close": http_answer(b"1", "Connection: close"),
    "HTTP/1.0": http_answer(b"1").replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("answer", ONCE.values(), ids=ONCE)
def test_only_a_plain_answer_keeps_the_connection(answer: bytes) -> None:
    """After bytes too many, a status that is not 200 or `Connection: close` another connection is opened, so that what
    comes late, here while the second request waits, is nobody's answer."""
    with HttpServer(answer, TWO) as server, connect(server.url) as connection:
        get(connection)
        drop_unusable = connection._drop_unusable

        def drop_and_send_late(idle_seconds_max: float) -> None:
            drop_unusable(idle_seconds_max)
            with suppress(OSError):
                send_unasked(server)

        connection._drop_unusable = drop_and_send_late  # type: ignore[method-assign]
        assert get(connection) == b"2"
        assert (len(server.connections), len(server.requests)) == (2, 2)


@pytest.mark.parametrize(
    ("method", "idle_seconds", "connections"), [("AddOrder", 31, 2), ("AddOrder", 29, 1), ("BalanceEx", 3600, 1)]
)
def test_an_order_uses_no_connection_that_was_idle(
    method: str, idle_seconds: int, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After more than 30 s without a call an AddOrder opens a connection; after less, and for a read, it is kept."""
    now = [1000.0]
    monkeypatch.setattr(http_connection, "clock", SimpleNamespace(boottime_seconds=lambda: now[0]))
    with HttpServer(ENVELOPE, ENVELOPE) as server, closing(KrakenAPI(KEY, SECRET, server.url)) as api:
        api.query_private("BalanceEx")
        now[0] += idle_seconds
        api.query_private(method)
        assert (len(server.connections), len(server.requests)) == (connections, 2)


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Let SIGINT raise KeyboardInterrupt, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("short_timeouts", "ctrl_c")
@pytest.mark.parametrize("kind", ["late", "interrupted", "broken"])
def test_a_broken_answer_is_not_the_next_one(kind: str, server_tls: ssl.SSLContext | None) -> None:
    """After a time-out, Ctrl-C or garbage within an answer the next call uses another connection and gets its own
    answer, although the rest of the first one still comes; nothing is sent twice."""
    was_asked_again = threading.Event()

    def answer(stream: socket.socket) -> None:
        stream.sendall(FIRST_HALF if kind != "broken" else CHUNKED + b"zz\r\n")
        if kind == "interrupted":
            os.kill(os.getpid(), signal.SIGINT)
        was_asked_again.wait(10)
        stream.sendall(SECOND_HALF + ONE)

    def answer_again(stream: socket.socket) -> None:
        was_asked_again.set()
        stream.sendall(TWO)

    with HttpServer(answer, answer_again, tls=server_tls) as server, connect(server.url) as connection:
        with pytest.raises(KeyboardInterrupt if kind == "interrupted" else NoAnswerError):
            get(connection)
        assert get(connection) == b"2"
        assert (len(server.connections), len(server.requests)) == (2, 2)


def test_threads_get_their_own_answers() -> None:
    """Eight threads on one connection get the answers to their own requests, each sent once, in one read each."""

    def echo(stream: socket.socket) -> None:
        stream.sendall(http_answer(server.requests[-1].split()[1]))

    with HttpServer(*[echo] * 400) as server, connect(server.url) as connection:

        def work() -> None:
            for number in range(50):
                target = f"/{threading.get_ident()}/{number}"
                assert get(connection, target) == target.encode()

        assert run_in_threads(8, work) == []
        assert (len(server.connections), len(server.requests)) == (1, 400)


def test_closing_neither_waits_for_a_request_nor_ends_it() -> None:
    """`close` returns while a request waits for its answer, and the request gets it."""
    arrived, released, bodies = threading.Event(), threading.Event(), list[bytes]()

    def answer(stream: socket.socket) -> None:
        arrived.set()
        assert released.wait(10)
        stream.sendall(ONE)

    with HttpServer(answer) as server, connect(server.url) as connection:
        thread = threading.Thread(target=lambda: bodies.append(get(connection)))
        thread.start()
        assert arrived.wait(10)
        connection.close()
        released.set()
        thread.join()
        assert bodies == [b"1"]


def test_a_forked_child_leaves_the_connection_to_its_parent(server_tls: ssl.SSLContext | None) -> None:
    """A forked child uses a connection of its own, and the parent's works on when the child has ended. Neither warns of
    the connection that it leaves to the interpreter."""
    answers = (http_answer(b"first"), http_answer(b"child"), http_answer(b"second"))
    with HttpServer(*answers, tls=server_tls) as server:
        command = [sys.executable, "-X", "dev", "-m", "tests.acceptance.http_child", "fork", server.url]
        run = subprocess.run(command, capture_output=True, cwd=ROOT, timeout=60, check=False)
        assert (run.stdout.split(), run.stderr) == ([b"first", b"child", b"second"], b"")
        assert len(server.connections) == 2


# How much is read


def packed(body: bytes, members: int = 1) -> bytes:
    """Return an answer with a packed body."""
    return http_answer(gzip.compress(body, 1) * members, "Content-Encoding: gzip")


def in_chunks(body: bytes) -> bytes:
    """Return an answer in chunks of 100 bytes."""
    pieces = [body[start : start + 100] for start in range(0, len(body), 100)]
    return CHUNKED + b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def to_the_end(body: bytes) -> bytes:
    """Return an answer that ends with its connection."""
    return b"HTTP/1.0 200 OK\r\n\r\n" + body


@pytest.mark.parametrize("encode", [http_answer, packed, in_chunks, to_the_end])
def test_the_limit_is_exact(encode: Callable[[bytes], bytes]) -> None:
    """A body of LIMIT bytes is read however it is sent; one byte more is no answer."""
    with HttpServer(encode(b" " * LIMIT), encode(b" " * (LIMIT + 1)), closes=True) as server:
        with connect(server.url) as connection:
            assert get(connection) == b" " * LIMIT
            closed_by(server)
            with pytest.raises(NoAnswerError, match=str(LIMIT)):
                get(connection)
        assert len(server.requests) == 2


def endless_chunks(stream: socket.socket) -> None:
    """Send chunks until the client has gone."""
    stream.sendall(CHUNKED)
    while True:
        stream.sendall(b"1\r\nx\r\n" * 100)


TRUNCATED_GZIP = gzip.compress(b"a body that is long enough to be cut")[:-9]
BROKEN_BODIES: dict[str, tuple[Answer, str]] = {
    "shorter than its length": (http_answer(b"x" * 10)[:-1], "9 of 10 bytes"),
    "longer than the limit": (b"HTTP/1.1 200 OK\r\nContent-Length: 1001\r\n\r\n", "1001 bytes; the limit"),
    "longer than an integer": (b"HTTP/1.1 200 OK\r\nContent-Length: 9%s\r\n\r\n" % (b"9" * 5000), "how long"),
    "chunks without end": (endless_chunks, "more than 1000 bytes"),
    "chunks that break off": (in_chunks(b"x" * 300)[:-50], "IncompleteRead"),
    "half a gzip": (http_answer(TRUNCATED_GZIP, "Content-Encoding: gzip"), "one whole gzip member"),
    "two gzip members": (packed(b"1", members=2), "one whole gzip member"),
    "another encoding": (http_answer(b"1", "Content-Encoding: br"), "not asked for"),
    "two lengths": (http_answer(b"11", "Content-Length: 1"), "how long"),
    "a list of lengths": (http_answer(b"1").replace(b": 1", b": 1, 1"), "how long"),
    "a length in two lines": (http_answer(b"1").replace(b": 1", b": 0\r\n 1"), "how long"),
    "length and chunks": (in_chunks(b"1").replace(b"\r\n", b"\r\nContent-Length: 1\r\n", 1), "how long"),
    "a line of 64 KiB": (b"HTTP/1.1 " + b"x" * 65_000 + b"\r\n\r\n", r"BadStatusLine\)$"),
}


@pytest.mark.parametrize(("answer", "reason"), BROKEN_BODIES.values(), ids=BROKEN_BODIES)
def test_a_broken_body_is_no_answer(answer: Answer, reason: str) -> None:
    """A body that is cut, too long, badly packed or of unclear length raises NoAnswerError; the request was sent once.
    What is refused by its headers is not waited for: the server sends no more, and leaves the connection open."""
    with HttpServer(answer, closes=reason not in ("how long", "1001 bytes; the limit")) as server:
        with connect(server.url) as connection, pytest.raises(NoAnswerError, match=reason):
            get(connection)
        assert len(server.requests) == 1


def test_a_bomb_costs_no_memory() -> None:
    """An answer that unpacks to 64 MiB, has 64 MiB in a chunk of length -1, or half a million tiny chunks, makes a
    process with a limit of 1 MiB grow by less than 24 MiB."""
    zeros = bytes(64 * 1024 * 1024)
    answers = (packed(zeros), CHUNKED + b"-1\r\n" + zeros, CHUNKED + b"2\r\nxx\r\n" * (http_child.BODY_BYTES_MAX // 2))
    with HttpServer(*answers) as server:
        with Child("tests.acceptance.http_child", "measure", server.url, len(answers)) as child:
            *errors, growth_mib = child.read_to_end()
        assert ["more than" in error for error in errors] == [True, True, True]
        assert int(growth_mib) < 24


@pytest.mark.parametrize(
    ("method", "limit"),
    [("query_public", 8 * 1024 * 1024), ("query_private", 4 * 1024 * 1024)],
    ids=["public", "private"],
)
def test_krakens_answers_are_read_up_to_their_limits(method: str, limit: int) -> None:
    """A public answer of 8 MiB and a private one of 4 MiB are read; one of a byte more, packed or not, is no answer."""
    assert limit in (PUBLIC_BODY_BYTES_MAX, PRIVATE_BODY_BYTES_MAX)
    body = b'{"error":[],"result":{}}'.ljust(limit)
    answers = (http_answer(body), http_answer(body + b" "), packed(body + b" "))
    with HttpServer(*answers) as server, closing(KrakenAPI(KEY, SECRET, server.url)) as api:
        assert getattr(api, method)("Any") == {"error": [], "result": {}}
        for _ in answers[1:]:
            with pytest.raises(NoAnswerError, match=str(limit)):
                getattr(api, method)("Any")


# What is sent


def test_a_request_leaves_in_one_record(tls: ssl.SSLContext) -> None:
    """Header and body of a call are one TLS record: the server gets them in one read. User-Agent is krakenex's."""
    server = HttpServer(packed(b'{"error":[],"result":{"Z":1.50}}'), tls=tls)
    with server, closing(KrakenAPI(Secret(KEY), Secret(SECRET), Secret(server.url))) as api:
        assert str(api.query_private("Balance", {"otp": "123456"})["result"]["Z"]) == "1.50"
    (request,) = server.requests
    head, _, body = request.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    with closing(krakenex.API()) as bare:
        agent = bare.session.headers["User-Agent"]
    assert lines[0] == "POST /0/private/Balance HTTP/1.1"
    assert {f"User-Agent: {agent}", "API-Key: key", f"Content-Length: {len(body)}"} <= set(lines)
    assert b"otp=123456" in body


def test_a_proxy_gets_the_password_and_the_full_address() -> None:
    """By http a proxy gets the absolute address and its own user and password; those of the server go to the server."""
    address = Secret("http://me:word@127.0.0.1:9")
    with HttpServer(ONE) as proxy, connect(address, Secret(with_password(proxy.url))) as connection:
        assert get(connection, "/path") == b"1"
    proxy_credentials, credentials = (base64.b64encode(text.encode()) for text in (f"user:{PASSWORD}", "me:word"))
    assert proxy.requests[0].startswith(b"GET http://127.0.0.1:9/path HTTP/1.1\r\nHost: 127.0.0.1:9\r\n")
    assert b"\r\nProxy-Authorization: Basic %s\r\n" % proxy_credentials in proxy.requests[0]
    assert b"\r\nAuthorization: Basic %s\r\n" % credentials in proxy.requests[0]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_tunnel_hides_the_request_from_the_proxy(host: str, tls: ssl.SSLContext) -> None:
    """By https a proxy gets CONNECT with its password, and the server gets the request without it, by IPv6 too."""
    with HttpServer(ONE, TWO, tls=tls, host=host) as server, HttpServer() as proxy:
        proxy._answers.append(proxy.tunnel)
        with connect(server.url, Secret(with_password(proxy.url))) as connection:
            assert [get(connection, "/path"), get(connection)] == [b"1", b"2"]
        credentials = base64.b64encode(f"user:{PASSWORD}".encode())
        assert proxy.requests[0].startswith(b"CONNECT %s HTTP/1.1\r\n" % server.address.encode())
        assert b"\r\nProxy-Authorization: Basic %s\r\n" % credentials in proxy.requests[0]
        assert (len(proxy.requests), len(server.requests)) == (1, 2)
        assert server.requests[0].startswith(b"GET /path HTTP/1.1\r\nHost: %s\r\n" % server.address.encode())
        assert b"Proxy-Authorization" not in server.requests[0]


@pytest.mark.parametrize("url", ["https://127.0.0.1:9", "http://127.0.0.1:9"])
def test_the_proxys_password_is_in_no_error(url: str) -> None:
    """Where the proxy is unreachable or closes, the error and its traceback do not have the password."""
    with HttpServer(b"", closes=True) as proxy:
        for address in (proxy.url, "http://127.0.0.1:9", "http://127.0.0.1:port", proxy.url.replace("http", "https")):
            with connect(url, Secret(with_password(address))) as connection:
                with pytest.raises((NotSentError, NoAnswerError)) as caught:
                    get(connection)
                text = "".join(traceback.format_exception(caught.value))
                assert not any(
                    secret in text for secret in (PASSWORD, "pass%3A", base64.b64encode(b"user:")[:6].decode())
                )


def test_the_session_of_krakenex_says_that_it_is_unused() -> None:
    """`session` of the API raises AttributeError, which names the setting for a proxy."""
    with pytest.raises(AttributeError, match="KRAKEN_PROXY"):
        _ = KrakenAPI(KEY, SECRET, "http://127.0.0.1:9").session


# Certificates


def test_certifi_stands_in_where_nothing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Where the default places hold no certificate, certifi's are used; where SSL_CERT_FILE or SSL_CERT_DIR names a
    place without any, none is."""
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("SSL_CERT_DIR", "")
    count = Path(certifi.where()).read_text(encoding="utf-8").count("BEGIN CERTIFICATE")
    assert http_connection._make_tls_context().cert_store_stats()["x509_ca"] == count
    for name, value in (("SSL_CERT_FILE", tmp_path / "none.pem"), ("SSL_CERT_DIR", tmp_path)):
        monkeypatch.setenv(name, str(value))
        assert http_connection._make_tls_context().cert_store_stats()["x509_ca"] == 0
        monkeypatch.setenv(name, "")


def test_a_folder_counts_by_what_openssl_would_find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A default folder with certificates under OpenSSL's names is used alone; one with other files counts as empty."""
    monkeypatch.setenv("SSL_CERT_FILE", "")
    monkeypatch.setenv("SSL_CERT_DIR", "")
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: SimpleNamespace(capath=str(tmp_path)))
    (tmp_path / "README").touch()
    assert http_connection._make_tls_context().cert_store_stats()["x509_ca"] > 0
    (tmp_path / "0a1b2c3d.0").touch()
    assert http_connection._make_tls_context().cert_store_stats()["x509_ca"] == 0

"""What can go wrong on the wire: redirects, proxies, broken, late and endless answers, no connection."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from bot.base.clock import boottime_seconds
from bot.base.errors import NoAnswerError, NotSentError, OrderOutcomeUnknownError, TransportError
from bot.broker_manager import KrakenBroker
from bot.config import Secret
from bot.kraken import transport
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, open_broker_setup

pytestmark = pytest.mark.usefixtures("nonce_file")

KEY, SECRET = "key", "c2VjcmV0"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class RawServer:
    """A server of one answer: `answer` writes to each connection whatever it likes. `received` keeps what came."""

    def __init__(self, answer: Callable[[socket.socket, threading.Event], None]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._over = threading.Event()
        self.received: list[bytes] = []
        self.connections = 0
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.received.append(connection.recv(65_536))
            self._answer(connection, self._over)

    def close(self) -> None:
        """Stop serving; wait for what still runs."""
        self._over.set()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        for thread in self._threads:
            thread.join()


@contextmanager
def raw_server(answer: Callable[[socket.socket, threading.Event], None]) -> Iterator[RawServer]:
    """Serve raw bytes until the block ends."""
    server = RawServer(answer)
    try:
        yield server
    finally:
        server.close()


def fixed_response(text: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Return an answer of these bytes."""
    return lambda connection, _: connection.sendall(text)


def make_call(url: str, method: str = "BalanceEx") -> object:
    """Make one private call to a server."""
    broker = KrakenBroker(KEY, SECRET, api_url=url)
    try:
        return broker.private_call(method)
    finally:
        broker.close()


def http_response(text: bytes) -> bytes:
    """Return a whole answer with this body."""
    return HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(text), text)


# Where requests go


def test_a_redirect_does_not_lead_the_signature_away() -> None:
    """A 307 to another server ends in NoAnswerError, and not even a connection arrives there."""
    with raw_server(fixed_response(http_response(b'{"error":[],"result":{}}'))) as thief:
        with open_broker_setup(SimulatorOptions(redirect_url=thief.url)) as setup:
            setup.simulator.faults.fire_next("redirect_307", "BalanceEx")
            with pytest.raises(NoAnswerError, match="redirect"):
                setup.broker.private_call("BalanceEx")
            setup.simulator.faults.fire_next("redirect_307", "AddOrder")
            with pytest.raises(OrderOutcomeUnknownError):
                setup.broker.private_call("AddOrder", ORDER)
        assert (thief.connections, thief.received) == (0, [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_of_a_public_call_is_followed(status: int) -> None:
    """Whatever the redirect, the second server gets nothing."""
    with raw_server(fixed_response(http_response(b'{"error":[],"result":{}}'))) as thief:
        text = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, thief.url.encode())
        with raw_server(fixed_response(text)) as server:
            broker = KrakenBroker(KEY, SECRET, api_url=server.url)
            with pytest.raises(NoAnswerError):
                broker.public_call("Time")
            broker.close()
        assert thief.connections == 0


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables and a .netrc of the environment change nothing: no proxy sees a request."""
    with raw_server(fixed_response(http_response(b'{"error":[],"result":{}}'))) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        monkeypatch.delenv("no_proxy", raising=False)
        with open_broker_setup() as setup:
            setup.broker.private_call("BalanceEx")
            setup.broker.public_call("Time")
            assert len(setup.requests()) == 1
        assert proxy.connections == 0


def test_a_proxy_that_is_set_is_used() -> None:
    """With KRAKEN_PROXY the request goes to the proxy, with its whole address; as a Secret, which settings hold."""
    with raw_server(fixed_response(http_response(b'{"error":[],"result":{"Z":"1"}}'))) as proxy:
        broker = KrakenBroker(KEY, SECRET, api_url="http://127.0.0.1:9", proxy=Secret(proxy.url))
        assert broker.private_call("Balance") == {"Z": "1"}
        broker.close()
        assert proxy.received[0].startswith(b"POST http://127.0.0.1:9/0/private/Balance ")


def test_secrets_sign_as_plain_texts_do() -> None:
    """A key and secret that do not print are sent and sign like any other."""
    with open_broker_setup() as setup:
        broker = setup.open_broker((Secret(setup.simulator.key), Secret(setup.simulator.secret)))
        broker.private_call("BalanceEx")
        broker.close()
        assert [row.error for row in setup.requests()] == [""]


# Answers that are none


@pytest.mark.parametrize("fault", ["answer_502", "refuse_502", "reset", "half_body", "html"])
def test_a_broken_answer_is_no_answer(fault: str) -> None:
    """A 502, a reset, half a body or HTML raises NoAnswerError; nothing is repeated, and the next call works."""
    with open_broker_setup() as setup:
        setup.simulator.faults.fire_next(fault, "BalanceEx")
        with pytest.raises(NoAnswerError):
            setup.broker.private_call("BalanceEx")
        assert len(setup.requests()) == (0 if fault == "refuse_502" else 1)
        setup.broker.private_call("BalanceEx")
        assert setup.refused_nonce_count() == 0


BODIES = {
    "empty": b"",
    "a list": b"[]",
    "null": b"null",
    "no error array": b'{"result":{}}',
    "error is a text": b'{"error":"none","result":{}}',
    "deeper than the reader": b"[" * 200_000,
    "a number too long": b'{"error":[],"result":' + b"1" * 10_000 + b"}",
    "a number too large": b'{"error":[],"result":1e99999999999999999999}',
}


@pytest.mark.parametrize("text", BODIES.values(), ids=BODIES.keys())
def test_a_body_that_is_not_krakens_is_no_answer(text: bytes) -> None:
    """A body that is not one of Kraken's envelopes raises NoAnswerError."""
    with raw_server(fixed_response(http_response(text))) as server, pytest.raises(NoAnswerError):
        make_call(server.url)


HEADS = {
    "garbage": b"\x00\x01\x02 nothing of HTTP\r\n\r\n",
    "nothing": b"",
    "an endless line": b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    "two hundred headers": b"HTTP/1.1 200 OK\r\n" + b"X: 1\r\n" * 200 + b"\r\n",
    "a wrong length": HEAD + b"Content-Length: -7\r\n\r\n{}",
    "a wrong chunk": HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a wrong encoding": HEAD + b"Content-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}",
}


@pytest.mark.parametrize("text", HEADS.values(), ids=HEADS.keys())
def test_an_answer_that_is_not_http_is_no_answer(text: bytes) -> None:
    """Bytes that are not HTTP, or break off, raise NoAnswerError."""
    with raw_server(fixed_response(text)) as server, pytest.raises(NoAnswerError):
        make_call(server.url)


# Answers without an end


def trickling_response(start: bytes, drop: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Return an answer that begins with `start` and then goes on with `drop`, now and then, for ever."""

    def answer(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(start)
        while not over.wait(0.02):
            connection.sendall(drop)

    return answer


ENDLESS = {
    "body": trickling_response(HEAD + b"Content-Length: 100000\r\n\r\n{", b" "),
    "headers": trickling_response(b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n"),
    "a header's letters": trickling_response(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "status lines": trickling_response(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunks": trickling_response(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "silence": lambda _, over: over.wait(),
}


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_answer_ends(
    answer: Callable[[socket.socket, threading.Event], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that trickles for ever, wherever it is, ends in NoAnswerError once the answer's time is over."""
    monkeypatch.setattr(transport, "ANSWER_SECONDS_MAX", 0.5)
    monkeypatch.setattr(transport, "READ_SECONDS_MAX", 0.4)
    with raw_server(answer) as server:
        before = boottime_seconds()
        with pytest.raises(NoAnswerError):
            make_call(server.url)
        # Without the bound the call would not come back at all; the server goes on as long as the test does.
        assert boottime_seconds() - before >= 0.3


def test_an_answer_in_pieces_within_its_time_is_read() -> None:
    """An answer that comes in small pieces, but within its time, is read whole."""

    def answer(connection: socket.socket, over: threading.Event) -> None:
        for letter in http_response(b'{"error":[],"result":{"ZUSD":"1.50"}}'):
            connection.sendall(bytes([letter]))
            over.wait(0.001)

    with raw_server(answer) as server:
        assert make_call(server.url) == {"ZUSD": "1.50"}


# No connection


def test_a_refused_connection_was_not_sent() -> None:
    """Where nobody listens, NotSentError says that nothing left."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NotSentError):
        make_call(f"http://127.0.0.1:{port}")


def test_order_without_a_connection_is_not_sent() -> None:
    """An order that could not be sent raises NotSentError and blocks nothing."""
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("AddOrder", ORDER)
        # From here on private calls lead nowhere.
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        broker.api.uri = f"http://127.0.0.1:{port}"
        with pytest.raises(NotSentError):
            broker.private_call("AddOrder", ORDER)
        assert broker.unknown_orders() == []


def test_a_host_without_an_address_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host whose name cannot be resolved raises NotSentError."""

    def no_such_name(*arguments: object, **options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    # The one thing faked in this file: a look-up would leave the machine.
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(NotSentError):
        make_call("https://kraken.invalid")


def test_a_server_that_does_not_accept_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is not accepted in time raises NotSentError."""
    monkeypatch.setattr(transport, "CONNECT_SECONDS_MAX", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(address)
        with pytest.raises(NotSentError):
            make_call(f"http://127.0.0.1:{address[1]}")
        for filler in fillers:
            filler.close()


def test_plain_text_on_a_tls_port_is_a_transport_error() -> None:
    """A server that does not speak TLS raises a TransportError, and never sees the key."""
    with raw_server(fixed_response(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        with pytest.raises(TransportError):
            make_call(server.url.replace("http:", "https:"))
        assert all(KEY.encode() not in text for text in server.received)


# Connections that live on


def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    """Where the server hangs up between two calls, the second one goes over a new connection and is answered."""
    closed = threading.Semaphore(0)

    def answer_once(connection: socket.socket, _: threading.Event) -> None:
        connection.sendall(http_response(b'{"error":[],"result":{}}'))
        connection.shutdown(socket.SHUT_RDWR)
        closed.release()

    with raw_server(answer_once) as server:
        broker = KrakenBroker(KEY, SECRET, api_url=server.url)
        for _ in range(3):
            assert broker.private_call("Balance") == {}
            closed.acquire()
        broker.close()
        assert server.connections == 3


def test_calls_share_one_connection() -> None:
    """Several private calls go over one connection."""
    with open_broker_setup() as setup:
        opened = setup.simulator._server
        assert opened is not None
        for _ in range(5):
            setup.broker.private_call("BalanceEx")
        assert len(opened._connections) == 1


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At the finest level of logging, neither key nor secret nor a signature is in the log."""
    caplog.set_level(logging.DEBUG)
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.connect()
        broker.private_call("AddOrder", ORDER)
        setup.simulator.faults.fire_next("reset", "BalanceEx")
        with pytest.raises(NoAnswerError) as caught:
            broker.private_call("BalanceEx")
        setup.simulator.faults.fire_next("spurious_nonce", "BalanceEx")
        broker.private_call("BalanceEx")
        text = caplog.text + str(caught.value) + repr(caught.value.__cause__)
        assert "BalanceEx" in text
        for secret in (setup.simulator.key, setup.simulator.secret, "API-Sign"):
            assert secret not in text

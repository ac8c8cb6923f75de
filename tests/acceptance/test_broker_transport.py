"""Transport failures: redirects, proxies, broken, late and endless responses, no connection."""

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
from bot.kraken import http_connection
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, open_broker_setup

pytestmark = pytest.mark.usefixtures("nonce_file")

KEY, SECRET = "key", "c2VjcmV0"
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class RawServer:
    """A server that calls `answer` to write raw bytes to each connection; `received` has the requests."""

    def __init__(self, answer: Callable[[socket.socket, threading.Event], None]) -> None:
        self._answer = answer
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._stopped = threading.Event()
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
            self._answer(connection, self._stopped)

    def close(self) -> None:
        """Stop serving; wait for the threads."""
        self._stopped.set()
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
    """Return a function that answers with these bytes."""
    return lambda connection, _: connection.sendall(text)


def make_call(url: str, method: str = "BalanceEx") -> object:
    """Make one private call to a server."""
    broker = KrakenBroker(KEY, SECRET, api_url=url)
    try:
        return broker.private_call(method)
    finally:
        broker.close()


def http_response(text: bytes) -> bytes:
    """Return a complete response with this body."""
    return HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(text), text)


# Where requests go


def test_a_redirect_does_not_lead_the_signature_away() -> None:
    """A 307 to another server raises NoAnswerError, and not even a connection arrives there."""
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
    """With any redirect status the second server gets nothing."""
    with raw_server(fixed_response(http_response(b'{"error":[],"result":{}}'))) as thief:
        text = b"HTTP/1.1 %d Moved\r\nLocation: %s\r\nContent-Length: 0\r\n\r\n" % (status, thief.url.encode())
        with raw_server(fixed_response(text)) as server:
            broker = KrakenBroker(KEY, SECRET, api_url=server.url)
            with pytest.raises(NoAnswerError):
                broker.public_call("Time")
            broker.close()
        assert thief.connections == 0


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proxy variables of the environment are ignored: no proxy gets a request."""
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
    """With KRAKEN_PROXY, a Secret as in the settings, the request goes to the proxy with its full URL."""
    with raw_server(fixed_response(http_response(b'{"error":[],"result":{"Z":"1"}}'))) as proxy:
        broker = KrakenBroker(KEY, SECRET, api_url="http://127.0.0.1:9", proxy=Secret(proxy.url))
        assert broker.private_call("Balance") == {"Z": "1"}
        broker.close()
        assert proxy.received[0].startswith(b"POST http://127.0.0.1:9/0/private/Balance ")


def test_secrets_sign_as_plain_texts_do() -> None:
    """A key and secret of type Secret are sent and sign like plain strings."""
    with open_broker_setup() as setup:
        broker = setup.open_broker((Secret(setup.simulator.key), Secret(setup.simulator.secret)))
        broker.private_call("BalanceEx")
        broker.close()
        assert [request.error for request in setup.requests()] == [""]


# Invalid responses


@pytest.mark.parametrize("fault", ["answer_502", "refuse_502", "reset", "half_body", "html"])
def test_a_broken_answer_is_no_answer(fault: str) -> None:
    """A 502, a reset, half a body or HTML raises NoAnswerError; nothing is repeated, and the next call succeeds."""
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


# Endless responses


def trickling_response(start: bytes, drop: bytes) -> Callable[[socket.socket, threading.Event], None]:
    """Return a function that sends `start` and then `drop` again and again, without end."""

    def answer(connection: socket.socket, stopped: threading.Event) -> None:
        connection.sendall(start)
        while not stopped.wait(0.02):
            connection.sendall(drop)

    return answer


ENDLESS = {
    "body": trickling_response(HEAD + b"Content-Length: 100000\r\n\r\n{", b" "),
    "headers": trickling_response(b"HTTP/1.1 200 OK\r\n", b"X: 1\r\n"),
    "a header's characters": trickling_response(b"HTTP/1.1 200 OK\r\nX: ", b"a"),
    "status lines": trickling_response(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "chunks": trickling_response(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n"),
    "trailers": trickling_response(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X: 1\r\n"),
    "silence": lambda _, stopped: stopped.wait(),
}


@pytest.mark.parametrize("answer", ENDLESS.values(), ids=ENDLESS.keys())
def test_an_endless_answer_ends(
    answer: Callable[[socket.socket, threading.Event], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A response that trickles without end, in any part, raises NoAnswerError once the response timeout is over."""
    monkeypatch.setattr(http_connection, "RESPONSE_TIMEOUT_SECONDS", 0.5)
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_SECONDS", 0.4)
    with raw_server(answer) as server:
        before = boottime_seconds()
        with pytest.raises(NoAnswerError):
            make_call(server.url)
        # Without the timeout the call would never return: the server sends for as long as the test runs.
        assert boottime_seconds() - before >= 0.3


def test_an_answer_in_pieces_within_its_time_is_read() -> None:
    """A response in small pieces that ends within the timeout is read completely."""

    def answer(connection: socket.socket, stopped: threading.Event) -> None:
        for letter in http_response(b'{"error":[],"result":{"ZUSD":"1.50"}}'):
            connection.sendall(bytes([letter]))
            stopped.wait(0.001)

    with raw_server(answer) as server:
        assert make_call(server.url) == {"ZUSD": "1.50"}


# No connection


def test_a_refused_connection_was_not_sent() -> None:
    """If nothing listens at the address, NotSentError reports that nothing was sent."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(NotSentError):
        make_call(f"http://127.0.0.1:{port}")


def test_order_without_a_connection_is_not_sent() -> None:
    """An order that could not be sent raises NotSentError and blocks nothing."""
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("AddOrder", ORDER)
        # From here on private calls go to a closed port.
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

    # The only fake in this file: a DNS query would leave the machine.
    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    with pytest.raises(NotSentError):
        make_call("https://kraken.invalid")


def test_a_server_that_does_not_accept_was_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that is not accepted in time raises NotSentError."""
    monkeypatch.setattr(http_connection, "CONNECT_TIMEOUT_SECONDS", 0.2)
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
    """A server that does not speak TLS raises TransportError, and never receives the key."""
    with raw_server(fixed_response(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        with pytest.raises(TransportError):
            make_call(server.url.replace("http:", "https:"))
        assert all(KEY.encode() not in text for text in server.received)


# Persistent connections


def test_a_connection_that_the_server_has_closed_is_replaced() -> None:
    """If the server closes the connection between two calls, the second one uses a new connection and is answered."""
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
    """Several private calls use one connection."""
    with open_broker_setup() as setup:
        server = setup.simulator._server
        assert server is not None
        for _ in range(5):
            setup.broker.private_call("BalanceEx")
        assert len(server._connections) == 1


def test_nothing_secret_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """At log level DEBUG neither the key nor the secret nor a signature is in the log."""
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

"""Injected faults: each does exactly what its name says, to the intended request only."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from decimal import Decimal

import pytest
import requests

from bot.simulator.errors import SimulatorError
from bot.simulator.faults import FaultInjector
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.simulator_parts import KrakenexClient, ScriptedPrices

ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "40000", "volume": "0.001"}
NOT_EXECUTED_FAULTS = ("refuse_502", "redirect_307", "delayed", "queued")
EXECUTED_FAULTS = ("answer_502", "reset", "half_body", "html", "no_answer")


@pytest.fixture
def simulator() -> Iterator[Simulator]:
    """Return a simulator whose slow answers take half a second."""
    options = SimulatorOptions(slow_seconds=0.5, redirect_url="http://127.0.0.1:9")
    with Simulator(options, prices=ScriptedPrices((0, "50000"))) as running:
        yield running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[KrakenexClient]:
    """Return krakenex on the simulator; it follows no redirect."""
    made = KrakenexClient(simulator)
    made.api.session.max_redirects = 0
    yield made
    made.close()


def count_orders(simulator: Simulator) -> int:
    """Return the number of orders at the exchange."""
    return len(simulator.exchange.account.orders)


@pytest.mark.parametrize("name", [*NOT_EXECUTED_FAULTS, *EXECUTED_FAULTS])
def test_a_transport_fault_leaves_no_readable_response(simulator: Simulator, client: KrakenexClient, name: str) -> None:
    """krakenex raises; the order was executed exactly if the fault occurs after execution; the next call works."""
    simulator.faults.fire_next(name, "AddOrder")
    with pytest.raises((requests.RequestException, ValueError)):
        client.private("AddOrder", **ORDER)
    assert count_orders(simulator) == (1 if name in EXECUTED_FAULTS else 0)
    assert dict(simulator.faults.fired_counts) == {name: 1}
    assert client.private("AddOrder", **ORDER)["error"] == []


def test_a_slow_response_times_out_after_execution(simulator: Simulator, client: KrakenexClient) -> None:
    """With a time-out of 0.1 s the read fails, and the order exists."""
    simulator.faults.fire_next("slow", "AddOrder")
    with pytest.raises(requests.ReadTimeout):
        client.api.query_private("AddOrder", dict(ORDER), timeout=0.1)
    answers = (client.private("OpenOrders")["result"]["open"] for _ in range(1000))
    assert len(next(filter(None, answers), {})) == 1


def test_only_a_delivered_request_consumes_its_nonce(simulator: Simulator, client: KrakenexClient) -> None:
    """refuse_502 leaves the nonce unused; answer_502 consumes it."""
    floors = []
    for name in ("refuse_502", "answer_502"):
        simulator.faults.fire_next(name, "Balance")
        with pytest.raises(requests.HTTPError):
            client.private("Balance")
        floors.append(simulator.api.state()["floors"][simulator.key])
    assert floors == ["0", "2"]


def test_a_redirect_points_to_the_configured_url(simulator: Simulator) -> None:
    """The answer is 307 with the same path at another host, and nothing was executed."""
    simulator.faults.fire_next("redirect_307", "Balance")
    with requests.Session() as session:
        session.trust_env = False
        url = f"{simulator.url}/0/private/Balance"
        answer = session.post(url, "nonce=1", allow_redirects=False, timeout=5)
    assert (answer.status_code, answer.headers["Location"]) == (307, "http://127.0.0.1:9/0/private/Balance")
    assert list(simulator.request_log) == []


def test_a_spurious_nonce_error_keeps_the_nonce_floor(simulator: Simulator, client: KrakenexClient) -> None:
    """A valid nonce is refused, the floor stays, and the refusal is not counted among the real ones."""
    simulator.faults.fire_next("spurious_nonce", "Balance")
    assert client.private("Balance") == {"error": ["EAPI:Invalid nonce"]}
    state = simulator.api.state()
    assert (state["floors"][simulator.key], state["refused_nonces"]) == ("0", 0)


def test_an_external_sender_makes_the_nonce_stale(simulator: Simulator, client: KrakenexClient) -> None:
    """An external sender had the same nonce accepted just before; the next nonce works."""
    simulator.faults.fire_next("foreign_nonce", "Balance")
    assert client.private("Balance") == {"error": ["EAPI:Invalid nonce"]}
    assert client.private("Balance")["error"] == []


def test_any_error_string_can_be_raised_before_or_after_execution(simulator: Simulator, client: KrakenexClient) -> None:
    """The error is raised twice before execution, once after it, and then no more."""
    simulator.faults.raise_next("AddOrder", "EService:Busy", times=2)
    simulator.faults.raise_next("AddOrder", "EService:Timeout", executed=True)
    answers, counts = [], []
    for _ in range(4):
        answers.append(client.private("AddOrder", **ORDER)["error"])
        counts.append(count_orders(simulator))
    assert answers == [["EService:Busy"], ["EService:Busy"], ["EService:Timeout"], []]
    assert counts == [0, 0, 1, 2]


def test_an_error_is_raised_on_a_public_method_too(simulator: Simulator, client: KrakenexClient) -> None:
    """The named method fails once, others do not."""
    simulator.faults.raise_next("Ticker", "EGeneral:Too many requests")
    assert client.public("Time")["error"] == []
    assert client.public("Ticker") == {"error": ["EGeneral:Too many requests"]}
    assert client.public("Ticker")["error"] == []


def test_the_same_seed_gives_the_same_faults() -> None:
    """Two sequences of one seed are equal, one of another seed differs, and the rates are approximately met."""

    def random_faults(seed: int) -> list[str]:
        faults = FaultInjector({"reset": 0.1, "html": 0.2}, seed)
        found = [faults.next_fault("Balance", is_private=True) for _ in range(1000)]
        return [fault.name if fault else "" for fault in found]

    first = random_faults(5)
    assert first == random_faults(5)
    assert first != random_faults(6)
    assert 70 < first.count("reset") < 130
    assert 140 < first.count("html") < 220


def test_fault_rates_apply_to_private_requests_only() -> None:
    """A probability of one affects every private request and no public one."""
    faults = FaultInjector({"reset": 1.0})
    assert faults.next_fault("Time", is_private=False) is None
    assert faults.next_fault("Balance", is_private=True) is not None


def test_faults_are_off_by_default() -> None:
    """By default ten thousand requests have no fault."""
    faults = FaultInjector()
    assert [faults.next_fault("AddOrder", is_private=True) for _ in range(10_000)] == [None] * 10_000


def test_an_unknown_fault_is_refused() -> None:
    """A misspelled name is an error, not a fault that never fires."""
    with pytest.raises(SimulatorError, match="no fault rest"):
        FaultInjector().fire_next("rest", "AddOrder")


def test_a_partial_fill_leaves_half_of_the_order(simulator: Simulator, client: KrakenexClient) -> None:
    """At a probability of one, an IOC limit order fills half and the rest is canceled."""
    simulator.faults.set_rate("partial_fill", 1.0)
    txid = client.private("AddOrder", **ORDER | {"price": "60000", "timeinforce": "IOC"})["result"]["txid"][0]
    order = simulator.exchange.account.orders[txid]
    assert (order.status, order.executed) == ("canceled", Decimal("0.0005"))
    assert simulator.exchange.account.audit() == []


def test_every_request_waits_for_its_own_latency_before_it_is_processed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three calls wait for the seed's three latencies, each before the exchange has processed it."""
    waits: list[tuple[float, int]] = []
    options = SimulatorOptions(latency_seconds=(0.01, 0.02), seed=3)
    with Simulator(options) as simulator:
        monkeypatch.setattr(
            "bot.simulator.http_server.sleep", lambda seconds: waits.append((seconds, len(simulator.request_log)))
        )
        client = KrakenexClient(simulator)
        for _ in range(3):
            client.private("Balance")
        client.close()
    expected = FaultInjector(seed=3)
    assert waits == [(expected.random_latency((0.01, 0.02)), seen) for seen in range(3)]


def test_the_latency_is_random_within_its_bounds() -> None:
    """A hundred latencies of 10 to 20 ms are within the bounds and differ; without bounds there is none."""
    faults = FaultInjector()
    latencies = [faults.random_latency((0.01, 0.02)) for _ in range(100)]
    assert 0.01 <= min(latencies) < max(latencies) <= 0.02
    assert faults.random_latency((0.0, 0.0)) == 0.0


def test_the_server_listens_on_loopback_only(simulator: Simulator) -> None:
    """The socket is bound to 127.0.0.1."""
    assert simulator.url.startswith("http://127.0.0.1:")
    port = int(simulator.url.rpartition(":")[2])
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", port))


def test_a_stopped_simulator_leaves_no_connection_open() -> None:
    """After the block ends, the server closes a keep-alive connection."""
    with Simulator() as simulator:
        port = int(simulator.url.rpartition(":")[2])
        connection = socket.create_connection(("127.0.0.1", port), 5)
        connection.sendall(b"GET /0/public/Time HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(10_000).startswith(b"HTTP/1.1 200 OK")
    with connection:
        assert connection.recv(1) == b""


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"POST /0/private/Balance HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
        b"POST /0/private/Balance HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n",
    ],
)
def test_a_body_with_an_invalid_length_is_not_read(simulator: Simulator, request_bytes: bytes) -> None:
    """Such a request is answered with 413 and the connection is closed."""
    with socket.create_connection(("127.0.0.1", int(simulator.url.rpartition(":")[2])), 5) as connection:
        connection.sendall(request_bytes)
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 413 ")

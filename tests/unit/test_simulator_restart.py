"""The exchange is closed and reopened at the same address, and everything it promised still holds."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import requests

from bot.base.clock import MarketClock, ReplayClock
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.simulator_parts import START, KrakenexClient, ScriptedPrices

RESTING_ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "1000", "volume": "0.001"}
YEAR_SECONDS = 365 * 86_400
NEVER_SET = threading.Event()


class RestartableExchange:
    """An exchange that can be closed and reopened, with one state file, one port and one clock."""

    def __init__(self, path: Path) -> None:
        self.clock = ReplayClock(START, START + YEAR_SECONDS)
        self._path = path
        self._port = 0
        self.url = ""

    @contextmanager
    def open(self, clock: MarketClock | None = None, **options: Any) -> Iterator[Simulator]:
        """Open the exchange; from the second time on it resumes."""
        simulator_options = SimulatorOptions(state_path=self._path, port=self._port, **options)
        with Simulator(simulator_options, clock or self.clock, ScriptedPrices((0, "50000"))) as simulator:
            self._port, self.url = int(simulator.url.rpartition(":")[2]), simulator.url
            yield simulator

    def advance_time(self, seconds: float) -> None:
        """Let market time pass."""
        self.clock.wait(seconds, NEVER_SET)


@pytest.fixture
def exchange(tmp_path: Path) -> RestartableExchange:
    """Return an exchange that was never opened."""
    return RestartableExchange(tmp_path / "account.db")


def order_statuses(simulator: Simulator) -> list[tuple[str, float]]:
    """Return each order's status and, in seconds after START, when it closed; oldest first."""
    simulator.api.advance_to_now()
    orders = simulator.exchange.account.orders.values()
    return [(order.status, order.closed and order.closed - START) for order in orders]


def test_a_restart_keeps_orders_nonce_floor_and_dead_man_switch(exchange: RestartableExchange) -> None:
    """After five restarts during a client's session the orders, the nonce floor and the armed switch are unchanged."""
    client, seen = None, []
    for number in range(5):
        with exchange.open() as simulator:
            if client is None:
                client = KrakenexClient(simulator)
                client.private("CancelAllOrdersAfter", timeout=600)
            assert client.api.uri == simulator.url
            assert client.private("AddOrder", **RESTING_ORDER)["error"] == []
            state = simulator.api.state()
            seen.append((state["open_orders"], state["floors"][simulator.key], simulator.exchange.dead_man_switch_at))
            assert len(client.private("OpenOrders")["result"]["open"]) == number + 1
        with pytest.raises(requests.ConnectionError):
            client.private("Balance")
        exchange.advance_time(1)
    assert client is not None
    client.close()
    assert seen == [(number + 1, str(2 + number * 3), START + 600) for number in range(5)]


def test_the_dead_man_switch_fires_for_all_keys_during_downtime(exchange: RestartableExchange) -> None:
    """Armed with one key, it cancels the orders of both keys at its time, stops included, and does not fire again."""
    with exchange.open() as simulator:
        second = simulator.add_key()
        clients = [KrakenexClient(simulator), KrakenexClient(simulator, *second)]
        clients[0].private("AddOrder", **RESTING_ORDER)
        clients[1].private("AddOrder", **RESTING_ORDER | {"ordertype": "stop-loss", "price": "60000"})
        clients[0].private("CancelAllOrdersAfter", timeout=60)
    exchange.advance_time(100)
    with exchange.open() as simulator:
        assert order_statuses(simulator) == [("canceled", 60), ("canceled", 60)]
        assert simulator.api.state()["floors"] == {simulator.key: "2", second[0]: "1"}
        clients[1].private("AddOrder", **RESTING_ORDER)
    exchange.advance_time(10_000)
    with exchange.open() as simulator:
        assert order_statuses(simulator)[2:] == [("open", 0)]
    for client in clients:
        client.close()


def test_open_orders_stay_newest_first_after_a_restart(exchange: RestartableExchange) -> None:
    """Eight consecutive orders are listed in the same order before and after a restart."""
    listed: list[list[str]] = []
    for nonce in (0, 100):
        with exchange.open() as simulator:
            client = KrakenexClient(simulator, nonce=nonce)
            for _ in range(0 if nonce else 8):
                client.private("AddOrder", **RESTING_ORDER)
                exchange.advance_time(1)
            listed.append(list(client.private("OpenOrders")["result"]["open"]))
            client.close()
    assert len(listed[0]) == 8
    assert listed[0] == listed[1]


def test_a_disarmed_dead_man_switch_stays_disarmed(exchange: RestartableExchange) -> None:
    """Armed, disarmed with 0 and closed: nothing is canceled after its time."""
    with exchange.open() as simulator:
        client = KrakenexClient(simulator)
        client.private("AddOrder", **RESTING_ORDER)
        client.private("CancelAllOrdersAfter", timeout=60)
        client.private("CancelAllOrdersAfter", timeout=0)
        client.close()
    exchange.advance_time(100)
    with exchange.open() as simulator:
        assert order_statuses(simulator) == [("open", 0)]


@pytest.mark.parametrize("fault", ["delayed", "queued"])
@pytest.mark.parametrize(("seconds", "orders"), [(1, 0), (3, 1)])
def test_requests_in_flight_at_shutdown_are_lost(
    exchange: RestartableExchange, fault: str, seconds: float, orders: int
) -> None:
    """A delayed or queued order that was due in 2 s exists if the exchange closed after 3 s, not if after 1 s."""
    with exchange.open(delay_seconds=2, queue_seconds=2) as simulator:
        client = KrakenexClient(simulator)
        simulator.faults.fire_next(fault, "AddOrder")
        with pytest.raises(requests.ConnectionError):
            client.private("AddOrder", **RESTING_ORDER)
        client.close()
        exchange.advance_time(seconds)
    assert len(simulator.exchange.account.orders) == orders
    exchange.advance_time(100)
    with exchange.open() as simulator:
        assert len(order_statuses(simulator)) == orders


def test_a_duplicate_is_dropped_at_shutdown(exchange: RestartableExchange) -> None:
    """If the exchange closes while a handler waits to process the second copy, the copy is dropped and the handler
    ends."""
    answered: list[object] = []

    def order(client: KrakenexClient) -> None:
        with suppress(requests.ConnectionError):
            answered.append(client.private("AddOrder", **RESTING_ORDER))

    with exchange.open(MarketClock(START), delay_seconds=3600, nonce_window=5, allow_nonce_repeats=True) as simulator:
        client = KrakenexClient(simulator)
        simulator.faults.fire_next("duplicated_second", "AddOrder")
        sender = threading.Thread(target=order, args=(client,))
        sender.start()
        probe = KrakenexClient(simulator)
        assert any(simulator.request_log for _ in range(10_000) if probe.public("Time"))
        probe.close()
    sender.join()
    client.close()
    handlers = [thread for thread in threading.enumerate() if "process_request" in thread.name]
    for handler in handlers:
        handler.join(20)
    assert [handler for handler in handlers if handler.is_alive()] == []
    assert answered == []
    assert [row.method for row in simulator.request_log] == ["AddOrder"]


def test_a_closed_exchange_ignores_requests(exchange: RestartableExchange) -> None:
    """A request that a thread still holds after the close is dropped, and neither account nor file changes."""
    with exchange.open() as simulator:
        pass
    before = exchange._path.read_bytes()
    with pytest.raises(ConnectionAbortedError):
        simulator.api.handle("GET", "/0/public/Time", {}, b"")
    exchange.advance_time(100)
    assert simulator.api.state()["failure"] == ""
    assert simulator.orders_by_client_id() == {}
    assert (simulator.exchange.now, exchange._path.read_bytes()) == (START, before)


def test_the_account_key_uses_the_configured_nonce_window(exchange: RestartableExchange) -> None:
    """A stored key uses the nonce window of the current options, and GetApiKeyInfo returns it."""
    windows: list[int] = []
    for window in (0, 7, 0):
        with exchange.open(nonce_window=window) as simulator:
            client = KrakenexClient(simulator, nonce=len(windows))
            windows.append(client.private("GetApiKeyInfo")["result"]["nonceWindow"])
            client.close()
    assert windows == [0, 7, 0]


def test_query_lag_is_stable_across_restarts(exchange: RestartableExchange) -> None:
    """Of ten orders, OpenOrders lists the same ones 1.5 s after placement before and after a restart."""
    listed: list[set[str]] = []
    for nonce in (0, 100):
        with exchange.open(open_lag_seconds=3) as simulator:
            client = KrakenexClient(simulator, nonce=nonce)
            if not nonce:
                for _ in range(10):
                    client.private("AddOrder", **RESTING_ORDER)
                exchange.advance_time(1.5)
            listed.append(set(client.private("OpenOrders")["result"]["open"]))
            client.close()
    assert listed[0] == listed[1]
    assert 0 < len(listed[0]) < 10

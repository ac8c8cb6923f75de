"""The exchange is closed and opened again at the same address, and everything that it promised still holds."""

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
from tests.simulator_parts import START, Client, DrawnPrices

REST = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "1000", "volume": "0.001"}
YEAR_SECONDS = 365 * 86_400
NEVER = threading.Event()


class Site:
    """An exchange that can be closed and opened again: one state file, one port, one clock."""

    def __init__(self, path: Path) -> None:
        self.clock = ReplayClock(START, START + YEAR_SECONDS)
        self._path = path
        self._port = 0
        self.url = ""

    @contextmanager
    def open(self, clock: MarketClock | None = None, **options: Any) -> Iterator[Simulator]:
        """Open the exchange, from the second time on where it was."""
        given = SimulatorOptions(state_path=self._path, port=self._port, **options)
        with Simulator(given, clock or self.clock, DrawnPrices((0, "50000"))) as simulator:
            self._port, self.url = int(simulator.url.rpartition(":")[2]), simulator.url
            yield simulator

    def pass_time(self, seconds: float) -> None:
        """Let market time pass."""
        self.clock.wait(seconds, NEVER)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """Return an exchange that was never opened."""
    return Site(tmp_path / "account.db")


def statuses(simulator: Simulator) -> list[tuple[str, float]]:
    """Return each order's status and, in seconds after START, when it ended; oldest first."""
    simulator.api.catch_up()
    orders = simulator.exchange.account.orders.values()
    return [(order.status, order.closed and order.closed - START) for order in orders]


def test_orders_floor_and_switch_are_there_again_at_the_same_address(site: Site) -> None:
    """After five restarts under a client the orders, the floor and the armed switch are what they were."""
    client, seen = None, []
    for number in range(5):
        with site.open() as simulator:
            if client is None:
                client = Client(simulator)
                client.private("CancelAllOrdersAfter", timeout=600)
            assert client.api.uri == simulator.url
            assert client.private("AddOrder", **REST)["error"] == []
            state = simulator.api.state()
            seen.append((state["open_orders"], state["floors"][simulator.key], simulator.exchange.switch_at))
            assert len(client.private("OpenOrders")["result"]["open"]) == number + 1
        with pytest.raises(requests.ConnectionError):
            client.private("Balance")
        site.pass_time(1)
    assert client is not None
    client.close()
    assert seen == [(number + 1, str(2 + number * 3), START + 600) for number in range(5)]


def test_the_switch_fires_for_the_whole_account_while_the_exchange_is_closed(site: Site) -> None:
    """Armed with one key, it cancels at its time the orders of both, stops too, and then never again."""
    with site.open() as simulator:
        second = simulator.add_key()
        clients = [Client(simulator), Client(simulator, *second)]
        clients[0].private("AddOrder", **REST)
        clients[1].private("AddOrder", **REST | {"ordertype": "stop-loss", "price": "60000"})
        clients[0].private("CancelAllOrdersAfter", timeout=60)
    site.pass_time(100)
    with site.open() as simulator:
        assert statuses(simulator) == [("canceled", 60), ("canceled", 60)]
        assert simulator.api.state()["floors"] == {simulator.key: "2", second[0]: "1"}
        clients[1].private("AddOrder", **REST)
    site.pass_time(10_000)
    with site.open() as simulator:
        assert statuses(simulator)[2:] == [("open", 0)]
    for client in clients:
        client.close()


def test_open_orders_are_newest_first_after_a_restart_too(site: Site) -> None:
    """Eight orders that were placed one after the other are shown in the same order before and after a restart."""
    shown: list[list[str]] = []
    for nonce in (0, 100):
        with site.open() as simulator:
            client = Client(simulator, nonce=nonce)
            for _ in range(0 if nonce else 8):
                client.private("AddOrder", **REST)
                site.pass_time(1)
            shown.append(list(client.private("OpenOrders")["result"]["open"]))
            client.close()
    assert len(shown[0]) == 8
    assert shown[0] == shown[1]


def test_a_switch_that_was_switched_off_stays_off(site: Site) -> None:
    """Armed, switched off with 0 and closed: nothing is cancelled after its time."""
    with site.open() as simulator:
        client = Client(simulator)
        client.private("AddOrder", **REST)
        client.private("CancelAllOrdersAfter", timeout=60)
        client.private("CancelAllOrdersAfter", timeout=0)
        client.close()
    site.pass_time(100)
    with site.open() as simulator:
        assert statuses(simulator) == [("open", 0)]


@pytest.mark.parametrize("fault", ["delayed", "queued"])
@pytest.mark.parametrize(("seconds", "orders"), [(1, 0), (3, 1)])
def test_what_has_not_come_when_the_exchange_closes_never_comes(
    site: Site, fault: str, seconds: float, orders: int
) -> None:
    """A delayed or queued order that was due in 2 s is there if the exchange was closed after 3 s, not after 1 s."""
    with site.open(delay_seconds=2, queue_seconds=2) as simulator:
        client = Client(simulator)
        simulator.faults.fire_next(fault, "AddOrder")
        with pytest.raises(requests.ConnectionError):
            client.private("AddOrder", **REST)
        client.close()
        site.pass_time(seconds)
    assert len(simulator.exchange.account.orders) == orders
    site.pass_time(100)
    with site.open() as simulator:
        assert len(statuses(simulator)) == orders


def test_a_second_copy_does_not_outlive_the_exchange(site: Site) -> None:
    """Closed while a handler waits to take the second copy in, the exchange never takes it in, and the handler ends."""
    answered: list[object] = []

    def order(client: Client) -> None:
        with suppress(requests.ConnectionError):
            answered.append(client.private("AddOrder", **REST))

    with site.open(MarketClock(START), delay_seconds=3600, nonce_window=5, nonce_window_repeats=True) as simulator:
        client = Client(simulator)
        simulator.faults.fire_next("duplicated_second", "AddOrder")
        sender = threading.Thread(target=order, args=(client,))
        sender.start()
        probe = Client(simulator)
        assert any(simulator.log for _ in range(10_000) if probe.public("Time"))
        probe.close()
    sender.join()
    client.close()
    handlers = [thread for thread in threading.enumerate() if "process_request" in thread.name]
    for handler in handlers:
        handler.join(20)
    assert [handler for handler in handlers if handler.is_alive()] == []
    assert answered == []
    assert [row.method for row in simulator.log] == ["AddOrder"]


def test_a_closed_exchange_does_nothing_more(site: Site) -> None:
    """A request that a thread still holds after the close is dropped, and neither account nor file changes."""
    with site.open() as simulator:
        pass
    before = site._path.read_bytes()
    with pytest.raises(ConnectionAbortedError):
        simulator.api.handle("GET", "/0/public/Time", {}, b"")
    site.pass_time(100)
    assert simulator.api.state()["failure"] == ""
    assert simulator.orders_by_client_id() == {}
    assert (simulator.exchange.now, site._path.read_bytes()) == (START, before)


def test_the_window_of_the_own_key_is_the_one_of_this_run(site: Site) -> None:
    """A kept key has the nonce window that the exchange was opened with this time, and GetApiKeyInfo shows it."""
    shown: list[int] = []
    for window in (0, 7, 0):
        with site.open(nonce_window=window) as simulator:
            client = Client(simulator, nonce=len(shown))
            shown.append(client.private("GetApiKeyInfo")["result"]["nonceWindow"])
            client.close()
    assert shown == [0, 7, 0]


def test_the_lag_of_an_order_is_the_same_after_a_restart(site: Site) -> None:
    """Of ten orders those that OpenOrders shows after 1.5 s are the same before and after a restart."""
    shown: list[set[str]] = []
    for nonce in (0, 100):
        with site.open(open_lag_seconds=3) as simulator:
            client = Client(simulator, nonce=nonce)
            if not nonce:
                for _ in range(10):
                    client.private("AddOrder", **REST)
                site.pass_time(1.5)
            shown.append(set(client.private("OpenOrders")["result"]["open"]))
            client.close()
    assert shown[0] == shown[1]
    assert 0 < len(shown[0]) < 10

"""Tools for tests of KrakenBroker: a local Kraken, a clock that moves only on request, child processes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

from bot.base.clock import MarketClock, ReplayClock, boottime_seconds, nonce_clock, sleep, wall_seconds
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import UNLIMITED
from bot.nonce.local_lock import RequestLock
from bot.simulator.api import LoggedRequest
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.child_process import Child

YEARS_SECONDS = 10 * 365 * 86_400
ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.001", "price": "1000"}


def auto_advance_clock() -> ReplayClock:
    """Return a market clock that stands still until a thread waits on it, and then jumps."""
    start = wall_seconds()
    return ReplayClock(start, start + YEARS_SECONDS)


def advance_time(clock: MarketClock, seconds: float) -> None:
    """Let this much market time pass."""
    clock.wait(seconds, threading.Event())


class BrokerSetup:
    """A local Kraken and a broker on it."""

    def __init__(self, simulator: Simulator, clock: MarketClock, settings: dict[str, Any]) -> None:
        self.simulator = simulator
        self.clock = clock
        self.broker = self.open_broker(**settings)

    def open_broker(self, key: tuple[str, str] | None = None, **settings: Any) -> KrakenBroker:
        """Return one more broker, as after a restart or for another key."""
        credentials = key or (self.simulator.key, self.simulator.secret)
        arguments: dict[str, Any] = {
            "api_url": self.simulator.url,
            "tier": UNLIMITED,
            "market_clock": self.clock,
            **settings,
        }
        return KrakenBroker(*credentials, **arguments)

    def requests(self, key: str = "") -> list[LoggedRequest]:
        """Return the private requests that arrived on a key, oldest first."""
        return [request for request in list(self.simulator.request_log) if request.key == (key or self.simulator.key)]

    def request_methods(self, key: str = "") -> list[str]:
        """Return the methods of the private requests that arrived on a key, oldest first."""
        return [request.method for request in self.requests(key)]

    def refused_nonce_count(self, key: str = "") -> int:
        """Return how many requests of a key were refused for their nonce."""
        return sum(request.error == "EAPI:Invalid nonce" for request in self.requests(key))

    def placed_order_count(self) -> int:
        """Return how many orders the exchange has ever accepted."""
        return len(self.simulator.exchange.account.orders)


@contextmanager
def open_broker_setup(
    options: SimulatorOptions | None = None, clock: MarketClock | None = None, **settings: Any
) -> Iterator[BrokerSetup]:
    """Open a local Kraken with a broker on it; `settings` are the broker's."""
    clock = clock or auto_advance_clock()
    with Simulator(options or SimulatorOptions(), clock) as simulator:
        setup = BrokerSetup(simulator, clock, settings)
        try:
            yield setup
        finally:
            setup.broker.close()
            nonce_clock.follow_wall()


def current_btc_price(setup: BrokerSetup) -> Decimal:
    """Return the current price of BTC/USD."""
    return setup.broker.get_current_price("BTC/USD")


def wait_for(condition: Callable[[], object], seconds_max: float = 20.0) -> None:
    """Return as soon as the condition holds; raise AssertionError if it does not hold in time."""
    deadline = boottime_seconds() + seconds_max
    while not condition():
        assert boottime_seconds() < deadline, "the condition did not become true in time"
        sleep(0.002)


def count_waiting_calls(broker: KrakenBroker) -> int:
    """Return how many of a broker's calls wait for the request lock of this machine."""
    assert isinstance(broker._request_lock, RequestLock)
    return len(broker._request_lock._waiters)


def run_in_threads(count: int, work: Callable[[], object]) -> list[BaseException]:
    """Run the same work in `count` threads at once; return the exceptions that they raised."""
    errors: list[BaseException] = []
    barrier = threading.Barrier(count)

    def run() -> None:
        barrier.wait()
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def start_broker_child(
    folder: Path, setup: BrokerSetup, *arguments: object, key: tuple[str, str] | None = None
) -> Child:
    """Start another process with a broker on the same key and state folder; broker_child.py lists the arguments."""
    credentials = key or (setup.simulator.key, setup.simulator.secret)
    environment = {"STATE_DIR": str(folder)}
    return Child(
        "tests.acceptance.broker_child", setup.simulator.url, *credentials, *arguments, environment=environment
    )

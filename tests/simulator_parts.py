"""Shared parts for tests of the simulator: a scripted price path, and an exchange on it with and without HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from decimal import Decimal
from typing import Any

import krakenex
import requests

from bot.base.clock import MarketClock, ReplayClock
from bot.simulator.account import Account
from bot.simulator.errors import Refusal
from bot.simulator.exchange import Exchange
from bot.simulator.faults import FAITHFUL, ExchangeBehavior
from bot.simulator.instruments import PairRules, known_instruments
from bot.simulator.limits import find_tier
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import PricePoint, SimCandle
from bot.simulator.prices_recorded import CandlePath
from bot.simulator.server import Simulator

START = 1_790_000_000.0
YEAR_SECONDS = 365 * 86_400

# At a price of 50000 the first rests, and the second is filled at once.
RESTING_ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "40000", "volume": "0.001"}
TAKER_ORDER = RESTING_ORDER | {"price": "60000", "timeinforce": "IOC"}

Point = tuple[float, str]


class ScriptedPrices:
    """A line through points given as (seconds after START, price); every pair follows the same one."""

    shortest_candle_seconds = 60

    def __init__(self, *points: Point) -> None:
        self.source_id = "scripted"
        self._points = points

    def _path(self, pair: PairRules) -> CandlePath:
        path = CandlePath(pair, [], 60)
        for after, price in self._points:
            path.add_point(START + after, Decimal(price))
        return path

    def status(self, now: float) -> str:
        """Return online."""
        return "online"

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the price at `now`."""
        return self._path(pair).price(now)

    def price_points(self, pair: PairRules, after: float, until: float) -> list[PricePoint]:
        """Return the points of the line."""
        return self._path(pair).price_points(after, until)

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[SimCandle]:
        """Return none: matching does not need them."""
        return []


def make_exchange(
    *points: Point,
    starting_balances: Mapping[str, str] | None = None,
    tier: str = "unlimited",
    behavior: ExchangeBehavior = FAITHFUL,
) -> Exchange:
    """Return an exchange at START whose price follows the points."""
    start = {asset: Decimal(amount) for asset, amount in (starting_balances or {"ZUSD": "10000"}).items()}
    pairs = known_instruments(["BTC/USD", "ETH/USD"])
    return Exchange(Account(start, "salt"), pairs, ScriptedPrices(*points), find_tier(tier), START, behavior)


def place_order(exchange: Exchange, **params: str) -> str:
    """Place an order on BTC/USD and return its txid."""
    arguments = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.01"} | params
    return str(exchange.add_order(arguments)["txid"][0])


def order_error(exchange: Exchange, **params: str) -> str:
    """Return the error string with which an order on BTC/USD is refused, or "" if it is accepted."""
    try:
        place_order(exchange, **params)
    except Refusal as refusal:
        return refusal.error
    return ""


def read_balances(exchange: Exchange) -> dict[str, Decimal]:
    """Return the account's balances."""
    return dict(exchange.account.balances)


class KrakenexClient:
    """krakenex on a running simulator, with a counter as its nonce."""

    def __init__(self, simulator: Simulator, key: str = "", secret: str = "", nonce: int = 0) -> None:
        self.api = krakenex.API(key or simulator.key, secret or simulator.secret)
        self.api.uri = simulator.url
        self.api.session.trust_env = False
        self.nonce = nonce
        self.api._nonce = self._next_nonce

    def _next_nonce(self) -> int:
        self.nonce += 1
        return self.nonce

    def private(self, method: str, **params: object) -> dict[str, Any]:
        """Return the complete response of a private call."""
        response: dict[str, Any] = self.api.query_private(method, dict(params), timeout=5)
        return response

    def public(self, method: str, **params: object) -> dict[str, Any]:
        """Return the complete response of a public call."""
        response: dict[str, Any] = self.api.query_public(method, dict(params), timeout=5)
        return response

    def close(self) -> None:
        """Close the connection."""
        self.api.close()


class SimulatorHarness:
    """A local Kraken on a clock that only the test advances, with krakenex on it."""

    def __init__(self, simulator: Simulator, clock: MarketClock) -> None:
        self.simulator = simulator
        self.clock = clock
        self.client = KrakenexClient(simulator)
        self.client.api.session.max_redirects = 0

    def call(self, method: str, **params: object) -> Any:
        """Return the result of a private call, or its error strings."""
        response = self.client.private(method, **params)
        return response["error"] or response["result"]

    def call_with_fault(self, fault_name: str, method: str, **params: object) -> Any:
        """Inject a fault into a private call; return its result, its error strings, or None without a response."""
        self.simulator.faults.fire_next(fault_name, method)
        with suppress(requests.ConnectionError):
            return self.call(method, **params)
        return None

    def advance_time(self, seconds: float) -> None:
        """Let market time pass."""
        self.clock.wait(seconds, threading.Event())

    def order_times(self) -> list[float]:
        """Return the opening time of every order that was accepted, in seconds after START."""
        self.simulator.api.advance_to_now()
        return [order.opened - START for order in self.simulator.exchange.account.orders.values()]

    def nonce_floor(self) -> int:
        """Return the highest nonce that was accepted."""
        return int(self.simulator.api.state()["floors"][self.simulator.key])


@contextmanager
def open_harness(clock: MarketClock | None = None, **options: Any) -> Iterator[SimulatorHarness]:
    """Open a local Kraken at START and a price of 50000."""
    clock = clock or ReplayClock(START, START + YEAR_SECONDS)
    with Simulator(SimulatorOptions(**options), clock, ScriptedPrices((0, "50000"))) as simulator:
        harness = SimulatorHarness(simulator, clock)
        try:
            yield harness
        finally:
            harness.client.close()

"""A stress test: many signals, each of which must become one order, under faults of the network and the exchange."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Self

import pytest
import requests

from bot import broker_manager
from bot.base.clock import MarketClock, nonce_clock
from bot.base.errors import BotError, OrderBlockedError, OrderOutcomeUnknownError, OrderRefusedError, OrderRuleError
from bot.base.models import Side
from bot.broker_manager import KrakenBroker
from bot.kraken import http_connection, nonce_recovery
from bot.kraken.rate_counters import UNLIMITED
from bot.orders.reconciliation import Resolution
from bot.simulator.faults import FAULT_NAMES
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from bot.trading.order_tracker import FillFetcher, OrderTracker
from tests.acceptance.broker_tools import wait_for
from tests.simulator_parts import START, KrakenexClient

SPEED = 20.0
BOT_ID = "storm"
PAIRS = ("BTC/USD", "ETH/USD", "SOL/USD")
VOLUMES = {"BTC/USD": Decimal("0.0002"), "ETH/USD": Decimal("0.004"), "SOL/USD": Decimal("0.08")}
BALANCES = {"ZUSD": "5000000", "XXBT": "100", "XETH": "2000", "SOL": "40000"}
# A lockout would open the circuit breaker for the rest of the test; redirects have a test of their own.
EXCLUDED_FAULTS = frozenset({"gateway_lockout", "redirect_307"})

DEFAULT_TIMEOUTS = {
    name: getattr(http_connection, name)
    for name in ("CONNECT_TIMEOUT_SECONDS", "READ_TIMEOUT_SECONDS", "RESPONSE_TIMEOUT_SECONDS")
}


def fault_rates(fault_share: float) -> dict[str, float]:
    """Return fault rates that together affect about this share of all requests."""
    names = [name for name in FAULT_NAMES if name not in EXCLUDED_FAULTS]
    # Each slow response holds the request lock until the client times out.
    weights = {name: 0.2 if name in {"slow", "spurious_nonce", "foreign_nonce"} else 1.0 for name in names}
    total_weight = sum(weights.values())
    return {name: fault_share * weight / total_weight for name, weight in weights.items()} | {"partial_fill": 0.2}


def make_options(fault_share: float, seed: int, **overrides: object) -> SimulatorOptions:
    """Return the options of a Kraken with every fault."""
    values: dict[str, object] = {
        "pairs": PAIRS,
        "balances": BALANCES,
        "seed": seed,
        "fault_rates": fault_rates(fault_share),
        "slow_seconds": 0.6,
        "delay_seconds": 6.0,
        "queue_seconds": 6.0,
        "open_lag_seconds": 3.0,
        "closed_lag_seconds": 3.0,
    }
    return SimulatorOptions(**{**values, **overrides})  # type: ignore[arg-type]  # the keys are option names


def speed_up_timeouts(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Scale timeouts and the time of an open circuit breaker to the market speed; keep all state in a folder."""
    patch.setattr(broker_manager, "NONCE_FILE", str(folder / "kraken_nonce.txt"))
    for name, seconds in DEFAULT_TIMEOUTS.items():
        patch.setattr(http_connection, name, seconds / SPEED)
    patch.setattr(nonce_recovery, "EXTERNAL_SENDER_OPEN_SECONDS", 0.2)
    patch.setattr(nonce_recovery, "MAX_OPEN_SECONDS", 0.4)


def restore_timeouts(patch: pytest.MonkeyPatch) -> None:
    """Restore the timeouts: the faults are over, and a long history takes its time."""
    for name, seconds in DEFAULT_TIMEOUTS.items():
        patch.setattr(http_connection, name, seconds)


@dataclass
class StressResult:
    """The outcomes of the stress test, counted."""

    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    resolved_not_placed: int = 0
    not_sent: int = 0
    resolved_placed: int = 0
    canceled: int = 0
    waited_seconds: float = 0.0
    errors: list[str] = field(default_factory=list)


class OrderStressTest:
    """One run of a broker under faults. Each pair's signals are processed by a thread of its own."""

    def __init__(self, broker: KrakenBroker, seed: int) -> None:
        self.broker = broker
        self.result = StressResult()
        self._seed = seed
        self._lock = threading.Lock()
        self._resolutions: dict[str, Resolution] = {}
        self._finished = threading.Event()

    def run(self, signal_count: int, at_halfway: Callable[[], None] | None = None) -> None:
        """Process `signal_count` signals; call `at_halfway` when half of them are done."""
        reconcile_thread = threading.Thread(target=self._reconcile_loop)
        reconcile_thread.start()
        threads = [
            threading.Thread(target=self._run_signals, args=(pair, range(number, signal_count, len(PAIRS))))
            for number, pair in enumerate(PAIRS)
        ]
        for thread in threads:
            thread.start()
        if at_halfway is not None:
            wait_for(lambda: self.result.accepted >= signal_count // 2, 600.0)
            at_halfway()
        for thread in threads:
            thread.join()
        self._finished.set()
        reconcile_thread.join()

    def leave_orders_unanswered(self, simulator: Simulator) -> None:
        """Send an order of each pair that is not answered, executed or not, while no query is answered either."""
        for number, symbol in enumerate(PAIRS):
            simulator.faults.fire_next(("no_answer", "refuse_502", "delayed")[number], "AddOrder")
            with suppress(OrderOutcomeUnknownError):
                self._place(symbol, Side.BUY, Decimal("0.2"), self.broker.client_order_id(symbol, "storm", -1, "entry"))
        simulator.faults.fire_next("answer_502", "OpenOrders", 5)
        for _ in range(5):
            with suppress(BotError):
                self.broker.reconcile_unknown_orders()

    def finish(self) -> None:
        """Reconcile the remaining orders, and follow every order to its end. The faults are over."""
        order_tracker, fills = OrderTracker(self.broker), FillFetcher(self.broker)
        while self.broker.unknown_orders():
            self._record_resolutions(self.broker.reconcile_unknown_orders())
            wait_seconds = self.broker.next_query_seconds() or 0.0
            self.result.waited_seconds += wait_seconds
            self.broker._market_clock.wait(wait_seconds, threading.Event())
        order_tracker.rebuild()
        for order in order_tracker.open_orders():
            self.broker.cancel_order(order.txid, order.symbol)
        while any(order_tracker.working(symbol) for symbol in PAIRS):
            self.broker._market_clock.wait(1.0, threading.Event())
            order_tracker.refresh()
        fills.load_missing()
        while self.broker.journal.orders_with_missing_fills():
            fills.fetch_page()

    def _reconcile_loop(self) -> None:
        while not self._finished.is_set():
            try:
                self._record_resolutions(self.broker.reconcile_unknown_orders())
            except BotError:
                self._finished.wait(0.01)
            self._finished.wait(min((self.broker.next_query_seconds() or 1.0) / SPEED, 0.05))

    def _record_resolutions(self, resolutions: list[Resolution]) -> None:
        with self._lock:
            self._resolutions |= {resolution.unknown_order.cl_ord_id: resolution for resolution in resolutions}
            self.result.resolved_placed += sum(resolution.order is not None for resolution in resolutions)
            self.result.resolved_not_placed += sum(resolution.order is None for resolution in resolutions)

    def _run_signals(self, symbol: str, signals: range) -> None:
        rng = random.Random(f"{self._seed} {symbol}")
        for signal in signals:
            try:
                self._complete_signal(symbol, signal, rng)
            except BaseException as error:
                self.result.errors.append(f"{symbol} {signal}: {error!r}")
                raise

    def _complete_signal(self, symbol: str, signal: int, rng: random.Random) -> None:
        """Process one signal to its end: one order, or Kraken's final refusal."""
        side = rng.choice((Side.BUY, Side.SELL))
        # Immediate within the max slippage; resting near the price; resting far away.
        price_distance = rng.choice((None, Decimal("0.0005"), Decimal("0.2")))
        should_cancel = rng.random() < 0.3
        attempt = 0
        while True:
            cl_ord_id = self.broker.client_order_id(symbol, "storm", signal, "entry", attempt)
            try:
                txid = self._place(symbol, side, price_distance, cl_ord_id)
            except OrderOutcomeUnknownError:
                resolution = self._await_resolution(cl_ord_id)
                if resolution.order is None:
                    attempt += 1
                    continue
                txid = resolution.order.txid
            except (OrderRefusedError, OrderRuleError):
                self._count("refused")
                return
            except OrderBlockedError:
                # Another thread has not finished its reconciliation.
                self._pause()
                continue
            except BotError:
                # The broker reports that nothing was sent, so the same client order id is used again.
                self._count("not_sent")
                self._pause()
                continue
            self._count("accepted")
            if should_cancel and price_distance is not None:
                self._cancel(txid, symbol)
            return

    def _place(self, symbol: str, side: Side, price_distance: Decimal | None, cl_ord_id: str) -> str:
        volume = VOLUMES[symbol]
        if price_distance is None:
            return self.broker.place_market_order(symbol, side, volume, "base", cl_ord_id=cl_ord_id).txid
        price = self.broker.get_current_price(symbol)
        price *= 1 - price_distance if side is Side.BUY else 1 + price_distance
        price = price.quantize(Decimal(1).scaleb(-self.broker.pair(symbol).price_decimals))
        return self.broker.place_limit_order(symbol, side, volume, price, cl_ord_id=cl_ord_id, expire_seconds=60).txid

    def _await_resolution(self, cl_ord_id: str) -> Resolution:
        self._count("unknown")
        while True:
            with self._lock:
                if cl_ord_id in self._resolutions:
                    return self._resolutions[cl_ord_id]
            self._pause()

    def _cancel(self, txid: str, symbol: str) -> None:
        try:
            self.broker.cancel_order(txid, symbol)
        except BotError:
            return  # Kraken's order records have the outcome, whatever became of the cancel
        self._count("canceled")

    def _count(self, counter: str) -> None:
        with self._lock:
            setattr(self.result, counter, getattr(self.result, counter) + 1)

    def _pause(self) -> None:
        self._finished.wait(0.005)


class StressEnvironment:
    """A Kraken and a broker on it, with a market twenty times as fast as the wall clock."""

    def __init__(self, folder: Path, simulator_options: SimulatorOptions) -> None:
        self._clock = MarketClock(START, SPEED)
        self._options = replace(simulator_options, state_path=folder / "kraken.db")
        self.simulator = Simulator(self._options, self._clock).__enter__()
        port = int(self.simulator.url.rpartition(":")[2])
        self._options = replace(self._options, port=port)
        self.broker = KrakenBroker(
            self.simulator.key,
            self.simulator.secret,
            api_url=self.simulator.url,
            bot_id=BOT_ID,
            tier=UNLIMITED,
            market_clock=self._clock,
        )

    def restart_exchange(self) -> None:
        """Stop Kraken in the middle of its work, and start it again at the same address."""
        self.simulator.__exit__(None, None, None)
        self.simulator = Simulator(self._options, self._clock).__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.close()
        self.simulator.__exit__(None, None, None)
        nonce_clock.follow_wall()


def resend_orders(simulator: Simulator, orders: int) -> int:
    """Send orders with krakenex, and after a failure again with the same client order id and a new nonce.

    Return how many were placed more than once.
    """
    client = KrakenexClient(simulator, nonce=1)
    for number in range(orders):
        order = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "200000", "volume": "0.0002"}
        for _ in range(4):
            try:
                answer = client.private("AddOrder", **order, timeinforce="IOC", cl_ord_id=f"peers{number:013d}")
            except (requests.RequestException, ValueError):
                continue
            if not any("Service" in error or "Internal" in error or "nonce" in error for error in answer["error"]):
                break
    client.close()
    return sum(len(txids) > 1 for txids in simulator.orders_by_client_id().values())

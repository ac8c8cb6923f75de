"""A storm: many signals, each to become one order, while the network and the exchange do what they can against it."""

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
from bot.base.errors import BotError, OrderBlockedError, OrderRefusedError, OrderRuleError, OrderUnknownError
from bot.base.models import Side
from bot.broker_manager import KrakenBroker
from bot.kraken import nonce_recovery, transport
from bot.kraken.rate_counters import UNLIMITED
from bot.orders.reconciliation import Settled
from bot.simulator.faults import NAMES
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from bot.trading.fills import Fills
from bot.trading.order_tracker import OwnOrders
from tests.acceptance.broker_tools import wait_for
from tests.simulator_parts import START, Client

SPEED = 20.0
BOT_ID = "storm"
PAIRS = ("BTC/USD", "ETH/USD", "SOL/USD")
VOLUMES = {"BTC/USD": Decimal("0.0002"), "ETH/USD": Decimal("0.004"), "SOL/USD": Decimal("0.08")}
BALANCES = {"ZUSD": "5000000", "XXBT": "100", "XETH": "2000", "SOL": "40000"}
# Silent for a quarter of an hour after a lockout, the storm would be over; a redirect is a test of its own.
LEFT_OUT = frozenset({"gateway_lockout", "redirect_307"})

TIMEOUTS = {
    name: getattr(transport, name) for name in ("CONNECT_SECONDS_MAX", "READ_SECONDS_MAX", "ANSWER_SECONDS_MAX")
}


def rates(share: float) -> dict[str, float]:
    """Return the faults' rates; together they meet about that share of all requests."""
    names = [name for name in NAMES if name not in LEFT_OUT]
    # Each slow answer holds the key's turn until the client gives up.
    weights = {name: 0.2 if name in {"slow", "spurious_nonce", "foreign_nonce"} else 1.0 for name in names}
    whole = sum(weights.values())
    return {name: share * weight / whole for name, weight in weights.items()} | {"partial_fill": 0.2}


def options(share: float, seed: int, **more: object) -> SimulatorOptions:
    """Return a Kraken on which everything goes wrong that can."""
    given: dict[str, object] = {
        "pairs": PAIRS,
        "balances": BALANCES,
        "seed": seed,
        "fault_rates": rates(share),
        "slow_seconds": 0.6,
        "delay_seconds": 6.0,
        "queue_seconds": 6.0,
        "open_lag_seconds": 3.0,
        "closed_lag_seconds": 3.0,
    }
    return SimulatorOptions(**{**given, **more})  # type: ignore[arg-type]  # the test names the options


def prepare(folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Let time-outs, and the silence after refused nonces, run as fast as the market; keep all state in a folder."""
    patch.setattr(broker_manager, "NONCE_FILE", str(folder / "kraken_nonce.txt"))
    for name, seconds in TIMEOUTS.items():
        patch.setattr(transport, name, seconds / SPEED)
    patch.setattr(nonce_recovery, "FOREIGN_SILENCE_SECONDS", 0.2)
    patch.setattr(nonce_recovery, "SILENCE_SECONDS_MAX", 0.4)


def take_time(patch: pytest.MonkeyPatch) -> None:
    """Let time-outs be what they are: the faults are over, and a long history takes its time."""
    for name, seconds in TIMEOUTS.items():
        patch.setattr(transport, name, seconds)


@dataclass
class Outcome:
    """How the storm went, counted."""

    accepted: int = 0
    refused: int = 0
    unknown: int = 0
    not_placed: int = 0
    not_sent: int = 0
    found: int = 0
    cancelled: int = 0
    waited_seconds: float = 0.0
    wrong: list[str] = field(default_factory=list)


class Storm:
    """One life of a broker in the storm. Each pair's signals are worked off by a thread of its own."""

    def __init__(self, broker: KrakenBroker, seed: int) -> None:
        self.broker = broker
        self.outcome = Outcome()
        self._seed = seed
        self._lock = threading.Lock()
        self._fates: dict[str, Settled] = {}
        self._over = threading.Event()

    def blow(self, signals: int, halfway: Callable[[], None] | None = None) -> None:
        """Work off so many signals; do something when half of them are through."""
        settling = threading.Thread(target=self._settle_on)
        settling.start()
        threads = [
            threading.Thread(target=self._work, args=(pair, range(number, signals, len(PAIRS))))
            for number, pair in enumerate(PAIRS)
        ]
        for thread in threads:
            thread.start()
        if halfway is not None:
            wait_for(lambda: self.outcome.accepted >= signals // 2, 600.0)
            halfway()
        for thread in threads:
            thread.join()
        self._over.set()
        settling.join()

    def strike(self, simulator: Simulator) -> None:
        """Leave an order of each pair without an answer, executed or not, while no look-up is answered either."""
        for number, symbol in enumerate(PAIRS):
            simulator.faults.fire_next(("no_answer", "refuse_502", "delayed")[number], "AddOrder")
            with suppress(OrderUnknownError):
                self._place(symbol, Side.BUY, Decimal("0.2"), self.broker.client_order_id(symbol, "storm", -1, "entry"))
        simulator.faults.fire_next("answer_502", "OpenOrders", 5)
        for _ in range(5):
            with suppress(BotError):
                self.broker.settle_unknown()

    def calm(self) -> None:
        """Settle what is left, and follow every order to its end. The faults are over."""
        own, fills = OwnOrders(self.broker), Fills(self.broker)
        while self.broker.unknown_orders():
            self._take(self.broker.settle_unknown())
            wait_seconds = self.broker.next_look_up_seconds() or 0.0
            self.outcome.waited_seconds += wait_seconds
            self.broker._market.wait(wait_seconds, threading.Event())
        own.rebuild()
        for order in own.open_orders():
            self.broker.cancel_order(order.txid, order.symbol)
        while any(own.working(symbol) for symbol in PAIRS):
            self.broker._market.wait(1.0, threading.Event())
            own.refresh()
        fills.load()
        while self.broker.journal.without_fills():
            fills.fetch()

    def _settle_on(self) -> None:
        while not self._over.is_set():
            try:
                self._take(self.broker.settle_unknown())
            except BotError:
                self._over.wait(0.01)
            self._over.wait(min((self.broker.next_look_up_seconds() or 1.0) / SPEED, 0.05))

    def _take(self, fates: list[Settled]) -> None:
        with self._lock:
            self._fates |= {fate.unknown.cl_ord_id: fate for fate in fates}
            self.outcome.found += sum(fate.order is not None for fate in fates)
            self.outcome.not_placed += sum(fate.order is None for fate in fates)

    def _work(self, symbol: str, signals: range) -> None:
        dice = random.Random(f"{self._seed} {symbol}")
        for signal in signals:
            try:
                self._live(symbol, signal, dice)
            except BaseException as error:
                self.outcome.wrong.append(f"{symbol} {signal}: {error!r}")
                raise

    def _live(self, symbol: str, signal: int, dice: random.Random) -> None:
        """Bring one signal to its end: one order, or Kraken's final no."""
        side = dice.choice((Side.BUY, Side.SELL))
        # At once within the collar; resting near the price; resting far away.
        distance = dice.choice((None, Decimal("0.0005"), Decimal("0.2")))
        cancels = dice.random() < 0.3
        attempt = 0
        while True:
            name = self.broker.client_order_id(symbol, "storm", signal, "entry", attempt)
            try:
                txid = self._place(symbol, side, distance, name)
            except OrderUnknownError:
                fate = self._await_fate(name)
                if fate.order is None:
                    attempt += 1
                    continue
                txid = fate.order.txid
            except (OrderRefusedError, OrderRuleError):
                self._count("refused")
                return
            except OrderBlockedError:
                # Another thread's settlement is not through with it.
                self._pause()
                continue
            except BotError:
                # By the broker's word nothing was sent; so the same name goes again.
                self._count("not_sent")
                self._pause()
                continue
            self._count("accepted")
            if cancels and distance is not None:
                self._cancel(txid, symbol)
            return

    def _place(self, symbol: str, side: Side, distance: Decimal | None, name: str) -> str:
        volume = VOLUMES[symbol]
        if distance is None:
            return self.broker.place_market_order(symbol, side, volume, "base", cl_ord_id=name).txid
        price = self.broker.get_current_price(symbol)
        price *= 1 - distance if side is Side.BUY else 1 + distance
        price = price.quantize(Decimal(1).scaleb(-self.broker.pair(symbol).price_decimals))
        return self.broker.place_limit_order(symbol, side, volume, price, cl_ord_id=name, expire_seconds=60).txid

    def _await_fate(self, name: str) -> Settled:
        self._count("unknown")
        while True:
            with self._lock:
                if name in self._fates:
                    return self._fates[name]
            self._pause()

    def _cancel(self, txid: str, symbol: str) -> None:
        try:
            self.broker.cancel_order(txid, symbol)
        except BotError:
            return  # its fate is in Kraken's rows, whatever became of the cancel
        self._count("cancelled")

    def _count(self, what: str) -> None:
        with self._lock:
            setattr(self.outcome, what, getattr(self.outcome, what) + 1)

    def _pause(self) -> None:
        self._over.wait(0.005)


class Sky:
    """A Kraken and a broker on it, whose market runs twenty times as fast as the clock."""

    def __init__(self, folder: Path, made: SimulatorOptions) -> None:
        self._clock = MarketClock(START, SPEED)
        self._options = replace(made, state_path=folder / "kraken.db")
        self.simulator = Simulator(self._options, self._clock).__enter__()
        port = int(self.simulator.url.rpartition(":")[2])
        self._options = replace(self._options, port=port)
        self.broker = KrakenBroker(
            self.simulator.key,
            self.simulator.secret,
            api_url=self.simulator.url,
            bot_id=BOT_ID,
            tier=UNLIMITED,
            market=self._clock,
        )

    def restart_exchange(self) -> None:
        """Let Kraken end in the middle of whatever it does, and come again at the same address."""
        self.simulator.__exit__(None, None, None)
        self.simulator = Simulator(self._options, self._clock).__enter__()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.broker.close()
        self.simulator.__exit__(None, None, None)
        nonce_clock.follow_wall()


def resend_storm(simulator: Simulator, orders: int) -> int:
    """Send orders as the peers do, with krakenex: what was not answered well goes again, under its name, with a fresh
    nonce. Return how many were placed more than once."""
    client = Client(simulator, nonce=1)
    for number in range(orders):
        order = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "200000", "volume": "0.0002"}
        for _ in range(4):
            try:
                answer = client.private("AddOrder", **order, timeinforce="IOC", cl_ord_id=f"peers{number:013d}")
            except (requests.RequestException, ValueError):
                continue
            if not any("Service" in each or "Internal" in each or "nonce" in each for each in answer["error"]):
                break
    client.close()
    return sum(len(txids) > 1 for txids in simulator.orders_by_client_id().values())

"""An in-memory broker and clocks that never wait, for tests of the trader."""

from __future__ import annotations

import shutil
import tempfile
import threading
import weakref
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal

from bot.base.clock import MarketClock
from bot.base.errors import OrderOutcomeUnknownError
from bot.base.models import (
    ZERO,
    Balance,
    Candle,
    Fill,
    Order,
    OrderRequest,
    OrderStatus,
    Pair,
    PlacedOrder,
    Side,
    SystemStatus,
)
from bot.base.timeframes import parse_timeframe
from bot.orders.journal import Journal
from bot.orders.reconciliation import Resolution, UnknownOrder
from bot.trading.risk import Controls, RiskLimits
from bot.trading.strategies.base import Strategy, StrategyContext
from bot.trading.trader import Summary, Trader, TraderSettings
from tests.event_log import EventLog, capture_events

BOT_ID = "bot01"


def make_pair(symbol: str = "BTC/USD") -> Pair:
    """Return a pair with a tick of 0.1, eight decimals of volume, and minima of 0.01 coins and 0.5 in money."""
    base, quote = symbol.split("/")
    return Pair(
        symbol=symbol,
        pair_id=base + quote,
        altname=base + quote,
        wsname=symbol,
        base=base,
        quote=quote,
        base_id=base,
        quote_id=quote,
        price_decimals=1,
        lot_decimals=8,
        cost_decimals=5,
        tick_size=Decimal("0.1"),
        order_minimum=Decimal("0.01"),
        cost_minimum=Decimal("0.5"),
    )


def make_candles(closes: list[int], timeframe_seconds: int = 60, start_seconds: int = 0) -> list[Candle]:
    """Return candles that open at the previous close and have no wicks."""
    opens = [*closes[:1], *closes]
    return [
        Candle(
            start_seconds + index * timeframe_seconds,
            Decimal(opens[index]),
            Decimal(max(opens[index], close)),
            Decimal(min(opens[index], close)),
            Decimal(close),
            Decimal(1),
        )
        for index, close in enumerate(closes)
    ]


def make_order(txid: str, side: Side, executed: str = "0", cost: str = "0", fee: str = "0", **fields: object) -> Order:
    """Return the record of a closed BTC/USD order of this bot; `fields` override."""
    order = Order(
        txid=txid,
        cl_ord_id=BOT_ID + txid,
        symbol="BTC/USD",
        side=side,
        kind="limit",
        status=OrderStatus.CLOSED,
        price=ZERO,
        volume=Decimal(executed),
        executed=Decimal(executed),
        cost=Decimal(cost),
        fee=Decimal(fee),
        average_price=Decimal(cost) / Decimal(executed) if Decimal(executed) else ZERO,
        opened_seconds=0.0,
        closed_seconds=0.0,
        expires_seconds=0.0,
        reason="",
    )
    return replace(order, **fields)  # type: ignore[arg-type]  # the test names the fields


class SteppedClock(MarketClock):
    """A market at current prices whose waits take no time."""

    def __init__(self, start_seconds: float) -> None:
        super().__init__()
        self.time_seconds = start_seconds

    def now(self) -> float:
        """Return the time that was set."""
        return self.time_seconds

    def wait_until(self, when_seconds: float, stop: threading.Event) -> bool:
        """Advance to the time at once."""
        self.time_seconds = max(self.time_seconds, when_seconds)
        return stop.is_set()


class InstantEvent(threading.Event):
    """An event that records its waits and returns from them at once."""

    def __init__(self) -> None:
        super().__init__()
        self.waits_seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        """Record the time-out and return at once."""
        self.waits_seconds.append(timeout or 0.0)
        return self.is_set()


class ScriptedStrategy:
    """A strategy that requests what the test defines for each candle, given the context."""

    name = "script"

    def __init__(self, decisions: dict[int, Callable[[StrategyContext], list[OrderRequest]]]) -> None:
        self._decisions = decisions

    def decide(self, context: StrategyContext) -> list[OrderRequest]:
        """Return the requests for the last candle."""
        decision = self._decisions.get(context.candles[-1].time_seconds)
        return decision(context) if decision else []


def buy(quantity: str) -> Callable[[StrategyContext], list[OrderRequest]]:
    """Request an entry at the last close, unless there is a position or an open entry."""

    def decide(context: StrategyContext) -> list[OrderRequest]:
        if context.position_quantity or context.has_open_entry:
            return []
        last_candle, symbol = context.candles[-1], context.pair.symbol
        return [
            OrderRequest(
                symbol, Side.BUY, Decimal(quantity), last_candle.close, "entry", last_candle.time_seconds, "the test"
            )
        ]

    return decide


def observe_context(observe: Callable[[StrategyContext], object]) -> Callable[[StrategyContext], list[OrderRequest]]:
    """Request nothing, but pass the context to the test."""

    def decide(context: StrategyContext) -> list[OrderRequest]:
        observe(context)
        return []

    return decide


def sell_all(context: StrategyContext) -> list[OrderRequest]:
    """Request an exit from the whole position."""
    if not context.position_quantity:
        return []
    seconds, symbol = context.candles[-1].time_seconds, context.pair.symbol
    return [OrderRequest(symbol, Side.SELL, context.position_quantity, None, "exit", seconds, "the test")]


def _clean_up(journal: Journal, folder: str) -> None:
    journal.close()
    shutil.rmtree(folder)


class FakeBroker:
    """The broker's methods over a list of candles. A market order fills at the last close; a limit order fills at once
    if `fills_limits` is set. `fail` makes the next call of a method raise; `calls` lists every request that a real
    broker would send."""

    def __init__(self, clock: MarketClock, candles: dict[str, list[Candle]], usd: str = "1000") -> None:
        self._clock = clock
        self._candles = candles
        self.totals = {"USD": Decimal(usd)}
        self.externally_held: dict[str, Decimal] = {}
        self.orders: dict[str, Order] = {}
        self.fills_limits = True
        self.fee_rate = ZERO
        self.unknown: list[UnknownOrder] = []
        self.resolutions: list[Resolution] = []
        self.refused_nonces = 0
        self.bot_id = BOT_ID
        self.history_complete_at_seconds = 0.0
        folder = tempfile.mkdtemp()
        self.journal = Journal(f"{folder}/journal.sqlite")
        weakref.finalize(self, _clean_up, self.journal, folder)
        self.status = "online"
        self.pair_statuses: dict[str, str] = {}
        self.calls: list[str] = []
        self.sent_ids: list[str] = []
        self.expire_seconds: list[int | None] = []
        self._failures: dict[str, list[BaseException]] = {}

    def fail(self, verb: str, *errors: BaseException) -> None:
        """Let the next calls of a method raise these errors, one per call."""
        self._failures.setdefault(verb, []).extend(errors)

    def placed(self) -> list[tuple[str, str, str]]:
        """Return side, volume and price of every accepted order, in order."""
        return [(order.side.value, f"{order.volume:f}", f"{order.price:f}") for order in self.orders.values()]

    def _call(self, verb: str) -> None:
        self.calls.append(verb)
        if self._failures.get(verb):
            raise self._failures[verb].pop(0)

    def now(self) -> float:
        return self._clock.now()

    def has_room(self, points: float) -> bool:
        return True

    def pair(self, symbol: str) -> Pair:
        return make_pair({"XBTUSD": "BTC/USD"}.get(symbol, symbol))

    def system_status(self) -> SystemStatus:
        self._call("system_status")
        return SystemStatus(self.status, self.now())

    def pair_status(self, symbol: str) -> str:
        self._call("pair_status")
        return self.pair_statuses.get(symbol, "online")

    def get_candles(self, symbol: str, timeframe: str, count: int) -> list[Candle]:
        self._call("get_candles")
        return self._closed(symbol, parse_timeframe(timeframe))[-count:]

    def _closed(self, symbol: str, timeframe_seconds: int = 60) -> list[Candle]:
        return [candle for candle in self._candles[symbol] if candle.time_seconds + timeframe_seconds <= self.now()]

    def get_current_price(self, symbol: str) -> Decimal:
        self._call("get_current_price")
        return self._closed(symbol)[-1].close

    def get_best_bid(self, symbol: str) -> Decimal:
        self._call("get_best_bid")
        return self._closed(symbol)[-1].close - 5

    def get_account_balance(self) -> dict[str, Balance]:
        self._call("get_account_balance")
        return {name: Balance(name, total, self._held_quantity(name)) for name, total in self.totals.items()}

    def _held_quantity(self, asset: str) -> Decimal:
        sells = [order for order in self.orders.values() if order.is_open and order.side is Side.SELL]
        own_quantities = [order.volume - order.executed for order in sells if order.symbol.split("/")[0] == asset]
        return self.externally_held.get(asset, ZERO) + sum(own_quantities, ZERO)

    def get_open_orders(self) -> list[Order]:
        self._call("get_open_orders")
        return [order for order in self.orders.values() if order.status is OrderStatus.OPEN]

    def get_closed_orders(self, since_seconds: float = 0) -> list[Order]:
        self._call("get_closed_orders")
        closed_orders = [order for order in self.orders.values() if order.status is not OrderStatus.OPEN]
        return [order for order in reversed(closed_orders) if order.closed_seconds >= since_seconds]

    def query_order(self, txid: str) -> Order | None:
        self._call("query_order")
        return self.orders.get(txid)

    def get_trades_page(self, since_seconds: float, offset: int) -> tuple[list[Fill], int]:
        self._call("get_trades_page")
        return [], 0

    def history_is_complete(self) -> bool:
        return self.now() >= self.history_complete_at_seconds

    def history_wait_seconds(self) -> float:
        return max(0.0, self.history_complete_at_seconds - self.now())

    def check_leadership(self) -> None: ...

    def next_query_seconds(self) -> float | None:
        return None if self.history_is_complete() else self.history_complete_at_seconds - self.now()

    def is_own_order(self, order: Order) -> bool:
        return order.cl_ord_id.startswith(BOT_ID)

    def client_order_id(self, symbol: str, strategy: str, candle_seconds: int, kind: str, attempt: int = 0) -> str:
        return f"{BOT_ID}|{symbol}|{strategy}|{candle_seconds}|{kind}|{attempt}"

    def place_limit_order(
        self,
        symbol: str,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        *,
        cl_ord_id: str = "",
        expire_seconds: int | None = None,
    ) -> PlacedOrder:
        self.expire_seconds.append(expire_seconds)
        return self._place(symbol, side, quantity, price, cl_ord_id, fills=self.fills_limits)

    def place_market_order(
        self, symbol: str, side: Side, quantity: Decimal, size_type: str, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        assert size_type == "base"
        return self._place(symbol, side, quantity, self._closed(symbol)[-1].close, cl_ord_id, fills=True)

    def place_stop_order(
        self, symbol: str, side: Side, quantity: Decimal, stop_price: Decimal, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        return self._place(symbol, side, quantity, stop_price, cl_ord_id, fills=False, kind="stop-loss")

    def _place(
        self,
        symbol: str,
        side: Side,
        quantity: Decimal,
        price: Decimal,
        cl_ord_id: str,
        *,
        fills: bool,
        kind: str = "limit",
    ) -> PlacedOrder:
        self.sent_ids.append(cl_ord_id)
        try:
            self._call(f"place_{side}")
        except OrderOutcomeUnknownError:
            self.unknown.append(UnknownOrder(cl_ord_id, symbol, side, quantity, price, self.now(), self.now() + 8))
            raise
        txid = f"O{len(self.orders) + 1}"
        order = make_order(txid, side, cl_ord_id=cl_ord_id, symbol=symbol, volume=quantity, price=price, kind=kind)
        self.orders[txid] = replace(order, status=OrderStatus.OPEN, opened_seconds=self.now())
        if fills:
            self.execute(txid, quantity)
        return PlacedOrder(txid, cl_ord_id, symbol, side, quantity, price)

    def execute(self, txid: str, quantity: Decimal) -> None:
        """Let an order fill at its price; a full fill closes it."""
        order = self.orders[txid]
        cost, executed = quantity * order.price, order.executed + quantity
        is_filled = executed == order.volume
        self.orders[txid] = replace(
            order,
            executed=executed,
            cost=order.cost + cost,
            fee=order.fee + cost * self.fee_rate,
            average_price=order.price,
            status=OrderStatus.CLOSED if is_filled else OrderStatus.OPEN,
            closed_seconds=self.now() if is_filled else 0.0,
        )
        base, quote = order.symbol.split("/")
        sign = 1 if order.side is Side.BUY else -1
        self.totals[base] = self.totals.get(base, ZERO) + sign * quantity
        self.totals[quote] -= sign * cost + cost * self.fee_rate

    def cancel_order(self, txid: str, symbol: str | None = None) -> bool:
        order = self.orders.get(txid)
        assert order is None or symbol == order.symbol
        self._call("cancel_order")
        if order is None or order.status is not OrderStatus.OPEN:
            return False
        self.orders[txid] = replace(order, status=OrderStatus.CANCELED, closed_seconds=self.now())
        return True

    def arm_dead_man_switch(self, timeout_seconds: int) -> None:
        self._call(f"switch {timeout_seconds}")

    def unknown_orders(self) -> list[UnknownOrder]:
        return list(self.unknown)

    def reconcile_unknown_orders(self) -> list[Resolution]:
        if self.unknown or not self.history_is_complete():
            self._call("reconcile_unknown_orders")
        resolutions, self.resolutions = self.resolutions, []
        self.unknown = [
            unknown
            for unknown in self.unknown
            if unknown not in [resolution.unknown_order for resolution in resolutions]
        ]
        return resolutions


WIDE_LIMITS = RiskLimits(Decimal(1000), Decimal(1000), Decimal(1000), cooldown_seconds=0.0)
DEFAULT_SETTINGS = TraderSettings(("BTC/USD",), "1m", order_value=Decimal(100), limits=WIDE_LIMITS)


def stop_during_reconciliation(broker: FakeBroker) -> InstantEvent:
    """Return a stop that is set by the first check of the history, which is not complete before second 377."""
    broker.history_complete_at_seconds = 377.0
    stop = InstantEvent()
    history_is_complete = broker.history_is_complete

    def stop_and_check() -> bool:
        stop.set()
        return history_is_complete()

    broker.history_is_complete = stop_and_check  # type: ignore[method-assign]
    return stop


def run_trader(
    broker: FakeBroker,
    clock: MarketClock,
    strategy: Strategy,
    *,
    stop: threading.Event | None = None,
    is_halted: Callable[[], bool] = lambda: False,
    entries_paused: Callable[[], bool] = lambda: False,
    check_state: Callable[[], None] = lambda: None,
    is_watching: bool = False,
    **settings: object,
) -> tuple[Summary, EventLog]:
    """Run a trader of BTC/USD at one minute to its end; return the summary and the emitted events."""
    trader = Trader(
        broker,
        strategy,
        replace(DEFAULT_SETTINGS, **settings),  # type: ignore[arg-type]  # the test names the settings
        clock=clock,
        stop=stop or InstantEvent(),
        controls=Controls(is_halted, entries_paused, check_state, is_watching),
    )
    with capture_events() as event_log:
        return trader.run(), event_log

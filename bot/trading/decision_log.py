"""The decision log: one line for each event, without repetitions."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal

from bot.base.clock import MarketClock, format_utc
from bot.base.models import Order, OrderRequest, PlacedOrder
from bot.orders.order_state import state_from_order
from bot.trading.broker import Broker
from bot.trading.order_tracker import FillDelta, OrderTracker
from bot.trading.risk import Refusal

MAX_REFUSALS = 20


class DecisionLog:
    """Writes lines for a person: the market's time, the pair, the price, the decision and its reason.

    During a fast replay it leaves out decisions without an order and refusals by the same rule as before; its lines are
    marked "replay".
    """

    def __init__(self, print_line: Callable[[str], None], clock: MarketClock, now: Callable[[], float]) -> None:
        self._print_line = print_line
        self._clock = clock
        self._now = now
        self._last_keys: dict[str, str] = {}
        # With the market's time of each, the newest last.
        self.refusals: deque[tuple[float, Refusal]] = deque(maxlen=MAX_REFUSALS)

    def record(self, text: str) -> None:
        """Write one line under the market's time."""
        replay_marker = " replay" if self._clock.is_replaying else ""
        self._print_line(f"{format_utc(self._now())}{replay_marker}  {text}")

    def record_once(self, topic: str, key: str, text: str) -> bool:
        """Write a line, unless the last one about the topic had the same key; return whether it was written."""
        if self._last_keys.get(topic) == key:
            return False
        self._last_keys[topic] = key
        self.record(text)
        return True

    def record_resolved(self, topic: str, text: str) -> None:
        """End a topic: write the line only if something had been written about it."""
        if self._last_keys.pop(topic, None) is not None:
            self.record(text)

    def record_hold(self, symbol: str, price: Decimal) -> None:
        """Record a decision to do nothing."""
        self._last_keys.pop(f"refusal {symbol}", None)
        if not self._clock.is_replaying:
            self.record(f"{symbol} {price}  nothing to do: no signal")

    def record_refusal(self, price: Decimal, refusal: Refusal) -> None:
        """Record an order that risk did not allow: once for each candle, in a replay once for each rule."""
        order = refusal.order
        candle_key = "" if self._clock.is_replaying else f" {order.candle_seconds}"
        text = f"{order.symbol} {price}  {order.kind} refused ({refusal.rule}): {refusal.reason}"
        if self.record_once(f"refusal {order.symbol}", f"{order.kind} {refusal.rule}{candle_key}", text):
            self.refusals.append((self._now(), refusal))

    def record_not_placed(self, order: OrderRequest, text: str) -> None:
        """Record an allowed order that was not placed."""
        self.record(f"{order.symbol}  {order.kind} {order.side} {order.quantity:f}: {text}")

    def record_placed(self, price: Decimal, order: OrderRequest, placed: PlacedOrder) -> None:
        """Record an order that Kraken accepted, which is not yet a fill."""
        self._last_keys.pop(f"refusal {order.symbol}", None)
        price_label = "at" if order.price is not None else "no worse than"
        self.record(
            f"{order.symbol} {price}  {order.kind}: {placed.side} {placed.volume:f} {price_label} {placed.price:f}"
            f" accepted as {placed.txid}, because {order.reason}"
        )

    def record_fill(self, fill: FillDelta, quote: str) -> None:
        """Record a fill of an order."""
        order = fill.order
        price = (fill.cost / fill.quantity).quantize(order.price)
        self.record(
            f"{order.symbol} {price:f}  filled: {order.side} {fill.quantity:f} for {fill.cost:.2f}"
            f" {quote}, fee {fill.fee:.2f} ({order.txid})"
        )

    def record_ended(self, order: Order, quote: str, circumstance: str = "") -> None:
        """Record an order that has ended, and everything that it executed."""
        traded = f"{order.side} {order.executed:f} of {order.volume:f}"
        if order.executed:
            traded += f" for {order.cost:.2f} {quote}, fee {order.fee:.2f}"
        price = order.average_price if order.executed else order.price
        price = price.quantize(order.price)
        self.record(f"{order.symbol} {price:f}  {state_from_order(order)}{circumstance}: {traded} ({order.txid})")

    def record_open_order(self, description: str, order: Order) -> None:
        """Record an order that was found open."""
        remaining = order.volume - order.executed
        self.record(f"{order.symbol}  {description}: {order.side} {remaining:f} at {order.price:f} ({order.txid})")


STATUS_LINE_SECONDS = 60.0


class StatusLine:
    """Writes a status line at most once a minute of real time, and never in a replay."""

    def __init__(
        self, broker: Broker, clock: MarketClock, decision_log: DecisionLog, order_tracker: OrderTracker
    ) -> None:
        self._broker = broker
        self._clock = clock
        self._decision_log = decision_log
        self._order_tracker = order_tracker
        self._last_seconds = broker.now()

    def record_if_due(self, symbols: tuple[str, ...]) -> None:
        """Write the line, if it is due."""
        now = self._broker.now()
        if self._clock.is_replaying or now - self._last_seconds < STATUS_LINE_SECONDS * self._clock.speed:
            return
        self._last_seconds = now
        book = self._order_tracker.book
        pairs = [
            f"{symbol} {self._broker.get_current_price(symbol)}, holding {book.holding(symbol).quantity:f}"
            for symbol in symbols
        ]
        self._decision_log.record(
            f"watching: {'; '.join(pairs)}; open orders: {len(self._order_tracker.open_orders())}"
        )

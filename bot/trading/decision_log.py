"""What the trader says: one line an event, and nothing twice."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from decimal import Decimal

from bot.base.clock import MarketClock, utc
from bot.base.models import Order, PlacedOrder, WantedOrder
from bot.orders.order_state import state_of
from bot.trading.broker import Broker
from bot.trading.order_tracker import NewFill, OwnOrders
from bot.trading.risk import Refusal

REFUSALS_KEPT = 20


class Narrator:
    """Writes lines for a person: the market's time, the pair, the price, what was decided and why.

    While a replay runs fast it leaves out decisions that order nothing and refusals by the same
    rule as before; its lines are marked "replay".
    """

    def __init__(self, report: Callable[[str], None], clock: MarketClock, now: Callable[[], float]) -> None:
        self._report = report
        self._clock = clock
        self._now = now
        self._said: dict[str, str] = {}
        # With the market's time of each, the newest last.
        self.refusals: deque[tuple[float, Refusal]] = deque(maxlen=REFUSALS_KEPT)

    def say(self, text: str) -> None:
        """Write one line under the market's time."""
        mark = " replay" if self._clock.replaying else ""
        self._report(f"{utc(self._now())}{mark}  {text}")

    def once(self, topic: str, key: str, text: str) -> bool:
        """Write a line, unless the last one about the topic had the same key; return whether it was written."""
        if self._said.get(topic) == key:
            return False
        self._said[topic] = key
        self.say(text)
        return True

    def over(self, topic: str, text: str) -> None:
        """End a topic: write the line only if something had been written about it."""
        if self._said.pop(topic, None) is not None:
            self.say(text)

    def hold(self, symbol: str, price: Decimal) -> None:
        """Tell of a decision to do nothing."""
        self._said.pop(f"refusal {symbol}", None)
        if not self._clock.replaying:
            self.say(f"{symbol} {price}  nothing to do: no signal")

    def refusal(self, price: Decimal, refusal: Refusal) -> None:
        """Tell of an order that risk did not allow: once for each candle, in a replay once for each rule."""
        order = refusal.order
        candle = "" if self._clock.replaying else f" {order.candle_seconds}"
        text = f"{order.symbol} {price}  {order.kind} refused ({refusal.rule}): {refusal.reason}"
        if self.once(f"refusal {order.symbol}", f"{order.kind} {refusal.rule}{candle}", text):
            self.refusals.append((self._now(), refusal))

    def not_placed(self, order: WantedOrder, text: str) -> None:
        """Tell of an allowed order that did not become one."""
        self.say(f"{order.symbol}  {order.kind} {order.side} {order.quantity:f}: {text}")

    def placed(self, price: Decimal, order: WantedOrder, placed: PlacedOrder) -> None:
        """Tell of an order that Kraken accepted, which is not yet a fill."""
        self._said.pop(f"refusal {order.symbol}", None)
        worst = "at" if order.price is not None else "no worse than"
        self.say(
            f"{order.symbol} {price}  {order.kind}: {placed.side} {placed.volume:f} {worst} {placed.price:f} accepted"
            f" as {placed.txid}, because {order.reason}"
        )

    def fill(self, fill: NewFill, quote: str) -> None:
        """Tell of what an order executed."""
        order = fill.order
        price = (fill.cost / fill.quantity).quantize(order.price)
        self.say(
            f"{order.symbol} {price:f}  filled: {order.side} {fill.quantity:f} for {fill.cost:.2f}"
            f" {quote}, fee {fill.fee:.2f} ({order.txid})"
        )

    def ended(self, order: Order, quote: str, when: str = "") -> None:
        """Tell of an order that is over, and of all that it executed."""
        traded = f"{order.side} {order.executed:f} of {order.volume:f}"
        if order.executed:
            traded += f" for {order.cost:.2f} {quote}, fee {order.fee:.2f}"
        price = order.average_price if order.executed else order.price
        price = price.quantize(order.price)
        self.say(f"{order.symbol} {price:f}  {state_of(order)}{when}: {traded} ({order.txid})")

    def open_order(self, what: str, order: Order) -> None:
        """Tell of an order that was found open."""
        left = order.volume - order.executed
        self.say(f"{order.symbol}  {what}: {order.side} {left:f} at {order.price:f} ({order.txid})")


HEARTBEAT_SECONDS = 60.0


class Heartbeat:
    """Says it at most once in a minute of real time, and never in a replay."""

    def __init__(self, broker: Broker, clock: MarketClock, narrator: Narrator, own: OwnOrders) -> None:
        self._broker = broker
        self._clock = clock
        self._narrator = narrator
        self._own = own
        self._last_seconds = broker.now()

    def beat(self, symbols: tuple[str, ...]) -> None:
        """Say it, if it is time."""
        now = self._broker.now()
        if self._clock.replaying or now - self._last_seconds < HEARTBEAT_SECONDS * self._clock.speed:
            return
        self._last_seconds = now
        pairs = [
            f"{symbol} {self._broker.get_current_price(symbol)}, holding {self._own.book.holding(symbol).quantity:f}"
            for symbol in symbols
        ]
        self._narrator.say(f"watching: {'; '.join(pairs)}; open orders: {len(self._own.open_orders())}")

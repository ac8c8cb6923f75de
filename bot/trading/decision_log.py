"""The decision log: the events of the trader, with the market's time and without repetitions."""

from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import Any

from bot.base.clock import MarketClock, format_utc
from bot.base.errors import SymbolError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.models import Order, OrderRequest, OrderStatus, PlacedOrder
from bot.trading.broker import Broker
from bot.trading.order_tracker import FillDelta, OrderTracker
from bot.trading.risk import Refusal

MAX_REFUSALS = 20
STATUS_INTERVAL_SECONDS = 60.0


class DecisionLog:
    """Records decisions with their reasons, and what happens to orders.

    During a fast replay it leaves out decisions without an order and refusals by the same rule as before; its events
    are marked as a replay.
    """

    def __init__(self, broker: Broker, clock: MarketClock) -> None:
        self._broker = broker
        self._clock = clock
        self._last_keys: dict[str, str] = {}
        self._status_seconds = broker.now()
        # With the market's time of each, the newest last.
        self.refusals: deque[tuple[float, Refusal]] = deque(maxlen=MAX_REFUSALS)

    def record(self, event: Event, /, **fields: Any) -> None:
        """Emit an event with the market's time."""
        if self._clock.is_replaying:
            fields["replay"] = True
        emit(event, **fields, market_time=format_utc(self._broker.now()))

    def record_once(self, topic: str, key: str, event: Event, /, **fields: Any) -> bool:
        """Record an event, unless the last one of the topic had the same key; return whether it was recorded."""
        if not self.is_new(topic, key):
            return False
        self.record(event, **fields)
        return True

    def is_new(self, topic: str, key: str) -> bool:
        """Tell whether the topic had another key, or none; it has this one from now on."""
        is_new = self._last_keys.get(topic) != key
        self._last_keys[topic] = key
        return is_new

    def record_resolved(self, topic: str, event: Event, /, **fields: Any) -> None:
        """Close a topic; record the event only if the topic had one."""
        if self._last_keys.pop(topic, None) is not None:
            self.record(event, **fields)

    def forget(self, topic: str) -> None:
        """Close a topic without an event: the next event of the topic is recorded again."""
        self._last_keys.pop(topic, None)

    def record_hold(self, symbol: str, close: Decimal) -> None:
        """Record a decision to do nothing."""
        self._last_keys.pop(f"refusal {symbol}", None)
        if not self._clock.is_replaying:
            self.record(Event.HOLD_DECIDED, symbol=symbol, close=close)

    def record_refusal(self, close: Decimal, refusal: Refusal) -> None:
        """Record an order that risk refused: once for each candle, in a replay once for each rule."""
        order = refusal.order
        candle_key = "" if self._clock.is_replaying else f" {order.candle_seconds}"
        if self.record_once(
            f"refusal {order.symbol}",
            f"{order.kind} {refusal.rule}{candle_key}",
            Event.STOP_REFUSED_BY_RISK if order.kind == "stop" else Event.ORDER_REFUSED_BY_RISK,
            close=close,
            rule=refusal.rule,
            reason=refusal.reason,
            **_request_fields(order),
        ):
            self.refusals.append((self._broker.now(), refusal))

    def record_not_placed(
        self,
        event: Event,
        order: OrderRequest,
        cl_ord_id: str,
        error: Exception | None = None,
        advice: str | None = None,
    ) -> None:
        """Record an allowed order that was not placed, or whose outcome is unknown."""
        advice_fields = {"advice": advice} if advice else {}
        self.record(event, cl_ord_id=cl_ord_id, **_request_fields(order), **_error_fields(error), **advice_fields)

    def record_placed(self, close: Decimal, order: OrderRequest, placed: PlacedOrder) -> None:
        """Record an order that Kraken accepted, which is not yet a fill."""
        self._last_keys.pop(f"refusal {order.symbol}", None)
        self.record(
            Event.ORDER_PLACED,
            close=close,
            kind=order.kind,
            volume=placed.volume,
            reason=order.reason,
            **_order_fields(placed),
            **{"worst_price" if order.price is None else "price": placed.price},
        )

    def record_fill(self, fill: FillDelta) -> None:
        """Record a fill of an order."""
        order = fill.order
        self.record(
            Event.ORDER_FILLED,
            price=order.bounded_average(fill.cost / fill.quantity).quantize(order.price),
            volume=fill.quantity,
            cost=fill.cost,
            quote=self._quote(order.symbol),
            fee=fill.fee,
            **_order_fields(order),
        )

    def record_ended(self, order: Order, circumstance: str | None = None) -> None:
        """Record an order that has ended, and everything that it executed."""
        price = order.bounded_average(order.average_price) if order.executed else order.price
        self.record(
            Event.ORDER_ENDED,
            price=price.quantize(order.price),
            state="filled" if order.status is OrderStatus.CLOSED else order.status,
            circumstance=circumstance,
            executed=order.executed,
            volume=order.volume,
            cost=order.cost if order.executed else None,
            quote=self._quote(order.symbol),
            fee=order.fee if order.executed else None,
            **_order_fields(order),
        )

    def record_open_order(self, event: Event, order: Order | PlacedOrder, error: Exception | None = None) -> None:
        """Record an event of an open order, with the volume that is not executed yet."""
        self.record(
            event,
            volume=order.volume - order.executed if isinstance(order, Order) else order.volume,
            price=order.price,
            **_order_fields(order),
            **_error_fields(error),
        )

    def _quote(self, symbol: str) -> str:
        try:
            return self._broker.pair(symbol).quote
        except SymbolError:  # history outlives its pairs: Kraken may have delisted this one
            return symbol.partition("/")[2] or "of its quote currency"

    def record_status_if_due(self, symbols: tuple[str, ...], order_tracker: OrderTracker) -> None:
        """Record the status at most once a minute of real time, and never in a replay."""
        now = self._broker.now()
        if self._clock.is_replaying or now - self._status_seconds < STATUS_INTERVAL_SECONDS * self._clock.speed:
            return
        self._status_seconds = now
        self.record(
            Event.STATUS_REPORTED,
            prices={symbol: self._broker.get_current_price(symbol) for symbol in symbols},
            holdings={symbol: order_tracker.book.holding(symbol).quantity for symbol in symbols},
            open_orders=len(order_tracker.open_orders()),
        )


def _order_fields(order: Order | PlacedOrder) -> dict[str, object]:
    return {"symbol": order.symbol, "side": order.side, "txid": order.txid, "cl_ord_id": order.cl_ord_id}


def _request_fields(order: OrderRequest) -> dict[str, object]:
    return {
        "symbol": order.symbol,
        "kind": order.kind,
        "side": order.side,
        "volume": order.quantity,
        "price": order.price,
    }


def _error_fields(error: Exception | None) -> dict[str, object]:
    return {"error": error} if error else {}

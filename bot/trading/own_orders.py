"""The bot's own orders, as Kraken's rows tell of them. Nothing here is kept in a file."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bot.models import ZERO, Order, OrderStatus, PlacedOrder, Side
from bot.position import EMPTY_BOOK, Book, fold
from bot.settling import DEADLINE_SECONDS, GAP_SECONDS, MARGIN_SECONDS
from bot.trading.broker import Broker

# Rows are asked for from a little earlier than the order, because its time is Kraken's and ours may differ.
LOOK_BACK_SECONDS = 60.0
# An order that an earlier life sent just before its end may arrive so late: its deadline, and the lag of Kraken's rows.
LATE_SECONDS = DEADLINE_SECONDS + MARGIN_SECONDS + GAP_SECONDS
_WORKING = (OrderStatus.PENDING, OrderStatus.OPEN)


@dataclass(frozen=True, slots=True)
class NewFill:
    """What an order executed since its row was last seen."""

    order: Order
    quantity: Decimal
    cost: Decimal
    fee: Decimal


@dataclass(frozen=True, slots=True)
class _Awaited:
    """An order that was accepted and whose final row has not been seen."""

    symbol: str
    side: Side
    since_seconds: float


class OwnOrders:
    """Own order rows, followed from the open orders into the closed ones.

    `known` is False until the history has been read once. An accepted order is working until its
    final row is seen; when it is in neither list it is unsettled, never gone.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._rows: dict[str, Order] = {}
        self._ids: set[str] = set()
        self._awaited: dict[str, _Awaited] = {}
        self._open_txids: set[str] = set()
        self._doubt_seconds: float | None = None
        self._rebuilt_seconds: float | None = None
        self.foreign: dict[str, Order] = {}
        self.known = False
        self.book: Book = EMPTY_BOOK

    def rebuild(self) -> None:
        """Read every own row that Kraken has; adopt the open ones."""
        asked_seconds = self._broker.now()
        # Open before closed: an order that closes in between is then in both, and never in neither.
        opened = self._broker.get_open_orders()
        closed = self._broker.get_closed_orders(0)
        self._take(opened, closed)
        self.known = True
        self._rebuilt_seconds = asked_seconds

    def refresh(self) -> list[NewFill]:
        """Follow the working orders; return what they filled. Asks nothing if none is working or can be late."""
        asked_seconds = self._broker.now()
        doubts = self._doubts(asked_seconds)
        if not self._awaited and not doubts:
            return []
        opened = self._broker.get_open_orders()
        since_seconds = self._closed_since({order.txid for order in opened}, doubts)
        closed = [] if since_seconds is None else self._broker.get_closed_orders(since_seconds)
        self._doubt_seconds = None
        if self._rebuilt_seconds is not None and asked_seconds >= self._rebuilt_seconds + LATE_SECONDS:
            self._rebuilt_seconds = None
        return self._take(opened, closed)

    def late_seconds(self) -> float:
        """Return for how long orders of an earlier life, which the rebuilt history lacks, may still turn up."""
        if self._rebuilt_seconds is None:
            return 0.0
        return max(0.0, self._rebuilt_seconds + LATE_SECONDS - self._broker.now())

    def _doubts(self, now: float) -> list[float]:
        doubts = [] if self._doubt_seconds is None else [self._doubt_seconds]
        if self._rebuilt_seconds is not None and now >= self._rebuilt_seconds + GAP_SECONDS:
            doubts.append(self._rebuilt_seconds)
        return doubts

    def adopt(self, order: Order) -> list[NewFill]:
        """Take in an own order that was found elsewhere; return what it filled."""
        fills = self._update(order)
        if fills:
            self.book = fold(self._rows.values())
        return fills

    def expect(self, placed: PlacedOrder) -> None:
        """Remember an order that Kraken has accepted."""
        self._ids.add(placed.cl_ord_id)
        self._awaited[placed.txid] = _Awaited(placed.symbol, placed.side, self._broker.now())

    def doubt(self, since_seconds: float) -> None:
        """Something may have been placed that we were not told of: the next refresh reads both lists from then on."""
        earlier = since_seconds if self._doubt_seconds is None else self._doubt_seconds
        self._doubt_seconds = min(since_seconds, earlier)

    def has(self, cl_ord_id: str) -> bool:
        """Tell whether an order with this identity was ever placed."""
        return cl_ord_id in self._ids

    def executed(self, cl_ord_id: str) -> Decimal:
        """Return what the order with this identity has executed."""
        return sum((row.executed for row in self._rows.values() if row.cl_ord_id == cl_ord_id), ZERO)

    def open_orders(self) -> list[Order]:
        """Return the own orders that are open."""
        return [self._rows[txid] for txid in sorted(self._open_txids)]

    def resting_entries(self, symbol: str) -> list[Order]:
        """Return the own buy orders of a pair that are open."""
        return [order for order in self.open_orders() if order.symbol == symbol and order.side is Side.BUY]

    def has_working(self, symbol: str, side: Side) -> bool:
        """Tell whether an own order may still fill."""
        return any(one.symbol == symbol and one.side is side for one in self._awaited.values())

    def is_unsettled(self, symbol: str) -> bool:
        """Tell whether an own order of the pair was accepted and is now in neither list."""
        return any(one.symbol == symbol and txid not in self._open_txids for txid, one in self._awaited.items())

    def resting_quantity(self, symbol: str) -> Decimal:
        """Return how many coins the resting entries of a pair may still buy."""
        return sum((order.volume - order.executed for order in self.resting_entries(symbol)), ZERO)

    def _closed_since(self, open_txids: set[str], doubts: list[float]) -> float | None:
        moments = [one.since_seconds for txid, one in self._awaited.items() if txid not in open_txids] + doubts
        return min(moments) - LOOK_BACK_SECONDS if moments else None

    def _take(self, opened: list[Order], closed: list[Order]) -> list[NewFill]:
        self._open_txids = set()
        fills = []
        for order in opened + closed:
            if not self._broker.owns(order):
                if order.status in _WORKING:
                    self.foreign[order.txid] = order
                continue
            fills += self._update(order)
        if fills:
            self.book = fold(self._rows.values())
        return fills

    def _update(self, order: Order) -> list[NewFill]:
        before = self._rows.get(order.txid)
        if before is not None and order.status in _WORKING and before.status not in _WORKING:
            return []  # an answer from before the end of the order; a final row stays final
        self._rows[order.txid] = order
        self._ids.add(order.cl_ord_id)
        if order.status in _WORKING:
            self._open_txids.add(order.txid)
            self._awaited[order.txid] = _Awaited(order.symbol, order.side, order.opened_seconds)
        else:
            self._open_txids.discard(order.txid)
            self._awaited.pop(order.txid, None)
        executed, cost, fee = (before.executed, before.cost, before.fee) if before else (ZERO, ZERO, ZERO)
        if order.executed == executed:
            return []
        return [NewFill(order, order.executed - executed, order.cost - cost, order.fee - fee)]

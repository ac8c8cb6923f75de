"""The bot's own orders, followed by Kraken's rows of them and kept in the journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from bot.base.errors import JournalError
from bot.base.models import ZERO, Order, PlacedOrder, Side
from bot.orders.order_state import PLACED, OrderState
from bot.orders.reconciliation import LOOK_BACK_SECONDS
from bot.trading.broker import Broker
from bot.trading.exit_policy import Role, WorkingOrder
from bot.trading.position import EMPTY_BOOK, Book, fold


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
    final row is seen; when it is in neither list it is unsettled, never gone. `foreign` are the open orders of others,
    as last seen. `trouble` says why the journal cannot be written, or is empty.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._rows: dict[str, Order] = {}
        self._ids: set[str] = set()
        self._awaited: dict[str, _Awaited] = {}
        self._open_txids: set[str] = set()
        self._unwritten: dict[str, Order] = {}
        self._cut_short: list[Order] = []
        self.not_placed: set[str] = set()
        self.foreign: dict[str, Order] = {}
        self.known = False
        self.trouble = ""
        self.book: Book = EMPTY_BOOK

    def rebuild(self) -> None:
        """Take over what the journal has, and what Kraken has had since it was written; adopt the open orders."""
        journal = self._broker.journal
        for intent in journal.intents():
            if not intent.cl_ord_id.startswith(self._broker.bot_id):
                continue
            if intent.state in PLACED:
                self._ids.add(intent.cl_ord_id)
            elif intent.state is OrderState.NOT_PLACED:
                self.not_placed.add(intent.cl_ord_id)
        for row in filter(self._broker.owns, journal.orders()):
            self._update(row)
        self._unwritten.clear()
        for intent in journal.working():
            if intent.cl_ord_id in self._ids:
                self._awaited[intent.txid] = _Awaited(intent.symbol, intent.side, intent.sent_seconds)
        since_seconds = self._closed_since(set(), [journal.known_until(self._broker.bot_id)])
        # Open before closed: an order that closes in between is then in both, and never in neither.
        opened = self._broker.get_open_orders()
        closed = self._broker.get_closed_orders(since_seconds or 0.0)
        self.known = True
        self._take(opened, closed)
        self._cut_short.clear()
        self.book = fold(self._rows.values())

    def refresh(self) -> list[NewFill]:
        """Follow the working orders; return what they filled. Asks Kraken for nothing if none is working."""
        if not self._awaited:
            self._write()
            return []
        opened = self._broker.get_open_orders()
        since_seconds = self._closed_since({order.txid for order in opened}, [])
        closed = [] if since_seconds is None else self._broker.get_closed_orders(since_seconds)
        return self._take(opened, closed)

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

    def has(self, cl_ord_id: str) -> bool:
        """Tell whether an order with this identity was ever placed."""
        return cl_ord_id in self._ids

    def final_rows(self, txids: Iterable[str]) -> list[Order]:
        """Return those of these orders that are over."""
        return [row for txid in txids if (row := self._rows.get(txid)) is not None and not row.is_open]

    def cut_short(self) -> list[Order]:
        """Return the orders that were open and have ended since this was last asked, with something left unfilled."""
        rows, self._cut_short = self._cut_short, []
        return rows

    def executed(self, cl_ord_id: str) -> Decimal:
        """Return what the order with this identity has executed."""
        return sum((row.executed for row in self._rows.values() if row.cl_ord_id == cl_ord_id), ZERO)

    def open_orders(self) -> list[Order]:
        """Return the own orders that are open."""
        return [self._rows[txid] for txid in sorted(self._open_txids)]

    def resting_entries(self, symbol: str) -> list[Order]:
        """Return the own buy orders of a pair that are open."""
        return [order for order in self.open_orders() if order.symbol == symbol and order.side is Side.BUY]

    def working(self, symbol: str) -> tuple[WorkingOrder, ...]:
        """Return the own orders of a pair that were accepted and may still fill."""
        return tuple(
            self._working(txid, awaited.side) for txid, awaited in self._awaited.items() if awaited.symbol == symbol
        )

    def stopped_quantity(self, symbol: str) -> Decimal:
        """Return how many coins of a pair the own stops tie up."""
        return sum((order.left for order in self.working(symbol) if order.role is Role.STOP), ZERO)

    def resting_quantity(self, symbol: str) -> Decimal:
        """Return how many coins the resting entries of a pair may still buy."""
        return sum((order.volume - order.executed for order in self.resting_entries(symbol)), ZERO)

    def _working(self, txid: str, side: Side) -> WorkingOrder:
        role = Role.ENTRY if side is Side.BUY else Role.EXIT
        row = self._rows.get(txid)
        if row is None:
            return WorkingOrder(txid, role, ZERO, ZERO, is_open=False)
        if role is Role.EXIT and row.kind.startswith("stop"):
            role = Role.STOP
        return WorkingOrder(txid, role, row.volume - row.executed, row.price, txid in self._open_txids)

    def _closed_since(self, open_txids: set[str], moments: list[float]) -> float | None:
        moments = [one.since_seconds for txid, one in self._awaited.items() if txid not in open_txids] + moments
        return max(0.0, min(moments) - LOOK_BACK_SECONDS) if moments else None

    def _take(self, opened: list[Order], closed: list[Order]) -> list[NewFill]:
        self._open_txids = set()
        fills = []
        self.foreign = {order.txid: order for order in opened if not self._broker.owns(order)}
        for order in filter(self._broker.owns, opened + closed):
            fills += self._update(order)
        if fills:
            self.book = fold(self._rows.values())
        self._write()
        return fills

    def _write(self) -> None:
        """Keep the journal up to date: what it lacks, and the moment up to which it lacks nothing."""
        if not self.known:
            return
        journal = self._broker.journal
        # In this order: who leads afterwards has led until then, also where the machine slept in between.
        now = self._broker.now()
        self._broker.check_lead()
        try:
            if self._unwritten:
                journal.take_rows(self._unwritten.values())
                self._unwritten.clear()
            journal.keep_known(self._broker.bot_id, now)
        except JournalError as error:
            self.trouble = str(error)
        else:
            self.trouble = ""

    def _update(self, order: Order) -> list[NewFill]:
        before = self._rows.get(order.txid)
        if before is not None and order.is_open and not before.is_open:
            return []  # an answer from before the end of the order; a final row stays final
        if order != before:
            self._unwritten[order.txid] = order
        self._rows[order.txid] = order
        self._ids.add(order.cl_ord_id)
        if order.is_open:
            self._open_txids.add(order.txid)
            self._awaited[order.txid] = _Awaited(order.symbol, order.side, order.opened_seconds)
        else:
            self._open_txids.discard(order.txid)
            self._awaited.pop(order.txid, None)
            if before is not None and before.is_open and order.executed < order.volume:
                self._cut_short.append(order)
        executed, cost, fee = (before.executed, before.cost, before.fee) if before else (ZERO, ZERO, ZERO)
        if order.executed == executed:
            return []
        return [NewFill(order, order.executed - executed, order.cost - cost, order.fee - fee)]

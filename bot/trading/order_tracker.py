"""The bot's own orders and their fills, tracked by Kraken's records and kept in the journal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal

from bot.base.errors import JournalError
from bot.base.models import ZERO, Order, PlacedOrder, Side
from bot.orders.order_state import PLACED_STATES, OrderState
from bot.orders.position import build_positions
from bot.orders.reconciliation import LOOKBACK_SECONDS
from bot.trading.broker import Broker
from bot.trading.exit_policy import OrderRole, WorkingOrder

# An accepted order in neither list is queried by its id, and reported when Kraken does not know it by then.
QUERY_MISSING_SECONDS = 15.0
VANISHED_SECONDS = 60.0
# A trade may appear in the history a moment later than in the order's record.
FILLS_RETRY_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class FillDelta:
    """What an order has executed since its record was last seen."""

    order: Order
    quantity: Decimal
    cost: Decimal
    fee: Decimal


@dataclass(frozen=True, slots=True)
class _PendingOrder:
    """An accepted order whose final record has not been seen."""

    cl_ord_id: str
    symbol: str
    side: Side
    since_seconds: float


@dataclass(slots=True)
class MissingOrder:
    """An accepted order that is in none of Kraken's lists since `since_seconds`."""

    txid: str
    cl_ord_id: str
    symbol: str
    since_seconds: float
    query_seconds: float
    is_reported: bool = False


class OrderTracker:
    """Own order records, tracked from the open orders into the closed ones.

    `is_loaded` is False until the history has been read once. An accepted order is working until its final record is
    seen; when it is in neither list its outcome is open: it is queried by its id, and never taken for gone.
    `external_orders` are the open orders of others, as last seen. `journal_error` says why the journal cannot be
    written, or is empty.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._orders: dict[str, Order] = {}
        self._placed_ids: set[str] = set()
        self._pending_orders: dict[str, _PendingOrder] = {}
        # Accepted, and in none of Kraken's rows so far.
        self._unread_orders: dict[str, PlacedOrder] = {}
        self._open_txids: set[str] = set()
        self._missing_orders: dict[str, MissingOrder] = {}
        self._unsaved_orders: dict[str, Order] = {}
        self._ended_unfilled: list[Order] = []
        self.not_placed_ids: set[str] = set()
        self.external_orders: dict[str, Order] = {}
        self.is_loaded = False
        self.journal_error = ""
        self.book = build_positions(())

    def rebuild(self) -> None:
        """Take over the journal's orders, and newer ones from Kraken; adopt the open orders."""
        journal = self._broker.journal
        for intent in journal.intents():
            if not intent.cl_ord_id.startswith(self._broker.bot_id):
                continue
            if intent.state in PLACED_STATES:
                self._placed_ids.add(intent.cl_ord_id)
            elif intent.state is OrderState.NOT_PLACED:
                self.not_placed_ids.add(intent.cl_ord_id)
        for order in filter(self._broker.is_own_order, journal.orders()):
            self._update(order)
        self._unsaved_orders.clear()
        for intent in journal.working_intents():
            if intent.cl_ord_id in self._placed_ids:
                self._pending_orders[intent.txid] = _PendingOrder(
                    intent.cl_ord_id, intent.symbol, intent.side, intent.sent_seconds
                )
        since_seconds = self._closed_orders_since(set(), [journal.complete_until(self._broker.bot_id)])
        # Open before closed: an order that closes in between is then in both, and never in neither.
        open_orders = self._broker.get_open_orders()
        closed_orders = self._broker.get_closed_orders(since_seconds or 0.0)
        self.is_loaded = True
        self._apply(open_orders, closed_orders)
        self._ended_unfilled.clear()
        self.book = build_positions(self._orders.values())

    def refresh(self, *, may_read: bool = True) -> list[FillDelta]:
        """Track the working orders; return their new fills. Sends no request if none is working, or if it may not."""
        if not self._pending_orders or not may_read:
            self._write_journal()
            return []
        open_orders = self._broker.get_open_orders()
        since_seconds = self._closed_orders_since({order.txid for order in open_orders}, [])
        closed_orders = [] if since_seconds is None else self._broker.get_closed_orders(since_seconds)
        listed_txids = {order.txid for order in open_orders + closed_orders}
        return self._apply(open_orders, closed_orders + self._query_missing(listed_txids))

    def _query_missing(self, listed_txids: set[str]) -> list[Order]:
        """Query the accepted orders that are in none of Kraken's lists by their ids."""
        now = self._broker.now()
        missing_txids = self._pending_orders.keys() - listed_txids
        self._missing_orders = {
            txid: self._missing_orders.get(txid)
            or MissingOrder(txid, pending.cl_ord_id, pending.symbol, now, now + QUERY_MISSING_SECONDS)
            for txid, pending in self._pending_orders.items()
            if txid in missing_txids
        }
        due_orders = [missing for missing in self._missing_orders.values() if now >= missing.query_seconds]
        found_orders = []
        for missing in due_orders:
            missing.query_seconds = now + VANISHED_SECONDS
            order = self._broker.query_order(missing.txid)
            if order is not None:
                found_orders.append(order)
                del self._missing_orders[missing.txid]
        return found_orders

    def pop_vanished(self) -> list[MissingOrder]:
        """Return the orders that Kraken has not known for a minute, each once."""
        now = self._broker.now()
        vanished = [
            missing
            for missing in self._missing_orders.values()
            if missing.txid in self._pending_orders
            and now - missing.since_seconds >= VANISHED_SECONDS
            and not missing.is_reported
        ]
        for missing in vanished:
            missing.is_reported = True
        return vanished

    def adopt(self, order: Order) -> list[FillDelta]:
        """Adopt an own order that was found elsewhere; return its new fills."""
        fills = self._update(order)
        if fills:
            self.book = build_positions(self._orders.values())
        return fills

    def add_accepted(self, placed: PlacedOrder) -> None:
        """Remember an order that Kraken has accepted."""
        self._placed_ids.add(placed.cl_ord_id)
        self._pending_orders[placed.txid] = _PendingOrder(
            placed.cl_ord_id, placed.symbol, placed.side, self._broker.now()
        )
        self._unread_orders[placed.txid] = placed

    def was_placed(self, cl_ord_id: str) -> bool:
        """Tell whether an order with this client order id was ever placed."""
        return cl_ord_id in self._placed_ids

    def final_orders(self, txids: Iterable[str]) -> list[Order]:
        """Return those of these orders that have ended."""
        return [order for txid in txids if (order := self._orders.get(txid)) is not None and not order.is_open]

    def pop_ended_unfilled(self) -> list[Order]:
        """Return the open orders that have ended since the last call with an unfilled rest."""
        orders, self._ended_unfilled = self._ended_unfilled, []
        return orders

    def executed_quantity(self, cl_ord_id: str) -> Decimal:
        """Return the executed quantity of the order with this client order id."""
        return sum((order.executed for order in self._orders.values() if order.cl_ord_id == cl_ord_id), ZERO)

    def has_unfilled_rest(self, cl_ord_id: str) -> bool:
        """Tell whether the order with this client order id has ended, with a rest that it did not execute."""
        return any(
            not order.is_open and order.executed < order.volume
            for order in self._orders.values()
            if order.cl_ord_id == cl_ord_id
        )

    def has_unread_orders(self, symbol: str | None = None) -> bool:
        """Tell whether an accepted order of a pair, or of any, is in none of Kraken's rows yet."""
        return any(
            txid not in self._open_txids and symbol in {None, pending.symbol}
            for txid, pending in self._pending_orders.items()
        )

    def open_orders(self) -> list[Order]:
        """Return the own orders that are open."""
        return [self._orders[txid] for txid in sorted(self._open_txids)]

    def unlisted_orders(self) -> dict[str, str]:
        """Return the pairs of the accepted orders that are neither open nor closed yet, by txid."""
        return {txid: pending.symbol for txid, pending in self._pending_orders.items() if txid not in self._open_txids}

    def resting_entries(self, symbol: str | None = None) -> list[Order]:
        """Return the own buy orders of a pair, or of all, that are open."""
        return [order for order in self.open_orders() if order.side is Side.BUY and symbol in {None, order.symbol}]

    def entries_that_may_rest(self) -> list[Order | PlacedOrder]:
        """Return the own buy orders that are open, and the accepted ones whose record has not been read yet."""
        unread = [placed for placed in self._unread_orders.values() if placed.side is Side.BUY]
        return [*self.resting_entries(), *unread]

    def working(self, symbol: str) -> tuple[WorkingOrder, ...]:
        """Return the own orders of a pair that were accepted and may still fill."""
        return tuple(
            self._working(txid, pending.side)
            for txid, pending in self._pending_orders.items()
            if pending.symbol == symbol
        )

    def quantity_in_stops(self, symbol: str) -> Decimal:
        """Return the quantity of a pair that the own stops reserve."""
        return sum((order.remaining for order in self.working(symbol) if order.role is OrderRole.STOP), ZERO)

    def resting_quantity(self, symbol: str) -> Decimal:
        """Return the quantity that the resting entries of a pair may still buy."""
        return sum((order.volume - order.executed for order in self.resting_entries(symbol)), ZERO)

    def _working(self, txid: str, side: Side) -> WorkingOrder:
        role = OrderRole.ENTRY if side is Side.BUY else OrderRole.EXIT
        order = self._orders.get(txid)
        if order is None:
            return WorkingOrder(txid, role, ZERO, ZERO, is_open=False)
        if role is OrderRole.EXIT and order.kind.startswith("stop"):
            role = OrderRole.STOP
        return WorkingOrder(txid, role, order.volume - order.executed, order.price, txid in self._open_txids)

    def _closed_orders_since(self, open_txids: set[str], start_times: list[float]) -> float | None:
        start_times = [
            pending.since_seconds for txid, pending in self._pending_orders.items() if txid not in open_txids
        ] + start_times
        return max(0.0, min(start_times) - LOOKBACK_SECONDS) if start_times else None

    def _apply(self, open_orders: list[Order], closed_orders: list[Order]) -> list[FillDelta]:
        self._open_txids = set()
        fills = []
        self.external_orders = {order.txid: order for order in open_orders if not self._broker.is_own_order(order)}
        for order in filter(self._broker.is_own_order, open_orders + closed_orders):
            fills += self._update(order)
        if fills:
            self.book = build_positions(self._orders.values())
        self._write_journal()
        return fills

    def _write_journal(self) -> None:
        """Update the journal: add missing records, and the time up to which it is complete."""
        if not self.is_loaded:
            return
        journal = self._broker.journal
        # In this order: an instance that leads afterwards has led until then, also where the machine slept in between.
        now = self._broker.now()
        self._broker.check_leadership()
        try:
            if self._unsaved_orders:
                journal.record_orders(self._unsaved_orders.values())
                self._unsaved_orders.clear()
            journal.extend_complete_until(self._broker.bot_id, now)
        except JournalError as error:
            self.journal_error = str(error)
        else:
            self.journal_error = ""

    def _update(self, order: Order) -> list[FillDelta]:
        previous = self._orders.get(order.txid)
        if previous is not None and order.is_open and not previous.is_open:
            return []  # an answer from before the end of the order; a final record stays final
        if order != previous:
            self._unsaved_orders[order.txid] = order
        self._orders[order.txid] = order
        placed = self._unread_orders.pop(order.txid, None)
        self._placed_ids.add(order.cl_ord_id)
        if order.is_open:
            self._open_txids.add(order.txid)
            self._pending_orders[order.txid] = _PendingOrder(
                order.cl_ord_id, order.symbol, order.side, order.opened_seconds
            )
        else:
            self._open_txids.discard(order.txid)
            self._pending_orders.pop(order.txid, None)
            # An accepted entry has rested, also where no answer has shown it open.
            was_open = placed is not None and placed.side is Side.BUY if previous is None else previous.is_open
            if was_open and order.executed < order.volume:
                self._ended_unfilled.append(order)
        executed, cost, fee = (previous.executed, previous.cost, previous.fee) if previous else (ZERO, ZERO, ZERO)
        if order.executed == executed:
            return []
        return [FillDelta(order, order.executed - executed, order.cost - cost, order.fee - fee)]


class FillFetcher:
    """Keeps the fills in the journal equal to the executed quantities of the order records, a page at a time.

    For the books only: position and P&L come from the order records.
    """

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._missing: dict[str, tuple[float, Decimal]] = {}
        self._offset = 0
        self._since_seconds = 0.0
        self._due_seconds = 0.0

    def load_missing(self) -> None:
        """Start with the orders whose fills the journal lacks. Raises JournalError."""
        self.expect(self._broker.journal.orders_with_missing_fills())

    def expect(self, orders: Iterable[Order]) -> None:
        """Add orders that have executed something since their fills were last fetched."""
        for order in orders:
            self._missing[order.txid] = order.opened_seconds, order.executed
            self._offset, self._due_seconds = 0, 0.0

    def fetch_page(self) -> bool:
        """Fetch one page of missing fills, if there are any; return whether Kraken was asked.

        Raises BotError; then the page is fetched later.
        """
        if not self._missing or self._broker.now() < self._due_seconds:
            return False
        if self._offset == 0:
            self._since_seconds = min(opened for opened, _ in self._missing.values()) - LOOKBACK_SECONDS
        self._due_seconds = self._broker.now() + FILLS_RETRY_SECONDS  # if the request gets no answer
        page, total = self._broker.get_trades_page(max(0.0, self._since_seconds), self._offset)
        self._due_seconds = 0.0
        own_fills = [fill for fill in page if fill.order_txid in self._missing]
        try:
            self._broker.journal.add_fills(own_fills)
            journal_volumes = self._broker.journal.filled_volumes({fill.order_txid for fill in own_fills})
        except JournalError:
            self._due_seconds = self._broker.now() + FILLS_RETRY_SECONDS
            return True
        for txid, (_, executed) in list(self._missing.items()):
            if journal_volumes.get(txid, ZERO) == executed:
                del self._missing[txid]
        self._offset += len(page)
        if not page or self._offset >= total:
            self._offset, self._due_seconds = 0, self._broker.now() + FILLS_RETRY_SECONDS
        return True

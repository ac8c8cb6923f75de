"""Finds the outcomes of unknown orders, by the queries that `reconciliation.py` asks for."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Protocol

from bot.base import metrics
from bot.base.clock import ServerTime
from bot.base.errors import BotError, JournalError, RequestError, UnknownKrakenError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.models import KeyInfo, Order
from bot.kraken.key_rules import sight_problem
from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.orders.journal import Journal
from bot.orders.order_state import Intent, OrderState
from bot.orders.reconciliation import (
    BLIND_RETRY_SECONDS,
    DEADLINE_MARGIN_SECONDS,
    HISTORY_GAP_ID,
    LOOKBACK_SECONDS,
    QUERY_GAP_SECONDS,
    QueryStep,
    Resolution,
    UnknownOrder,
    apply_query_result,
    history_gap,
    missing_orders,
    next_step,
)

# A journal that was current so recently has all orders of this bot: no other host can have taken over and gone again
# in between.
JOURNAL_MAX_AGE_SECONDS = 60.0


class OrderQueries(Protocol):
    """The queries that find orders. `Account` provides them."""

    def get_open_orders(self) -> list[Order]:
        """Return all open orders of the account."""

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return the orders of the account that closed after `since_seconds`."""

    def get_key_info(self) -> KeyInfo:
        """Return what Kraken knows of the key."""

    def is_own_order(self, order: Order) -> bool:
        """Whether this bot placed the order."""


class UnknownOrders:
    """The unknown orders of one account, by `cl_ord_id`. Thread-safe. The journal keeps them across restarts."""

    def __init__(self) -> None:
        self._orders: dict[str, UnknownOrder] = {}
        self._lock = threading.Lock()

    def after_fork_in_child(self) -> None:
        """Make a new lock: a thread of the parent may hold the old one, and is not there to release it."""
        self._lock = threading.Lock()

    def add(self, order: UnknownOrder) -> None:
        """Count an order as unknown, before it is sent; one that is counted already keeps its progress."""
        with self._lock:
            self._orders.setdefault(order.cl_ord_id, order)

    def add_intent(self, intent: Intent) -> None:
        """Count an order of the journal as unknown."""
        self.add(
            UnknownOrder(
                cl_ord_id=intent.cl_ord_id,
                symbol=intent.symbol,
                side=intent.side,
                volume=intent.volume,
                price=intent.price,
                sent_seconds=intent.sent_seconds,
                deadline_seconds=intent.deadline_seconds,
            )
        )

    def __contains__(self, cl_ord_id: str) -> bool:
        """Whether the outcome of this order is unknown."""
        return cl_ord_id in self._orders

    def remove(self, cl_ord_id: str) -> None:
        """Remove an order: its outcome is known."""
        with self._lock:
            self._orders.pop(cl_ord_id, None)

    def all(self) -> list[UnknownOrder]:
        """Return them, oldest first."""
        with self._lock:
            return list(self._orders.values())

    def for_pair(self, symbol: str) -> list[UnknownOrder]:
        """Return those that block a pair, as far as they are known here: `Journal.mark_sent` knows of all."""
        return [order for order in self.all() if order.symbol == symbol]

    def due_seconds(self) -> float | None:
        """Return when the next query may be sent (Kraken's time); None while nothing is unknown."""
        return min((order.due_seconds for order in self.all()), default=None)

    def next_step(self, now: float) -> QueryStep:
        """Return the query that is due."""
        return next_step(self.all(), now)

    def apply_query_result(
        self, step: QueryStep, kraken_orders: list[Order], queried_seconds: float, answered_seconds: float
    ) -> list[Resolution]:
        """Apply what a query proves; return the orders that it resolves, which are unknown no more."""
        resolutions, advanced = apply_query_result(self.all(), step, kraken_orders, queried_seconds, answered_seconds)
        for order in advanced:
            self._update(order)
        for resolution in resolutions:
            self.remove(resolution.unknown_order.cl_ord_id)
        return resolutions

    def restart_proof(self) -> None:
        """Begin the two queries of every proof again: one was not answered."""
        for order in self.all():
            self._update(replace(order, open_orders_answered_seconds=None))

    def postpone(self, order: UnknownOrder, now: float) -> None:
        """Begin the proof of an order again later: the key may not have seen it.

        What an earlier run has sent is looked for anew, as it was at the start: the key may have been changed since.
        """
        if order.cl_ord_id == HISTORY_GAP_ID:
            order = history_gap(now, order.deadline_seconds)
        self._update(replace(order, open_orders_answered_seconds=None, retry_seconds=now + BLIND_RETRY_SECONDS))

    def _update(self, order: UnknownOrder) -> None:
        with self._lock:
            # It may have been answered meanwhile.
            if order.cl_ord_id in self._orders:
                self._orders[order.cl_ord_id] = order


class Reconciler:
    """Finds out the outcome of unknown orders, in memory and in the journal. Thread-safe."""

    def __init__(
        self,
        journal: Journal,
        order_queries: OrderQueries,
        bot_id: str,
        server_time: ServerTime,
        overlap_seconds: float = 0.0,
    ) -> None:
        """For `overlap_seconds` after the start another instance may send orders, where the journal is new."""
        self._journal = journal
        self._order_queries = order_queries
        self._bot_id = bot_id
        self._server_time = server_time
        self.unknown = UnknownOrders()
        # How far ahead the deadlines of other senders' orders may lie when the journal is loaded next.
        self._peer_deadline_seconds = ORDER_DEADLINE_SECONDS
        self._overlap_seconds = max(overlap_seconds, ORDER_DEADLINE_SECONDS)
        self._has_taken_over, self._is_first_leader = False, True
        self._is_loaded = False
        self._complete_until_seconds: float | None = None
        self._unreported: list[Resolution] = []
        # The orders that were reported as not provable.
        self._reported_blind_ids: set[str] = set()
        self._lock = threading.Lock()

    def after_fork_in_child(self) -> None:
        """Make new locks: a thread of the parent may hold the old ones, and is not there to release them."""
        self._lock = threading.Lock()
        self.unknown.after_fork_in_child()

    def invalidate(self) -> None:
        """Load the journal again as at the start: it may have been lost."""
        self._is_loaded = False

    def record_state(
        self, cl_ord_id: str, state: OrderState, reason: str = "", txid: str = "", sent_seconds: float | None = None
    ) -> None:
        """Write the outcome of an order to the journal. Where that fails nothing is lost: Kraken is queried again."""
        try:
            self._journal.set_state(cl_ord_id, state, reason, txid, sent_seconds)
        except JournalError as error:
            emit(Event.ORDER_STATE_NOT_SAVED, cl_ord_id=cl_ord_id, state=state, error=error)

    def unknown_orders(self) -> list[UnknownOrder]:
        """Return the orders whose outcome is unknown: of this run, of an earlier one, and of other processes."""
        self._load_journal()
        return self._identified_orders()

    def _identified_orders(self) -> list[UnknownOrder]:
        return [order for order in self.unknown.all() if order.cl_ord_id != HISTORY_GAP_ID]

    def history_is_complete(self) -> bool:
        """Whether the journal has every order of this bot. A new journal, or one of an older disk, may lack some."""
        if not self._is_loaded:
            self._load_journal()
        return HISTORY_GAP_ID not in self.unknown

    def begin_takeover(self, is_clean: bool, is_first_leader: bool) -> None:
        """Reconcile from the start, whatever the journal has: another instance may have traded on this account.

        `is_clean`: none of its orders is in flight. `is_first_leader`: nobody has led before, so where the journal is
        new an instance that does not know of leases may trade on for a while.
        """
        self._peer_deadline_seconds = 0.0 if is_clean else ORDER_DEADLINE_SECONDS
        self._has_taken_over, self._is_first_leader = True, is_first_leader
        self.unknown.remove(HISTORY_GAP_ID)
        self._is_loaded = False

    def history_wait_seconds(self) -> float:
        """Return the minimum time for which orders of an earlier run may still appear; 0.0 where none can."""
        gap = next((order for order in self.unknown.all() if order.cl_ord_id == HISTORY_GAP_ID), None)
        if gap is None:
            return 0.0
        complete_seconds = max(gap.deadline_seconds, gap.sent_seconds) + DEADLINE_MARGIN_SECONDS + QUERY_GAP_SECONDS
        return max(0.0, complete_seconds - self._server_time.now())

    def _add_history_gap(self, seconds: float) -> None:
        """Expect orders of an earlier run with deadlines up to `seconds` from now."""
        now = self._server_time.now()
        self.unknown.add(history_gap(now, now + seconds))

    def reconcile(self) -> list[Resolution]:
        """Send the query that is due, if one is; return the outcomes that were not returned before."""
        self.advance()
        with self._lock:
            unreported, self._unreported = self._unreported, []
            return unreported

    def advance(self) -> None:
        """Send the query that is due, if one is; `reconcile` returns the outcomes."""
        with self._lock:
            self._load_journal()
            step = self.unknown.next_step(self._server_time.now())
            if step is not QueryStep.WAIT:
                self._query(step, [])

    def get_open_orders(self) -> list[Order]:
        """Return all open orders of the account: one answer serves the caller, and every proof that it is due for."""
        with self._lock:
            return self._query(QueryStep.OPEN, [])

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return the orders that closed after `since_seconds`, or earlier where a proof has to look further back."""
        with self._lock:
            return self._query(QueryStep.CLOSED, [since_seconds])

    def _query(self, step: QueryStep, start_times: list[float]) -> list[Order]:
        """Send a query, and apply what its answer proves. `start_times`: from when ClosedOrders is read at the
        latest."""
        queried_seconds = self._server_time.now()
        # Any private read that is answered is a fencing read.
        is_fence = self.unknown.next_step(queried_seconds) is QueryStep.FENCE
        try:
            kraken_orders = self._query_orders(step, start_times=start_times)
            if step is QueryStep.CLOSED:
                self._require_sight(kraken_orders, queried_seconds)
        except BotError:
            self.unknown.restart_proof()
            raise
        own_orders = [
            order
            for order in kraken_orders
            if self._order_queries.is_own_order(order) or (order.cl_ord_id and order.cl_ord_id in self.unknown)
        ]
        if not self.unknown.all():
            return kraken_orders
        resolutions = self.unknown.apply_query_result(
            QueryStep.FENCE if is_fence else step, kraken_orders, queried_seconds, self._server_time.now()
        )
        self._unreported += [one for one in resolutions if one.unknown_order.cl_ord_id != HISTORY_GAP_ID]
        self._record_found_orders(own_orders, resolutions, queried_seconds)
        return kraken_orders

    def _query_orders(self, step: QueryStep, *, start_times: list[float]) -> list[Order]:
        kraken_orders = [] if step is QueryStep.CLOSED else self._order_queries.get_open_orders()
        since = [order.sent_seconds - LOOKBACK_SECONDS for order in self._identified_orders()] + start_times
        if step is QueryStep.CLOSED and HISTORY_GAP_ID in self.unknown:
            since.append((self._complete_until_seconds or 0.0) - LOOKBACK_SECONDS)
        # At the fencing read it is no proof yet; but an order that is found anywhere at any time was placed.
        if step is not QueryStep.OPEN and since:
            kraken_orders = kraken_orders + self._order_queries.get_closed_orders(max(0.0, min(since)))
        return kraken_orders

    def _require_sight(self, kraken_orders: list[Order], queried_seconds: float) -> None:
        """Postpone the orders of whose absence there is no evidence: a key that sees no order proves nothing."""
        missing = missing_orders(self.unknown.all(), kraken_orders, queried_seconds)
        if not missing:
            return
        key_info: KeyInfo | None = None
        try:
            key_info = self._order_queries.get_key_info()
        except (RequestError, UnknownKrakenError) as error:
            error_text = str(error).rstrip(".")
        for order in missing:
            if key_info is not None:
                reason = sight_problem(key_info, order.sent_seconds)
            elif self._has_witness(kraken_orders, order.sent_seconds):
                reason = ""
            else:
                reason = f"{error_text}; nor do they show an order that this journal knows and that has closed since"
            if not reason:
                continue
            self.unknown.postpone(order, self._server_time.now())
            if order.cl_ord_id not in self._reported_blind_ids:
                self._reported_blind_ids.add(order.cl_ord_id)
                _report_blindness(order, reason)

    def _has_witness(self, kraken_orders: list[Order], since_seconds: float) -> bool:
        """Whether an answer has an order of which the journal knows that it closed after `since_seconds`."""
        txids = {order.txid for order in kraken_orders}
        return any(
            order.txid in txids and not order.is_open and order.closed_seconds >= since_seconds
            for order in self._journal.orders()
        )

    def _record_found_orders(
        self, own_orders: list[Order], resolutions: list[Resolution], queried_seconds: float
    ) -> None:
        closes_gap = any(resolution.unknown_order.cl_ord_id == HISTORY_GAP_ID for resolution in resolutions)
        try:
            self._journal.record_orders(own_orders)
            if closes_gap:
                self._journal.set_complete_until(self._bot_id, queried_seconds)
        except JournalError as error:
            emit(Event.FOUND_ORDERS_NOT_SAVED, error=error)
            if closes_gap:
                self._add_history_gap(ORDER_DEADLINE_SECONDS)
        for resolution in resolutions:
            order = resolution.unknown_order
            if order.cl_ord_id == HISTORY_GAP_ID:
                continue
            metrics.record_reconciliation("placed" if resolution.order else "not_placed")
            if resolution.order is None:
                # Another process may have sent it again since, and these queries prove nothing about that.
                reason = "in none of Kraken's rows"
                self.record_state(order.cl_ord_id, OrderState.NOT_PLACED, reason, sent_seconds=order.sent_seconds)

    def _load_journal(self) -> None:
        """Read the unresolved orders of the journal, and whether the journal is complete."""
        now = self._server_time.now()
        is_first_load = not self._is_loaded
        try:
            complete_until_seconds = self._journal.complete_until(self._bot_id)
            if complete_until_seconds > now + JOURNAL_MAX_AGE_SECONDS:
                complete_until_seconds = 0.0  # written under a wrong clock
            unresolved = self._journal.unresolved_intents()
        except JournalError:
            if self._complete_until_seconds is None:
                raise
            return  # the orders of this process are in memory
        # A journal that was lost while the program runs is not complete either.
        is_current = complete_until_seconds > 0 and not (
            is_first_load and now - complete_until_seconds > JOURNAL_MAX_AGE_SECONDS
        )
        if self._has_taken_over or not is_current:
            self._complete_until_seconds = complete_until_seconds
            is_new_journal = self._is_first_leader and not complete_until_seconds
            self._add_history_gap(self._overlap_seconds if is_new_journal else self._peer_deadline_seconds)
        elif self._complete_until_seconds is None:
            self._complete_until_seconds = complete_until_seconds
        self._peer_deadline_seconds, self._has_taken_over, self._is_first_leader = ORDER_DEADLINE_SECONDS, False, False
        for intent in unresolved:
            # Before its deadline another process may still be waiting for the answer.
            if is_first_load or now > intent.deadline_seconds:
                if intent.cl_ord_id not in self.unknown:
                    emit(
                        Event.UNKNOWN_ORDER_FOUND,
                        cl_ord_id=intent.cl_ord_id,
                        symbol=intent.symbol,
                        side=intent.side,
                        volume=intent.volume,
                    )
                self.unknown.add_intent(intent)
        self._is_loaded = True


def _report_blindness(order: UnknownOrder, reason: str) -> None:
    if order.cl_ord_id == HISTORY_GAP_ID:
        emit(Event.HISTORY_NOT_PROVABLE, reason=reason)
        return
    emit(
        Event.OUTCOME_NOT_PROVABLE,
        cl_ord_id=order.cl_ord_id,
        symbol=order.symbol,
        side=order.side,
        volume=order.volume,
        reason=reason,
    )

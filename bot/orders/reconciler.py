"""Makes the queries that bot/orders/reconciliation.py asks for, and writes down what became of unknown orders."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from bot.base import metrics
from bot.base.clock import ServerTime
from bot.base.errors import BotError, JournalError
from bot.base.events import Event, emit
from bot.base.models import Order
from bot.orders.journal import Journal
from bot.orders.order_state import Intent, OrderState
from bot.orders.reconciliation import (
    DEADLINE_MARGIN_SECONDS,
    HISTORY_GAP_ID,
    LOOKBACK_SECONDS,
    ORDER_DEADLINE_SECONDS,
    QUERY_GAP_SECONDS,
    QueryStep,
    Resolution,
    UnknownOrder,
    UnknownOrders,
    history_gap,
)

log = logging.getLogger(__name__)

# A journal that was kept up to date so recently knows all that this bot has sent: no other host can have taken over
# in between and be gone again.
JOURNAL_MAX_AGE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class OrderQueries:
    """How orders are found: all open ones, those that closed since a time, and which of them are this bot's."""

    open_orders: Callable[[], list[Order]]
    closed_orders: Callable[[float], list[Order]]
    is_own_order: Callable[[Order], bool]


class Reconciler:
    """The unknown orders of one key, in memory and in the journal. Thread-safe."""

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
        # How far the deadlines of what others have sent may lie ahead, at the next look into the journal.
        self._peer_deadline_seconds = ORDER_DEADLINE_SECONDS
        self._overlap_seconds = max(overlap_seconds, ORDER_DEADLINE_SECONDS)
        self._has_taken_over, self._is_first_leader = False, True
        self._is_loaded = False
        self._complete_until_seconds: float | None = None
        self._unknown_orders = UnknownOrders()
        self._unreported: list[Resolution] = []
        self._lock = threading.Lock()

    def after_fork_in_child(self) -> None:
        """A lock that a thread of the parent holds is never given back in the child."""
        self._lock = threading.Lock()
        self._unknown_orders.after_fork_in_child()

    def add(self, intent: Intent) -> None:
        """Count an order as unknown, from before its first byte leaves."""
        self._unknown_orders.add(_to_unknown_order(intent))

    def remove(self, cl_ord_id: str) -> None:
        """The fate of an order is known."""
        self._unknown_orders.remove(cl_ord_id)

    def __contains__(self, cl_ord_id: str) -> bool:
        """Whether the fate of an order is unknown."""
        return cl_ord_id in self._unknown_orders

    def for_pair(self, symbol: str) -> list[UnknownOrder]:
        """Return the unknown orders that block a pair, as far as they are known here: `Journal.leave` knows of all."""
        return self._unknown_orders.for_pair(symbol)

    def invalidate(self) -> None:
        """The journal may have been lost: the next look into it is as the first one."""
        self._is_loaded = False

    def record_state(
        self, cl_ord_id: str, state: OrderState, reason: str = "", txid: str = "", sent_seconds: float | None = None
    ) -> None:
        """Write down what became of an order. Where that fails nothing is lost: it will be looked up."""
        try:
            self._journal.set_state(cl_ord_id, state, reason, txid, sent_seconds)
        except JournalError as error:
            log.error("The order %s is %s, which could not be written down: %s", cl_ord_id, state, error)

    def unknown_orders(self) -> list[UnknownOrder]:
        """Return the orders whose fate is unknown: our own, an earlier life's, and those another process left so."""
        self._load_journal()
        return self._identified_orders()

    def _identified_orders(self) -> list[UnknownOrder]:
        return [order for order in self._unknown_orders.all() if order.cl_ord_id != HISTORY_GAP_ID]

    def history_is_complete(self) -> bool:
        """Whether the journal has every order that this bot has sent; one that is new or from a former disk has not."""
        if not self._is_loaded:
            self._load_journal()
        return HISTORY_GAP_ID not in self._unknown_orders

    def begin_takeover(self, is_clean: bool, is_first_leader: bool) -> None:
        """Another instance may have traded on this account: whatever the journal has, the past is looked for.

        `clean`: none of its orders is still on its way. `first`: where the journal is new, it may go on for a while.
        """
        self._peer_deadline_seconds = 0.0 if is_clean else ORDER_DEADLINE_SECONDS
        self._has_taken_over, self._is_first_leader = True, is_first_leader
        self._unknown_orders.remove(HISTORY_GAP_ID)
        self._is_loaded = False

    def history_wait_seconds(self) -> float:
        """Return for how long at least orders of an earlier life may still turn up; 0.0 where none can."""
        gap = next((order for order in self._unknown_orders.all() if order.cl_ord_id == HISTORY_GAP_ID), None)
        if gap is None:
            return 0.0
        complete_seconds = max(gap.deadline_seconds, gap.sent_seconds) + DEADLINE_MARGIN_SECONDS + QUERY_GAP_SECONDS
        return max(0.0, complete_seconds - self._server_time.now())

    def _add_history_gap(self, seconds: float) -> None:
        """Orders with a deadline up to `seconds` from now may turn up."""
        now = self._server_time.now()
        self._unknown_orders.add(history_gap(now, now + seconds))

    def due_seconds(self) -> float | None:
        """Return when the next look-up may be sent (Kraken's time); None while there is nothing to look up."""
        return self._unknown_orders.due_seconds()

    def reconcile(self) -> list[Resolution]:
        """Make the look-up that is due for unknown orders, if one is; return what was settled and not yet told."""
        self.advance()
        with self._lock:
            unreported, self._unreported = self._unreported, []
            return unreported

    def advance(self) -> None:
        """Make the look-up that is due, if one is; what it settles is told by the next `settle`."""
        with self._lock:
            self._load_journal()
            queried_seconds = self._server_time.now()
            step = self._unknown_orders.next_step(queried_seconds)
            if step is QueryStep.WAIT:
                return
            try:
                kraken_orders = self._query_orders(step)
            except BotError:
                self._unknown_orders.restart_proof()
                raise
            own_orders = [
                row
                for row in kraken_orders
                if self._order_queries.is_own_order(row) or (row.cl_ord_id and row.cl_ord_id in self._unknown_orders)
            ]
            resolutions = self._unknown_orders.apply_query_result(
                step, kraken_orders, queried_seconds, self._server_time.now()
            )
            self._unreported += [fate for fate in resolutions if fate.unknown_order.cl_ord_id != HISTORY_GAP_ID]
            self._record_found_orders(own_orders, resolutions, queried_seconds)

    def _query_orders(self, step: QueryStep) -> list[Order]:
        kraken_orders = [] if step is QueryStep.CLOSED else self._order_queries.open_orders()
        since = [order.sent_seconds for order in self._identified_orders()]
        if step is QueryStep.CLOSED and HISTORY_GAP_ID in self._unknown_orders:
            since.append(self._complete_until_seconds or 0.0)
        # Not a proof yet at the fence, but found anywhere at any time is placed.
        if step is not QueryStep.OPEN and since:
            kraken_orders = kraken_orders + self._order_queries.closed_orders(max(0.0, min(since) - LOOKBACK_SECONDS))
        return kraken_orders

    def _record_found_orders(
        self, own_orders: list[Order], resolutions: list[Resolution], queried_seconds: float
    ) -> None:
        closes_gap = any(resolution.unknown_order.cl_ord_id == HISTORY_GAP_ID for resolution in resolutions)
        try:
            self._journal.record_orders(own_orders)
            if closes_gap:
                self._journal.set_complete_until(self._bot_id, queried_seconds)
        except JournalError as error:
            log.error("Orders that were found could not be written down; they will be looked up again: %s", error)
            if closes_gap:
                self._add_history_gap(ORDER_DEADLINE_SECONDS)
        for resolution in resolutions:
            order = resolution.unknown_order
            if order.cl_ord_id == HISTORY_GAP_ID:
                continue
            metrics.record_reconciliation("placed" if resolution.order else "not_placed")
            if resolution.order is None:
                # Another process may have sent it anew since, which these look-ups say nothing of.
                reason = "in none of Kraken's rows"
                self.record_state(order.cl_ord_id, OrderState.NOT_PLACED, reason, sent_seconds=order.sent_seconds)

    def _load_journal(self) -> None:
        """Take over what the journal has as unsettled, and whether it knows the past."""
        now = self._server_time.now()
        is_first_load = not self._is_loaded
        try:
            complete_until_seconds = self._journal.complete_until(self._bot_id)
            if complete_until_seconds > now + JOURNAL_MAX_AGE_SECONDS:
                complete_until_seconds = 0.0  # a wrong clock has written it down, and it says nothing
            unresolved = self._journal.unresolved_intents()
        except JournalError:
            if self._complete_until_seconds is None:
                raise
            return  # our own are in memory
        # A journal that was lost while the program runs knows nothing either.
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
                if intent.cl_ord_id not in self._unknown_orders:
                    emit(Event.UNKNOWN_OUTCOME, _describe_unknown(intent))
                self._unknown_orders.add(_to_unknown_order(intent))
        self._is_loaded = True


def _describe_unknown(intent: Intent) -> str:
    description = f"{intent.cl_ord_id} ({intent.side} {intent.volume:f} {intent.symbol})"
    return f"An earlier run, or another process, has left the order {description} unsettled; it is looked up at Kraken."


def _to_unknown_order(intent: Intent) -> UnknownOrder:
    return UnknownOrder(
        cl_ord_id=intent.cl_ord_id,
        symbol=intent.symbol,
        side=intent.side,
        volume=intent.volume,
        price=intent.price,
        sent_seconds=intent.sent_seconds,
        deadline_seconds=intent.deadline_seconds,
    )

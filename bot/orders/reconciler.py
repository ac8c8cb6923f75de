"""Makes the queries that bot/orders/reconciliation.py asks for, and writes down what became of unknown orders."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from bot.base import metrics
from bot.base.clock import ServerTime
from bot.base.errors import BotError, JournalError
from bot.base.events import Event, tell
from bot.base.models import Order
from bot.orders.journal import Journal
from bot.orders.order_state import Intent, OrderState
from bot.orders.reconciliation import (
    DEADLINE_SECONDS,
    GAP_SECONDS,
    LOOK_BACK_SECONDS,
    MARGIN_SECONDS,
    THE_PAST,
    Settled,
    Step,
    UnknownOrder,
    UnknownOrders,
    the_past,
)

log = logging.getLogger(__name__)

# A journal that was kept up to date so recently knows all that this bot has sent: no other host can have taken over
# in between and be gone again.
CURRENT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class LookUps:
    """How orders are found: all open ones, those that closed since a time, and which of them are this bot's."""

    open_orders: Callable[[], list[Order]]
    closed_orders: Callable[[float], list[Order]]
    owns: Callable[[Order], bool]


class Settlement:
    """The unknown orders of one key, in memory and in the journal. Thread-safe."""

    def __init__(
        self, journal: Journal, look_ups: LookUps, bot_id: str, time: ServerTime, overlap_seconds: float = 0.0
    ) -> None:
        """For `overlap_seconds` after the start another instance may send orders, where the journal is new."""
        self._journal = journal
        self._look_ups = look_ups
        self._bot_id = bot_id
        self._time = time
        # How far the deadlines of what others have sent may lie ahead, at the next look into the journal.
        self._others_seconds = DEADLINE_SECONDS
        self._overlap_seconds = max(overlap_seconds, DEADLINE_SECONDS)
        self._taken_over, self._is_first = False, True
        self._loaded = False
        self._known_until_seconds: float | None = None
        self._unknown = UnknownOrders()
        self._untold: list[Settled] = []
        self._lock = threading.Lock()

    def after_fork_in_child(self) -> None:
        """A lock that a thread of the parent holds is never given back in the child."""
        self._lock = threading.Lock()
        self._unknown.after_fork_in_child()

    def add(self, intent: Intent) -> None:
        """Count an order as unknown, from before its first byte leaves."""
        self._unknown.add(_as_unknown(intent))

    def remove(self, cl_ord_id: str) -> None:
        """The fate of an order is known."""
        self._unknown.remove(cl_ord_id)

    def __contains__(self, cl_ord_id: str) -> bool:
        """Whether the fate of an order is unknown."""
        return cl_ord_id in self._unknown

    def of_pair(self, symbol: str) -> list[UnknownOrder]:
        """Return the unknown orders that block a pair, as far as they are known here: `Journal.leave` knows of all."""
        return self._unknown.of_pair(symbol)

    def read_again(self) -> None:
        """The journal may have been lost: the next look into it is as the first one."""
        self._loaded = False

    def write(
        self, cl_ord_id: str, state: OrderState, reason: str = "", txid: str = "", sent_seconds: float | None = None
    ) -> None:
        """Write down what became of an order. Where that fails nothing is lost: it will be looked up."""
        try:
            self._journal.set_state(cl_ord_id, state, reason, txid, sent_seconds)
        except JournalError as error:
            log.error("The order %s is %s, which could not be written down: %s", cl_ord_id, state, error)

    def unknown_orders(self) -> list[UnknownOrder]:
        """Return the orders whose fate is unknown: our own, an earlier life's, and those another process left so."""
        self._load()
        return self._named()

    def _named(self) -> list[UnknownOrder]:
        return [order for order in self._unknown.all() if order.cl_ord_id != THE_PAST]

    def knows_the_past(self) -> bool:
        """Whether the journal has every order that this bot has sent; one that is new or from a former disk has not."""
        if not self._loaded:
            self._load()
        return THE_PAST not in self._unknown

    def take_over(self, clean: bool, first: bool) -> None:
        """Another instance may have traded on this account: whatever the journal has, the past is looked for.

        `clean`: none of its orders is still on its way. `first`: where the journal is new, it may go on for a while.
        """
        self._others_seconds = 0.0 if clean else DEADLINE_SECONDS
        self._taken_over, self._is_first = True, first
        self._unknown.remove(THE_PAST)
        self._loaded = False

    def past_wait_seconds(self) -> float:
        """Return for how long at least orders of an earlier life may still turn up; 0.0 where none can."""
        past = next((order for order in self._unknown.all() if order.cl_ord_id == THE_PAST), None)
        if past is None:
            return 0.0
        known_seconds = max(past.deadline_seconds, past.sent_seconds) + MARGIN_SECONDS + GAP_SECONDS
        return max(0.0, known_seconds - self._time.now())

    def _look_for_the_past(self, seconds: float) -> None:
        """Orders with a deadline up to `seconds` from now may turn up."""
        now = self._time.now()
        self._unknown.add(the_past(now, now + seconds))

    def due_seconds(self) -> float | None:
        """Return when the next look-up may be sent (Kraken's time); None while there is nothing to look up."""
        return self._unknown.due_seconds()

    def settle(self) -> list[Settled]:
        """Make the look-up that is due for unknown orders, if one is; return what was settled and not yet told."""
        self.advance()
        with self._lock:
            untold, self._untold = self._untold, []
            return untold

    def advance(self) -> None:
        """Make the look-up that is due, if one is; what it settles is told by the next `settle`."""
        with self._lock:
            self._load()
            asked = self._time.now()
            step = self._unknown.next_step(asked)
            if step is Step.WAIT:
                return
            try:
                rows = self._look_up(step)
            except BotError:
                self._unknown.look_up_failed()
                raise
            ours = [
                row for row in rows if self._look_ups.owns(row) or (row.cl_ord_id and row.cl_ord_id in self._unknown)
            ]
            settled = self._unknown.looked_up(step, rows, asked, self._time.now())
            self._untold += [fate for fate in settled if fate.unknown.cl_ord_id != THE_PAST]
            self._write_found(ours, settled, asked)

    def _look_up(self, step: Step) -> list[Order]:
        rows = [] if step is Step.CLOSED else self._look_ups.open_orders()
        since = [order.sent_seconds for order in self._named()]
        if step is Step.CLOSED and THE_PAST in self._unknown:
            since.append(self._known_until_seconds or 0.0)
        # Not a proof yet at the fence, but found anywhere at any time is placed.
        if step is not Step.OPEN and since:
            rows = rows + self._look_ups.closed_orders(max(0.0, min(since) - LOOK_BACK_SECONDS))
        return rows

    def _write_found(self, rows: list[Order], settled: list[Settled], asked: float) -> None:
        past = any(fate.unknown.cl_ord_id == THE_PAST for fate in settled)
        try:
            self._journal.take_rows(rows)
            if past:
                self._journal.set_known_until(self._bot_id, asked)
        except JournalError as error:
            log.error("Orders that were found could not be written down; they will be looked up again: %s", error)
            if past:
                self._look_for_the_past(DEADLINE_SECONDS)
        for fate in settled:
            order = fate.unknown
            if order.cl_ord_id == THE_PAST:
                continue
            metrics.order_settled("placed" if fate.order else "not_placed")
            if fate.order is None:
                # Another process may have sent it anew since, which these look-ups say nothing of.
                reason = "in none of Kraken's rows"
                self.write(order.cl_ord_id, OrderState.NOT_PLACED, reason, sent_seconds=order.sent_seconds)

    def _load(self) -> None:
        """Take over what the journal has as unsettled, and whether it knows the past."""
        now = self._time.now()
        first = not self._loaded
        try:
            known_until_seconds = self._journal.known_until(self._bot_id)
            if known_until_seconds > now + CURRENT_SECONDS:
                known_until_seconds = 0.0  # a wrong clock has written it down, and it says nothing
            unsettled = self._journal.unsettled()
        except JournalError:
            if self._known_until_seconds is None:
                raise
            return  # our own are in memory
        # A journal that was lost while the program runs knows nothing either.
        is_current = known_until_seconds > 0 and not (first and now - known_until_seconds > CURRENT_SECONDS)
        if self._taken_over or not is_current:
            self._known_until_seconds = known_until_seconds
            is_new = self._is_first and not known_until_seconds
            self._look_for_the_past(self._overlap_seconds if is_new else self._others_seconds)
        elif self._known_until_seconds is None:
            self._known_until_seconds = known_until_seconds
        self._others_seconds, self._taken_over, self._is_first = DEADLINE_SECONDS, False, False
        for intent in unsettled:
            # Before its deadline another process may still be waiting for the answer.
            if first or now > intent.deadline_seconds:
                if intent.cl_ord_id not in self._unknown:
                    tell(Event.UNKNOWN_OUTCOME, _news_of(intent))
                self._unknown.add(_as_unknown(intent))
        self._loaded = True


def _news_of(intent: Intent) -> str:
    what = f"{intent.cl_ord_id} ({intent.side} {intent.volume:f} {intent.symbol})"
    return f"An earlier run, or another process, has left the order {what} unsettled; it is looked up at Kraken."


def _as_unknown(intent: Intent) -> UnknownOrder:
    return UnknownOrder(
        cl_ord_id=intent.cl_ord_id,
        symbol=intent.symbol,
        side=intent.side,
        volume=intent.volume,
        price=intent.price,
        sent_seconds=intent.sent_seconds,
        deadline_seconds=intent.deadline_seconds,
    )

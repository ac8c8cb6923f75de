"""Orders whose fate is unknown, and what proves it. Pure: the time is passed in, the look-ups are made elsewhere.

The proof that an order was not placed, in this order and no other:

1. the fence: one own private read is accepted. Its nonce is above the order's, so no copy of the order that
   is still on its way can be accepted after it;
2. OpenOrders, sent not earlier than 5 s after both the order's deadline and the fence;
3. ClosedOrders, sent at least 3 s after that answer. Asked the other way round, an order that fills between
   the two would be in neither.

Found anywhere at any time: placed. Never by time alone: while Kraken does not answer, it stays unknown.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum

from bot.base.models import Order, Side

ORDER_DEADLINE_SECONDS = 8.0
DEADLINE_MARGIN_SECONDS = 5.0
QUERY_GAP_SECONDS = 3.0
# Rows of the past are asked for from a little earlier than the order, because its time is Kraken's and ours may differ.
LOOKBACK_SECONDS = 60.0

# Stands for every order that an earlier life may have sent.
HISTORY_GAP_ID = ""


@dataclass(frozen=True, slots=True)
class UnknownOrder:
    """An order that was sent and not answered. Times are Kraken's, in Unix seconds.

    `price` is zero where it is not known (a market order sent by hand). `sent_seconds` is when it was written down,
    the moment before its first byte could leave.
    """

    cl_ord_id: str
    symbol: str
    side: Side
    volume: Decimal
    price: Decimal
    sent_seconds: float
    deadline_seconds: float
    fence_seconds: float | None = None
    open_orders_answered_seconds: float | None = None

    @property
    def due_seconds(self) -> float:
        """When its next look-up may be sent."""
        if self.open_orders_answered_seconds is not None:
            return self.open_orders_answered_seconds + QUERY_GAP_SECONDS
        if self.fence_seconds is None:
            return self.sent_seconds
        return max(self.deadline_seconds, self.fence_seconds) + DEADLINE_MARGIN_SECONDS

    def next_step(self, now: float) -> QueryStep:
        """Return what may be asked next."""
        if now < self.due_seconds:
            return QueryStep.WAIT
        if self.fence_seconds is None:
            return QueryStep.FENCE
        return QueryStep.OPEN if self.open_orders_answered_seconds is None else QueryStep.CLOSED


def history_gap(now: float, deadline_seconds: float) -> UnknownOrder:
    """Return what stands for all orders that another life, of which nothing is known, may have sent.

    The last of them has its deadline at `deadline_seconds`.
    """
    return UnknownOrder(HISTORY_GAP_ID, "", Side.BUY, Decimal(0), Decimal(0), now, deadline_seconds)


class QueryStep(Enum):
    """The next look-up of a settlement."""

    FENCE = "fence"
    OPEN = "open"
    CLOSED = "closed"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The fate of an order: `order` is its row at Kraken, or None where it was proved not to exist."""

    unknown_order: UnknownOrder
    order: Order | None


class UnknownOrders:
    """The unknown orders of one account, by `cl_ord_id`. Thread-safe. The journal makes them outlive the process."""

    def __init__(self) -> None:
        self._orders: dict[str, UnknownOrder] = {}
        self._lock = threading.Lock()

    def after_fork_in_child(self) -> None:
        """A lock that a thread of the parent holds is never given back in the child."""
        self._lock = threading.Lock()

    def add(self, order: UnknownOrder) -> None:
        """Count an order as unknown, from before it is sent; one that is counted already keeps its progress."""
        with self._lock:
            self._orders.setdefault(order.cl_ord_id, order)

    def __contains__(self, cl_ord_id: str) -> bool:
        """Whether the fate of this order is unknown."""
        return cl_ord_id in self._orders

    def remove(self, cl_ord_id: str) -> None:
        """The order's fate is known."""
        with self._lock:
            self._orders.pop(cl_ord_id, None)

    def all(self) -> list[UnknownOrder]:
        """Return them, oldest first."""
        with self._lock:
            return list(self._orders.values())

    def for_pair(self, symbol: str) -> list[UnknownOrder]:
        """Return those that block a pair."""
        return [order for order in self.all() if order.symbol == symbol]

    def due_seconds(self) -> float | None:
        """Return when the next look-up may be sent; None while nothing is unknown."""
        return min((order.due_seconds for order in self.all()), default=None)

    def next_step(self, now: float) -> QueryStep:
        """Return the look-up that is due: one of each kind settles all orders that are ready for it."""
        steps = {order.next_step(now) for order in self.all()}
        return next(
            (step for step in (QueryStep.FENCE, QueryStep.CLOSED, QueryStep.OPEN) if step in steps), QueryStep.WAIT
        )

    def apply_query_result(
        self, step: QueryStep, kraken_orders: list[Order], queried_seconds: float, answered_seconds: float
    ) -> list[Resolution]:
        """Take the rows of a look-up that was sent at `asked`; return the orders that it settles.

        OPEN brings the rows of OpenOrders, CLOSED those of ClosedOrders, FENCE both.
        """
        found = {row.cl_ord_id: row for row in kraken_orders if row.cl_ord_id}
        resolutions: list[Resolution] = []
        for order in self.all():
            # What was asked before an order left says nothing of it.
            is_due = order.next_step(queried_seconds) is step
            if order.cl_ord_id in found:
                resolutions.append(Resolution(order, found[order.cl_ord_id]))
            elif is_due and step is QueryStep.FENCE:
                self._update(replace(order, fence_seconds=answered_seconds))
            elif is_due and step is QueryStep.OPEN:
                self._update(replace(order, open_orders_answered_seconds=answered_seconds))
            elif is_due and step is QueryStep.CLOSED:
                resolutions.append(Resolution(order, None))
        for resolution in resolutions:
            self.remove(resolution.unknown_order.cl_ord_id)
        return resolutions

    def restart_proof(self) -> None:
        """A look-up was not answered: the pair of look-ups starts again."""
        for order in self.all():
            self._update(replace(order, open_orders_answered_seconds=None))

    def _update(self, order: UnknownOrder) -> None:
        with self._lock:
            # It may have been answered meanwhile.
            if order.cl_ord_id in self._orders:
                self._orders[order.cl_ord_id] = order

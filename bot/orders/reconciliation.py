"""Orders whose outcome is unknown, and what proves it. Pure: the time is passed in, `reconciler.py` sends the queries.

The proof that an order was not placed, in this order and no other:

1. the fencing read: one own private read is accepted. Its nonce is above the order's, so no copy of the order that
   is still on its way can be accepted after it;
2. OpenOrders, sent not earlier than 5 s after both the order's deadline and the fencing read;
3. ClosedOrders, sent at least 3 s after that answer. In the other order of queries, an order that fills between
   the two would be in neither;
4. evidence that the key sees its orders (`reconciler.py`): a key with a query window gets empty lists.

An order that is found anywhere at any time was placed. Time alone proves nothing: while Kraken does not answer, the
outcome stays unknown.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from enum import Enum

from bot.base.models import Order, Side

DEADLINE_MARGIN_SECONDS = 5.0
QUERY_GAP_SECONDS = 3.0
# ClosedOrders is queried from a little before the order was sent, because Kraken's clock and ours may differ.
LOOKBACK_SECONDS = 60.0

# After queries without evidence that the key sees its orders.
BLIND_RETRY_SECONDS = 60.0

# The id of the history gap: it stands for every order that an earlier run may have sent.
HISTORY_GAP_ID = ""


@dataclass(frozen=True, slots=True)
class UnknownOrder:
    """An order that was sent and not answered. Times are Kraken's, in Unix seconds.

    `price` is zero where it is not known (a market order sent by hand). `sent_seconds` is when the order was written to
    the journal, just before its first byte could leave. No query is due before `retry_seconds`.
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
    retry_seconds: float = 0.0

    @property
    def due_seconds(self) -> float:
        """When its next query may be sent."""
        if self.open_orders_answered_seconds is not None:
            return self.open_orders_answered_seconds + QUERY_GAP_SECONDS
        if self.fence_seconds is None:
            return max(self.sent_seconds, self.retry_seconds)
        return max(max(self.deadline_seconds, self.fence_seconds) + DEADLINE_MARGIN_SECONDS, self.retry_seconds)

    def next_step(self, now: float) -> QueryStep:
        """Return the query that may be sent next."""
        if now < self.due_seconds:
            return QueryStep.WAIT
        if self.fence_seconds is None:
            return QueryStep.FENCE
        return QueryStep.OPEN if self.open_orders_answered_seconds is None else QueryStep.CLOSED


def history_gap(now: float, deadline_seconds: float) -> UnknownOrder:
    """Return what stands for all orders that another run, of which nothing is known, may have sent.

    The last of them has its deadline at `deadline_seconds`.
    """
    return UnknownOrder(HISTORY_GAP_ID, "", Side.BUY, Decimal(0), Decimal(0), now, deadline_seconds)


class QueryStep(Enum):
    """The next query of the proof."""

    FENCE = "fence"
    OPEN = "open"
    CLOSED = "closed"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Resolution:
    """The outcome of an order: `order` is its record at Kraken, or None where it was proved not to exist."""

    unknown_order: UnknownOrder
    order: Order | None


def next_step(orders: Iterable[UnknownOrder], now: float) -> QueryStep:
    """Return the query that is due: one of each kind serves all orders that are ready for it."""
    steps = {order.next_step(now) for order in orders}
    return next((step for step in (QueryStep.FENCE, QueryStep.CLOSED, QueryStep.OPEN) if step in steps), QueryStep.WAIT)


def missing_orders(
    orders: Iterable[UnknownOrder], kraken_orders: Iterable[Order], queried_seconds: float
) -> list[UnknownOrder]:
    """Return the orders that this answer of ClosedOrders resolves as not placed, if the key sees its orders."""
    found = {record.cl_ord_id for record in kraken_orders}
    return [
        order
        for order in orders
        if order.cl_ord_id not in found and order.next_step(queried_seconds) is QueryStep.CLOSED
    ]


def apply_query_result(
    orders: Iterable[UnknownOrder],
    step: QueryStep,
    kraken_orders: Iterable[Order],
    queried_seconds: float,
    answered_seconds: float,
) -> tuple[list[Resolution], list[UnknownOrder]]:
    """Return which orders a query resolves, and which of the others it brings a step further.

    OPEN brings the records of OpenOrders, CLOSED those of ClosedOrders, FENCE both. The query was sent at
    `queried_seconds`.
    """
    found = {record.cl_ord_id: record for record in kraken_orders if record.cl_ord_id}
    resolutions: list[Resolution] = []
    advanced: list[UnknownOrder] = []
    for order in orders:
        # A query from before the order was sent proves nothing about it.
        is_due = order.next_step(queried_seconds) is step
        if order.cl_ord_id in found:
            resolutions.append(Resolution(order, found[order.cl_ord_id]))
        elif is_due and step is QueryStep.FENCE:
            advanced.append(replace(order, fence_seconds=answered_seconds))
        elif is_due and step is QueryStep.OPEN:
            advanced.append(replace(order, open_orders_answered_seconds=answered_seconds))
        elif is_due and step is QueryStep.CLOSED:
            resolutions.append(Resolution(order, None))
    return resolutions, advanced

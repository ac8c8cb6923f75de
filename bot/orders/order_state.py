"""The life of an order: its states, and which may follow which. Pure.

    intended ----> sent ----> open ----> partly filled ----> filled, cancelled, expired
        ^           | |
        | nothing   | +-----> refused
        +-- left ---+ +-----> unknown --> placed after all, or not placed

`intended`: no byte can have left. `sent`: written down before the first byte leaves, so it may have. An order that is
sent or unknown has no known fate, and keeps new orders away from its pair. Kraken's rows are the last word: should
they ever show an order that was taken to be refused or not placed, then the row is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from bot.base.models import Order, OrderStatus, Side


class OrderState(StrEnum):
    """Where an order is in its life."""

    INTENDED = "intended"
    SENT = "sent"
    UNKNOWN = "unknown"
    OPEN = "open"
    PARTLY_FILLED = "partly filled"
    FILLED = "filled"
    CANCELED = "cancelled"
    EXPIRED = "expired"
    REFUSED = "refused"
    NOT_PLACED = "not placed"


UNRESOLVED_STATES = frozenset({OrderState.SENT, OrderState.UNKNOWN})
WORKING_STATES = frozenset({OrderState.OPEN, OrderState.PARTLY_FILLED})
_FINAL_STATES = frozenset({OrderState.FILLED, OrderState.CANCELED, OrderState.EXPIRED})
PLACED_STATES = WORKING_STATES | _FINAL_STATES

ALLOWED_TRANSITIONS: Mapping[OrderState, frozenset[OrderState]] = {
    OrderState.INTENDED: frozenset({OrderState.SENT, OrderState.NOT_PLACED}) | PLACED_STATES,
    OrderState.SENT: frozenset({OrderState.INTENDED, OrderState.UNKNOWN, OrderState.REFUSED, OrderState.NOT_PLACED})
    | PLACED_STATES,
    OrderState.UNKNOWN: frozenset({OrderState.NOT_PLACED}) | PLACED_STATES,
    OrderState.OPEN: frozenset({OrderState.PARTLY_FILLED}) | _FINAL_STATES,
    OrderState.PARTLY_FILLED: _FINAL_STATES,
    OrderState.FILLED: frozenset(),
    OrderState.CANCELED: frozenset(),
    OrderState.EXPIRED: frozenset(),
    OrderState.REFUSED: PLACED_STATES,
    OrderState.NOT_PLACED: PLACED_STATES,
}


def state_from_order(order: Order) -> OrderState:
    """Return the state that a row of Kraken's shows."""
    if order.is_open:
        return OrderState.PARTLY_FILLED if order.executed else OrderState.OPEN
    return {
        OrderStatus.CLOSED: OrderState.FILLED,
        OrderStatus.CANCELED: OrderState.CANCELED,
        OrderStatus.EXPIRED: OrderState.EXPIRED,
    }[order.status]


@dataclass(frozen=True, slots=True)
class Intent:
    """An order as we meant it, and what is known of its fate.

    `kind` is Kraken's ordertype and `price` the limit or trigger price, zero where it has none. Times are Kraken's, in
    Unix seconds, zero where there is none yet. `nonce` and `txid` are "" until there is one.
    """

    cl_ord_id: str
    symbol: str
    side: Side
    kind: str
    volume: Decimal
    price: Decimal
    intended_seconds: float
    state: OrderState = OrderState.INTENDED
    nonce: str = ""
    sent_seconds: float = 0.0
    deadline_seconds: float = 0.0
    txid: str = ""
    reason: str = ""

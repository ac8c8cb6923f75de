"""The order state machine: the states of an order and the allowed transitions. Pure.

    intended ----> sent ----> open ----> partly filled ----> filled, cancelled, expired
        ^           | |
        | nothing   | +-----> refused
        +-- left ---+ +-----> unknown --> placed after all, or not placed

`intended`: no byte can have left. `sent`: written to the journal before the first byte leaves, so it may have left. An
order that is sent or unknown has an unknown outcome and blocks new orders of its pair. Kraken's records decide: a
record of an order that counted as refused or not placed is still written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum

from bot.base.models import Order, OrderStatus, Side


class OrderState(StrEnum):
    """The state of an order."""

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
    """Return the state that a record of Kraken's shows."""
    if order.is_open:
        return OrderState.PARTLY_FILLED if order.executed else OrderState.OPEN
    return {
        OrderStatus.CLOSED: OrderState.FILLED,
        OrderStatus.CANCELED: OrderState.CANCELED,
        OrderStatus.EXPIRED: OrderState.EXPIRED,
    }[order.status]


@dataclass(frozen=True, slots=True)
class Intent:
    """An order as the bot intended it, and what is known of its outcome.

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

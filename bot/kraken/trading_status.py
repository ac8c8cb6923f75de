"""Which orders the status of the exchange and of a pair allows. Pure.

The words and what they allow: Kraken's SystemStatus page, and `status` in AssetPairs. `limit_only` and `reduce_only`
occur for pairs alone, but have the same meaning for the exchange.
"""

from __future__ import annotations

from enum import StrEnum

ONLINE = "online"


class OrderClass(StrEnum):
    """The class of an order that a status allows or forbids.

    LIMIT is a limit order of any time in force, a market order of ours (a limit, immediate or cancel) too.
    CLOSING_SELL is such an order that sells what is held. OTHER is whatever has no limit: a plain market order, a stop.
    """

    CANCEL = "cancels"
    POST_ONLY = "post-only limit orders"
    LIMIT = "limit orders"
    CLOSING_SELL = "sales of what is held"
    OTHER = "orders without a limit"


_ALLOWED_BY_STATUS: dict[str, frozenset[OrderClass]] = {
    ONLINE: frozenset(OrderClass),
    "maintenance": frozenset(),
    "cancel_only": frozenset({OrderClass.CANCEL}),
    "post_only": frozenset({OrderClass.CANCEL, OrderClass.POST_ONLY}),
    "limit_only": frozenset({OrderClass.CANCEL, OrderClass.POST_ONLY, OrderClass.LIMIT, OrderClass.CLOSING_SELL}),
    "reduce_only": frozenset({OrderClass.CANCEL, OrderClass.CLOSING_SELL}),
}


def allowed_classes(status: str) -> frozenset[OrderClass]:
    """Return what a status lets through; a word that nobody knows counts as maintenance: nothing."""
    return _ALLOWED_BY_STATUS.get(status, frozenset())


def block_reason(system: str, pair: str, order_class: OrderClass) -> str:
    """Say why something may not be sent, given the status of the exchange and of the pair; "" where it may.

    `pair` is "" for what concerns no single pair, and where AssetPairs gives no status (it may be missing).
    """
    for subject, status in (("the exchange", system), ("the pair", pair or ONLINE)):
        if order_class not in allowed_classes(status):
            return describe_status(subject, status)
    return ""


def describe_status(subject: str, status: str) -> str:
    """Say what a status lets through: "the pair's status is cancel_only: cancels and nothing else"."""
    allowed_labels = [order_class.value for order_class in OrderClass if order_class in allowed_classes(status)]
    return f"{subject}'s status is {status}: " + (
        f"{', '.join(allowed_labels)} and nothing else" if allowed_labels else "nothing is sent"
    )

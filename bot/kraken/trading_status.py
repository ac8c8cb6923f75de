"""What may be sent while the exchange or a pair is not wholly open. Pure.

The words and what they allow: Kraken's SystemStatus page, and `status` in AssetPairs. `limit_only` and `reduce_only`
are said of pairs alone, but mean the same wherever they stand.
"""

from __future__ import annotations

from enum import StrEnum

ONLINE = "online"


class What(StrEnum):
    """What somebody would like to send.

    LIMIT is a limit order of any time in force, a market order of ours (a limit, immediate or cancel) too.
    CLOSING_SELL is such an order that sells what is held. OTHER is whatever has no limit: a plain market order, a stop.
    """

    CANCEL = "cancels"
    POST_ONLY = "post-only limit orders"
    LIMIT = "limit orders"
    CLOSING_SELL = "sales of what is held"
    OTHER = "orders without a limit"


_ALLOWED: dict[str, frozenset[What]] = {
    ONLINE: frozenset(What),
    "maintenance": frozenset(),
    "cancel_only": frozenset({What.CANCEL}),
    "post_only": frozenset({What.CANCEL, What.POST_ONLY}),
    "limit_only": frozenset({What.CANCEL, What.POST_ONLY, What.LIMIT, What.CLOSING_SELL}),
    "reduce_only": frozenset({What.CANCEL, What.CLOSING_SELL}),
}


def allowed(status: str) -> frozenset[What]:
    """Return what a status lets through; a word that nobody knows counts as maintenance: nothing."""
    return _ALLOWED.get(status, frozenset())


def refusal(system: str, pair: str, what: What) -> str:
    """Say why something may not be sent, given the status of the exchange and of the pair; "" where it may.

    `pair` is "" for what concerns no single pair, and where AssetPairs gives no status (it may be missing).
    """
    for who, status in (("the exchange", system), ("the pair", pair or ONLINE)):
        if what not in allowed(status):
            return held_up(who, status)
    return ""


def held_up(who: str, status: str) -> str:
    """Say what a status lets through: "the pair's status is cancel_only: cancels and nothing else"."""
    words = [what.value for what in What if what in allowed(status)]
    return f"{who}'s status is {status}: " + (f"{', '.join(words)} and nothing else" if words else "nothing is sent")

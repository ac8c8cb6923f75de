"""The journal against Kraken: every order on both sides, and sums to the last decimal. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from decimal import Decimal

from bot.base.models import ZERO, Fill, Order
from bot.orders.order_state import PLACED, UNSETTLED, Intent, state_of

_ORDER_FIELDS = [
    "cl_ord_id",
    "symbol",
    "side",
    "kind",
    "status",
    "price",
    "volume",
    "executed",
    "cost",
    "fee",
    "average_price",
    "opened_seconds",
    "closed_seconds",
]
_FILL_FIELDS = ["order_txid", "symbol", "side", "price", "volume", "cost", "fee", "time_seconds"]


def compare(
    orders: Iterable[Order],
    intents: Iterable[Intent],
    fills: Iterable[Fill],
    kraken_orders: Iterable[Order],
    kraken_fills: Iterable[Fill],
) -> list[str]:
    """Return what differs between the journal's orders, intents and fills and Kraken's own of the same bot.

    One sentence a difference; none where all is equal. An intent without a known fate is a difference.
    """
    kept = {order.txid: order for order in orders}
    # An order may close between the readings of the two lists, and then be in both: the later one is the last word.
    theirs = {order.txid: order for order in kraken_orders}
    kept_fills = {fill.trade_id: fill for fill in fills}
    own_txids = kept.keys() | theirs.keys()
    their_fills = {fill.trade_id: fill for fill in kraken_fills if fill.order_txid in own_txids}
    return [
        *_doubled(theirs.values()),
        *_rows("the order", kept, theirs, _ORDER_FIELDS),
        *_lives(intents, theirs),
        *_sums(kept, kept_fills.values()),
        *_rows("the fill", kept_fills, their_fills, _FILL_FIELDS),
    ]


def _doubled(rows: Iterable[Order]) -> list[str]:
    txids: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        txids[row.cl_ord_id].append(row.txid)
    return [
        f"doubled: {cl_ord_id} is {len(those)} orders at Kraken ({', '.join(sorted(those))})"
        for cl_ord_id, those in txids.items()
        if len(those) > 1
    ]


def _rows(what: str, kept: Mapping[str, object], theirs: Mapping[str, object], fields: Iterable[str]) -> list[str]:
    only_kept = [f"{what} {one} is in the journal and not at Kraken" for one in kept if one not in theirs]
    only_theirs = [f"{what} {one} is at Kraken and not in the journal" for one in theirs if one not in kept]
    unequal = [
        f"{what} {one}: {field} is {_text(mine)} in the journal and {_text(other)} at Kraken"
        for one in kept
        if one in theirs
        for field in fields
        if (mine := getattr(kept[one], field)) != (other := getattr(theirs[one], field))
    ]
    return only_kept + only_theirs + unequal


def _lives(intents: Iterable[Intent], theirs: dict[str, Order]) -> list[str]:
    by_id: dict[str, list[Order]] = defaultdict(list)
    for row in theirs.values():
        by_id[row.cl_ord_id].append(row)
    known = {intent.cl_ord_id: intent for intent in intents}
    strange = [f"{one} is at Kraken and was never intended" for one in by_id if one not in known]
    return strange + [
        problem for intent in known.values() if (problem := _life(intent, by_id.get(intent.cl_ord_id, [])))
    ]


def _life(intent: Intent, rows: list[Order]) -> str:
    """Return what is wrong with an intent, given Kraken's rows of its id; "" where nothing is."""
    states = {state_of(row) for row in rows if intent.txid in ("", row.txid)}
    here = f"{intent.cl_ord_id} is {intent.state} in the journal"
    if states and states != {intent.state}:
        return f"{here} and {', '.join(sorted(states))} at Kraken"
    if intent.state in UNSETTLED:
        return f"{here}: what became of it is not known yet"
    if intent.state in PLACED and not states:
        return f"{here} and not at Kraken"
    return ""


def _sums(orders: dict[str, Order], fills: Iterable[Fill]) -> list[str]:
    of_order: dict[str, list[Fill]] = defaultdict(list)
    for fill in fills:
        of_order[fill.order_txid].append(fill)
    problems = [f"the journal has fills of {txid}, and not that order" for txid in of_order if txid not in orders]
    for txid, order in orders.items():
        sums = {
            "executed": sum((fill.volume for fill in of_order[txid]), ZERO),
            "cost": sum((fill.cost for fill in of_order[txid]), ZERO),
            "fee": sum((fill.fee for fill in of_order[txid]), ZERO),
        }
        problems += [
            f"the order {txid}: {field} is {_text(getattr(order, field))}, and that of its fills in the journal "
            f"{_text(total)}"
            for field, total in sums.items()
            if getattr(order, field) != total
        ]
    return problems


def _text(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)

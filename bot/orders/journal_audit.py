"""The journal against Kraken: every order on both sides, and sums to the last decimal. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import fields
from decimal import Decimal

from bot.base.models import ZERO, Fill, Order
from bot.orders.order_state import PLACED_STATES, UNRESOLVED_STATES, Intent, state_from_order

_ORDER_FIELDS = [field.name for field in fields(Order) if field.name not in ("txid", "expires_seconds", "reason")]
_FILL_FIELDS = [field.name for field in fields(Fill) if field.name != "trade_id"]


def find_differences(
    orders: Iterable[Order],
    intents: Iterable[Intent],
    fills: Iterable[Fill],
    kraken_orders: Iterable[Order],
    kraken_fills: Iterable[Fill],
) -> list[str]:
    """Return what differs between the journal's orders, intents and fills and Kraken's own of the same bot.

    One sentence a difference; none where all is equal. An intent with an unknown outcome is a difference.
    """
    journal_by_txid = {order.txid: order for order in orders}
    # An order may close between the readings of the two lists, and then be in both: the later one is the last word.
    kraken_by_txid = {order.txid: order for order in kraken_orders}
    journal_fills_by_id = {fill.trade_id: fill for fill in fills}
    own_txids = journal_by_txid.keys() | kraken_by_txid.keys()
    kraken_fills_by_id = {fill.trade_id: fill for fill in kraken_fills if fill.order_txid in own_txids}
    return [
        *_find_duplicates(kraken_by_txid.values()),
        *_compare_records("the order", journal_by_txid, kraken_by_txid, _ORDER_FIELDS),
        *_check_intents(intents, kraken_by_txid),
        *_check_sums(journal_by_txid, journal_fills_by_id.values()),
        *_compare_records("the fill", journal_fills_by_id, kraken_fills_by_id, _FILL_FIELDS),
    ]


def _find_duplicates(kraken_orders: Iterable[Order]) -> list[str]:
    txids: dict[str, list[str]] = defaultdict(list)
    for order in kraken_orders:
        txids[order.cl_ord_id].append(order.txid)
    return [
        f"doubled: {cl_ord_id} is {len(duplicates)} orders at Kraken ({', '.join(sorted(duplicates))})"
        for cl_ord_id, duplicates in txids.items()
        if len(duplicates) > 1
    ]


def _compare_records(
    kind: str, journal_records: Mapping[str, object], kraken_records: Mapping[str, object], fields: Iterable[str]
) -> list[str]:
    only_in_journal = [
        f"{kind} {key} is in the journal and not at Kraken" for key in journal_records if key not in kraken_records
    ]
    only_at_kraken = [
        f"{kind} {key} is at Kraken and not in the journal" for key in kraken_records if key not in journal_records
    ]
    differing = [
        f"{kind} {key}: {field} is {_format_value(journal_value)} in the journal"
        f" and {_format_value(kraken_value)} at Kraken"
        for key in journal_records
        if key in kraken_records
        for field in fields
        if (journal_value := getattr(journal_records[key], field))
        != (kraken_value := getattr(kraken_records[key], field))
    ]
    return only_in_journal + only_at_kraken + differing


def _check_intents(intents: Iterable[Intent], kraken_by_txid: dict[str, Order]) -> list[str]:
    by_id: dict[str, list[Order]] = defaultdict(list)
    for order in kraken_by_txid.values():
        by_id[order.cl_ord_id].append(order)
    intents_by_id = {intent.cl_ord_id: intent for intent in intents}
    unintended = [
        f"{cl_ord_id} is at Kraken and was never intended" for cl_ord_id in by_id if cl_ord_id not in intents_by_id
    ]
    return unintended + [
        problem
        for intent in intents_by_id.values()
        if (problem := _check_intent(intent, by_id.get(intent.cl_ord_id, [])))
    ]


def _check_intent(intent: Intent, kraken_orders: list[Order]) -> str:
    """Return what is wrong with an intent, given Kraken's records of its id; "" where nothing is."""
    states = {state_from_order(order) for order in kraken_orders if intent.txid in ("", order.txid)}
    prefix = f"{intent.cl_ord_id} is {intent.state} in the journal"
    if states and states != {intent.state}:
        return f"{prefix} and {', '.join(sorted(states))} at Kraken"
    if intent.state in UNRESOLVED_STATES:
        return f"{prefix}: what became of it is not known yet"
    if intent.state in PLACED_STATES and not states:
        return f"{prefix} and not at Kraken"
    return ""


def _check_sums(orders: dict[str, Order], fills: Iterable[Fill]) -> list[str]:
    fills_by_txid: dict[str, list[Fill]] = defaultdict(list)
    for fill in fills:
        fills_by_txid[fill.order_txid].append(fill)
    problems = [f"the journal has fills of {txid}, and not that order" for txid in fills_by_txid if txid not in orders]
    for txid, order in orders.items():
        sums = {
            "executed": sum((fill.volume for fill in fills_by_txid[txid]), ZERO),
            "cost": sum((fill.cost for fill in fills_by_txid[txid]), ZERO),
            "fee": sum((fill.fee for fill in fills_by_txid[txid]), ZERO),
        }
        problems += [
            f"the order {txid}: {field} is {_format_value(getattr(order, field))}, and that of its fills in the journal"
            f" {_format_value(total)}"
            for field, total in sums.items()
            if getattr(order, field) != total
        ]
    return problems


def _format_value(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else str(value)

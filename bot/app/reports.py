"""What the journal tells of orders and fills, and whether it agrees with Kraken. Times are UTC."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from bot.app.table import Row, short, text_of
from bot.base.clock import utc, wall_seconds
from bot.base.models import ZERO, Fill, Order, Side
from bot.base.paths import journal_file
from bot.orders.journal import Journal
from bot.orders.journal_audit import compare
from bot.orders.order_state import PLACED, UNSETTLED, WORKING, Intent, OrderState, state_of

_ORDER_COLUMNS = [
    "time",
    "pair",
    "side",
    "type",
    "volume",
    "price",
    "state",
    "executed",
    "average",
    "fee",
    "cl_ord_id",
    "txid",
    "unknown_seconds",
    "reason",
]
_FILL_COLUMNS = ["time", "pair", "side", "volume", "price", "cost", "fee", "order_txid", "trade_id"]


def find_journal(nonce_file: str, api_key: str, is_paper: bool) -> Path | None:
    """Return the journal of the user's own key; on paper, of the accounts beside it that which was written last.

    None where there is none yet.
    """
    live = Path(journal_file(nonce_file, api_key))
    if not is_paper:
        return live if live.exists() else None
    found = [one for one in live.parent.glob("journal.*.sqlite") if re.fullmatch(r"journal\.[0-9a-f]{8}", one.stem)]
    return max((one for one in found if not api_key or one != live), key=_written_seconds, default=None)


def _written_seconds(path: Path) -> float:
    # What was written last is in the log beside the file.
    files = (path, path.with_name(f"{path.name}-wal"))
    return max(file.stat().st_mtime for file in files if file.exists())


def order_rows(intents: Iterable[Intent], orders: Iterable[Order], now: float, *, only_open: bool) -> list[Row]:
    """Return a row for each order, oldest first. `now`: Unix seconds, for the age of those whose fate is not known.

    `only_open`: those that may still fill, and those whose fate is not known.
    """
    kept = {order.txid: order for order in orders}
    rows = [(intent.sent_seconds or intent.intended_seconds, _intent_row(intent, kept, now)) for intent in intents]
    # What is left is a second order of an id, or one whose intent was lost.
    rows += [(order.opened_seconds, _order_row(order)) for order in kept.values()]
    wanted = {str(state) for state in (UNSETTLED | WORKING if only_open else OrderState)}
    return [row for _, row in sorted(rows, key=lambda pair: pair[0]) if row["state"] in wanted]


def _intent_row(intent: Intent, kept: dict[str, Order], now: float) -> Row:
    order = kept.pop(intent.txid, None) if intent.state in PLACED else None
    if order is not None:
        return _order_row(order) | {"state": str(intent.state)}
    age = max(0, int(now - intent.sent_seconds)) if intent.state in UNSETTLED else None
    return {
        "time": utc(intent.sent_seconds or intent.intended_seconds),
        "pair": intent.symbol,
        "side": str(intent.side),
        "type": intent.kind,
        "volume": intent.volume,
        "price": intent.price,
        "state": str(intent.state),
        "executed": ZERO,
        "average": ZERO,
        "fee": ZERO,
        "cl_ord_id": intent.cl_ord_id,
        "txid": intent.txid,
        "unknown_seconds": age,
        "reason": intent.reason,
    }


def _order_row(order: Order) -> Row:
    return {
        "time": utc(order.opened_seconds),
        "pair": order.symbol,
        "side": str(order.side),
        "type": order.kind,
        "volume": order.volume,
        "price": order.price,
        "state": str(state_of(order)),
        "executed": order.executed,
        "average": order.average_price,
        "fee": order.fee,
        "cl_ord_id": order.cl_ord_id,
        "txid": order.txid,
        "unknown_seconds": None,
        "reason": order.reason,
    }


def fill_rows(fills: Iterable[Fill]) -> list[Row]:
    """Return a row for each fill, in their order."""
    return [
        {
            "time": utc(fill.time_seconds),
            "pair": fill.symbol,
            "side": str(fill.side),
            "volume": fill.volume,
            "price": fill.price,
            "cost": fill.cost,
            "fee": fill.fee,
            "order_txid": fill.order_txid,
            "trade_id": fill.trade_id,
        }
        for fill in fills
    ]


def fill_sums(fills: Sequence[Fill]) -> list[str]:
    """Return a line for each pair: what was bought and sold of it, for how much of its quote, and the fees."""
    return [_sum_line(symbol, [fill for fill in fills if fill.symbol == symbol]) for symbol in _symbols(fills)]


def _symbols(fills: Sequence[Fill]) -> list[str]:
    return sorted({fill.symbol for fill in fills})


def _sum_line(symbol: str, fills: list[Fill]) -> str:
    base, _, quote = symbol.partition("/")
    parts = []
    for side, word in ((Side.BUY, "bought"), (Side.SELL, "sold")):
        of_side = [fill for fill in fills if fill.side is side]
        volume, cost = sum((fill.volume for fill in of_side), ZERO), sum((fill.cost for fill in of_side), ZERO)
        parts.append(f"{word} {short(volume)} {base} for {short(cost)} {quote}")
    fee = sum((fill.fee for fill in fills), ZERO)
    return f"{symbol}: {', '.join(parts)}, fees {short(fee)} {quote}"


def orders_report(journal: Journal | None, form: str, only_open: bool) -> str:
    """Write the orders of a journal as `table`, `json` or `csv`. Raises JournalError."""
    orders = [] if journal is None else journal.orders()
    intents = [] if journal is None else journal.intents()
    return text_of(order_rows(intents, orders, wall_seconds(), only_open=only_open), _ORDER_COLUMNS, form)


def fills_report(journal: Journal | None, form: str) -> str:
    """Write the fills of a journal as `table`, `json` or `csv`; the table ends with their sums. Raises JournalError."""
    fills = [] if journal is None else journal.fills()
    text = text_of(fill_rows(fills), _FILL_COLUMNS, form)
    return "\n".join([text, *fill_sums(fills)]) if form == "table" else text


def check_journal(
    journal: Journal, kraken: Callable[[], tuple[list[Order], list[Fill]]], form: str
) -> tuple[str, bool]:
    """Compare a journal with what `kraken` returns, orders and fills; return the report, and whether all is equal.

    The journal is read before and after: what a running bot writes down meanwhile is no difference.
    """
    before = (journal.orders(), journal.intents(), journal.fills())
    rows, trades = kraken()
    findings = compare(*before, rows, trades)
    if findings:
        after = set(compare(journal.orders(), journal.intents(), journal.fills(), rows, trades))
        findings = [one for one in findings if one in after]
    return _findings_text(findings, len(before[0]), len(before[2]), form), not findings


def _findings_text(findings: list[str], orders: int, fills: int, form: str) -> str:
    if form == "json":
        return json.dumps({"equal": not findings, "orders": orders, "fills": fills, "findings": findings}, indent=1)
    if form == "csv":
        return text_of([{"finding": one} for one in findings], ["finding"], form)
    if not findings:
        return f"ok: {orders} orders, {fills} fills, all equal"
    advice = "What is only newer at Kraken, the next run takes over; then check again"
    counted = f"{len(findings)} differences; {orders} orders and {fills} fills in the journal. {advice}"
    return "\n".join([*findings, counted])

"""Reports of the journal's orders and fills, and its comparison with Kraken, as a table, JSON or CSV. Times are UTC.

In JSON and CSV money is the exact text of the journal; in the table it is without trailing zeros.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from pathlib import Path

from bot.base.clock import format_utc, wall_seconds
from bot.base.models import ZERO, Fill, Order, Side
from bot.base.paths import journal_file_path
from bot.kraken.pairs import format_decimal
from bot.orders.journal import Journal
from bot.orders.journal_audit import find_differences
from bot.orders.order_state import (
    PLACED_STATES,
    UNRESOLVED_STATES,
    WORKING_STATES,
    Intent,
    OrderState,
    state_from_order,
)

Value = str | int | Decimal | None
Row = dict[str, Value]

TABLE_WIDTH = 100
# Printed beneath each row of the table, which would be wider than a small screen otherwise.
_DETAIL_COLUMNS = ("cl_ord_id", "txid", "order_txid", "trade_id", "unknown_seconds", "reason")
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
    """Return the journal of the user's own key; on paper, the most recently written journal of the accounts beside it.

    None where there is none yet.
    """
    live_journal = Path(journal_file_path(nonce_file, api_key))
    if not is_paper:
        return live_journal if live_journal.exists() else None
    journals = [
        one for one in live_journal.parent.glob("journal.*.sqlite") if re.fullmatch(r"journal\.[0-9a-f]{8}", one.stem)
    ]
    return max(
        (one for one in journals if not api_key or one != live_journal), key=_last_modified_seconds, default=None
    )


def _last_modified_seconds(path: Path) -> float:
    # The latest writes are in the log beside the file.
    files = (path, path.with_name(f"{path.name}-wal"))
    return max(file.stat().st_mtime for file in files if file.exists())


def order_rows(intents: Iterable[Intent], orders: Iterable[Order], now_seconds: float, *, only_open: bool) -> list[Row]:
    """Return a row for each order, oldest first. `now_seconds`: Unix seconds, for the age of unknown orders.

    `only_open`: only orders that may still fill or whose outcome is unknown.
    """
    orders_by_txid = {order.txid: order for order in orders}
    rows = [
        (intent.sent_seconds or intent.intended_seconds, _intent_row(intent, orders_by_txid, now_seconds))
        for intent in intents
    ]
    # The rest are second orders of one client order id, or orders whose intent was lost.
    rows += [(order.opened_seconds, _order_row(order)) for order in orders_by_txid.values()]
    wanted_states = {str(state) for state in (UNRESOLVED_STATES | WORKING_STATES if only_open else OrderState)}
    return [row for _, row in sorted(rows, key=lambda pair: pair[0]) if row["state"] in wanted_states]


def _intent_row(intent: Intent, orders_by_txid: dict[str, Order], now_seconds: float) -> Row:
    order = orders_by_txid.pop(intent.txid, None) if intent.state in PLACED_STATES else None
    if order is not None:
        return _order_row(order) | {"state": str(intent.state)}
    age_seconds = max(0, int(now_seconds - intent.sent_seconds)) if intent.state in UNRESOLVED_STATES else None
    return _row(intent, intent.sent_seconds or intent.intended_seconds, intent.state) | {"unknown_seconds": age_seconds}


def _order_row(order: Order) -> Row:
    executed: Row = {
        "executed": order.executed,
        "average": order.bounded_average(order.average_price),
        "fee": order.fee,
    }
    return _row(order, order.opened_seconds, state_from_order(order)) | executed


def _row(record: Intent | Order, time_seconds: float, state: OrderState) -> Row:
    return {
        "time": format_utc(time_seconds),
        "pair": record.symbol,
        "side": str(record.side),
        "type": record.kind,
        "volume": record.volume,
        "price": record.price,
        "state": str(state),
        "executed": ZERO,
        "average": ZERO,
        "fee": ZERO,
        "cl_ord_id": record.cl_ord_id,
        "txid": record.txid,
        "unknown_seconds": None,
        "reason": record.reason,
    }


def fill_rows(fills: Iterable[Fill]) -> list[Row]:
    """Return a row for each fill, in their order."""
    return [
        {
            "time": format_utc(fill.time_seconds),
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


def fill_totals(fills: Sequence[Fill]) -> list[str]:
    """Return a line for each pair: the amounts bought and sold, their value in the quote currency, and the fees."""
    symbols = sorted({fill.symbol for fill in fills})
    return [_format_totals(symbol, [fill for fill in fills if fill.symbol == symbol]) for symbol in symbols]


def _format_totals(symbol: str, fills: list[Fill]) -> str:
    base, _, quote = symbol.partition("/")
    parts = []
    for side, verb in ((Side.BUY, "bought"), (Side.SELL, "sold")):
        side_fills = [fill for fill in fills if fill.side is side]
        volume, cost = sum((fill.volume for fill in side_fills), ZERO), sum((fill.cost for fill in side_fills), ZERO)
        parts.append(f"{verb} {format_decimal(volume)} {base} for {format_decimal(cost)} {quote}")
    fee = sum((fill.fee for fill in fills), ZERO)
    return f"{symbol}: {', '.join(parts)}, fees {format_decimal(fee)} {quote}"


def orders_report(journal: Journal | None, output_format: str, only_open: bool) -> str:
    """Render the orders of a journal as `table`, `json` or `csv`. Raises JournalError."""
    orders = [] if journal is None else journal.orders()
    intents = [] if journal is None else journal.intents()
    return render_rows(order_rows(intents, orders, wall_seconds(), only_open=only_open), _ORDER_COLUMNS, output_format)


def fills_report(journal: Journal | None, output_format: str) -> str:
    """Render the fills of a journal as `table`, `json` or `csv`; the table ends with their sums. Raises
    JournalError."""
    fills = [] if journal is None else journal.fills()
    text = render_rows(fill_rows(fills), _FILL_COLUMNS, output_format)
    return "\n".join([text, *fill_totals(fills)]) if output_format == "table" else text


def check_journal(
    journal: Journal, fetch_kraken_records: Callable[[], tuple[list[Order], list[Fill]]], output_format: str
) -> tuple[str, bool]:
    """Compare a journal with the orders and fills of `fetch_kraken_records`; return the report, and whether all is
    equal.

    The journal is read before and after: what a running bot writes in between is not a difference.
    """
    before = (journal.orders(), journal.intents(), journal.fills())
    kraken_orders, kraken_fills = fetch_kraken_records()
    differences = find_differences(*before, kraken_orders, kraken_fills)
    if differences:
        after = set(find_differences(journal.orders(), journal.intents(), journal.fills(), kraken_orders, kraken_fills))
        differences = [one for one in differences if one in after]
    return _format_differences(differences, len(before[0]), len(before[2]), output_format), not differences


def _format_differences(differences: list[str], orders: int, fills: int, output_format: str) -> str:
    if output_format == "json":
        return json.dumps(
            {"equal": not differences, "orders": orders, "fills": fills, "differences": differences}, indent=1
        )
    if output_format == "csv":
        return render_rows([{"difference": one} for one in differences], ["difference"], output_format)
    if not differences:
        return f"ok: {orders} orders, {fills} fills, all equal"
    advice = "The next run records what is newer at Kraken; then check again"
    summary = f"{len(differences)} differences; {orders} orders and {fills} fills in the journal. {advice}"
    return "\n".join([*differences, summary])


def render_rows(rows: list[Row], columns: list[str], output_format: str) -> str:
    """Render rows as `table`, `json` or `csv`."""
    if output_format == "json":
        return json.dumps([{name: format_exact(row[name]) for name in columns} for row in rows], indent=1)
    if output_format == "csv":
        return _render_csv(rows, columns)
    return _render_table(rows, [name for name in columns if name not in _DETAIL_COLUMNS])


def _render_csv(rows: list[Row], columns: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([format_exact(row[name]) for name in columns] for row in rows)
    return text.getvalue().rstrip("\n")


def _render_table(rows: list[Row], columns: list[str]) -> str:
    cells = [
        [name.replace("time", "time (UTC)") for name in columns],
        *([_format_cell(name, row[name]) for name in columns] for row in rows),
    ]
    widths = [max(len(line[index]) for line in cells) for index in range(len(columns))]
    is_numeric = [bool(rows) and isinstance(rows[0][name], Decimal) for name in columns]
    gap = "  " if sum(widths) + 2 * len(widths) <= TABLE_WIDTH else " "
    lines = [
        gap.join(
            cell.rjust(width) if is_right_aligned else cell.ljust(width)
            for cell, width, is_right_aligned in zip(line, widths, is_numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    details = [_format_details(row) for row in rows]
    return "\n".join([lines[0], *(f"{line}\n    {detail}" for line, detail in zip(lines[1:], details, strict=True))])


def _format_details(row: Row) -> str:
    parts = [str(row[name]) for name in _DETAIL_COLUMNS[:4] if row.get(name)]
    if row.get("unknown_seconds") is not None:
        parts.append(f"unknown for {row['unknown_seconds']} s")
    return "  ".join([*parts, *([str(row["reason"])] if row.get("reason") else [])])


def _format_cell(name: str, value: Value) -> str:
    if isinstance(value, Decimal):
        return format_decimal(value)
    return str(value).replace("T", " ").removesuffix("Z") if name == "time" else str(value)


def format_exact(value: Value) -> str | int | None:
    """Format money as its exact text, and leave everything else as it is."""
    return f"{value:f}" if isinstance(value, Decimal) else value

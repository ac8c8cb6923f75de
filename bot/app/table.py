"""Rows of a report as a table for people, as JSON or as CSV.

In JSON and CSV money is the exact text of the journal; in the table it is without trailing zeros.
"""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

from bot.kraken.pairs import format_decimal

Value = str | int | Decimal | None
Row = dict[str, Value]

TABLE_WIDTH = 100
# Printed beneath each row of the table, which would be wider than a small screen otherwise.
_DETAIL_COLUMNS = ("cl_ord_id", "txid", "order_txid", "trade_id", "unknown_seconds", "reason")


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

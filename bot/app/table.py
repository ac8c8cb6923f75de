"""Rows of a report as a table for people, as JSON or as CSV.

In JSON and CSV money is the exact text that the journal has; in the table it is without the zeros at its end.
"""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal

Value = str | int | Decimal | None
Row = dict[str, Value]

WIDTH = 100
# Beneath each row of the table, or it would be wider than a small screen.
_BENEATH = ("cl_ord_id", "txid", "order_txid", "trade_id", "unknown_seconds", "reason")


def text_of(rows: list[Row], columns: list[str], form: str) -> str:
    """Write rows as `table`, `json` or `csv`."""
    if form == "json":
        return json.dumps([{name: exact(row[name]) for name in columns} for row in rows], indent=1)
    if form == "csv":
        return _csv(rows, columns)
    return _table(rows, [name for name in columns if name not in _BENEATH])


def _csv(rows: list[Row], columns: list[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([exact(row[name]) for name in columns] for row in rows)
    return text.getvalue().rstrip("\n")


def _table(rows: list[Row], columns: list[str]) -> str:
    cells = [
        [name.replace("time", "time (UTC)") for name in columns],
        *([_cell(name, row[name]) for name in columns] for row in rows),
    ]
    widths = [max(len(line[at]) for line in cells) for at in range(len(columns))]
    is_number = [bool(rows) and isinstance(rows[0][name], Decimal) for name in columns]
    gap = "  " if sum(widths) + 2 * len(widths) <= WIDTH else " "
    lines = [
        gap.join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, is_number, strict=True)
        ).rstrip()
        for line in cells
    ]
    beneath = [_beneath(row) for row in rows]
    return "\n".join([lines[0], *(f"{line}\n    {below}" for line, below in zip(lines[1:], beneath, strict=True))])


def _beneath(row: Row) -> str:
    words = [str(row[name]) for name in _BENEATH[:4] if row.get(name)]
    if row.get("unknown_seconds") is not None:
        words.append(f"unknown for {row['unknown_seconds']} s")
    return "  ".join([*words, *([str(row["reason"])] if row.get("reason") else [])])


def _cell(name: str, value: Value) -> str:
    if isinstance(value, Decimal):
        return short(value)
    return str(value).replace("T", " ").removesuffix("Z") if name == "time" else str(value)


def short(value: Decimal) -> str:
    """Return an amount in plain digits, exactly, without the zeros at its end."""
    text = f"{value:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def exact(value: Value) -> str | int | None:
    """Return money as its exact text, and everything else as it is."""
    return f"{value:f}" if isinstance(value, Decimal) else value

"""Helpers that the tests of the journal file share."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bot.orders.journal import Journal
from tests.child_process import Child


def send_command(child: Child, command: str) -> str:
    """Send a command to a child that runs `serve`; return its answer."""
    child.write_line(command)
    return child.read_line()


def unreconciled_ids(path: Path) -> list[str]:
    """Return the ids of the orders with an unknown outcome, read through a separate journal."""
    journal = Journal(str(path))
    order_ids = sorted(intent.cl_ord_id for intent in journal.unresolved_intents())
    journal.close()
    return order_ids


def is_intact(path: Path) -> bool:
    """Return whether SQLite's integrity check passes."""
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))

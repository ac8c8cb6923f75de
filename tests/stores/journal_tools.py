"""What the tests of the journal's file share."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from bot.orders.journal import Journal
from tests.child_process import Child


def ask(child: Child, words: str) -> str:
    """Say something to a child that serves; return its answer."""
    child.tell(words)
    return child.line()


def ids(path: Path) -> list[str]:
    """Return the ids of the unsettled orders, read by a journal of its own."""
    journal = Journal(str(path))
    found = sorted(one.cl_ord_id for one in journal.unsettled())
    journal.close()
    return found


def is_whole(path: Path) -> bool:
    """Whether SQLite itself finds nothing to complain of."""
    with closing(sqlite3.connect(path)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchone() == ("ok",))

"""Files that commit c70f41a has written, kept in the folder `stored`, and the contents of a database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

STORED = Path(__file__).parent / "stored"
# Any Base64 will do.
API_KEY, API_SECRET = "cGlubmVk", "c2VjcmV0"


def stored(name: str) -> str:
    """Return the text of a file that commit c70f41a has written."""
    return (STORED / name).read_text("ascii")


def restore(name: str, path: Path) -> None:
    """Restore a database from a dump."""
    with closing(sqlite3.connect(path)) as database:
        database.executescript(stored(name))


def contents(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return everything in a database: version, tables, indexes, triggers and all rows."""
    with closing(sqlite3.connect(path)) as database:
        schema = database.execute("SELECT type, name, sql FROM sqlite_master ORDER BY name").fetchall()
        names = [name for kind, name, _ in schema if kind == "table"]
        rows = {name: sorted(database.execute(f"SELECT * FROM {name}")) for name in names}  # noqa: S608
        return {"version": database.execute("PRAGMA user_version").fetchall(), "schema": schema, **rows}

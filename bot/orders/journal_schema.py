"""The journal's tables. A change of them is a new entry at the end of MIGRATIONS, never a change of an old one.

Money is text, so that it comes back to the last decimal. Times are Unix seconds of Kraken's clock.
"""

from __future__ import annotations

import sqlite3

from bot.orders.order_state import ALLOWED_TRANSITIONS

# What has to outlive a file that is taken away while the bot runs.
TABLES = ("intents", "orders", "fills", "equity", "known")
MIGRATIONS: list[tuple[str, ...]] = [
    (
        # What the bot intended to do, and its state.
        """
        CREATE TABLE intents (
            cl_ord_id TEXT PRIMARY KEY,
            state TEXT NOT NULL,
            symbol TEXT NOT NULL,
            side TEXT NOT NULL,
            kind TEXT NOT NULL,
            volume TEXT NOT NULL,
            price TEXT NOT NULL,
            intended_seconds REAL NOT NULL,
            nonce TEXT NOT NULL,
            sent_seconds REAL NOT NULL,
            deadline_seconds REAL NOT NULL,
            txid TEXT NOT NULL,
            reason TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX intents_by_state ON intents (state)",
        # Kraken's last record of each own order. Two records of one cl_ord_id would be an order placed twice.
        """
        CREATE TABLE orders (
            txid TEXT PRIMARY KEY,
            cl_ord_id TEXT NOT NULL,
            symbol TEXT NOT NULL,
            side TEXT NOT NULL,
            kind TEXT NOT NULL,
            status TEXT NOT NULL,
            price TEXT NOT NULL,
            volume TEXT NOT NULL,
            executed TEXT NOT NULL,
            cost TEXT NOT NULL,
            fee TEXT NOT NULL,
            average_price TEXT NOT NULL,
            opened_seconds REAL NOT NULL,
            closed_seconds REAL NOT NULL,
            expires_seconds REAL NOT NULL,
            reason TEXT NOT NULL
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE fills (
            trade_id TEXT PRIMARY KEY,
            order_txid TEXT NOT NULL,
            symbol TEXT NOT NULL,
            side TEXT NOT NULL,
            price TEXT NOT NULL,
            volume TEXT NOT NULL,
            cost TEXT NOT NULL,
            fee TEXT NOT NULL,
            time_seconds REAL NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE INDEX fills_by_order ON fills (order_txid)",
        """
        CREATE TABLE equity (
            time_seconds REAL NOT NULL, quote TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (time_seconds, quote)
        ) WITHOUT ROWID
        """,
        # Up to when every order of a bot is in this journal, and how many intents it had then.
        """
        CREATE TABLE known (
            bot_id TEXT PRIMARY KEY, until_seconds REAL NOT NULL, intents INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
        "CREATE TABLE steps (before TEXT NOT NULL, after TEXT NOT NULL, PRIMARY KEY (before, after)) WITHOUT ROWID",
        """
        CREATE TRIGGER no_illegal_step BEFORE UPDATE OF state ON intents
        WHEN NEW.state <> OLD.state
            AND NOT EXISTS (SELECT 1 FROM steps WHERE before = OLD.state AND after = NEW.state)
        BEGIN SELECT RAISE(ABORT, 'this step is not in the life of an order'); END
        """,
        """
        CREATE TRIGGER no_forgetting BEFORE DELETE ON intents WHEN OLD.state <> 'intended'
        BEGIN SELECT RAISE(ABORT, 'an order that may have left is not forgotten'); END
        """,
    ),
]


_TRANSITIONS = {(str(before), str(after)) for before, follows in ALLOWED_TRANSITIONS.items() for after in follows}


def has_current_transitions(connection: sqlite3.Connection) -> bool:
    """Whether the table of allowed transitions is that of this program."""
    return set(connection.execute("SELECT before, after FROM steps")) == _TRANSITIONS


def write_transitions(connection: sqlite3.Connection) -> None:
    """Write the table of allowed transitions between the states of an order."""
    connection.execute("DELETE FROM steps")
    connection.executemany("INSERT INTO steps VALUES (?, ?)", sorted(_TRANSITIONS))

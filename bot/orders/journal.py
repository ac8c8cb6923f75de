"""The journal: every order that this bot intends to place, written before its first byte leaves, and its outcome.

One fsync an order, for the intent. Kraken has everything else: an outcome that is lost costs another query.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any, TypeVar, get_type_hints

from bot.base.errors import JournalError, OrderBlockedError
from bot.base.models import OPEN_STATUSES, Fill, Order
from bot.orders.journal_db import JournalDatabase
from bot.orders.order_state import (
    PLACED_STATES,
    UNRESOLVED_STATES,
    WORKING_STATES,
    Intent,
    OrderState,
    state_from_order,
)


@dataclass(frozen=True, slots=True)
class EquityPoint:
    """The value of the account's money and coins, in `quote`, at a time (Unix seconds of the market)."""

    time_seconds: float
    quote: str
    value: Decimal


Record = TypeVar("Record", Intent, Order, Fill, EquityPoint)

_TABLES = {Intent: "intents", Order: "orders", Fill: "fills", EquityPoint: "equity"}
_COLUMNS = {kind: [field.name for field in fields(kind)] for kind in _TABLES}
_COLUMN_TYPES = {kind: list(get_type_hints(kind).values()) for kind in _TABLES}
# `astuple` copies what it finds, which takes much longer than to read it.
_COLUMN_GETTERS = {kind: attrgetter(*columns) for kind, columns in _COLUMNS.items()}
_SELECT = {
    kind: f"SELECT {', '.join(_COLUMNS[kind])} FROM {table}"  # nosec B608 # names of our own
    for kind, table in _TABLES.items()
}
_INTO = {
    kind: f"INTO {table} ({', '.join(_COLUMNS[kind])}) VALUES ({', '.join('?' * len(_COLUMNS[kind]))})"
    for kind, table in _TABLES.items()
}


class Journal:
    """The orders of one API key on this disk. Every method raises JournalError where the disk or the file fails."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._database = JournalDatabase(path)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._database.close()

    # Intents

    def record_intent(self, intent: Intent) -> None:
        """Write an order that is going to be sent. Raises OrderBlockedError where the same one was sent before."""
        with self._database.write() as connection:
            # An intent that was not sent, for lack of a connection or the request lock, is replaced.
            connection.execute(
                "DELETE FROM intents WHERE cl_ord_id = ? AND state = ?", (intent.cl_ord_id, OrderState.INTENDED)
            )
            if _fetch_rows(connection, "SELECT 1 FROM intents WHERE cl_ord_id = ?", (intent.cl_ord_id,)):
                raise OrderBlockedError(f"the order {intent.cl_ord_id} was sent before; it is not sent again")
            connection.execute(f"INSERT {_INTO[Intent]}", _to_sql_values(intent))

    def mark_sent(
        self, cl_ord_id: str, nonce: str, sent_seconds: float, deadline_seconds: float, *, bot_id: str = ""
    ) -> None:
        """Commit an intent to the disk, with its nonce and deadline: from here on its first byte may leave.

        Raises OrderBlockedError where another order of the pair, by this process or another, has an unknown
        outcome. `bot_id` is given for an order that an earlier run may have sent under the same id: raises JournalError
        where the journal was lost after it was read, and has nothing of that bot.
        """
        with self._database.write(durable=True) as connection:
            if bot_id and not _fetch_rows(connection, "SELECT 1 FROM known WHERE bot_id = ?", (bot_id,)):
                raise JournalError(
                    f"the journal {self.path} is new: start-up reconciliation has to fill it first; nothing was sent"
                )
            other = connection.execute(
                "SELECT other.cl_ord_id FROM intents AS other JOIN intents AS own USING (symbol) "
                "WHERE own.cl_ord_id = ? AND other.cl_ord_id <> own.cl_ord_id "
                f"AND other.state IN ({_UNRESOLVED_SQL})",  # nosec B608 # names of our own
                (cl_ord_id,),
            ).fetchone()
            if other is not None:
                raise OrderBlockedError(f"its pair has an order whose outcome is unknown ({other[0]}); it was not sent")
            cursor = connection.execute(
                "UPDATE intents SET state = ?, nonce = ?, sent_seconds = ?, deadline_seconds = ? "
                "WHERE cl_ord_id = ? AND state = ?",
                (OrderState.SENT, nonce, sent_seconds, deadline_seconds, cl_ord_id, OrderState.INTENDED),
            )
            if cursor.rowcount != 1:
                raise OrderBlockedError(f"another process has given up the order {cl_ord_id}; it was not sent")

    def set_state(
        self, cl_ord_id: str, state: OrderState, reason: str = "", txid: str = "", sent_seconds: float | None = None
    ) -> None:
        """Write the new state of an intent. A transition that is not allowed changes nothing: another process has
        found out more. With `sent_seconds` only an intent sent then, whose outcome is unknown, changes.
        """
        with self._database.write() as connection:
            connection.execute(
                "UPDATE intents SET state = :state, reason = :reason, txid = max(txid, :txid) WHERE cl_ord_id = :id "
                "AND EXISTS (SELECT 1 FROM steps WHERE before = intents.state AND after = :state) "
                f"AND (:sent IS NULL OR (sent_seconds = :sent AND state IN ({_UNRESOLVED_SQL})))",  # nosec B608 # as above
                {"id": cl_ord_id, "state": state, "reason": reason, "txid": txid, "sent": sent_seconds},
            )

    def get_intent(self, cl_ord_id: str) -> Intent | None:
        """Return an intent by its id."""
        return next(iter(self._read(Intent, "WHERE cl_ord_id = ?", cl_ord_id)), None)

    def intents(self) -> list[Intent]:
        """Return all intents, oldest first."""
        return self._read(Intent, "ORDER BY intended_seconds, cl_ord_id")

    def unresolved_intents(self) -> list[Intent]:
        """Return the intents that were sent and whose outcome is unknown."""
        return self._read(Intent, f"WHERE state IN ({_UNRESOLVED_SQL}) ORDER BY sent_seconds")

    def working_intents(self) -> list[Intent]:
        """Return the intents that were accepted and whose final order record has not been seen."""
        return self._read(Intent, f"WHERE state IN ({_WORKING_SQL}) ORDER BY sent_seconds")

    # Kraken's order records

    def record_orders(self, orders: Iterable[Order]) -> None:
        """Write Kraken's records of own orders. An order that the journal did not know is adopted.

        One without a `cl_ord_id` is an external order and is left out.
        """
        with self._database.write() as connection:
            for order in orders:
                if not order.cl_ord_id:
                    continue
                stored = connection.execute(
                    "SELECT status, executed FROM orders WHERE txid = ?", (order.txid,)
                ).fetchone()
                if stored is not None and (
                    Decimal(stored[1]) > order.executed or (order.is_open and stored[0] not in OPEN_STATUSES)
                ):
                    continue  # an older response; a final record stays final
                connection.execute(f"INSERT OR REPLACE {_INTO[Order]}", _to_sql_values(order))
                self._record_order_state(connection, order)

    @staticmethod
    def _record_order_state(connection: sqlite3.Connection, order: Order) -> None:
        adopted = Intent(
            order.cl_ord_id,
            order.symbol,
            order.side,
            order.kind,
            order.volume,
            order.price,
            intended_seconds=order.opened_seconds,
            state=state_from_order(order),
            sent_seconds=order.opened_seconds,
            txid=order.txid,
            reason=order.reason,
        )
        connection.execute(
            f"INSERT {_INTO[Intent]} ON CONFLICT (cl_ord_id) DO UPDATE SET "
            "state = excluded.state, txid = excluded.txid, reason = excluded.reason "
            # A second order of the same id is for `journal check` to find; the state of the first one stays.
            f"WHERE intents.state NOT IN ({_FINAL_SQL}) AND intents.txid IN ('', excluded.txid)",  # nosec B608 # as above
            _to_sql_values(adopted),
        )

    def orders(self) -> list[Order]:
        """Return Kraken's last records of the own orders, oldest first."""
        return self._read(Order, "ORDER BY opened_seconds")

    def complete_until(self, bot_id: str) -> float:
        """Return up to when the journal has every order of a bot and every record of those that ended; 0.0: nothing.

        It is 0.0 also if there are fewer intents than when the time was written: the database then consists of an
        older file and a newer log.
        """
        with self._database.read() as connection:
            if not _fetch_rows(connection, "SELECT 1 FROM sqlite_master WHERE name = 'known'"):
                return 0.0
            statement = "SELECT until_seconds FROM known WHERE bot_id = ? AND intents <= (SELECT count(*) FROM intents)"
            rows = _fetch_rows(connection, statement, (bot_id,))
            return float(rows[0][0]) if rows else 0.0

    def extend_complete_until(self, bot_id: str, until_seconds: float) -> None:
        """Move that time forward. A journal without an entry for the bot stays without one."""
        with self._database.write() as connection:
            connection.execute(
                "UPDATE known SET until_seconds = ?, intents = (SELECT count(*) FROM intents) WHERE bot_id = ?",
                (until_seconds, bot_id),
            )

    def set_complete_until(self, bot_id: str, until_seconds: float) -> None:
        """Record that nothing of a bot is missing up to a time, after its whole history was queried."""
        with self._database.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO known SELECT ?, ?, count(*) FROM intents", (bot_id, until_seconds)
            )

    # Fills and equity

    def add_fills(self, fills: Iterable[Fill]) -> None:
        """Write fills; those that are there already stay as they are."""
        with self._database.write() as connection:
            connection.executemany(f"INSERT OR IGNORE {_INTO[Fill]}", [_to_sql_values(fill) for fill in fills])

    def fills(self) -> list[Fill]:
        """Return all fills, oldest first."""
        return self._read(Fill, "ORDER BY time_seconds, trade_id")

    def latest_fills(self, count: int) -> list[Fill]:
        """Return so many fills, newest first."""
        return self._read(Fill, "ORDER BY time_seconds DESC, trade_id DESC LIMIT ?", count)

    def filled_volumes(self, txids: Iterable[str] | None = None) -> dict[str, Decimal]:
        """Return what the fills of these orders sum up to, in base units; of all orders where none are named."""
        sums: dict[str, Decimal] = {}
        with self._database.read() as connection:
            if txids is None:
                rows = _fetch_rows(connection, "SELECT order_txid, volume FROM fills")
            else:
                statement = "SELECT order_txid, volume FROM fills WHERE order_txid = ?"
                rows = [row for txid in txids for row in _fetch_rows(connection, statement, (txid,))]
        for txid, volume in rows:
            sums[txid] = sums.get(txid, Decimal(0)) + Decimal(volume)
        return sums

    def orders_with_missing_fills(self) -> list[Order]:
        """Return the orders that have executed more, or less, than their fills say, oldest first."""
        volumes = self.filled_volumes()
        return [order for order in self.orders() if order.executed != volumes.get(order.txid, Decimal(0))]

    def add_equity(self, point: EquityPoint) -> None:
        """Write the account's value."""
        with self._database.write() as connection:
            connection.execute(f"INSERT OR REPLACE {_INTO[EquityPoint]}", _to_sql_values(point))

    def equity_points(self) -> list[EquityPoint]:
        """Return the account's values, oldest first."""
        return self._read(EquityPoint, "ORDER BY time_seconds")

    def equity_curve(self, points: int) -> list[EquityPoint]:
        """Return at most so many values of the account, oldest first, evenly spaced and with the last one."""
        newest = self._read(EquityPoint, "ORDER BY time_seconds DESC LIMIT ?", points + 1)
        if len(newest) <= points:
            return newest[::-1]
        # From each to the next that is old enough, by the index: the whole table would be read once a second.
        return self._read(
            EquityPoint,
            "JOIN (WITH RECURSIVE step(seconds) AS "
            "(SELECT (max(time_seconds) - (SELECT min(time_seconds) FROM equity)) / (? - 1) FROM equity), "
            "chosen(moment) AS (SELECT max(time_seconds) FROM equity UNION ALL "
            "SELECT (SELECT max(time_seconds) FROM equity WHERE time_seconds <= moment - seconds) FROM chosen, step "
            "WHERE moment IS NOT NULL) SELECT moment FROM chosen) ON time_seconds = moment ORDER BY time_seconds",
            points,
        )

    def _read(self, record_type: type[Record], condition: str, *values: object) -> list[Record]:
        """Return the records of a table; `condition` is what follows its name in the statement."""
        with self._database.read() as connection:
            rows = _fetch_rows(connection, f"{_SELECT[record_type]} {condition}", values)
            return [_record_from_row(record_type, row) for row in rows]


_UNRESOLVED_SQL = ", ".join(f"'{state}'" for state in sorted(UNRESOLVED_STATES))
_WORKING_SQL = ", ".join(f"'{state}'" for state in sorted(WORKING_STATES))
_FINAL_SQL = ", ".join(f"'{state}'" for state in sorted(PLACED_STATES - WORKING_STATES))


def _fetch_rows(connection: sqlite3.Connection, statement: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
    rows = connection.execute(statement, tuple(values)).fetchall()
    if any(isinstance(value, bytes) for row in rows for value in row):
        raise ValueError("bytes where a text should be")  # one flipped bit makes them of it
    return rows


def _to_sql_values(record: Record) -> list[object]:
    return [
        f"{field_value:f}" if isinstance(field_value, Decimal) else field_value
        for field_value in _COLUMN_GETTERS[type(record)](record)
    ]


def _record_from_row(record_type: type[Record], row: tuple[Any, ...]) -> Record:
    values = [
        value if column_type in (str, float) else column_type(value)
        for column_type, value in zip(_COLUMN_TYPES[record_type], row, strict=True)
    ]
    return record_type(*values)

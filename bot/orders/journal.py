"""The journal: every order that this bot means to place, written down before its first byte leaves, and what became
of it.

One fsync an order, for the intent. Everything else is Kraken's to tell again: an outcome that is lost costs a look-up.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass, fields
from decimal import Decimal
from operator import attrgetter
from typing import Any

from bot.base.errors import JournalError, OrderBlockedError
from bot.base.models import OPEN_STATUSES, Fill, Order, OrderStatus, Side
from bot.orders.journal_db import JournalFile
from bot.orders.order_state import PLACED, UNSETTLED, WORKING, Intent, OrderState, state_of

_INTENT = ", ".join(field.name for field in fields(Intent))
_ORDER = ", ".join(field.name for field in fields(Order))
_FILL = ", ".join(field.name for field in fields(Fill))
# `astuple` copies what it finds, which takes much longer than to read it.
_columns = {kind: attrgetter(*(field.name for field in fields(kind))) for kind in (Intent, Order, Fill)}


@dataclass(frozen=True, slots=True)
class EquityPoint:
    """What the account's money and coins were worth, in `quote`, at a moment (Unix seconds of the market)."""

    time_seconds: float
    quote: str
    value: Decimal


class Journal:
    """The orders of one API key on this disk. Every method raises JournalError where the disk does not let it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = JournalFile(path)

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        self._file.close()

    # Intents

    def intend(self, intent: Intent) -> None:
        """Write an order down that is going to be sent. Raises OrderBlockedError where the same one was sent before."""
        with self._file.write() as connection:
            # Intended and not sent, for want of a connection or a turn: it is intended anew.
            connection.execute(
                "DELETE FROM intents WHERE cl_ord_id = ? AND state = ?", (intent.cl_ord_id, OrderState.INTENDED)
            )
            if _rows(connection, "SELECT 1 FROM intents WHERE cl_ord_id = ?", (intent.cl_ord_id,)):
                raise OrderBlockedError(f"the order {intent.cl_ord_id} was sent before; it is not sent again")
            statement = f"INSERT INTO intents ({_INTENT}) VALUES ({_marks(Intent)})"  # nosec B608 # names of our own
            connection.execute(statement, _values(intent))

    def leave(
        self, cl_ord_id: str, nonce: str, sent_seconds: float, deadline_seconds: float, *, bot_id: str = ""
    ) -> None:
        """Commit an intent to the disk, with its nonce and deadline: from here on its first byte may leave.

        Raises OrderBlockedError where another order of the pair, by this process or another, has no known fate.
        `bot_id` is given for an order that another life may have sent under the same id: raises JournalError where
        the journal has been lost since it was read, and knows nothing of that bot.
        """
        with self._file.write(durable=True) as connection:
            if bot_id and not _rows(connection, "SELECT 1 FROM known WHERE bot_id = ?", (bot_id,)):
                raise JournalError(
                    f"the journal {self.path} is new: what it lacks is looked for first; nothing was sent"
                )
            other = connection.execute(
                "SELECT other.cl_ord_id FROM intents AS other JOIN intents AS own USING (symbol) "
                "WHERE own.cl_ord_id = ? AND other.cl_ord_id <> own.cl_ord_id "
                f"AND other.state IN ({_UNSETTLED})",  # nosec B608 # names of our own
                (cl_ord_id,),
            ).fetchone()
            if other is not None:
                raise OrderBlockedError(f"its pair has an order whose outcome is unknown ({other[0]}); it was not sent")
            changed = connection.execute(
                "UPDATE intents SET state = ?, nonce = ?, sent_seconds = ?, deadline_seconds = ? "
                "WHERE cl_ord_id = ? AND state = ?",
                (OrderState.SENT, nonce, sent_seconds, deadline_seconds, cl_ord_id, OrderState.INTENDED),
            )
            if changed.rowcount != 1:
                raise OrderBlockedError(f"another process has given up the order {cl_ord_id}; it was not sent")

    def set_state(
        self, cl_ord_id: str, state: OrderState, reason: str = "", txid: str = "", sent_seconds: float | None = None
    ) -> None:
        """Write down what became of an intent. What is no lawful step of its life changes nothing: another process
        has found out more. With `sent_seconds` it is only said of what left then and has no known fate.
        """
        with self._file.write() as connection:
            connection.execute(
                "UPDATE intents SET state = :state, reason = :reason, txid = max(txid, :txid) WHERE cl_ord_id = :id "
                "AND EXISTS (SELECT 1 FROM steps WHERE before = intents.state AND after = :state) "
                f"AND (:sent IS NULL OR (sent_seconds = :sent AND state IN ({_UNSETTLED})))",  # nosec B608 # as above
                {"id": cl_ord_id, "state": state, "reason": reason, "txid": txid, "sent": sent_seconds},
            )

    def intent(self, cl_ord_id: str) -> Intent | None:
        """Return an intent by its id."""
        return next(iter(self._intents("WHERE cl_ord_id = ?", cl_ord_id)), None)

    def intents(self) -> list[Intent]:
        """Return all intents, oldest first."""
        return self._intents("ORDER BY intended_seconds, cl_ord_id")

    def unsettled(self) -> list[Intent]:
        """Return the intents that were sent and whose fate is not known."""
        return self._intents(f"WHERE state IN ({_UNSETTLED}) ORDER BY sent_seconds")

    def working(self) -> list[Intent]:
        """Return the intents that were accepted and whose last row has not been seen."""
        return self._intents(f"WHERE state IN ({_WORKING}) ORDER BY sent_seconds")

    def _intents(self, where: str, *values: object) -> list[Intent]:
        with self._file.read() as connection:
            statement = f"SELECT {_INTENT} FROM intents {where}"  # nosec B608 # names of our own
            return [_intent(row) for row in _rows(connection, statement, values)]

    # Kraken's rows

    def take_rows(self, rows: Iterable[Order]) -> None:
        """Write Kraken's rows of own orders down. An order that the journal did not know is adopted.

        One without a `cl_ord_id` is somebody else's, and is left out.
        """
        with self._file.write() as connection:
            for row in rows:
                if not row.cl_ord_id:
                    continue
                kept = connection.execute("SELECT status, executed FROM orders WHERE txid = ?", (row.txid,)).fetchone()
                if kept is not None and (
                    Decimal(kept[1]) > row.executed or (row.is_open and kept[0] not in OPEN_STATUSES)
                ):
                    continue  # an answer from before; a final row stays final
                connection.execute(f"INSERT OR REPLACE INTO orders ({_ORDER}) VALUES ({_marks(Order)})", _values(row))
                self._take_state(connection, row)

    @staticmethod
    def _take_state(connection: sqlite3.Connection, row: Order) -> None:
        adopted = Intent(
            row.cl_ord_id,
            row.symbol,
            row.side,
            row.kind,
            row.volume,
            row.price,
            intended_seconds=row.opened_seconds,
            state=state_of(row),
            sent_seconds=row.opened_seconds,
            txid=row.txid,
            reason=row.reason,
        )
        connection.execute(
            f"INSERT INTO intents ({_INTENT}) VALUES ({_marks(Intent)}) ON CONFLICT (cl_ord_id) DO UPDATE SET "
            "state = excluded.state, txid = excluded.txid, reason = excluded.reason "
            # A second order of the same id is for `journal check` to find; it changes nothing of the first one's life.
            f"WHERE intents.state NOT IN ({_ENDED}) AND intents.txid IN ('', excluded.txid)",  # nosec B608 # as above
            _values(adopted),
        )

    def orders(self) -> list[Order]:
        """Return Kraken's last rows of the own orders, oldest first."""
        with self._file.read() as connection:
            statement = f"SELECT {_ORDER} FROM orders ORDER BY opened_seconds"  # nosec B608 # names of our own
            return [_order(row) for row in _rows(connection, statement)]

    def known_until(self, bot_id: str) -> float:
        """Return up to when the journal has every order of a bot and every row of those that ended; 0.0: nothing.

        It knows nothing either if it has fewer intents than when that was written: it was put together from an older
        file and a newer log.
        """
        with self._file.read() as connection:
            if not _rows(connection, "SELECT 1 FROM sqlite_master WHERE name = 'known'"):
                return 0.0
            statement = "SELECT until_seconds FROM known WHERE bot_id = ? AND intents <= (SELECT count(*) FROM intents)"
            found = _rows(connection, statement, (bot_id,))
            return float(found[0][0]) if found else 0.0

    def keep_known(self, bot_id: str, until_seconds: float) -> None:
        """Move that moment on. A journal that knows nothing of the bot goes on knowing nothing."""
        with self._file.write() as connection:
            connection.execute(
                "UPDATE known SET until_seconds = ?, intents = (SELECT count(*) FROM intents) WHERE bot_id = ?",
                (until_seconds, bot_id),
            )

    def set_known_until(self, bot_id: str, until_seconds: float) -> None:
        """Write down that nothing of a bot is missing up to a moment, after a look at all of its past."""
        with self._file.write() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO known SELECT ?, ?, count(*) FROM intents", (bot_id, until_seconds)
            )

    # Fills and equity

    def add_fills(self, fills: Iterable[Fill]) -> None:
        """Write fills down; those that are there already stay as they are."""
        with self._file.write() as connection:
            statement = f"INSERT OR IGNORE INTO fills ({_FILL}) VALUES ({_marks(Fill)})"
            connection.executemany(statement, [_values(fill) for fill in fills])

    def fills(self) -> list[Fill]:
        """Return all fills, oldest first."""
        with self._file.read() as connection:
            statement = f"SELECT {_FILL} FROM fills ORDER BY time_seconds, trade_id"  # nosec B608 # names of our own
            return [_fill(row) for row in _rows(connection, statement)]

    def latest_fills(self, count: int) -> list[Fill]:
        """Return so many fills, newest first."""
        with self._file.read() as connection:
            newest_first = "ORDER BY time_seconds DESC, trade_id DESC LIMIT ?"
            statement = f"SELECT {_FILL} FROM fills {newest_first}"  # nosec B608 # names of our own
            return [_fill(row) for row in _rows(connection, statement, (count,))]

    def filled(self, txids: Iterable[str] | None = None) -> dict[str, Decimal]:
        """Return what the fills of these orders sum up to, in base units; of all orders where none are named."""
        sums: dict[str, Decimal] = {}
        with self._file.read() as connection:
            if txids is None:
                rows = _rows(connection, "SELECT order_txid, volume FROM fills")
            else:
                statement = "SELECT order_txid, volume FROM fills WHERE order_txid = ?"
                rows = [row for txid in txids for row in _rows(connection, statement, (txid,))]
        for txid, volume in rows:
            sums[txid] = sums.get(txid, Decimal(0)) + Decimal(volume)
        return sums

    def without_fills(self) -> list[Order]:
        """Return the orders that have executed more, or less, than their fills say, oldest first."""
        filled = self.filled()
        return [order for order in self.orders() if order.executed != filled.get(order.txid, Decimal(0))]

    def add_equity(self, point: EquityPoint) -> None:
        """Write down what the account was worth."""
        with self._file.write() as connection:
            values = (point.time_seconds, point.quote, f"{point.value:f}")
            connection.execute("INSERT OR REPLACE INTO equity VALUES (?, ?, ?)", values)

    def equity(self) -> list[EquityPoint]:
        """Return what the account was worth, oldest first."""
        return self._equity("SELECT time_seconds, quote, value FROM equity ORDER BY time_seconds")

    def equity_curve(self, points: int) -> list[EquityPoint]:
        """Return what the account was worth, oldest first, the last point too: at most so many, evenly far apart."""
        latest = "SELECT time_seconds, quote, value FROM equity ORDER BY time_seconds DESC LIMIT ?"
        newest = self._equity(latest, points + 1)
        if len(newest) <= points:
            return newest[::-1]
        # From each to the next that is old enough, by the index: the whole table would be read once a second.
        return self._equity(
            "WITH RECURSIVE step(seconds) AS "
            "(SELECT (max(time_seconds) - (SELECT min(time_seconds) FROM equity)) / (? - 1) FROM equity), "
            "chosen(moment) AS (SELECT max(time_seconds) FROM equity UNION ALL "
            "SELECT (SELECT max(time_seconds) FROM equity WHERE time_seconds <= moment - seconds) FROM chosen, step "
            "WHERE moment IS NOT NULL) "
            "SELECT time_seconds, quote, value FROM equity JOIN chosen ON time_seconds = moment ORDER BY time_seconds",
            points,
        )

    def _equity(self, statement: str, *values: object) -> list[EquityPoint]:
        with self._file.read() as connection:
            rows = _rows(connection, statement, values)
            return [EquityPoint(time_seconds, quote, Decimal(value)) for time_seconds, quote, value in rows]


_UNSETTLED = ", ".join(f"'{state}'" for state in sorted(UNSETTLED))
_WORKING = ", ".join(f"'{state}'" for state in sorted(WORKING))
_ENDED = ", ".join(f"'{state}'" for state in sorted(PLACED - WORKING))


def _rows(connection: sqlite3.Connection, statement: str, values: Iterable[object] = ()) -> list[tuple[Any, ...]]:
    found = connection.execute(statement, tuple(values)).fetchall()
    if any(isinstance(value, bytes) for row in found for value in row):
        raise ValueError("bytes where a text should be")  # one flipped bit makes them of it
    return found


def _marks(kind: type) -> str:
    return ", ".join("?" for _ in fields(kind))


def _values(value: Intent | Order | Fill) -> tuple[object, ...]:
    return tuple(f"{one:f}" if isinstance(one, Decimal) else one for one in _columns[type(value)](value))


def _intent(row: tuple[Any, ...]) -> Intent:
    cl_ord_id, symbol, side, kind, volume, price, intended, state, *rest = row
    return Intent(
        cl_ord_id, symbol, Side(side), kind, Decimal(volume), Decimal(price), intended, OrderState(state), *rest
    )


def _order(row: tuple[Any, ...]) -> Order:
    txid, cl_ord_id, symbol, side, kind, status, price, volume, executed, cost, fee, average, *rest = row
    return Order(
        txid,
        cl_ord_id,
        symbol,
        Side(side),
        kind,
        OrderStatus(status),
        Decimal(price),
        Decimal(volume),
        Decimal(executed),
        Decimal(cost),
        Decimal(fee),
        Decimal(average),
        *rest,
    )


def _fill(row: tuple[Any, ...]) -> Fill:
    trade_id, txid, symbol, side, price, volume, cost, fee, time_seconds = row
    return Fill(
        trade_id, txid, symbol, Side(side), Decimal(price), Decimal(volume), Decimal(cost), Decimal(fee), time_seconds
    )

"""The contract of a shared store on PostgreSQL: one row a key, one atomic statement a step.

What a lost row or server can do is PostgreSQL's own: a step that was answered is as durable as `synchronous_commit`
makes it there, which this program leaves as it is.
"""

from __future__ import annotations

from pathlib import Path

import psycopg

from bot.errors import StoreUnavailableError
from bot.nonce.engine import NEXT_SECONDS, Drawn, Lease, Outcome, Row, Wish
from bot.nonce.postgres_connections import Answer, Connections, Statement, Value
from bot.nonce.postgres_trouble import sentence

SECOND_US = 1_000_000
# A refusal is explained by a second statement; where the row has changed between the two, both are done again.
ATTEMPTS = 5

_FOLDER = Path(__file__).parent / "postgres"
_STATEMENTS = {path.stem: Statement.read(path) for path in _FOLDER.glob("*.sql")}
# What two processes that make the table at the same time can be told.
_MADE_BY_ANOTHER = (
    psycopg.errors.UniqueViolation,
    psycopg.errors.DuplicateTable,
    psycopg.errors.DuplicateObject,
)


class PostgresEngine:
    """One key's row of the table `kraken_bot_keys`. `name` is a hash of the key; `url` is postgresql://...

    Raises ValueError where `url` cannot be read. Nothing is opened before the first step.
    """

    def __init__(self, url: str, name: str) -> None:
        self._connections = Connections(url)
        self._name = name
        self.place = self._connections.place

    def draw(self, wish: Wish) -> Drawn:
        """Draw a nonce: DRAWN, STALE or AHEAD."""
        return self._drawn("draw", wish)

    def take(self, wish: Wish, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0) -> Drawn:
        """Take the turn and draw its nonce in one step, or neither: DRAWN, NEXT, BUSY, STALE or AHEAD."""
        return self._drawn("take", wish, owner, lifetime_seconds, waited_seconds)

    def give_back(self, nonce: int) -> None:
        """Give back the turn that was taken with this nonce; where it is another's by now, nothing happens."""
        self._run("give_back", nonce=nonce)

    def acquire(self, owner: str, lifetime_seconds: float) -> Lease:
        """Lead if nobody does; return the lease as it is then, which is another's where `owner` is."""
        for _ in range(ATTEMPTS):
            granted = self._run("acquire", owner=owner, lifetime=_microseconds(lifetime_seconds))
            if granted is not None:
                return _lease(granted)
            held = self._run("look")
            if held is None:
                self._run("row")
                continue
            _nonce, *lease, _turn_owner, too_far = held
            if too_far:
                self._run("notice")
            elif (standing := _lease(lease)).remaining_seconds:
                return standing
        raise self._restless()

    def renew(self, generation: int, lifetime_seconds: float) -> bool:
        """Let the lease of this generation live on from now; return False where it is over, or another's."""
        return self._run("renew", generation=generation, lifetime=_microseconds(lifetime_seconds)) is not None

    def sign_off(self, generation: int, settled: bool) -> None:
        """End the lease of this generation at once; `settled`: no order of its owner has an unknown fate."""
        self._run("sign_off", generation=generation, settled=settled)

    def look(self) -> Row | None:
        """Return what the store has of the key, or None. Writes nothing."""
        try:
            held = self._ask("look")
        except psycopg.errors.UndefinedTable:
            return None
        except psycopg.Error as error:
            raise StoreUnavailableError(sentence(error, self.place)) from None
        if held is None:
            return None
        nonce, *lease, turn_owner, _too_far = held
        standing = _lease(lease)
        return Row(nonce, standing, turn_owner) if nonce or standing.generation else None

    def close(self) -> None:
        """Close the connections; the next use opens them again."""
        self._connections.close()

    def _drawn(
        self, statement: str, wish: Wish, owner: str = "", lifetime_seconds: float = 0.0, waited_seconds: float = 0.0
    ) -> Drawn:
        wished: dict[str, Value] = {
            "floor": wish.floor,
            "ceiling": wish.ceiling,
            "ticks": wish.ticks,
            "generation": wish.generation,
            "owner": owner,
            "lifetime": _microseconds(lifetime_seconds),
            "next_lifetime": _microseconds(NEXT_SECONDS),
            "waited": _microseconds(waited_seconds),
        }
        for _ in range(ATTEMPTS):
            drawn = self._run(statement, **wished)
            if drawn is not None:
                return Drawn(Outcome.DRAWN, *drawn)
            refused = self._run("refused", **wished)
            if refused is None:
                self._run("row")
                continue
            last, stale, busy, ahead, is_next, reservable = refused
            if stale:
                return Drawn(Outcome.STALE, 0, last)
            if busy:
                if reservable:
                    reserved = self._run("reserve", **wished)
                    is_next = reserved is None or reserved[0]  # None: by now the turn is free
                return Drawn(Outcome.NEXT if is_next else Outcome.BUSY, 0, last)
            if ahead:
                return Drawn(Outcome.AHEAD, 0, last)
        if owner:
            return Drawn(Outcome.BUSY)  # the turn goes from hand to hand: whoever asks again gets it, too
        raise self._restless()

    def _run(self, statement: str, **parameters: Value) -> Answer | None:
        """Do one statement, where the table is missing after making it; return its row, if it has one."""
        try:
            try:
                return self._ask(statement, **parameters)
            except psycopg.errors.UndefinedTable:
                self._make_table()
                return self._ask(statement, **parameters)
        except psycopg.Error as error:
            raise StoreUnavailableError(sentence(error, self.place)) from None

    def _make_table(self) -> None:
        try:
            self._ask("schema")
        except _MADE_BY_ANOTHER:
            return

    def _ask(self, statement: str, **parameters: Value) -> Answer | None:
        return self._connections.ask(_STATEMENTS[statement], {"name": self._name, **parameters})

    def _restless(self) -> StoreUnavailableError:
        return StoreUnavailableError(f"the row of this key at {self.place} changes faster than it can be read")


def _microseconds(seconds: float) -> int:
    return round(seconds * SECOND_US)


def _lease(columns: Answer) -> Lease:
    owner, generation, remaining, clean = columns
    return Lease(owner, generation, remaining / SECOND_US, clean)

"""The records of commit c70f41a in Redis and PostgreSQL can be read, and today's program writes the same.

During a rolling deploy both versions use the record at the same time: each has to see the other's lease, lock and
nonce.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql
from psycopg.rows import dict_row

from bot.nonce.open_store import open_nonce_store
from bot.nonce.store_protocol import GrantStatus, Lease
from tests.stores.key_rows import PostgresKey, RedisKey, StoreKey, acquire_lease, granted_nonce, make_request
from tests.stores.stored_formats import API_KEY, stored

OLD, NEXT, NEW = "old-host:4711:0a1b2c3d", "next-host:4712:1a2b3c4d", "new-host:4713:2a3b4c5d"
LEASE_SECONDS, TURN_SECONDS = 3600.0, 16.0
# The server's time when the stored records were written, and how far their nonces are ahead of it.
WRITTEN_US = 1_790_000_000_000_000
AHEAD_US = 60_000_000
# Times, nonces and fencing tokens have sixteen digits. Two runs of the same steps may be this far apart.
TIME_DIGITS = 16
STEPS_US_MAX = 10_000_000
# The last step before the record was stored.
MOMENTS = ("leading", "signed off", "led again")

Fields = dict[str, Any]


class Held(ABC):
    """The record of one key, accessed by the server's plain commands."""

    row: StoreKey

    @abstractmethod
    def fields(self) -> Fields:
        """Return the record by the server's field names."""

    @abstractmethod
    def put(self, fields: Fields) -> None:
        """Write the record."""


class HeldByRedis(Held):
    """A Redis hash."""

    def __init__(self, url: str, name: str) -> None:
        self.row = self._row = RedisKey(url, name)

    def fields(self) -> Fields:
        """Read all fields of the hash."""
        found = self._row.raw.hgetall(f"kraken-bot:{{{self._row.name}}}")
        return {str(name): value for name, value in found.items()}

    def put(self, fields: Fields) -> None:
        """Set all fields of the hash."""
        for name, value in fields.items():
            self._row.raw.hset(f"kraken-bot:{{{self._row.name}}}", name, value)


class HeldByPostgres(Held):
    """A row of PostgreSQL's table."""

    def __init__(self, url: str, name: str) -> None:
        self.row = self._row = PostgresKey(url, name)
        # The first client creates the table.
        self._row.connect().next_nonce(make_request())
        self._row.wipe()

    def fields(self) -> Fields:
        """Read all columns but the name."""
        with self._row.raw.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute("SELECT * FROM kraken_bot_keys WHERE name = %s", [self._row.name]).fetchone()
        assert found is not None
        assert found.pop("name") == self._row.name
        return found

    def put(self, fields: Fields) -> None:
        """Insert the row."""
        given = {"name": self._row.name, **fields}
        words = sql.SQL("INSERT INTO kraken_bot_keys ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, given)), sql.SQL(", ").join(map(sql.Placeholder, given))
        )
        self._row.raw.execute(words, given)


@pytest.fixture(params=["redis", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of store."""
    return str(request.param)


@pytest.fixture
def held(kind: str, request: pytest.FixtureRequest, key_name: str) -> Iterator[Held]:
    """Return the record of a key that no other test uses."""
    url = request.getfixturevalue(f"{kind}_url")
    held: Held = HeldByRedis(url, key_name) if kind == "redis" else HeldByPostgres(url, key_name)
    yield held
    held.row.wipe()
    held.row.close()


def stored_fields(kind: str, moment: str) -> Fields:
    """Return the record as commit c70f41a has written it."""
    fields: Fields = json.loads(stored(f"{kind}_rows.json"))[moment]
    return fields


def moved(fields: Fields, microseconds: int) -> Fields:
    """Return the record as it would have been written that much later."""
    return {
        name: type(value)(int(value) + microseconds) if len(str(value)) == TIME_DIGITS else value
        for name, value in fields.items()
    }


def put_stored(held: Held, kind: str, moment: str) -> Fields:
    """Write the record that commit c70f41a would write now; return it."""
    fields = moved(stored_fields(kind, moment), held.row.server_us() - WRITTEN_US)
    held.put(fields)
    return fields


def write_until(row: StoreKey, moment: str) -> None:
    """Lead, acquire the lock and let another owner ask for it; then release both; then let another owner lead."""
    engine = row.connect()
    generation = acquire_lease(engine, OLD, LEASE_SECONDS).fencing_token
    nonce = granted_nonce(
        engine.acquire_lock(make_request(row.server_us() + AHEAD_US, fencing_token=generation), OLD, TURN_SECONDS)
    )
    assert row.connect().acquire_lock(make_request(), NEXT, TURN_SECONDS).status is GrantStatus.RESERVED
    if moment != "leading":
        engine.release_lock(nonce)
        engine.release_lease(generation, is_reconciled=True)
    if moment == "led again":
        assert acquire_lease(row.connect(), NEW, LEASE_SECONDS).is_clean_handover


def alike(one: object, other: object) -> bool:
    """Return whether two values are equal, or are times or nonces of two runs of the same steps."""
    if type(one) is not type(other) or len(str(one)) != len(str(other)):
        return False
    return one == other or (len(str(one)) == TIME_DIGITS and abs(int(str(one)) - int(str(other))) < STEPS_US_MAX)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_row_is_written_as_it_was(held: Held, kind: str, moment: str) -> None:
    """The same steps write a record with the stored names and values, apart from the time of the steps."""
    wanted = moved(stored_fields(kind, moment), held.row.server_us() - WRITTEN_US)
    write_until(held.row, moment)
    written = held.fields()
    assert written.keys() == wanted.keys()
    assert {name: (value, wanted[name]) for name, value in written.items() if not alike(value, wanted[name])} == {}


def test_a_stored_lease_is_anothers(held: Held, kind: str) -> None:
    """While the owner of a stored record leads, another instance gets its name and fencing token and does not lead."""
    fields = put_stored(held, kind, "leading")
    lease = held.row.connect().acquire_lease(NEW, LEASE_SECONDS)
    assert (lease.owner, lease.fencing_token) == (OLD, int(fields["generation"]))
    assert lease.remaining_seconds == pytest.approx(LEASE_SECONDS, abs=10.0)


def test_the_owner_of_a_stored_lease_goes_on_under_it(held: Held, kind: str) -> None:
    """The lease of a stored record is renewed and gets nonces with its fencing token, and with no other."""
    fields = put_stored(held, kind, "leading")
    engine, generation = held.row.connect(), int(fields["generation"])
    assert engine.renew_lease(generation, LEASE_SECONDS)
    assert engine.next_nonce(make_request(fencing_token=generation)).status is GrantStatus.GRANTED
    assert not engine.renew_lease(generation - 1, LEASE_SECONDS)
    assert engine.next_nonce(make_request(fencing_token=generation - 1)).status is GrantStatus.STALE


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stored_nonce_is_gone_on_from(held: Held, kind: str, moment: str) -> None:
    """The nonce after that of a stored record, which is ahead of the clock, is the next integer."""
    last = int(put_stored(held, kind, moment)["nonce"])
    answer = held.row.connect().next_nonce(make_request())
    assert (answer.nonce, answer.previous_nonce) == (last + 1, last)


def test_a_stored_turn_is_waited_for(held: Held, kind: str) -> None:
    """The lock of a stored record is refused even to the reserved owner until it is released with its nonce."""
    fields = put_stored(held, kind, "leading")
    engine, nonce = held.row.connect(), int(fields["turn_nonce"])
    assert engine.acquire_lock(make_request(), NEXT, TURN_SECONDS).status is GrantStatus.RESERVED
    engine.release_lock(nonce - 1)
    assert engine.acquire_lock(make_request(), NEXT, TURN_SECONDS).status is GrantStatus.RESERVED
    engine.release_lock(nonce)
    assert engine.acquire_lock(make_request(), NEXT, TURN_SECONDS).status is GrantStatus.GRANTED


@pytest.mark.parametrize(("moment", "clean"), [("signed off", True), ("led again", False)])
def test_a_stored_sign_off_is_believed(held: Held, kind: str, moment: str, clean: bool) -> None:
    """A stored release gives the next leader a clean handover; a release with unknown orders, by the stored token, does
    not."""
    fields = put_stored(held, kind, moment)
    engine = held.row.connect()
    if not clean:
        engine.release_lease(int(fields["generation"]), is_reconciled=False)
    lease = acquire_lease(engine, NEXT, LEASE_SECONDS)
    assert lease.is_clean_handover is clean
    assert lease.fencing_token > int(fields["generation"])


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stored_row_is_shown(held: Held, kind: str, moment: str) -> None:
    """A stored record is read with its nonce, its lease and the owner of the lock."""
    fields = put_stored(held, kind, moment)
    row = held.row.connect().read_record()
    assert row is not None
    assert (row.last_nonce, row.lock_owner) == (int(fields["nonce"]), OLD if moment == "leading" else "")
    owner = {"leading": OLD, "signed off": "", "led again": NEW}[moment]
    shown = Lease(owner, int(fields["generation"]), row.lease.remaining_seconds, moment == "led again")
    assert row.lease == shown
    assert (row.lease.remaining_seconds > 0) is bool(owner)


def test_the_table_is_made_as_it_was(postgres_url: str, key_name: str) -> None:
    """A missing table is created with the stored columns, types and defaults."""
    with closing(PostgresKey(postgres_url, key_name)) as row:
        row.raw.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(key_name)))
        with closing(PostgresKey(postgres_url, key_name, quote(f"-c search_path={key_name}", safe=""))) as own:
            own.connect().next_nonce(make_request())
        columns = row.raw.execute(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = %s ORDER BY ordinal_position",
            [key_name],
        ).fetchall()
        row.raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(key_name)))
    assert list(map(list, columns)) == json.loads(stored("postgres_table.json"))


def test_the_row_of_a_key_has_its_name(redis_url: str, postgres_url: str) -> None:
    """The record of a key has the stored name, which is made from the key's hash, in either store."""
    name = json.loads(stored("row_name.json"))
    for url in (redis_url, postgres_url):
        with closing(open_nonce_store(url, API_KEY)) as engine:
            engine.next_nonce(make_request())
    with closing(RedisKey(redis_url, name)) as row:
        assert row.raw.exists(f"kraken-bot:{{{name}}}")
        row.wipe()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        deleted = connection.execute("DELETE FROM kraken_bot_keys WHERE name = %s", [name])
        assert deleted.rowcount == 1

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
LEASE_SECONDS, LOCK_SECONDS = 3600.0, 16.0
# The server's time when the stored records were written, and how far their nonces are ahead of it.
WRITTEN_US = 1_790_000_000_000_000
AHEAD_US = 60_000_000
# Times, nonces and fencing tokens have sixteen digits. Two runs of the same steps may be this far apart.
TIME_DIGITS = 16
MAX_DIFFERENCE_US = 10_000_000
# The last step before the record was stored.
LAST_STEPS = ("leading", "signed off", "led again")

Fields = dict[str, Any]


class ServerRecord(ABC):
    """The record of one key, accessed by the server's plain commands."""

    key: StoreKey

    @abstractmethod
    def fields(self) -> Fields:
        """Return the record by the server's field names."""

    @abstractmethod
    def write(self, fields: Fields) -> None:
        """Write the record."""


class RedisRecord(ServerRecord):
    """A Redis hash."""

    def __init__(self, url: str, name: str) -> None:
        self.key = self._key = RedisKey(url, name)

    def fields(self) -> Fields:
        """Read all fields of the hash."""
        found = self._key.raw.hgetall(f"kraken-bot:{{{self._key.name}}}")
        return {str(name): value for name, value in found.items()}

    def write(self, fields: Fields) -> None:
        """Set all fields of the hash."""
        for name, value in fields.items():
            self._key.raw.hset(f"kraken-bot:{{{self._key.name}}}", name, value)


class PostgresRecord(ServerRecord):
    """A row of PostgreSQL's table."""

    def __init__(self, url: str, name: str) -> None:
        self.key = self._key = PostgresKey(url, name)
        # The first client creates the table.
        self._key.connect().next_nonce(make_request())
        self._key.wipe()

    def fields(self) -> Fields:
        """Read all columns but the name."""
        with self._key.raw.cursor(row_factory=dict_row) as cursor:
            found = cursor.execute("SELECT * FROM kraken_bot_keys WHERE name = %s", [self._key.name]).fetchone()
        assert found is not None
        assert found.pop("name") == self._key.name
        return found

    def write(self, fields: Fields) -> None:
        """Insert the row."""
        row_values = {"name": self._key.name, **fields}
        statement = sql.SQL("INSERT INTO kraken_bot_keys ({}) VALUES ({})").format(
            sql.SQL(", ").join(map(sql.Identifier, row_values)), sql.SQL(", ").join(map(sql.Placeholder, row_values))
        )
        self._key.raw.execute(statement, row_values)


@pytest.fixture(params=["redis", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    """Return the kind of store."""
    return str(request.param)


@pytest.fixture
def server_record(kind: str, request: pytest.FixtureRequest, key_name: str) -> Iterator[ServerRecord]:
    """Return the record of a key that no other test uses."""
    url = request.getfixturevalue(f"{kind}_url")
    server_record: ServerRecord = RedisRecord(url, key_name) if kind == "redis" else PostgresRecord(url, key_name)
    yield server_record
    server_record.key.wipe()
    server_record.key.close()


def stored_fields(kind: str, last_step: str) -> Fields:
    """Return the record as commit c70f41a has written it."""
    fields: Fields = json.loads(stored(f"{kind}_rows.json"))[last_step]
    return fields


def moved(fields: Fields, microseconds: int) -> Fields:
    """Return the record as it would have been written that much later."""
    return {
        name: type(value)(int(value) + microseconds) if len(str(value)) == TIME_DIGITS else value
        for name, value in fields.items()
    }


def write_stored(server_record: ServerRecord, kind: str, last_step: str) -> Fields:
    """Write the record that commit c70f41a would write now; return it."""
    fields = moved(stored_fields(kind, last_step), server_record.key.server_us() - WRITTEN_US)
    server_record.write(fields)
    return fields


def run_until(key: StoreKey, last_step: str) -> None:
    """Lead, acquire the lock and let another owner ask for it; then release both; then let another owner lead."""
    store = key.connect()
    fencing_token = acquire_lease(store, OLD, LEASE_SECONDS).fencing_token
    nonce = granted_nonce(
        store.acquire_lock(make_request(key.server_us() + AHEAD_US, fencing_token=fencing_token), OLD, LOCK_SECONDS)
    )
    assert key.connect().acquire_lock(make_request(), NEXT, LOCK_SECONDS).status is GrantStatus.RESERVED
    if last_step != "leading":
        store.release_lock(nonce)
        store.release_lease(fencing_token, is_reconciled=True)
    if last_step == "led again":
        assert acquire_lease(key.connect(), NEW, LEASE_SECONDS).is_clean_handover


def is_equal_but_for_time(one: object, other: object) -> bool:
    """Return whether two values are equal, or are times or nonces of two runs of the same steps."""
    if type(one) is not type(other) or len(str(one)) != len(str(other)):
        return False
    return one == other or (len(str(one)) == TIME_DIGITS and abs(int(str(one)) - int(str(other))) < MAX_DIFFERENCE_US)


@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_a_record_is_written_as_it_was(server_record: ServerRecord, kind: str, last_step: str) -> None:
    """The same steps write a record with the stored names and values, apart from the time of the steps."""
    expected = moved(stored_fields(kind, last_step), server_record.key.server_us() - WRITTEN_US)
    run_until(server_record.key, last_step)
    written = server_record.fields()
    assert written.keys() == expected.keys()
    assert {
        name: (value, expected[name])
        for name, value in written.items()
        if not is_equal_but_for_time(value, expected[name])
    } == {}


def test_a_stored_lease_has_its_owner(server_record: ServerRecord, kind: str) -> None:
    """While the owner of a stored record leads, another instance gets its name and fencing token and does not lead."""
    fields = write_stored(server_record, kind, "leading")
    lease = server_record.key.connect().acquire_lease(NEW, LEASE_SECONDS)
    assert (lease.owner, lease.fencing_token) == (OLD, int(fields["generation"]))
    assert lease.remaining_seconds == pytest.approx(LEASE_SECONDS, abs=10.0)


def test_the_owner_of_a_stored_lease_keeps_it(server_record: ServerRecord, kind: str) -> None:
    """The lease of a stored record is renewed and gets nonces with its fencing token, and with no other."""
    fields = write_stored(server_record, kind, "leading")
    store, fencing_token = server_record.key.connect(), int(fields["generation"])
    assert store.renew_lease(fencing_token, LEASE_SECONDS)
    assert store.next_nonce(make_request(fencing_token=fencing_token)).status is GrantStatus.GRANTED
    assert not store.renew_lease(fencing_token - 1, LEASE_SECONDS)
    assert store.next_nonce(make_request(fencing_token=fencing_token - 1)).status is GrantStatus.STALE


@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_nonces_continue_above_the_stored_one(server_record: ServerRecord, kind: str, last_step: str) -> None:
    """The nonce after that of a stored record, which is ahead of the clock, is the next integer."""
    last = int(write_stored(server_record, kind, last_step)["nonce"])
    answer = server_record.key.connect().next_nonce(make_request())
    assert (answer.nonce, answer.previous_nonce) == (last + 1, last)


def test_a_stored_lock_is_respected(server_record: ServerRecord, kind: str) -> None:
    """The lock of a stored record is refused even to the reserved owner until it is released with its nonce."""
    fields = write_stored(server_record, kind, "leading")
    store, nonce = server_record.key.connect(), int(fields["turn_nonce"])
    assert store.acquire_lock(make_request(), NEXT, LOCK_SECONDS).status is GrantStatus.RESERVED
    store.release_lock(nonce - 1)
    assert store.acquire_lock(make_request(), NEXT, LOCK_SECONDS).status is GrantStatus.RESERVED
    store.release_lock(nonce)
    assert store.acquire_lock(make_request(), NEXT, LOCK_SECONDS).status is GrantStatus.GRANTED


@pytest.mark.parametrize(("last_step", "is_clean"), [("signed off", True), ("led again", False)])
def test_a_stored_release_is_a_clean_handover(
    server_record: ServerRecord, kind: str, last_step: str, is_clean: bool
) -> None:
    """A stored release gives the next leader a clean handover; a release with unknown orders, by the stored token, does
    not."""
    fields = write_stored(server_record, kind, last_step)
    store = server_record.key.connect()
    if not is_clean:
        store.release_lease(int(fields["generation"]), is_reconciled=False)
    lease = acquire_lease(store, NEXT, LEASE_SECONDS)
    assert lease.is_clean_handover is is_clean
    assert lease.fencing_token > int(fields["generation"])


@pytest.mark.parametrize("last_step", LAST_STEPS)
def test_a_stored_record_is_read(server_record: ServerRecord, kind: str, last_step: str) -> None:
    """A stored record is read with its nonce, its lease and the owner of the lock."""
    fields = write_stored(server_record, kind, last_step)
    record = server_record.key.connect().read_record()
    assert record is not None
    assert (record.last_nonce, record.lock_owner) == (int(fields["nonce"]), OLD if last_step == "leading" else "")
    owner = {"leading": OLD, "signed off": "", "led again": NEW}[last_step]
    expected_lease = Lease(owner, int(fields["generation"]), record.lease.remaining_seconds, last_step == "led again")
    assert record.lease == expected_lease
    assert (record.lease.remaining_seconds > 0) is bool(owner)


def test_the_table_is_created_as_it_was(postgres_url: str, key_name: str) -> None:
    """A missing table is created with the stored columns, types and defaults."""
    with closing(PostgresKey(postgres_url, key_name)) as key:
        key.raw.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(key_name)))
        with closing(PostgresKey(postgres_url, key_name, quote(f"-c search_path={key_name}", safe=""))) as own:
            own.connect().next_nonce(make_request())
        columns = key.raw.execute(
            "SELECT table_name, column_name, data_type, is_nullable, column_default FROM information_schema.columns "
            "WHERE table_schema = %s ORDER BY ordinal_position",
            [key_name],
        ).fetchall()
        key.raw.execute(sql.SQL("DROP SCHEMA {} CASCADE").format(sql.Identifier(key_name)))
    assert list(map(list, columns)) == json.loads(stored("postgres_table.json"))


def test_the_record_of_a_key_has_its_name(redis_url: str, postgres_url: str) -> None:
    """The record of a key has the stored name, which is made from the key's hash, in either store."""
    name = json.loads(stored("row_name.json"))
    for url in (redis_url, postgres_url):
        with closing(open_nonce_store(url, API_KEY)) as store:
            store.next_nonce(make_request())
    with closing(RedisKey(redis_url, name)) as key:
        assert key.raw.exists(f"kraken-bot:{{{name}}}")
        key.wipe()
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        deleted = connection.execute("DELETE FROM kraken_bot_keys WHERE name = %s", [name])
        assert deleted.rowcount == 1

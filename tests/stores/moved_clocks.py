"""Redis and PostgreSQL with an adjustable clock: what a record means after the server's clock was set."""

from __future__ import annotations

from abc import ABC, abstractmethod
from datetime import timedelta
from urllib.parse import quote

from psycopg import sql

from bot.nonce.store_protocol import KeyRecord, Lease, NonceGrant, NonceRequest, NonceStore
from tests.stores.key_rows import MAX_NONCE, PostgresKey, RedisKey

MICROSECONDS_PER_SECOND = 1_000_000
# Current times and nonces have sixteen digits; lifetimes have fewer.
MIN_TIME_US = 10**15


class MovedClock(ABC):
    """A server with an adjustable clock, and the record of one key; `store` operates on that record."""

    store: NonceStore

    @abstractmethod
    def now_us(self) -> int:
        """Return the server's clock."""

    @abstractmethod
    def real_us(self) -> int:
        """Return a clock that is never moved."""

    @abstractmethod
    def move(self, microseconds: int) -> None:
        """Move the server's clock; backwards where `microseconds` is negative."""

    @abstractmethod
    def wipe(self) -> None:
        """Delete the record."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections and remove what was created."""


class MovedPostgres(MovedClock):
    """PostgreSQL with its own clock_timestamp() first on the search path; it stands still until the test moves it."""

    def __init__(self, url: str, name: str) -> None:
        self._schema = sql.Identifier(f"clock_{name}")
        self._unmoved_key = PostgresKey(url, name)
        self._execute("CREATE SCHEMA {}")
        self._execute("CREATE TABLE {}.hand AS SELECT pg_catalog.clock_timestamp() AS moment")
        self._execute(
            "CREATE FUNCTION {0}.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT moment FROM {0}.hand'"
        )
        options = quote(f"-c search_path=clock_{name},pg_catalog,public", safe="")
        self._moved_key = PostgresKey(url, name, options)
        self.store = self._moved_key.connect()

    def _execute(self, text: str, *values: object) -> None:
        self._unmoved_key.raw.execute(sql.SQL(text).format(self._schema), values)

    def now_us(self) -> int:
        """Return the adjustable clock."""
        return self._moved_key.server_us()

    def real_us(self) -> int:
        """Return the server's real clock."""
        return self._unmoved_key.server_us()

    def move(self, microseconds: int) -> None:
        """Move the adjustable clock."""
        self._execute("UPDATE {}.hand SET moment = moment + %s", timedelta(microseconds=microseconds))

    def wipe(self) -> None:
        """Delete the row."""
        self._moved_key.wipe()

    def close(self) -> None:
        """Drop the adjustable clock."""
        self._moved_key.close()
        self._execute("DROP SCHEMA {} CASCADE")
        self._unmoved_key.close()


class MovedRedis(MovedClock, NonceStore):
    """Redis, whose TIME cannot be moved: every time in the record is moved the other way instead.

    The record then looks as a server would have left it whose clock was ahead (or behind) and has been set since.
    Nonces are moved too and translated on the way in and out, so a caller sees a server whose clock has moved.
    """

    location = "redis"

    def __init__(self, url: str, name: str) -> None:
        self._key = RedisKey(url, name)
        self._server_store = self._key.connect()
        self._offset_us = 0
        self.store = self

    def now_us(self) -> int:
        """Return TIME plus the offset."""
        return self.real_us() + self._offset_us

    def real_us(self) -> int:
        """Return TIME."""
        return self._key.server_us()

    def move(self, microseconds: int) -> None:
        """Move every time in the record the other way."""
        self._key.shift_times(-microseconds)
        self._offset_us += microseconds

    def wipe(self) -> None:
        """Delete the record."""
        self._key.wipe()
        self._offset_us = 0

    def close(self) -> None:
        """Close the connections."""
        self._key.close()

    def _to_server(self, number: int) -> int:
        return min(MAX_NONCE, number - self._offset_us) if number >= MIN_TIME_US else number

    def _from_server(self, number: int) -> int:
        return number + self._offset_us if number >= MIN_TIME_US else number

    def _request_to_server(self, request: NonceRequest) -> NonceRequest:
        return NonceRequest(
            self._to_server(request.floor),
            self._to_server(request.ceiling),
            request.units_per_microsecond,
            self._to_server(request.fencing_token),
        )

    def _grant_from_server(self, grant: NonceGrant) -> NonceGrant:
        return NonceGrant(grant.status, self._from_server(grant.nonce), self._from_server(grant.previous_nonce))

    def _lease_from_server(self, lease: Lease) -> Lease:
        return Lease(
            lease.owner, self._from_server(lease.fencing_token), lease.remaining_seconds, lease.is_clean_handover
        )

    def next_nonce(self, request: NonceRequest) -> NonceGrant:
        """Return the next nonce, translated."""
        return self._grant_from_server(self._server_store.next_nonce(self._request_to_server(request)))

    def acquire_lock(
        self, request: NonceRequest, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0
    ) -> NonceGrant:
        """Acquire the request lock, translated."""
        return self._grant_from_server(
            self._server_store.acquire_lock(self._request_to_server(request), owner, lifetime_seconds, waited_seconds)
        )

    def release_lock(self, nonce: int) -> None:
        """Release the request lock, translated."""
        self._server_store.release_lock(self._to_server(nonce))

    def acquire_lease(self, owner: str, lifetime_seconds: float) -> Lease:
        """Acquire the lease, translated."""
        return self._lease_from_server(self._server_store.acquire_lease(owner, lifetime_seconds))

    def renew_lease(self, fencing_token: int, lifetime_seconds: float) -> bool:
        """Renew the lease, translated."""
        return self._server_store.renew_lease(self._to_server(fencing_token), lifetime_seconds)

    def release_lease(self, fencing_token: int, is_reconciled: bool) -> None:
        """Release the lease, translated."""
        self._server_store.release_lease(self._to_server(fencing_token), is_reconciled)

    def read_record(self) -> KeyRecord | None:
        """Read the record, translated."""
        record = self._server_store.read_record()
        return record and KeyRecord(
            self._from_server(record.last_nonce), self._lease_from_server(record.lease), record.lock_owner
        )

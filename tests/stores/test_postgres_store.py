"""Tests of PostgreSQL alone: row locks, first use, permissions, connections, and error messages."""

from __future__ import annotations

import socket
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from bot.base.errors import StoreUnavailableError
from bot.nonce.postgres_store import _STATEMENTS, PostgresStore, ResultRow, Statement, Value
from bot.nonce.store_protocol import GrantStatus, NonceGrant, NonceRequest
from tests.child_process import Child
from tests.conftest import ROOT
from tests.servers import PASSWORD, PostgresServer, open_postgres
from tests.stores.conftest import wait_until
from tests.tcp_proxy import FaultProxy

REQUEST = NonceRequest(floor=0, ceiling=2**63 - 1)
# Ahead of any server's clock, so that only the row decides.
AHEAD = 4_000_000_000_000_000
HOUR_SECONDS = 3600.0
SCHEMA = ROOT / "bot/nonce/postgres/schema.sql"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Run a server that tests may administrate."""
    with open_postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


@pytest.fixture
def admin(server: PostgresServer) -> Iterator[psycopg.Connection]:
    """Return an administrator's connection in autocommit mode."""
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def open_store() -> Iterator[Callable[[str, str], PostgresStore]]:
    """Return a function that opens a store which is closed after the test."""
    stores: list[PostgresStore] = []

    def open_client(url: str, name: str) -> PostgresStore:
        stores.append(PostgresStore(url, name))
        return stores[-1]

    yield open_client
    for store in stores:
        store.close()


@pytest.fixture
def store(server: PostgresServer, key_name: str, open_store: Callable[[str, str], PostgresStore]) -> PostgresStore:
    """Return a client of a row that no other test has; the row exists."""
    store_client = open_store(server.url, key_name)
    store_client.next_nonce(REQUEST)
    return store_client


def with_options(url: str, options: str) -> str:
    """Return the URL with server settings for its sessions."""
    return f"{url}?options={quote(options, safe='')}"


@pytest.fixture
def empty_url(server: PostgresServer, key_name: str) -> str:
    """Return the URL of a schema that the user owns and that has no table."""
    with psycopg.connect(server.url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(key_name)))
    return with_options(server.url, f"-c search_path={key_name}")


def error_message(step: Callable[[], object]) -> str:
    """Return the one sentence that the step fails with; its traceback has no password."""
    with pytest.raises(StoreUnavailableError) as raised:
        step()
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))
    return str(raised.value)


def has_lock_waiter(admin: psycopg.Connection) -> bool:
    """Return whether a statement of the bot's user waits for a row lock."""
    found = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'bot' AND wait_event_type = 'Lock'")
    return found.fetchall() != [(0,)]


def after_the_wait(
    server: PostgresServer, admin: psycopg.Connection, change: str, name: str, step: Callable[[], NonceGrant]
) -> NonceGrant:
    """Update the row of `name` in a transaction, start the step, commit once the step waits; return its result."""
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(server.admin_url) as other:
            other.execute(sql.SQL("UPDATE kraken_bot_keys SET {} WHERE name = %s").format(sql.SQL(change)), [name])
            future: Future[NonceGrant] = pool.submit(step)
            wait_until(lambda: has_lock_waiter(admin))
        return future.result()


def test_eight_threads(store: PostgresStore) -> None:
    """Eight threads on one store, with fewer connections, get nonces that all differ and rise per thread."""
    with ThreadPoolExecutor(8) as pool:
        nonce_lists = list(pool.map(lambda _: [store.next_nonce(REQUEST).nonce for _ in range(60)], range(8)))
    assert len({nonce for nonces in nonce_lists for nonce in nonces}) == 8 * 60
    assert all(nonces == sorted(nonces) for nonces in nonce_lists)


@pytest.mark.parametrize("step", ["next_nonce", "acquire_lock"])
def test_a_blocked_statement_continues_above_the_committed_nonce(
    server: PostgresServer, admin: psycopg.Connection, store: PostgresStore, key_name: str, step: str
) -> None:
    """A statement that waited for a locked row issues a nonce above the one that was committed meanwhile."""
    request = {
        "next_nonce": lambda: store.next_nonce(REQUEST),
        "acquire_lock": lambda: store.acquire_lock(REQUEST, "a", HOUR_SECONDS),
    }[step]
    grant = after_the_wait(server, admin, f"nonce = {AHEAD}", key_name, request)
    assert grant == NonceGrant(GrantStatus.GRANTED, AHEAD + 1, AHEAD)
    if step == "acquire_lock":
        store.release_lock(AHEAD + 1)
        record = store.read_record()
        assert record is not None
        assert record.lock_owner == ""


def test_a_statement_that_waited_for_a_takeover_is_stale(
    server: PostgresServer, admin: psycopg.Connection, store: PostgresStore, key_name: str
) -> None:
    """A nonce under a lease is refused where the lease was taken over while the statement waited for the row."""
    request = NonceRequest(0, REQUEST.ceiling, fencing_token=store.acquire_lease("a", HOUR_SECONDS).fencing_token)
    grant = after_the_wait(server, admin, "generation = generation + 1", key_name, lambda: store.next_nonce(request))
    assert grant.status is GrantStatus.STALE


def test_a_timed_out_statement_is_cancelled(
    server: PostgresServer, admin: psycopg.Connection, store: PostgresStore, key_name: str
) -> None:
    """A statement that waits too long for a row is cancelled, and does not stay behind in the server."""
    with psycopg.connect(server.admin_url) as other:
        other.execute("SELECT FROM kraken_bot_keys WHERE name = %s FOR UPDATE", [key_name])
        text = error_message(lambda: store.next_nonce(REQUEST))
        wait_until(lambda: not has_lock_waiter(admin))
    assert text == f"the nonce store {store.location} did not answer within 2 s"


def test_first_use_by_many(empty_url: str) -> None:
    """Four processes that are the first to use a database create its table together, and none of them fails."""
    with ExitStack() as stack:
        arguments = ("tests.stores.postgres_children", "first", empty_url, "key")
        children = [stack.enter_context(Child(*arguments)) for _ in range(4)]
        for child in children:
            child.expect_line("ready")
        for child in children:
            child.write_line("go")
        nonces = {nonce for child in children for nonce in child.read_to_end()}
    assert len(nonces) == 4


def test_first_use_while_another_makes_the_table(admin: psycopg.Connection, empty_url: str) -> None:
    """A client whose CREATE TABLE meets a table that another has just created continues with that one."""
    store = PostgresStore(empty_url, "key")
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(empty_url) as other:
            other.execute(SCHEMA.read_bytes())
            answer = pool.submit(store.next_nonce, REQUEST)
            wait_until(lambda: has_lock_waiter(admin))
        assert answer.result().status is GrantStatus.GRANTED
    store.close()


def test_an_unsuccessful_poll_writes_nothing(admin: psycopg.Connection, store: PostgresStore, key_name: str) -> None:
    """Asking for a lock that another owner holds, while a third has the reservation, leaves the row unchanged."""
    store.acquire_lock(REQUEST, "a", HOUR_SECONDS)
    store.acquire_lock(REQUEST, "b", HOUR_SECONDS)

    def version() -> object:
        return admin.execute("SELECT xmin, ctid FROM kraken_bot_keys WHERE name = %s", [key_name]).fetchall()

    before = version()
    assert store.acquire_lock(REQUEST, "c", HOUR_SECONDS).status is GrantStatus.BUSY
    assert version() == before


def test_a_contended_lock_returns_busy(store: PostgresStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that loses every race for the free lock gets BUSY, and no error."""
    execute = store._connections.execute

    def lose_the_race(statement: Statement, values: Mapping[str, Value]) -> ResultRow | None:
        return None if statement is _STATEMENTS["take"] else execute(statement, values)

    monkeypatch.setattr(store._connections, "execute", lose_the_race)
    assert store.acquire_lock(REQUEST, "a", HOUR_SECONDS).status is GrantStatus.BUSY


def test_two_round_trips(
    server: PostgresServer, key_name: str, open_store: Callable[[str, str], PostgresStore]
) -> None:
    """Acquiring the lock with its nonce is one round trip, and releasing it is another."""
    with FaultProxy(server) as proxy:
        store = open_store(proxy.url, key_name)
        store.next_nonce(REQUEST)
        before = proxy.requests, proxy.responses
        store.release_lock(store.acquire_lock(REQUEST, "a", HOUR_SECONDS).nonce)
        assert (proxy.requests - before[0], proxy.responses - before[1]) == (2, 2)


def test_nothing_is_left_in_a_session(admin: psycopg.Connection, store: PostgresStore) -> None:
    """A session that has done every step is in its initial state: no transaction, no lock, no changed setting.

    So consecutive steps may run in different sessions, as behind a connection pooler.
    """
    fencing_token = store.acquire_lease("a", HOUR_SECONDS).fencing_token
    store.renew_lease(fencing_token, HOUR_SECONDS)
    store.release_lock(store.acquire_lock(REQUEST, "a", HOUR_SECONDS).nonce)
    store.release_lease(fencing_token, is_reconciled=True)
    idle = admin.execute("SELECT DISTINCT state, backend_xid, backend_xmin FROM pg_stat_activity WHERE usename = 'bot'")
    assert idle.fetchall() == [("idle", None, None)]


def test_ended_connections_are_replaced(admin: psycopg.Connection, store: PostgresStore) -> None:
    """Connections that the server has terminated are replaced without an error."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store.next_nonce(REQUEST), range(40)))
    before = store.next_nonce(REQUEST).nonce
    admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'bot'")
    assert store.next_nonce(REQUEST).nonce > before


def test_a_fork(server: PostgresServer, admin: psycopg.Connection, key_name: str, tmp_path: Path) -> None:
    """A forked child uses a connection of its own, and neither the fork nor its end closes the parent's."""
    application_name = "forked"

    def sessions() -> list[tuple[object, ...]]:
        return admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY pid", [application_name]
        ).fetchall()

    url = f"{server.url}?application_name={application_name}"
    with Child("tests.stores.postgres_children", "fork", url, key_name, tmp_path) as child:
        first = child.read_line()
        before = sessions()
        second, third = child.read_line(), child.read_line()
        assert int(first) < int(second) < int(third)
        wait_until(lambda: sessions() == before)
        child.write_line("end")
        assert child.read_to_end() == []


class TestErrorMessages:
    """Error messages are one sentence with the location and without credentials."""

    def test_the_location(self, server: PostgresServer, store: PostgresStore) -> None:
        """The location is host, port and database, and neither user nor password."""
        assert store.location == f"postgresql://127.0.0.1:{server.port}/bot"

    @pytest.mark.parametrize(
        ("url", "location"),
        [
            ("postgresql://u:p@[::1]/d", "postgresql://[::1]:5432/d"),
            ("postgres://u:p@one:1,two:2/d?target_session_attrs=read-write", "postgresql://one:1,two:2/d"),
            ("postgresql://one,two:2/d", "postgresql://one:5432,two:2/d"),
            ("postgresql://h/d?user=u&password=p&sslmode=require", "postgresql://h:5432/d"),
            ("postgresql:///d?host=/run/sockets", "postgresql:///run/sockets:5432/d"),
        ],
    )
    def test_locations(self, url: str, location: str) -> None:
        """The location of every kind of address leaves out user, password and options."""
        assert PostgresStore(url, "key").location == location

    def test_an_address_that_cannot_be_read(self) -> None:
        """An address that libpq cannot parse is refused without repeating it."""
        with pytest.raises(ValueError, match=r"^not a postgresql:// address that libpq can read$") as raised:
            PostgresStore(f"postgresql://u:{PASSWORD}@h:port:/%zz", "key")
        assert PASSWORD not in "".join(traceback.format_exception(raised.value))

    def test_a_wrong_password(self, server: PostgresServer) -> None:
        """A refused password has its own message."""
        store = PostgresStore(server.url.replace(quote(PASSWORD, safe=""), "wrong"), "key")
        assert error_message(lambda: store.next_nonce(REQUEST)) == (
            f"the nonce store {store.location} refuses this user name and password"
        )

    def test_no_such_database(self, server: PostgresServer) -> None:
        """A missing database has its own message."""
        store = PostgresStore(f"{server.url}_missing", "key")
        assert error_message(lambda: store.next_nonce(REQUEST)).endswith("/bot_missing has no such database or user")

    def test_no_connection_free(self, server: PostgresServer, admin: psycopg.Connection) -> None:
        """A user without a free connection has its own message."""
        admin.execute("ALTER ROLE bot CONNECTION LIMIT 0")
        try:
            text = error_message(lambda: PostgresStore(server.url, "key").next_nonce(REQUEST))
        finally:
            admin.execute("ALTER ROLE bot CONNECTION LIMIT -1")
        assert text.endswith(" has no connection free")

    @pytest.mark.parametrize(
        ("url", "description"),
        [
            ("postgresql://127.0.0.1:1/d", "cannot be reached: nothing listens there"),
            ("postgresql://127.0.0.1:1/d?sslmode=some", "cannot be asked: there is no such sslmode"),
        ],
    )
    def test_nobody_there(self, url: str, description: str) -> None:
        """A port without a listener and an invalid sslmode have different messages."""
        store = PostgresStore(url, "key")
        assert error_message(lambda: store.next_nonce(REQUEST)) == f"the nonce store {store.location} {description}"

    def test_a_name_that_nobody_knows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host name that DNS does not know has its own message."""

        def unknown(*_arguments: object, **_options: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        store = PostgresStore("postgresql://store.example/d", "key")
        assert error_message(lambda: store.next_nonce(REQUEST)).endswith(" has a name that cannot be looked up (DNS)")

    def test_a_server_without_tls(self, server: PostgresServer) -> None:
        """Where the address demands TLS and the server has none, the connection fails."""
        text = error_message(lambda: PostgresStore(f"{server.url}?sslmode=require", "key").next_nonce(REQUEST))
        assert text.endswith(" cannot be reached by TLS as the address wants it (sslmode)")

    def test_read_only(self, store: PostgresStore, server: PostgresServer, key_name: str) -> None:
        """Where transactions are read-only by default, the message says so, and the record can be read."""
        reader = PostgresStore(with_options(server.url, "-c default_transaction_read_only=on"), key_name)
        text = error_message(lambda: reader.next_nonce(REQUEST))
        assert text == (
            f"the nonce store {reader.location} is read-only (a standby, or default_transaction_read_only is on)"
        )
        assert reader.read_record() == store.read_record()
        reader.close()

    def test_no_right_to_make_the_table(self, admin: psycopg.Connection, empty_url: str, key_name: str) -> None:
        """A user who may not create the table is told what its owner has to run; reading returns no record."""
        admin.execute(sql.SQL("REVOKE CREATE ON SCHEMA {} FROM bot").format(sql.Identifier(key_name)))
        store = PostgresStore(empty_url, "key")
        text = error_message(lambda: store.next_nonce(REQUEST))
        assert text == (
            f"the nonce store {store.location} does not let this user do that: as its owner run"
            " bot/nonce/postgres/schema.sql there once, and GRANT SELECT, INSERT, UPDATE"
            " ON kraken_bot_keys to this user"
        )
        assert store.read_record() is None
        store.close()

    def test_repeatable_read(
        self, server: PostgresServer, admin: psycopg.Connection, store: PostgresStore, key_name: str
    ) -> None:
        """With another default isolation level a statement that had to wait fails with its own message and issues no
        nonce."""
        strict = PostgresStore(with_options(server.url, r"-c default_transaction_isolation=repeatable\ read"), key_name)
        text = error_message(
            lambda: after_the_wait(server, admin, f"nonce = {AHEAD}", key_name, lambda: strict.next_nonce(REQUEST))
        )
        assert text.endswith(" has a default_transaction_isolation other than read committed")
        assert store.next_nonce(REQUEST).nonce == AHEAD + 1
        strict.close()


class TestTablesOfOtherVersions:
    """The table may come from another version of this program."""

    @pytest.mark.parametrize(
        ("change", "is_supported"),
        [
            ("ADD COLUMN later bigint NOT NULL DEFAULT 7", True),
            ("ADD COLUMN later bigint NOT NULL", False),
            ("DROP COLUMN clean", False),
            ("DROP COLUMN turn_owner, ADD COLUMN turn_owner bigint NOT NULL DEFAULT 0", False),
        ],
    )
    def test_table_of_another_version(self, empty_url: str, change: str, is_supported: bool) -> None:
        """An additional column with a default is fine; a table that this version cannot use has its own message."""
        with psycopg.connect(empty_url, autocommit=True) as owner:
            owner.execute(SCHEMA.read_bytes())
            owner.execute(sql.SQL("ALTER TABLE kraken_bot_keys {}").format(sql.SQL(change)))
        store = PostgresStore(empty_url, "key")

        def step() -> GrantStatus:
            store.acquire_lease("a", HOUR_SECONDS)
            return store.acquire_lock(REQUEST, "a", HOUR_SECONDS).status

        if is_supported:
            assert step() is GrantStatus.GRANTED
        else:
            assert error_message(step) == (
                f"the nonce store {store.location} has a table kraken_bot_keys that this version of the program "
                "does not know"
            )
        store.close()

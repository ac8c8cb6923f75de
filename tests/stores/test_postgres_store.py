"""What is PostgreSQL's own: rows that are waited for, the table's first use, rights, connections, what it says."""

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
from bot.nonce.postgres_store import _STATEMENTS, Answer, PostgresEngine, Statement, Value
from bot.nonce.store_protocol import Drawn, Outcome, Wish
from tests.child_process import Child
from tests.conftest import ROOT
from tests.servers import PASSWORD, PostgresServer, open_postgres
from tests.stores.conftest import wait_until
from tests.tcp_proxy import Gateway

WISH = Wish(floor=0, ceiling=2**63 - 1)
# Ahead of any server's clock, so that only the row decides.
AHEAD = 4_000_000_000_000_000
HOUR_SECONDS = 3600.0
SCHEMA = ROOT / "bot/nonce/postgres/schema.sql"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PostgresServer]:
    """Run a server whose administrator the tests may be."""
    with open_postgres(tmp_path_factory.mktemp("postgres")) as started:
        yield started


@pytest.fixture
def admin(server: PostgresServer) -> Iterator[psycopg.Connection]:
    """Return a connection of the administrator's, each statement by itself."""
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def opened() -> Iterator[Callable[[str, str], PostgresEngine]]:
    """Return what opens an engine that is closed after the test."""
    engines: list[PostgresEngine] = []

    def open_one(url: str, name: str) -> PostgresEngine:
        engines.append(PostgresEngine(url, name))
        return engines[-1]

    yield open_one
    for engine in engines:
        engine.close()


@pytest.fixture
def engine(server: PostgresServer, key_name: str, opened: Callable[[str, str], PostgresEngine]) -> PostgresEngine:
    """Return a client of a row that no other test has; the row is there."""
    made = opened(server.url, key_name)
    made.draw(WISH)
    return made


def with_options(url: str, options: str) -> str:
    """Return the URL with the server's settings for its sessions in it."""
    return f"{url}?options={quote(options, safe='')}"


@pytest.fixture
def empty_url(server: PostgresServer, key_name: str) -> str:
    """Return the URL of a schema of the user's own, with no table in it."""
    with psycopg.connect(server.url, autocommit=True) as owner:
        owner.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(key_name)))
    return with_options(server.url, f"-c search_path={key_name}")


def complaint(step: Callable[[], object]) -> str:
    """Return the one sentence that the step fails with, whose traceback has no password."""
    with pytest.raises(StoreUnavailableError) as raised:
        step()
    assert PASSWORD not in "".join(traceback.format_exception(raised.value))
    return str(raised.value)


def waiting(admin: psycopg.Connection) -> bool:
    """Whether a statement of the bot's waits for another one's row."""
    found = admin.execute("SELECT count(*) FROM pg_stat_activity WHERE usename = 'bot' AND wait_event_type = 'Lock'")
    return found.fetchall() != [(0,)]


def after_the_wait(
    server: PostgresServer, admin: psycopg.Connection, change: str, name: str, step: Callable[[], Drawn]
) -> Drawn:
    """Change the row of `name` in a transaction, do the step meanwhile, commit when it waits; return its answer."""
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(server.admin_url) as other:
            other.execute(sql.SQL("UPDATE kraken_bot_keys SET {} WHERE name = %s").format(sql.SQL(change)), [name])
            answer: Future[Drawn] = pool.submit(step)
            wait_until(lambda: waiting(admin))
        return answer.result()


def test_eight_threads(engine: PostgresEngine) -> None:
    """Eight threads on one engine, with fewer connections than that, draw nonces that all differ and each rise."""
    with ThreadPoolExecutor(8) as pool:
        drawn = list(pool.map(lambda _: [engine.draw(WISH).nonce for _ in range(60)], range(8)))
    assert len({nonce for nonces in drawn for nonce in nonces}) == 8 * 60
    assert all(nonces == sorted(nonces) for nonces in drawn)


@pytest.mark.parametrize("step", ["draw", "take"])
def test_a_statement_that_waited_draws_above(
    server: PostgresServer, admin: psycopg.Connection, engine: PostgresEngine, key_name: str, step: str
) -> None:
    """A statement that waited for another one's row draws above the nonce that the other has written meanwhile."""
    act = {"draw": lambda: engine.draw(WISH), "take": lambda: engine.take(WISH, "a", HOUR_SECONDS)}[step]
    drawn = after_the_wait(server, admin, f"nonce = {AHEAD}", key_name, act)
    assert drawn == Drawn(Outcome.DRAWN, AHEAD + 1, AHEAD)
    if step == "take":
        engine.give_back(AHEAD + 1)
        row = engine.look()
        assert row is not None
        assert row.turn_owner == ""


def test_a_statement_that_waited_for_a_takeover_is_stale(
    server: PostgresServer, admin: psycopg.Connection, engine: PostgresEngine, key_name: str
) -> None:
    """A nonce under a lease is not drawn where the lease was taken over while the statement waited for the row."""
    wish = Wish(0, WISH.ceiling, generation=engine.acquire("a", HOUR_SECONDS).generation)
    drawn = after_the_wait(server, admin, "generation = generation + 1", key_name, lambda: engine.draw(wish))
    assert drawn.outcome is Outcome.STALE


def test_a_statement_that_was_given_up_is_called_off(
    server: PostgresServer, admin: psycopg.Connection, engine: PostgresEngine, key_name: str
) -> None:
    """A statement that waits too long for a row is given up, and does not stay behind in the server."""
    with psycopg.connect(server.admin_url) as other:
        other.execute("SELECT FROM kraken_bot_keys WHERE name = %s FOR UPDATE", [key_name])
        text = complaint(lambda: engine.draw(WISH))
        wait_until(lambda: not waiting(admin))
    assert text == f"the nonce store {engine.place} did not answer within 2 s"


def test_first_use_by_many(empty_url: str) -> None:
    """Four processes that are the first to use a database make its table together, and none of them fails."""
    with ExitStack() as stack:
        arguments = ("tests.stores.postgres_children", "first", empty_url, "key")
        children = [stack.enter_context(Child(*arguments)) for _ in range(4)]
        for child in children:
            child.expect("ready")
        for child in children:
            child.tell("go")
        nonces = {nonce for child in children for nonce in child.rest()}
    assert len(nonces) == 4


def test_first_use_while_another_makes_the_table(admin: psycopg.Connection, empty_url: str) -> None:
    """Whoever makes the table just after another has begun to, and is told that it is there now, goes on with it."""
    engine = PostgresEngine(empty_url, "key")
    with ThreadPoolExecutor(1) as pool:
        with psycopg.connect(empty_url) as other:
            other.execute(SCHEMA.read_bytes())
            answer = pool.submit(engine.draw, WISH)
            wait_until(lambda: waiting(admin))
        assert answer.result().outcome is Outcome.DRAWN
    engine.close()


def test_a_poll_in_vain_writes_nothing(admin: psycopg.Connection, engine: PostgresEngine, key_name: str) -> None:
    """Asking for a turn that another has, while a third is next, leaves the row as it was, to the last byte."""
    engine.take(WISH, "a", HOUR_SECONDS)
    engine.take(WISH, "b", HOUR_SECONDS)

    def version() -> object:
        return admin.execute("SELECT xmin, ctid FROM kraken_bot_keys WHERE name = %s", [key_name]).fetchall()

    before = version()
    assert engine.take(WISH, "c", HOUR_SECONDS).outcome is Outcome.BUSY
    assert version() == before


def test_a_turn_that_goes_from_hand_to_hand(engine: PostgresEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who finds the turn free each time just after another one had it is told to ask again, and no trouble is said."""
    ask = engine._connections.ask

    def come_too_late(statement: Statement, values: Mapping[str, Value]) -> Answer | None:
        return None if statement is _STATEMENTS["take"] else ask(statement, values)

    monkeypatch.setattr(engine._connections, "ask", come_too_late)
    assert engine.take(WISH, "a", HOUR_SECONDS).outcome is Outcome.BUSY


def test_two_round_trips(server: PostgresServer, key_name: str, opened: Callable[[str, str], PostgresEngine]) -> None:
    """A turn with its nonce is one round trip, and giving it back is another."""
    with Gateway(server) as gateway:
        engine = opened(gateway.url, key_name)
        engine.draw(WISH)
        before = gateway.requests, gateway.answers
        engine.give_back(engine.take(WISH, "a", HOUR_SECONDS).nonce)
        assert (gateway.requests - before[0], gateway.answers - before[1]) == (2, 2)


def test_nothing_is_left_in_a_session(admin: psycopg.Connection, engine: PostgresEngine) -> None:
    """A session that has done every step is as it was begun: no transaction, no lock, nothing changed by hand.

    So one step may be done in another session than the one before, as a pooler does it.
    """
    generation = engine.acquire("a", HOUR_SECONDS).generation
    engine.renew(generation, HOUR_SECONDS)
    engine.give_back(engine.take(WISH, "a", HOUR_SECONDS).nonce)
    engine.sign_off(generation, settled=True)
    idle = admin.execute("SELECT DISTINCT state, backend_xid, backend_xmin FROM pg_stat_activity WHERE usename = 'bot'")
    assert idle.fetchall() == [("idle", None, None)]


def test_ended_connections_are_replaced(admin: psycopg.Connection, engine: PostgresEngine) -> None:
    """Connections that the server has ended meanwhile are replaced, and nobody notices."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: engine.draw(WISH), range(40)))
    before = engine.draw(WISH).nonce
    admin.execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = 'bot'")
    assert engine.draw(WISH).nonce > before


def test_a_fork(server: PostgresServer, admin: psycopg.Connection, key_name: str, tmp_path: Path) -> None:
    """A forked child draws by a connection of its own, and neither the fork nor its end ends the parent's."""
    own = "forked"

    def sessions() -> list[tuple[object, ...]]:
        return admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE application_name = %s ORDER BY pid", [own]
        ).fetchall()

    url = f"{server.url}?application_name={own}"
    with Child("tests.stores.postgres_children", "fork", url, key_name, tmp_path) as child:
        first = child.line()
        before = sessions()
        second, third = child.line(), child.line()
        assert int(first) < int(second) < int(third)
        wait_until(lambda: sessions() == before)
        child.tell("end")
        assert child.rest() == []


class TestWhatIsSaid:
    """One sentence, with the place, without credentials."""

    def test_the_place(self, server: PostgresServer, engine: PostgresEngine) -> None:
        """The place is host, port and database, and neither user nor password."""
        assert engine.place == f"postgresql://127.0.0.1:{server.port}/bot"

    @pytest.mark.parametrize(
        ("url", "place"),
        [
            ("postgresql://u:p@[::1]/d", "postgresql://[::1]:5432/d"),
            ("postgres://u:p@one:1,two:2/d?target_session_attrs=read-write", "postgresql://one:1,two:2/d"),
            ("postgresql://one,two:2/d", "postgresql://one:5432,two:2/d"),
            ("postgresql://h/d?user=u&password=p&sslmode=require", "postgresql://h:5432/d"),
            ("postgresql:///d?host=/run/sockets", "postgresql:///run/sockets:5432/d"),
        ],
    )
    def test_places(self, url: str, place: str) -> None:
        """The place of every kind of address is told without its user, password and options."""
        assert PostgresEngine(url, "key").place == place

    def test_an_address_that_cannot_be_read(self) -> None:
        """An address that libpq cannot read is refused without repeating it."""
        with pytest.raises(ValueError, match=r"^not a postgresql:// address that libpq can read$") as raised:
            PostgresEngine(f"postgresql://u:{PASSWORD}@h:port:/%zz", "key")
        assert PASSWORD not in "".join(traceback.format_exception(raised.value))

    def test_a_wrong_password(self, server: PostgresServer) -> None:
        """A password that the server refuses is named as that."""
        engine = PostgresEngine(server.url.replace(quote(PASSWORD, safe=""), "wrong"), "key")
        assert complaint(lambda: engine.draw(WISH)) == (
            f"the nonce store {engine.place} refuses this user name and password"
        )

    def test_no_such_database(self, server: PostgresServer) -> None:
        """A database that is not there is named as that."""
        engine = PostgresEngine(f"{server.url}_missing", "key")
        assert complaint(lambda: engine.draw(WISH)).endswith("/bot_missing has no such database or user")

    def test_no_connection_free(self, server: PostgresServer, admin: psycopg.Connection) -> None:
        """A server that has no connection left for the user is named as that."""
        admin.execute("ALTER ROLE bot CONNECTION LIMIT 0")
        try:
            text = complaint(lambda: PostgresEngine(server.url, "key").draw(WISH))
        finally:
            admin.execute("ALTER ROLE bot CONNECTION LIMIT -1")
        assert text.endswith(" has no connection free")

    @pytest.mark.parametrize(
        ("url", "what"),
        [
            ("postgresql://127.0.0.1:1/d", "cannot be reached: nothing listens there"),
            ("postgresql://127.0.0.1:1/d?sslmode=some", "cannot be asked: there is no such sslmode"),
        ],
    )
    def test_nobody_there(self, url: str, what: str) -> None:
        """A port where nothing listens and an sslmode that there is not are told apart."""
        engine = PostgresEngine(url, "key")
        assert complaint(lambda: engine.draw(WISH)) == f"the nonce store {engine.place} {what}"

    def test_a_name_that_nobody_knows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A host whose name cannot be looked up is named as that."""

        def unknown(*_arguments: object, **_options: object) -> None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        engine = PostgresEngine("postgresql://store.example/d", "key")
        assert complaint(lambda: engine.draw(WISH)).endswith(" has a name that cannot be looked up (DNS)")

    def test_a_server_without_tls(self, server: PostgresServer) -> None:
        """Where the address wants TLS and the server has none, nothing is sent without it."""
        text = complaint(lambda: PostgresEngine(f"{server.url}?sslmode=require", "key").draw(WISH))
        assert text.endswith(" cannot be reached by TLS as the address wants it (sslmode)")

    def test_read_only(self, engine: PostgresEngine, server: PostgresServer, key_name: str) -> None:
        """Where transactions are read-only by default, it says so, and the row can be looked at."""
        reader = PostgresEngine(with_options(server.url, "-c default_transaction_read_only=on"), key_name)
        text = complaint(lambda: reader.draw(WISH))
        assert text == (
            f"the nonce store {reader.place} is read-only (a standby, or default_transaction_read_only is on)"
        )
        assert reader.look() == engine.look()
        reader.close()

    def test_no_right_to_make_the_table(self, admin: psycopg.Connection, empty_url: str, key_name: str) -> None:
        """A user who may not make the table is told what its owner has to do; looking says that there is no row."""
        admin.execute(sql.SQL("REVOKE CREATE ON SCHEMA {} FROM bot").format(sql.Identifier(key_name)))
        engine = PostgresEngine(empty_url, "key")
        text = complaint(lambda: engine.draw(WISH))
        assert text == (
            f"the nonce store {engine.place} does not let this user do that: as its owner run"
            " bot/nonce/postgres/schema.sql there once, and GRANT SELECT, INSERT, UPDATE"
            " ON kraken_bot_keys to this user"
        )
        assert engine.look() is None
        engine.close()

    def test_repeatable_read(
        self, server: PostgresServer, admin: psycopg.Connection, engine: PostgresEngine, key_name: str
    ) -> None:
        """Where another isolation level is the default, a statement that had to wait says so, and draws nothing."""
        strict = PostgresEngine(
            with_options(server.url, r"-c default_transaction_isolation=repeatable\ read"), key_name
        )
        text = complaint(lambda: after_the_wait(server, admin, f"nonce = {AHEAD}", key_name, lambda: strict.draw(WISH)))
        assert text.endswith(" has a default_transaction_isolation other than read committed")
        assert engine.draw(WISH).nonce == AHEAD + 1
        strict.close()


class TestTablesOfOtherVersions:
    """The table may have been made by another version of this program."""

    @pytest.mark.parametrize(
        ("change", "known"),
        [
            ("ADD COLUMN later bigint NOT NULL DEFAULT 7", True),
            ("ADD COLUMN later bigint NOT NULL", False),
            ("DROP COLUMN clean", False),
            ("DROP COLUMN turn_owner, ADD COLUMN turn_owner bigint NOT NULL DEFAULT 0", False),
        ],
    )
    def test_it(self, empty_url: str, change: str, known: bool) -> None:
        """A column more is no trouble where it has a default; what this version cannot use is named as that."""
        with psycopg.connect(empty_url, autocommit=True) as owner:
            owner.execute(SCHEMA.read_bytes())
            owner.execute(sql.SQL("ALTER TABLE kraken_bot_keys {}").format(sql.SQL(change)))
        engine = PostgresEngine(empty_url, "key")

        def step() -> Outcome:
            engine.acquire("a", HOUR_SECONDS)
            return engine.take(WISH, "a", HOUR_SECONDS).outcome

        if known:
            assert step() is Outcome.DRAWN
        else:
            assert complaint(step) == (
                f"the nonce store {engine.place} has a table kraken_bot_keys that this version of the program does not"
                " know"
            )
        engine.close()

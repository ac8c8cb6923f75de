"""What is Redis's own in its engine: exact numbers, damaged rows, refusals, connections; against real servers."""

from __future__ import annotations

import socketserver
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from bot.base.errors import StoreUnavailableError
from bot.nonce.redis_store import RedisEngine
from bot.nonce.store_protocol import Drawn, Outcome
from tests.child_process import Child
from tests.servers import PASSWORD, USER, RedisServer
from tests.stores.key_rows import HOUR_SECONDS, RedisRow, drawn, lead, until, wish
from tests.stores.redis_children import FORKS
from tests.tcp_proxy import Gateway


@pytest.fixture
def row(redis_url: str, key_name: str) -> Iterator[RedisRow]:
    """Return the row of a key that nobody else uses."""
    row = RedisRow(redis_url, key_name)
    yield row
    row.lose()
    row.close()


@pytest.fixture
def engine(row: RedisRow) -> RedisEngine:
    """Return a client of that row."""
    return RedisEngine(row.url, row.name)


@pytest.fixture
def own(redis_server: RedisServer) -> Iterator[RedisEngine]:
    """Return a client of a server that the test may put into trouble."""
    engine = RedisEngine(redis_server.url, "own")
    yield engine
    engine.close()


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Return a connection to that server by which it is put into trouble."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def refusal(engine: RedisEngine) -> str:
    """Return why a nonce cannot be drawn; nothing of it has the password, nor the error that it came from."""
    with pytest.raises(StoreUnavailableError) as caught:
        engine.draw(wish())
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert PASSWORD not in repr(caught.value)
    assert engine.place in str(caught.value)
    return str(caught.value)


class TestExactNumbers:
    """Lua counts in doubles."""

    @pytest.mark.parametrize(
        ("floor", "following"),
        [
            ("9007199254740993", "9007199254740994"),
            ("9999999999999999", "10000000000000000"),
            ("1795404227910604001", "1795404227910604002"),
            ("9223372036854775806", "9223372036854775807"),
        ],
    )
    def test_nonces_above_2_53_are_counted_exactly(
        self, row: RedisRow, engine: RedisEngine, floor: str, following: str
    ) -> None:
        """The nonce after one that no double can hold is that one and one, in the answer and in the store."""
        assert engine.draw(wish(int(floor))) == Drawn(Outcome.DRAWN, int(floor), 0)
        assert engine.draw(wish()) == Drawn(Outcome.DRAWN, int(following), int(floor))
        assert row.raw.hget(row.key, "nonce") == following

    def test_a_ceiling_between_two_doubles_holds(self, engine: RedisEngine) -> None:
        """A ceiling of 2^53 + 1 lets that nonce through and not the next."""
        limit = 9007199254740993
        assert drawn(engine.draw(wish(limit, limit))) == limit
        assert engine.draw(wish(0, limit)) == Drawn(Outcome.AHEAD, 0, limit)

    def test_a_generation_above_2_53_is_exact(self, row: RedisRow, engine: RedisEngine) -> None:
        """The generation after 2^53 + 1 is 2^53 + 2, and a sender of 2^53 + 1 is stale under it."""
        row.raw.hset(row.key, "generation", "9007199254740993")
        assert lead(engine, "a").generation == 9007199254740994
        assert engine.draw(wish(generation=9007199254740993)).outcome is Outcome.STALE
        assert engine.draw(wish(generation=9007199254740994)).outcome is Outcome.DRAWN

    def test_a_nanosecond_nonce_is_the_servers_time(self, row: RedisRow, engine: RedisEngine) -> None:
        """In nanoseconds a nonce is the server's microseconds between question and answer, with 000 behind."""
        before = row.server_us()
        nonce = str(drawn(engine.draw(wish(ticks=1000))))
        assert nonce.endswith("000")
        assert before <= int(nonce[:-3]) <= row.server_us()

    def test_the_beginning_of_a_second_has_its_zeros(self, row: RedisRow, engine: RedisEngine) -> None:
        """In the first tenth of a second, whose microseconds have fewer digits, a nonce is the server's time too."""
        until(lambda: row.server_us() % 1_000_000 < 50_000)
        before = row.server_us()
        assert before <= drawn(engine.draw(wish())) <= row.server_us()


class TestDamage:
    """A row that somebody else has written to."""

    @pytest.mark.parametrize(
        "text", ["", "rubbish", "-5", "1e15", "1795404227910604.5", " 17", "007", "9" * 21, b"\xff"]
    )
    def test_a_damaged_nonce_counts_as_none(self, row: RedisRow, engine: RedisEngine, text: str | bytes) -> None:
        """A nonce that is no number of at most 20 digits counts as none: the next comes from the server's clock."""
        row.raw.hset(row.key, "nonce", text)
        before = row.server_us()
        answer = engine.draw(wish())
        assert (answer.outcome, answer.last) == (Outcome.DRAWN, 0)
        assert before <= answer.nonce <= row.server_us()

    @pytest.mark.parametrize("text", ["", "rubbish", "-1", "nan", "1e99", "9" * 40, b"\xff\xfe"])
    def test_a_damaged_lease_or_turn_is_over(self, row: RedisRow, engine: RedisEngine, text: str | bytes) -> None:
        """A lease, a turn and a reservation with a damaged end are over: others get them, and their sender is stale."""
        generation = lead(engine, "a").generation
        drawn(engine.take(wish(), "a", HOUR_SECONDS))
        assert engine.take(wish(), "b", HOUR_SECONDS).outcome is Outcome.NEXT
        for claim in ("lease", "turn", "next"):
            row.raw.hset(row.key, f"{claim}_until", text)
        assert engine.draw(wish(generation=generation)).outcome is Outcome.STALE
        drawn(engine.take(wish(), "c", HOUR_SECONDS))
        assert lead(engine, "c").generation > generation

    @pytest.mark.parametrize("text", ["rubbish", "9" * 19, "9" * 25])
    def test_a_damaged_generation_is_replaced(self, row: RedisRow, engine: RedisEngine, text: str) -> None:
        """With a generation that cannot be counted on whoever led is stale, and the next one is the server's time."""
        generation = lead(engine, "a").generation
        row.raw.hset(row.key, mapping={"generation": text, "lease_until": "0"})
        assert engine.draw(wish(generation=generation)).outcome is Outcome.STALE
        before = row.server_us()
        assert before <= lead(engine, "b").generation <= row.server_us()

    def test_an_owner_that_is_no_text_is_another(self, row: RedisRow, engine: RedisEngine) -> None:
        r"""An owner's bytes that are no UTF-8 are shown as \x.., and are not who asks."""
        lead(engine, "a")
        row.raw.hset(row.key, "lease_owner", b"\xff\xfe")
        assert engine.acquire("a", HOUR_SECONDS).owner == r"\xff\xfe"

    def test_something_else_in_the_rows_place_is_left_alone(self, row: RedisRow, engine: RedisEngine) -> None:
        """Where the row's key holds no hash, each step says so and changes nothing."""
        row.raw.set(row.key, "mine")
        for step in (
            engine.look,
            lambda: engine.draw(wish()),
            lambda: engine.take(wish(), "a", 1.0),
            lambda: engine.give_back(1),
            lambda: engine.acquire("a", 1.0),
            lambda: engine.renew(1, 1.0),
            lambda: engine.sign_off(1, True),
        ):
            with pytest.raises(StoreUnavailableError, match="something else than a hash"):
                step()
        assert row.raw.get(row.key) == "mine"


class TestRefusals:
    """A server that answers, and does not do it."""

    def test_full(self, own: RedisEngine, admin: redis.Redis) -> None:
        """A full server draws no nonce and changes nothing; a turn is given back and a leader signs off even so."""
        generation = lead(own, "a").generation
        nonce = drawn(own.take(wish(), "a", HOUR_SECONDS))
        admin.config_set("maxmemory", "1")
        assert "is full" in refusal(own)
        own.give_back(nonce)
        own.sign_off(generation, True)
        row = own.look()
        assert row is not None
        assert (row.nonce, row.turn_owner, row.lease.owner) == (nonce, "", "")
        admin.config_set("maxmemory", "0")
        assert lead(own, "b").clean

    def test_a_read_only_replica(self, own: RedisEngine, admin: redis.Redis) -> None:
        """A replica is named as one, and still shows what it has."""
        nonce = drawn(own.draw(wish()))
        admin.replicaof("127.0.0.1", "1")
        assert "read-only replica" in refusal(own)
        row = own.look()
        assert row is not None
        assert row.nonce == nonce

    def test_a_wrong_password(self, redis_server: RedisServer) -> None:
        """A wrong password is named as what is wrong, and is not in the text."""
        url = f"redis://{USER}:wrong%2Fone@127.0.0.1:{redis_server.port}/0"
        problem = refusal(RedisEngine(url, "own"))
        assert "refuses the user name or password" in problem
        assert "wrong/one" not in problem

    @pytest.mark.parametrize("rights", ["+@all -evalsha ~*", "+@all -hset ~*", "+@all ~other"])
    def test_missing_rights(self, redis_server: RedisServer, admin: redis.Redis, rights: str) -> None:
        """A user who may not run scripts, not what is in them, or not at this key, is told what the bot needs."""
        admin.execute_command("ACL", "SETUSER", "poor", "on", ">poor", *rights.split())  # type: ignore[no-untyped-call]
        engine = RedisEngine(f"redis://poor:poor@127.0.0.1:{redis_server.port}/0", "own")
        assert "does not allow this user what the bot needs" in refusal(engine)

    def test_a_database_that_is_not_there(self, redis_server: RedisServer) -> None:
        """What has no sentence of ours is told in the server's words."""
        engine = RedisEngine(redis_server.url.removesuffix("/0") + "/99", "own")
        assert "DB index is out of range" in refusal(engine)

    def test_an_echo_of_the_password(self, redis_server: RedisServer) -> None:
        """A server that repeats what it was sent does not get the password into an error."""
        start = PASSWORD[:6]

        class Echo(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(f"-ERR unknown: '{PASSWORD}', with args beginning with: '{start}'\r\n".encode())

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server, ThreadPoolExecutor(1) as thread:
            thread.submit(server.serve_forever, 0.01)
            try:
                problem = refusal(RedisEngine(redis_server.url_at(server.server_address[1]), "own"))
            finally:
                server.shutdown()
        assert "unknown: '***'" in problem
        assert start not in problem

    def test_a_user_of_one_letter(self, redis_server: RedisServer, own: RedisEngine) -> None:
        """Where the user is called u, the words of an error keep theirs."""
        redis_server.kill()
        problem = refusal(RedisEngine(f"redis://u:p@127.0.0.1:{redis_server.port}/0", "own"))
        assert problem == refusal(own)

    def test_protected_mode(self) -> None:
        """A server that lets its own machine alone connect, and says so before it is asked, is named as that."""

        class Protected(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"-DENIED Redis is running in protected mode because ...\r\n")
                self.connection.recv(1000)

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Protected) as server, ThreadPoolExecutor(1) as thread:
            thread.submit(server.serve_forever, 0.01)
            try:
                problem = refusal(RedisEngine(f"redis://127.0.0.1:{server.server_address[1]}/0", "own"))
            finally:
                server.shutdown()
        assert "is in protected mode" in problem

    @pytest.mark.parametrize("answer", ["+OK", ":5", ":x", "$-1", "*0", "*2\r\n:1\r\n:2", "$9\r\ndrawn x 0"])
    def test_something_else_than_redis(self, redis_server: RedisServer, answer: str) -> None:
        """A server that takes each command and answers what no script of ours does is refused, whatever it says."""

        class Odd(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while data := self.request.recv(65536):
                    said = answer if b"EVALSHA" in data else "+OK"
                    self.wfile.write(f"{said}\r\n".encode() * max(1, data.count(b"\r\n*") + 1))

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Odd) as server, ThreadPoolExecutor(1) as thread:
            server.daemon_threads = True
            thread.submit(server.serve_forever, 0.01)
            engine = RedisEngine(redis_server.url_at(server.server_address[1]), "own")
            try:
                assert "does not answer as a Redis server does" in refusal(engine)
                with pytest.raises(StoreUnavailableError):
                    engine.acquire("a", HOUR_SECONDS)
            finally:
                engine.close()
                server.shutdown()

    def test_unreachable(self, redis_server: RedisServer, own: RedisEngine) -> None:
        """Where no server listens, the reason is told."""
        redis_server.kill()
        assert "is unreachable" in refusal(own)
        assert "refused" in refusal(own)


class TestConnections:
    """Connections that die, are cut, or are another process's."""

    def test_a_restarted_server_is_used_at_once(self, redis_server: RedisServer, own: RedisEngine) -> None:
        """After a restart, which forgets the scripts and ends the connections, the next step is done as ever."""
        first = drawn(own.draw(wish()))
        redis_server.restart()
        assert own.draw(wish()).last == first

    def test_forgotten_scripts_are_sent_again(self, own: RedisEngine, admin: redis.Redis) -> None:
        """A server whose scripts were flushed gets them again, once."""
        drawn(own.draw(wish()))
        admin.script_flush()
        drawn(own.draw(wish()))
        admin.config_resetstat()
        drawn(own.draw(wish()))
        assert "cmdstat_eval" not in admin.info("commandstats")

    def test_a_lost_answer_is_asked_for_once_more(self, redis_server: RedisServer) -> None:
        """A connection that ends before the answer is replaced by another, once: the nonce drawn in vain is a gap."""
        with Gateway(redis_server) as gateway:
            engine = RedisEngine(gateway.url, "own")
            first = drawn(engine.draw(wish()))
            gateway.cut("answer")
            answer = engine.draw(wish())
            assert first < answer.last < answer.nonce
            engine.close()

    def test_a_server_that_stands_still_is_given_up(self, redis_server: RedisServer) -> None:
        """A step that nobody answers is sent once, and given up; its late answer is not taken for the next one's."""
        with Gateway(redis_server) as gateway:
            engine = RedisEngine(gateway.url, "own")
            before, requests = drawn(engine.draw(wish())), gateway.requests
            redis_server.pause()
            assert "did not answer within 2 s" in refusal(engine)
            assert gateway.requests == requests + 1
            redis_server.resume()
            row = engine.look()
            assert row is not None
            assert row.nonce >= before
            engine.close()

    def test_an_interrupt_before_the_answer(self, own: RedisEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        """The answer that an interrupted step did not wait for is not taken for the next one's."""
        drawn(own.draw(wish()))
        [connection] = own._idle

        def interrupt() -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(connection, "read_response", interrupt)
            with pytest.raises(KeyboardInterrupt):
                own.draw(wish())
        nonce = drawn(own.draw(wish()))
        row = own.look()
        assert row is not None
        assert row.nonce == nonce

    def test_two_threads_never_get_the_same(self, engine: RedisEngine, full_size: bool) -> None:
        """Two threads of one engine get nonces that are all different, each in rising order."""
        count = 5000 if full_size else 150

        def draw_many(_thread: int) -> list[int]:
            return [drawn(engine.draw(wish())) for _ in range(count)]

        with ThreadPoolExecutor(2) as threads:
            one, other = threads.map(draw_many, range(2))
        assert one == sorted(one)
        assert other == sorted(other)
        assert len({*one, *other}) == 2 * count

    def test_a_turn_with_its_nonce_costs_two_round_trips(self, redis_server: RedisServer) -> None:
        """Taking the turn with its nonce, and giving it back, is two requests to the server and two answers."""
        with Gateway(redis_server) as gateway:
            engine = RedisEngine(gateway.url, "own")
            for _warm in range(2):
                before = gateway.requests, gateway.answers
                engine.give_back(drawn(engine.take(wish(), "a", 1.0)))
            assert (gateway.requests - before[0], gateway.answers - before[1]) == (2, 2)
            engine.close()

    def test_forked_children_have_connections_of_their_own(self, redis_server: RedisServer) -> None:
        """Children that are forked while two threads draw get nonces that nobody else got, and so do the threads."""
        with Child("tests.stores.redis_children", redis_server.url) as child:
            lines = [line.split() for line in child.rest()]
        assert sorted(name for name, *_nonces in lines) == [*(f"child{one}" for one in range(FORKS)), *["parent"] * 2]
        nonces = [int(nonce) for _name, *nonces in lines for nonce in nonces]
        assert len(set(nonces)) == len(nonces)

    def test_closed_it_opens_again(self, own: RedisEngine, admin: redis.Redis) -> None:
        """After `close` the server has no connection of the engine's, until it is used again."""
        drawn(own.draw(wish()))
        assert len(admin.client_list()) == 2
        own.close()
        until(lambda: len(admin.client_list()) == 1)
        drawn(own.draw(wish()))

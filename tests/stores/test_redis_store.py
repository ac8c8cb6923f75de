"""Tests of Redis alone: exact integers, damaged fields, refusals and connections, on real servers."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis
from redis.connection import Connection

from bot.base.errors import StoreUnavailableError
from bot.nonce.redis_store import RedisStore
from bot.nonce.store_protocol import GrantStatus, NonceGrant
from tests.child_process import Child
from tests.servers import PASSWORD, USER, RedisServer
from tests.stores.key_rows import HOUR_SECONDS, RedisKey, acquire_lease, granted_nonce, make_request, poll_until
from tests.stores.redis_children import FORKS
from tests.tcp_proxy import FaultProxy


@pytest.fixture
def redis_key(redis_url: str, key_name: str) -> Iterator[RedisKey]:
    """Return a key that no other test uses."""
    redis_key = RedisKey(redis_url, key_name)
    yield redis_key
    redis_key.wipe()
    redis_key.close()


@pytest.fixture
def store(redis_key: RedisKey) -> RedisStore:
    """Return a client of that key."""
    return RedisStore(redis_key.url, redis_key.name)


@pytest.fixture
def own_store(redis_server: RedisServer) -> Iterator[RedisStore]:
    """Return a client of a server that only this test uses."""
    store = RedisStore(redis_server.url, "own")
    yield store
    store.close()


@pytest.fixture
def admin(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """Return an administrator's connection to that server."""
    with redis.Redis.from_url(redis_server.url) as client:
        yield client


def refusal_message(store: RedisStore) -> str:
    """Return why no nonce can be issued; neither the message nor the exception's chain has the password."""
    with pytest.raises(StoreUnavailableError) as caught:
        store.next_nonce(make_request())
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert PASSWORD not in repr(caught.value)
    assert store.location in str(caught.value)
    return str(caught.value)


class TestExactNumbers:
    """Lua numbers are doubles."""

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
        self, redis_key: RedisKey, store: RedisStore, floor: str, following: str
    ) -> None:
        """A nonce above 2^53 is followed by exactly the next integer, in the answer and in the store."""
        assert store.next_nonce(make_request(int(floor))) == NonceGrant(GrantStatus.GRANTED, int(floor), 0)
        assert store.next_nonce(make_request()) == NonceGrant(GrantStatus.GRANTED, int(following), int(floor))
        assert redis_key.raw.hget(redis_key.key, "nonce") == following

    def test_a_ceiling_between_two_doubles_holds(self, store: RedisStore) -> None:
        """A ceiling of 2^53 + 1 admits that nonce and not the next."""
        limit = 9007199254740993
        assert granted_nonce(store.next_nonce(make_request(limit, limit))) == limit
        assert store.next_nonce(make_request(0, limit)) == NonceGrant(GrantStatus.ABOVE_CEILING, 0, limit)

    def test_a_fencing_token_above_2_53_is_exact(self, redis_key: RedisKey, store: RedisStore) -> None:
        """The fencing token after 2^53 + 1 is 2^53 + 2, and a sender with 2^53 + 1 is stale under it."""
        redis_key.raw.hset(redis_key.key, "generation", "9007199254740993")
        assert acquire_lease(store, "a").fencing_token == 9007199254740994
        assert store.next_nonce(make_request(fencing_token=9007199254740993)).status is GrantStatus.STALE
        assert store.next_nonce(make_request(fencing_token=9007199254740994)).status is GrantStatus.GRANTED

    def test_a_nanosecond_nonce_is_the_servers_time(self, redis_key: RedisKey, store: RedisStore) -> None:
        """In nanoseconds a nonce is the server's microseconds between question and answer, followed by 000."""
        before = redis_key.server_us()
        nonce = str(granted_nonce(store.next_nonce(make_request(units_per_microsecond=1000))))
        assert nonce.endswith("000")
        assert before <= int(nonce[:-3]) <= redis_key.server_us()

    def test_the_beginning_of_a_second_has_its_zeros(self, redis_key: RedisKey, store: RedisStore) -> None:
        """In the first tenth of a second, whose microseconds have fewer digits, a nonce is the server's time."""
        poll_until(lambda: redis_key.server_us() % 1_000_000 < 50_000)
        before = redis_key.server_us()
        assert before <= granted_nonce(store.next_nonce(make_request())) <= redis_key.server_us()


class TestDamage:
    """A record that another program has overwritten."""

    @pytest.mark.parametrize(
        "text", ["", "rubbish", "-5", "1e15", "1795404227910604.5", " 17", "007", "9" * 21, b"\xff"]
    )
    def test_a_damaged_nonce_counts_as_none(self, redis_key: RedisKey, store: RedisStore, text: str | bytes) -> None:
        """A nonce that is no integer of at most 20 digits counts as none: the next is the server's clock."""
        redis_key.raw.hset(redis_key.key, "nonce", text)
        before = redis_key.server_us()
        grant = store.next_nonce(make_request())
        assert (grant.status, grant.previous_nonce) == (GrantStatus.GRANTED, 0)
        assert before <= grant.nonce <= redis_key.server_us()

    @pytest.mark.parametrize("text", ["", "rubbish", "-1", "nan", "1e99", "9" * 40, b"\xff\xfe"])
    def test_a_damaged_lease_or_lock_is_expired(
        self, redis_key: RedisKey, store: RedisStore, text: str | bytes
    ) -> None:
        """Lease, lock and reservation with a damaged end count as expired: others get them, and the old leader is
        stale."""
        fencing_token = acquire_lease(store, "a").fencing_token
        granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        assert store.acquire_lock(make_request(), "b", HOUR_SECONDS).status is GrantStatus.RESERVED
        for claim in ("lease", "turn", "next"):
            redis_key.raw.hset(redis_key.key, f"{claim}_until", text)
        assert store.next_nonce(make_request(fencing_token=fencing_token)).status is GrantStatus.STALE
        granted_nonce(store.acquire_lock(make_request(), "c", HOUR_SECONDS))
        assert acquire_lease(store, "c").fencing_token > fencing_token

    @pytest.mark.parametrize("text", ["rubbish", "9" * 19, "9" * 25])
    def test_a_damaged_fencing_token_is_replaced(self, redis_key: RedisKey, store: RedisStore, text: str) -> None:
        """With an invalid fencing token the leader is stale, and the next token is the server's time."""
        fencing_token = acquire_lease(store, "a").fencing_token
        redis_key.raw.hset(redis_key.key, mapping={"generation": text, "lease_until": "0"})
        assert store.next_nonce(make_request(fencing_token=fencing_token)).status is GrantStatus.STALE
        before = redis_key.server_us()
        assert before <= acquire_lease(store, "b").fencing_token <= redis_key.server_us()

    def test_an_owner_that_is_no_text_is_another(self, redis_key: RedisKey, store: RedisStore) -> None:
        r"""An owner's bytes that are not UTF-8 are shown as \x.., and match no owner."""
        acquire_lease(store, "a")
        redis_key.raw.hset(redis_key.key, "lease_owner", b"\xff\xfe")
        assert store.acquire_lease("a", HOUR_SECONDS).owner == r"\xff\xfe"

    def test_something_else_in_the_rows_place_is_left_alone(self, redis_key: RedisKey, store: RedisStore) -> None:
        """Where the key holds no hash, each step raises and changes nothing."""
        redis_key.raw.set(redis_key.key, "mine")
        for step in (
            store.read_record,
            lambda: store.next_nonce(make_request()),
            lambda: store.acquire_lock(make_request(), "a", 1.0),
            lambda: store.release_lock(1),
            lambda: store.acquire_lease("a", 1.0),
            lambda: store.renew_lease(1, 1.0),
            lambda: store.release_lease(1, True),
        ):
            with pytest.raises(StoreUnavailableError, match="something else than a hash"):
                step()
        assert redis_key.raw.get(redis_key.key) == "mine"


class TestRefusals:
    """A server that answers with a refusal."""

    def test_a_full_server(self, own_store: RedisStore, admin: redis.Redis) -> None:
        """A full server issues no nonce and changes nothing; releasing the lock and the lease still works."""
        fencing_token = acquire_lease(own_store, "a").fencing_token
        nonce = granted_nonce(own_store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        admin.config_set("maxmemory", "1")
        assert "is full" in refusal_message(own_store)
        own_store.release_lock(nonce)
        own_store.release_lease(fencing_token, True)
        record = own_store.read_record()
        assert record is not None
        assert (record.last_nonce, record.lock_owner, record.lease.owner) == (nonce, "", "")
        admin.config_set("maxmemory", "0")
        assert acquire_lease(own_store, "b").is_clean_handover

    def test_a_read_only_replica(self, own_store: RedisStore, admin: redis.Redis) -> None:
        """A read-only replica has its own message, and its record can be read."""
        nonce = granted_nonce(own_store.next_nonce(make_request()))
        admin.replicaof("127.0.0.1", "1")
        assert "read-only replica" in refusal_message(own_store)
        record = own_store.read_record()
        assert record is not None
        assert record.last_nonce == nonce

    def test_a_wrong_password(self, redis_server: RedisServer) -> None:
        """A wrong password has its own message, which does not contain it."""
        url = f"redis://{USER}:wrong%2Fone@127.0.0.1:{redis_server.port}/0"
        problem = refusal_message(RedisStore(url, "own"))
        assert "refuses the user name or password" in problem
        assert "wrong/one" not in problem

    @pytest.mark.parametrize("rights", ["+@all -evalsha ~*", "+@all -hset ~*", "+@all ~other"])
    def test_missing_rights(self, redis_server: RedisServer, admin: redis.Redis, rights: str) -> None:
        """A user without the rights to run scripts, to run their commands, or to use this key is told what the bot
        needs."""
        admin.execute_command("ACL", "SETUSER", "poor", "on", ">poor", *rights.split())  # type: ignore[no-untyped-call]
        store = RedisStore(f"redis://poor:poor@127.0.0.1:{redis_server.port}/0", "own")
        assert "does not allow this user what the bot needs" in refusal_message(store)

    def test_a_database_that_is_not_there(self, redis_server: RedisServer) -> None:
        """An error without a message of its own is reported in the server's words."""
        store = RedisStore(redis_server.url.removesuffix("/0") + "/99", "own")
        assert "DB index is out of range" in refusal_message(store)

    def test_an_echo_of_the_password(self, redis_server: RedisServer) -> None:
        """A server that repeats what it was sent does not get the password into an error message."""
        start = PASSWORD[:6]

        class Echo(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(f"-ERR unknown: '{PASSWORD}', with args beginning with: '{start}'\r\n".encode())

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Echo) as server, ThreadPoolExecutor(1) as thread:
            thread.submit(server.serve_forever, 0.01)
            try:
                problem = refusal_message(RedisStore(redis_server.url_at(server.server_address[1]), "own"))
            finally:
                server.shutdown()
        assert "unknown: '***'" in problem
        assert start not in problem

    def test_a_user_of_one_letter(self, redis_server: RedisServer, own_store: RedisStore) -> None:
        """A user name of one letter is not masked inside the words of an error message."""
        redis_server.kill()
        problem = refusal_message(RedisStore(f"redis://u:p@127.0.0.1:{redis_server.port}/0", "own"))
        assert problem == refusal_message(own_store)

    def test_protected_mode(self) -> None:
        """A server in protected mode, which refuses before the first command, has its own message."""

        class Protected(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.wfile.write(b"-DENIED Redis is running in protected mode because ...\r\n")
                self.connection.recv(1000)

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Protected) as server, ThreadPoolExecutor(1) as thread:
            thread.submit(server.serve_forever, 0.01)
            try:
                problem = refusal_message(RedisStore(f"redis://127.0.0.1:{server.server_address[1]}/0", "own"))
            finally:
                server.shutdown()
        assert "is in protected mode" in problem

    @pytest.mark.parametrize("answer", ["+OK", ":5", ":x", "$-1", "*0", "*2\r\n:1\r\n:2", "$9\r\ndrawn x 0"])
    def test_something_else_than_redis(self, redis_server: RedisServer, answer: str) -> None:
        """A server whose answers no script of this program gives is refused, whatever it answers."""

        class Odd(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while data := self.request.recv(65536):
                    reply = answer if b"EVALSHA" in data else "+OK"
                    self.wfile.write(f"{reply}\r\n".encode() * max(1, data.count(b"\r\n*") + 1))

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Odd) as server, ThreadPoolExecutor(1) as thread:
            server.daemon_threads = True
            thread.submit(server.serve_forever, 0.01)
            store = RedisStore(redis_server.url_at(server.server_address[1]), "own")
            try:
                assert "does not answer as a Redis server does" in refusal_message(store)
                with pytest.raises(StoreUnavailableError):
                    store.acquire_lease("a", HOUR_SECONDS)
            finally:
                store.close()
                server.shutdown()

    def test_unreachable(self, redis_server: RedisServer, own_store: RedisStore) -> None:
        """Where no server listens, the message says so."""
        redis_server.kill()
        assert "is unreachable" in refusal_message(own_store)
        assert "refused" in refusal_message(own_store)


class TestConnections:
    """Connections that end, are cut, or belong to another process."""

    def test_a_restarted_server_is_used_at_once(self, redis_server: RedisServer, own_store: RedisStore) -> None:
        """After a restart, which drops scripts and connections, the next step works."""
        first = granted_nonce(own_store.next_nonce(make_request()))
        redis_server.restart()
        assert own_store.next_nonce(make_request()).previous_nonce == first

    def test_forgotten_scripts_are_sent_again(self, own_store: RedisStore, admin: redis.Redis) -> None:
        """A server whose scripts were flushed gets them again, once."""
        granted_nonce(own_store.next_nonce(make_request()))
        admin.script_flush()
        granted_nonce(own_store.next_nonce(make_request()))
        admin.config_resetstat()
        granted_nonce(own_store.next_nonce(make_request()))
        assert "cmdstat_eval" not in admin.info("commandstats")

    def test_a_lost_reply_is_retried_once(self, redis_server: RedisServer) -> None:
        """A connection that ends before the answer is replaced once; the lost nonce is a gap."""
        with FaultProxy(redis_server) as proxy:
            store = RedisStore(proxy.url, "own")
            first = granted_nonce(store.next_nonce(make_request()))
            proxy.cut("answer")
            grant = store.next_nonce(make_request())
            assert first < grant.previous_nonce < grant.nonce
            store.close()

    def test_a_hung_server_times_out(self, redis_server: RedisServer) -> None:
        """An unanswered step is sent once and times out; its late answer is not taken for the next step's."""
        with FaultProxy(redis_server) as proxy:
            store = RedisStore(proxy.url, "own")
            before, requests = granted_nonce(store.next_nonce(make_request())), proxy.requests
            redis_server.pause()
            assert "did not answer within 2 s" in refusal_message(store)
            assert proxy.requests == requests + 1
            redis_server.resume()
            record = store.read_record()
            assert record is not None
            assert record.last_nonce >= before
            store.close()

    def test_a_server_that_closes_is_asked_twice(self, redis_server: RedisServer) -> None:
        """A server that closes each connection at an operation gets the operation twice, and not ten times more."""
        operations: list[bytes] = []

        class Closing(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                while data := self.request.recv(65536):
                    if b"EVALSHA" in data:
                        operations.append(data)
                        return
                    self.wfile.write(b"+OK\r\n" * max(1, data.count(b"\r\n*") + 1))

        with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Closing) as server, ThreadPoolExecutor(1) as thread:
            thread.submit(server.serve_forever, 0.01)
            try:
                assert "is unreachable" in refusal_message(
                    RedisStore(redis_server.url_at(server.server_address[1]), "own")
                )
            finally:
                server.shutdown()
        assert len(operations) == 2

    def test_an_interrupt_before_the_answer(
        self, redis_server: RedisServer, own_store: RedisStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The answer that an interrupted step did not read is not taken for the next step's, even when it comes after
        that step was sent."""
        granted_nonce(own_store.next_nonce(make_request()))
        sent = threading.Event()
        send = Connection.send_packed_command

        def send_and_note(*arguments: Any, **options: Any) -> None:
            send(*arguments, **options)  # type: ignore[no-untyped-call]
            sent.set()

        def interrupt(*_arguments: object, **_options: object) -> None:
            raise KeyboardInterrupt

        redis_server.pause()
        try:
            with monkeypatch.context() as patch:
                patch.setattr(Connection, "read_response", interrupt)
                with pytest.raises(KeyboardInterrupt):
                    own_store.next_nonce(make_request())
            monkeypatch.setattr(Connection, "send_packed_command", send_and_note)
            with ThreadPoolExecutor(1) as thread:
                next_step = thread.submit(own_store.next_nonce, make_request())
                assert sent.wait(2.0)
                redis_server.resume()
                nonce = granted_nonce(next_step.result())
        finally:
            redis_server.resume()
        record = own_store.read_record()
        assert record is not None
        assert record.last_nonce == nonce

    def test_two_threads_never_get_the_same(self, store: RedisStore, full_size: bool) -> None:
        """Two threads of one store get different nonces, each in rising order."""
        count = 5000 if full_size else 150

        def request_nonces(_thread: int) -> list[int]:
            return [granted_nonce(store.next_nonce(make_request())) for _ in range(count)]

        with ThreadPoolExecutor(2) as threads:
            one, other = threads.map(request_nonces, range(2))
        assert one == sorted(one)
        assert other == sorted(other)
        assert len({*one, *other}) == 2 * count

    def test_acquire_and_release_cost_two_round_trips(self, redis_server: RedisServer) -> None:
        """Acquiring the lock with its nonce and releasing it takes two requests and two answers."""
        with FaultProxy(redis_server) as proxy:
            store = RedisStore(proxy.url, "own")
            for _warm in range(2):
                before = proxy.requests, proxy.responses
                store.release_lock(granted_nonce(store.acquire_lock(make_request(), "a", 1.0)))
            assert (proxy.requests - before[0], proxy.responses - before[1]) == (2, 2)
            store.close()

    def test_forked_children_have_connections_of_their_own(self, redis_server: RedisServer) -> None:
        """Children forked while two threads request nonces get different nonces, and so do the threads."""
        with Child("tests.stores.redis_children", redis_server.url) as child:
            lines = [line.split() for line in child.read_to_end()]
        assert sorted(name for name, *_nonces in lines) == [*(f"child{one}" for one in range(FORKS)), *["parent"] * 2]
        nonces = [int(nonce) for _name, *nonces in lines for nonce in nonces]
        assert len(set(nonces)) == len(nonces)

    def test_closed_it_opens_again(self, own_store: RedisStore, admin: redis.Redis) -> None:
        """After `close` the store has no connection to the server until its next use."""
        granted_nonce(own_store.next_nonce(make_request()))
        assert len(admin.client_list()) == 2
        own_store.close()
        poll_until(lambda: len(admin.client_list()) == 1)
        granted_nonce(own_store.next_nonce(make_request()))

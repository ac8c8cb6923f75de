"""A shared store while its server is down, paused, full, read-only, wiped or out of reach."""

from __future__ import annotations

import logging
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from fcntl import LOCK_EX, flock
from pathlib import Path
from types import FrameType
from urllib.parse import quote

import psycopg
import pytest
import redis

from bot.base import clock
from bot.base.errors import StoreUnavailableError
from bot.nonce import postgres_store, redis_store
from bot.nonce.file_store import FileStore
from bot.nonce.open_store import open_nonce_store
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import GrantStatus, NonceGrant, NonceRequest, NonceStore
from tests.servers import PASSWORD, PostgresServer, Server
from tests.stores.conftest import wait_until
from tests.stores.key_rows import HOUR_SECONDS, acquire_lease, granted_nonce, make_request
from tests.stores.memory_store import MemoryStore
from tests.tcp_proxy import FaultProxy

HOUR_US = 3_600_000_000
# Far more than any step's timeout: a caller that still waits then hangs.
HANG_TIMEOUT_SECONDS = 60.0
STORE_FILES = {module.__file__ for module in (redis_store, postgres_store, threading)}


@dataclass(frozen=True)
class Client:
    """A store client with a key of its own, and its token and nonce from before the outage."""

    backend: NonceStore
    fencing_token: int
    nonce: int

    def steps(self) -> dict[str, Callable[[], object]]:
        """Return one call of each step; all may be repeated."""
        backend = self.backend
        return {
            "next_nonce": lambda: backend.next_nonce(make_request()),
            "acquire_lock": lambda: backend.acquire_lock(make_request(), "a", HOUR_SECONDS),
            "release_lock": lambda: backend.release_lock(self.nonce),
            "acquire_lease": lambda: backend.acquire_lease("a", HOUR_SECONDS),
            "renew_lease": lambda: backend.renew_lease(self.fencing_token, HOUR_SECONDS),
            "release_lease": lambda: backend.release_lease(self.fencing_token - 1, is_reconciled=True),
            "read_record": backend.read_record,
        }

    def assert_refused(self, *names: str, besides: dict[str, Callable[[], object]] | None = None) -> None:
        """Check that these steps (default: all), run together, raise StoreUnavailableError without a password."""
        all_steps = self.steps()
        steps = {name: all_steps[name] for name in names or all_steps} | (besides or {})
        with ThreadPoolExecutor(len(steps)) as pool:
            futures = {name: pool.submit(step) for name, step in steps.items()}
        for name, future in futures.items():
            error = future.exception(HANG_TIMEOUT_SECONDS)
            assert isinstance(error, StoreUnavailableError), f"{name}: {error!r}"
            assert self.backend.location in str(error)
            assert is_free_of_password(repr(error))
            assert error.__cause__ is None
            assert error.__suppress_context__ or error.__context__ is None

    def assert_continues(self) -> None:
        """Check that the record is where it was, or further."""
        assert granted_nonce(self.backend.next_nonce(make_request(fencing_token=self.fencing_token))) > self.nonce
        for step in self.steps().values():
            step()


def is_free_of_password(text: str) -> bool:
    """Return whether a text contains the server's password in neither of its two spellings."""
    return PASSWORD not in text and quote(PASSWORD, safe="") not in text


@contextmanager
def opened(url: str) -> Iterator[Client]:
    """Open a client of a new key that leads and holds the lock."""
    backend = open_nonce_store(url, secrets.token_hex(8))
    fencing_token = acquire_lease(backend, "a").fencing_token
    yield Client(backend, fencing_token, granted_nonce(backend.acquire_lock(make_request(), "a", HOUR_SECONDS)))
    backend.close()


def test_restarted_between_two_steps(any_server: Server) -> None:
    """A client whose connections ended with a restart of the server does its next step without an error."""
    with opened(any_server.url) as client:
        any_server.restart()
        client.assert_continues()


@pytest.mark.parametrize("how", ["stopped", "killed"])
def test_down(any_server: Server, how: str) -> None:
    """While the server is down every step raises; once it is back the next one continues where it was."""
    with opened(any_server.url) as client:
        any_server.stop() if how == "stopped" else any_server.kill()
        try:
            client.assert_refused()
        finally:
            any_server.start()
        client.assert_continues()


def test_a_long_outage(any_server: Server) -> None:
    """However many steps were refused while the server was down, the next one continues once it is back."""
    with opened(any_server.url) as client:
        any_server.kill()
        try:
            for _ in range(150):
                with pytest.raises(StoreUnavailableError):
                    client.backend.next_nonce(make_request())
        finally:
            any_server.start()
        client.assert_continues()


def test_paused(any_server: Server) -> None:
    """While the server is paused every step times out, on open connections and on new ones; afterwards both work."""
    with opened(any_server.url) as client:
        unconnected = open_nonce_store(any_server.url, secrets.token_hex(8))
        any_server.pause()
        try:
            client.assert_refused(besides={"first next_nonce": lambda: unconnected.next_nonce(make_request())})
        finally:
            any_server.resume()
        client.assert_continues()
        granted_nonce(unconnected.next_nonce(make_request()))
        unconnected.close()


@pytest.mark.parametrize("is_silent", [False, True], ids=["refused", "silent"])
def test_partition(any_server: Server, is_silent: bool) -> None:
    """While nothing reaches the server every step fails, whether connections are refused or dropped; afterwards the
    next one works."""
    with FaultProxy(any_server) as proxy, opened(proxy.url) as client:
        proxy.start_partition(blackhole=is_silent)
        client.assert_refused()
        proxy.end_partition()
        client.assert_continues()


@pytest.mark.parametrize("any_server", ["redis"], indirect=True)
def test_a_full_redis(any_server: Server) -> None:
    """A full Redis that evicts nothing refuses writes, can be read, and works again once there is room."""
    with opened(any_server.url) as client, redis.Redis.from_url(any_server.url) as raw:
        raw.config_set("maxmemory", "1")
        client.assert_refused("next_nonce", "acquire_lock", "acquire_lease", "renew_lease")
        record = client.backend.read_record()
        assert record is not None
        assert (record.last_nonce, record.lease.fencing_token, record.lock_owner) == (
            client.nonce,
            client.fencing_token,
            "a",
        )
        raw.config_set("maxmemory", "0")
        client.assert_continues()


@pytest.mark.parametrize("any_server", ["postgres"], indirect=True)
def test_a_read_only_postgres(any_server: Server) -> None:
    """A read-only PostgreSQL refuses writes, can be read, and works again once it is writable.

    It behaves like one with a full disk and like a standby; a disk quota is hard to set up in a test.
    """
    assert isinstance(any_server, PostgresServer)
    with opened(any_server.url) as client, psycopg.connect(any_server.admin_url, autocommit=True) as admin:
        nonce = client.nonce

        def is_read_only() -> bool:
            nonlocal nonce
            try:
                nonce = granted_nonce(client.backend.next_nonce(make_request()))
            except StoreUnavailableError:
                return True
            return False

        admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        admin.execute("SELECT pg_reload_conf()")
        wait_until(is_read_only)
        client.assert_refused("next_nonce", "acquire_lock", "acquire_lease", "renew_lease")
        record = client.backend.read_record()
        assert record is not None
        assert record.last_nonce == nonce
        admin.execute("SET default_transaction_read_only = off")
        admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        admin.execute("SELECT pg_reload_conf()")
        wait_until(lambda: not is_read_only())
        client.assert_continues()


@pytest.fixture
def store(any_server: Server, tmp_path: Path) -> Iterator[SharedStore]:
    """Return the store of a new key on its own host."""
    store = SharedStore(open_nonce_store(any_server.url, secrets.token_hex(8)), FileStore(str(tmp_path / "nonce.txt")))
    yield store
    store.backend.close()


def test_wiped(any_server: Server, store: SharedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A process whose store was wiped continues above its own highest nonce, and logs the step back once."""
    store.next_nonce()
    highest = store.next_nonce(clock.wall_us() + HOUR_US)
    assert not caplog.records
    any_server.wipe()
    (tmp_path / "nonce.txt").unlink()
    assert [store.next_nonce() for _ in range(3)] == [highest + 1, highest + 2, highest + 3]
    assert [record.levelname for record in caplog.records if "went back" in record.message] == ["WARNING"]
    assert is_free_of_password(caplog.text)


def test_wiped_while_the_replica_cannot_be_written(
    any_server: Server, store: SharedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A process without a local replica continues above its own highest nonce when its store is wiped."""
    (tmp_path / "nonce.txt").mkdir()
    store.next_nonce()
    highest = store.next_nonce(clock.wall_us() + HOUR_US)
    any_server.wipe()
    assert store.next_nonce() == highest + 1
    assert "went back" in caplog.text


def test_wiped_before_the_start(
    any_server: Server, store: SharedStore, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A new process whose store was wiped continues above its host's nonce file, and logs that once."""
    store.next_nonce()
    highest = store.next_nonce(clock.wall_us() + HOUR_US)
    any_server.wipe()
    restarted = SharedStore(store.backend, FileStore(str(tmp_path / "nonce.txt")))
    assert [restarted.next_nonce() for _ in range(2)] == [highest + 1, highest + 2]
    assert [record.levelname for record in caplog.records if "below this folder's" in record.message] == ["WARNING"]


def test_a_floor_is_no_step_back(store: SharedStore, caplog: pytest.LogCaptureFixture) -> None:
    """The first nonce on a new store and a new file is no step back, however far ahead `at_least` is."""
    store.next_nonce(clock.wall_us() + HOUR_US)
    assert not caplog.records


@pytest.mark.parametrize(
    "grant",
    [
        NonceGrant(GrantStatus.GRANTED, 0),
        NonceGrant(GrantStatus.GRANTED, -5),
        NonceGrant(GrantStatus.GRANTED, 1),
        NonceGrant(GrantStatus.GRANTED, 10**30),
        NonceGrant(GrantStatus.BUSY, clock.wall_us() + HOUR_US),
    ],
    ids=lambda grant: f"{grant.status.value} {grant.nonce}"[:12],
)
def test_a_nonce_that_was_not_asked_for_is_not_used(tmp_path: Path, grant: NonceGrant) -> None:
    """A store that grants a nonce outside the request's bounds is refused: the nonce is not returned nor recorded."""

    class LyingStore(MemoryStore):
        is_lying = False

        def next_nonce(self, request: NonceRequest) -> NonceGrant:
            return grant if self.is_lying else super().next_nonce(request)

    backend = LyingStore(clock.wall_us)
    store = SharedStore(backend, FileStore(str(tmp_path / "nonce.txt")))
    last = store.next_nonce()
    backend.is_lying = True
    with pytest.raises(StoreUnavailableError, match="that was not requested"):
        store.next_nonce()
    assert (tmp_path / "nonce.txt").read_text() == str(last)
    backend.is_lying = False
    assert last < store.next_nonce() <= clock.wall_us()


def test_a_locked_replica_costs_no_request(store: SharedStore, tmp_path: Path) -> None:
    """While another process locks the nonce file each lock gets its nonce in time; later the file has the nonces."""
    store.next_nonce()
    path = tmp_path / "nonce.txt"
    with path.open() as file:
        flock(file, LOCK_EX)
        for _ in range(2):
            grant = store.acquire_lock()
            assert store.next_nonce() == grant.nonce
            store.release_lock(grant.nonce)
    assert str(store.next_nonce()) == path.read_text()


def test_an_interrupted_acquire_does_not_affect_the_next_lock(
    store: SharedStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a Ctrl-C right after the store's answer a thread acquires its next lock and nonce, however late it asks."""
    store.acquire_lock()
    now = clock.boottime_seconds
    monkeypatch.setattr(clock, "boottime_seconds", lambda: now() + 3.5)
    grant = store.acquire_lock()
    assert store.next_nonce() == grant.nonce


class CtrlC:
    """Raises KeyboardInterrupt at the n-th call or return in the modules of the stores and in `threading`."""

    def __init__(self, number: int) -> None:
        self.calls_left = number

    def __call__(self, frame: FrameType, _event: str, _given: object) -> None:
        if frame.f_code.co_filename in STORE_FILES:
            self.calls_left -= 1
            if not self.calls_left:
                sys.setprofile(None)
                raise KeyboardInterrupt


# A connection that was open and idle in an interrupted step is left to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupted_next_nonce_is_recovered(any_server: Server) -> None:
    """Wherever Ctrl-C interrupts `next_nonce`, the next call succeeds."""
    number = interrupts = 0
    while interrupts == number:
        number += 1
        with opened(any_server.url) as client, ThreadPoolExecutor(1) as pool:
            sys.setprofile(CtrlC(number))
            try:
                client.backend.next_nonce(make_request())
            except KeyboardInterrupt:
                interrupts += 1
            finally:
                sys.setprofile(None)
            assert (
                granted_nonce(pool.submit(client.backend.next_nonce, make_request()).result(HANG_TIMEOUT_SECONDS))
                > client.nonce
            )
    assert interrupts > 10


def test_an_outage_is_logged_once(any_server: Server, store: SharedStore, caplog: pytest.LogCaptureFixture) -> None:
    """An outage is logged once, is the store's problem, and no nonce is issued; the recovery is logged once."""
    caplog.set_level(logging.INFO, "bot")
    last = store.next_nonce()
    any_server.kill()
    try:
        for _ in range(3):
            with pytest.raises(StoreUnavailableError):
                store.next_nonce()
        assert store.problem is not None
        assert is_free_of_password(store.problem + caplog.text)
        assert [record.levelname for record in caplog.records] == ["ERROR"]
    finally:
        any_server.start()
    assert store.next_nonce() > last
    assert store.next_nonce() > last
    assert store.problem is None
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]

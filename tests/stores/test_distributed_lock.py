"""The distributed request lock: its nonce, its release in every case, and one timeout for both locks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.base import clock
from bot.base.errors import RequestLockExpiredError, RequestLockTimeout, StoppingError, StoreUnavailableError
from bot.nonce import shared_store
from bot.nonce.distributed_lock import DistributedRequestLock
from bot.nonce.file_store import FileStore
from bot.nonce.local_lock import Priority, RequestLock
from bot.nonce.postgres_store import PostgresStore
from bot.nonce.redis_store import RedisStore
from bot.nonce.shared_store import SharedStore
from tests.child_process import Child
from tests.servers import Server
from tests.stores.conftest import wait_until
from tests.stores.key_rows import PostgresKey, RedisKey, StoreKey
from tests.tcp_proxy import FaultProxy

LIMIT_SECONDS = 20.0
# Longer than any test, so that no test passes because a lock expires.
LONG_SECONDS = 3600.0


@pytest.fixture(autouse=True)
def long_lock_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep every lock from expiring."""
    monkeypatch.setattr(shared_store, "LOCK_LIFETIME_SECONDS", LONG_SECONDS)


class AdjustableBootClock:
    """A boot clock that runs and can be moved forward."""

    def __init__(self) -> None:
        self._real = clock.boottime_seconds
        self._offset_seconds = 0.0

    def now(self) -> float:
        """Return the time in seconds."""
        return self._real() + self._offset_seconds

    def advance(self, seconds: float) -> None:
        """Move the clock forward."""
        self._offset_seconds += seconds


@pytest.fixture
def boot_clock(monkeypatch: pytest.MonkeyPatch) -> AdjustableBootClock:
    """Replace the program's boot clock by an adjustable one."""
    boot_clock = AdjustableBootClock()
    monkeypatch.setattr(clock, "boottime_seconds", boot_clock.now)
    return boot_clock


class Host:
    """A host with its own folder, store and request lock."""

    def __init__(self, key: StoreKey, folder: Path) -> None:
        folder.mkdir()
        self.key = key
        self.backend = key.connect()
        self.store = SharedStore(self.backend, FileStore(str(folder / "kraken_nonce.txt")))
        self.local = RequestLock(str(folder / "kraken_nonce.0a1b2c3d.lock"))
        self.lock = DistributedRequestLock(self.local, self.store)

    def has_lock(self) -> bool:
        """Return whether the store names this host as the owner of the lock."""
        record = self.backend.read_record()
        return record is not None and record.lock_owner == self.store.owner

    def is_free(self) -> bool:
        """Return whether this host can acquire the lock at once; release it again."""
        with self.lock.hold(Priority.READ, 0.0):
            return self.has_lock()


@pytest.fixture
def host(store_key: StoreKey, tmp_path: Path) -> Host:
    """Return one host."""
    return Host(store_key, tmp_path / "one")


@pytest.fixture
def other(store_key: StoreKey, tmp_path: Path) -> Host:
    """Return a second host with the same key."""
    return Host(store_key, tmp_path / "two")


class Worker(threading.Thread):
    """A thread that runs one operation; `error` is what the operation raised."""

    def __init__(self, operation: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._operation = operation
        self.start()

    def run(self) -> None:
        """Run the operation."""
        try:
            self._operation()
        except (RequestLockTimeout, StoppingError) as error:
            self.error = error

    def end(self) -> Exception | None:
        """Wait for the end; return the error."""
        self.join(LIMIT_SECONDS)
        assert not self.is_alive()
        return self.error


def run_in_thread(operation: Callable[[], int]) -> int:
    """Run an operation in another thread; return its result."""
    results: list[int] = []
    assert Worker(lambda: results.append(operation())).end() is None
    return results[0]


def has_polled_twice(host: Host) -> Callable[[], bool]:
    """Return a condition: this host has asked the store for the lock at least twice."""
    calls: list[object] = []
    acquire_lock = host.backend.acquire_lock

    def count(*arguments: object) -> object:
        calls.append(arguments)
        return acquire_lock(*arguments)  # type: ignore[arg-type]

    host.backend.acquire_lock = count  # type: ignore[method-assign, assignment]
    return lambda: len(calls) > 1


# The nonce of the lock


def test_the_first_nonce_is_the_one_acquired_with_the_lock(host: Host) -> None:
    """The first nonce under the lock is the one that the store issued with it; the store is not asked again."""
    with host.lock.hold(Priority.READ):
        record = host.backend.read_record()
        assert record is not None
        assert host.store.next_nonce() == record.last_nonce
        assert host.backend.read_record() == record


def test_another_thread_never_gets_the_locks_nonce(host: Host) -> None:
    """Another thread that requests a nonce meanwhile gets another one; the lock's nonce stays with its own thread."""
    with host.lock.hold(Priority.READ):
        lock_nonce = host.store.peek()
        assert lock_nonce is not None
        assert run_in_thread(host.store.next_nonce) > lock_nonce
        assert host.store.next_nonce() == lock_nonce


def test_a_second_nonce_under_the_lock_is_fresh(host: Host) -> None:
    """A second and a third nonce under one lock are higher, and each is written in the store."""
    with host.lock.hold(Priority.READ):
        first = host.store.next_nonce()
        second, third = host.store.next_nonce(), host.store.next_nonce()
        assert first < second < third == host.store.peek()


def test_a_lock_nonce_below_at_least_is_not_used(host: Host) -> None:
    """Where `at_least` is above the lock's nonce, a new nonce is requested instead."""
    with host.lock.hold(Priority.READ):
        wanted = (host.store.peek() or 0) + 60_000_000
        assert host.store.next_nonce(wanted) == wanted


def test_an_unused_lock_nonce_is_discarded_on_release(host: Host) -> None:
    """A lock's nonce that was not used under the lock is never issued after the release."""
    with host.lock.hold(Priority.READ):
        lock_nonce = host.store.peek()
    assert lock_nonce is not None
    assert host.store.next_nonce() > lock_nonce


def test_no_nonce_after_the_send_window(host: Host, boot_clock: AdjustableBootClock) -> None:
    """A request may start within 3 s of the acquisition; later `check` and `next_nonce` raise until the next lock."""
    with host.lock.hold(Priority.READ):
        boot_clock.advance(2.5)
        host.lock.check()
        boot_clock.advance(1.0)
        with pytest.raises(RequestLockExpiredError, match="nothing was sent"):
            host.lock.check()
        with pytest.raises(RequestLockExpiredError, match="nothing was sent"):
            host.store.next_nonce()
    assert host.store.next_nonce()
    with host.lock.hold(Priority.READ):
        assert host.store.next_nonce() == host.store.peek()


def test_the_send_window_starts_before_the_store_call(
    host: Host, boot_clock: AdjustableBootClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes 3.5 s to grant the lock has used up the send window."""
    acquire_lock = host.backend.acquire_lock

    def acquire_slowly(*arguments: object) -> object:
        boot_clock.advance(3.5)
        return acquire_lock(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(host.backend, "acquire_lock", acquire_slowly)
    with host.lock.hold(Priority.READ), pytest.raises(RequestLockExpiredError):
        host.store.next_nonce()


# Release


def test_one_host_at_a_time(host: Host, other: Host) -> None:
    """While one host holds the lock another gets RequestLockTimeout; after the release the other acquires it."""
    with host.lock.hold(Priority.READ):
        assert host.has_lock()
        with pytest.raises(RequestLockTimeout, match="another host"), other.lock.hold(Priority.READ, 0.02):
            raise AssertionError("served")
        assert host.has_lock()
    with other.lock.hold(Priority.READ, LIMIT_SECONDS):
        assert other.has_lock()
    assert not other.has_lock()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, StoreUnavailableError, RequestLockExpiredError])
def test_an_exception_in_the_block_releases_the_lock(host: Host, error: type[BaseException]) -> None:
    """An exception in the block propagates, and the lock is released in the store and on the host."""
    with pytest.raises(error, match="of the block"), host.lock.hold(Priority.READ):
        raise error("of the block")
    assert not host.has_lock()
    assert host.is_free()


def test_a_lock_timeout_leaves_nothing_locked(host: Host, other: Host) -> None:
    """After a RequestLockTimeout from the store the next caller on the host can ask at once, and gets the free lock."""
    with host.lock.hold(Priority.READ):
        with pytest.raises(RequestLockTimeout), other.lock.hold(Priority.READ, 0.0):
            raise AssertionError("served")
        assert not other.local._is_busy
    assert other.is_free()


def test_stop_ends_the_wait_for_the_distributed_lock(host: Host, other: Host) -> None:
    """`stop` ends a read's wait for the store's lock with StoppingError; a cancel still acquires it."""
    has_polled = has_polled_twice(other)

    def read() -> None:
        with other.lock.hold(Priority.READ, LIMIT_SECONDS):
            raise AssertionError("served")

    with host.lock.hold(Priority.READ):
        reader = Worker(read)
        wait_until(has_polled)
        other.lock.stop(lowest_allowed=Priority.CANCEL)
        assert isinstance(reader.end(), StoppingError)
        assert not other.local._is_busy
    with other.lock.hold(Priority.CANCEL, LIMIT_SECONDS):
        assert other.has_lock()


@pytest.mark.parametrize("store_key", ["redis", "postgres"], indirect=True)
def test_a_forked_child_does_not_release_its_parents_lock(store_key: StoreKey, tmp_path: Path) -> None:
    """A child that is forked under the lock and leaves the block does not release it; its own comes afterwards."""
    assert isinstance(store_key, RedisKey | PostgresKey)
    with Child("tests.stores.distributed_lock_child", store_key.url, store_key.name, tmp_path) as child:
        lines = child.read_to_end()
    assert lines == ["child left the block", "the parent holds the lock", "parent releases", "child holds the lock"]


# One timeout, and who goes first


def test_one_timeout_covers_both_locks(host: Host, other: Host, boot_clock: AdjustableBootClock) -> None:
    """A caller that waits 199 of 200 s for a thread of its own host waits only 1 s more for the other host."""
    has_polled = has_polled_twice(other)

    def read() -> None:
        with other.lock.hold(Priority.READ, 200.0):
            raise AssertionError("served")

    with host.lock.hold(Priority.READ):
        with other.local.hold(Priority.READ):
            reader = Worker(read)
            wait_until(lambda: len(other.local._waiters) == 1)
            boot_clock.advance(199.0)
        wait_until(has_polled)
        assert reader.is_alive()
        boot_clock.advance(1.0)
        assert isinstance(reader.end(), RequestLockTimeout)


def test_waiters_of_a_host_are_served_by_priority(host: Host, other: Host) -> None:
    """Behind the thread that already polls the store, a host's threads acquire the lock by priority, not in their
    order."""
    served: list[Priority] = []
    has_polled = has_polled_twice(other)

    def serve(priority: Priority) -> Worker:
        def hold_lock() -> None:
            with other.lock.hold(priority, LIMIT_SECONDS):
                assert other.has_lock()
                served.append(priority)

        return Worker(hold_lock)

    with host.lock.hold(Priority.READ):
        workers = [serve(Priority.READ)]
        wait_until(has_polled)
        for number, priority in enumerate((Priority.READ, Priority.ORDER, Priority.CANCEL)):
            workers.append(serve(priority))
            wait_until(lambda waiting=number + 1: len(other.local._waiters) == waiting)  # type: ignore[misc]
    assert [worker.end() for worker in workers] == [None] * 4
    assert served == [Priority.READ, Priority.CANCEL, Priority.ORDER, Priority.READ]


def test_contending_hosts_never_overlap(host: Host, other: Host) -> None:
    """Two hosts with two threads each contend for the lock: no hold starts within another, and their nonces rise."""
    log: list[tuple[int, str]] = []

    def send(one: Host) -> None:
        for _ in range(15):
            with one.lock.hold(Priority.READ, LIMIT_SECONDS):
                nonce = one.store.next_nonce()
                log.append((nonce, "begins"))
                # Give another thread the chance to run here.
                clock.sleep(0)
                log.append((nonce, "ends"))

    workers = [Worker(lambda one=one: send(one)) for one in (host, other, host, other)]  # type: ignore[misc]
    assert [worker.end() for worker in workers] == [None] * 4
    assert len(log) == 2 * 60
    assert log == sorted(log)


# The store is unavailable


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """Return a server that only this test uses."""
    return request.getfixturevalue(f"{request.param}_server")  # type: ignore[no-any-return]


def store_at(proxy: FaultProxy, server: Server, folder: Path) -> SharedStore:
    """Return a store behind a fault proxy."""
    backend = (RedisStore if proxy.url.startswith("redis") else PostgresStore)(proxy.url, f"{server.port}")
    return SharedStore(backend, FileStore(str(folder / "kraken_nonce.txt")))


def test_a_lock_whose_release_failed_is_reacquired(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A failed release is logged and not raised: the store still names the host as the owner, and the host's next
    attempt acquires the lock."""
    caplog.set_level(logging.INFO)
    with FaultProxy(server) as proxy:
        store = store_at(proxy, server, tmp_path)
        lock = DistributedRequestLock(RequestLock(str(tmp_path / "kraken_nonce.0a1b2c3d.lock")), store)
        with lock.hold(Priority.READ):
            first = store.next_nonce()
            proxy.start_partition()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        with pytest.raises(StoreUnavailableError), lock.hold(Priority.READ):
            raise AssertionError("served")
        proxy.end_partition()
        key_record = store.backend.read_record()
        assert key_record is not None
        assert key_record.lock_owner == store.owner
        with lock.hold(Priority.READ, 0.0):
            assert store.next_nonce() > first
        key_record = store.backend.read_record()
        assert key_record is not None
        assert key_record.lock_owner == ""
        assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
        store.backend.close()


def test_a_lock_whose_response_was_lost_is_reacquired(server: Server, tmp_path: Path) -> None:
    """Where the response that granted the lock is lost, the host's next attempt acquires it, with a higher nonce."""
    with FaultProxy(server) as proxy:
        store = store_at(proxy, server, tmp_path)
        lock = DistributedRequestLock(RequestLock(str(tmp_path / "kraken_nonce.0a1b2c3d.lock")), store)
        with lock.hold(Priority.READ):
            first = store.next_nonce()
        proxy.cut("answer")
        try:
            with lock.hold(Priority.READ, 0.0):
                second = store.next_nonce()
        except StoreUnavailableError:
            with lock.hold(Priority.READ, 0.0):
                second = store.next_nonce()
        assert proxy.cuts == 1
        assert second > first
        store.backend.close()

"""Turns across hosts: the nonce that comes with a turn, its end whatever happens, one time-out for both locks."""

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
# Longer than any test, so that nothing that a test waits for comes about by a turn's end.
LONG_SECONDS = 3600.0


@pytest.fixture(autouse=True)
def long_lock_lifetime(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no turn end by itself."""
    monkeypatch.setattr(shared_store, "TURN_SECONDS", LONG_SECONDS)


class AdjustableBootClock:
    """The boot clock, which goes on and can be moved ahead."""

    def __init__(self) -> None:
        self._real = clock.boottime_seconds
        self._offset_seconds = 0.0

    def now(self) -> float:
        """Return the time."""
        return self._real() + self._offset_seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._offset_seconds += seconds


@pytest.fixture
def boot_clock(monkeypatch: pytest.MonkeyPatch) -> AdjustableBootClock:
    """Put the boot clock into the test's hands."""
    boot_clock = AdjustableBootClock()
    monkeypatch.setattr(clock, "boottime_seconds", boot_clock.now)
    return boot_clock


class Host:
    """A host of its own: its folder, its store, its turns."""

    def __init__(self, key: StoreKey, folder: Path) -> None:
        folder.mkdir()
        self.key = key
        self.backend = key.connect()
        self.store = SharedStore(self.backend, FileStore(str(folder / "kraken_nonce.txt")))
        self.local = RequestLock(str(folder / "kraken_nonce.0a1b2c3d.lock"))
        self.lock = DistributedRequestLock(self.local, self.store)

    def has_lock(self) -> bool:
        """Tell whether the store says that this host has the turn."""
        record = self.backend.read_record()
        return record is not None and record.lock_owner == self.store.owner

    def is_free(self) -> bool:
        """Tell whether the turn can be had on this host at once, and leave it free."""
        with self.lock.hold(Priority.READ, 0.0):
            return self.has_lock()


@pytest.fixture
def host(store_key: StoreKey, tmp_path: Path) -> Host:
    """Return one host."""
    return Host(store_key, tmp_path / "one")


@pytest.fixture
def other(store_key: StoreKey, tmp_path: Path) -> Host:
    """Return a second host, on the same key."""
    return Host(store_key, tmp_path / "two")


class Worker(threading.Thread):
    """A thread that does one thing; `error` is what it raised."""

    def __init__(self, operation: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._operation = operation
        self.start()

    def run(self) -> None:
        """Do it."""
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
    """Do something in another thread; return its answer."""
    results: list[int] = []
    assert Worker(lambda: results.append(operation())).end() is None
    return results[0]


def has_polled_twice(host: Host) -> Callable[[], bool]:
    """Tell when the thread of this host that asks the store for its turn has asked in vain, twice at least."""
    calls: list[object] = []
    acquire_lock = host.backend.acquire_lock

    def count(*arguments: object) -> object:
        calls.append(arguments)
        return acquire_lock(*arguments)  # type: ignore[arg-type]

    host.backend.acquire_lock = count  # type: ignore[method-assign, assignment]
    return lambda: len(calls) > 1


# The nonce of a turn


def test_the_first_nonce_is_the_one_acquired_with_the_lock(host: Host) -> None:
    """The first nonce that is drawn in a turn is the one that the store drew with it: nothing more is asked of it."""
    with host.lock.hold(Priority.READ):
        record = host.backend.read_record()
        assert record is not None
        assert host.store.next_nonce() == record.last_nonce
        assert host.backend.read_record() == record


def test_another_thread_never_gets_the_locks_nonce(host: Host) -> None:
    """Another thread that draws during a turn gets another nonce, and the turn's own is still there for its thread."""
    with host.lock.hold(Priority.READ):
        lock_nonce = host.store.peek()
        assert lock_nonce is not None
        assert run_in_thread(host.store.next_nonce) > lock_nonce
        assert host.store.next_nonce() == lock_nonce


def test_a_second_nonce_under_the_lock_is_fresh(host: Host) -> None:
    """A second and a third draw in one turn return higher nonces, each written in the store."""
    with host.lock.hold(Priority.READ):
        first = host.store.next_nonce()
        second, third = host.store.next_nonce(), host.store.next_nonce()
        assert first < second < third == host.store.peek()


def test_a_lock_nonce_below_at_least_is_not_used(host: Host) -> None:
    """Where at least a higher nonce is asked for, that is drawn instead of the one that came with the turn."""
    with host.lock.hold(Priority.READ):
        wanted = (host.store.peek() or 0) + 60_000_000
        assert host.store.next_nonce(wanted) == wanted


def test_an_unused_lock_nonce_is_discarded_on_release(host: Host) -> None:
    """A nonce that was not drawn in its turn is never handed out after it."""
    with host.lock.hold(Priority.READ):
        lock_nonce = host.store.peek()
    assert lock_nonce is not None
    assert host.store.next_nonce() > lock_nonce


def test_no_nonce_after_the_send_window(host: Host, boot_clock: AdjustableBootClock) -> None:
    """Within 3 s of its turn a request may begin; after that neither check nor draw lets it, until the next turn."""
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
    """A store that takes 3.5 s to give the turn has used up the time in which a request may begin."""
    take = host.backend.acquire_lock

    def take_long(*arguments: object) -> object:
        boot_clock.advance(3.5)
        return take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(host.backend, "take", take_long)
    with host.lock.hold(Priority.READ), pytest.raises(RequestLockExpiredError):
        host.store.next_nonce()


# The end of a turn


def test_one_host_at_a_time(host: Host, other: Host) -> None:
    """While one host has the turn another gets TurnTimeout; after it has given it back, the other has it at once."""
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
    """Whatever is raised in the block comes out of it, and the turn is given back, in the store and on the host."""
    with pytest.raises(error, match="of the block"), host.lock.hold(Priority.READ):
        raise error("of the block")
    assert not host.has_lock()
    assert host.is_free()


def test_a_lock_timeout_leaves_nothing_locked(host: Host, other: Host) -> None:
    """After TurnTimeout from the store the next one on the host can ask at once, and gets the turn when it is free."""
    with host.lock.hold(Priority.READ):
        with pytest.raises(RequestLockTimeout), other.lock.hold(Priority.READ, 0.0):
            raise AssertionError("served")
        assert not other.local._is_busy
    assert other.is_free()


def test_stop_ends_the_wait_for_the_distributed_lock(host: Host, other: Host) -> None:
    """A read that waits for the store's turn ends with StoppingError when the program stops; a cancel still goes."""
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
    """A child that is forked in a turn and leaves the block does not end its parent's turn; its own comes after it."""
    assert isinstance(store_key, RedisKey | PostgresKey)
    with Child("tests.stores.distributed_lock_child", store_key.url, store_key.name, tmp_path) as child:
        said = child.read_to_end()
    assert said == ["child left the block", "the parent has the turn", "parent gives back", "child has a turn"]


# One time-out, and who goes first


def test_one_timeout_covers_both_locks(host: Host, other: Host, boot_clock: AdjustableBootClock) -> None:
    """Who waits 199 of his 200 s for another thread of his host waits for the other host until the 200 s are over."""
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
    """Behind the one that asks the store already, a host's threads get its turns by urgency, not by their order."""
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
    """Two hosts with two threads each ask again at once: no turn begins within another, and their nonces rise."""
    log: list[tuple[int, str]] = []

    def send(one: Host) -> None:
        for _ in range(15):
            with one.lock.hold(Priority.READ, LIMIT_SECONDS):
                nonce = one.store.next_nonce()
                log.append((nonce, "begins"))
                # Somebody else's thread would find the time to run here.
                clock.sleep(0)
                log.append((nonce, "ends"))

    workers = [Worker(lambda one=one: send(one)) for one in (host, other, host, other)]  # type: ignore[misc]
    assert [worker.end() for worker in workers] == [None] * 4
    assert len(log) == 2 * 60
    assert log == sorted(log)


# The store away in the middle


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """Return a server of the test's own."""
    return request.getfixturevalue(f"{request.param}_server")  # type: ignore[no-any-return]


def store_at(gateway: FaultProxy, server: Server, folder: Path) -> SharedStore:
    """Return a store by way of a gateway."""
    backend = (RedisStore if gateway.url.startswith("redis") else PostgresStore)(gateway.url, f"{server.port}")
    return SharedStore(backend, FileStore(str(folder / "kraken_nonce.txt")))


def test_a_lock_whose_release_failed_is_reacquired(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the store is away when a turn ends, that is logged and not raised; when it is back, our own next turn is
    given at the first asking, while another host still finds it taken."""
    caplog.set_level(logging.INFO)
    with FaultProxy(server) as gateway:
        store = store_at(gateway, server, tmp_path)
        lock = DistributedRequestLock(RequestLock(str(tmp_path / "kraken_nonce.0a1b2c3d.lock")), store)
        with lock.hold(Priority.READ):
            first = store.next_nonce()
            gateway.start_partition()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        with pytest.raises(StoreUnavailableError), lock.hold(Priority.READ):
            raise AssertionError("served")
        gateway.end_partition()
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
    """Where the answer that gave the turn is lost, the host's next asking gets the turn, with a higher nonce."""
    with FaultProxy(server) as gateway:
        store = store_at(gateway, server, tmp_path)
        lock = DistributedRequestLock(RequestLock(str(tmp_path / "kraken_nonce.0a1b2c3d.lock")), store)
        with lock.hold(Priority.READ):
            first = store.next_nonce()
        gateway.cut("answer")
        try:
            with lock.hold(Priority.READ, 0.0):
                second = store.next_nonce()
        except StoreUnavailableError:
            with lock.hold(Priority.READ, 0.0):
                second = store.next_nonce()
        assert gateway.cuts == 1
        assert second > first
        store.backend.close()

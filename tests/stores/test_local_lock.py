"""The request lock among the threads of one process: one at a time, by priority, and nothing left locked."""

from __future__ import annotations

import fcntl
import itertools
import logging
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.base.errors import RequestLockTimeout, StoppingError
from bot.base.paths import key_file_path
from bot.broker_manager import get_kraken_nonce
from bot.nonce.local_lock import Priority, RequestLock
from tests.stores.conftest import wait_until

LIMIT_SECONDS = 20.0


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    """Return the path of the test's lock file."""
    return tmp_path / "kraken_nonce.0a1b2c3d.lock"


@pytest.fixture
def lock(lock_path: Path) -> RequestLock:
    """Return a request lock that only this test uses."""
    return RequestLock(str(lock_path))


class Waiter(threading.Thread):
    """A thread that acquires the lock once and logs it in `served`; `error` is the exception if it did not."""

    def __init__(
        self, lock: RequestLock, priority: Priority, served: list[object], timeout_seconds: float = LIMIT_SECONDS
    ):
        super().__init__(daemon=True)
        self.error: RequestLockTimeout | StoppingError | None = None
        self._lock, self._priority, self._served, self._timeout_seconds = lock, priority, served, timeout_seconds
        self.start()

    def run(self) -> None:
        """Acquire and release the lock."""
        try:
            with self._lock.hold(self._priority, self._timeout_seconds):
                self._served.append(self._priority)
        except (RequestLockTimeout, StoppingError) as error:
            self.error = error

    def end(self) -> RequestLockTimeout | StoppingError | None:
        """Wait for the end of the thread; return the error."""
        self.join(2 * LIMIT_SECONDS)
        assert not self.is_alive()
        return self.error


def start_waiters(lock: RequestLock, priorities: list[Priority], served: list[object]) -> list[Waiter]:
    """Start waiters one after another, each once the previous one waits."""
    waiters = []
    for number, priority in enumerate(priorities):
        waiters.append(Waiter(lock, priority, served))
        wait_until(has_waiters(lock, number + 1))
    return waiters


def has_waiters(lock: RequestLock, count: int) -> Callable[[], bool]:
    """Return a condition: this many threads wait."""
    return lambda: len(lock._waiters) == count


def count_lock_threads() -> int:
    """Return how many threads wait for the lock files."""
    return sum(thread.name == "kraken-request-lock" for thread in threading.enumerate())


def is_free(path: Path) -> bool:
    """Return whether nobody holds the lock on the file at this path."""
    with path.open("rb") as other:
        try:
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_one_thread_at_a_time(lock: RequestLock) -> None:
    """Eight threads that acquire the lock 50 times each never hold it together."""
    inside = 0
    max_inside = 0

    def work() -> None:
        nonlocal inside, max_inside
        for _ in range(50):
            with lock.hold(Priority.READ):
                inside += 1
                max_inside = max(max_inside, inside)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(LIMIT_SECONDS)
    assert not any(thread.is_alive() for thread in threads)
    assert max_inside == 1


def test_waiters_are_served_by_priority(lock: RequestLock) -> None:
    """When the lock becomes free, waiting cancels go first, then orders, then reads."""
    served: list[object] = []
    with lock.hold(Priority.READ):
        priorities = [Priority.READ, Priority.ORDER, Priority.READ, Priority.CANCEL, Priority.ORDER, Priority.CANCEL]
        waiters = start_waiters(lock, priorities, served)
    assert [waiter.end() for waiter in waiters] == [None] * 6
    assert served == sorted(priorities)


def test_the_lock_is_held_across_processes(lock: RequestLock, lock_path: Path) -> None:
    """The lock file is locked while the lock is held and free afterwards, also after an exception."""
    with lock.hold(Priority.READ):
        assert not is_free(lock_path)
    assert is_free(lock_path)
    with pytest.raises(ZeroDivisionError), lock.hold(Priority.READ):
        raise ZeroDivisionError
    assert is_free(lock_path)


def test_the_lock_file_is_neither_deleted_nor_written(lock: RequestLock, lock_path: Path) -> None:
    """Over many holds the lock file keeps its inode, stays empty and is private."""
    inodes = set()
    for _ in range(5):
        with lock.hold(Priority.READ):
            inodes.add(lock_path.stat().st_ino)
        inodes.add(lock_path.stat().st_ino)
    assert len(inodes) == 1
    assert lock_path.read_bytes() == b""
    assert lock_path.stat().st_mode & 0o777 == 0o600


def test_a_waiter_times_out(lock: RequestLock, lock_path: Path) -> None:
    """A waiter that is not served in time gets RequestLockTimeout, a TimeoutError, and leaves nothing locked."""
    served: list[object] = []
    with lock.hold(Priority.READ):
        error = Waiter(lock, Priority.CANCEL, served, 0.05).end()
        assert isinstance(error, RequestLockTimeout)
        assert isinstance(error, TimeoutError)
        assert lock._waiters == []
    assert is_free(lock_path)
    assert served == []
    with lock.hold(Priority.READ, 0.0):
        assert not is_free(lock_path)


def test_timed_out_waiters_leave_nothing_locked(lock: RequestLock, lock_path: Path) -> None:
    """Waiters that gave up on another process's lock leave nothing locked once that process is done."""
    lock_path.touch()
    with lock_path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for _ in range(5):
            with pytest.raises(RequestLockTimeout), lock.hold(Priority.READ, 0.01):
                raise AssertionError("served")
        assert count_lock_threads() == 1
    wait_until(lambda: not lock._is_busy)
    assert is_free(lock_path)
    assert is_free(lock_path.with_suffix(".gate"))
    with lock.hold(Priority.READ):
        assert not is_free(lock_path)


def test_priority_holds_after_another_process_releases(lock: RequestLock, lock_path: Path) -> None:
    """The waiter with the highest priority at the time of the grant is served first, whoever asked first."""
    served: list[object] = []
    lock_path.touch()
    with lock_path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        waiters = start_waiters(lock, [Priority.READ, Priority.ORDER, Priority.CANCEL], served)
    assert [waiter.end() for waiter in waiters] == [None] * 3
    assert served == [Priority.CANCEL, Priority.ORDER, Priority.READ]


def test_the_queue_lock_prevents_barging(lock: RequestLock, lock_path: Path) -> None:
    """A free lock is not acquired while another process holds the queue lock."""
    with lock.hold(Priority.READ):
        queue_lock_path = lock_path.with_suffix(".gate")
    with queue_lock_path.open("rb") as queue_lock_file:
        fcntl.flock(queue_lock_file, fcntl.LOCK_EX)
        with pytest.raises(RequestLockTimeout), lock.hold(Priority.CANCEL, 0.05):
            raise AssertionError("overtook")
    with lock.hold(Priority.READ):
        assert not is_free(lock_path)


def test_the_lock_is_released_to_a_queued_process(lock: RequestLock, lock_path: Path) -> None:
    """While another process holds the queue lock, a release frees the lock file; an own waiter comes later."""
    served: list[object] = []
    with lock.hold(Priority.READ):
        (waiter,) = start_waiters(lock, [Priority.CANCEL], served)
        queue_lock_file = lock_path.with_suffix(".gate").open("rb")
        fcntl.flock(queue_lock_file, fcntl.LOCK_EX)
    with queue_lock_file, lock_path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert served == []
    assert waiter.end() is None
    assert served == [Priority.CANCEL]


def test_stop_ends_waiting(lock: RequestLock) -> None:
    """`stop` ends the waits below a priority while the lock is still held; the others are served later."""
    served: list[object] = []
    with lock.hold(Priority.READ):
        reading, ordering, cancelling = start_waiters(lock, [Priority.READ, Priority.ORDER, Priority.CANCEL], served)
        lock.stop(lowest_allowed=Priority.CANCEL)
        assert isinstance(reading.end(), StoppingError)
        assert isinstance(ordering.end(), StoppingError)
        assert served == []
    assert cancelling.end() is None
    assert served == [Priority.CANCEL]


def test_stop_refuses_from_then_on(lock: RequestLock, lock_path: Path) -> None:
    """After `stop` reads and orders are refused even if the lock is free; cancels continue."""
    lock.stop(lowest_allowed=Priority.CANCEL)
    for priority in (Priority.READ, Priority.ORDER):
        with pytest.raises(StoppingError), lock.hold(priority):
            raise AssertionError("served")
    with lock.hold(Priority.CANCEL):
        assert not is_free(lock_path)


def replace_lock_file(path: Path, is_renamed: bool) -> None:
    """Delete and recreate the lock file, or move another file over it."""
    if is_renamed:
        other = path.with_name("other")
        other.touch()
        other.rename(path)
    else:
        path.unlink()
        path.touch()


@pytest.mark.parametrize("by_rename", [False, True], ids=["deleted", "replaced"])
def test_a_lost_lock_file_is_noticed(lock: RequestLock, lock_path: Path, by_rename: bool) -> None:
    """A lock file that was deleted or replaced during a hold is noticed: the next hold locks the new file."""
    with lock.hold(Priority.READ):
        replace_lock_file(lock_path, by_rename)
    with lock.hold(Priority.READ):
        assert not is_free(lock_path)
    assert is_free(lock_path)


@pytest.mark.parametrize("by_rename", [False, True], ids=["deleted", "replaced"])
def test_a_lost_lock_file_is_not_handed_over(lock: RequestLock, lock_path: Path, by_rename: bool) -> None:
    """Waiters in the holder's process do not take over the lock of a file that was deleted or replaced."""
    served: list[object] = []
    with lock.hold(Priority.READ):
        replace_lock_file(lock_path, by_rename)
        (waiter,) = start_waiters(lock, [Priority.READ], served)
        other = lock_path.open("rb")
        fcntl.flock(other, fcntl.LOCK_EX)  # another process, which opened the new file
    with other:
        # The lock was released, and the helper thread now waits for the other process.
        wait_until(lambda: count_lock_threads() > 0 or bool(served))
        assert served == []
    assert waiter.end() is None
    assert served == [Priority.READ]
    wait_until(lambda: is_free(lock_path))


def test_without_a_helper_thread_waiters_time_out(
    lock: RequestLock, lock_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no helper thread can start, a waiter gets RequestLockTimeout, and the next one can acquire the lock."""
    lock_path.touch()

    def refuse(_thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with lock_path.open("rb") as other, monkeypatch.context() as patch:
        fcntl.flock(other, fcntl.LOCK_EX)
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RequestLockTimeout), lock.hold(Priority.READ, 0.05):
            raise AssertionError("served")
    with lock.hold(Priority.READ, 1.0):
        assert not is_free(lock_path)


@pytest.mark.parametrize(
    "call_number", [1, 2, 3], ids=["queue lock acquired", "lock file locked", "queue lock released"]
)
def test_ctrl_c_while_acquiring_the_lock(
    lock: RequestLock, lock_path: Path, monkeypatch: pytest.MonkeyPatch, call_number: int
) -> None:
    """A KeyboardInterrupt during the acquisition leaves nothing locked, and the next caller acquires the lock."""
    flock = fcntl.flock
    calls = itertools.count(1)

    def interrupted(descriptor: int, flags: int) -> None:
        flock(descriptor, flags)
        if next(calls) == call_number:
            signal.raise_signal(signal.SIGINT)

    with lock.hold(Priority.READ):
        queue_lock_path = lock_path.with_suffix(".gate")
    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "flock", interrupted)
        with pytest.raises(KeyboardInterrupt), lock.hold(Priority.READ):
            raise AssertionError("served")
    assert is_free(lock_path)
    assert is_free(queue_lock_path)
    with lock.hold(Priority.READ, 1.0):
        assert not is_free(lock_path)


def test_next_nonce_needs_no_request_lock(nonce_file: Path) -> None:
    """While a key's request lock is held, `get_kraken_nonce` works in any thread."""
    lock = RequestLock(key_file_path(nonce_file, "KEY", "lock"))
    nonces: list[int] = []
    with lock.hold(Priority.ORDER):
        thread = threading.Thread(target=lambda: nonces.append(get_kraken_nonce()), daemon=True)
        thread.start()
        thread.join(LIMIT_SECONDS)
        assert nonces == [int(nonce_file.read_text())]
        assert get_kraken_nonce() > nonces[0]


def test_two_senders_of_one_process(lock_path: Path) -> None:
    """Two senders with one key in one process exclude each other; stopping one does not stop the other."""
    first, second = RequestLock(str(lock_path)), RequestLock(str(lock_path))
    with first.hold(Priority.READ), pytest.raises(RequestLockTimeout), second.hold(Priority.READ, 0.05):
        raise AssertionError("both hold the lock")
    first.stop(lowest_allowed=Priority.CANCEL)
    with second.hold(Priority.READ, 5):
        assert True
    with pytest.raises(StoppingError), first.hold(Priority.READ):
        raise AssertionError("a stopped sender holds the lock")


def test_a_missing_folder_is_made(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing folder of the lock file is created for its owner, and the first hold locks the file."""
    path = tmp_path / "state" / "key.lock"
    with RequestLock(str(path)).hold(Priority.READ):
        assert not is_free(path)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert caplog.records == []


def block_folder(path: Path) -> None:
    """Put a file in place of the folder."""
    path.parent.rmdir()
    path.parent.write_text("")


def block_file(path: Path) -> None:
    """Put a directory in place of the lock file."""
    path.mkdir()


def block_by_link(path: Path) -> None:
    """Put a symbolic link in place of the lock file."""
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("obstacle", [block_folder, block_file, block_by_link], ids=lambda one: one.__name__)
def test_without_a_lock_file_the_lock_is_process_local(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, obstacle: Callable[[Path], None]
) -> None:
    """Without a lock file one ERROR is logged, and the lock works within the process only."""
    path = tmp_path / "state" / "key.lock"
    path.parent.mkdir()
    obstacle(path)
    lock = RequestLock(str(path))
    test_one_thread_at_a_time(lock)
    test_waiters_are_served_by_priority(lock)
    assert [record.levelno for record in caplog.records if record.name.startswith("bot.")] == [logging.ERROR]


def test_a_lock_file_that_can_be_used_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Once the lock file can be created, the lock works across processes again, and that is logged once."""
    caplog.set_level(logging.INFO)
    path = tmp_path / "state" / "key.lock"
    path.parent.mkdir()
    block_folder(path)
    lock = RequestLock(str(path))
    with lock.hold(Priority.READ):
        assert not path.exists()
    path.parent.unlink()
    for _ in range(2):
        with lock.hold(Priority.READ):
            assert not is_free(path)
    levels = [record.levelno for record in caplog.records if record.name.startswith("bot.")]
    assert levels == [logging.ERROR, logging.INFO]

"""The request lock across processes: one at a time, no starvation, and holders that are killed or stopped."""

from __future__ import annotations

import fcntl
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from bot.base.errors import RequestLockTimeout
from bot.nonce.local_lock import Priority, RequestLock
from tests.child_process import Child
from tests.stores.conftest import wait_until

CHILDREN = "tests.stores.children"
LOCKS = Path("/proc/locks")
# A waiter that is not served within this time is starved or stuck; far more than any machine needs.
LIMIT_SECONDS = 20.0

needs_list_of_locks = pytest.mark.skipif(not LOCKS.exists(), reason="this system does not list who waits for a lock")


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    """Return the path of the test's lock file."""
    return tmp_path / "kraken_nonce.0a1b2c3d.lock"


def test_one_process_at_a_time(lock_path: Path, tmp_path: Path, full_size: bool) -> None:
    """Four processes in tight loops never hold the lock together: each end of a hold follows its own start."""
    count = 3000 if full_size else 300
    log_path = tmp_path / "log"
    with ExitStack() as stack:
        children = [
            stack.enter_context(Child(CHILDREN, "acquire_repeatedly", lock_path, count, log_path)) for _ in range(4)
        ]
        for child in children:
            child.expect_line("ready")
        for child in children:
            child.write_line("go")
        for child in children:
            assert child.read_to_end() == ["done"]
    log_entries = log_path.read_text().split()
    assert len(log_entries) == 4 * 2 * count
    for begin, end in zip(log_entries[::2], log_entries[1::2], strict=True):
        assert (begin[0], end[0]) == ("+", "-")
        assert begin[1:] == end[1:]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("processes", [1, 3])
def test_a_busy_process_starves_nobody(lock_path: Path, threads: int, processes: int) -> None:
    """Against processes that acquire the lock in tight loops, an occasional caller is served each time."""
    lock = RequestLock(str(lock_path))
    with ExitStack() as stack:
        for _ in range(processes):
            child = stack.enter_context(Child(CHILDREN, "acquire_forever", lock_path, threads))
            child.expect_line("busy")
        for priority in (Priority.READ, Priority.ORDER, Priority.CANCEL) * 5:
            with lock.hold(priority, LIMIT_SECONDS):
                pass


def test_the_lock_passes_on_when_its_holder_is_killed(lock_path: Path) -> None:
    """When the holder is killed, a waiter acquires the lock."""
    lock = RequestLock(str(lock_path))
    with Child(CHILDREN, "hold_lock", lock_path) as holder, Child(CHILDREN, "wait_for_lock", lock_path, 20) as waiter:
        holder.expect_line("held")
        waiter.expect_line("waiting")
        with pytest.raises(RequestLockTimeout), lock.hold(Priority.READ, 0.05):
            raise AssertionError("served")
        holder.kill()
        waiter.expect_line("held")
        with lock.hold(Priority.READ, LIMIT_SECONDS):
            assert lock_path.exists()


def test_waiters_time_out_while_the_holder_is_stopped(lock_path: Path) -> None:
    """While the holder is stopped, waiters get RequestLockTimeout; after it continues, the lock works again."""
    lock = RequestLock(str(lock_path))
    with Child(CHILDREN, "hold_lock", lock_path) as holder:
        holder.expect_line("held")
        holder.signal(signal.SIGSTOP)
        for priority in Priority:
            with pytest.raises(RequestLockTimeout), lock.hold(priority, 0.1):
                raise AssertionError("served")
        with Child(CHILDREN, "wait_for_lock", lock_path, 0.1) as waiter:
            waiter.expect_line("waiting")
            waiter.expect_line("RequestLockTimeout")
        holder.signal(signal.SIGCONT)
        holder.write_line("release")
        holder.expect_line("released")
        with lock.hold(Priority.READ, LIMIT_SECONDS):
            assert lock_path.exists()
        with Child(CHILDREN, "hold_lock", lock_path) as other:
            other.expect_line("held")


@needs_list_of_locks
def test_a_stopped_waiter_does_not_block_others_forever(lock_path: Path) -> None:
    """A process stopped while waiting may acquire the lock and keep it: others time out until it continues."""
    lock = RequestLock(str(lock_path))
    with Child(CHILDREN, "wait_for_lock", lock_path, 20) as waiter:
        with lock.hold(Priority.READ):
            waiter.expect_line("waiting")
            wait_for_waiter(lock_path)
            waiter.signal(signal.SIGSTOP)
        with pytest.raises(RequestLockTimeout), lock.hold(Priority.READ, 0.1):
            raise AssertionError("served")
        waiter.signal(signal.SIGCONT)
        waiter.expect_line("held")
        with lock.hold(Priority.READ, LIMIT_SECONDS):
            assert lock_path.exists()


def wait_for_waiter(lock_path: Path) -> None:
    """Wait until the kernel lists a waiter for the lock on the file."""
    waiter = re.compile(rf"-> FLOCK .*:{lock_path.stat().st_ino} ")
    wait_until(lambda: waiter.search(LOCKS.read_text()) is not None)


@needs_list_of_locks
def test_a_waiting_main_thread_handles_signals(lock_path: Path) -> None:
    """SIGTERM is handled while the main thread waits for the lock, not later; then the wait continues."""
    with Child(CHILDREN, "hold_lock", lock_path) as holder:
        holder.expect_line("held")
        with Child(CHILDREN, "wait_for_lock", lock_path, 20) as waiter:
            waiter.expect_line("waiting")
            wait_for_waiter(lock_path)
            waiter.signal(signal.SIGTERM)
            waiter.expect_line("SIGTERM")
            holder.write_line("release")
            waiter.expect_line("held")


@needs_list_of_locks
def test_a_killed_waiter_leaves_nothing_locked(lock_path: Path) -> None:
    """A process killed while it waits with the queue lock leaves nothing locked."""
    lock = RequestLock(str(lock_path))
    with lock.hold(Priority.READ), Child(CHILDREN, "wait_for_lock", lock_path, 20) as waiter:
        waiter.expect_line("waiting")
        wait_for_waiter(lock_path)
        waiter.kill()
    with lock.hold(Priority.READ, LIMIT_SECONDS), lock_path.with_suffix(".gate").open("rb") as queue_lock_file:
        fcntl.flock(queue_lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@needs_list_of_locks
def test_a_forked_child_neither_holds_nor_releases_the_lock(lock_path: Path) -> None:
    """A child forked under the lock does not release it by leaving the block, and acquires it only after the parent."""
    with Child(CHILDREN, "fork_while_holding_lock", lock_path, "released") as parent:
        parent.expect_line("child left the block")
        with lock_path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        wait_for_waiter(lock_path)
        parent.write_line("go on")
        assert parent.read_to_end() == ["parent releases", "child holds the lock"]


def test_a_forked_child_keeps_its_own_lock(lock_path: Path) -> None:
    """A forked child that leaves the block of its parent's lock does not release a lock of its own."""
    with Child(CHILDREN, "acquire_own_lock_in_fork", lock_path, limit_seconds=20) as child:
        assert child.read_to_end() == ["still held"]


def test_a_forked_child_does_not_hold_the_lock_of_a_dead_parent(lock_path: Path) -> None:
    """When the parent is killed while holding the lock, a child forked meanwhile does not keep the lock."""
    with Child(CHILDREN, "fork_while_holding_lock", lock_path, "killed") as parent:
        parent.expect_line("child left the block")
        parent.write_line("go on")
        parent.expect_line("child holds the lock")
        with RequestLock(str(lock_path)).hold(Priority.READ, LIMIT_SECONDS):
            assert lock_path.exists()

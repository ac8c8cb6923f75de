"""Turns across processes: one at a time, nobody starves, and the holder may be killed or stopped."""

from __future__ import annotations

import fcntl
import re
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from bot.base.errors import TurnTimeout
from bot.nonce.local_lock import Turns, Urgency
from tests.child_process import Child
from tests.stores.conftest import wait_until

CHILDREN = "tests.stores.children"
LOCKS = Path("/proc/locks")
# A waiter that is not served within this is starved or stuck; far above what any machine needs.
LIMIT_SECONDS = 20.0

needs_list_of_locks = pytest.mark.skipif(not LOCKS.exists(), reason="this system does not list who waits for a lock")


@pytest.fixture
def lock_path(tmp_path: Path) -> Path:
    """Return where the test's lock file is."""
    return tmp_path / "kraken_nonce.0a1b2c3d.lock"


def test_one_process_at_a_time(lock_path: Path, tmp_path: Path, full_size: bool) -> None:
    """Four processes in tight loops are never two in a turn: each end of a turn follows its own beginning."""
    count = 3000 if full_size else 300
    log_path = tmp_path / "log"
    with ExitStack() as stack:
        children = [stack.enter_context(Child(CHILDREN, "take_turns", lock_path, count, log_path)) for _ in range(4)]
        for child in children:
            child.expect("ready")
        for child in children:
            child.tell("go")
        for child in children:
            assert child.rest() == ["done"]
    notes = log_path.read_text().split()
    assert len(notes) == 4 * 2 * count
    for begin, end in zip(notes[::2], notes[1::2], strict=True):
        assert (begin[0], end[0]) == ("+", "-")
        assert begin[1:] == end[1:]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("processes", [1, 3])
def test_a_busy_process_starves_nobody(lock_path: Path, threads: int, processes: int) -> None:
    """Against processes that take turns in tight loops, one that asks now and then is served each time."""
    turns = Turns(str(lock_path))
    with ExitStack() as stack:
        for _ in range(processes):
            child = stack.enter_context(Child(CHILDREN, "take_turns_for_ever", lock_path, threads))
            child.expect("busy")
        for urgency in (Urgency.READ, Urgency.ORDER, Urgency.CANCEL) * 5:
            with turns.turn(urgency, LIMIT_SECONDS):
                pass


def test_the_holder_is_killed(lock_path: Path) -> None:
    """When the holder is killed the turn goes to who waits."""
    turns = Turns(str(lock_path))
    with Child(CHILDREN, "hold_turn", lock_path) as holder, Child(CHILDREN, "wait_for_turn", lock_path, 20) as waiter:
        holder.expect("held")
        waiter.expect("waiting")
        with pytest.raises(TurnTimeout), turns.turn(Urgency.READ, 0.05):
            raise AssertionError("served")
        holder.kill()
        waiter.expect("held")
        with turns.turn(Urgency.READ, LIMIT_SECONDS):
            assert lock_path.exists()


def test_the_holder_is_stopped(lock_path: Path) -> None:
    """While the holder is stopped waiters get TurnTimeout; after it goes on, so does everything."""
    turns = Turns(str(lock_path))
    with Child(CHILDREN, "hold_turn", lock_path) as holder:
        holder.expect("held")
        holder.signal(signal.SIGSTOP)
        for urgency in Urgency:
            with pytest.raises(TurnTimeout), turns.turn(urgency, 0.1):
                raise AssertionError("served")
        with Child(CHILDREN, "wait_for_turn", lock_path, 0.1) as waiter:
            waiter.expect("waiting")
            waiter.expect("TurnTimeout")
        holder.signal(signal.SIGCONT)
        holder.tell("give back")
        holder.expect("given back")
        with turns.turn(Urgency.READ, LIMIT_SECONDS):
            assert lock_path.exists()
        with Child(CHILDREN, "hold_turn", lock_path) as other:
            other.expect("held")


@needs_list_of_locks
def test_a_stopped_waiter_is_in_nobodys_way_for_ever(lock_path: Path) -> None:
    """A process stopped while it waits may get the turn and sit on it: others get TurnTimeout, until it goes on."""
    turns = Turns(str(lock_path))
    with Child(CHILDREN, "wait_for_turn", lock_path, 20) as waiter:
        with turns.turn(Urgency.READ):
            waiter.expect("waiting")
            wait_for_waiter(lock_path)
            waiter.signal(signal.SIGSTOP)
        with pytest.raises(TurnTimeout), turns.turn(Urgency.READ, 0.1):
            raise AssertionError("served")
        waiter.signal(signal.SIGCONT)
        waiter.expect("held")
        with turns.turn(Urgency.READ, LIMIT_SECONDS):
            assert lock_path.exists()


def wait_for_waiter(lock_path: Path) -> None:
    """Wait until the kernel lists somebody who waits for the lock on the file."""
    waiter = re.compile(rf"-> FLOCK .*:{lock_path.stat().st_ino} ")
    wait_until(lambda: waiter.search(LOCKS.read_text()) is not None)


@needs_list_of_locks
def test_a_waiting_main_thread_handles_signals(lock_path: Path) -> None:
    """SIGTERM is handled while the main thread waits for a turn, not after it; then the wait goes on."""
    with Child(CHILDREN, "hold_turn", lock_path) as holder:
        holder.expect("held")
        with Child(CHILDREN, "wait_for_turn", lock_path, 20) as waiter:
            waiter.expect("waiting")
            wait_for_waiter(lock_path)
            waiter.signal(signal.SIGTERM)
            waiter.expect("SIGTERM")
            holder.tell("give back")
            waiter.expect("held")


@needs_list_of_locks
def test_a_waiter_that_is_killed_leaves_nothing(lock_path: Path) -> None:
    """A process killed while it stands at the gate keeps nobody from passing."""
    turns = Turns(str(lock_path))
    with turns.turn(Urgency.READ), Child(CHILDREN, "wait_for_turn", lock_path, 20) as waiter:
        waiter.expect("waiting")
        wait_for_waiter(lock_path)
        waiter.kill()
    with turns.turn(Urgency.READ, LIMIT_SECONDS), lock_path.with_suffix(".gate").open("rb") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)


@needs_list_of_locks
def test_a_forked_child_neither_holds_nor_releases_the_turn(lock_path: Path) -> None:
    """A child forked in a turn leaves the block without giving the turn back, and gets it only after the parent."""
    with Child(CHILDREN, "fork_in_turn", lock_path, "gives back") as parent:
        parent.expect("child left the block")
        with lock_path.open("rb") as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        wait_for_waiter(lock_path)
        parent.tell("go on")
        assert parent.rest() == ["parent gives back", "child has the turn"]


def test_a_forked_child_keeps_its_own_turn(lock_path: Path) -> None:
    """A forked child that leaves the block of its parent's turn does not give back a turn of its own."""
    with Child(CHILDREN, "take_own_turn_in_fork", lock_path, limit_seconds=20) as child:
        assert child.rest() == ["still held"]


def test_a_forked_child_does_not_hold_the_turn_of_a_dead_parent(lock_path: Path) -> None:
    """When the parent is killed in its turn, a child that it forked in it does not keep the turn locked."""
    with Child(CHILDREN, "fork_in_turn", lock_path, "killed") as parent:
        parent.expect("child left the block")
        parent.tell("go on")
        parent.expect("child has the turn")
        with Turns(str(lock_path)).turn(Urgency.READ, LIMIT_SECONDS):
            assert lock_path.exists()

"""Many processes on one nonce file: all nonces different, each process rising, the file equals the highest."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from bot.base import clock
from bot.nonce.file_store import FileStore
from tests.child_process import Child

CHILDREN = "tests.stores.children"


def check(path: Path, sequences: list[list[int]]) -> None:
    """Hold what several processes have drawn against the promise."""
    together = [nonce for sequence in sequences for nonce in sequence]
    assert len(set(together)) == len(together)
    for sequence in sequences:
        assert sequence == sorted(sequence)
    assert path.read_text() == str(max(together))


@pytest.mark.parametrize("ahead_us", [0, 60_000_000], ids=["behind the clock", "ahead of the clock"])
def test_eight_processes(path: Path, full_size: bool, ahead_us: int) -> None:
    """8 processes that draw at once get different nonces, each rising, and leave the highest in the file."""
    # Ahead of the clock every draw is synced to the disk, which costs a hundredfold.
    count = (20_000 if full_size else 5000) // (10 if ahead_us else 1)
    if ahead_us:
        path.write_text(str(clock.wall_us() + ahead_us))
    with ExitStack() as stack:
        children = [stack.enter_context(Child(CHILDREN, "draw", path, count)) for _ in range(8)]
        for child in children:
            child.expect_line("ready")
        for child in children:
            child.write_line("go")
        sequences = [[int(line) for line in child.read_to_end()] for child in children]
    assert [len(sequence) for sequence in sequences] == [count] * 8
    check(path, sequences)


def test_eight_processes_start_on_no_file_at_once(path: Path) -> None:
    """8 processes that make the file at the same moment share one file."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child(CHILDREN, "draw", path, 20)) for _ in range(8)]
        for child in children:
            child.expect_line("ready")
        assert not path.exists()
        for child in children:
            child.write_line("go")
        sequences = [[int(line) for line in child.read_to_end()] for child in children]
    check(path, sequences)


def test_forked_children(path: Path, tmp_path: Path, full_size: bool) -> None:
    """Children forked from a process that has drawn, while a thread of it draws, get nonces of their own."""
    count = 20_000 if full_size else 5000
    with Child(CHILDREN, "draw_in_forks", path, 8, count, tmp_path) as child:
        child.read_to_end()
    names = [*(f"fork{number}" for number in range(8)), "main", "thread"]
    sequences = [[int(line) for line in (tmp_path / name).read_text().split()] for name in names]
    assert [len(sequence) for sequence in sequences[:9]] == [count] * 9
    check(path, sequences)


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(path: Path, full_size: bool) -> None:
    """A parent killed while it draws leaves the file unlocked, though a child that it forked lives on."""
    store = FileStore(str(path))
    for _ in range(20 if full_size else 3):
        with Child(CHILDREN, "leave_fork_behind", path, limit_seconds=20) as parent:
            grandchild = int(parent.read_line())
            try:
                parent.kill()
                before = int(path.read_text())
                assert store.next_nonce() > before
            finally:
                os.kill(grandchild, signal.SIGKILL)


def test_a_forked_child_does_not_unlock_the_parents_file(path: Path) -> None:
    """A child forked in the middle of a draw leaves the lock of that draw alone."""
    with Child(CHILDREN, "fork_in_a_draw", path, limit_seconds=20) as child:
        assert child.read_to_end() == ["still locked"]

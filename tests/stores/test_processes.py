"""Many processes on one nonce file: all nonces differ, rise per process, and the file holds the highest."""

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
    """Check the nonces of several processes: all differ, each sequence rises, the file holds the highest."""
    together = [nonce for sequence in sequences for nonce in sequence]
    assert len(set(together)) == len(together)
    for sequence in sequences:
        assert sequence == sorted(sequence)
    assert path.read_text() == str(max(together))


@pytest.mark.parametrize("ahead_us", [0, 60_000_000], ids=["behind the clock", "ahead of the clock"])
def test_eight_processes(path: Path, full_size: bool, ahead_us: int) -> None:
    """8 processes at once get different nonces, each rising, and leave the highest in the file."""
    # Ahead of the clock every nonce is synced to the disk, which is a hundred times slower.
    count = (20_000 if full_size else 5000) // (10 if ahead_us else 1)
    if ahead_us:
        path.write_text(str(clock.wall_us() + ahead_us))
    with ExitStack() as stack:
        children = [stack.enter_context(Child(CHILDREN, "print_nonces", path, count)) for _ in range(8)]
        for child in children:
            child.expect_line("ready")
        for child in children:
            child.write_line("go")
        sequences = [[int(line) for line in child.read_to_end()] for child in children]
    assert [len(sequence) for sequence in sequences] == [count] * 8
    check(path, sequences)


def test_eight_processes_start_on_no_file_at_once(path: Path) -> None:
    """8 processes that create the file at the same moment share one file."""
    with ExitStack() as stack:
        children = [stack.enter_context(Child(CHILDREN, "print_nonces", path, 20)) for _ in range(8)]
        for child in children:
            child.expect_line("ready")
        assert not path.exists()
        for child in children:
            child.write_line("go")
        sequences = [[int(line) for line in child.read_to_end()] for child in children]
    check(path, sequences)


def test_forked_children(path: Path, tmp_path: Path, full_size: bool) -> None:
    """Children forked from a process that has issued nonces, and whose thread still does, get different ones."""
    count = 20_000 if full_size else 5000
    with Child(CHILDREN, "request_in_forked_children", path, 8, count, tmp_path) as child:
        child.read_to_end()
    names = [*(f"fork{number}" for number in range(8)), "main", "thread"]
    sequences = [[int(line) for line in (tmp_path / name).read_text().split()] for name in names]
    assert [len(sequence) for sequence in sequences[:9]] == [count] * 9
    check(path, sequences)


def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(path: Path, full_size: bool) -> None:
    """A parent killed in the middle of `next_nonce` leaves the file unlocked, although its forked child lives on."""
    store = FileStore(str(path))
    for _ in range(20 if full_size else 3):
        with Child(CHILDREN, "leave_forked_child_running", path, limit_seconds=20) as parent:
            grandchild = int(parent.read_line())
            try:
                parent.kill()
                before = int(path.read_text())
                assert store.next_nonce() > before
            finally:
                os.kill(grandchild, signal.SIGKILL)


def test_a_forked_child_does_not_unlock_the_parents_file(path: Path) -> None:
    """A child forked in the middle of `next_nonce` does not release the parent's lock on the file."""
    with Child(CHILDREN, "fork_during_next_nonce", path, limit_seconds=20) as child:
        assert child.read_to_end() == ["still locked"]

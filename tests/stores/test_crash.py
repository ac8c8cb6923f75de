"""A writer killed at a random moment never leaves an empty, torn or lower nonce file."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from bot.nonce.file_store import FileStore
from tests.child_process import Child

CHILDREN = "tests.stores.children"
SEED = 20261122


@pytest.mark.parametrize("ahead_us", [0, 3_600_000_000], ids=["behind the clock", "ahead of the clock"])
def test_a_killed_writer_never_lowers_the_file(path: Path, full_size: bool, ahead_us: int) -> None:
    """After each SIGKILL in a tight loop the file has 16 digits, is not below any issued nonce, and rises."""
    kills = 150 if full_size else 12
    random_source = random.Random(SEED)
    highest = 0
    for kill in range(kills):
        with Child(CHILDREN, "print_nonces_forever", path, 0 if kill else ahead_us, limit_seconds=20) as child:
            for _ in range(random_source.randrange(1, 400)):
                last = int(child.read_line())
                assert last > highest, f"kill {kill}, seed {SEED}"
                highest = last
            child.kill()
            # Nonces that were issued before the kill, and that this test has not read yet.
            issued = [highest, *(int(line) for line in child.drain() if len(line) == 16)]
        text = path.read_text("ascii")
        assert len(text) == 16, f"kill {kill}, seed {SEED}: {text!r}"
        assert int(text) >= max(issued), f"kill {kill}, seed {SEED}"
        assert issued == sorted(set(issued))
        # At most one nonce may have been written and not issued yet.
        highest = FileStore(str(path)).peek() or 0


def test_a_kill_during_next_nonce_neither_blocks_others_nor_lowers_the_file(path: Path, full_size: bool) -> None:
    """A process killed in the middle of `next_nonce` neither blocks others nor lowers the file."""
    store = FileStore(str(path))
    random_source = random.Random(SEED)
    last = store.next_nonce()
    for _ in range(50 if full_size else 5):
        with Child(CHILDREN, "print_nonces_forever", path, 0, limit_seconds=20) as child:
            child.read_line()
            for _ in range(random_source.randrange(1, 200)):
                nonce = store.next_nonce()
                assert nonce > last
                last = nonce
            child.kill()
            others = [int(line) for line in child.drain() if len(line) == 16]
        nonce = store.next_nonce()
        assert nonce > max(last, *others, 0)
        last = nonce

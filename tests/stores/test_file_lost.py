"""The nonce file is deleted, replaced or restored under a running store, or its permissions are withdrawn."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.nonce.file_store import RESTART_STEP_US, FileStore
from tests.child_process import Child
from tests.stores.conftest import FrozenClock

CHILDREN = "tests.stores.children"
AHEAD_US = 60_000_000
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def backup(path: Path) -> Path:
    """Return the path of the nonce file's backup."""
    return path.with_name("backup.txt")


def delete(path: Path, _backup: Path) -> None:
    """Delete the file."""
    path.unlink()


def delete_with_folder(path: Path, _backup: Path) -> None:
    """Delete the whole folder."""
    shutil.rmtree(path.parent)


def restore_by_copying(path: Path, backup: Path) -> None:
    """Copy a backup over the file: the inode stays the same."""
    shutil.copyfile(backup, path)


def restore_by_renaming(path: Path, backup: Path) -> None:
    """Move a backup over the file: the inode changes."""
    backup.rename(path)


def replace_by_empty(path: Path, backup: Path) -> None:
    """Move an empty file over the file."""
    backup.write_text("")
    backup.rename(path)


def truncate(path: Path, _backup: Path) -> None:
    """Truncate the file."""
    os.truncate(path, 7)


LOSSES = [delete, delete_with_folder, restore_by_copying, restore_by_renaming, replace_by_empty, truncate]


@pytest.mark.parametrize("loss", LOSSES, ids=lambda one: one.__name__)
def test_a_running_store_never_goes_back(path: Path, backup: Path, frozen_clock: FrozenClock, loss: object) -> None:
    """Whatever happens to the file, a running store continues above its own last nonce and writes that down."""
    store = FileStore(str(path))
    store.next_nonce()
    shutil.copyfile(path, backup)
    last = store.next_nonce(frozen_clock.us + AHEAD_US)
    assert callable(loss)
    loss(path, backup)
    assert store.next_nonce() == last + 1
    assert path.read_text() == str(last + 1)
    assert FileStore(str(path)).next_nonce() == last + 1 + RESTART_STEP_US + 1


@pytest.mark.parametrize("loss", [restore_by_copying, restore_by_renaming], ids=lambda one: one.__name__)
def test_a_file_that_went_back_is_reported(
    path: Path, backup: Path, frozen_clock: FrozenClock, caplog: pytest.LogCaptureFixture, loss: object
) -> None:
    """A restored backup is logged once, at WARNING, with both numbers."""
    store = FileStore(str(path))
    first = store.next_nonce()
    shutil.copyfile(path, backup)
    last = store.next_nonce(frozen_clock.us + AHEAD_US)
    assert callable(loss)
    loss(path, backup)
    store.next_nonce()
    store.next_nonce()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert str(first) in record.getMessage()
    assert str(last) in record.getMessage()


def test_a_higher_replacement_is_followed(path: Path, frozen_clock: FrozenClock) -> None:
    """A replacement with a higher number (from another process, or a restored newer state) raises the next nonce."""
    store = FileStore(str(path))
    store.next_nonce()
    higher = path.with_name("higher.txt")
    higher.write_text(str(frozen_clock.us + AHEAD_US))
    higher.rename(path)
    assert store.next_nonce() == frozen_clock.us + AHEAD_US + 1


def test_two_stores_meet_again_on_a_replaced_file(path: Path, frozen_clock: FrozenClock) -> None:
    """After a replacement all stores lock and write the new file, so their nonces stay different."""
    stores = [FileStore(str(path)) for _ in range(3)]
    nonces = [store.next_nonce(frozen_clock.us + AHEAD_US) for store in stores]
    replacement = path.with_name("new.txt")
    replacement.write_text(str(nonces[-1]))
    replacement.rename(path)
    for _ in range(5):
        nonces += [store.next_nonce() for store in stores]
    assert nonces == sorted(set(nonces))
    assert path.read_text() == str(nonces[-1])


def test_a_deleted_file_is_not_kept_open(path: Path) -> None:
    """A store that lost its file a hundred times has no more open descriptors than before."""
    store = FileStore(str(path))
    store.next_nonce()
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(100):
        path.unlink()
        store.next_nonce()
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def run_as_nobody(path: Path, ahead_us: int) -> list[str]:
    """Return the output of a child without any privileges that requests nonces."""
    with Child(CHILDREN, "print_nonces_as_nobody", path, ahead_us, limit_seconds=20) as child:
        return child.read_to_end()


@pytest.fixture
def open_path() -> Iterator[Path]:
    """Return the path of a nonce file in a folder that an unprivileged child can reach."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder) / "kraken_nonce.txt"


def within_the_clock(line: str) -> bool:
    """Return whether the nonce in a child's line lies between its two readings of the clock."""
    before, nonce, after = map(int, line.split())
    return before <= nonce <= after


@needs_root
@pytest.mark.parametrize("kind", ["read-only file", "no permission", "read-only folder", "closed folder"])
def test_without_write_permission_nonces_follow_the_clock(open_path: Path, kind: str) -> None:
    """Without write permission nonces up to the clock are issued and the file is unchanged; higher ones raise."""
    text = "1700000000000000"
    if "file" in kind or kind == "no permission":
        open_path.write_text(text)
        open_path.chmod(0o444 if kind == "read-only file" else 0o000)
    elif kind == "closed folder":
        open_path.parent.chmod(0o700)
    ahead, second, third, problem = run_as_nobody(open_path, AHEAD_US)
    assert ahead.startswith("NonceStoreError")
    assert within_the_clock(second)
    assert within_the_clock(third)
    assert problem == "True"
    open_path.parent.chmod(0o755)
    assert not open_path.exists() or open_path.read_text() == text


@needs_root
def test_a_read_only_file_still_counts(open_path: Path) -> None:
    """The number in a read-only file is a floor: while it is ahead of the clock, no nonce below it is issued."""
    open_path.write_text("8000000000000000")
    open_path.chmod(0o444)
    lines_of_child = run_as_nobody(open_path, 0)
    assert [line.split(":")[0] for line in lines_of_child[:3]] == ["NonceStoreError"] * 3
    assert open_path.read_text() == "8000000000000000"


@needs_root
def test_a_pipe_that_may_only_be_read_blocks_nobody(open_path: Path) -> None:
    """A read-only named pipe in place of the file is refused without waiting."""
    os.mkfifo(open_path, 0o444)
    *lines, problem = run_as_nobody(open_path, 0)
    assert all(map(within_the_clock, lines))
    assert problem == "True"


@needs_root
def test_a_writable_folder_of_others_is_enough(open_path: Path) -> None:
    """A process with write permission for the folder, whoever owns it, requests and writes nonces as usual."""
    open_path.parent.chmod(0o777)
    *lines, problem = run_as_nobody(open_path, 0)
    assert all(map(within_the_clock, lines))
    assert problem == "False"
    assert open_path.read_text() == lines[-1].split()[1]


@pytest.mark.parametrize("max_bytes", [0, 1, 9, 15])
@pytest.mark.parametrize("before", [None, 1_700_000_000_000_000])
def test_a_full_disk_costs_no_nonce(path: Path, max_bytes: int, before: int | None) -> None:
    """On a full disk nonces up to the clock are issued, the file never goes back, and the store recovers by itself."""
    if before is not None:
        path.write_text(str(before))
    with Child(CHILDREN, "print_nonces_on_full_disk", path, max_bytes, limit_seconds=20) as child:
        *nonce_lines, problem, recovered_nonce, is_problem_cleared = child.read_to_end()
    nonces = [*map(int, nonce_lines), int(recovered_nonce)]
    assert nonces == sorted(set(nonces))
    assert nonces[0] > (before or 0)
    assert problem == "True"
    assert is_problem_cleared == "True"
    assert path.read_text() == recovered_nonce

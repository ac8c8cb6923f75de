"""Damage to the nonce file of every kind: nothing crashes, and no nonce goes back."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.base.errors import NonceStoreError
from bot.nonce.file_store import NANOSECONDS, RESTART_STEP_US, FileStore
from tests.stores.conftest import FrozenClock

DAMAGED = {
    "empty": b"",
    "garbage": b"kraken\n",
    "zeros": b"\0" * 16,
    "negative": b"-1790000000000000",
    "plus sign": b"+1790000000000000",
    "fraction": b"1790000000000000.5",
    "exponent": b"1.79e+15",
    "underscores": b"1_790_000_000_000",
    "other digits": "\u0661\u0662\u0663".encode(),
    "two numbers": b"1790000000000000 1790000000000001",
    "17 digits": b"17900000000000000",
    "nanoseconds": b"1790000000000000000",
    "beyond 2^63": str(2**63).encode(),
    "beyond 2^64": str(2**64).encode(),
    "400 digits": b"9" * 400,
    "5000 digits": b"9" * 5000,
    "a megabyte": b"x" * 1_000_000,
}
# What a person or a tool may leave around the number; none of it loses the number.
UNTIDY = {
    "newline": b"%d\n",
    "carriage return": b"%d\r\n",
    "spaces": b"  %d  ",
    "many newlines": b"%d" + b"\n" * 500,
    "leading zero": b"0%d",
}


def levels(caplog: pytest.LogCaptureFixture) -> list[int]:
    """Return the levels of the log records so far, and clear them."""
    found = [record.levelno for record in caplog.records if record.name.startswith("bot.")]
    caplog.clear()
    return found


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_starts_from_the_clock(
    path: Path, frozen_clock: FrozenClock, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """With a damaged file a new store starts from the clock, logs one WARNING and repairs the file."""
    path.write_bytes(content)
    store = FileStore(str(path))
    assert store.peek() is None
    assert store.next_nonce() == frozen_clock.us
    assert path.read_bytes() == b"%d" % frozen_clock.us
    assert store.next_nonce() == frozen_clock.us + 1
    assert levels(caplog) == [logging.WARNING]
    assert store.problem is None


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_damage_while_running_loses_nothing(
    path: Path, frozen_clock: FrozenClock, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """A running store that is ahead of the clock continues from its own last nonce when its file is damaged."""
    store = FileStore(str(path))
    last = store.next_nonce(frozen_clock.us + 60_000_000)
    path.write_bytes(content)
    assert store.next_nonce() == last + 1
    assert path.read_bytes() == b"%d" % (last + 1)
    assert logging.WARNING in levels(caplog)


@pytest.mark.parametrize("form", [form for name, form in UNTIDY.items() if name != "leading zero"])
def test_untidy_files_keep_their_number(
    path: Path, frozen_clock: FrozenClock, caplog: pytest.LogCaptureFixture, form: bytes
) -> None:
    """White space around the number, such as an editor's newline, is no damage."""
    last = frozen_clock.us + 60_000_000
    path.write_bytes(form % last)
    assert FileStore(str(path)).next_nonce() == last + RESTART_STEP_US + 1
    assert path.read_bytes() == b"%d" % (last + RESTART_STEP_US + 1)
    assert levels(caplog) == []


def test_a_number_beyond_63_bits_is_damage_in_nanoseconds_too(
    path: Path, frozen_clock: FrozenClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in nanoseconds with 19 digits beyond 2^63 - 1 is damaged: the store starts from the clock."""
    path.write_text(str(2**63))
    assert FileStore(str(path), NANOSECONDS).next_nonce() == frozen_clock.us * 1000
    assert levels(caplog) == [logging.WARNING]


def test_a_short_number_is_a_number(path: Path, frozen_clock: FrozenClock) -> None:
    """A nonce in milliseconds or seconds is valid and lower than the clock; the file grows to 16 digits."""
    path.write_text(str(frozen_clock.us // 1000))
    assert FileStore(str(path)).next_nonce() == frozen_clock.us


def make_directory(path: Path) -> None:
    """Create a directory in place of the file."""
    path.mkdir()


def make_fifo(path: Path) -> None:
    """Create a named pipe in place of the file."""
    os.mkfifo(path)


def make_socket(path: Path) -> None:
    """Create a socket in place of the file."""
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's name has to be short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


def make_device(path: Path) -> None:
    """Create a device in place of the file that discards everything."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except OSError:
        pytest.skip("no right to make devices here")


def make_link_outside(path: Path) -> None:
    """Create a link to a file in another folder in place of the file."""
    outside = path.parent / "elsewhere" / "notes.txt"
    outside.parent.mkdir()
    outside.write_text("mine")
    path.symlink_to(outside)


def make_link_inside(path: Path) -> None:
    """Create a link to another file of the same folder in place of the file."""
    path.with_name("journal.sqlite").write_text("mine")
    path.symlink_to("journal.sqlite")


def make_loop(path: Path) -> None:
    """Create a link to itself in place of the file."""
    path.symlink_to(path)


def make_parent_a_file(path: Path) -> None:
    """Create a file in place of the folder."""
    path.parent.rmdir()
    path.parent.write_text("no folder")


LINKS = [make_link_outside, make_link_inside]
OBSTACLES = [make_directory, make_fifo, make_socket, make_device, *LINKS, make_loop, make_parent_a_file]


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda one: one.__name__)
def test_what_is_no_file_is_not_written(
    tmp_path: Path, frozen_clock: FrozenClock, caplog: pytest.LogCaptureFixture, obstacle: object
) -> None:
    """Where no regular file can be, nonces up to the clock are issued, one ERROR is logged, and higher ones raise."""
    path = tmp_path / "state" / "kraken_nonce.txt"
    path.parent.mkdir()
    assert callable(obstacle)
    obstacle(path)
    store = FileStore(str(path))
    assert store.peek() is None
    assert store.next_nonce() == frozen_clock.us
    frozen_clock.advance(1)
    assert store.next_nonce() == frozen_clock.us
    with pytest.raises(NonceStoreError):
        store.next_nonce()
    with pytest.raises(NonceStoreError):
        store.next_nonce(frozen_clock.us + 1)
    assert levels(caplog) == [logging.ERROR]
    assert store.problem is not None
    assert str(path) in store.problem


@pytest.mark.parametrize("obstacle", OBSTACLES, ids=lambda one: one.__name__)
def test_it_heals_by_itself(
    tmp_path: Path, frozen_clock: FrozenClock, caplog: pytest.LogCaptureFixture, obstacle: object
) -> None:
    """Once the obstacle is gone, the next nonce is written and above all earlier ones; the recovery is logged once."""
    path = tmp_path / "state" / "kraken_nonce.txt"
    path.parent.mkdir()
    assert callable(obstacle)
    obstacle(path)
    store = FileStore(str(path))
    last = store.next_nonce()
    shutil.rmtree(path.parent) if path.parent.is_dir() else path.parent.unlink()
    levels(caplog)
    caplog.set_level(logging.INFO)
    assert store.next_nonce() == last + 1
    assert path.read_text() == str(last + 1)
    assert store.problem is None
    assert levels(caplog) == [logging.INFO]


@pytest.mark.parametrize("link", LINKS, ids=lambda one: one.__name__)
def test_the_target_of_a_link_is_left_alone(path: Path, link: Callable[[Path], None]) -> None:
    """A symbolic link is never read or written through, whether it leads out of the folder or not."""
    link(path)
    path.resolve().write_text("1")
    store = FileStore(str(path))
    assert store.peek() is None
    store.next_nonce()
    assert path.resolve().read_text() == "1"
    assert path.is_symlink()
    assert "symbolic link" in str(store.problem)


def test_a_link_to_nothing_makes_nothing(path: Path) -> None:
    """A dangling symbolic link does not create its target."""
    outside = path.parent / "elsewhere"
    outside.mkdir()
    path.symlink_to(outside / "new.txt")
    FileStore(str(path)).next_nonce()
    assert list(outside.iterdir()) == []


def fail_with(monkeypatch: pytest.MonkeyPatch, name: str, number: int) -> None:
    """Make a function of `os` fail as on a broken disk."""

    def fail(*_arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, name, fail)


@pytest.mark.parametrize("name", ["pwrite", "pread", "fdatasync", "stat"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_failing_disk_costs_no_nonce(
    path: Path,
    frozen_clock: FrozenClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    number: int,
) -> None:
    """Whichever call fails, nonces up to the clock keep rising, one ERROR is logged, and the store recovers."""
    store = FileStore(str(path))
    nonces = [store.next_nonce()]
    frozen_clock.advance(2)
    with monkeypatch.context() as broken:
        fail_with(broken, name, number)
        for _ in range(3):
            # Where the write succeeded and only the sync failed, the written nonce is used up.
            frozen_clock.advance(1)
            try:
                nonces.append(store.next_nonce())
            except NonceStoreError:
                assert name == "fdatasync"
        assert levels(caplog) == [logging.ERROR]
    frozen_clock.advance(1)
    nonces.append(store.next_nonce())
    assert nonces == sorted(set(nonces))
    assert path.read_text() == str(nonces[-1])
    assert store.problem is None


def test_a_failing_disk_gives_nothing_ahead_of_the_clock(
    path: Path, frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A nonce ahead of the clock that could not be synced is not issued."""
    store = FileStore(str(path))
    last = store.next_nonce(frozen_clock.us + 60_000_000)
    with monkeypatch.context() as broken:
        fail_with(broken, "fdatasync", errno.EIO)
        with pytest.raises(NonceStoreError, match="ahead of the clock"):
            store.next_nonce()
    assert store.next_nonce() > last


def test_a_short_write_is_a_failure(path: Path, frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short write counts as a failure: nothing ahead of the clock is issued."""
    store = FileStore(str(path))
    last = store.next_nonce(frozen_clock.us + 60_000_000)
    pwrite = os.pwrite
    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", lambda descriptor, data, offset: pwrite(descriptor, data[:9], offset))
        with pytest.raises(NonceStoreError):
            store.next_nonce()
    assert store.next_nonce() > last

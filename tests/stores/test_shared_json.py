"""Fields that processes share in a JSON file: no update is lost, and no state of the file is an error."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from bot.base import shared_json
from bot.base.shared_json import Fields, SharedJson
from tests.child_process import Child
from tests.stores.shared_children import step

CHILDREN = "tests.stores.shared_children"
DAMAGED = {
    "garbage": b"kraken",
    "half": b'{"count": 1',
    "list": b"[1, 2]",
    "number": b"17",
    "null": b"null",
    "bytes": b"\xff\xfe\x00",
    "deep": b"[" * 10_000,
    "zeros": b"\x00" * 100,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the test's file."""
    return tmp_path / "kraken_nonce.0a1b2c3d.budget"


def test_processes_lose_no_step(path: Path, full_size: bool) -> None:
    """Four processes and this one's threads that count together lose no update."""
    times = 5000 if full_size else 500
    shared_json = SharedJson(str(path))
    with ExitStack() as stack:
        children = [stack.enter_context(Child(CHILDREN, "count", path, times)) for _ in range(4)]
        for child in children:
            child.expect_line("ready")
        for child in children:
            child.write_line("go")
        threads = [threading.Thread(target=lambda: [shared_json.update(step) for _ in range(times)]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [child.read_to_end() for child in children] == [["done"]] * 4
    assert shared_json.problem is None
    assert json.loads(path.read_text()) == {"count": 6 * times}


def test_a_killed_writer_leaves_what_it_counted(path: Path, full_size: bool) -> None:
    """After a SIGKILL at any moment the file is intact, and holds the last count or the one after it."""
    for _ in range(100 if full_size else 10):
        with Child(CHILDREN, "count_forever", path) as child:
            counts = [child.read_line()]
            child.kill()
            counts += child.drain()
        # The last line may be cut off, so the one before it is the last known count.
        last_count = int(counts[-2] if len(counts) > 1 else counts[-1])
        assert json.loads(path.read_text())["count"] - last_count in (0, 1, 2)


def test_fields_are_read_back_by_others(path: Path) -> None:
    """What one object writes, shorter or longer than before, another one reads."""
    one, other = SharedJson(str(path)), SharedJson(str(path))
    for text in ("a", "a long text", "b"):
        one.update(partial(dict.update, text=text))
        assert other.update(lambda fields: fields["text"]) == text


def test_nothing_is_written_where_nothing_changed(path: Path) -> None:
    """Reading the fields does not touch the file."""
    shared_json = SharedJson(str(path))
    shared_json.update(step)
    os.utime(path, (0, 0))
    shared_json.update(lambda _: None)
    assert path.stat().st_mtime == 0


def clear_fields(fields: Fields) -> None:
    """Remove all fields."""
    fields.clear()


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_logged_once_and_overwritten(path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A damaged file counts as empty for a new object, with one WARNING, and is intact after the next update."""
    shared_json = SharedJson(str(path))
    for _ in range(2):
        path.write_bytes(DAMAGED[name])
        shared_json.update(clear_fields)
        assert shared_json.update(step) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert json.loads(path.read_text()) == {"count": 1}


@pytest.mark.parametrize("loss", ["deleted", "emptied", "replaced by nothing", "damaged"])
def test_what_is_lost_while_running_is_remembered(path: Path, loss: str) -> None:
    """A running process continues from its last known fields when the file is lost."""
    shared_json = SharedJson(str(path))
    shared_json.update(step)
    if loss == "emptied":
        path.write_bytes(b"")
    elif loss == "damaged":
        path.write_bytes(b"{")
    else:
        path.unlink()
        if loss != "deleted":
            path.touch()
    assert shared_json.update(step) == 2
    assert json.loads(path.read_text()) == {"count": 2}


def test_a_replaced_file_is_read(path: Path) -> None:
    """A file that replaces the old one counts from then on."""
    shared_json = SharedJson(str(path))
    shared_json.update(step)
    aside = path.with_suffix(".new")
    aside.write_text('{"count": 41}')
    aside.replace(path)
    assert shared_json.update(step) == 42
    assert json.loads(path.read_text()) == {"count": 42}


def obstruct(path: Path, obstacle: str) -> None:
    """Put something else in place of the file."""
    if obstacle == "folder":
        path.mkdir()
    elif obstacle == "pipe":
        os.mkfifo(path)
    else:
        (path.parent / "elsewhere").mkdir()
        path.symlink_to(path.parent / "elsewhere" / "file")


@pytest.mark.parametrize("obstacle", ["folder", "pipe", "link"])
def test_it_heals_by_itself(path: Path, caplog: pytest.LogCaptureFixture, obstacle: str) -> None:
    """Without a usable file the process counts for itself, logs that once, and returns to the file later."""
    obstruct(path, obstacle)
    shared_json = SharedJson(str(path))
    assert [shared_json.update(step) for _ in range(3)] == [1, 2, 3]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in str(shared_json.problem)
    path.rmdir() if obstacle == "folder" else path.unlink()
    assert shared_json.update(step) == 4
    assert shared_json.problem is None
    assert json.loads(path.read_text()) == {"count": 4}


def test_a_full_disk_is_counted_over(path: Path) -> None:
    """On a full disk a process keeps counting, and with free space nothing that it counted is lost."""
    with Child(CHILDREN, "count_on_a_full_disk", path) as child:
        assert child.read_to_end() == ["2 False", "3 False", "4 True"]
    assert json.loads(path.read_text()) == {"count": 4}


def test_a_new_file_is_not_damaged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing file, or one that another process has created and not written yet, is used without a log record."""
    for _ in range(2):
        assert SharedJson(str(path)).update(step) == 1
        path.write_bytes(b"")
    assert caplog.records == []


def test_a_stopped_holder_does_not_stop_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a process is stopped inside an update the others count for themselves; once it continues, with it."""
    monkeypatch.setattr(shared_json, "LOCK_TIMEOUT_SECONDS", 0.05)
    counters = SharedJson(str(path))
    counters.update(step)
    with Child(CHILDREN, "hold", path) as holder:
        holder.expect_line("held")
        holder.signal(signal.SIGSTOP)
        assert [counters.update(step) for _ in range(2)] == [2, 3]
        assert len(caplog.records) == 1
        holder.signal(signal.SIGCONT)
        holder.write_line("go on")
        holder.expect_line("let go")
    counters.update(lambda _: None)
    assert counters.problem is None


def test_a_forked_child_has_a_lock_of_its_own(path: Path) -> None:
    """A child forked while a thread of its parent is inside an update waits for that thread, and counts after it."""
    with Child(CHILDREN, "fork_during_update", path) as parent:
        parent.expect_line("child")
        parent.write_line("go on")
        assert parent.read_to_end() == ["parent goes on", "2"]


def test_it_is_for_its_owner_alone(path: Path) -> None:
    """Only the owner may read the file."""
    SharedJson(str(path)).update(step)
    assert path.stat().st_mode & 0o777 == 0o600

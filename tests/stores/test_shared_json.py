"""Fields that processes share: no step is lost, and no state of their file is an error."""

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
from bot.base.shared_json import Fields, SharedFields
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
    """Return where the test's fields are."""
    return tmp_path / "kraken_nonce.0a1b2c3d.budget"


def test_processes_lose_no_step(path: Path, full_size: bool) -> None:
    """Four processes and this one's threads that count together lose no step of any of them."""
    times = 5000 if full_size else 500
    fields = SharedFields(str(path))
    with ExitStack() as stack:
        children = [stack.enter_context(Child(CHILDREN, "count", path, times)) for _ in range(4)]
        for child in children:
            child.expect("ready")
        for child in children:
            child.tell("go")
        threads = [threading.Thread(target=lambda: [fields.change(step) for _ in range(times)]) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [child.rest() for child in children] == [["done"]] * 4
    assert fields.problem is None
    assert json.loads(path.read_text()) == {"count": 6 * times}


def test_a_killed_writer_leaves_what_it_counted(path: Path, full_size: bool) -> None:
    """After a SIGKILL at any moment the file is whole, and holds the last count or the one after it."""
    for _ in range(100 if full_size else 10):
        with Child(CHILDREN, "count_for_ever", path) as child:
            told = [child.line()]
            child.kill()
            told += child.unread()
        # The last line may be cut, so the one before it is the last count that is known.
        whole = int(told[-2] if len(told) > 1 else told[-1])
        assert json.loads(path.read_text())["count"] - whole in (0, 1, 2)


def test_fields_are_read_back_by_others(path: Path) -> None:
    """What one object writes, shorter or longer than before, another one reads."""
    one, other = SharedFields(str(path)), SharedFields(str(path))
    for text in ("a", "a long text", "b"):
        one.change(partial(dict.update, text=text))
        assert other.change(lambda fields: fields["text"]) == text


def test_nothing_is_written_where_nothing_changed(path: Path) -> None:
    """Reading the fields does not touch the file."""
    fields = SharedFields(str(path))
    fields.change(step)
    os.utime(path, (0, 0))
    fields.change(lambda _: None)
    assert path.stat().st_mtime == 0


def forget(fields: Fields) -> None:
    """Let nothing have been counted."""
    fields.clear()


@pytest.mark.parametrize("name", DAMAGED)
def test_damage_is_told_once_and_overwritten(path: Path, caplog: pytest.LogCaptureFixture, name: str) -> None:
    """A damaged file counts as empty for who knows nothing, with one WARNING, and is whole after the next step."""
    fields = SharedFields(str(path))
    for _ in range(2):
        path.write_bytes(DAMAGED[name])
        fields.change(forget)
        assert fields.change(step) == 1
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert json.loads(path.read_text()) == {"count": 1}


@pytest.mark.parametrize("loss", ["deleted", "emptied", "replaced by nothing", "damaged"])
def test_what_is_lost_while_running_is_remembered(path: Path, loss: str) -> None:
    """A running process goes on from what it has last seen when its file is lost."""
    fields = SharedFields(str(path))
    fields.change(step)
    if loss == "emptied":
        path.write_bytes(b"")
    elif loss == "damaged":
        path.write_bytes(b"{")
    else:
        path.unlink()
        if loss != "deleted":
            path.touch()
    assert fields.change(step) == 2
    assert json.loads(path.read_text()) == {"count": 2}


def test_a_replaced_file_is_read(path: Path) -> None:
    """A file that is put in place of the old one counts from then on."""
    fields = SharedFields(str(path))
    fields.change(step)
    aside = path.with_suffix(".new")
    aside.write_text('{"count": 41}')
    aside.replace(path)
    assert fields.change(step) == 42
    assert json.loads(path.read_text()) == {"count": 42}


def in_the_way(path: Path, what: str) -> None:
    """Put something in the place of the file that is not one."""
    if what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        (path.parent / "elsewhere").mkdir()
        path.symlink_to(path.parent / "elsewhere" / "file")


@pytest.mark.parametrize("what", ["folder", "pipe", "link"])
def test_it_heals_by_itself(path: Path, caplog: pytest.LogCaptureFixture, what: str) -> None:
    """Where there is no file to use this process counts for itself, says so once, and goes back to the file."""
    in_the_way(path, what)
    fields = SharedFields(str(path))
    assert [fields.change(step) for _ in range(3)] == [1, 2, 3]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert str(path) in str(fields.problem)
    path.rmdir() if what == "folder" else path.unlink()
    assert fields.change(step) == 4
    assert fields.problem is None
    assert json.loads(path.read_text()) == {"count": 4}


def test_a_full_disk_is_counted_over(path: Path) -> None:
    """On a full disk a process goes on counting, and when there is room again nothing that it counted is lost."""
    with Child(CHILDREN, "count_on_a_full_disk", path) as child:
        assert child.rest() == ["2 False", "3 False", "4 True"]
    assert json.loads(path.read_text()) == {"count": 4}


def test_a_new_file_is_not_damaged(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that is not there, or that another process has made and not written yet, is begun without a word."""
    for _ in range(2):
        assert SharedFields(str(path)).change(step) == 1
        path.write_bytes(b"")
    assert caplog.records == []


def test_a_stopped_holder_does_not_stop_the_others(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Behind a process that is stopped in a change others count for themselves, and with it again when it goes on."""
    monkeypatch.setattr(shared_json, "LOCK_SECONDS_MAX", 0.05)
    fields = SharedFields(str(path))
    fields.change(step)
    with Child(CHILDREN, "hold", path) as holder:
        holder.expect("held")
        holder.signal(signal.SIGSTOP)
        assert [fields.change(step) for _ in range(2)] == [2, 3]
        assert len(caplog.records) == 1
        holder.signal(signal.SIGCONT)
        holder.tell("go on")
        holder.expect("let go")
    fields.change(lambda _: None)
    assert fields.problem is None


def test_a_forked_child_has_a_lock_of_its_own(path: Path) -> None:
    """A child forked while a thread of its parent is in a change waits for that thread, and counts after it."""
    with Child(CHILDREN, "fork_in_a_change", path) as parent:
        parent.expect("child")
        parent.tell("go on")
        assert parent.rest() == ["parent goes on", "2"]


def test_it_is_for_its_owner_alone(path: Path) -> None:
    """The file is readable by its owner only."""
    SharedFields(str(path)).change(step)
    assert path.stat().st_mode & 0o777 == 0o600

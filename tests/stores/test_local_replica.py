"""The nonce file as the second copy of what a shared store has handed out: it is raised, and never lowered."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.nonce.file_store import FileStore
from tests.stores.conftest import StillClock

LOW, HIGH = 1_790_000_000_000_100, 1_790_000_000_000_200


def test_a_nonce_is_kept(path: Path) -> None:
    """A nonce that is kept is in the file at once, is what the process knows, and the next draw is above it."""
    file = FileStore(str(path))
    for nonce in (LOW, HIGH):
        file.keep(nonce)
        assert path.read_text() == str(nonce)
        assert file.kept() == nonce
    assert file.draw() > HIGH


def test_a_lower_nonce_changes_nothing(path: Path) -> None:
    """Neither the process that kept the higher nonce nor another one lowers the file."""
    first, second = FileStore(str(path)), FileStore(str(path))
    second.keep(LOW)
    first.keep(HIGH)
    for file in (first, second):
        file.keep(LOW)
        assert path.read_text() == str(HIGH)


def test_what_another_process_kept_is_known(path: Path) -> None:
    """A process knows what another one has kept, before it has opened the file and after."""
    first, second = FileStore(str(path)), FileStore(str(path))
    assert second.kept() == 0
    first.keep(LOW)
    assert second.kept() == LOW
    second.keep(LOW)
    first.keep(HIGH)
    assert second.kept() == HIGH


@pytest.mark.parametrize("text", ["", "rubbish", str(LOW), "7" * 40])
def test_a_copy_that_was_damaged_is_mended(path: Path, text: str) -> None:
    """A file that somebody has damaged or lowered does not lower what the process knows, and has its next nonce."""
    file = FileStore(str(path))
    file.keep(HIGH)
    path.write_text(text)
    assert file.kept() == HIGH
    file.keep(HIGH + 1)
    assert path.read_text() == str(HIGH + 1)


def test_a_copy_that_was_deleted_is_made_anew(path: Path, still_clock: StillClock) -> None:
    """A second after its file was deleted, a process keeps its nonces in a new one."""
    file = FileStore(str(path))
    file.keep(LOW)
    path.unlink()
    still_clock.advance(1.0)
    file.keep(HIGH)
    assert path.read_text() == str(HIGH)


def test_a_copy_that_cannot_be_written_is_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be written is a problem, said once, and raises nothing; it heals when it can be again."""
    path.mkdir()
    file = FileStore(str(path))
    file.keep(LOW)
    file.keep(LOW + 1)
    assert file.problem is not None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    path.rmdir()
    file.keep(HIGH)
    assert file.problem is None
    assert path.read_text() == str(HIGH)

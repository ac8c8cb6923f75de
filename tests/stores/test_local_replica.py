"""The nonce file as the local replica of a shared store: it is raised, and never lowered."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.nonce.file_store import FileStore
from tests.stores.conftest import FrozenClock

LOW, HIGH = 1_790_000_000_000_100, 1_790_000_000_000_200


def test_a_recorded_nonce_is_in_the_file_at_once(path: Path) -> None:
    """A recorded nonce is in the file at once, is the process's highest, and the next nonce is above it."""
    replica = FileStore(str(path))
    for nonce in (LOW, HIGH):
        replica.record_nonce(nonce)
        assert path.read_text() == str(nonce)
        assert replica.highest_nonce() == nonce
    assert replica.next_nonce() > HIGH


def test_a_lower_nonce_changes_nothing(path: Path) -> None:
    """Neither the process that recorded the higher nonce nor another one lowers the file."""
    first, second = FileStore(str(path)), FileStore(str(path))
    second.record_nonce(LOW)
    first.record_nonce(HIGH)
    for replica in (first, second):
        replica.record_nonce(LOW)
        assert path.read_text() == str(HIGH)


def test_a_nonce_recorded_by_another_process_is_seen(path: Path) -> None:
    """A process sees a nonce that another one has recorded, before it has opened the file and after."""
    first, second = FileStore(str(path)), FileStore(str(path))
    assert second.highest_nonce() == 0
    first.record_nonce(LOW)
    assert second.highest_nonce() == LOW
    second.record_nonce(LOW)
    first.record_nonce(HIGH)
    assert second.highest_nonce() == HIGH


@pytest.mark.parametrize("text", ["", "rubbish", str(LOW), "7" * 40])
def test_a_damaged_replica_is_repaired(path: Path, text: str) -> None:
    """A damaged or lowered file does not lower the process's highest nonce, and gets the next recorded one."""
    replica = FileStore(str(path))
    replica.record_nonce(HIGH)
    path.write_text(text)
    assert replica.highest_nonce() == HIGH
    replica.record_nonce(HIGH + 1)
    assert path.read_text() == str(HIGH + 1)


def test_a_deleted_replica_is_recreated(path: Path, frozen_clock: FrozenClock) -> None:
    """A second after its file was deleted, a process records nonces in a new one."""
    replica = FileStore(str(path))
    replica.record_nonce(LOW)
    path.unlink()
    frozen_clock.advance(1.0)
    replica.record_nonce(HIGH)
    assert path.read_text() == str(HIGH)


def test_an_unwritable_replica_is_logged_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """An unwritable file is logged once as a problem and raises nothing; once writable, it is used again."""
    path.mkdir()
    replica = FileStore(str(path))
    replica.record_nonce(LOW)
    replica.record_nonce(LOW + 1)
    assert replica.problem is not None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    path.rmdir()
    replica.record_nonce(HIGH)
    assert replica.problem is None
    assert path.read_text() == str(HIGH)

"""The state of a key's circuit breaker survives restarts; processes share it; no damage keeps it open for ever."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import freezegun
import pytest

from bot.base.event_catalog import Event
from bot.kraken.breaker_file import BreakerFile
from tests.event_log import EventLog

DAMAGED = {
    "empty": "",
    "garbage": "kraken",
    "half": '{"until_seconds": 17',
    "list": "[]",
    "number": "17",
    "null": "null",
    "missing field": '{"until_seconds": 9e9}',
    "wrong types": '{"until_seconds": [], "seconds": {}, "reason": 1}',
    "not a number": '{"until_seconds": NaN, "seconds": NaN, "reason": ""}',
    "infinite": '{"until_seconds": Infinity, "seconds": 900, "reason": ""}',
    "too large": '{"until_seconds": 1%s, "seconds": 900, "reason": ""}' % ("0" * 400),
    "deep": "[" * 4096,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of the test key's breaker file."""
    return tmp_path / "kraken_nonce.0a1b2c3d.silence"


def test_an_open_breaker_survives_a_restart(path: Path) -> None:
    """Another process reads exactly the state that the first one wrote, until the breaker is reset."""
    assert BreakerFile(str(path)).read() is None
    tripped_state = BreakerFile(str(path)).trip(900, "refused five times")
    assert BreakerFile(str(path)).read() == tripped_state
    assert not tripped_state.is_half_open
    BreakerFile(str(path)).reset()
    assert BreakerFile(str(path)).read() is None
    assert list(path.parent.iterdir()) == []


def test_an_open_breaker_is_half_open_after_its_time(path: Path) -> None:
    """A breaker that was opened for 900 s is half-open after 900 s, and not a second earlier."""
    with freezegun.freeze_time("2026-11-22 12:00:00") as frozen:
        BreakerFile(str(path)).trip(900, "")
        frozen.tick(899)
        state = BreakerFile(str(path)).read()
        assert state is not None
        assert not state.is_half_open
        frozen.tick(1)
        assert state.is_half_open


def test_a_clock_set_back_does_not_prolong_an_open_breaker(path: Path) -> None:
    """With the clock set back by an hour, a breaker opened for 900 s is half-open at once, not an hour later."""
    with freezegun.freeze_time("2026-11-22 12:00:00") as frozen:
        state = BreakerFile(str(path)).trip(900, "")
        frozen.move_to("2026-11-22 11:00:00")
        assert state.is_half_open


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_breaker_file_is_half_open(path: Path, content: str) -> None:
    """A damaged file reads as a half-open breaker: one probe is sent, and nothing crashes."""
    path.write_text(content)
    state = BreakerFile(str(path)).read()
    assert state is not None
    assert state.is_half_open


def make_directory(path: Path) -> None:
    """Create a directory in place of the file."""
    path.mkdir()


def make_fifo(path: Path) -> None:
    """Create a named pipe in place of the file."""
    os.mkfifo(path)


def make_link(path: Path) -> None:
    """Create a symbolic link in place of the file."""
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("obstacle", [make_directory, make_fifo, make_link], ids=lambda one: one.__name__)
def test_an_open_breaker_is_remembered_whatever_obstructs_its_file(path: Path, obstacle: object) -> None:
    """Whatever blocks the file's path, the process that opened the breaker still reads its own state."""
    assert callable(obstacle)
    obstacle(path)
    breaker_file = BreakerFile(str(path))
    breaker_file.read()
    tripped_state = breaker_file.trip(900, "")
    assert breaker_file.read() == tripped_state
    assert not path.with_name("elsewhere").exists()


def test_an_unwritable_breaker_is_remembered_in_memory(tmp_path: Path, event_log: EventLog) -> None:
    """Without a writable folder the process keeps the open breaker in memory until it is reset, and logs that once."""
    breaker_file = BreakerFile(str(tmp_path / "nowhere" / "key.silence"))
    tripped_state = breaker_file.trip(900, "")
    assert breaker_file.read() == tripped_state
    (problem,) = event_log
    assert (problem.event, problem.event.level) == (Event.CIRCUIT_BREAKER_NOT_SAVED, logging.ERROR)
    assert "this process alone sends nothing" in problem.text
    breaker_file.reset()
    assert breaker_file.read() is None
    assert len(event_log) == 1


def test_a_breaker_file_that_cannot_be_removed_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be removed is ignored after a reset, which is logged once; opening the breaker again works."""
    path.mkdir()
    breaker_file = BreakerFile(str(path))
    assert breaker_file.read() is not None
    breaker_file.reset()
    assert breaker_file.read() is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "cannot be removed" in caplog.text
    tripped_state = breaker_file.trip(900, "")
    assert breaker_file.read() == tripped_state


def test_the_file_is_private_and_readable(path: Path) -> None:
    """The file is readable JSON with mode 0600."""
    tripped_state = BreakerFile(str(path)).trip(100, "locked out")
    assert json.loads(path.read_text()) == {
        "until_seconds": tripped_state.until_seconds,
        "seconds": 100,
        "reason": "locked out",
    }
    assert path.stat().st_mode & 0o777 == 0o600

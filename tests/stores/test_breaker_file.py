"""A key's silence outlives the program, is shared by processes, and no damage makes it last for ever."""

from __future__ import annotations

import json
import os
from pathlib import Path

import freezegun
import pytest

from bot.kraken.breaker_file import SilenceFile

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
    """Return where the silence of the test's key is kept."""
    return tmp_path / "kraken_nonce.0a1b2c3d.silence"


def test_a_silence_outlives_a_restart(path: Path) -> None:
    """What one process began another one reads, word for word, until it is ended."""
    assert SilenceFile(str(path)).read() is None
    begun = SilenceFile(str(path)).begin(900, "refused five times")
    assert SilenceFile(str(path)).read() == begun
    assert not begun.over
    SilenceFile(str(path)).end()
    assert SilenceFile(str(path)).read() is None
    assert list(path.parent.iterdir()) == []


def test_a_silence_ends_by_the_clock(path: Path) -> None:
    """A silence of 900 s is over after 900 s, and not a second before."""
    with freezegun.freeze_time("2026-11-22 12:00:00") as frozen:
        SilenceFile(str(path)).begin(900, "")
        frozen.tick(899)
        silence = SilenceFile(str(path)).read()
        assert silence is not None
        assert not silence.over
        frozen.tick(1)
        assert silence.over


def test_a_clock_set_back_does_not_prolong_a_silence(path: Path) -> None:
    """With the clock set back by an hour a silence of 900 s is over, not an hour longer."""
    with freezegun.freeze_time("2026-11-22 12:00:00") as frozen:
        silence = SilenceFile(str(path)).begin(900, "")
        frozen.move_to("2026-11-22 11:00:00")
        assert silence.over


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_silence_is_over(path: Path, content: str) -> None:
    """A damaged file is a silence that is over: one probe is sent, and nothing crashes."""
    path.write_text(content)
    silence = SilenceFile(str(path)).read()
    assert silence is not None
    assert silence.over


def make_directory(path: Path) -> None:
    """Put a directory where the file should be."""
    path.mkdir()


def make_fifo(path: Path) -> None:
    """Put a named pipe where the file should be."""
    os.mkfifo(path)


def make_link(path: Path) -> None:
    """Put a symbolic link where the file should be."""
    path.symlink_to(path.with_name("elsewhere"))


@pytest.mark.parametrize("obstacle", [make_directory, make_fifo, make_link], ids=lambda one: one.__name__)
def test_a_silence_is_kept_whatever_lies_there(path: Path, obstacle: object) -> None:
    """Whatever lies where the file should be, this process keeps the silence that it began."""
    assert callable(obstacle)
    obstacle(path)
    file = SilenceFile(str(path))
    file.read()
    begun = file.begin(900, "")
    assert file.read() == begun
    assert not path.with_name("elsewhere").exists()


def test_where_it_cannot_be_written_it_is_remembered(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a folder to write to, the process itself keeps the silence, until it is ended, and says so."""
    file = SilenceFile(str(tmp_path / "nowhere" / "key.silence"))
    begun = file.begin(900, "")
    assert file.read() == begun
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "this process alone is silent" in caplog.text
    file.end()
    assert file.read() is None
    assert len(caplog.records) == 1


def test_one_that_cannot_be_removed_is_over_all_the_same(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file that cannot be removed ends once for this process, which says so; a silence that begins anew counts."""
    path.mkdir()
    file = SilenceFile(str(path))
    assert file.read() is not None
    file.end()
    assert file.read() is None
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    assert "cannot be removed" in caplog.text
    begun = file.begin(900, "")
    assert file.read() == begun


def test_the_file_is_private_and_readable(path: Path) -> None:
    """The file is JSON for people to read, and for its owner only."""
    begun = SilenceFile(str(path)).begin(100, "locked out")
    assert json.loads(path.read_text()) == {
        "until_seconds": begun.until_seconds,
        "seconds": 100,
        "reason": "locked out",
    }
    assert path.stat().st_mode & 0o777 == 0o600

"""One running bot for a state folder: what taking it leaves behind."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bot.errors import SettingsError
from bot.instance import InstanceLock, is_running


def test_a_folder_that_cannot_be_taken_is_left_as_it_was(tmp_path: Path) -> None:
    """Where the note of who runs cannot be put in place, nothing of it stays in the folder."""
    (tmp_path / "bot.json").mkdir()
    with pytest.raises(SettingsError, match="nothing can be written"):
        InstanceLock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bot.json"]


@pytest.mark.parametrize("trouble", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_keeps_no_bot_from_following_what_it_has_sent(
    trouble: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk takes nothing, a folder without a journal is refused, and one with a journal is taken."""

    def full(*_: object) -> None:
        raise OSError(trouble, os.strerror(trouble))

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(SettingsError, match="nothing can be written"):
        InstanceLock(tmp_path)
    (tmp_path / "journal.0a1b2c3d.sqlite").touch()
    lock = InstanceLock(tmp_path)
    assert is_running(tmp_path)
    lock.release()

"""One running bot for a state folder: what taking it leaves behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.errors import SettingsError
from bot.instance import InstanceLock


def test_a_folder_that_cannot_be_taken_is_left_as_it_was(tmp_path: Path) -> None:
    """Where the note of who runs cannot be put in place, nothing of it stays in the folder."""
    (tmp_path / "bot.json").mkdir()
    with pytest.raises(SettingsError, match="nothing can be written"):
        InstanceLock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bot.json"]

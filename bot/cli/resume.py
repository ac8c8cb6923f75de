"""`resume`: lets entries go on that were stopped from the page."""

from __future__ import annotations

import argparse

from bot.app.session import ENTRIES_STOPPED_FILE_NAME
from bot.base.errors import SettingsError
from bot.base.logging_setup import print_line
from bot.config import Settings


def resume_entries(settings: Settings, _options: argparse.Namespace) -> int:
    """Let entries go on."""
    path = settings.state_dir / ENTRIES_STOPPED_FILE_NAME
    try:
        path.unlink()
    except FileNotFoundError:
        print_line(f"Entries were not stopped in {settings.state_dir}.")
    except OSError as error:
        raise SettingsError([f"{path} cannot be removed: {error.strerror}."]) from error
    else:
        print_line("Entries go on.")
    return 0

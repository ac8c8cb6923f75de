"""The control files: while a file of this name is in the state folder, the bot is halted or its entries are paused."""

from __future__ import annotations

import os
import threading
from functools import partial
from pathlib import Path

from bot.base.event_catalog import Event
from bot.base.events import edge_trigger
from bot.base.paths import control_file_exists
from bot.base.private_files import open_file

HALT_FILE_NAME = "halt"
# Former versions called a pause a stop of the entries.
ENTRIES_PAUSED_FILE_NAME = "entries_stopped"


class ControlFiles:
    """Reads the control files of a state folder, from any thread; emits an event when one comes or goes."""

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._poll_halt = edge_trigger(
            partial(control_file_exists, folder, HALT_FILE_NAME), Event.BOT_HALTED, Event.HALT_LIFTED
        )
        self._poll_pause = edge_trigger(
            partial(control_file_exists, folder, ENTRIES_PAUSED_FILE_NAME),
            Event.ENTRIES_PAUSED,
            Event.ENTRIES_RESUMED,
        )

    def is_halted(self) -> bool:
        """Tell whether the bot is halted."""
        with self._lock:
            return self._poll_halt()

    def entries_paused(self) -> bool:
        """Tell whether entries are paused."""
        with self._lock:
            return self._poll_pause()


def create_control_file(folder: Path, name: str) -> None:
    """Create a control file. Raises OSError; never blocks, whatever lies there in place of a file."""
    os.close(open_file(str(folder / name), os.O_WRONLY | os.O_CREAT))

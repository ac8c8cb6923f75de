"""One running bot for a state folder: the folder itself is locked, so a crash leaves nothing to clean up."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
from pathlib import Path

from bot.errors import AnotherBotError, SettingsError

log = logging.getLogger(__name__)

_DISK_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


class InstanceLock:
    """Held by the running bot as long as its process lives. Other programs may share its nonces all the same."""

    def __init__(self, folder: Path) -> None:
        """Make the folder if need be and take it. Raises SettingsError or AnotherBotError."""
        self._note = folder / "bot.json"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise SettingsError([f"STATE_DIR is {folder}, which cannot be used: {error.strerror}."]) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(self._descriptor)
            raise AnotherBotError(f"{describe_owner(folder)} is running on {folder}. Stop it first.") from None
        self._write_note(folder)

    def _write_note(self, folder: Path) -> None:
        aside = folder / f"bot.json.{os.getpid()}"
        try:
            aside.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}), encoding="utf-8")
            os.replace(aside, self._note)
        except OSError as error:
            with contextlib.suppress(OSError):
                aside.unlink()
            if error.errno in _DISK_TROUBLE and any(folder.glob("journal.*.sqlite")):
                # What an earlier life has sent is followed all the same.
                log.warning(
                    "Nothing can be written in %s (%s): no new order is sent until it can.", folder, error.strerror
                )
                return
            os.close(self._descriptor)
            raise SettingsError(
                [f"STATE_DIR is {folder}, where nothing can be written: {error.strerror}. Free it or name another."]
            ) from error

    def release(self) -> None:
        """Let another bot have the folder."""
        with contextlib.suppress(OSError):
            self._note.unlink()
        os.close(self._descriptor)


def describe_owner(folder: Path) -> str:
    """Return who holds a folder, in words."""
    try:
        note = json.loads((folder / "bot.json").read_text(encoding="utf-8"))
        return f"Another bot (process {int(note['pid'])} on {note['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "Another bot"


def is_running(folder: Path) -> bool:
    """Whether a bot holds the folder."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

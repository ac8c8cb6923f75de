"""One running bot for a state folder: the folder itself is locked, so a crash leaves nothing to clean up.

With `state/` the bot locks `bot/` as well: former versions lock that folder, and have their nonce file in it too.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import stat
from pathlib import Path
from typing import Any

from bot.base.errors import BotAlreadyRunningError, SettingsError, StateLostError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.paths import former_folders

STOP_ADVICE = "Stop it first."

INSTANCE_FILE_NAME = "bot.json"
_DISK_ERRNOS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_INSTANCE_FILE_BYTES_MAX = 65_536


class InstanceLock:
    """The lock of the running bot, held as long as its process runs. Other programs may still share its nonces."""

    def __init__(self, folder: Path) -> None:
        """Create the folder if necessary and lock it. Raises SettingsError or BotAlreadyRunningError; may be called
        again."""
        self._folder = folder
        with contextlib.ExitStack() as stack:
            self._descriptor = _lock_folder(folder, stack)
            folder_stat = os.fstat(self._descriptor)
            self._inode = folder_stat.st_dev, folder_stat.st_ino
            for former in former_folders(folder):
                _lock_folder(former, stack)
            self._write_first_instance_file()
            self._close_folders = stack.pop_all().close

    def _write_first_instance_file(self) -> None:
        try:
            self._write_instance_file({})
        except OSError as error:
            if error.errno in _DISK_ERRNOS and any(self._folder.glob("journal.*.sqlite")):
                # Orders that an earlier run has sent are followed all the same.
                emit(Event.STATE_FOLDER_UNWRITABLE, path=self._folder, error=error.strerror)
                return
            problem = f"where nothing can be written: {error.strerror}. Free it or name another."
            raise SettingsError([f"STATE_DIR is {self._folder}, {problem}"]) from error

    def check(self) -> None:
        """Raise StateLostError where the path no longer names the locked folder. Costs one stat of the path."""
        try:
            path_stat = os.stat(self._folder)
        except OSError as error:
            reason = error.strerror
        else:
            if (path_stat.st_dev, path_stat.st_ino) == self._inode:
                return
            reason = "another folder is there now"
        raise StateLostError(
            f"the state folder {self._folder} was moved, replaced or removed while the bot ran on it ({reason}). "
            "Nothing more is sent: the lock on it keeps no other bot away any more. Put it back, then start the bot "
            "again"
        )

    def publish(self, **fields: Any) -> None:
        """Publish this bot's pid, its host and these fields, no others, for `read_instance_file` in other programs."""
        try:
            self._write_instance_file(fields)
        except OSError as error:
            emit(Event.INSTANCE_FILE_UNWRITABLE, path=self._folder / INSTANCE_FILE_NAME, error=error.strerror)

    def _write_instance_file(self, fields: dict[str, Any]) -> None:
        # Everything within the locked folder, whatever its path names by now.
        temporary_name = f"{INSTANCE_FILE_NAME}.{os.getpid()}"
        text = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), **fields})
        with contextlib.suppress(FileNotFoundError):  # of an earlier process with this pid
            os.unlink(temporary_name, dir_fd=self._descriptor)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(temporary_name, flags, 0o600, dir_fd=self._descriptor), "w", encoding="utf-8") as stream:
                stream.write(text)
            os.replace(temporary_name, INSTANCE_FILE_NAME, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary_name, dir_fd=self._descriptor)
            raise

    def release(self) -> None:
        """Release the folder for another bot."""
        with contextlib.suppress(OSError):
            os.unlink(INSTANCE_FILE_NAME, dir_fd=self._descriptor)
        self._close_folders()


def _lock_folder(folder: Path, stack: contextlib.ExitStack) -> int:
    """Lock a folder until the stack closes; return its descriptor."""
    descriptor = _open_folder(folder)
    stack.callback(os.close, descriptor)
    if problem := _permission_problem(os.fstat(descriptor)):
        raise SettingsError([f"STATE_DIR is {folder}, {problem}"])
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BotAlreadyRunningError(f"{describe_owner(folder)} is running on {folder}. {STOP_ADVICE}") from None
    return descriptor


def _open_folder(folder: Path) -> int:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise SettingsError([f"STATE_DIR is {folder}, which cannot be used: {error.strerror}."]) from error


def _permission_problem(folder_stat: os.stat_result) -> str:
    """Describe who else may create files in the folder; "" for nobody who matters.

    Its group may: the volumes of Kubernetes belong to root and the pod's fsGroup, with mode 2775, and on systems where
    every user has a group of their own, folders are often created with 775.
    """
    if folder_stat.st_mode & stat.S_IWOTH:
        return "where every user of this machine can write: take that away with chmod o-w, or name another."
    if folder_stat.st_uid not in (os.geteuid(), 0):
        owner = f"which belongs to another user (number {folder_stat.st_uid})"
        return f"{owner}: give it to this one with chown, or name another."
    return ""


def read_instance_file(folder: Path) -> dict[str, Any]:
    """Return what the last bot of the folder has published: pid, host, and the fields given to `publish`.

    Empty where there is nothing to read. The file of a killed bot stays: `is_running` tells whether a bot runs.
    """
    try:
        # Non-blocking, whatever lies there in place of a file.
        descriptor = os.open(folder / INSTANCE_FILE_NAME, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return {}
    try:
        instance = json.loads(os.read(descriptor, _INSTANCE_FILE_BYTES_MAX))
    except (OSError, ValueError, RecursionError):
        return {}
    finally:
        os.close(descriptor)
    return instance if isinstance(instance, dict) else {}


def describe_owner(folder: Path) -> str:
    """Describe who holds a folder."""
    instance = read_instance_file(folder)
    try:
        return f"Another bot (process {int(instance['pid'])} on {instance['host']})"
    except (ValueError, OverflowError, KeyError, TypeError):
        return "Another bot"


def is_running(folder: Path) -> bool:
    """Tell whether a bot holds the folder."""
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

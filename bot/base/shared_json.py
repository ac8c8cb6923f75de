"""State that the processes of this machine share for a key: a small JSON object in a file under a lock."""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Callable
from fcntl import LOCK_UN, flock
from typing import Any, TypeVar

from bot.base import fork_safety
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.locked_file import LOCK_NONBLOCKING, LockedFile

LOCK_TIMEOUT_SECONDS = 1.0
_MAX_BYTES = 65_536
# A number of any length becomes a float, so that none raises an error.
_decode = json.JSONDecoder(parse_int=float).decode

Fields = dict[str, Any]
Result = TypeVar("Result")


class SharedJson(LockedFile):
    """Fields that all threads and processes of the machine read and change one at a time; all numbers are floats.

    The file is written in place and never synced: a power failure loses its content, which describes the last minutes
    only. Where the file cannot be used, this process continues with the fields it has read last, and logs that once.
    `problem` is None, or one sentence about it.
    """

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.problem: str | None = None
        self._fields: Fields = {}
        self._last_seen = b""
        self._is_damage_logged = False
        self._thread_lock = threading.Lock()
        fork_safety.register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Release what belongs to the parent. Closing the child's descriptor does not unlock the parent's lock."""
        self._thread_lock = threading.Lock()
        self._close()

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._thread_lock:
            self._close()

    def update(self, operation: Callable[[Fields], Result]) -> Result:
        """Return the result of `operation` on the fields, and write the changes it makes to them."""
        with self._thread_lock:
            try:
                try:
                    descriptor = self._lock()
                    raw = os.pread(descriptor, _MAX_BYTES, 0)
                except OSError as error:
                    self._report_unavailable(error)
                    return operation(self._fields)
                # A file that is new, lost, or as this process left it says nothing that it does not know, and so does
                # one that it could not write.
                if raw and raw != self._last_seen:
                    self._fields = self._parse(raw)
                result = operation(self._fields)
                self._write(descriptor, raw)
                return result
            finally:
                if self._descriptor >= 0:
                    flock(self._descriptor, LOCK_UN)

    def peek(self) -> Fields:
        """Return the current fields, as far as possible without waiting for a lock; the caller must not change them."""
        if self.problem is not None:
            return self._fields
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except OSError:
            return self._fields
        try:
            fields = _decode(os.read(descriptor, _MAX_BYTES).decode())
        except (OSError, ValueError, RecursionError):
            return self._fields
        finally:
            os.close(descriptor)
        return fields if isinstance(fields, dict) else self._fields

    def _lock(self) -> int:
        # Behind a stopped process only the first caller waits.
        timeout_seconds = 0.0 if self.problem else LOCK_TIMEOUT_SECONDS
        try:
            flock(self._descriptor, LOCK_NONBLOCKING)
            path_status = os.stat(self._path_bytes)
        except (ValueError, BlockingIOError, FileNotFoundError):
            # Not open yet, held by another process, or deleted.
            return self._reopen_and_lock(timeout_seconds)
        if (path_status.st_ino, path_status.st_dev) == (self._inode, self._device):
            return self._descriptor
        return self._reopen_and_lock(timeout_seconds)

    def _parse(self, raw: bytes) -> Fields:
        try:
            fields = _decode(raw.decode())
        except (ValueError, RecursionError):
            fields = None
        if isinstance(fields, dict):
            return fields
        if not self._is_damage_logged:
            emit(Event.SHARED_FILE_DAMAGED, path=self.path, content=repr(raw[:40]))
        self._is_damage_logged = True
        return self._fields

    def _write(self, descriptor: int, raw: bytes) -> None:
        # Blanks cover the end of a longer old text: truncation would be a second step, which a kill could prevent.
        data = json.dumps(self._fields).encode().ljust(len(raw))
        try:
            if data != raw and os.pwrite(descriptor, data, 0) != len(data):
                raise OSError(errno.EIO, "the write was cut short")
        except OSError as error:
            self._last_seen = raw
            self._report_unavailable(error)
            return
        self._last_seen = data
        if self.problem is not None:
            emit(Event.SHARED_FILE_RECOVERED, path=self.path)
            self.problem = None

    def _report_unavailable(self, error: OSError) -> None:
        if self.problem is None:
            self.problem = f"The file {self.path} cannot be used ({error.strerror or error})"
            emit(Event.SHARED_FILE_UNUSABLE, path=self.path, error=error.strerror or error)

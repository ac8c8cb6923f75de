"""A small file that is kept open and locked for each use, and reopened after it was deleted or replaced."""

from __future__ import annotations

import errno
import os
import stat
from fcntl import LOCK_EX, LOCK_NB, flock

from bot.base import clock
from bot.base.private_files import make_folder, open_file

LOCK_NONBLOCKING = LOCK_EX | LOCK_NB


class LockedFile:
    """The descriptor of a file and its inode. Not thread-safe: subclasses hold a lock."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        # Bytes, because encoding the path is a measurable part of each use.
        self._path_bytes = os.fsencode(self.path)
        self._descriptor = -1
        self._inode = self._device = 0
        self._was_created = False

    def _reopen_and_lock(self, timeout_seconds: float) -> int:
        """Wait for the lock of the file that the path names now, and return its descriptor.

        Raises TimeoutError where another process holds the lock all the time, OSError where the file cannot be opened.
        """
        for _attempt in range(8):
            if self._descriptor < 0:
                self._open()
            self._wait_for_lock(timeout_seconds)
            try:
                path_status = os.stat(self._path_bytes)
            except FileNotFoundError:
                self._close()
                continue
            if (path_status.st_ino, path_status.st_dev) == (self._inode, self._device):
                return self._descriptor
            self._close()
        raise OSError(errno.ESTALE, "the file is replaced faster than it can be opened")

    def _wait_for_lock(self, timeout_seconds: float) -> None:
        deadline = clock.boottime_seconds() + timeout_seconds
        # The lock is held for microseconds at a time, so polling is fair enough here. It has a time limit, which a
        # blocking flock behind a stopped process would not have.
        pause_seconds = 20e-6
        while True:
            try:
                flock(self._descriptor, LOCK_NONBLOCKING)
                return
            except BlockingIOError:
                if clock.boottime_seconds() >= deadline:
                    break
            clock.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, 1e-3)
        raise TimeoutError(errno.ETIMEDOUT, f"another process has held it for {timeout_seconds:g} s")

    def _open(self) -> None:
        make_folder(os.path.dirname(self.path))
        existed = os.path.lexists(self.path)
        self._descriptor = open_file(self.path, os.O_RDWR | os.O_CREAT)
        self._was_created = not existed
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        self._inode, self._device = status.st_ino, status.st_dev

    def _close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

"""The nonce file: one decimal integer, written in place under a lock before the nonce is returned.

In place, not written aside and renamed: a kill cannot tear sixteen digits in one `pwrite`, and the locked inode stays
the same. `docs/nonces.md` has the measurements.
"""

from __future__ import annotations

import errno
import functools
import os
import threading
from dataclasses import dataclass
from fcntl import LOCK_UN, flock

from bot.base import clock, fork_safety
from bot.base.clock import nonce_clock
from bot.base.errors import NonceAheadError, NonceError, NonceStoreError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.locked_file import LOCK_NONBLOCKING, LockedFile
from bot.base.paths import refuse_package_folder
from bot.base.private_files import open_file

LOCK_TIMEOUT_SECONDS = 5.0
# For a local replica, which must not delay a request for longer.
REPLICA_LOCK_TIMEOUT_SECONDS = 1.0
SYNC_INTERVAL_US = 1_000_000
# After a power loss the file may lack the nonces of the last second: a process that starts while the file is ahead of
# the clock skips them.
RESTART_STEP_US = 1_000_000


@dataclass(frozen=True, slots=True)
class NonceUnit:
    """The resolution of a nonce: its units per microsecond, and the number of digits of today's values."""

    name: str
    units_per_microsecond: int
    digits: int


MICROSECONDS = NonceUnit("us", 1, 16)
NANOSECONDS = NonceUnit("ns", 1000, 19)
UNITS = {unit.name: unit for unit in (MICROSECONDS, NANOSECONDS)}


def nonce_ceiling(unit: NonceUnit) -> int:
    """Return the highest nonce that may be issued now: a day ahead of the clock."""
    return (nonce_clock.now_us() + clock.DAY_US) * unit.units_per_microsecond


class FileStore(LockedFile):
    """The next nonce, from one file shared by every thread and process that names it.

    `problem` is None, or one sentence on why the file cannot be written at the moment.
    """

    def __init__(self, path: str, unit: NonceUnit = MICROSECONDS) -> None:
        super().__init__(path)
        self.unit = unit
        self._nonce_limit = min(int(10**unit.digits), 2**63)
        self.problem: str | None = None
        self._floor = 0
        # The content of the file unless another process has written since: then it is the floor, and need not be
        # parsed.
        self._last_written: bytes | None = None
        self._sync_due = 0
        self.after_fork_in_child()
        fork_safety.register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Begin with a new lock and descriptor. Closing the child's descriptor does not unlock the parent's lock."""
        # Re-entrant, so that a signal handler that takes a nonce gets an error instead of a deadlock.
        self._lock = threading.RLock()
        self._is_drawing = False
        self._was_created = False
        self._close()

    def next_nonce(self, at_least: int = 0) -> int:
        """Return max(clock, last + 1, at_least), written before it is returned.

        `at_least` is in the store's unit. Raises NonceAheadError where it is more than a day ahead of the clock,
        NonceStoreError where the file cannot be written and the clock does not cover the nonce, NonceError where a
        signal handler takes a nonce in the middle of another call.
        """
        with self._lock:
            if self._is_drawing:
                raise NonceError("a nonce was requested while another one was being issued (from a signal handler?)")
            self._is_drawing = True
            try:
                nonce = self._next_from_file(at_least)
            except OSError as error:
                nonce = self._next_without_file(at_least, error)
            finally:
                self._is_drawing = False
                if self._descriptor >= 0:
                    flock(self._descriptor, LOCK_UN)
            self._floor = nonce
            return nonce

    def highest_nonce(self) -> int:
        """Return the highest nonce of the open file and of this process; 0 where there is none."""
        with self._lock:
            if self._descriptor < 0:
                return max(self._floor, self.peek() or 0)
            try:
                raw = os.pread(self._descriptor, 64, 0)
            except OSError:
                return self._floor
            return self._floor if raw == self._last_written else max(self._floor, self._parse(raw) or 0)

    def record_nonce(self, nonce: int) -> None:
        """Keep at least this nonce, which a shared store has issued. A failed write is logged."""
        with self._lock:
            try:
                now = nonce_clock.now_us() * self.unit.units_per_microsecond
                # The path is checked with each sync only: the check costs as much as all the rest. In between, a local
                # replica may be written to a deleted file.
                descriptor = (
                    self._reopen_and_lock(self._replica_lock_timeout_seconds())
                    if now >= self._sync_due
                    else self._lock_open()
                )
                raw = os.pread(descriptor, 64, 0)
                if nonce > (self._floor if raw == self._last_written else self._parse_or_recover(raw)):
                    self._write(descriptor, nonce, now, durable=len(raw) > self.unit.digits)
                self._floor = max(self._floor, nonce)
            except OSError as error:
                self._report_unwritable(error)
            finally:
                if self._descriptor >= 0:
                    flock(self._descriptor, LOCK_UN)

    def peek(self) -> int | None:
        """Return the nonce in the file now, or None where there is none or it is damaged."""
        try:
            descriptor = open_file(self.path, os.O_RDONLY)
        except OSError:
            return None
        try:
            return self._parse(os.read(descriptor, 64))
        except OSError:
            return None
        finally:
            os.close(descriptor)

    def _next_from_file(self, at_least: int) -> int:
        descriptor = self._descriptor
        try:
            flock(descriptor, LOCK_NONBLOCKING)
            path_status = os.stat(self._path_bytes)
            if path_status.st_ino != self._inode or path_status.st_dev != self._device:
                descriptor = self._lock_file()
        except (ValueError, BlockingIOError, FileNotFoundError):
            # Not open yet, held by another process, or deleted.
            descriptor = self._lock_file()
        now = nonce_clock.now_us() * self.unit.units_per_microsecond
        raw = os.pread(descriptor, 64, 0)
        last = self._floor
        if raw != self._last_written:
            last = int(raw) if len(raw) == self.unit.digits and raw.isdigit() else -1
        is_usual = self._floor <= last < now and not at_least
        nonce = now if is_usual else self._compute_next(self._parse_or_recover(raw), now, at_least)
        # After a power loss the clock covers nonces up to now, so one sync a second is enough; ahead of the clock only
        # the file does.
        self._write(descriptor, nonce, now, durable=not is_usual)
        return nonce

    def _write(self, descriptor: int, nonce: int, now: int, *, durable: bool) -> None:
        data = b"%d" % nonce
        if os.pwrite(descriptor, data, 0) != len(data):
            raise OSError(errno.EIO, "the write was cut short")
        if durable or now >= self._sync_due:
            self._make_durable(descriptor, len(data), now)
        self._last_written = data

    def _make_durable(self, descriptor: int, length: int, now: int) -> None:
        os.ftruncate(descriptor, length)
        os.fdatasync(descriptor) if hasattr(os, "fdatasync") else os.fsync(descriptor)
        self._sync_due = now + SYNC_INTERVAL_US * self.unit.units_per_microsecond
        if self._was_created:
            self._sync_folder()
        if self.problem is not None:
            emit(Event.NONCE_FILE_RECOVERED, path=self.path)
            self.problem = None

    def _compute_next(self, last: int, now: int, at_least: int) -> int:
        if at_least and at_least > now + clock.DAY_US * self.unit.units_per_microsecond:
            raise NonceAheadError(f"a nonce of at least {at_least} was requested, more than a day ahead of the clock")
        if not self._floor and last >= now:
            last += RESTART_STEP_US * self.unit.units_per_microsecond
        nonce = now if last < now else last + 1
        nonce = max(nonce, at_least) if at_least else nonce
        if nonce >= self._nonce_limit:
            raise NonceStoreError(f"{self.path} holds {last}: there is no higher nonce of {self.unit.digits} digits")
        return nonce

    def _parse_or_recover(self, raw: bytes) -> int:
        parsed = self._parse(raw)
        if parsed is None and self.problem is None and not (self._was_created and raw == b""):
            emit(Event.NONCE_FILE_DAMAGED, path=self.path, content=repr(raw[:40]))
        last = parsed or 0
        if last < self._floor:
            # While it cannot be written it stays behind, which is already logged.
            if not self._was_created and self.problem is None:
                emit(Event.NONCE_FILE_WENT_BACK, path=self.path, nonce=str(last), floor=str(self._floor))
            last = self._floor
        return last

    def _parse(self, raw: bytes) -> int | None:
        text = raw.strip()
        if not text.isdigit() or len(text) > self.unit.digits:
            return None
        value = int(text)
        return value if value < self._nonce_limit else None

    def _next_without_file(self, at_least: int, error: OSError) -> int:
        problem = self._report_unwritable(error)
        now = nonce_clock.now_us() * self.unit.units_per_microsecond
        nonce = self._compute_next(max(self._floor, self.peek() or 0), now, at_least)
        if nonce > now:
            raise NonceStoreError(f"{problem}, and the next nonce is ahead of the clock. Free the file or its disk.")
        return nonce

    def _report_unwritable(self, error: OSError) -> str:
        problem = f"The nonce file {self.path} cannot be written ({error.strerror or error})"
        if self.problem is None:
            emit(Event.NONCE_FILE_UNWRITABLE, path=self.path, error=error.strerror or error)
        self.problem = problem
        self._close()
        return problem

    def _lock_open(self) -> int:
        try:
            flock(self._descriptor, LOCK_NONBLOCKING)
        except (ValueError, BlockingIOError):
            return self._reopen_and_lock(self._replica_lock_timeout_seconds())
        return self._descriptor

    def _replica_lock_timeout_seconds(self) -> float:
        # The request of the nonce has to begin within 3 s; behind a stopped process only the first caller waits.
        return 0.0 if self.problem else REPLICA_LOCK_TIMEOUT_SECONDS

    def _lock_file(self) -> int:
        try:
            return self._reopen_and_lock(LOCK_TIMEOUT_SECONDS)
        except TimeoutError:
            raise NonceStoreError(
                f"another process has held the nonce file {self.path} for {LOCK_TIMEOUT_SECONDS:.0f} s"
            ) from None

    def _open(self) -> None:
        # A new or replaced file is made durable with its first nonce.
        self._sync_due = 0
        self._last_written = None
        super()._open()

    def _sync_folder(self) -> None:
        """Make a new file's name durable, after its first write, so that other processes see it empty for a moment
        only."""
        self._was_created = False
        folder_descriptor = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder_descriptor)
        finally:
            os.close(folder_descriptor)


_stores: dict[tuple[str, NonceUnit], FileStore] = {}


@functools.cache
def open_file_store(path: str | os.PathLike[str], unit: NonceUnit = MICROSECONDS) -> FileStore:
    """Return this process's store for a path: one per file, however its path is spelled.

    Raises SettingsError where the path is in `bot/` of an installed package.
    """
    refuse_package_folder(os.path.dirname(path))
    # `setdefault` is atomic for all threads; the cache is not.
    return _stores.setdefault((os.path.realpath(path), unit), FileStore(os.fspath(path), unit))

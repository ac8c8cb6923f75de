"""The nonce file: one decimal integer, written in place under a lock before it is handed out.

In place, not written aside and renamed: sixteen digits in one `pwrite` cannot be torn by a kill, and the
locked inode stays the same. `docs/nonces.md` has the measurements.
"""

from __future__ import annotations

import errno
import functools
import logging
import os
import threading
from dataclasses import dataclass
from fcntl import LOCK_UN, flock

from bot.base import clock, fork_safety
from bot.base.clock import nonce_clock
from bot.base.errors import NonceAheadError, NonceError, NonceStoreError
from bot.base.locked_file import LOCK_NONBLOCKING, LockedFile
from bot.base.private_files import open_file

log = logging.getLogger(__name__)

LOCK_TIMEOUT_SECONDS = 5.0
# For a second copy, which is not worth a request.
REPLICA_LOCK_TIMEOUT_SECONDS = 1.0
SYNC_INTERVAL_US = 1_000_000
# After a power loss the file may lack the last second's draws: a process that starts while the file is
# ahead of the clock steps over them.
RESTART_STEP_US = 1_000_000


@dataclass(frozen=True, slots=True)
class NonceUnit:
    """How fine a nonce is: `ticks` to the microsecond, and the digits that a value has today."""

    name: str
    units_per_microsecond: int
    digits: int


MICROSECONDS = NonceUnit("us", 1, 16)
NANOSECONDS = NonceUnit("ns", 1000, 19)
UNITS = {unit.name: unit for unit in (MICROSECONDS, NANOSECONDS)}


def nonce_ceiling(unit: NonceUnit) -> int:
    """Return the highest nonce that may be drawn now: a day ahead of the clock."""
    return (nonce_clock.now_us() + clock.DAY_US) * unit.units_per_microsecond


class FileStore(LockedFile):
    """The next nonce, from one file shared by every thread and process that names it.

    `problem` is None, or one sentence on why the file cannot be written at the moment.
    """

    def __init__(self, path: str, unit: NonceUnit = MICROSECONDS) -> None:
        super().__init__(path)
        self.unit = unit
        self._units_per_microsecond, self._digits, self._nonce_limit = (
            unit.units_per_microsecond,
            unit.digits,
            min(int(10**unit.digits), 2**63),
        )
        self._day_units = clock.DAY_US * unit.units_per_microsecond
        self.problem: str | None = None
        self._floor = 0
        # What the file holds where nobody else has drawn since: then it is the floor, and need not be read as a number.
        self._last_written: bytes | None = None
        self._sync_due = 0
        self._reset()
        fork_safety.register_after_fork(self)

    def _reset(self) -> None:
        """Start with a descriptor and a lock of our own (again): also what a forked child does."""
        # Re-entrant, so that a signal handler that draws is told off instead of waiting for itself.
        self._lock = threading.RLock()
        self._is_drawing = False
        self._was_created = False
        self._close()

    def after_fork_in_child(self) -> None:
        """Let go of what belongs to the parent. Closing our copy does not unlock the parent's lock."""
        self._reset()

    def next_nonce(self, at_least: int = 0) -> int:
        """Return max(clock, last + 1, at_least), written down before it is returned.

        `at_least` is in the store's unit. Raises NonceAheadError where it is more than a day ahead of the
        clock, NonceStoreError where the file cannot be written and the clock does not cover the nonce,
        NonceError where a signal handler draws in the middle of a draw.
        """
        with self._lock:
            if self._is_drawing:
                raise NonceError("a nonce was asked for in the middle of drawing one (from a signal handler?)")
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
        """Hold at least this nonce, which a shared store has handed out. Where it cannot be written, that is said."""
        with self._lock:
            try:
                now = nonce_clock.now_us() * self._units_per_microsecond
                # With each sync the path is looked at: to look costs as much as all the rest, and in between a second
                # copy may be written to a file that was deleted.
                descriptor = (
                    self._reopen_and_lock(self._replica_lock_timeout_seconds())
                    if now >= self._sync_due
                    else self._lock_open()
                )
                raw = os.pread(descriptor, 64, 0)
                if nonce > (self._floor if raw == self._last_written else self._parse_or_recover(raw)):
                    self._write(descriptor, nonce, now, durable=len(raw) > self._digits)
                self._floor = max(self._floor, nonce)
            except OSError as error:
                self._report_unwritable(error)
            finally:
                if self._descriptor >= 0:
                    flock(self._descriptor, LOCK_UN)

    def peek(self) -> int | None:
        """Return what the file holds now, or None where there is none or it is damaged."""
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
        now = nonce_clock.now_us() * self._units_per_microsecond
        raw = os.pread(descriptor, 64, 0)
        last = self._floor
        if raw != self._last_written:
            last = int(raw) if len(raw) == self._digits and raw.isdigit() else -1
        is_usual = self._floor <= last < now and not at_least
        nonce = now if is_usual else self._compute_next(self._parse_or_recover(raw), now, at_least)
        # Against power loss the clock is the second witness, so once a second is enough; ahead of the
        # clock the file is the only one.
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
        self._sync_due = now + SYNC_INTERVAL_US * self._units_per_microsecond
        if self._was_created:
            self._sync_folder()
        if self.problem is not None:
            log.info("The nonce file %s can be written again.", self.path)
            self.problem = None

    def _compute_next(self, last: int, now: int, at_least: int) -> int:
        if at_least and at_least > now + self._day_units:
            raise NonceAheadError(f"a nonce of at least {at_least} was asked for, more than a day ahead of the clock")
        if not self._floor and last >= now:
            last += RESTART_STEP_US * self._units_per_microsecond
        nonce = now if last < now else last + 1
        nonce = max(nonce, at_least) if at_least else nonce
        if nonce >= self._nonce_limit:
            raise NonceStoreError(f"{self.path} holds {last}: there is no higher nonce of {self._digits} digits")
        return nonce

    def _parse_or_recover(self, raw: bytes) -> int:
        parsed = self._parse(raw)
        if parsed is None and self.problem is None and not (self._was_created and raw == b""):
            log.warning("The nonce file %s is damaged (%r): starting from the clock.", self.path, raw[:40])
        last = parsed or 0
        if last < self._floor:
            # While it cannot be written it stays behind, which has been said.
            if not self._was_created and self.problem is None:
                log.warning("The nonce file %s went back to %s; going on above %s.", self.path, last, self._floor)
            last = self._floor
        return last

    def _parse(self, raw: bytes) -> int | None:
        text = raw.strip()
        if not text.isdigit() or len(text) > self._digits:
            return None
        value = int(text)
        return value if value < self._nonce_limit else None

    def _next_without_file(self, at_least: int, error: OSError) -> int:
        problem = self._report_unwritable(error)
        now = nonce_clock.now_us() * self._units_per_microsecond
        nonce = self._compute_next(max(self._floor, self.peek() or 0), now, at_least)
        if nonce > now:
            raise NonceStoreError(f"{problem}, and the next nonce is ahead of the clock. Free the file or its disk.")
        return nonce

    def _report_unwritable(self, error: OSError) -> str:
        problem = f"The nonce file {self.path} cannot be written ({error.strerror or error})"
        if self.problem is None:
            log.error("%s. Nonces up to the clock go on; it is tried again with every nonce.", problem)
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
        # The request that the nonce is for has to begin within 3 s; behind a stopped process only the first one waits.
        return 0.0 if self.problem else REPLICA_LOCK_TIMEOUT_SECONDS

    def _lock_file(self) -> int:
        try:
            return self._reopen_and_lock(LOCK_TIMEOUT_SECONDS)
        except TimeoutError:
            raise NonceStoreError(
                f"another process has held the nonce file {self.path} for {LOCK_TIMEOUT_SECONDS:.0f} s"
            ) from None

    def _open(self) -> None:
        # What is new or was replaced is made durable with its first nonce.
        self._sync_due = 0
        self._last_written = None
        super()._open()

    def _sync_folder(self) -> None:
        """Make a new file's name durable; after its first write, so that others meet it empty for a moment only."""
        self._was_created = False
        folder_descriptor = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder_descriptor)
        finally:
            os.close(folder_descriptor)


_stores: dict[tuple[str, NonceUnit], FileStore] = {}


@functools.cache
def open_file_store(path: str | os.PathLike[str], unit: NonceUnit = MICROSECONDS) -> FileStore:
    """Return this process's store for a path: one per file, however its path is spelled."""
    # `setdefault` is one step for all threads; the cache is not.
    return _stores.setdefault((os.path.realpath(path), unit), FileStore(os.fspath(path), unit))

"""One private request per API key at a time, across the threads and processes of one machine.

Nonces must reach Kraken in order, so the request lock is held from taking the nonce until the answer is read. Across
processes it is a `flock` on a file that is never deleted or renamed. Linux does not hand a `flock` to the longest
waiter, and a process that asks again at once would take it for ever. So the first waiter holds a second lock, the queue
lock, and every process takes the queue lock before the lock itself.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from bot.base import clock, fork_safety
from bot.base.errors import RequestLockTimeout, StoppingError
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.private_files import make_folder, open_file

LOCK_TIMEOUT_SECONDS = 20.0


class Priority(IntEnum):
    """The order in which waiting requests get the lock."""

    CANCEL = 0
    ORDER = 1
    READ = 2


class _LockFile:
    """A `flock` on the file that a path names now: the inode is checked after locking."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1

    def acquire(self, blocking: bool) -> bool:
        """Lock the file; return False where it is locked and `blocking` is false. Raises OSError where it cannot be
        opened."""
        flags = fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB
        while True:
            if self._descriptor < 0:
                # The first lock comes before the first nonce, which creates the folder too.
                make_folder(os.path.dirname(self.path))
                self._descriptor = open_file(self.path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(self._descriptor, flags)
                is_locked = True
            except BlockingIOError:
                is_locked = False
            if self.is_current():
                return is_locked
            self.close()

    def is_current(self) -> bool:
        """Whether the path still names the open file."""
        try:
            path_status = os.stat(self.path)
        except FileNotFoundError:
            return False
        descriptor_status = os.fstat(self._descriptor)
        return (path_status.st_ino, path_status.st_dev) == (descriptor_status.st_ino, descriptor_status.st_dev)

    def release(self) -> None:
        """Unlock."""
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor. In a forked child this does not unlock the parent's lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(order=True, slots=True)
class _Waiter:
    priority: Priority
    sequence: int
    condition: threading.Condition = field(compare=False)
    is_granted: bool = field(default=False, compare=False)


class RequestLock:
    """The request lock of one sender on a key: its own threads by priority, and the other senders by the lock files."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._sequence = itertools.count()
        self._fork_count = 0
        self._lowest_allowed: Priority | None = None
        self._is_process_local = False
        self._reset()
        fork_safety.register_after_fork(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiters: list[_Waiter] = []
        self._is_busy = False
        self._lock_file = _LockFile(self.path)
        self._queue_lock_file = _LockFile(self.path.removesuffix(".lock") + ".gate")

    def after_fork_in_child(self) -> None:
        """A held lock belongs to the parent: forget it without unlocking it."""
        self._lock_file.close()
        self._queue_lock_file.close()
        self._fork_count += 1
        self._reset()

    @contextmanager
    def hold(self, priority: Priority, timeout_seconds: float = LOCK_TIMEOUT_SECONDS) -> Iterator[float]:
        """Hold the request lock for a `with` block; yield for how many seconds it was waited for.

        Raises RequestLockTimeout when the lock was not acquired in time and StoppingError when the program is stopping;
        in both cases nothing was sent.
        """
        started_seconds = clock.boottime_seconds()
        has_waited = self._acquire(priority, started_seconds + timeout_seconds, timeout_seconds)
        fork_count = self._fork_count
        try:
            yield clock.boottime_seconds() - started_seconds if has_waited else 0.0
        finally:
            if fork_count == self._fork_count:
                with self._lock:
                    self._release_or_hand_over()

    def close(self) -> None:
        """Close the files, which also releases the lock."""
        with self._lock:
            self._lock_file.close()
            self._queue_lock_file.close()

    def stop(self, lowest_allowed: Priority) -> None:
        """From now on refuse the lock to requests and waiters with a lower priority than `lowest_allowed`."""
        with self._lock:
            self._lowest_allowed = lowest_allowed
            for waiter in self._waiters:
                waiter.condition.notify()

    def _acquire(self, priority: Priority, deadline: float, timeout_seconds: float) -> bool:
        """Take the lock; return whether it had to be waited for."""
        with self._lock:
            self.check_stopping(priority)
            if not self._is_busy and self._try_acquire():
                return False
            waiter = _Waiter(priority, next(self._sequence), threading.Condition(self._lock))
            heapq.heappush(self._waiters, waiter)
            try:
                self._wait_until_granted(waiter, deadline, timeout_seconds)
            except BaseException:
                if waiter.is_granted:
                    self._release_or_hand_over()
                else:
                    self._waiters.remove(waiter)
                    heapq.heapify(self._waiters)
                raise
            return True

    def _try_acquire(self) -> bool:
        """Acquire the lock at once, or start to wait for the lock files."""
        self._is_busy = True
        try:
            if self._try_lock_files():
                return True
        except BaseException:
            # Ctrl-C in a user's script: the next request must not find a lock without a holder.
            self._queue_lock_file.release()
            self._lock_file.release()
            self._is_busy = False
            raise
        self._start_lock_thread()
        return False

    def _wait_until_granted(self, waiter: _Waiter, deadline: float, timeout_seconds: float) -> None:
        while not waiter.is_granted:
            self.check_stopping(waiter.priority)
            remaining_seconds = deadline - clock.boottime_seconds()
            if remaining_seconds <= 0:
                raise RequestLockTimeout(
                    f"the request lock {os.path.basename(self.path)} was not acquired within {timeout_seconds:g} s: "
                    "another thread or process holds it; nothing was sent"
                )
            waiter.condition.wait(remaining_seconds)

    def check(self) -> None:
        """Do nothing: the lock of one machine has no lifetime, so a request that waited still holds it."""

    def check_stopping(self, priority: Priority) -> None:
        """Raise StoppingError where this priority is below the lowest allowed one."""
        if self._lowest_allowed is not None and priority > self._lowest_allowed:
            raise StoppingError("the program is stopping; nothing was sent")

    def _release_or_hand_over(self) -> None:
        """Give the lock to this process's waiter with the highest priority, unless another process is next."""
        if not self._waiters:
            self._lock_file.release()
            self._is_busy = False
        elif self._is_process_local or self._can_hand_over():
            self._grant_next()
        else:
            self._lock_file.release()
            self._start_lock_thread()

    def _grant_next(self) -> None:
        waiter = heapq.heappop(self._waiters)
        waiter.is_granted = True
        waiter.condition.notify()

    def _can_hand_over(self) -> bool:
        """Whether this lock is on the file that other processes lock too, and no other process holds the queue lock."""
        try:
            if not self._lock_file.is_current():
                return False
            is_free = self._queue_lock_file.acquire(blocking=False)
        except OSError:
            return True
        if is_free:
            self._queue_lock_file.release()
        return is_free

    def _try_lock_files(self) -> bool:
        try:
            if not self._queue_lock_file.acquire(blocking=False):
                return False
            try:
                is_locked = self._lock_file.acquire(blocking=False)
            finally:
                self._queue_lock_file.release()
        except OSError as error:
            self._report_process_local(error)
            return True
        if self._is_process_local:
            emit(Event.REQUEST_LOCK_RECOVERED, path=self.path)
            self._is_process_local = False
        return is_locked

    def _start_lock_thread(self) -> None:
        """Wait for the lock files in a thread, because a blocking `flock` has no time-out and ignores signals."""
        arguments = (self._fork_count, self._lock_file, self._queue_lock_file)
        try:
            threading.Thread(target=self._lock_files, args=arguments, name="kraken-request-lock", daemon=True).start()
        except RuntimeError as error:
            # The waiters get RequestLockTimeout at the latest; the next request tries again.
            emit(Event.REQUEST_LOCK_WAIT_FAILED, path=self.path, error=error)
            self._is_busy = False

    def _lock_files(self, fork_count: int, lock_file: _LockFile, queue_lock_file: _LockFile) -> None:
        failure: OSError | None = None
        try:
            queue_lock_file.acquire(blocking=True)
            try:
                lock_file.acquire(blocking=True)
            finally:
                queue_lock_file.release()
        except OSError as error:
            failure = error
        with self._lock:
            if fork_count != self._fork_count:
                return
            if failure is not None:
                self._report_process_local(failure)
            if self._waiters:
                self._grant_next()
            else:
                self._lock_file.release()
                self._is_busy = False

    def _report_process_local(self, error: OSError) -> None:
        if not self._is_process_local:
            emit(Event.REQUEST_LOCK_UNUSABLE, path=self.path, error=error.strerror or error)
        self._is_process_local = True

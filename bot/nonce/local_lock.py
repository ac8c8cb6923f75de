"""One private request per API key at a time, across the threads and processes of one machine.

Kraken wants nonces to arrive in order, so the turn is held from drawing the nonce until the answer is read.
Across processes it is a `flock` on a file that is never deleted or renamed. Linux does not hand a `flock` to
the one who has waited longest, and a process that asks again at once would take it for ever; so whoever waits
holds a second lock, the gate, and whoever wants the turn passes the gate first.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import IntEnum

from bot.base import clock, fork_safety
from bot.base.errors import StoppingError, TurnTimeout
from bot.base.private_files import make_folder, open_file

log = logging.getLogger(__name__)

WAIT_SECONDS_MAX = 20.0


class Urgency(IntEnum):
    """Who goes first when a turn becomes free."""

    CANCEL = 0
    ORDER = 1
    READ = 2


class _LockFile:
    """A `flock` on the file that a path names now: the inode is checked after locking."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._descriptor = -1

    def acquire(self, blocking: bool) -> bool:
        """Lock; return False where it is taken and we may not wait. Raises OSError where it cannot be opened."""
        flags = fcntl.LOCK_EX if blocking else fcntl.LOCK_EX | fcntl.LOCK_NB
        while True:
            if self._descriptor < 0:
                # The first turn comes before the first nonce, which makes the folder too.
                make_folder(os.path.dirname(self.path))
                self._descriptor = open_file(self.path, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(self._descriptor, flags)
            except BlockingIOError:
                if self.is_current():
                    return False
                self.forget()
                continue
            if self.is_current():
                return True
            self.forget()

    def is_current(self) -> bool:
        """Whether the path still names the file that we have open."""
        try:
            named = os.stat(self.path)
        except FileNotFoundError:
            return False
        opened = os.fstat(self._descriptor)
        return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)

    def release(self) -> None:
        """Unlock."""
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def forget(self) -> None:
        """Close our descriptor. In a forked child this does not unlock the parent's lock."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(order=True, slots=True)
class _Waiter:
    urgency: Urgency
    number: int
    woken: threading.Condition = field(compare=False)
    granted: bool = field(default=False, compare=False)


class Turns:
    """The turns of one sender on a key: its own threads by urgency, and the other senders by the files."""

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)
        self._numbers = itertools.count()
        self._generation = 0
        self._stopping_above: Urgency | None = None
        self._alone = False
        self._start_anew()
        fork_safety.forget_in_child(self)

    def _start_anew(self) -> None:
        self._lock = threading.Lock()
        self._waiting: list[_Waiter] = []
        self._busy = False
        self._turn_file = _LockFile(self.path)
        self._gate_file = _LockFile(self.path.removesuffix(".lock") + ".gate")

    def after_fork_in_child(self) -> None:
        """The turn, if there is one, is the parent's: forget it without unlocking it."""
        self._turn_file.forget()
        self._gate_file.forget()
        self._generation += 1
        self._start_anew()

    @contextmanager
    def turn(self, urgency: Urgency, timeout_seconds: float = WAIT_SECONDS_MAX) -> Iterator[None]:
        """Hold the turn for the length of a `with` block.

        Raises TurnTimeout when it was not given in time and StoppingError when the program is stopping; in
        both cases nothing was sent.
        """
        self._take(urgency, timeout_seconds)
        generation = self._generation
        try:
            yield
        finally:
            if generation == self._generation:
                self._give_back()

    def close(self) -> None:
        """Close the files, which also gives back what is held."""
        with self._lock:
            self._turn_file.forget()
            self._gate_file.forget()

    def stop(self, above: Urgency) -> None:
        """Refuse turns less urgent than `above` from now on, those that wait included."""
        with self._lock:
            self._stopping_above = above
            for waiter in self._waiting:
                waiter.woken.notify()

    def _take(self, urgency: Urgency, timeout_seconds: float) -> None:
        deadline = clock.boottime_seconds() + timeout_seconds
        with self._lock:
            self.check_stopping(urgency)
            if not self._busy and self._take_free():
                return
            waiter = _Waiter(urgency, next(self._numbers), threading.Condition(self._lock))
            heapq.heappush(self._waiting, waiter)
            try:
                self._wait(waiter, deadline, timeout_seconds)
            except BaseException:
                if waiter.granted:
                    self._pass_on()
                else:
                    self._waiting.remove(waiter)
                    heapq.heapify(self._waiting)
                raise

    def _take_free(self) -> bool:
        """Take the turn at once, or have the files waited for."""
        self._busy = True
        try:
            if self._try_files():
                return True
        except BaseException:
            # Ctrl-C of a user's own script; the next one must not find the turn taken by nobody.
            self._gate_file.release()
            self._turn_file.release()
            self._busy = False
            raise
        self._ask()
        return False

    def _wait(self, waiter: _Waiter, deadline: float, timeout_seconds: float) -> None:
        while not waiter.granted:
            self.check_stopping(waiter.urgency)
            remaining = deadline - clock.boottime_seconds()
            if remaining <= 0:
                raise TurnTimeout(
                    f"no turn on {os.path.basename(self.path)} within {timeout_seconds:g} s: another thread or "
                    "process is holding it; nothing was sent"
                )
            waiter.woken.wait(remaining)

    def check(self) -> None:
        """A turn of this machine alone has no lifetime: what waits long before it leaves still leaves in its turn."""

    def check_stopping(self, urgency: Urgency) -> None:
        """Raise StoppingError where this is less urgent than what still goes."""
        if self._stopping_above is not None and urgency > self._stopping_above:
            raise StoppingError("the program is stopping; nothing was sent")

    def _give_back(self) -> None:
        with self._lock:
            self._pass_on()

    def _pass_on(self) -> None:
        """Give the turn to our most urgent waiter, unless it is another process's."""
        if not self._waiting:
            self._turn_file.release()
            self._busy = False
        elif self._alone or self._ours_to_pass_on():
            self._grant()
        else:
            self._turn_file.release()
            self._ask()

    def _grant(self) -> None:
        waiter = heapq.heappop(self._waiting)
        waiter.granted = True
        waiter.woken.notify()

    def _ours_to_pass_on(self) -> bool:
        """Whether our lock is on the file that others lock too, and no other process stands at the gate."""
        try:
            if not self._turn_file.is_current():
                return False
            free = self._gate_file.acquire(blocking=False)
        except OSError:
            return True
        if free:
            self._gate_file.release()
        return free

    def _try_files(self) -> bool:
        try:
            if not self._gate_file.acquire(blocking=False):
                return False
            try:
                taken = self._turn_file.acquire(blocking=False)
            finally:
                self._gate_file.release()
        except OSError as error:
            self._say_alone(error)
            return True
        self._say_together()
        return taken

    def _ask(self) -> None:
        """Wait for the files in a thread, because a blocking `flock` knows no time-out and no signal."""
        arguments = (self._generation, self._turn_file, self._gate_file)
        try:
            threading.Thread(target=self._fetch, args=arguments, name="kraken-turn", daemon=True).start()
        except RuntimeError as error:
            # Who waits gets TurnTimeout at the latest; the next one to ask tries again.
            log.error("Cannot wait for the turn file %s: %s.", self.path, error)
            self._busy = False

    def _fetch(self, generation: int, turn_file: _LockFile, gate_file: _LockFile) -> None:
        failure: OSError | None = None
        try:
            gate_file.acquire(blocking=True)
            try:
                turn_file.acquire(blocking=True)
            finally:
                gate_file.release()
        except OSError as error:
            failure = error
        with self._lock:
            if generation != self._generation:
                return
            if failure is not None:
                self._say_alone(failure)
            if self._waiting:
                self._grant()
            else:
                self._turn_file.release()
                self._busy = False

    def _say_alone(self, error: OSError) -> None:
        if not self._alone:
            log.error(
                "The turn file %s cannot be used (%s): requests are put in order within this process only.",
                self.path,
                error.strerror or error,
            )
        self._alone = True

    def _say_together(self) -> None:
        if self._alone:
            log.info("The turn file %s can be used again.", self.path)
        self._alone = False

"""A state machine over the file store: nonces, crashes, damage, forks and clock steps in any order."""

from __future__ import annotations

import copy
import logging
import os
import re
import shutil
import tempfile
import warnings
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from bot.base import clock
from bot.base.errors import NonceStoreError
from bot.nonce.file_store import RESTART_STEP_US, FileStore
from tests.stores.conftest import FrozenClock

LIMIT = 10**16
CONTENTS = st.one_of(
    st.binary(max_size=80),
    st.integers(0, 2**64).map(lambda number: b"%d" % number),
    st.integers(-(10**13), 10**13).map(lambda offset: b"%d" % (1_790_000_000_000_000 + offset)),
)
# Index of one of the two processes that share the file.
PROCESS_NUMBER = st.integers(0, 1)


class Process:
    """One process with its store, as far as one test process can play several."""

    def __init__(self, path: Path) -> None:
        self.store = FileStore(str(path))
        self.highest_nonce = 0


class FileMachine(RuleBasedStateMachine):
    """The exact guarantee of the file store.

    A nonce is above every nonce that its process has issued, above the number that the file held, and not below the
    clock or `at_least`; when it is returned the file holds exactly that nonce. So no nonce is lower than or equal to an
    earlier one while either the file is as the last nonce left it, or the process that issued the highest nonce keeps
    running.

    Not guaranteed, beyond what the clock gives: that a process which never saw another's higher nonce stays above it
    after the file was removed or could not be written.
    """

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.path = self.folder / "kraken_nonce.txt"
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(logging.getLogger("bot.nonce.file_store"), "disabled", True)
        self.clock = FrozenClock()
        self.patch.setattr(clock.nonce_clock, "now_us", self.clock.now_us)
        self.patch.setattr(clock, "boottime_seconds", self.clock.boottime_seconds)
        self.abandoned_stores: list[FileStore] = []
        self.backups: list[bytes] = []
        self.highest_nonce = 0
        self.is_tampered = False

    @initialize()
    def start(self) -> None:
        """Start two processes."""
        self.processes = [Process(self.path) for _ in range(2)]

    def teardown(self) -> None:
        """Undo the patches and clear every obstacle."""
        self.patch.undo()
        for store in [*self.abandoned_stores, *(process.store for process in self.processes)]:
            store._close()
        shutil.rmtree(self.folder)

    def file_nonce(self) -> int | None:
        """Return the number in the file, read independently of the store."""
        if not self.path.is_file():
            return None
        found = re.fullmatch(rb"\s*(\d{1,16})\s*", self.path.read_bytes()[:64])
        return int(found[1]) if found else None

    def check(self, process: Process, before: int | None, nonce: int, at_least: int) -> None:
        """Check a nonce against the guarantee."""
        known_nonce = max(process.highest_nonce, -1 if before is None else before)
        assert nonce > known_nonce
        assert nonce >= max(self.clock.us, at_least)
        assert nonce <= max(self.clock.us, at_least, known_nonce + RESTART_STEP_US + 1), "further ahead than needed"
        if not self.is_tampered or process.highest_nonce == self.highest_nonce:
            assert nonce > self.highest_nonce
        # Where no file can be written, no other process learns of this nonce.
        self.is_tampered = self.path.is_dir() or (self.is_tampered and nonce <= self.highest_nonce)
        self.highest_nonce = max(self.highest_nonce, nonce)
        process.highest_nonce = nonce

    def request_and_check(self, process: Process, at_least: int = 0) -> None:
        """Request a nonce and check it against the guarantee."""
        before = self.file_nonce()
        is_exhausted = max(process.highest_nonce, before or 0) + RESTART_STEP_US + 1 >= LIMIT
        try:
            nonce = process.store.next_nonce(at_least)
        except NonceStoreError:
            assert is_exhausted or (self.path.is_dir() and max(process.highest_nonce + 1, at_least) > self.clock.us)
            return
        self.check(process, before, nonce, at_least)
        if not self.path.is_dir():
            assert self.path.read_bytes() == b"%d" % nonce
            assert self.path.stat().st_mode & 0o777 == 0o600

    @rule(process_number=PROCESS_NUMBER, count=st.integers(1, 5))
    def next_nonce_in_process(self, process_number: int, count: int) -> None:
        """Request a nonce in one of the processes."""
        for _ in range(count):
            self.request_and_check(self.processes[process_number])

    @rule(process_number=PROCESS_NUMBER, ahead_us=st.integers(-(10**9), clock.DAY_US))
    def next_nonce_at_least(self, process_number: int, ahead_us: int) -> None:
        """Request a nonce with a floor in one of the processes."""
        self.request_and_check(self.processes[process_number], self.clock.us + ahead_us)

    @rule(process_number=PROCESS_NUMBER)
    def crash(self, process_number: int) -> None:
        """Kill a process without closing anything, and start a new one."""
        self.abandoned_stores.append(self.processes[process_number].store)
        self.processes[process_number] = Process(self.path)

    @precondition(lambda self: not self.path.is_dir())
    @rule(process_number=PROCESS_NUMBER, count=st.integers(1, 3))
    def fork(self, process_number: int, count: int) -> None:
        """Fork a process; the child requests a nonce and ends; the parent requests another."""
        process = self.processes[process_number]
        before = self.file_nonce()
        if max(process.highest_nonce, before or 0) + RESTART_STEP_US + count + 1 >= LIMIT:
            return
        reader, writer = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # other tests' threads; the child only requests a nonce
            pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, b" ".join(b"%d" % process.store.next_nonce() for _ in range(count)))
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            child_nonces = [int(word) for word in pipe.read().split()]
        os.waitpid(pid, 0)
        assert len(child_nonces) == count
        child = copy.copy(process)
        for nonce in child_nonces:
            self.check(child, before, nonce, 0)
            before = nonce
        self.request_and_check(process)

    @rule(step_us=st.one_of(st.integers(-10, 10), st.integers(-(10**7), 10**7), st.integers(-(10**12), 10**12)))
    def step_clock(self, step_us: int) -> None:
        """Step the clock, or let time pass."""
        self.clock.us += step_us
        self.clock.boot_seconds += abs(step_us) / 1e6

    @precondition(lambda self: self.path.is_file())
    @rule(length=st.integers(0, 20))
    def truncate(self, length: int) -> None:
        """Truncate the file."""
        os.truncate(self.path, min(length, self.path.stat().st_size))
        self.is_tampered = True

    @precondition(lambda self: not self.path.is_dir())
    @rule(content=CONTENTS)
    def corrupt(self, content: bytes) -> None:
        """Overwrite the file in place with any content."""
        self.path.write_bytes(content)
        self.is_tampered = True

    @precondition(lambda self: self.path.is_file())
    @rule(tail=st.binary(min_size=1, max_size=80))
    def lengthen(self, tail: bytes) -> None:
        """Append something to the number."""
        with self.path.open("ab") as file:
            file.write(tail)
        self.is_tampered = True

    @rule()
    def delete(self) -> None:
        """Delete the file or whatever is in its place."""
        if self.path.is_dir():
            self.path.rmdir()
        self.path.unlink(missing_ok=True)
        self.is_tampered = True

    @precondition(lambda self: not self.path.is_dir())
    @rule(content=CONTENTS)
    def replace(self, content: bytes) -> None:
        """Move another file over the file."""
        other = self.folder / "other"
        other.write_bytes(content)
        other.rename(self.path)
        self.is_tampered = True

    @precondition(lambda self: self.path.is_file())
    @rule()
    def back_up(self) -> None:
        """Back the file up."""
        self.backups.append(self.path.read_bytes())

    @precondition(lambda self: self.backups and not self.path.is_dir())
    @rule(which=st.integers(0, 100), rename=st.booleans())
    def restore(self, which: int, rename: bool) -> None:
        """Restore a backup, by copying over the file or by renaming."""
        target = self.folder / "restored" if rename else self.path
        target.write_bytes(self.backups[which % len(self.backups)])
        if rename:
            target.rename(self.path)
        self.is_tampered = True

    @precondition(lambda self: not self.path.is_dir())
    @rule()
    def obstruct(self) -> None:
        """Put a directory in place of the file."""
        self.path.unlink(missing_ok=True)
        self.path.mkdir()
        self.is_tampered = True


def test_the_file_store_keeps_its_promise(full_size: bool) -> None:
    """FileMachine's guarantee holds over any sequence of nonces, crashes, damage, forks and clock steps."""
    sizes = settings(max_examples=2000 if full_size else 60, stateful_step_count=60 if full_size else 40)
    FileMachine.TestCase.settings = settings(sizes, deadline=None, derandomize=True)
    FileMachine.TestCase("runTest").debug()

"""Cost of a nonce compared with the bare system calls and with opening the file on every call."""

from __future__ import annotations

import fcntl
import os
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.broker_manager import get_kraken_nonce
from tests.benchmarks import machine

ROUNDS = 21
BARE_RATIO_MAX = 3.0
PUBLISHED_RATIO_MIN = 15.0


class BareCalls:
    """One open descriptor and four system calls: the minimum cost of a file that processes share."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)
        self._descriptor = os.open(path, os.O_RDWR)

    def rewrite(self) -> None:
        """Lock, read, write the same back, unlock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        raw = os.pread(self._descriptor, 64, 0)
        os.pwrite(self._descriptor, raw, 0)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def rewrite_checked(self) -> None:
        """The same with a stat of the path: on Linux 6.13 and later, the write is slower after it, too."""
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        os.stat(self._path)
        raw = os.pread(self._descriptor, 64, 0)
        os.pwrite(self._descriptor, raw, 0)
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)


class PublishedNonceStore:
    """The design that most bots copy: open and read, open and write, under a lock in the process."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()

    def next_nonce(self) -> int:
        """Return the next nonce."""
        with self._lock:
            last = 0
            if self._path.exists():
                with open(self._path) as file:
                    last = int(file.read().strip() or 0)
            nonce = max(time.time_ns() // 1000, last + 1)
            with open(self._path, "w") as file:
                file.write(str(nonce))
            return nonce


def measure_microseconds(call: Callable[[], object], count: int) -> float:
    """Return the cost of one call in microseconds."""
    start = time.perf_counter_ns()
    for _ in range(count):
        call()
    return (time.perf_counter_ns() - start) / 1000 / count


def format_verdict(is_met: bool) -> str:
    """Return whether a figure meets its target, as text."""
    return "met" if is_met else "MISSED"


@pytest.mark.bench
def test_cost_of_a_nonce(nonce_file: Path, tmp_path: Path) -> None:
    """Print the median ratios of the three implementations, measured alternately over many rounds."""
    get_kraken_nonce()
    bare, published = BareCalls(nonce_file), PublishedNonceStore(tmp_path / "published.txt")
    rounds = []
    for _ in range(ROUNDS):
        ours_us = measure_microseconds(get_kraken_nonce, 2000)
        bare_us = measure_microseconds(bare.rewrite, 2000)
        checked_us = measure_microseconds(bare.rewrite_checked, 2000)
        published_us = measure_microseconds(published.next_nonce, 200)
        rounds.append((ours_us, bare_us, checked_us, published_us))
    bare.close()
    ours_us, bare_us, checked_us, published_us = (statistics.median(column) for column in zip(*rounds, strict=True))
    to_bare = statistics.median(ours / bare for ours, bare, _, _ in rounds)
    to_published = statistics.median(published / ours for ours, _, _, published in rounds)
    print(f"\nnonce: {machine.describe(nonce_file)}")
    print(f"  get_kraken_nonce() {ours_us:.2f} us, bare flock + pread + pwrite {bare_us:.2f} us")
    print(f"  ratio to bare {to_bare:.2f}, at most {BARE_RATIO_MAX:g}: {format_verdict(to_bare <= BARE_RATIO_MAX)}")
    print(f"  bare with the check that the path still names the file {checked_us:.2f} us: {checked_us / bare_us:.2f}")
    print(f"  open, read, open, write on every call {published_us:.1f} us")
    print(f"  faster by {to_published:.1f}, at least {PUBLISHED_RATIO_MIN:g}: ", end="")
    print(format_verdict(to_published >= PUBLISHED_RATIO_MIN))
    assert len(rounds) == ROUNDS
    assert int(nonce_file.read_text()) > 0

"""Counters and timings of this process; `bot/dashboard/prometheus.py` renders them (docs/operating.md).

Every process counts for itself, from zero. A forked child starts with new counters, because a thread that the child
does not have may hold a lock of its parent's.
"""

from __future__ import annotations

import math
import os
import threading
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate

from bot.base import clock

OUTCOMES = ("accepted", "refused", "unknown", "not_sent")
RECONCILED_OUTCOMES = ("placed", "not_placed")
# The methods that the bot itself calls. Every other method is counted as "other": each name costs a dozen series.
METHODS = frozenset(
    {
        "AddOrder",
        "AssetPairs",
        "Assets",
        "BalanceEx",
        "CancelAllOrdersAfter",
        "CancelOrder",
        "ClosedOrders",
        "GetApiKeyInfo",
        "OHLC",
        "OpenOrders",
        "SystemStatus",
        "Ticker",
        "Time",
        "TradesHistory",
    }
)
# Up to the longest wait for a request lock, the longest request, and the time-outs of the stores.
_LOCK_WAIT_BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
_REQUEST_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0)
_STORE_BUCKETS = (0.00001, 0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_RECENT_WAITS_MAX = 100


class Histogram:
    """Observed times in seconds, counted by the upper bounds of their buckets."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)
        self._lock = threading.Lock()
        self.total_seconds = 0.0

    def observe(self, seconds: float) -> None:
        """Count a time."""
        with self._lock:
            self.total_seconds += seconds
            self._counts[bisect_left(self._bounds, seconds)] += 1

    def buckets(self) -> list[tuple[float, int]]:
        """Return each bound with the number of times up to it; the last bound is infinity."""
        return list(zip(self._bounds, accumulate(self._counts), strict=True))


class Metrics:
    """The counters and histograms of this process."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Count from zero."""
        self._lock = threading.Lock()
        self.recent_lock_waits: deque[float] = deque(maxlen=_RECENT_WAITS_MAX)
        self.nonces: Counter[str] = Counter()
        # Without the zeros, a series that does not exist yet looks like a lost one.
        self.orders = Counter(dict.fromkeys(OUTCOMES, 0))
        self.reconciled = Counter(dict.fromkeys(RECONCILED_OUTCOMES, 0))
        self.request_lock_wait = Histogram(_LOCK_WAIT_BUCKETS)
        # By method and outcome, and by operation.
        self.request_duration: dict[tuple[str, ...], Histogram] = {}
        self.store_duration: dict[str, Histogram] = {}

    def count(self, counter: Counter[str], name: str) -> None:
        """Add one to a counter of this object."""
        with self._lock:
            counter[name] += 1


process_metrics = Metrics()
os.register_at_fork(after_in_child=process_metrics.reset)


# Recording: called where it happens, while the request lock is held; each call costs about a microsecond


def record_nonce_issued() -> None:
    """Count a nonce that was issued for a request."""
    process_metrics.count(process_metrics.nonces, "issued")


def record_nonce_refused() -> None:
    """Count a nonce that Kraken refused."""
    process_metrics.count(process_metrics.nonces, "refused")


def record_request_lock_wait(wait_seconds: float) -> None:
    """Record the wait for a key's request lock."""
    process_metrics.recent_lock_waits.append(wait_seconds)
    process_metrics.request_lock_wait.observe(wait_seconds)


def record_request(method: str, outcome: str, duration_seconds: float) -> None:
    """Record a call to Kraken: "ok", "error" where Kraken answered with one, "no_response" for everything else."""
    labels = (method if method in METHODS else "other", outcome)
    histograms = process_metrics.request_duration
    histogram = histograms.get(labels) or histograms.setdefault(labels, Histogram(_REQUEST_BUCKETS))
    histogram.observe(duration_seconds)


@contextmanager
def time_store_operation(operation: str) -> Iterator[None]:
    """Time a `with` block as an operation of the nonce store, also where it fails."""
    started_seconds = clock.boottime_seconds()
    try:
        yield
    finally:
        histograms = process_metrics.store_duration
        histogram = histograms.get(operation) or histograms.setdefault(operation, Histogram(_STORE_BUCKETS))
        histogram.observe(clock.boottime_seconds() - started_seconds)


def record_order(outcome: str) -> None:
    """Count an order by its outcome when it left the order gateway; `outcome` is one of OUTCOMES."""
    process_metrics.count(process_metrics.orders, outcome)


def record_reconciliation(outcome: str) -> None:
    """Count an unknown order by its reconciled outcome; `outcome` is one of RECONCILED_OUTCOMES."""
    process_metrics.count(process_metrics.reconciled, outcome)


# Reading


def issued_total() -> int:
    """Return the number of nonces that this process has issued."""
    return process_metrics.nonces["issued"]


def refused_total() -> int:
    """Return the number of nonces of this process that Kraken has refused."""
    return process_metrics.nonces["refused"]


def mean_request_lock_wait_seconds() -> float | None:
    """Return the mean wait for the last hundred request locks; None before the first."""
    waits = tuple(process_metrics.recent_lock_waits)
    return sum(waits) / len(waits) if waits else None

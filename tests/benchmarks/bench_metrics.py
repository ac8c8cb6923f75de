"""Cost of the metrics: for a private call, and to render them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import pytest

from bot.base import metrics
from bot.base.clock import boottime_seconds
from bot.dashboard import prometheus

CALL_US_MAX = 20.0
ROUNDS, COUNT = 15, 5000


def measure_cpu_microseconds(work: Callable[[], object], count: int) -> float:
    """Return the CPU cost of one undisturbed call in this thread, in microseconds."""
    minimum_us = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        for _ in range(count):
            work()
        minimum_us = min(minimum_us, (time.thread_time_ns() - start) / 1000 / count)
    return minimum_us


def record_call() -> None:
    """Record everything that a private call with the nonce file records."""
    requested_at = boottime_seconds()
    metrics.record_request_lock_wait(boottime_seconds() - requested_at)
    with metrics.time_store_operation("next_nonce"):
        metrics.record_nonce_issued()
    started_at = boottime_seconds()
    metrics.record_request("BalanceEx", "ok", boottime_seconds() - started_at)


def record_store_operations() -> None:
    """Record what the request lock of a shared store adds."""
    with metrics.time_store_operation("acquire_lock"), metrics.time_store_operation("release_lock"):
        return


@pytest.mark.bench
def test_cost_of_the_metrics() -> None:
    """Print the cost to record a private call and two operations of a shared store, and to render all metrics."""
    call_us, store_us = (
        measure_cpu_microseconds(record_call, COUNT),
        measure_cpu_microseconds(record_store_operations, COUNT),
    )
    for method in metrics.METHODS:
        metrics.record_request(method, "ok", 0.1)
    render_us = measure_cpu_microseconds(partial(prometheus.render, {}), 20)
    print(f"\nmetrics: a private call {call_us:.1f} us, two operations of a shared store {store_us:.1f} us", end="")
    print(f", at most {CALL_US_MAX:g} us: {'met' if call_us + store_us <= CALL_US_MAX else 'MISSED'}")
    print(f"  rendering them {render_us / 1000:.1f} ms")

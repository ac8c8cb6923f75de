"""What counting and timing costs a private call, and what telling it costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bot.base import metrics
from bot.base.clock import boottime_seconds

CALL_US_MAX = 20.0
ROUNDS, COUNT = 15, 5000


def measure_cpu_microseconds(work: Callable[[], object], count: int) -> float:
    """Return what one call costs this thread where nothing disturbs it, in microseconds."""
    minimum_us = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        for _ in range(count):
            work()
        minimum_us = min(minimum_us, (time.thread_time_ns() - start) / 1000 / count)
    return minimum_us


def record_call() -> None:
    """Count and time all that a private call with the nonce file does."""
    requested_at = boottime_seconds()
    metrics.record_request_lock_wait(boottime_seconds() - requested_at)
    with metrics.time_store_operation("draw"):
        metrics.record_nonce_issued()
    started_at = boottime_seconds()
    metrics.record_request("BalanceEx", "ok", boottime_seconds() - started_at)


def time_store_steps() -> None:
    """Time what a turn of a shared store does besides."""
    with metrics.time_store_operation("take"), metrics.time_store_operation("give_back"):
        return


@pytest.mark.bench
def test_cost_of_the_metrics() -> None:
    """The cost of counting a private call, of a shared store's two steps, and of telling them all is printed."""
    call_us, steps_us = measure_cpu_microseconds(record_call, COUNT), measure_cpu_microseconds(time_store_steps, COUNT)
    for method in metrics.METHODS:
        metrics.record_request(method, "ok", 0.1)
    render_us = measure_cpu_microseconds(metrics.render, 20)
    print(f"\nmetrics: a private call {call_us:.1f} us, two steps of a shared store {steps_us:.1f} us", end="")
    print(f", at most {CALL_US_MAX:g} us: {'met' if call_us + steps_us <= CALL_US_MAX else 'MISSED'}")
    print(f"  telling them {render_us / 1000:.1f} ms")

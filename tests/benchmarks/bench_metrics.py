"""What counting and timing costs a private call, and what telling it costs."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from bot.base import metrics
from bot.base.clock import boottime_seconds

CALL_US_MAX = 20.0
ROUNDS, COUNT = 15, 5000


def cpu_microseconds(work: Callable[[], object], count: int) -> float:
    """Return what one call costs this thread where nothing disturbs it, in microseconds."""
    least = float("inf")
    for _ in range(ROUNDS):
        start = time.thread_time_ns()
        for _ in range(count):
            work()
        least = min(least, (time.thread_time_ns() - start) / 1000 / count)
    return least


def count_a_call() -> None:
    """Count and time all that a private call with the nonce file does."""
    asked = boottime_seconds()
    metrics.turn_taken(boottime_seconds() - asked)
    with metrics.timed_step("draw"):
        metrics.nonce_issued()
    began = boottime_seconds()
    metrics.call_ended("BalanceEx", "ok", boottime_seconds() - began)


def time_two_steps() -> None:
    """Time what a turn of a shared store does besides."""
    with metrics.timed_step("take"), metrics.timed_step("give_back"):
        return


@pytest.mark.bench
def test_cost_of_the_metrics() -> None:
    """The cost of counting a private call, of a shared store's two steps, and of telling them all is printed."""
    call_us, steps_us = cpu_microseconds(count_a_call, COUNT), cpu_microseconds(time_two_steps, COUNT)
    for method in metrics.METHODS:
        metrics.call_ended(method, "ok", 0.1)
    told_us = cpu_microseconds(metrics.text, 20)
    print(f"\nmetrics: a private call {call_us:.1f} us, two steps of a shared store {steps_us:.1f} us", end="")
    print(f", at most {CALL_US_MAX:g} us: {'met' if call_us + steps_us <= CALL_US_MAX else 'MISSED'}")
    print(f"  telling them {told_us / 1000:.1f} ms")

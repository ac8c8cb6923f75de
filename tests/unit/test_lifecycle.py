"""When a run counts as alive, which decides whether its heartbeat is sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bot.app import lifecycle
from bot.app.lifecycle import HANG_TIMEOUT_SECONDS, Lifecycle, LifecycleState


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return a clock that changes only through its `seconds`."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(lifecycle, "boottime_seconds", lambda: now.seconds)
    return now


def make_trader(cycle_ended_seconds: float | None) -> Any:
    """Return the attributes of a trader that the lifecycle reads."""
    latest = None if cycle_ended_seconds is None else SimpleNamespace(boot_seconds=cycle_ended_seconds)
    return SimpleNamespace(snapshot_publisher=SimpleNamespace(latest=latest))


@pytest.mark.parametrize("cycle_ended_seconds", [None, 1000.0])
def test_a_run_whose_cycles_have_stopped_is_not_alive(
    clock: SimpleNamespace, cycle_ended_seconds: float | None
) -> None:
    """While trading, a run is alive for five minutes after its last cycle, or after its start before the first."""
    lifecycle = Lifecycle()
    lifecycle.set_state(LifecycleState.TRADING)
    lifecycle.trader = make_trader(cycle_ended_seconds)
    clock.seconds += HANG_TIMEOUT_SECONDS - 1
    assert lifecycle.is_alive()
    clock.seconds += 1
    assert not lifecycle.is_alive()


@pytest.mark.parametrize("state", [LifecycleState.STARTING, LifecycleState.STANDBY, LifecycleState.WAITING])
def test_a_run_that_does_not_trade_is_alive(clock: SimpleNamespace, state: LifecycleState) -> None:
    """A run that starts, waits or is standby has no cycles and is alive."""
    lifecycle = Lifecycle()
    lifecycle.set_state(state)
    clock.seconds += 10 * HANG_TIMEOUT_SECONDS
    assert lifecycle.is_alive()

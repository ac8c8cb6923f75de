"""What a run takes for life, which its heartbeat tells to whoever listens for it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from bot.app import lifecycle
from bot.app.lifecycle import HANGS_SECONDS, Runner, State


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give a clock that stands still, but for what a test adds to its `seconds`."""
    now = SimpleNamespace(seconds=1000.0)
    monkeypatch.setattr(lifecycle, "boottime_seconds", lambda: now.seconds)
    return now


def trader(pass_ended_seconds: float | None) -> Any:
    """Return as much of a trader as a run looks at."""
    latest = None if pass_ended_seconds is None else SimpleNamespace(boot_seconds=pass_ended_seconds)
    return SimpleNamespace(observer=SimpleNamespace(latest=latest))


@pytest.mark.parametrize("pass_ended_seconds", [None, 1000.0])
def test_a_run_whose_passes_have_stopped_is_not_alive(clock: SimpleNamespace, pass_ended_seconds: float | None) -> None:
    """While it trades, a run is alive for five minutes after its last pass, and after its start before the first."""
    run = Runner(print)
    run.become(State.TRADING)
    run.trader = trader(pass_ended_seconds)
    clock.seconds += HANGS_SECONDS - 1
    assert run.is_alive()
    clock.seconds += 1
    assert not run.is_alive()


@pytest.mark.parametrize("state", [State.STARTING, State.STANDBY, State.WAITING])
def test_a_run_that_does_not_trade_is_alive(clock: SimpleNamespace, state: State) -> None:
    """Whoever starts, stands by or waits makes no passes, and is alive."""
    run = Runner(print)
    run.become(state)
    clock.seconds += 10 * HANGS_SECONDS
    assert run.is_alive()

"""A trading bot whose cycles fail or stop: one alert after a minute, and one at the recovery."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bot.app import lifecycle as lifecycle_module
from bot.app.alerts import StallAlert
from bot.app.lifecycle import Lifecycle, LifecycleState
from bot.base.clock import boottime_seconds
from bot.base.event_catalog import Alert, Event
from bot.config import load_settings
from bot.dashboard.snapshot import SnapshotReader
from tests.event_log import EventLog


def test_stall_alert_is_sent_at_second_check_and_at_recovery(event_log: EventLog) -> None:
    """One look at trouble tells nothing; a second in a row tells it, once; the end of it is told, too."""
    reasons = iter(["no answer", "", "no answer", "no answer", "no answer", "", ""])
    stall_alert = StallAlert(lambda: next(reasons))
    alert_counts = []
    for _ in range(7):
        stall_alert.check()
        alert_counts.append(len(event_log))
    assert alert_counts == [0, 0, 0, 1, 1, 2, 2]
    assert event_log.events == [Event.TRADING_STALLED, Event.TRADING_RESUMED]
    assert event_log[0]["reason"] == "no answer"
    assert {event.alert for event in event_log.events} == {Alert.TRADING_INTERRUPTED}


@pytest.mark.parametrize(
    ("state", "problem", "age_seconds", "stall_reason"),
    [
        (LifecycleState.TRADING, "", 5.0, ""),
        (LifecycleState.TRADING, "no answer", 5.0, "no answer"),
        (LifecycleState.TRADING, "", 75.0, "its last cycle ended 75 s ago"),
        (LifecycleState.STANDBY, "no answer", 75.0, ""),
        (LifecycleState.WAITING, "no answer", 75.0, ""),
    ],
)
def test_only_a_trading_bot_can_stall(
    state: LifecycleState, problem: str, age_seconds: float, stall_reason: str
) -> None:
    """A bot is stalled if it trades and its cycles fail or stop; a standby or waiting bot is not."""
    lifecycle = Lifecycle()
    snapshot = SimpleNamespace(boot_seconds=boottime_seconds() - age_seconds)
    lifecycle.trader = SimpleNamespace(last_error=problem, snapshot_publisher=SimpleNamespace(latest=snapshot))  # type: ignore[assignment]
    lifecycle.set_state(state)
    reader = SnapshotReader(load_settings({}), lifecycle)
    assert reader.stall_reason() == stall_reason
    reader.close()


@pytest.mark.parametrize(
    ("problem", "age_seconds", "stall_reason"),
    [
        ("no answer", 0.0, "no answer"),
        ("", 299.0, ""),
        ("", 301.0, "its first cycle has lasted 301 s"),
    ],
)
def test_a_run_can_stall_before_its_first_cycle_ends(
    problem: str, age_seconds: float, stall_reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run whose first cycle fails, or has not ended after five minutes, is stalled."""
    run = Lifecycle()
    run.trader = SimpleNamespace(last_error=problem, snapshot_publisher=SimpleNamespace(latest=None))  # type: ignore[assignment]
    run.set_state(LifecycleState.TRADING)
    began_seconds = boottime_seconds()
    monkeypatch.setattr(lifecycle_module, "boottime_seconds", lambda: began_seconds + age_seconds)
    reader = SnapshotReader(load_settings({}), run)
    assert reader.stall_reason() == stall_reason
    reader.close()

"""What the page says of a bot, where that hangs on the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from bot.app.lifecycle import Lifecycle, LifecycleState
from bot.base import events
from bot.base.events import Event
from bot.config import load_settings
from bot.dashboard import snapshot
from bot.dashboard.snapshot import READY_CYCLE_AGE_SECONDS_MAX, SnapshotReader

NOON = 1_795_435_200


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give both clocks of the page, which stand still but for what a test adds to their `seconds`."""
    now = SimpleNamespace(seconds=float(NOON))
    monkeypatch.setattr(snapshot, "boottime_seconds", lambda: now.seconds)
    monkeypatch.setattr(snapshot, "wall_seconds", lambda: now.seconds)
    return now


@pytest.fixture
def lifecycle() -> Lifecycle:
    """Give a run that trades, of which no pass has ended."""
    run = Lifecycle(print)
    run.set_state(LifecycleState.TRADING)
    run.trader = trader_stub(None)
    return run


@pytest.fixture
def reader(clock: SimpleNamespace, lifecycle: Lifecycle) -> Iterator[SnapshotReader]:
    """Give what reads it."""
    with closing(SnapshotReader(load_settings({}), lifecycle)) as reader:
        yield reader


def trader_stub(cycle_ended_seconds: float | None, problem: str = "") -> Any:
    """Return as much of a trader as the page looks at to say whether the bot is ready."""
    latest = None if cycle_ended_seconds is None else SimpleNamespace(boot_seconds=cycle_ended_seconds)
    return SimpleNamespace(observer=SimpleNamespace(latest=latest), trouble=problem)


def test_bot_is_ready_while_cycles_complete(
    reader: SnapshotReader, lifecycle: Lifecycle, clock: SimpleNamespace
) -> None:
    """A bot is ready from its first pass on, for a minute after the last, and not while passes do not go through."""
    assert reader.status() == (LifecycleState.TRADING, "", False)
    lifecycle.trader = trader_stub(clock.seconds)
    clock.seconds += READY_CYCLE_AGE_SECONDS_MAX - 1
    assert reader.status() == (LifecycleState.TRADING, "", True)
    clock.seconds += 1
    assert reader.status() == (LifecycleState.TRADING, "", False)
    lifecycle.trader = trader_stub(clock.seconds, "Kraken is away")
    assert reader.status() == (LifecycleState.TRADING, "Kraken is away", False)


def test_refused_nonces_are_counted_per_utc_day(reader: SnapshotReader, clock: SimpleNamespace) -> None:
    """Nonces that were refused today are those since midnight UTC."""

    def refuse_and_count(times: int) -> int:
        for _ in range(times):
            events.emit(Event.REFUSED_NONCE, "refused")
        return int(reader.read()["nonce"]["refused_today"])

    assert refuse_and_count(2) == 2
    clock.seconds += 43_199
    assert refuse_and_count(1) == 3
    clock.seconds += 1
    assert refuse_and_count(0) == 0
    assert refuse_and_count(1) == 1

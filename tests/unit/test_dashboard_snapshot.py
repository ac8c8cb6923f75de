"""The parts of the status snapshot that depend on time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from bot.app.lifecycle import Lifecycle, LifecycleState
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.config import load_settings
from bot.dashboard import snapshot
from bot.dashboard.snapshot import READY_CYCLE_AGE_SECONDS_MAX, SnapshotReader

NOON = 1_795_435_200


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Replace both clocks of the snapshot by one that changes only through its `seconds`."""
    now = SimpleNamespace(seconds=float(NOON))
    monkeypatch.setattr(snapshot, "boottime_seconds", lambda: now.seconds)
    monkeypatch.setattr(snapshot, "wall_seconds", lambda: now.seconds)
    return now


@pytest.fixture
def lifecycle() -> Lifecycle:
    """Return the lifecycle of a trading bot that has not completed a cycle."""
    lifecycle = Lifecycle()
    lifecycle.set_state(LifecycleState.TRADING)
    lifecycle.trader = trader_stub(None)
    return lifecycle


@pytest.fixture
def reader(clock: SimpleNamespace, lifecycle: Lifecycle) -> Iterator[SnapshotReader]:
    """Return a snapshot reader of that lifecycle."""
    with closing(SnapshotReader(load_settings({}), lifecycle)) as reader:
        yield reader


def trader_stub(cycle_ended_seconds: float | None, problem: str = "") -> Any:
    """Return the attributes of a trader that decide whether the bot is ready."""
    latest = None if cycle_ended_seconds is None else SimpleNamespace(boot_seconds=cycle_ended_seconds)
    return SimpleNamespace(snapshot_publisher=SimpleNamespace(latest=latest), last_error=problem)


def test_bot_is_ready_while_cycles_complete(
    reader: SnapshotReader, lifecycle: Lifecycle, clock: SimpleNamespace
) -> None:
    """A bot is ready from its first cycle until a minute after the last one, and not while cycles fail."""
    assert reader.status() == (LifecycleState.TRADING, "", False)
    lifecycle.trader = trader_stub(clock.seconds)
    clock.seconds += READY_CYCLE_AGE_SECONDS_MAX - 1
    assert reader.status() == (LifecycleState.TRADING, "", True)
    clock.seconds += 1
    assert reader.status() == (LifecycleState.TRADING, "", False)
    lifecycle.trader = trader_stub(clock.seconds, "Kraken is away")
    assert reader.status() == (LifecycleState.TRADING, "Kraken is away", False)


def test_refused_nonces_are_counted_per_utc_day(reader: SnapshotReader, clock: SimpleNamespace) -> None:
    """The refused nonces of today are those since midnight UTC."""

    def refuse_and_count(times: int) -> int:
        for _ in range(times):
            emit(Event.NONCE_REFUSED, nonce="1", unit="us", method="Balance", refused_nonces=1)
        return int(reader.read()["nonce"]["refused_today"])

    assert refuse_and_count(2) == 2
    clock.seconds += 43_199
    assert refuse_and_count(1) == 3
    clock.seconds += 1
    assert refuse_and_count(0) == 0
    assert refuse_and_count(1) == 1

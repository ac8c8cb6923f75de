"""What the page says of a bot, where that hangs on the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from types import SimpleNamespace
from typing import Any

import pytest

from bot.app.lifecycle import Runner, State
from bot.base import events
from bot.base.events import Event
from bot.config import load_settings
from bot.dashboard import snapshot
from bot.dashboard.snapshot import FRESH_SECONDS, Reader

NOON = 1_795_435_200


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Give both clocks of the page, which stand still but for what a test adds to their `seconds`."""
    now = SimpleNamespace(seconds=float(NOON))
    monkeypatch.setattr(snapshot, "boottime_seconds", lambda: now.seconds)
    monkeypatch.setattr(snapshot, "wall_seconds", lambda: now.seconds)
    return now


@pytest.fixture
def run() -> Runner:
    """Give a run that trades, of which no pass has ended."""
    run = Runner(print)
    run.become(State.TRADING)
    run.trader = trading(None)
    return run


@pytest.fixture
def reader(clock: SimpleNamespace, run: Runner) -> Iterator[Reader]:
    """Give what reads it."""
    with closing(Reader(load_settings({}), run)) as reader:
        yield reader


def trading(pass_ended_seconds: float | None, trouble: str = "") -> Any:
    """Return as much of a trader as the page looks at to say whether the bot is ready."""
    latest = None if pass_ended_seconds is None else SimpleNamespace(boot_seconds=pass_ended_seconds)
    return SimpleNamespace(observer=SimpleNamespace(latest=latest), trouble=trouble)


def test_a_bot_is_ready_while_its_passes_go_through(reader: Reader, run: Runner, clock: SimpleNamespace) -> None:
    """A bot is ready from its first pass on, for a minute after the last, and not while passes do not go through."""
    assert reader.standing() == (State.TRADING, "", False)
    run.trader = trading(clock.seconds)
    clock.seconds += FRESH_SECONDS - 1
    assert reader.standing() == (State.TRADING, "", True)
    clock.seconds += 1
    assert reader.standing() == (State.TRADING, "", False)
    run.trader = trading(clock.seconds, "Kraken is away")
    assert reader.standing() == (State.TRADING, "Kraken is away", False)


def test_refused_nonces_are_counted_by_the_day(reader: Reader, clock: SimpleNamespace) -> None:
    """Nonces that were refused today are those since midnight UTC."""

    def refused(times: int) -> int:
        for _ in range(times):
            events.tell(Event.REFUSED_NONCE, "refused")
        return int(reader.read()["nonce"]["refused_today"])

    assert refused(2) == 2
    clock.seconds += 43_199
    assert refused(1) == 3
    clock.seconds += 1
    assert refused(0) == 0
    assert refused(1) == 1

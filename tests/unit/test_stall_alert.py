"""A bot that trades and does not get through: told after a minute, once, and when it is over."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from bot.app.alerts import Watch
from bot.app.lifecycle import Runner, State
from bot.base.clock import boottime_seconds
from bot.base.events import Event, listen
from bot.config import load_settings
from bot.dashboard.snapshot import Reader


@pytest.fixture
def told() -> Iterator[list[str]]:
    """Return what is told of trouble."""
    texts: list[str] = []
    end = listen(lambda event, text: texts.append(text) if event is Event.TROUBLE else None)
    yield texts
    end()


def test_it_is_told_at_the_second_look_and_when_it_is_over(told: list[str]) -> None:
    """One look at trouble tells nothing; a second in a row tells it, once; the end of it is told, too."""
    looks = iter(["no answer", "", "no answer", "no answer", "no answer", "", ""])
    watch = Watch(lambda: next(looks))
    heard = []
    for _ in range(7):
        watch.look()
        heard.append(len(told))
    assert heard == [0, 0, 0, 1, 1, 2, 2]
    assert told == ["it has not got through for a minute: no answer", "it gets through again"]


@pytest.mark.parametrize(
    ("state", "trouble", "age_seconds", "why"),
    [
        (State.TRADING, "", 5.0, ""),
        (State.TRADING, "no answer", 5.0, "no answer"),
        (State.TRADING, "", 75.0, "its last pass ended 75 s ago"),
        (State.STANDBY, "no answer", 75.0, ""),
        (State.WAITING, "no answer", 75.0, ""),
    ],
)
def test_only_a_bot_that_trades_is_stuck(state: State, trouble: str, age_seconds: float, why: str) -> None:
    """A bot is stuck where it trades and its passes fail or do not come; one that stands by or waits is not."""
    runner = Runner(print)
    seen = SimpleNamespace(boot_seconds=boottime_seconds() - age_seconds)
    runner.trader = SimpleNamespace(trouble=trouble, observer=SimpleNamespace(latest=seen))  # type: ignore[assignment]
    runner.become(state)
    reader = Reader(load_settings({}), runner)
    assert reader.stuck() == why
    reader.close()

"""News reach every listener, and no listener harms whoever tells them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from bot.base.events import Event, listen, tell, watched

Heard = list[tuple[Event, str]]


@pytest.fixture
def heard() -> Iterator[Heard]:
    """Return what is told from here on."""
    news: Heard = []
    end = listen(lambda event, text: news.append((event, text)))
    yield news
    end()


def test_every_listener_hears_every_event(heard: Heard) -> None:
    """Two listeners both hear two events, in the order in which they were told."""
    second: Heard = []
    end = listen(lambda event, text: second.append((event, text)))
    tell(Event.BREAKER, "silent")
    tell(Event.TROUBLE, "the key is wrong")
    end()
    assert heard == second == [(Event.BREAKER, "silent"), (Event.TROUBLE, "the key is wrong")]


def test_who_has_ended_hears_nothing_more(heard: Heard) -> None:
    """What ends one listener, called twice, ends that one alone, even where another one is the same function."""
    calls: list[str] = []

    def listener(_event: Event, text: str) -> None:
        calls.append(text)

    first_end, second_end = listen(listener), listen(listener)
    tell(Event.BREAKER, "one")
    first_end()
    first_end()
    tell(Event.BREAKER, "two")
    second_end()
    tell(Event.BREAKER, "three")
    assert (calls, len(heard)) == (["one", "one", "two"], 3)


def test_a_listener_that_fails_harms_nobody(heard: Heard, caplog: pytest.LogCaptureFixture) -> None:
    """What a listener raises is logged; the caller and the next listener notice nothing."""
    end_faulty = listen(lambda _event, _text: print(1 // 0))
    end_last = listen(lambda event, text: heard.append((event, text)))
    with caplog.at_level(logging.ERROR):
        tell(Event.UNKNOWN_OUTCOME, "an order")
    end_faulty()
    end_last()
    assert heard == [(Event.UNKNOWN_OUTCOME, "an order")] * 2
    assert "ZeroDivisionError" in caplog.text


def test_a_listener_may_end_itself(heard: Heard) -> None:
    """A listener that ends itself while it is told hears one event, and those after it hear both."""
    calls: list[str] = []
    ends: list[Callable[[], None]] = []

    def once(_event: Event, text: str) -> None:
        calls.append(text)
        ends[0]()

    ends.append(listen(once))
    end_last = listen(lambda event, text: heard.append((event, text)))
    tell(Event.BREAKER, "one")
    tell(Event.BREAKER, "two")
    end_last()
    assert (calls, [text for _event, text in heard]) == (["one"], ["one", "one", "two", "two"])


def test_a_switch_that_is_watched_is_told_of_once_each_way(heard: Heard) -> None:
    """A watched switch says what the switch says, and is told of when it is found on and when it is found off again."""
    states = [False, False, True, True, False, False, True]
    remaining = iter(states)
    look = watched(lambda: next(remaining), Event.KILL_SWITCH, "on", "off")
    assert [look() for _ in states] == states
    assert heard == [(Event.KILL_SWITCH, "on"), (Event.KILL_SWITCH, "off"), (Event.KILL_SWITCH, "on")]

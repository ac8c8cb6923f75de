"""Events reach every listener, and a failing listener does not affect the caller."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import pytest

from bot.base.events import Event, edge_trigger, emit, subscribe

EmittedEvents = list[tuple[Event, str]]


@pytest.fixture
def emitted_events() -> Iterator[EmittedEvents]:
    """Return the events that are emitted from now on."""
    emitted: EmittedEvents = []
    unsubscribe = subscribe(lambda event, text: emitted.append((event, text)))
    yield emitted
    unsubscribe()


def test_every_listener_receives_every_event(emitted_events: EmittedEvents) -> None:
    """Two listeners receive two events, in the order in which they were emitted."""
    second: EmittedEvents = []
    unsubscribe = subscribe(lambda event, text: second.append((event, text)))
    emit(Event.CIRCUIT_BREAKER, "open")
    emit(Event.TRADING_INTERRUPTED, "the key is wrong")
    unsubscribe()
    assert (
        emitted_events == second == [(Event.CIRCUIT_BREAKER, "open"), (Event.TRADING_INTERRUPTED, "the key is wrong")]
    )


def test_unsubscribed_listener_receives_nothing(emitted_events: EmittedEvents) -> None:
    """Unsubscribing one listener, even twice, removes that one only, even where another is the same function."""
    calls: list[str] = []

    def listener(_event: Event, text: str) -> None:
        calls.append(text)

    unsubscribe_first, unsubscribe_second = subscribe(listener), subscribe(listener)
    emit(Event.CIRCUIT_BREAKER, "one")
    unsubscribe_first()
    unsubscribe_first()
    emit(Event.CIRCUIT_BREAKER, "two")
    unsubscribe_second()
    emit(Event.CIRCUIT_BREAKER, "three")
    assert (calls, len(emitted_events)) == (["one", "one", "two"], 3)


def test_failing_listener_does_not_affect_others(
    emitted_events: EmittedEvents, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception in a listener is logged; the caller and the next listener are not affected."""
    unsubscribe_failing = subscribe(lambda _event, _text: print(1 // 0))
    unsubscribe_last = subscribe(lambda event, text: emitted_events.append((event, text)))
    with caplog.at_level(logging.ERROR):
        emit(Event.UNKNOWN_OUTCOME, "an order")
    unsubscribe_failing()
    unsubscribe_last()
    assert emitted_events == [(Event.UNKNOWN_OUTCOME, "an order")] * 2
    assert "ZeroDivisionError" in caplog.text


def test_listener_may_unsubscribe_itself(emitted_events: EmittedEvents) -> None:
    """A listener that unsubscribes itself during an event receives that event only; later listeners receive both."""
    calls: list[str] = []
    unsubscribers: list[Callable[[], None]] = []

    def listener(_event: Event, text: str) -> None:
        calls.append(text)
        unsubscribers[0]()

    unsubscribers.append(subscribe(listener))
    unsubscribe_last = subscribe(lambda event, text: emitted_events.append((event, text)))
    emit(Event.CIRCUIT_BREAKER, "one")
    emit(Event.CIRCUIT_BREAKER, "two")
    unsubscribe_last()
    assert (calls, [text for _event, text in emitted_events]) == (["one"], ["one", "one", "two", "two"])


def test_edge_trigger_emits_once_per_transition(emitted_events: EmittedEvents) -> None:
    """An edge trigger returns the value of its condition and emits when it changes to true and back to false."""
    states = [False, False, True, True, False, False, True]
    remaining = iter(states)
    poll = edge_trigger(lambda: next(remaining), Event.KILL_SWITCH, "on", "off")
    assert [poll() for _ in states] == states
    assert emitted_events == [(Event.KILL_SWITCH, "on"), (Event.KILL_SWITCH, "off"), (Event.KILL_SWITCH, "on")]

"""Events that a person should know: passed from their source to every listener."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

log = logging.getLogger(__name__)


class Event(StrEnum):
    """The kinds of events."""

    # Kraken has refused a nonce.
    REFUSED_NONCE = "refused_nonce"
    # Another program is using the key.
    EXTERNAL_SENDER = "foreign_sender"
    # The circuit breaker of the key opens, after refusals or a lockout.
    CIRCUIT_BREAKER = "breaker"
    # It is unknown whether an order was placed.
    UNKNOWN_OUTCOME = "unknown_outcome"
    # The kill switch is on, or off again.
    KILL_SWITCH = "kill_switch"
    # This instance leads the account, or no longer leads it.
    LEADER_CHANGE = "leader_change"
    DAILY_SUMMARY = "daily_summary"
    # Entries are stopped, or allowed again.
    ENTRIES_STOPPED = "entries_stopped"
    # A service does not trade, for the reason in the text.
    TRADING_INTERRUPTED = "trouble"


Listener = Callable[[Event, str], None]

_listeners: list[Listener] = []


def emit(event: Event, text: str) -> None:
    """Call every listener in this thread. A failing listener does not affect the caller."""
    for listener in tuple(_listeners):
        try:
            listener(event, text)
        except Exception:  # the caller is between two steps of an order, or holds a request lock
            log.exception("A listener failed at the event %s.", event)


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener` for every event from now on, in the thread of the event: the listener must not block.

    Return a function that ends the subscription.
    """

    def forward(event: Event, text: str) -> None:
        listener(event, text)

    def unsubscribe() -> None:
        if forward in _listeners:
            _listeners.remove(forward)

    _listeners.append(forward)
    return unsubscribe


def edge_trigger(is_on: Callable[[], bool], event: Event, on_text: str, off_text: str) -> Callable[[], bool]:
    """Return a function that polls `is_on`, returns it, and emits the event when it changes."""
    was_on = False

    def poll() -> bool:
        nonlocal was_on
        previous, was_on = was_on, is_on()
        if was_on != previous:
            emit(event, on_text if was_on else off_text)
        return was_on

    return poll

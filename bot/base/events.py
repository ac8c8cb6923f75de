"""What a person has to be told: from where it happens to whoever listens."""

from __future__ import annotations

import logging
from collections.abc import Callable
from enum import StrEnum

log = logging.getLogger(__name__)


class Event(StrEnum):
    """The kinds of news."""

    # Kraken has refused a nonce.
    REFUSED_NONCE = "refused_nonce"
    # Another program is using the key.
    EXTERNAL_SENDER = "foreign_sender"
    # The key begins to be silent, after refusals or a lockout.
    CIRCUIT_BREAKER = "breaker"
    # Whether an order was placed is not known.
    UNKNOWN_OUTCOME = "unknown_outcome"
    # No order is sent any more, or orders are sent again.
    KILL_SWITCH = "kill_switch"
    # This instance leads the account, or no longer.
    LEADER_CHANGE = "leader_change"
    DAILY_SUMMARY = "daily_summary"
    # Nothing new is opened any more, or again.
    ENTRIES_STOPPED = "entries_stopped"
    # A service does not trade, and says why.
    TRADING_INTERRUPTED = "trouble"


Listener = Callable[[Event, str], None]

_listeners: list[Listener] = []


def emit(event: Event, text: str) -> None:
    """Tell every listener, in this thread; whatever is wrong with a listener, the caller goes on."""
    for listener in tuple(_listeners):
        try:
            listener(event, text)
        except Exception:  # callers are between two steps of an order, or hold a key's turn
            log.exception("A listener failed at the event %s.", event)


def subscribe(listener: Listener) -> Callable[[], None]:
    """Have `listener` called for every event from now on, in whatever thread it happens: it must not wait for anything.

    Return what ends it.
    """

    def forward(event: Event, text: str) -> None:
        listener(event, text)

    def unsubscribe() -> None:
        if forward in _listeners:
            _listeners.remove(forward)

    _listeners.append(forward)
    return unsubscribe


def edge_trigger(is_on: Callable[[], bool], event: Event, on_text: str, off_text: str) -> Callable[[], bool]:
    """Return a switch that says what `is_on` says, and tells when it is found on, and when it is found off again."""
    was_on = False

    def poll() -> bool:
        nonlocal was_on
        previous, was_on = was_on, is_on()
        if was_on != previous:
            emit(event, on_text if was_on else off_text)
        return was_on

    return poll

"""What the bot logs while a test runs: its events, with their fields and their texts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from bot.base.event_catalog import Event
from bot.base.events import Fields, subscribe


@dataclass(frozen=True)
class Emitted:
    """One event as a listener gets it."""

    event: Event
    fields: Fields
    text: str

    def __getitem__(self, name: str) -> Any:
        """Return a field."""
        return self.fields[name]


class EventLog(list[Emitted]):
    """The events in the order in which they were emitted."""

    def listen(self, event: Event, fields: Fields, text: str) -> None:
        """Take in one event."""
        self.append(Emitted(event, fields, text))

    @property
    def texts(self) -> list[str]:
        """The text of each."""
        return [emitted.text for emitted in self]

    @property
    def events(self) -> list[Event]:
        """The kind of each."""
        return [emitted.event for emitted in self]

    @property
    def alerts(self) -> EventLog:
        """Those that people are alerted of."""
        return EventLog(emitted for emitted in self if emitted.event.alert)

    def of(self, *events: Event) -> EventLog:
        """Return those of some kinds."""
        return EventLog(emitted for emitted in self if emitted.event in events)

    def about(self, **fields: object) -> EventLog:
        """Return those with these fields."""
        return EventLog(
            emitted for emitted in self if all(emitted.fields.get(name) == value for name, value in fields.items())
        )

    def values(self, *names: str) -> list[Any]:
        """Return of each event one field, or a tuple of several; None where it has none."""
        rows = [tuple(emitted.fields.get(name) for name in names) for emitted in self]
        return [row[0] for row in rows] if len(names) == 1 else rows


@contextmanager
def capture_events() -> Iterator[EventLog]:
    """Give a log of what is emitted from here on."""
    event_log = EventLog()
    unsubscribe = subscribe(event_log.listen)
    try:
        yield event_log
    finally:
        unsubscribe()

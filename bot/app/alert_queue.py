"""What waits to be told to a person: one message for each kind of alert. No clock and no network of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bot.base.clock import format_utc
from bot.base.event_catalog import Alert

# At most one message a minute of each kind: chats allow 20 to 30 a minute (Telegram: Bots FAQ; Discord: rate limits).
EVENT_INTERVAL_SECONDS = 60.0
# Each kind keeps this number of the newest different texts, each cut to this length.
TEXTS_MAX = 10
TEXT_LENGTH_MAX = 1700
NAME_LENGTH_MAX = 200
# Discord takes 2000 characters (Execute Webhook), Telegram 4096 (sendMessage), which is 2048 where each counts twice.
MESSAGE_LENGTH_MAX = 2000
BACK_OFF_SECONDS_MAX = 60.0
# The maximum of a server's Retry-After.
RETRY_AFTER_SECONDS_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class Message:
    """Combined events of one kind: their number, the time of the first (Unix seconds), and the newest different
    texts."""

    alert: Alert
    texts: tuple[str, ...]
    count: int
    first_seconds: float

    def merged_with(self, later: Message) -> Message:
        """Return both messages in one."""
        texts = (*self.texts, *(text for text in later.texts if text not in self.texts))[-TEXTS_MAX:]
        return Message(self.alert, texts, self.count + later.count, self.first_seconds)

    @property
    def time(self) -> str:
        """The time of the first event, in UTC."""
        return format_utc(self.first_seconds)

    def render(self, sender: str) -> str:
        """Return what a person reads: who speaks, what it is, and as many texts as a chat takes, the newest last."""
        alert_name = self.alert.replace("_", " ")
        when = f" at {self.time}" if self.count == 1 else f", {self.count} times since {self.time}"
        header = f"[{sender[:NAME_LENGTH_MAX]}] {alert_name}{when}"
        lines: list[str] = []
        remaining_characters = MESSAGE_LENGTH_MAX - len(header)
        for text in reversed(self.texts):
            remaining_characters -= len(text) + 1
            if remaining_characters < 0:
                break
            lines.insert(0, text)
        return "\n".join([header, *lines])


class AlertQueue:
    """A message for each kind of alert, so that no burst of one kind pushes another one out. Not thread-safe.

    Times are arguments, in seconds of a clock that cannot be set; those of events are Unix seconds.
    """

    def __init__(self) -> None:
        self._waiting: dict[Alert, Message] = {}
        self._in_flight: Message | None = None
        self._due_seconds: dict[Alert, float] = {}
        self._blocked_until_seconds = -math.inf
        self._failures = 0

    @property
    def count(self) -> int:
        """The number of events that are not sent yet."""
        in_flight = self._in_flight.count if self._in_flight else 0
        return in_flight + sum(message.count for message in self._waiting.values())

    def put(self, alert: Alert, text: str, event_seconds: float) -> None:
        """Add an event, which happened at this Unix time."""
        message = Message(alert, (text[:TEXT_LENGTH_MAX],), 1, event_seconds)
        waiting = self._waiting.get(alert)
        self._waiting[alert] = waiting.merged_with(message) if waiting else message

    def due_seconds(self) -> float:
        """Return the time at which a message is due: infinity where none waits."""
        return max(min(map(self._due_seconds_of, self._waiting), default=math.inf), self._blocked_until_seconds)

    def take(self) -> Message | None:
        """Take the message that has been due longest; `mark_sent` or `mark_failed` must follow. None where none
        waits."""
        if self._waiting:
            self._in_flight = self._waiting.pop(min(self._waiting, key=self._due_seconds_of))
        return self._in_flight

    def mark_sent(self, now_seconds: float) -> None:
        """Remove the taken message: it has arrived, or was finally refused."""
        if self._in_flight is not None:
            self._due_seconds[self._in_flight.alert] = now_seconds + EVENT_INTERVAL_SECONDS
        self._in_flight = None
        self._failures = 0

    def mark_failed(self, now_seconds: float, retry_after_seconds: float) -> None:
        """Put the taken message back; nothing is sent until the back-off and the server's Retry-After are over.

        The message goes behind the other kinds: one that no server accepts must not delay the others.
        """
        self._failures += 1
        backoff_seconds = min(2.0 ** min(self._failures - 1, 10), BACK_OFF_SECONDS_MAX)
        self._blocked_until_seconds = now_seconds + max(
            backoff_seconds, min(retry_after_seconds, RETRY_AFTER_SECONDS_MAX)
        )
        if self._in_flight is not None:
            alert = self._in_flight.alert
            later = self._waiting.get(alert)
            self._waiting[alert] = self._in_flight.merged_with(later) if later else self._in_flight
            self._due_seconds[alert] = self._blocked_until_seconds
        self._in_flight = None

    def _due_seconds_of(self, alert: Alert) -> float:
        return self._due_seconds.get(alert, -math.inf)

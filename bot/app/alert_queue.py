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
        lines = list(self.texts)
        while len(text := "\n".join([header, *lines])) > MESSAGE_LENGTH_MAX:
            del lines[0]
        return text


class AlertQueue:
    """A message for each kind of alert, so that no burst of one kind pushes another one out. Not thread-safe.

    Times are arguments, in seconds of a clock that cannot be set; those of events are Unix seconds.
    """

    def __init__(self) -> None:
        # The number of events that are not sent yet, with those of a taken message.
        self.count = 0
        self._pending: dict[Alert, Message] = {}
        self._due_seconds = dict.fromkeys(Alert, -math.inf)
        self._blocked_until_seconds = -math.inf
        self._failures = 0

    def put(self, alert: Alert, text: str, event_seconds: float) -> None:
        """Add an event, which happened at this Unix time."""
        message = Message(alert, (text[:TEXT_LENGTH_MAX],), 1, event_seconds)
        earlier = self._pending.get(alert)
        self._pending[alert] = earlier.merged_with(message) if earlier else message
        self.count += 1

    def due_seconds(self) -> float:
        """Return the time at which a message is due: infinity where none is pending."""
        first_due_seconds = min((self._due_seconds[alert] for alert in self._pending), default=math.inf)
        return max(first_due_seconds, self._blocked_until_seconds)

    def take(self) -> Message | None:
        """Take the message that has been due longest; `mark_sent` or `mark_failed` must follow. None where none is
        pending."""
        if not self._pending:
            return None
        return self._pending.pop(min(self._pending, key=self._due_seconds.__getitem__))

    def mark_sent(self, message: Message, now_seconds: float) -> None:
        """Forget a taken message: it has arrived, or was finally refused."""
        self._due_seconds[message.alert] = now_seconds + EVENT_INTERVAL_SECONDS
        self._failures = 0
        self.count -= message.count

    def mark_failed(self, message: Message, now_seconds: float, retry_after_seconds: float) -> None:
        """Put a taken message back; nothing is sent until the back-off and the server's Retry-After are over.

        The message goes behind the other kinds: one that no server accepts must not delay the others.
        """
        self._failures += 1
        backoff_seconds = min(2.0 ** min(self._failures - 1, 10), BACK_OFF_SECONDS_MAX)
        self._blocked_until_seconds = now_seconds + max(
            backoff_seconds, min(retry_after_seconds, RETRY_AFTER_SECONDS_MAX)
        )
        later = self._pending.get(message.alert)
        self._pending[message.alert] = message.merged_with(later) if later else message
        self._due_seconds[message.alert] = self._blocked_until_seconds

"""What waits to be told to a person: one message for each kind of event. No clock and no network of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bot.base.clock import utc
from bot.base.events import Event

# One message a minute of each kind at most: chats allow 20 to 30 a minute (Telegram: Bots FAQ; Discord: rate limits).
KIND_SECONDS = 60.0
# Of each kind the newest so many different texts wait, each cut to so many characters.
TEXTS_MAX = 10
TEXT_LENGTH_MAX = 1700
NAME_LENGTH_MAX = 200
# Discord takes 2000 characters (Execute Webhook), Telegram 4096 (sendMessage), which is 2048 where each counts twice.
MESSAGE_LENGTH_MAX = 2000
BACK_OFF_SECONDS_MAX = 60.0
# The most that a server is believed that wants to be left alone.
LEFT_ALONE_SECONDS_MAX = 3600.0


@dataclass(frozen=True, slots=True)
class Message:
    """Events of one kind that go out together: how many, since when (Unix seconds), and the newest different texts."""

    event: Event
    texts: tuple[str, ...]
    count: int
    since_seconds: float

    def followed_by(self, newer: Message) -> Message:
        """Return both in one."""
        texts = (*self.texts, *(text for text in newer.texts if text not in self.texts))[-TEXTS_MAX:]
        return Message(self.event, texts, self.count + newer.count, self.since_seconds)

    @property
    def time(self) -> str:
        """When the first of them happened, in UTC."""
        return utc(self.since_seconds)

    def text(self, name: str) -> str:
        """Return what a person reads: who speaks, what it is, and as many texts as a chat takes, the newest last."""
        kind = self.event.replace("_", " ")
        when = f" at {self.time}" if self.count == 1 else f", {self.count} times since {self.time}"
        head = f"[{name[:NAME_LENGTH_MAX]}] {kind}{when}"
        lines: list[str] = []
        room = MESSAGE_LENGTH_MAX - len(head)
        for text in reversed(self.texts):
            room -= len(text) + 1
            if room < 0:
                break
            lines.insert(0, text)
        return "\n".join([head, *lines])


class Outbox:
    """A message for each kind of event, so that no burst of one kind pushes another one out. Not thread-safe.

    Times are passed in, in seconds of a clock that nobody sets, but for those of events.
    """

    def __init__(self) -> None:
        self._waiting: dict[Event, Message] = {}
        self._under_way: Message | None = None
        self._due_seconds: dict[Event, float] = {}
        self._free_seconds = -math.inf
        self._failures = 0

    @property
    def count(self) -> int:
        """How many events are not sent."""
        under_way = self._under_way.count if self._under_way else 0
        return under_way + sum(message.count for message in self._waiting.values())

    def put(self, event: Event, text: str, happened_seconds: float) -> None:
        """Add an event, which happened at this Unix time."""
        newer = Message(event, (text[:TEXT_LENGTH_MAX],), 1, happened_seconds)
        waiting = self._waiting.get(event)
        self._waiting[event] = waiting.followed_by(newer) if waiting else newer

    def due_seconds(self) -> float:
        """Return when there is something to send: infinity where nothing waits."""
        return max(min(map(self._due, self._waiting), default=math.inf), self._free_seconds)

    def take(self) -> Message | None:
        """Take what has been due for the longest, to be followed by `sent` or `not_sent`; None where nothing waits."""
        if self._waiting:
            self._under_way = self._waiting.pop(min(self._waiting, key=self._due))
        return self._under_way

    def sent(self, now_seconds: float) -> None:
        """What was taken has arrived, or is refused for good."""
        if self._under_way is not None:
            self._due_seconds[self._under_way.event] = now_seconds + KIND_SECONDS
        self._under_way = None
        self._failures = 0

    def not_sent(self, now_seconds: float, left_alone_seconds: float) -> None:
        """What was taken has to go again, and nothing goes while the server wants to be left alone.

        It goes behind the other kinds: a message that no server takes holds up none of them.
        """
        self._failures += 1
        back_off_seconds = min(2.0 ** min(self._failures - 1, 10), BACK_OFF_SECONDS_MAX)
        self._free_seconds = now_seconds + max(back_off_seconds, min(left_alone_seconds, LEFT_ALONE_SECONDS_MAX))
        if self._under_way is not None:
            event = self._under_way.event
            newer = self._waiting.get(event)
            self._waiting[event] = self._under_way.followed_by(newer) if newer else self._under_way
            self._due_seconds[event] = self._free_seconds
        self._under_way = None

    def _due(self, event: Event) -> float:
        return self._due_seconds.get(event, -math.inf)

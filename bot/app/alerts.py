"""Alerts to one webhook, a daily summary, and a heartbeat that ends with the bot. Nobody in the bot waits for them."""

from __future__ import annotations

import http.client
import logging
import re
import threading
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import requests

from bot.app.alert_queue import Message, Outbox
from bot.base import clock, events
from bot.base.errors import BotError
from bot.base.events import Event
from bot.base.redaction import hide, redact
from bot.kraken import transport

log = logging.getLogger(__name__)

MINUTE_SECONDS = 60.0
DAY_SECONDS = 86_400
# Before midnight UTC, while what is summed up for "today" still is that day's.
EARLY_SECONDS = 90
ANSWER_LENGTH_MAX = 10_000


class Alerts:
    """Posts every event to one webhook. `name` says who speaks, such as the bot's id, its host and its mode.

    The address of Telegram's sendMessage gets Telegram's shape; any other one JSON with `event`, `text`, `bot`, `time`
    and `count`, of which Slack shows `text`.
    """

    def __init__(self, url: str, *, name: str) -> None:
        address, self._chat = _telegram_chat(url)
        self._line = _Line(address, "ALERT_WEBHOOK_URL")
        self._name = name
        self._outbox = Outbox()
        # For the outbox; held for moments only.
        self._news = threading.Condition()
        self._closing = False
        self._end_listening: Callable[[], None] | None = None
        self._worker = threading.Thread(target=self._work, name="alerts", daemon=True)

    def start(self) -> None:
        """Listen from now on."""
        self._worker.start()
        self._end_listening = events.listen(self._hear)

    def close(self, timeout_seconds: float) -> None:
        """Listen no more; give what waits so long to leave."""
        if self._end_listening is None:
            return
        self._end_listening()
        with self._news:
            self._closing = True
            self._news.notify()
        self._worker.join(timeout_seconds)
        with self._news:
            left = self._outbox.count
        if left:
            log.warning("Not sent to the address in ALERT_WEBHOOK_URL: %s alerts.", left)

    def _hear(self, event: Event, text: str) -> None:
        text = redact(text)
        with self._news:
            self._outbox.put(event, text, clock.wall_seconds())
            self._news.notify()

    def _work(self) -> None:
        while (message := self._next()) is not None:
            left_alone_seconds = self._line.send("POST", self._body(message))
            now = clock.boottime_seconds()
            with self._news:
                if left_alone_seconds is None:
                    self._outbox.sent(now)
                    continue
                self._outbox.not_sent(now, left_alone_seconds)
                if self._closing:
                    return

    def _next(self) -> Message | None:
        """Wait for the next message that is due; at the end all are, and None comes after the last."""
        with self._news:
            while not self._closing:
                wait_seconds = self._outbox.due_seconds() - clock.boottime_seconds()
                if wait_seconds <= 0:
                    break
                self._news.wait(min(wait_seconds, threading.TIMEOUT_MAX))
            return self._outbox.take()

    def _body(self, message: Message) -> dict[str, Any]:
        text = message.text(self._name)
        if self._chat is not None:
            return {**self._chat, "text": text}
        return {
            "event": message.event.value,
            "text": text,
            "bot": self._name,
            "time": message.time,
            "count": message.count,
        }


def _telegram_chat(url: str) -> tuple[str, dict[str, str] | None]:
    """Return Telegram's address without the chat that it names, and the chat; for any other address itself and None.

    Whatever else of sendMessage's fields stands in the address belongs to the chat, such as a thread in it.
    """
    parts = urlsplit(url)
    if parts.hostname != "api.telegram.org" and not re.search(r"/bot[^/]+/sendMessage$", parts.path):
        return url, None
    return parts._replace(query="").geturl(), dict(parse_qsl(parts.query))


class _EveryMinute:
    """Looks at something once a minute, in a thread of its own. Where a look raises, the looks end."""

    def __init__(self, name: str, look: Callable[[], None]) -> None:
        self._name = name
        self._look = look
        self._closed = threading.Event()

    def start(self) -> None:
        """Look from now on."""
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Look no more."""
        self._closed.set()

    def _work(self) -> None:
        while not self._closed.is_set():
            self._look()
            self._closed.wait(MINUTE_SECONDS)


class Heartbeat(_EveryMinute):
    """Asks for an address once a minute as long as `is_alive` says so: whoever misses that knows that the bot is dead.

    Where `is_alive` raises, the heartbeat ends.
    """

    def __init__(self, url: str, is_alive: Callable[[], bool]) -> None:
        super().__init__("heartbeat", self.beat)
        self._line = _Line(url, "HEARTBEAT_URL")
        self._is_alive = is_alive

    def beat(self) -> None:
        """Ask for the address, if the bot is alive."""
        if self._is_alive():
            self._line.send("GET")
        else:
            self._line.say("it is not asked for, because the bot makes no progress")


class DailySummary(_EveryMinute):
    """Tells how a day went, a minute before midnight UTC; `summary` says it, and is asked in a thread of its own."""

    def __init__(self, summary: Callable[[], str]) -> None:
        super().__init__("midnight", lambda: self.look(clock.wall_seconds()))
        self._summary = summary
        self._day: int | None = None

    def look(self, now_seconds: float) -> None:
        """Tell the summary if a day has come to its end since the last look; `now_seconds` is Unix time."""
        today = int((now_seconds + EARLY_SECONDS) // DAY_SECONDS)
        before, self._day = self._day, today
        if before is not None and today > before:
            # In a thread of its own, so that a summary that fails or hangs takes no other one with it.
            threading.Thread(target=self._tell, name="summary", daemon=True).start()

    def _tell(self) -> None:
        try:
            text = self._summary()
        except BotError as error:
            text = f"The day could not be summed up: {error}"
        events.tell(Event.DAILY_SUMMARY, text)


class Watch(_EveryMinute):
    """Tells when a bot that trades does not get through at two looks in a row, a minute apart, and when it does again.

    `stuck` says why it does not, or "".
    """

    def __init__(self, stuck: Callable[[], str]) -> None:
        super().__init__("watch", self.look)
        self._stuck = stuck
        self._before = ""
        self._told = False

    def look(self) -> None:
        """Look once."""
        before, self._before = self._before, self._stuck()
        if self._before and before and not self._told:
            self._told = True
            events.tell(Event.TROUBLE, f"it has not got through for a minute: {self._before}")
        elif self._told and not self._before:
            self._told = False
            events.tell(Event.TROUBLE, "it gets through again")


class _Line:
    """A line to one address: every wait has an end, trouble is said once until it is over, and the address never."""

    def __init__(self, url: str, setting: str) -> None:
        hide(url)
        # A Secret hides itself from requests too; put together anew, it is a plain text.
        self._url = urlsplit(url).geturl()
        self._setting = setting
        self._said = ""

    def send(self, method: str, body: dict[str, Any] | None = None) -> float | None:
        """Send, once. Return None where that is done with, taken or refused for good; or for how many seconds at least
        the server wants to be left alone before it is sent again.
        """
        timeouts = (transport.CONNECT_SECONDS_MAX, transport.READ_SECONDS_MAX)
        try:
            with requests.Session() as session:
                transport.restrain(session)
                with session.request(method, self._url, json=body, timeout=timeouts, stream=True) as answer:
                    return self._read(answer)
        except requests.TooManyRedirects:
            self.say("it sends us elsewhere, where nothing is sent")
            return None
        except (requests.RequestException, OSError, http.client.HTTPException, ValueError) as error:
            # Without its text, in which the address stands.
            self.say(f"no answer ({type(error).__name__})")
            return 0.0

    def say(self, trouble: str) -> None:
        """Write trouble into the log, unless it is known."""
        if trouble != self._said:
            log.warning("The address in %s: %s.", self._setting, trouble)
        self._said = trouble

    def _read(self, answer: requests.Response) -> float | None:
        status = answer.status_code
        if 200 <= status < 300:
            if self._said:
                log.warning("The address in %s answers again.", self._setting)
            self._said = ""
            return None
        self.say(f"HTTP {status}")
        if status == http.HTTPStatus.TOO_MANY_REQUESTS:
            return _left_alone_seconds(answer)
        return 0.0 if status >= 500 else None


def _left_alone_seconds(answer: requests.Response) -> float:
    """Return what a 429 asks for, in its header or where Telegram has it (Bot API: ResponseParameters)."""
    asked = answer.headers.get("Retry-After", "").encode("ascii", "replace")
    found = re.fullmatch(rb"(\d{1,9})", asked) or re.search(
        rb'"retry_after"\s*:\s*(\d{1,9})', next(answer.iter_content(ANSWER_LENGTH_MAX), b"")
    )
    return int(found[1]) if found else 0.0

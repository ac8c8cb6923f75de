"""Alerts to one webhook, a daily summary, and a heartbeat that ends with the bot. No other thread of the bot waits
for them."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from contextlib import closing
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, urlsplit

from bot.app.alert_queue import AlertQueue, Message
from bot.base import clock, fork_safety
from bot.base.errors import BotError, NoAnswerError, NotSentError
from bot.base.event_catalog import Event
from bot.base.events import Fields, emit, subscribe
from bot.base.redaction import hide, redact
from bot.kraken.http_connection import HttpConnection, HttpResponse

CHECK_INTERVAL_SECONDS = 60.0
DAY_SECONDS = 86_400
# Before midnight UTC, while the summary of "today" still is that day's.
BEFORE_MIDNIGHT_SECONDS = 90
ANSWER_BYTES_MAX = 1024 * 1024
# What may stand in a path and a query as it is (RFC 3986), and the percent sign of what is encoded already.
_TARGET_CHARACTERS = "/?:@!$&'()*+,;=-._~%"


class Alerts:
    """Posts the events that people are alerted of to one webhook.

    `name` identifies the sender, such as the bot's id, its host and its mode.

    The address of Telegram's sendMessage gets Telegram's format; any other one gets JSON with `event`, `text`, `bot`,
    `time` and `count`, of which Slack shows `text`.
    """

    def __init__(self, url: str, *, name: str) -> None:
        address, self._telegram_fields = _split_telegram_url(url)
        self._channel = _HttpChannel(address, "ALERT_WEBHOOK_URL")
        self._name = name
        self._queue = AlertQueue()
        # For the alert queue; held for moments only.
        self._queue_changed = threading.Condition()
        self._closing = False
        self._unsubscribe: Callable[[], None] | None = None
        self._worker = threading.Thread(target=self._run, name="alerts", daemon=True)
        fork_safety.register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Unsubscribe: neither the thread that sends alerts nor one that holds the condition exists in a child."""
        if self._unsubscribe is not None:
            self._unsubscribe()
            self._unsubscribe = None

    def start(self) -> None:
        """Subscribe to events."""
        self._worker.start()
        self._unsubscribe = subscribe(self._enqueue)

    def close(self, timeout_seconds: float) -> None:
        """Unsubscribe; wait up to `timeout_seconds` for pending alerts to leave."""
        if self._unsubscribe is None:
            return
        self._unsubscribe()
        with self._queue_changed:
            self._closing = True
            self._queue_changed.notify()
        self._worker.join(timeout_seconds)
        with self._queue_changed:
            unsent_count = self._queue.count
        if unsent_count:
            emit(Event.ALERTS_DROPPED, setting="ALERT_WEBHOOK_URL", count=unsent_count)

    def _enqueue(self, event: Event, _fields: Fields, text: str) -> None:
        if event.alert is None:
            return
        text = redact(text)
        with self._queue_changed:
            self._queue.put(event.alert, text, clock.wall_seconds())
            self._queue_changed.notify()

    def _run(self) -> None:
        while (message := self._next_message()) is not None:
            retry_after_seconds = self._channel.send("POST", self._payload(message))
            now = clock.boottime_seconds()
            with self._queue_changed:
                if retry_after_seconds is None:
                    self._queue.mark_sent(message, now)
                else:
                    self._queue.mark_failed(message, now, retry_after_seconds)
                    if self._closing:
                        return

    def _next_message(self) -> Message | None:
        """Wait for the next message that is due; at the end all messages are due, and None comes after the last."""
        with self._queue_changed:
            while not self._closing and (wait_seconds := self._queue.due_seconds() - clock.boottime_seconds()) > 0:
                self._queue_changed.wait(min(wait_seconds, threading.TIMEOUT_MAX))
            return self._queue.take()

    def _payload(self, message: Message) -> dict[str, Any]:
        text = message.render(self._name)
        if self._telegram_fields is not None:
            return {**self._telegram_fields, "text": text}
        return {
            "event": message.alert.value,
            "text": text,
            "bot": self._name,
            "time": message.time,
            "count": message.count,
        }


def _split_telegram_url(url: str) -> tuple[str, dict[str, str] | None]:
    """Return Telegram's address without the chat in it, and the chat; for any other address the address itself and
    None.

    All other fields of sendMessage in the address belong to the chat, such as a thread in it.
    """
    parts = urlsplit(url)
    if parts.hostname != "api.telegram.org" and not re.search(r"/bot[^/]+/sendMessage$", parts.path):
        return url, None
    return parts._replace(query="").geturl(), dict(parse_qsl(parts.query))


class _PeriodicTask:
    """Runs a check once a minute, in a thread of its own. An exception in the check ends the task."""

    def __init__(self, name: str, task: Callable[[], None]) -> None:
        self._name = name
        self._task = task
        self._closed = threading.Event()

    def start(self) -> None:
        """Start the task."""
        threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def close(self) -> None:
        """Stop the task."""
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.is_set():
            self._task()
            self._closed.wait(CHECK_INTERVAL_SECONDS)


class Heartbeat(_PeriodicTask):
    """Requests an address once a minute while `is_alive` returns True, so a monitoring service can detect a dead bot.

    An exception in `is_alive` ends the heartbeat.
    """

    def __init__(self, url: str, is_alive: Callable[[], bool]) -> None:
        super().__init__("heartbeat", self.ping)
        self._channel = _HttpChannel(url, "HEARTBEAT_URL")
        self._is_alive = is_alive

    def ping(self) -> None:
        """Request the address, if the bot is alive."""
        if self._is_alive():
            self._channel.send("GET")
        else:
            self._channel.log_problem("no heartbeat is sent, because the bot makes no progress")


class DailySummary(_PeriodicTask):
    """Emits a summary of the day, a minute before midnight UTC; `summary` returns it, and is called in a thread of
    its own."""

    def __init__(self, make_summary: Callable[[], str]) -> None:
        super().__init__("midnight", lambda: self.check(clock.wall_seconds()))
        self._make_summary = make_summary
        self._day: int | None = None

    def check(self, now_seconds: float) -> None:
        """Emit the summary if a day has ended since the last check; `now_seconds` is Unix time."""
        today = int((now_seconds + BEFORE_MIDNIGHT_SECONDS) // DAY_SECONDS)
        previous_day, self._day = self._day, today
        if previous_day is not None and today > previous_day:
            # In a thread of its own, so that a summary that fails or hangs does not stop the next one.
            threading.Thread(target=self._emit_summary, name="summary", daemon=True).start()

    def _emit_summary(self) -> None:
        try:
            summary = self._make_summary()
        except BotError as error:
            emit(Event.DAY_SUMMARY_FAILED, error=error)
        else:
            emit(Event.DAY_SUMMARIZED, summary=summary)


class StallAlert(_PeriodicTask):
    """Emits an event when a trading bot is stalled in two consecutive checks, a minute apart, and when it recovers.

    `find_stall` returns the reason of the stall, or "".
    """

    def __init__(self, find_stall: Callable[[], str]) -> None:
        super().__init__("watch", self.check)
        self._find_stall = find_stall
        self._last_stall = ""
        self._is_alerted = False

    def check(self) -> None:
        """Check once."""
        previous_stall, self._last_stall = self._last_stall, self._find_stall()
        if self._last_stall and previous_stall and not self._is_alerted:
            self._is_alerted = True
            emit(Event.TRADING_STALLED, reason=self._last_stall)
        elif self._is_alerted and not self._last_stall:
            self._is_alerted = False
            emit(Event.TRADING_RESUMED)


class _HttpChannel:
    """A connection to one address: every wait has a time limit, each problem is logged once until it ends, and the
    address is never logged."""

    def __init__(self, url: str, setting: str) -> None:
        hide(url)
        parts = urlsplit(str.__str__(url))
        self._url = parts.geturl()
        # An address that a person has typed may have characters that HTTP does not allow.
        self._target = quote(parts._replace(scheme="", netloc="", fragment="").geturl() or "/", safe=_TARGET_CHARACTERS)
        self._setting = setting
        self._logged_problem = ""

    def send(self, method: str, body: dict[str, Any] | None = None) -> float | None:
        """Send once. Return None when the message is done, accepted or finally refused; otherwise the minimum number
        of seconds before it may be sent again."""
        headers, data = {}, b""
        if body is not None:
            headers, data = {"Content-Type": "application/json"}, json.dumps(body).encode("ascii")
        try:
            with closing(HttpConnection(self._url, body_bytes_max=ANSWER_BYTES_MAX)) as connection:
                return self._handle_response(connection.request(method, self._target, headers, data))
        except (NotSentError, NoAnswerError) as error:
            # Without the error's text, which contains the host.
            self.log_problem(f"no answer ({type(error.__cause__ or error).__name__})")
            return 0.0

    def log_problem(self, problem: str) -> None:
        """Log a problem, unless it is known already."""
        if problem != self._logged_problem:
            emit(Event.NOTIFICATION_FAILED, setting=self._setting, reason=problem)
        self._logged_problem = problem

    def _handle_response(self, response: HttpResponse) -> float | None:
        status = response.status
        if 200 <= status < 300:
            if self._logged_problem:
                emit(Event.NOTIFICATION_RECOVERED, setting=self._setting)
            self._logged_problem = ""
            return None
        if 300 <= status < 400:
            self.log_problem("it redirects to another address, and redirects are not followed")
            return None
        self.log_problem(f"HTTP {status}")
        if status == HTTPStatus.TOO_MANY_REQUESTS:
            return _retry_after_seconds(response)
        return 0.0 if status >= 500 else None


def _retry_after_seconds(response: HttpResponse) -> float:
    """Return the wait that a 429 asks for, in its header or in Telegram's body (Bot API: ResponseParameters)."""
    header = response.headers.get("Retry-After", "").encode("ascii", "replace")
    match = re.fullmatch(rb"(\d{1,9})", header) or re.search(rb'"retry_after"\s*:\s*(\d{1,9})', response.body)
    return int(match[1]) if match else 0.0

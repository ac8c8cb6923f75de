"""Alerts, daily summary and heartbeat against a real loopback server that also fails, hangs or answers nonsense."""

from __future__ import annotations

import logging
import multiprocessing
import queue
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from bot.app import alert_queue, alerts
from bot.app.alerts import Alerts, DailySummary, Heartbeat
from bot.base import clock
from bot.base.errors import JournalError
from bot.base.event_catalog import Alert, Event
from bot.base.events import emit, subscribe
from bot.base.redaction import redact
from bot.config import Secret
from bot.kraken import http_connection
from tests.server_processes import free_port
from tests.webhook import LIMIT_SECONDS, TOKEN, ScriptedResponse, Webhook

DAY_SECONDS = 86_400


@pytest.fixture(autouse=True)
def info_level(caplog: pytest.LogCaptureFixture) -> None:
    """Capture all that a run logs."""
    caplog.set_level(logging.INFO)


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the waits between alerts and shorten every time-out."""
    monkeypatch.setattr(alert_queue, "BACK_OFF_SECONDS_MAX", 0.01)
    monkeypatch.setattr(alert_queue, "EVENT_INTERVAL_SECONDS", 0.0)
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(http_connection, "RESPONSE_TIMEOUT_SECONDS", 0.2)


@pytest.fixture
def long_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request last as long as its test."""
    monkeypatch.setattr(http_connection, "READ_TIMEOUT_SECONDS", LIMIT_SECONDS)
    monkeypatch.setattr(http_connection, "RESPONSE_TIMEOUT_SECONDS", LIMIT_SECONDS)


@contextmanager
def open_alerts(url: str) -> Iterator[Alerts]:
    """Send alerts to a URL."""
    opened = Alerts(url, name="bot 3muyt on host, paper")
    opened.start()
    try:
        yield opened
    finally:
        opened.close(LIMIT_SECONDS)


def refuse_nonce(nonce: int = 1) -> None:
    """Emit that Kraken has refused a nonce."""
    emit(Event.NONCE_REFUSED, nonce=str(nonce), unit="us", method="Balance", refused_nonces=1)


def open_breaker(reason: str = "test") -> None:
    """Emit that the circuit breaker is open."""
    emit(Event.CIRCUIT_BREAKER_OPENED, wait_seconds=100.0, reason=reason)


def interrupt_trading(error: str = "trouble") -> None:
    """Emit that the bot does not trade."""
    emit(Event.TRADING_INTERRUPTED, error=error)


def lose_order() -> None:
    """Emit that the outcome of an order is not known."""
    emit(Event.UNKNOWN_ORDER_FOUND, cl_ord_id="id", symbol="BTC/USD", side="buy", volume=1)


# What is sent


def test_webhook_receives_json_payload() -> None:
    """A webhook gets the kind of the alert, a text that says all, who speaks, when, and how many events it was."""
    with Webhook() as hook, open_alerts(hook.url):
        refuse_nonce()
        request = hook.next_request()
    assert (request.method, request.path) == ("POST", f"/hook/{TOKEN}")
    assert request.headers["Content-Type"] == "application/json"
    time = request.body["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time)
    assert request.body == {
        "event": "refused_nonce",
        "text": f"[bot 3muyt on host, paper] refused nonce at {time}\n"
        "Kraken refused nonce 1 (us) of Balance (refusal 1).",
        "bot": "bot 3muyt on host, paper",
        "time": time,
        "count": 1,
    }


def test_telegram_receives_its_own_payload() -> None:
    """Telegram's sendMessage receives the chat id of the URL, despite other query parameters, and the text."""
    with Webhook() as hook, open_alerts(f"{hook.telegram_url}&message_thread_id=5"):
        open_breaker()
        request = hook.next_request()
    assert request.path == f"/bot123456:{TOKEN}/sendMessage"
    text = request.body.pop("text")
    assert text.startswith("[bot 3muyt on host, paper] circuit breaker at ")
    assert text.endswith("\nNothing is sent on this key for 100 s: test.")
    assert request.body == {"chat_id": "-1001", "message_thread_id": "5"}


@pytest.mark.parametrize(
    ("url", "is_telegram"),
    [
        ("https://api.telegram.org/bot1:A/sendmessage?chat_id=1", True),
        ("https://telegram.example/gate/bot1:A/sendMessage?chat_id=1", True),
        ("https://hooks.example/bot1:A/other?chat_id=1", False),
        ("https://hooks.example/?to=/bot1:A/sendMessage", False),
    ],
)
def test_telegram_is_detected_by_host_or_path(url: str, is_telegram: bool) -> None:
    """A URL is Telegram's by its host, or by the path that a self-hosted Bot API server uses."""
    address, chat = alerts._split_telegram_url(url)
    assert (address, chat) == ((url.partition("?")[0], {"chat_id": "1"}) if is_telegram else (url, None))


def test_alert_text_is_redacted() -> None:
    """Text that looks like a secret is redacted before it is sent."""
    with Webhook() as hook, open_alerts(hook.url):
        interrupt_trading("no connection to redis://bot:hunter2hunter2@store.example:6379/0")
        text = hook.next_request().body["text"]
    assert "hunter2" not in text
    assert "store.example" in text


def test_url_given_as_secret_is_used() -> None:
    """A URL given as a secret, as the settings do, receives alerts."""
    with Webhook() as hook, open_alerts(Secret(hook.url)):
        interrupt_trading()
        assert hook.next_request().path == f"/hook/{TOKEN}"


def test_environment_proxy_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts are sent directly, whatever proxy the environment names."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with Webhook() as hook, open_alerts(hook.url):
        interrupt_trading()
        hook.next_request()


# A failing server

TELEGRAM_429_RESPONSE = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\r\n"
    b'{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 7","parameters":{"retry_after":7}}'
)
FAILURES: dict[str, Callable[[Webhook], ScriptedResponse]] = {
    "500": lambda _hook: 500,
    "429": lambda _hook: 429,
    "closed": lambda _hook: b"",
    "no HTTP": lambda _hook: b"SSH-2.0-OpenSSH_9.2\r\n",
    "hangs": lambda hook: hook.hang,
    "drips": lambda hook: hook.drip,
}


@pytest.mark.parametrize("failure", FAILURES)
def test_alert_is_retried_until_delivered(failure: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that fails, hangs or sends an invalid answer gets the alert again until it accepts it. The failure and
    the recovery are each logged once, without the URL."""
    caplog.set_level(logging.DEBUG)
    with Webhook() as hook:
        hook.responses = [FAILURES[failure](hook) for _ in range(2)]
        with open_alerts(hook.url):
            lose_order()
            assert len({hook.next_request().body["text"] for _ in range(3)}) == 1
        assert hook.requests.empty()
    messages = [record.getMessage() for record in caplog.records if record.name == "bot.app.alerts"]
    assert [re.sub(r"(HTTP \d+|no answer \(\w+\))\.", "trouble", text) for text in messages] == [
        "The address in ALERT_WEBHOOK_URL: trouble",
        "The address in ALERT_WEBHOOK_URL answers again.",
    ]
    assert TOKEN not in redact(caplog.text)
    assert TOKEN not in "".join(messages)


def test_alert_waits_for_unreachable_server() -> None:
    """While nothing listens at the URL the alert stays queued; it is sent once a server listens."""
    port = free_port()
    was_logged = threading.Event()

    def on_record(_record: logging.LogRecord) -> bool:
        was_logged.set()
        return True

    logging.getLogger("bot.app.alerts").addFilter(on_record)
    with open_alerts(f"http://127.0.0.1:{port}/hook/{TOKEN}"):
        lose_order()
        assert was_logged.wait(LIMIT_SECONDS)
        logging.getLogger("bot.app.alerts").removeFilter(on_record)
        with Webhook(port) as hook:
            assert hook.next_request().body["event"] == "unknown_outcome"


REDIRECT_RESPONSE = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (400, "HTTP 400"),
        (404, "HTTP 404"),
        (REDIRECT_RESPONSE, "it redirects to another address, and redirects are not followed"),
    ],
    ids=["400", "404", "moved"],
)
def test_rejected_alert_is_not_retried(
    response: ScriptedResponse, problem: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An alert that the server refuses or redirects is neither sent again nor redirected; this is logged once, and the
    next alert is sent."""
    with Webhook(responses=[response, response]) as hook:
        with open_alerts(hook.url):
            for alert, send in (
                ("circuit_breaker", open_breaker),
                ("trading_interrupted", interrupt_trading),
                ("refused_nonce", refuse_nonce),
            ):
                send()
                assert (request := hook.next_request()).body["event"] == alert
                assert request.path == f"/hook/{TOKEN}"
        assert hook.requests.empty()
    messages = [record.getMessage() for record in caplog.records if record.name == "bot.app.alerts"]
    assert messages == [
        f"The address in ALERT_WEBHOOK_URL: {problem}.",
        "The address in ALERT_WEBHOOK_URL answers again.",
    ]


@pytest.mark.parametrize(
    "response",
    [b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", TELEGRAM_429_RESPONSE],
    ids=["header", "telegram"],
)
def test_retry_after_is_read_from_header_or_telegram_body(response: bytes) -> None:
    """The delay of a 429 response is read from its header or from Telegram's body."""
    with Webhook(responses=[response]) as hook:
        assert alerts._HttpChannel(hook.url, "ALERT_WEBHOOK_URL").send("POST", {}) == 7


# Callers do not block


@pytest.mark.usefixtures("long_timeouts")
def test_burst_of_events_does_not_block_callers() -> None:
    """10,000 alerts are queued without blocking while the server hangs; one message then reports their number."""
    with Webhook() as hook:
        hook.responses = [hook.hang]
        with open_alerts(hook.url):
            emit(Event.BOT_HALTED)
            hook.next_request()
            for number in range(10_000):
                refuse_nonce(number)
            assert hook.requests.empty()
            hook.released.set()
            body = hook.next_request().body
    assert (body["event"], body["count"]) == ("refused_nonce", 10_000)


@pytest.mark.usefixtures("long_timeouts")
def test_burst_does_not_displace_other_events() -> None:
    """A queued alert is delivered although 1,000 events of another type follow it."""
    with Webhook() as hook:
        hook.responses = [hook.hang]
        with open_alerts(hook.url):
            interrupt_trading("store away")
            hook.next_request()
            lose_order()
            for number in range(1000):
                refuse_nonce(number)
            hook.released.set()
            received = {(body["event"], body["count"]) for body in (hook.next_request().body for _ in range(3))}
    assert received >= {("unknown_outcome", 1), ("refused_nonce", 1000)}


@pytest.mark.usefixtures("long_timeouts")
def test_hanging_webhook_does_not_delay_the_heartbeat(monkeypatch: pytest.MonkeyPatch) -> None:
    """Heartbeats are sent while the webhook does not answer an alert."""
    monkeypatch.setattr(alerts, "CHECK_INTERVAL_SECONDS", 0.001)
    with Webhook() as hook, Webhook() as heartbeat_hook:
        hook.responses = [hook.hang]
        with open_alerts(hook.url):
            lose_order()
            hook.next_request()
            heartbeat = Heartbeat(heartbeat_hook.url, lambda: True)
            heartbeat.start()
            assert {heartbeat_hook.next_request().method for _ in range(3)} == {"GET"}
            heartbeat.close()
            assert not hook.released.is_set()
            hook.released.set()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_forked_child_sends_no_alerts() -> None:
    """A child that is forked while another thread holds the alerts' lock neither waits for it nor sends alerts; its
    parent still sends them."""
    is_held, may_release = threading.Event(), threading.Event()

    def hold_lock() -> None:
        with opened._queue_changed:
            is_held.set()
            may_release.wait(LIMIT_SECONDS)

    def emit_and_close() -> None:
        open_breaker()
        opened.close(LIMIT_SECONDS)

    with Webhook() as hook, open_alerts(hook.url) as opened:
        holder = threading.Thread(target=hold_lock)
        holder.start()
        assert is_held.wait(LIMIT_SECONDS)
        child = multiprocessing.get_context("fork").Process(target=emit_and_close)
        child.start()
        may_release.set()
        child.join(LIMIT_SECONDS)
        child.kill()
        assert child.exitcode == 0
        holder.join()
        lose_order()
        assert hook.next_request().body["event"] == "unknown_outcome"
    assert hook.requests.empty()


# Shutdown


def test_queued_alert_is_sent_at_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert that waits for its minute is sent at close, and nothing is sent after that."""
    monkeypatch.setattr(alert_queue, "EVENT_INTERVAL_SECONDS", 60.0)
    with Webhook() as hook:
        with open_alerts(hook.url) as opened:
            open_breaker("first")
            hook.next_request()
            open_breaker("second")
        open_breaker("third")
        assert hook.next_request().body["text"].endswith(": second.")
        assert opened._queue.count == 0


@pytest.mark.usefixtures("long_timeouts")
def test_close_does_not_wait_for_hanging_server(caplog: pytest.LogCaptureFixture) -> None:
    """Close does not wait longer than its limit for a hanging server, and it reports how many alerts remain."""
    with Webhook() as hook:
        hook.responses = [hook.hang]
        with open_alerts(hook.url) as opened:
            open_breaker("first")
            hook.next_request()
            open_breaker("second")
            interrupt_trading("third")
            opened.close(0.05)
            assert opened._worker.is_alive()
            assert "3 alerts" in caplog.text
            hook.released.set()


def test_alerts_that_were_never_started_can_be_closed() -> None:
    """Closing alerts that were never started does nothing."""
    Alerts("http://127.0.0.1:1/", name="bot").close(1.0)


def test_repr_does_not_show_the_url() -> None:
    """The repr of alerts and heartbeat does not show the URL."""
    url = f"https://hooks.example/{TOKEN}"
    text = repr([Alerts(url, name="bot"), Heartbeat(url, lambda: True)])
    assert "hooks.example" not in text
    assert TOKEN not in text


# The heartbeat


def test_heartbeat_is_sent_at_start() -> None:
    """A heartbeat requests its URL as soon as it is started."""
    with Webhook() as hook:
        heartbeat = Heartbeat(Secret(hook.url), lambda: True)
        heartbeat.start()
        request = hook.next_request()
        heartbeat.close()
    assert (request.method, request.path, request.body) == ("GET", f"/hook/{TOKEN}", None)


def test_no_heartbeat_while_the_bot_is_stalled(caplog: pytest.LogCaptureFixture) -> None:
    """While the bot makes no progress no heartbeat is sent, which is logged once; heartbeats resume with progress."""
    alive = iter([True, False, False, True])
    with Webhook() as hook:
        heartbeat = Heartbeat(hook.url, lambda: next(alive))
        for _ in range(4):
            heartbeat.ping()
        assert hook.requests.qsize() == 2
    assert [record.getMessage() for record in caplog.records] == [
        "The address in HEARTBEAT_URL: no heartbeat is sent, because the bot makes no progress.",
        "The address in HEARTBEAT_URL answers again.",
    ]


def test_failing_heartbeat_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """Three failures are logged once, and so is the recovery."""
    with Webhook(responses=[500, 500, 500]) as hook:
        heartbeat = Heartbeat(hook.url, lambda: True)
        for _ in range(5):
            heartbeat.ping()
        assert hook.requests.qsize() == 5
    assert [record.getMessage() for record in caplog.records] == [
        "The address in HEARTBEAT_URL: HTTP 500.",
        "The address in HEARTBEAT_URL answers again.",
    ]


# The daily summary


@contextmanager
def daily_summaries() -> Iterator[queue.Queue[str]]:
    """Collect the daily summaries that are emitted."""
    summary_queue: queue.Queue[str] = queue.Queue()
    unsubscribe = subscribe(
        lambda event, _fields, text: summary_queue.put(text) if event.alert is Alert.DAILY_SUMMARY else None
    )
    try:
        yield summary_queue
    finally:
        unsubscribe()


def test_daily_summary_is_sent_once_per_day() -> None:
    """However often the clock is checked, each day has one summary in its last two minutes; the start of a run has
    none."""
    numbers = iter("123")
    check_times = [
        3 * DAY_SECONDS + 5,
        4 * DAY_SECONDS - 120,
        4 * DAY_SECONDS - 60,
        4 * DAY_SECONDS,
        4 * DAY_SECONDS + 60,
        5 * DAY_SECONDS - 100,
        5 * DAY_SECONDS - 40,
    ]
    with daily_summaries() as summary_queue:
        daily, received = DailySummary(lambda: f"summary {next(numbers)}"), []
        for now in check_times:
            daily.check(now)
            if now in (4 * DAY_SECONDS - 60, 5 * DAY_SECONDS - 40):
                received.append(summary_queue.get(timeout=LIMIT_SECONDS))
        assert received == ["summary 1", "summary 2"]
        assert summary_queue.empty()


def test_failed_summary_affects_one_day_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A summary that fails with an expected error reports that error; an unexpected error affects that day only."""
    faults: queue.Queue[object] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda fault: faults.put(fault.exc_type))
    outcomes = iter([JournalError("the disk is full"), ZeroDivisionError(), None])

    def summary() -> str:
        if (error := next(outcomes)) is not None:
            raise error
        return "all is well"

    with daily_summaries() as summary_queue:
        daily = DailySummary(summary)
        daily.check(0)
        daily.check(DAY_SECONDS)
        assert summary_queue.get(timeout=LIMIT_SECONDS) == "The day could not be summed up: the disk is full"
        daily.check(2 * DAY_SECONDS)
        assert faults.get(timeout=LIMIT_SECONDS) is ZeroDivisionError
        daily.check(3 * DAY_SECONDS)
        assert summary_queue.get(timeout=LIMIT_SECONDS) == "all is well"


def test_daily_summary_checks_the_clock_after_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """After its start, a daily summary checks the clock by itself until it is closed."""
    monkeypatch.setattr(alerts, "CHECK_INTERVAL_SECONDS", 0.001)
    days = iter(range(1_000_000))
    monkeypatch.setattr(clock, "wall_seconds", lambda: float(next(days) * DAY_SECONDS))
    with daily_summaries() as summary_queue:
        daily = DailySummary(lambda: "a day")
        daily.start()
        assert summary_queue.get(timeout=LIMIT_SECONDS) == "a day"
        daily.close()

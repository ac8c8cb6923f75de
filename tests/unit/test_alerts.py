"""Alerts, daily summary and heartbeat against a real server on loopback, which behaves as badly as servers can."""

from __future__ import annotations

import logging
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
from bot.base.events import Event, listen, tell
from bot.base.redaction import redact
from bot.config import Secret
from bot.kraken import transport
from tests.server_processes import free_port
from tests.webhook import LIMIT_SECONDS, TOKEN, Answer, Webhook

DAY = 86_400


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait for a minute, or for a server that does not answer."""
    monkeypatch.setattr(alert_queue, "BACK_OFF_SECONDS_MAX", 0.01)
    monkeypatch.setattr(alert_queue, "KIND_SECONDS", 0.0)
    monkeypatch.setattr(transport, "READ_SECONDS_MAX", 0.2)
    monkeypatch.setattr(transport, "ANSWER_SECONDS_MAX", 0.2)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a request last as long as its test."""
    monkeypatch.setattr(transport, "READ_SECONDS_MAX", LIMIT_SECONDS)
    monkeypatch.setattr(transport, "ANSWER_SECONDS_MAX", LIMIT_SECONDS)


@contextmanager
def alerts_to(url: str) -> Iterator[Alerts]:
    """Send alerts to an address."""
    opened = Alerts(url, name="bot 3muyt on host, paper")
    opened.start()
    try:
        yield opened
    finally:
        opened.close(LIMIT_SECONDS)


# What is sent


def test_a_webhook_gets_json() -> None:
    """A webhook gets the kind of the event, a text that says all, who speaks, when, and how many events it was."""
    with Webhook() as hook, alerts_to(hook.url):
        tell(Event.REFUSED_NONCE, "Kraken refused nonce 1 of Balance.")
        request = hook.next()
    assert (request.method, request.path) == ("POST", f"/hook/{TOKEN}")
    assert request.headers["Content-Type"] == "application/json"
    time = request.body["time"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", time)
    assert request.body == {
        "event": "refused_nonce",
        "text": f"[bot 3muyt on host, paper] refused nonce at {time}\nKraken refused nonce 1 of Balance.",
        "bot": "bot 3muyt on host, paper",
        "time": time,
        "count": 1,
    }


def test_telegram_gets_its_own_shape() -> None:
    """Telegram's sendMessage gets the chat of the address, whatever else the address says of it, and the text."""
    with Webhook() as hook, alerts_to(f"{hook.telegram_url}&message_thread_id=5"):
        tell(Event.BREAKER, "Nothing is sent.")
        request = hook.next()
    assert request.path == f"/bot123456:{TOKEN}/sendMessage"
    text = request.body.pop("text")
    assert text.startswith("[bot 3muyt on host, paper] breaker at ")
    assert text.endswith("\nNothing is sent.")
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
def test_telegram_is_known_by_its_host_or_by_the_path(url: str, is_telegram: bool) -> None:
    """An address is Telegram's by its host, or by the path that a Bot API server of one's own has as well."""
    address, chat = alerts._telegram_chat(url)
    assert (address, chat) == ((url.partition("?")[0], {"chat_id": "1"}) if is_telegram else (url, None))


def test_secrets_do_not_leave() -> None:
    """What looks like a secret in a text is hidden before the text is sent."""
    with Webhook() as hook, alerts_to(hook.url):
        tell(Event.TROUBLE, "no connection to redis://bot:hunter2hunter2@store.example:6379/0")
        text = hook.next().body["text"]
    assert "hunter2" not in text
    assert "store.example" in text


def test_an_address_that_hides_itself_is_used() -> None:
    """An address that does not print itself, as those of the settings do not, is posted to all the same."""
    with Webhook() as hook, alerts_to(Secret(hook.url)):
        tell(Event.TROUBLE, "trouble")
        assert hook.next().path == f"/hook/{TOKEN}"


def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Alerts go straight to their address, whatever proxy the environment names."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    with Webhook() as hook, alerts_to(hook.url):
        tell(Event.TROUBLE, "trouble")
        hook.next()


# A server that behaves badly

TELEGRAMS_429 = (
    b"HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\n\r\n"
    b'{"ok":false,"error_code":429,"description":"Too Many Requests: retry after 7","parameters":{"retry_after":7}}'
)
TROUBLES: dict[str, Callable[[Webhook], Answer]] = {
    "500": lambda _hook: 500,
    "429": lambda _hook: 429,
    "closed": lambda _hook: b"",
    "no HTTP": lambda _hook: b"SSH-2.0-OpenSSH_9.2\r\n",
    "hangs": lambda hook: hook.hang,
    "drips": lambda hook: hook.drip,
}


@pytest.mark.parametrize("trouble", TROUBLES)
def test_an_alert_is_sent_until_it_arrives(trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    """A server that fails, hangs or talks nonsense gets the alert again until it takes it; trouble and its end are
    logged once, and the address is not."""
    caplog.set_level(logging.DEBUG)
    with Webhook() as hook:
        hook.answers = [TROUBLES[trouble](hook) for _ in range(2)]
        with alerts_to(hook.url):
            tell(Event.UNKNOWN_OUTCOME, "an order")
            assert len({hook.next().body["text"] for _ in range(3)}) == 1
        assert hook.requests.empty()
    said = [record.getMessage() for record in caplog.records if record.name == "bot.app.alerts"]
    assert [re.sub(r"(HTTP \d+|no answer \(\w+\))\.", "trouble", text) for text in said] == [
        "The address in ALERT_WEBHOOK_URL: trouble",
        "The address in ALERT_WEBHOOK_URL answers again.",
    ]
    assert TOKEN not in redact(caplog.text)
    assert TOKEN not in "".join(said)


def test_an_alert_waits_for_a_server_that_is_not_there() -> None:
    """Where nobody listens at the address the alert waits until somebody does."""
    port = free_port()
    said = threading.Event()

    def noted(_record: logging.LogRecord) -> bool:
        said.set()
        return True

    alerts.log.addFilter(noted)
    with alerts_to(f"http://127.0.0.1:{port}/hook/{TOKEN}"):
        tell(Event.UNKNOWN_OUTCOME, "an order")
        assert said.wait(LIMIT_SECONDS)
        alerts.log.removeFilter(noted)
        with Webhook(port) as hook:
            assert hook.next().body["event"] == "unknown_outcome"


MOVED = b"HTTP/1.1 307 Temporary Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "trouble"),
    [(400, "HTTP 400"), (404, "HTTP 404"), (MOVED, "it sends us elsewhere, where nothing is sent")],
    ids=["400", "404", "moved"],
)
def test_a_refused_alert_is_not_repeated(answer: Answer, trouble: str, caplog: pytest.LogCaptureFixture) -> None:
    """An alert that the server refuses or wants elsewhere is not sent again, nor there; that is logged once, and the
    next alert goes."""
    with Webhook(answers=[answer, answer]) as hook:
        with alerts_to(hook.url):
            for event in (Event.BREAKER, Event.TROUBLE, Event.KILL_SWITCH):
                tell(event, "text")
                assert (request := hook.next()).body["event"] == event
                assert request.path == f"/hook/{TOKEN}"
        assert hook.requests.empty()
    said = [record.getMessage() for record in caplog.records if record.name == "bot.app.alerts"]
    assert said == [
        f"The address in ALERT_WEBHOOK_URL: {trouble}.",
        "The address in ALERT_WEBHOOK_URL answers again.",
    ]


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 429 Too Many Requests\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", TELEGRAMS_429],
    ids=["header", "telegram"],
)
def test_a_server_says_how_long_it_wants_to_be_left_alone(answer: bytes) -> None:
    """The seconds that a 429 asks for are read from its header, or from where Telegram has them."""
    with Webhook(answers=[answer]) as hook:
        assert alerts._Line(hook.url, "ALERT_WEBHOOK_URL").send("POST", {}) == 7


# Nobody waits


@pytest.mark.usefixtures("patient")
def test_a_burst_costs_its_callers_nothing() -> None:
    """10,000 alerts return while the server hangs; then one message tells how many they were."""
    with Webhook() as hook:
        hook.answers = [hook.hang]
        with alerts_to(hook.url):
            tell(Event.KILL_SWITCH, "on")
            hook.next()
            for number in range(10_000):
                tell(Event.REFUSED_NONCE, f"refusal {number}")
            assert hook.requests.empty()
            hook.released.set()
            body = hook.next().body
    assert (body["event"], body["count"]) == ("refused_nonce", 10_000)


@pytest.mark.usefixtures("patient")
def test_a_burst_pushes_nothing_else_out() -> None:
    """An alert that waits when 1,000 of another kind come arrives as well."""
    with Webhook() as hook:
        hook.answers = [hook.hang]
        with alerts_to(hook.url):
            tell(Event.TROUBLE, "store away")
            hook.next()
            tell(Event.UNKNOWN_OUTCOME, "an order")
            for number in range(1000):
                tell(Event.REFUSED_NONCE, f"refusal {number}")
            hook.released.set()
            told = {(body["event"], body["count"]) for body in (hook.next().body for _ in range(3))}
    assert told >= {("unknown_outcome", 1), ("refused_nonce", 1000)}


# The end


def test_what_waits_leaves_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """An alert that was to wait for the next minute leaves when the program ends, and nothing is heard after that."""
    monkeypatch.setattr(alert_queue, "KIND_SECONDS", 60.0)
    with Webhook() as hook:
        with alerts_to(hook.url) as opened:
            tell(Event.BREAKER, "first")
            hook.next()
            tell(Event.BREAKER, "second")
        tell(Event.BREAKER, "third")
        assert hook.next().body["text"].endswith("\nsecond")
        assert opened._outbox.count == 0


@pytest.mark.usefixtures("patient")
def test_the_end_waits_for_no_server(caplog: pytest.LogCaptureFixture) -> None:
    """Where the server hangs, the end does not wait for it longer than it is told to, and says how many alerts are
    left."""
    with Webhook() as hook:
        hook.answers = [hook.hang]
        with alerts_to(hook.url) as opened:
            tell(Event.BREAKER, "first")
            hook.next()
            tell(Event.BREAKER, "second")
            tell(Event.TROUBLE, "third")
            opened.close(0.05)
            assert opened._worker.is_alive()
            assert "3 alerts" in caplog.text
            hook.released.set()


def test_alerts_that_never_began_can_be_closed() -> None:
    """Closing what was never started does nothing."""
    Alerts("http://127.0.0.1:1/", name="bot").close(1.0)


def test_no_object_prints_the_address() -> None:
    """Neither alerts nor heartbeat show their address when they are printed."""
    url = f"https://hooks.example/{TOKEN}"
    shown = repr([Alerts(url, name="bot"), Heartbeat(url, lambda: True)])
    assert "hooks.example" not in shown
    assert TOKEN not in shown


# The heartbeat


def test_the_heart_beats_from_the_start() -> None:
    """A heartbeat asks for its address as soon as it is started."""
    with Webhook() as hook:
        heartbeat = Heartbeat(Secret(hook.url), lambda: True)
        heartbeat.start()
        request = hook.next()
        heartbeat.close()
    assert (request.method, request.path, request.body) == ("GET", f"/hook/{TOKEN}", None)


def test_the_heart_of_a_bot_that_stands_still_does_not_beat(caplog: pytest.LogCaptureFixture) -> None:
    """While the bot makes no progress the address is not asked for, which is logged once, and then it is again."""
    alive = iter([True, False, False, True])
    with Webhook() as hook:
        heartbeat = Heartbeat(hook.url, lambda: next(alive))
        for _ in range(4):
            heartbeat.beat()
        assert hook.requests.qsize() == 2
    assert [record.getMessage() for record in caplog.records] == [
        "The address in HEARTBEAT_URL: it is not asked for, because the bot makes no progress.",
        "The address in HEARTBEAT_URL answers again.",
    ]


def test_a_heartbeat_that_fails_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """An address that fails three times is logged once, and again when it works."""
    with Webhook(answers=[500, 500, 500]) as hook:
        heartbeat = Heartbeat(hook.url, lambda: True)
        for _ in range(5):
            heartbeat.beat()
        assert hook.requests.qsize() == 5
    assert [record.getMessage() for record in caplog.records] == [
        "The address in HEARTBEAT_URL: HTTP 500.",
        "The address in HEARTBEAT_URL answers again.",
    ]


# The daily summary


@contextmanager
def summaries() -> Iterator[queue.Queue[str]]:
    """Hear what is told of days."""
    told: queue.Queue[str] = queue.Queue()
    end = listen(lambda event, text: told.put(text) if event is Event.DAILY_SUMMARY else None)
    try:
        yield told
    finally:
        end()


def test_a_day_is_summed_up_once_when_it_is_over() -> None:
    """However often the clock is looked at, each day brings one summary in its last two minutes, and the start of a run
    brings none."""
    numbers = iter("123")
    looks = [3 * DAY + 5, 4 * DAY - 120, 4 * DAY - 60, 4 * DAY, 4 * DAY + 60, 5 * DAY - 100, 5 * DAY - 40]
    with summaries() as told:
        daily, heard = DailySummary(lambda: f"summary {next(numbers)}"), []
        for now in looks:
            daily.look(now)
            if now in (4 * DAY - 60, 5 * DAY - 40):
                heard.append(told.get(timeout=LIMIT_SECONDS))
        assert heard == ["summary 1", "summary 2"]
        assert told.empty()


def test_a_summary_that_fails_costs_that_day_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """A day that cannot be summed up is told so where that is known trouble, and costs no other day its summary where
    it is a fault of the program."""
    faults: queue.Queue[object] = queue.Queue()
    monkeypatch.setattr(threading, "excepthook", lambda fault: faults.put(fault.exc_type))
    outcomes = iter([JournalError("the disk is full"), ZeroDivisionError(), None])

    def summary() -> str:
        if (error := next(outcomes)) is not None:
            raise error
        return "all is well"

    with summaries() as told:
        daily = DailySummary(summary)
        daily.look(0)
        daily.look(DAY)
        assert told.get(timeout=LIMIT_SECONDS) == "The day could not be summed up: the disk is full"
        daily.look(2 * DAY)
        assert faults.get(timeout=LIMIT_SECONDS) is ZeroDivisionError
        daily.look(3 * DAY)
        assert told.get(timeout=LIMIT_SECONDS) == "all is well"


def test_the_clock_is_looked_at_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """A summary that was started looks at the clock by itself until it is closed."""
    monkeypatch.setattr(alerts, "MINUTE_SECONDS", 0.001)
    days = iter(range(1_000_000))
    monkeypatch.setattr(clock, "wall_seconds", lambda: float(next(days) * DAY))
    with summaries() as told:
        daily = DailySummary(lambda: "a day")
        daily.start()
        assert told.get(timeout=LIMIT_SECONDS) == "a day"
        daily.close()

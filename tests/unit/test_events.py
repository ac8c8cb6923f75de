"""Events: they are logged with their fields and reach every listener, and no failure affects the caller."""

from __future__ import annotations

import ast
import logging
import re
from collections.abc import Callable, Iterator
from decimal import Decimal

import pytest

from bot.base import events
from bot.base.event_catalog import FIELDS, Event
from bot.base.events import edge_trigger, emit, find_mistake, render, required_fields, subscribe
from bot.base.models import Side
from tests.conftest import ROOT
from tests.event_log import EventLog

# The keys of every log line.
RESERVED_FIELDS = {"time", "level", "logger", "event", "message", "exception", "exc_info"}
# Functions that take an event and its fields.
EMITTING_CALLS = {"emit", "record", "record_once", "record_resolved"}
# Fields that they add.
ADDED_FIELDS = {"market_time", "replay"}


def emit_reason(reason: str) -> None:
    """Emit an event with one field."""
    emit(Event.STANDBY_ENTERED, reason=reason)


# Rendering


def test_text_is_rendered_from_the_fields() -> None:
    """A text has the values of its fields in the format of its template, decimals in full, and "-" for None."""
    fields = {
        "equity_start": Decimal("1E+4"),
        "equity_end": None,
        "quote": "USD",
        "realised": Decimal("-0.006"),
        "orders_placed": 2,
        "orders_refused": 1,
        "orders_unknown": 0,
        "fills": 3,
        "refused_nonces": 0,
    }
    assert render(Event.RUN_SUMMARIZED, fields) == (
        "Equity 10000.00 -> - USD; realised -0.01 USD; orders: 2 placed, 1 refused by Kraken, 0 unknown; fills 3;"
        " refused nonces: 0"
    )
    fields = {"symbol": "BTC/USD", "volume": Decimal("1E-7"), "price": Decimal("1234.56789")}
    assert render(Event.POSITION_FOUND, fields) == "BTC/USD  holding 0.0000001 at 1234.5679"


def test_lists_and_tables_are_rendered_in_words() -> None:
    """A list is rendered with commas, a mapping as names and values, and an empty one as "none"."""
    fields = {"prices": {"BTC/USD": Decimal("1E+2"), "ETH/USD": Decimal(3)}, "holdings": {}, "open_orders": 0}
    text = render(Event.STATUS_REPORTED, fields)
    assert text == "Watching BTC/USD 100, ETH/USD 3; holding none; open orders: 0"
    fields = {"pairs": ["BTC/USD", "ETH/USD"], "timeframe": "1h", "strategy": "dca", "price_source": "{live}"}
    assert render(Event.TRADING_STARTED, fields) == "Trading BTC/USD, ETH/USD at 1h with dca; prices: {live}"


def test_optional_part_is_left_out_without_its_fields() -> None:
    """A part in brackets is rendered if each of its fields has a value, and left out otherwise."""
    fields = {
        "symbol": "A/B",
        "close": 1,
        "kind": "exit",
        "side": Side.SELL,
        "volume": 2,
        "txid": "O1",
        "reason": "test",
    }
    limit, market = {**fields, "price": Decimal(3), "worst_price": None}, {**fields, "worst_price": Decimal(4)}
    assert render(Event.ORDER_PLACED, limit) == "A/B 1  exit: sell 2 at 3 accepted as O1: test"
    assert render(Event.ORDER_PLACED, market) == "A/B 1  exit: sell 2 at worst 4 accepted as O1: test"
    assert render(Event.ORDER_PLACED, fields) == "A/B 1  exit: sell 2 accepted as O1: test"


# The catalogue


@pytest.mark.parametrize("event", Event, ids=lambda event: event.key)
def test_placeholders_are_documented_fields(event: Event) -> None:
    """Each event has a template; its placeholders are documented fields, and its brackets and braces are closed."""
    names = re.findall(r"{(\w+)(?::[^{}]*)?}", event.template)
    assert event.template.strip()
    assert set(names) <= set(FIELDS)
    assert set(required_fields(event)) <= set(names)
    assert (event.template.count("{"), event.template.count("}")) == (len(names), len(names))
    assert re.fullmatch(r"[^\[\]]*(\[[^\[\]]*{[^\[\]]*\][^\[\]]*)*", event.template)
    assert event.level in {logging.INFO, logging.WARNING, logging.ERROR}
    assert re.fullmatch("[a-z]+(_[a-z]+)+", event.key)


def test_no_field_hides_a_key_of_the_line() -> None:
    """No field has the name of a key of every line, and the list of fields is sorted."""
    assert RESERVED_FIELDS & set(FIELDS) == set()
    assert list(FIELDS) == sorted(FIELDS)


def emitting_calls() -> Iterator[tuple[str, Event, set[str], bool]]:
    """Yield each call in the program that names an event: its location, the event, its fields, and whether it passes
    on other fields."""
    for path in [ROOT / "main.py", *(ROOT / "bot").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in EMITTING_CALLS:
                continue
            keywords = {keyword.arg for keyword in node.keywords if keyword.arg}
            is_open = any(keyword.arg is None for keyword in node.keywords)
            for event_name in re.findall(r"\bEvent\.([A-Z_]+)", " ".join(map(ast.unparse, node.args))):
                yield f"{path.name}:{node.lineno}", Event[event_name], keywords - {"exc_info"}, is_open


def test_every_call_gives_the_fields_of_its_event() -> None:
    """Each call that names an event gives documented fields only, and all fields that the text needs."""
    calls = list(emitting_calls())
    assert len(calls) > 50
    mistakes = [
        f"{where}: {event.key}"
        for where, event, fields, is_open in calls
        if not fields <= set(FIELDS) or (not is_open and find_mistake(event, dict.fromkeys(fields)))
    ]
    assert mistakes == []


def test_every_field_is_used() -> None:
    """Each documented field is in a template or in a call."""
    given = {name for event in Event for name in re.findall(r"{(\w+)", event.template)} | ADDED_FIELDS
    given |= {name for _where, _event, fields, _is_open in emitting_calls() for name in fields}
    assert set(FIELDS) - given == set()


# Mistakes


def test_missing_field_is_an_error_in_a_test() -> None:
    """In a test, an event with a missing or an undocumented field is an error."""
    with pytest.raises(AssertionError, match="standby_entered lacks the fields \\['reason'\\]"):
        emit(Event.STANDBY_ENTERED)
    with pytest.raises(AssertionError, match="its fields \\['colour'\\] are not documented"):
        emit(Event.CYCLE_RECOVERED, colour="blue")


def test_missing_field_does_not_stop_the_program(
    event_log: EventLog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Outside of tests, a missing field is logged and rendered as "-", a value that cannot be formatted leaves the
    template, and the caller is not affected."""
    monkeypatch.setattr(events, "_report_mistake", lambda mistake: logging.getLogger("bot").error(mistake))
    with caplog.at_level(logging.INFO):
        emit(Event.STANDBY_ENTERED)
        emit(Event.RETRY_SCHEDULED, retry_seconds=ZeroDivisionError("no number"))
        emit(Event.SHUTDOWN_STARTED, signal="SIGTERM", grace_seconds="soon")

        class Unprintable:
            def __str__(self) -> str:
                raise ZeroDivisionError("no text")

        emit(Event.STANDBY_ENTERED, reason=Unprintable())
    assert event_log.texts == [
        "Standby: -",
        "The next attempt is in no number s.",
        "SIGTERM: stopping; the call in flight has soon s.",
        "Standby: {reason}",
    ]
    assert "standby_entered lacks the fields ['reason']" in caplog.text


# Logging


def test_event_is_logged_under_the_calling_module(caplog: pytest.LogCaptureFixture) -> None:
    """An event is one log record with its level, its text, and the module that emits it."""
    with caplog.at_level(logging.INFO):
        emit(Event.CYCLE_FAILED, error=ValueError("100% of %s"))
    ((name, level, text),) = caplog.record_tuples
    assert (name, level, text) == (__name__, logging.WARNING, "Waiting: 100% of %s")
    assert caplog.records[0].filename == "test_events.py"


def test_traceback_is_logged_with_the_event(caplog: pytest.LogCaptureFixture) -> None:
    """With `exc_info` the record has the traceback of the exception."""
    with caplog.at_level(logging.INFO):
        try:
            raise ZeroDivisionError("a bug")
        except ZeroDivisionError as error:
            emit(Event.TRADER_FAILED, exc_info=error)
    assert "Traceback" in caplog.text
    assert "ZeroDivisionError: a bug" in caplog.text


def test_failing_log_handler_does_not_affect_the_caller(event_log: EventLog) -> None:
    """An exception in a log handler affects neither the caller nor the listeners."""

    class FailingHandler(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise ZeroDivisionError(record)

    handler = FailingHandler()
    logging.getLogger(__name__).addHandler(handler)
    try:
        emit_reason("an order")
    finally:
        logging.getLogger(__name__).removeHandler(handler)
    assert event_log.values("reason") == ["an order"]


# Listeners


def test_every_listener_receives_every_event(event_log: EventLog) -> None:
    """Two listeners receive two events with fields and texts, in the order in which they were emitted."""
    second = EventLog()
    unsubscribe = subscribe(second.listen)
    emit_reason("silent")
    emit(Event.LEADERSHIP_LOST, owner="host", fencing_token=7, reason="away")
    unsubscribe()
    assert event_log == second
    assert [(one.event, dict(one.fields), one.text) for one in second] == [
        (Event.STANDBY_ENTERED, {"reason": "silent"}, "Standby: silent"),
        (
            Event.LEADERSHIP_LOST,
            {"owner": "host", "fencing_token": 7, "reason": "away"},
            "host no longer leads: away",
        ),
    ]


def test_unsubscribed_listener_receives_nothing(event_log: EventLog) -> None:
    """Unsubscribing one listener, even twice, removes that one only, even where another is the same function."""
    calls: list[str] = []

    def listener(_event: Event, fields: events.Fields, _text: str) -> None:
        calls.append(fields["reason"])

    unsubscribe_first, unsubscribe_second = subscribe(listener), subscribe(listener)
    emit_reason("one")
    unsubscribe_first()
    unsubscribe_first()
    emit_reason("two")
    unsubscribe_second()
    emit_reason("three")
    assert (calls, len(event_log)) == (["one", "one", "two"], 3)


def test_failing_listener_does_not_affect_others(event_log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    """An exception in a listener is logged; the caller and the next listener are not affected."""
    unsubscribe_failing = subscribe(lambda _event, _fields, _text: print(1 // 0))
    unsubscribe_last = subscribe(event_log.listen)
    with caplog.at_level(logging.ERROR):
        emit_reason("an order")
    unsubscribe_failing()
    unsubscribe_last()
    assert event_log.values("reason") == ["an order"] * 2
    assert "ZeroDivisionError" in caplog.text


def test_listener_may_unsubscribe_itself(event_log: EventLog) -> None:
    """A listener that unsubscribes itself during an event receives that event only; later listeners receive both."""
    calls: list[str] = []
    unsubscribers: list[Callable[[], None]] = []

    def once(_event: Event, fields: events.Fields, _text: str) -> None:
        calls.append(fields["reason"])
        unsubscribers[0]()

    unsubscribers.append(subscribe(once))
    unsubscribe_last = subscribe(event_log.listen)
    emit_reason("one")
    emit_reason("two")
    unsubscribe_last()
    assert (calls, event_log.values("reason")) == (["one"], ["one", "one", "two", "two"])


def test_edge_trigger_emits_once_per_transition(event_log: EventLog) -> None:
    """An edge trigger returns the value of its condition and emits when it changes to true and back to false."""
    states = [False, False, True, True, False, False, True]
    remaining = iter(states)
    poll = edge_trigger(lambda: next(remaining), Event.BOT_HALTED, Event.HALT_LIFTED)
    assert [poll() for _ in states] == states
    assert event_log.events == [
        Event.BOT_HALTED,
        Event.HALT_LIFTED,
        Event.BOT_HALTED,
    ]

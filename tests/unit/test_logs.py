"""Log output: as text or as JSON, redacted, remembered, and written despite failures."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import re
import socket
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from http.client import HTTPConnection
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bot.base import logging_setup
from bot.base.event_catalog import Event
from bot.base.events import emit, subscribe
from bot.base.models import Side
from bot.base.redaction import hide
from bot.config import Secret
from tests.conftest import ROOT

SECRET = "kQH5HW0mVbF6zP+q3nXyT/8dRwJ2sLcA"  # registered as secrets, and without a recognizable shape
TOKEN_PATTERN = "token=hunter2hunter2"
log = logging.getLogger("bot.somewhere")
RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
RFC3339_MS = RFC3339.replace("Z", r"\.\d{3}Z")


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Restore what the set-up changes in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    hide(SECRET)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def configure_logs(form: str) -> None:
    """Set up logging in this process; pytest's own handlers would not survive these tests."""
    logging.getLogger().handlers[:] = []
    logging_setup.configure(form)


def parse_json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_text_output_escapes_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    """Text output escapes control characters and characters that change the writing direction; line breaks, tabs and
    letters stay."""
    configure_logs("text")
    logging_setup.print_line("a\x1b[2J\x07\x9b\r\x7f\u202e\u2028\tb\nc \xe9 \u4e2d")
    log.warning("d\x1bE")
    out, err = capsys.readouterr()
    assert out == "a\\x1b[2J\\x07\\x9b\\r\\x7f\\u202e\\u2028\tb\nc \xe9 \u4e2d\n"
    assert err.endswith("WARNING d\\x1bE\n")


FORGED_LINE = "2026-11-30T20:00:00Z ERROR   The kill switch is on."


@pytest.mark.parametrize("line_end", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028"])
def test_a_name_from_kraken_forges_no_line(capsys: pytest.CaptureFixture[str], line_end: str) -> None:
    """A line end in an asset's name, a pair's name or a txid, in a library's message or in an exception begins no line
    of the text log, of an alert or of the page."""
    configure_logs("text")
    name = f"XXBT{line_end}{FORGED_LINE}"
    texts: list[str] = []
    unsubscribe = subscribe(lambda event, fields, text: texts.append(text))
    emit_fill(symbol=name, txid=name)
    emit(Event.ACCOUNT_READ, balances={name: Decimal(1)}, bot_id="bot")
    unsubscribe()
    log.warning("from %s", name)
    try:
        raise ValueError(name)
    except ValueError:
        log.exception("It failed.")
    lines = capsys.readouterr().err.splitlines()
    # The lines of a traceback are indented.
    begun = [line for line in lines if not line.startswith("  ")]
    assert len(begun) == 4
    assert not any(line.startswith(FORGED_LINE) for line in begun)
    assert [len(text.splitlines()) for text in texts] == [1, 1]
    assert not any(line.startswith(FORGED_LINE) for text in logging_setup.recent_lines() for line in text.splitlines())


def test_text_output_prints_lines_verbatim(capsys: pytest.CaptureFixture[str]) -> None:
    """As text, a command's result stands on standard output as it is, and what is logged on the other stream, with the
    time in UTC and the level."""
    configure_logs("text")
    logging_setup.print_line("BTC/USD 86500.1  bought 100% of it\nand more")
    log.warning("The disk has %s bytes left.", 7)
    captured = capsys.readouterr()
    assert captured.out == "BTC/USD 86500.1  bought 100% of it\nand more\n"
    assert re.fullmatch(rf"{RFC3339} WARNING The disk has 7 bytes left\.\n", captured.err)


def test_json_output_is_one_object_per_line(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON output is one object per line with time, level, logger and message, whatever the text contains."""
    configure_logs("json")
    logging_setup.print_line('first\nsecond "third" \u2028 \x85 caf\u00e9')
    log.info("one")
    log.warning("two")
    log.error("three")
    log.critical("four")
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = parse_json_lines(captured.out)
    assert [set(line) for line in lines] == [{"time", "level", "logger", "message"}] * 5
    assert lines[0]["message"] == 'first\nsecond "third" \u2028 \x85 caf\u00e9'
    assert [line["level"] for line in lines] == ["info", "info", "warning", "error", "error"]
    assert [line["logger"] for line in lines] == ["bot"] + ["bot.somewhere"] * 4
    assert all(re.fullmatch(RFC3339_MS, line["time"]) for line in lines)


def test_json_traceback_is_a_field_of_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    """In JSON output a traceback is a field of its record, with its causes."""
    configure_logs("json")
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError:
        log.exception("It failed.")
    (line,) = parse_json_lines(capsys.readouterr().out)
    assert line["message"] == "It failed."
    assert "KeyError: 'first'" in line["exception"]
    assert line["exception"].endswith("ValueError: second")


def emit_fill(*, replay: bool = False, symbol: str = "BTC/USD", txid: str = "OABC") -> None:
    """Emit the fill of an order."""
    emit(
        Event.ORDER_FILLED,
        symbol=symbol,
        side=Side.BUY,
        volume=Decimal("1E-7"),
        price=Decimal("86500.10"),
        cost=Decimal("0.00865001"),
        quote="USD",
        fee=Decimal("0E-8"),
        txid=txid,
        cl_ord_id=None,
        market_time="2020-01-02T03:04:05Z",
        replay=replay,
    )


def test_json_line_of_an_event_has_its_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """A JSON line has the name of the event, its text and each field as a key: decimals as text with every digit,
    numbers as numbers, None as null, lists and mappings as such, and errors as text."""
    configure_logs("json")
    emit_fill()
    emit(
        Event.STATUS_REPORTED,
        prices={"BTC/USD": Decimal(7)},
        holdings={},
        open_orders=3,
        pairs=["BTC/USD"],
        error=OSError("full"),
        wait_seconds=1.5,
        equity_end=float("nan"),
    )
    fill, status = parse_json_lines(capsys.readouterr().out)
    assert re.fullmatch(RFC3339_MS, fill.pop("time"))
    assert fill == {
        "level": "info",
        "logger": __name__,
        "event": "order_filled",
        "message": "BTC/USD 86500.10  filled: buy 0.0000001 for 0.01 USD, fee 0.00 (OABC)",
        "symbol": "BTC/USD",
        "side": "buy",
        "volume": "0.0000001",
        "price": "86500.10",
        "cost": "0.00865001",
        "quote": "USD",
        "fee": "0.00000000",
        "txid": "OABC",
        "cl_ord_id": None,
        "market_time": "2020-01-02T03:04:05Z",
        "replay": False,
    }
    assert status["prices"] == {"BTC/USD": "7"}
    assert (status["holdings"], status["open_orders"], status["pairs"]) == ({}, 3, ["BTC/USD"])
    assert (status["error"], status["wait_seconds"], status["equity_end"]) == ("full", 1.5, "nan")


def test_text_and_json_line_of_an_event_agree(capsys: pytest.CaptureFixture[str]) -> None:
    """The text line of an event is the time, the level and the message of its JSON line, also on the dashboard."""
    configure_logs("text")
    emit_fill()
    text = capsys.readouterr().err.rstrip("\n")
    assert logging_setup.recent_lines()[-1] == text
    logging_setup.configure("json")
    emit_fill()
    (line,) = parse_json_lines(capsys.readouterr().out)
    assert re.fullmatch(rf"{RFC3339} INFO    {re.escape(line['message'])}", text)


def test_line_of_a_replay_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    """In a replay the text line has a mark with the market's time. The message of the JSON line has none, but its
    fields have it."""
    configure_logs("text")
    emit_fill(replay=True)
    assert re.match(
        rf"{RFC3339} INFO    \[replay 2020-01-02T03:04:05Z\] BTC/USD 86500.10  filled", capsys.readouterr().err
    )
    logging_setup.configure("json")
    emit_fill(replay=True)
    (line,) = parse_json_lines(capsys.readouterr().out)
    assert line["message"].startswith("BTC/USD 86500.10  filled")
    assert (line["market_time"], line["replay"]) == ("2020-01-02T03:04:05Z", True)


def test_log_of_a_run_goes_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """The text log of a run goes to standard output, in order with printed lines."""
    configure_logs("text")
    logging_setup.configure("text", logs_to_stdout=True)
    emit_fill()
    logging_setup.print_line("the end")
    log.warning("of a library")
    captured = capsys.readouterr()
    assert captured.err == ""
    first, second, third = captured.out.splitlines()
    assert (" filled: buy " in first, second, third.endswith("WARNING of a library")) == (True, "the end", True)


def log_secrets() -> None:
    """Log and print a secret in every part of a line."""
    logging_setup.print_line(f"said {SECRET} and {TOKEN_PATTERN}")
    emit(
        Event.STANDBY_ENTERED,
        reason=f"emitted {SECRET}",
        error=OSError(f"emitted {TOKEN_PATTERN}"),
        pairs=[SECRET, {TOKEN_PATTERN: Secret("held")}],
        balances={SECRET: TOKEN_PATTERN},
    )
    log.warning("%s and %s", {"API-Sign": SECRET}, TOKEN_PATTERN, stack_info=True)
    try:
        raise ValueError(f"could not sign with {SECRET!r}, {TOKEN_PATTERN}")
    except ValueError as error:
        error.add_note(f"noted {SECRET} and {TOKEN_PATTERN}")
        log.exception("with %s", error)


@pytest.mark.parametrize("form", ["text", "json"])
def test_secrets_are_redacted_in_every_output(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither stream nor the kept lines have a secret of a message, its arguments or fields, a stack, an exception or
    its notes."""
    configure_logs(form)
    log_secrets()
    captured = capsys.readouterr()
    for text in (captured.out + captured.err, "\n".join(logging_setup.recent_lines()[-4:])):
        assert text.count("[hidden]") >= 9
        assert "Stack (most recent call last)" in text
        assert SECRET not in text
        assert "hunter2" not in text
        assert "held" not in text


def test_recent_lines_holds_the_last_200(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 300 printed and logged lines the last 200 are remembered, oldest first, each with time and level."""
    configure_logs("text")
    for number in range(150):
        logging_setup.print_line(f"line {2 * number}")
        log.warning("line %s", 2 * number + 1)
    recent_lines = logging_setup.recent_lines()
    assert [line.rpartition(" ")[2] for line in recent_lines] == [str(number) for number in range(100, 300)]
    assert re.fullmatch(rf"{RFC3339} INFO    line 298", recent_lines[-2])
    assert re.fullmatch(rf"{RFC3339} WARNING line 299", recent_lines[-1])
    assert len(capsys.readouterr().out.splitlines()) == 150


def test_recent_line_length_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A line of a megabyte is written completely and remembered in part."""
    configure_logs("text")
    logging_setup.print_line("x" * 1_000_000)
    assert len(capsys.readouterr().out) == 1_000_001
    assert len(logging_setup.recent_lines()[-1]) < 3000


def test_reconfiguring_changes_format_without_duplicates(capsys: pytest.CaptureFixture[str]) -> None:
    """After a set-up as JSON and then as text, each line is written once, as text."""
    configure_logs("json")
    logging_setup.configure("text")
    log.warning("once")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("once") == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_bad_log_arguments_are_reported_without_values(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """If log arguments do not fit the format, the program continues, and the report contains none of their values."""
    configure_logs(form)
    log.error("%d of it", "seventeen")
    log.error("goes on")
    captured = capsys.readouterr()
    assert "A line of bot.somewhere could not be written: TypeError" in captured.err
    assert "Traceback" not in captured.err
    assert "goes on" in captured.out + captured.err
    assert "seventeen" not in captured.out + captured.err + "".join(logging_setup.recent_lines())


def test_full_disk_does_not_stop_the_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """If standard output fails, this is reported once, on standard error and in the recent lines, and lines are still
    remembered."""
    configure_logs("text")
    full_disk = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - its end fails as well
    monkeypatch.setattr(sys, "stdout", full_disk)
    for number in range(3):
        logging_setup.print_line(f"full {number}")
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        full_disk.close()
    err = capsys.readouterr().err
    assert err.count("A line of bot could not be written: OSError(28") == 1
    reports = [line for line in logging_setup.recent_lines() if "could not be written: OSError(28" in line]
    assert [line.rpartition(" ")[2] for line in logging_setup.recent_lines() if " full " in line] == ["0", "1", "2"]
    assert len(reports) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_lines_are_remembered_without_streams(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program started without standard streams continues and remembers its lines."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    configure_logs(form)
    logging_setup.print_line("nobody hears this")
    log.error("nor this")
    log.error("%d", "nor is that a number")
    monkeypatch.undo()
    recent_lines = [line.split(" ", 1)[1] for line in logging_setup.recent_lines()[-3:]]
    assert recent_lines[:2] == ["INFO    nobody hears this", "ERROR   nor this"]
    assert capsys.readouterr() == ("", "")


# The log of the dashboard's server


def raise_error(request: Request) -> PlainTextResponse:
    """Raise an error in a handler."""
    raise RuntimeError(f"{SECRET} of {request.headers['authorization']}")


@contextlib.contextmanager
def serve() -> Iterator[int]:
    """Serve on loopback with uvicorn's own log set-up disabled and its access log enabled; yield the port."""
    app = Starlette(routes=[Route("/", lambda _request: PlainTextResponse("fine")), Route("/fail", raise_error)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


def test_server_logs_errors_but_no_requests(capsys: pytest.CaptureFixture[str]) -> None:
    """uvicorn logs nothing for a successful request and one redacted line for a failed one."""
    configure_logs("json")
    with serve() as port:
        for path, status in (("/?token=hunter2hunter2", 200), ("/fail", 500)):
            connection = HTTPConnection("127.0.0.1", port)
            connection.request("GET", path, headers={"Authorization": "Bearer hunter2hunter2"})
            assert connection.getresponse().status == status
            connection.close()
    captured = capsys.readouterr()
    (line,) = parse_json_lines(captured.out)
    assert captured.err == ""
    assert (line["logger"], line["level"]) == ("uvicorn.error", "error")
    assert line["exception"].endswith("RuntimeError: [hidden] of Bearer [hidden]")


def test_no_module_logs_at_debug_level() -> None:
    """No module of the program logs at DEBUG, or below the displayed level in any other way."""
    found = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in [ROOT / "main.py", *(ROOT / "bot").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"debug", "DEBUG", "NOTSET"}
    ]
    assert found == []

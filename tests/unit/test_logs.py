"""The lines of a run: as text or as JSON, redacted, kept, and written whatever happens."""

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
from http.client import HTTPConnection
from typing import Any

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from bot.base import logging_setup
from tests.conftest import ROOT

SECRET = "kQH5HW0mVbF6zP+q3nXyT/8dRwJ2sLcA"  # known to be secret, and of no shape that would tell
SHAPED = "token=hunter2hunter2"
log = logging.getLogger("bot.somewhere")
RFC3339 = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Put back what a set-up changes in this process."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    logging_setup.hide(SECRET)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    sys.excepthook, threading.excepthook, sys.unraisablehook = hooks


def set_up(form: str) -> None:
    """Set up the lines of this process; pytest's own handlers would not bear what is tried here."""
    logging.getLogger().handlers[:] = []
    logging_setup.set_up(form)


def objects(text: str) -> list[dict[str, Any]]:
    """Return the objects of lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_nothing_said_moves_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    """As text, signs that a terminal obeys, or that turn the direction of writing, are shown as escapes; lines and
    tabs stay, and so does every letter."""
    set_up("text")
    logging_setup.say("a\x1b[2J\x07\x9b\r\x7f\u202e\u2028\tb\nc \xe9 \u4e2d")
    log.warning("d\x1bE")
    out, err = capsys.readouterr()
    assert out == "a\\x1b[2J\\x07\\x9b\\r\\x7f\\u202e\\u2028\tb\nc \xe9 \u4e2d\n"
    assert err.endswith("WARNING d\\x1bE\n")


def test_as_text_what_is_said_is_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """As text, what is said stands on standard output as it is, and what is logged on the other stream with time and
    level."""
    set_up("text")
    logging_setup.say("BTC/USD 86500.1  bought 100% of it\nand more")
    log.warning("The disk has %s bytes left.", 7)
    captured = capsys.readouterr()
    assert captured.out == "BTC/USD 86500.1  bought 100% of it\nand more\n"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} WARNING The disk has 7 bytes left\.\n", captured.err)


def test_as_json_each_is_one_object_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, each line of standard output is an object with time, level, logger and message, whatever is in it."""
    set_up("json")
    logging_setup.say('first\nsecond "third" \u2028 \x85 caf\u00e9')
    log.info("one")
    log.warning("two")
    log.error("three")
    log.critical("four")
    captured = capsys.readouterr()
    assert captured.err == ""
    lines = objects(captured.out)
    assert [set(line) for line in lines] == [{"time", "level", "logger", "message"}] * 5
    assert lines[0]["message"] == 'first\nsecond "third" \u2028 \x85 caf\u00e9'
    assert [line["level"] for line in lines] == ["info", "info", "warning", "error", "error"]
    assert [line["logger"] for line in lines] == ["bot"] + ["bot.somewhere"] * 4
    assert all(re.fullmatch(RFC3339, line["time"]) for line in lines)


def test_an_exception_stays_on_the_line_of_its_record(capsys: pytest.CaptureFixture[str]) -> None:
    """As JSON, a traceback is a field of its line, with its causes."""
    set_up("json")
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            raise ValueError("second") from error
    except ValueError:
        log.exception("It failed.")
    (line,) = objects(capsys.readouterr().out)
    assert line["message"] == "It failed."
    assert "KeyError: 'first'" in line["exception"]
    assert line["exception"].endswith("ValueError: second")


def leaky() -> None:
    """Log and say a secret in every part of a line."""
    logging_setup.say(f"said {SECRET} and {SHAPED}")
    log.warning("%s and %s", {"API-Sign": SECRET}, SHAPED, stack_info=True)
    try:
        raise ValueError(f"could not sign with {SECRET!r}, {SHAPED}")
    except ValueError as error:
        error.add_note(f"noted {SECRET} and {SHAPED}")
        log.exception("with %s", error)


@pytest.mark.parametrize("form", ["text", "json"])
def test_nothing_secret_leaves_by_any_way(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither stream nor the kept lines have a secret of a message, its arguments, a stack, an exception or its
    notes."""
    set_up(form)
    leaky()
    captured = capsys.readouterr()
    for text in (captured.out + captured.err, "\n".join(logging_setup.recent()[-3:])):
        assert text.count("[hidden]") >= 8
        assert "Stack (most recent call last)" in text
        assert SECRET not in text
        assert "hunter2" not in text


def test_the_last_200_lines_are_kept(capsys: pytest.CaptureFixture[str]) -> None:
    """Of 300 lines, said and logged, the last 200 are kept, oldest first, each with time and level."""
    set_up("text")
    for number in range(150):
        logging_setup.say(f"line {2 * number}")
        log.warning("line %s", 2 * number + 1)
    kept = logging_setup.recent()
    assert [line.rpartition(" ")[2] for line in kept] == [str(number) for number in range(100, 300)]
    assert re.fullmatch(rf"{RFC3339} INFO line 298", kept[-2])
    assert re.fullmatch(rf"{RFC3339} WARNING line 299", kept[-1])
    assert len(capsys.readouterr().out.splitlines()) == 150


def test_what_is_kept_is_bounded(capsys: pytest.CaptureFixture[str]) -> None:
    """A line of a megabyte is written whole and kept in part."""
    set_up("text")
    logging_setup.say("x" * 1_000_000)
    assert len(capsys.readouterr().out) == 1_000_001
    assert len(logging_setup.recent()[-1]) < 3000


def test_a_second_set_up_changes_the_form_and_doubles_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Set up as JSON and then as text, each line is written once, as text."""
    set_up("json")
    logging_setup.set_up("text")
    log.warning("once")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("once") == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_wrong_arguments_are_told_without_their_values(form: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a logger's arguments do not fit its text, the program goes on, and the line about it has none of them."""
    set_up(form)
    log.error("%d of it", "seventeen")
    log.error("goes on")
    captured = capsys.readouterr()
    assert "A line of bot.somewhere could not be written: TypeError" in captured.err
    assert "Traceback" not in captured.err
    assert "goes on" in captured.out + captured.err
    assert "seventeen" not in captured.out + captured.err + "".join(logging_setup.recent())


def test_a_full_disk_ends_no_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Where standard output takes nothing, that is told once, on the error stream and among the kept lines, and the
    lines are kept all the same."""
    set_up("text")
    full = open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115 - its end fails as well
    monkeypatch.setattr(sys, "stdout", full)
    for number in range(3):
        logging_setup.say(f"full {number}")
    monkeypatch.undo()
    with contextlib.suppress(OSError):
        full.close()
    err = capsys.readouterr().err
    assert err.count("A line of bot could not be written: OSError(28") == 1
    told = [line for line in logging_setup.recent() if "could not be written: OSError(28" in line]
    assert [line.rpartition(" ")[2] for line in logging_setup.recent() if " full " in line] == ["0", "1", "2"]
    assert len(told) == 1


@pytest.mark.parametrize("form", ["text", "json"])
def test_without_streams_lines_are_kept(
    form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program that was started without any stream goes on, and keeps its lines."""
    monkeypatch.setattr(sys, "stdout", None)
    monkeypatch.setattr(sys, "stderr", None)
    set_up(form)
    logging_setup.say("nobody hears this")
    log.error("nor this")
    log.error("%d", "nor is that a number")
    monkeypatch.undo()
    kept = [line.split(" ", 1)[1] for line in logging_setup.recent()[-3:]]
    assert kept[:2] == ["INFO nobody hears this", "ERROR nor this"]
    assert capsys.readouterr() == ("", "")


# The status server's log


def fail(request: Request) -> PlainTextResponse:
    """Fail as no handler should."""
    raise RuntimeError(f"{SECRET} of {request.headers['authorization']}")


@contextlib.contextmanager
def served() -> Iterator[int]:
    """Serve on loopback, with uvicorn's own log set-up off and its lines about requests on; give the port."""
    app = Starlette(routes=[Route("/", lambda _request: PlainTextResponse("fine")), Route("/fail", fail)])
    server = uvicorn.Server(uvicorn.Config(app, port=0, lifespan="off", log_config=None))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        yield listening.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        listening.close()


def test_the_server_tells_its_errors_and_no_requests(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a request that goes well uvicorn writes nothing; of one that fails one line, redacted, as all others are."""
    set_up("json")
    with served() as port:
        for path, status in (("/?token=hunter2hunter2", 200), ("/fail", 500)):
            connection = HTTPConnection("127.0.0.1", port)
            connection.request("GET", path, headers={"Authorization": "Bearer hunter2hunter2"})
            assert connection.getresponse().status == status
            connection.close()
    captured = capsys.readouterr()
    (line,) = objects(captured.out)
    assert captured.err == ""
    assert (line["logger"], line["level"]) == ("uvicorn.error", "error")
    assert line["exception"].endswith("RuntimeError: [hidden] of Bearer [hidden]")


def test_nothing_is_logged_where_nobody_looks() -> None:
    """No module of the program logs at DEBUG, or below what is shown in any other way."""
    found = [
        f"{path.name}:{node.lineno}: {ast.unparse(node)}"
        for path in [ROOT / "main.py", *(ROOT / "bot").rglob("*.py")]
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in {"debug", "DEBUG", "NOTSET"}
    ]
    assert found == []

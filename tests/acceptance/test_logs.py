"""The output of real processes: its content, its format, and its behaviour without a reader."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.local_kraken import FILLING, local_kraken
from tests.acceptance.processes import isolated_settings, running
from tests.conftest import ROOT
from tests.fake_secrets import BOT_TOKEN, SECRETS, assert_no_part_of

LIMIT_SECONDS = 60.0
KNOWN_SECRETS = ["correct horse/battery+staple", "redis://:hunter2%2Fhunter2@db.example:6379/0"]
SIGNATURE = SECRETS[0]
SECRET_PATTERNS = [
    f"{{'API-Sign': '{SIGNATURE}'}}",
    f"https://api.telegram.org/bot{BOT_TOKEN}/x",
    SIGNATURE,
    "token=zyxwvuts9876",
]
LEAKED_SECRETS = [KNOWN_SECRETS[0], "hunter2", SIGNATURE, BOT_TOKEN.partition(":")[2], "zyxwvuts9876"]


@contextmanager
def run_child(
    ending: str,
    output_format: str,
    stdout: int = subprocess.PIPE,
    known_secrets: list[str] = KNOWN_SECRETS,
    secret_patterns: list[str] = SECRET_PATTERNS,
) -> Iterator[subprocess.Popen[str]]:
    """Run the child; kill it at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.acceptance.log_child", ending, output_format],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONIOENCODING": "utf-8:strict"},
    )
    assert process.stdin is not None
    with process:
        try:
            process.stdin.write(json.dumps([known_secrets, secret_patterns]) + "\n")
            process.stdin.flush()
            yield process
        finally:
            process.kill()


def assert_no_secret(text: str) -> None:
    """Fail if a part of a secret is in the text."""
    for secret in LEAKED_SECRETS:
        assert_no_part_of(secret, text)


def parse_json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_text_output_of_a_leaking_process_has_no_secret() -> None:
    """In text format neither stream has a secret that the process prints, logs, or passes to an error that ends a
    thread or the process; printed lines are on standard output, and the rest on standard error."""
    with run_child("raise", "text") as process:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 1
    assert_no_secret(out + err)
    assert out.startswith("printed [hidden]")
    assert len(out.splitlines()) == 1
    for message in (
        "logged",
        "has ended its thread leaking",
        "An exception was passed over",
        "A fault in the program has ended it.",
    ):
        assert err.count(f" {message}") == 1, err
    for error_text in ("OSError: first ", 'ValueError: ("second ', "'argument': "):
        assert err.count(error_text) == 2, err


def test_json_output_of_a_leaking_process_has_no_secret() -> None:
    """In JSON format all output is on standard output, one object a line, tracebacks too, and none has a secret."""
    with run_child("raise", "json") as process:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, err) == (1, "")
    assert_no_secret(out)
    lines = parse_json_lines(out)
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error", "error"]
    assert ["exception" in line for line in lines] == [False, False, True, True, True]
    assert_no_secret("".join(str(value) for line in lines for value in line.values()))


@pytest.mark.parametrize("output_format", ["text", "json"])
def test_closed_stdout_pipe_ends_the_process_cleanly(output_format: str) -> None:
    """When the reader of standard output is gone, the process gets one SIGTERM, and further output is discarded."""
    with run_child("print", output_format) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(LIMIT_SECONDS) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_undecodable_folder_name_can_be_printed() -> None:
    """A line with undecodable bytes is printed in both formats."""
    folder_name = os.fsdecode(b"/srv/bot\xff")
    for output_format in ("text", "json"):
        with run_child("end", output_format, known_secrets=[], secret_patterns=[folder_name]) as process:
            out, err = process.communicate(timeout=LIMIT_SECONDS)
        assert process.returncode == 0, err
        assert "could not be written" not in err
        assert r"/srv/bot\udcff" in out


def test_format_is_text_on_a_terminal_and_json_elsewhere() -> None:
    """With the format `auto` a process writes text to a terminal, and JSON into a pipe."""
    main_side, child_side = os.openpty()
    with run_child("end", "auto", stdout=child_side) as process:
        os.close(child_side)
        assert process.wait(LIMIT_SECONDS) == 0
        assert os.read(main_side, 65536).startswith(b"printed [hidden]")
        os.close(main_side)
    with run_child("end", "auto") as process:
        out, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert parse_json_lines(out)[0]["message"].startswith("printed [hidden]")


def test_json_run_prints_json_only(state: Path) -> None:
    """A trading bot with LOG_FORMAT=json prints events as JSON objects only, with their fields, and none with its key
    or secret."""
    with local_kraken(state, FILLING) as kraken:
        json_settings = kraken.settings(LOG_FORMAT="json")
        with running("--cycles", "1", settings=json_settings, until="refused nonces: 0") as bot:
            lines = parse_json_lines(bot.text)
        messages = [line["message"] for line in lines]
        assert messages[0] == "*** LIVE TRADING: REAL ORDERS WITH REAL MONEY ***"
        assert messages[-1].endswith("; refused nonces: 0")
        events = {line["event"]: line for line in lines}
        assert list(events)[:2] == ["run_started", "nonce_read"]
        fill = events["order_filled"]
        assert f"filled: buy {fill['volume']} for " in fill["message"]
        assert (fill["symbol"], fill["side"], fill["quote"]) == ("BTC/USD", "buy", "USD")
        assert fill["txid"] == events["order_placed"]["txid"]
        assert Decimal(fill["price"]) > 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", fill["market_time"])
        assert {line["level"] for line in lines} == {"info"}
        for secret in (kraken.simulator.key, kraken.simulator.secret):
            assert_no_part_of(secret, bot.text)


def test_program_without_stdout_exits_cleanly(state: Path) -> None:
    """If standard output is closed before the start, the program prints nothing and ends with exit code 0."""
    command = ["/bin/sh", "-c", 'exec "$0" main.py nonce show >&-', sys.executable]
    environment = {**os.environ, **isolated_settings({"STATE_DIR": str(state)})}
    ended = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=LIMIT_SECONDS
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

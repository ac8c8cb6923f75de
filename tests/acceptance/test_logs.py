"""The lines of real processes: what leaves them, in which form, and what happens when nobody reads it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
    """Run the child, and see that it is gone at the end."""
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
    """Fail where a piece of a secret is in the text."""
    for secret in LEAKED_SECRETS:
        assert_no_part_of(secret, text)


def parse_json_lines(text: str) -> list[dict[str, Any]]:
    """Return the objects of lines of JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_text_output_of_a_leaking_process_has_no_secret() -> None:
    """As text, neither stream of a process has a secret that it says, logs, ends a thread or itself with, or that an
    error has which nobody catches; what it says is on standard output, and the rest on the other stream."""
    with run_child("raise", "text") as process:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert process.returncode == 1
    assert_no_secret(out + err)
    assert out.startswith("said [hidden]")
    assert len(out.splitlines()) == 1
    for words in (
        "logged",
        "has ended its thread spilling",
        "An exception was passed over",
        "A fault in the program has ended it.",
    ):
        assert err.count(f" {words}") == 1, err
    for words in ("OSError: first ", 'ValueError: ("second ', "'argument': "):
        assert err.count(words) == 2, err


def test_json_output_of_a_leaking_process_has_no_secret() -> None:
    """As JSON, all of it is on standard output, one object a line, tracebacks too, and no secret is in any."""
    with run_child("raise", "json") as process:
        out, err = process.communicate(timeout=LIMIT_SECONDS)
    assert (process.returncode, err) == (1, "")
    assert_no_secret(out)
    lines = parse_json_lines(out)
    assert [line["level"] for line in lines] == ["info", "warning", "error", "error", "error"]
    assert ["exception" in line for line in lines] == [False, False, True, True, True]
    assert_no_secret("".join(str(value) for line in lines for value in line.values()))


@pytest.mark.parametrize("form", ["text", "json"])
def test_closed_stdout_pipe_ends_the_process_cleanly(form: str) -> None:
    """When nobody reads its standard output any more, a process is told to end as by SIGTERM, once, and says the rest
    to nobody."""
    with run_child("say", form) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(LIMIT_SECONDS) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_undecodable_folder_name_can_be_printed() -> None:
    """A line with bytes that are no text is written all the same, whatever the streams' encoding."""
    odd = os.fsdecode(b"/srv/bot\xff")
    for form in ("text", "json"):
        with run_child("end", form, known_secrets=[], secret_patterns=[odd]) as process:
            out, err = process.communicate(timeout=LIMIT_SECONDS)
        assert process.returncode == 0, err
        assert "could not be written" not in err
        assert r"/srv/bot\udcff" in out


def test_format_is_text_on_a_terminal_and_json_elsewhere() -> None:
    """Left to itself, a process writes text on a terminal, and JSON into a pipe."""
    main_side, child_side = os.openpty()
    with run_child("end", "auto", stdout=child_side) as process:
        os.close(child_side)
        assert process.wait(LIMIT_SECONDS) == 0
        assert os.read(main_side, 65536).startswith(b"said [hidden]")
        os.close(main_side)
    with run_child("end", "auto") as process:
        out, _ = process.communicate(timeout=LIMIT_SECONDS)
    assert parse_json_lines(out)[0]["message"].startswith("said [hidden]")


def test_json_run_prints_json_only(state: Path) -> None:
    """A bot that runs with LOG_FORMAT=json and trades writes nothing but objects, and its key and secret in none."""
    with local_kraken(state, FILLING) as kraken:
        as_json = kraken.settings(LOG_FORMAT="json")
        with running("--ticks", "1", settings=as_json, until="refused nonces: 0") as bot:
            lines = parse_json_lines(bot.text)
        messages = [line["message"] for line in lines]
        assert messages[0] == "*** LIVE TRADING: REAL ORDERS WITH REAL MONEY ***"
        assert messages[-1] == "refused nonces: 0"
        assert any("filled: buy" in message for message in messages)
        assert {line["level"] for line in lines} == {"info"}
        for secret in (kraken.simulator.key, kraken.simulator.secret):
            assert_no_part_of(secret, bot.text)


def test_program_without_stdout_exits_cleanly(state: Path) -> None:
    """Where standard output was closed before the start, the program says nothing and ends with exit code 0."""
    command = ["/bin/sh", "-c", 'exec "$0" main.py nonce show >&-', sys.executable]
    environment = {**os.environ, **isolated_settings({"STATE_DIR": str(state)})}
    ended = subprocess.run(
        command, check=False, env=environment, capture_output=True, text=True, cwd=ROOT, timeout=LIMIT_SECONDS
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")

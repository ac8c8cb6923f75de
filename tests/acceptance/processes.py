"""main.py as its users run it: in a process of its own, read line by line, and always reaped.

Every run is also checked for what must hold in all runs: no traceback, no endless line, no secret in the output.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

import pytest

from bot.config import DEFAULTS
from tests.conftest import ROOT

# For a run on a loaded machine; longer runs pass a timeout of their own.
TIMEOUT_SECONDS = 45.0
MAX_LINE_LENGTH = 200
# Time and level of an event.
LOG_PREFIX = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ (INFO   |WARNING|ERROR  ) ", re.MULTILINE)
# The bot promises five; the rest is for a loaded machine.
STOP_TIMEOUT_SECONDS = 8.0


_LIBC = ctypes.CDLL(None)
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


def _drop_root_access() -> None:
    # Without root this does nothing, and file modes count anyway.
    _LIBC.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def isolated_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """Return these settings with all others unset, whatever a .env beside main.py contains.

    By default there is no dashboard, and the log is text.
    """
    unset = dict.fromkeys((*DEFAULTS, "RAILWAY_VOLUME_MOUNT_PATH"), "")
    defaults = {
        "TRADING_MODE": "paper",
        "PRICE_SOURCE": "synthetic",
        "KRAKEN_TIER": "pro",
        "PORT": "0",
        "LOG_FORMAT": "text",
    }
    return {**unset, **defaults, **settings}


class BotProcess:
    """`python main.py ARGUMENTS` with `settings` as its only settings.

    Both output streams are read as one, as in a terminal. `is_unprivileged`: file modes apply to it even if root runs
    it. `program`: the folder of main.py.
    """

    def __init__(
        self,
        *arguments: str,
        settings: Mapping[str, str],
        is_unprivileged: bool = False,
        timeout_seconds: float = TIMEOUT_SECONDS,
        program: Path = ROOT,
    ) -> None:
        self.settings = isolated_settings(settings)
        # As printed, and without time and level.
        self.raw_lines: list[str] = []
        self.lines: list[str] = []
        self._timeout_seconds = timeout_seconds
        self._output_changed = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, str(program / "main.py"), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={**os.environ, **self.settings},
            preexec_fn=_drop_root_access if is_unprivileged else None,  # noqa: PLW1509 - one system call only
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._timer = threading.Timer(timeout_seconds, self._process.kill)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._reader.start()
        self._timer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._timer.cancel()
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                with self._output_changed:
                    self.raw_lines.append(line.rstrip("\n"))
                    self.lines.append(LOG_PREFIX.sub("", self.raw_lines[-1]))
                    self._output_changed.notify_all()
        with self._output_changed:
            self._output_changed.notify_all()

    @property
    def text(self) -> str:
        """Everything that it has printed so far."""
        with self._output_changed:
            return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_for(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until `times` lines match, or the program ends; return all lines that match."""

        def matching_lines() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        with self._output_changed:
            self._output_changed.wait_for(
                lambda: len(matching_lines()) >= times or not self._reader.is_alive(), self._timeout_seconds
            )
            lines = matching_lines()
        if len(lines) < times:
            self._reader.join(1.0)
            lines = [line for line in self.lines if re.search(pattern, line)]
        assert len(lines) >= times, f"expected {pattern!r} {times} times in\n{self.text}"
        return lines

    def send(self, signal_number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(signal_number)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def wait_and_check(self, timeout_seconds: float | None = None) -> int:
        """Wait for its end and check its output; return its exit code."""
        try:
            exit_code = self._process.wait(self._timeout_seconds if timeout_seconds is None else timeout_seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it did not end in time; its output was\n{self.text}")
        self._reader.join()
        self.check_output()
        # The description of a problem may need a longer sentence.
        longest = max(
            (
                len(line)
                for line in self.raw_lines
                if not re.search(r" WARNING (Waiting: |Nothing is sent on this key )| is unknown: ", line)
            ),
            default=0,
        )
        assert exit_code or longest <= MAX_LINE_LENGTH, f"a line of {longest} characters in\n{self.text}"
        return exit_code

    def stop(self, signal_number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end, which is due within seconds; return the exit code."""
        self.send(signal_number)
        return self.wait_and_check(STOP_TIMEOUT_SECONDS)

    def check_output(self) -> None:
        """Fail if the output contains a traceback or a secret."""
        for line in self.lines:
            assert "Traceback" not in line, self.text
            for name in ("KRAKEN_API_KEY", "KRAKEN_API_SECRET"):
                assert not self.settings[name] or self.settings[name] not in line, f"{name} is in {line!r}"


def run(
    *arguments: str,
    settings: Mapping[str, str],
    exit_code: int = 0,
    is_unprivileged: bool = False,
    timeout_seconds: float = TIMEOUT_SECONDS,
    program: Path = ROOT,
) -> BotProcess:
    """Run main.py to its end, which must have this exit code."""
    with BotProcess(
        *arguments,
        settings=settings,
        is_unprivileged=is_unprivileged,
        timeout_seconds=timeout_seconds,
        program=program,
    ) as bot:
        actual_code = bot.wait_and_check()
    assert actual_code == exit_code, f"exit code {actual_code} instead of {exit_code}; its output was\n{bot.text}"
    return bot


@contextlib.contextmanager
def running(*arguments: str, settings: Mapping[str, str], until: str, program: Path = ROOT) -> Iterator[BotProcess]:
    """Run main.py and continue once it has printed a line that matches `until`."""
    with BotProcess(*arguments, settings=settings, program=program) as bot:
        bot.wait_for(until)
        yield bot


def stored_nonce(state_folder: Path) -> int:
    """Return the nonce that is stored in a state folder."""
    return int((state_folder / "kraken_nonce.txt").read_text("ascii"))

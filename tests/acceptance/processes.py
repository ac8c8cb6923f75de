"""main.py as its users run it: a process of its own, read line by line, and reaped whatever happens.

Every run is also held to what holds for all of them: no traceback, no endless line, no secret in the output.
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

# For a run on a loaded machine; what takes longer says so.
LIMIT_SECONDS = 45.0
LONGEST_LINE = 200
# Promised are five; the rest is for a machine that has other things to do.
STOP_SECONDS_MAX = 8.0


_LIBC = ctypes.CDLL(None)
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1


def _give_up_root_access() -> None:
    # For anybody but root this does nothing, and need not.
    _LIBC.prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)


def only(settings: Mapping[str, str]) -> dict[str, str]:
    """Return these settings and, for all others, that they are not given: whatever a .env beside main.py says.

    Without a word of them there is no page, and the log is for people.
    """
    nothing = dict.fromkeys((*DEFAULTS, "RAILWAY_VOLUME_MOUNT_PATH"), "")
    usual = {"TRADING_MODE": "paper", "PRICES": "synthetic", "KRAKEN_TIER": "pro", "PORT": "0", "LOG_FORMAT": "text"}
    return {**nothing, **usual, **settings}


class Bot:
    """`python main.py WORDS` with `settings` as its environment, and nothing else that it knows.

    Both streams come as one, as in a terminal. `bound`: file modes count for it, also where root runs it.
    """

    def __init__(
        self, *words: str, settings: Mapping[str, str], bound: bool = False, limit_seconds: float = LIMIT_SECONDS
    ) -> None:
        self.settings = only(settings)
        self.lines: list[str] = []
        self._limit_seconds = limit_seconds
        self._news = threading.Condition()
        self._process = subprocess.Popen(
            [sys.executable, str(ROOT / "main.py"), *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd="/",
            env={**os.environ, **self.settings},
            preexec_fn=_give_up_root_access if bound else None,  # noqa: PLW1509 - one system call, no Python after it
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._timer = threading.Timer(limit_seconds, self._process.kill)
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
                with self._news:
                    self.lines.append(line.rstrip("\n"))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    @property
    def text(self) -> str:
        """Everything that it has said so far."""
        with self._news:
            return "\n".join(self.lines)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_for(self, pattern: str, times: int = 1) -> list[str]:
        """Wait until `times` lines have matched; return all that have. The end of the program ends the wait too."""

        def found() -> list[str]:
            return [line for line in self.lines if re.search(pattern, line)]

        with self._news:
            self._news.wait_for(lambda: len(found()) >= times or not self._reader.is_alive(), self._limit_seconds)
            lines = found()
        if len(lines) < times:
            self._reader.join(1.0)
            lines = [line for line in self.lines if re.search(pattern, line)]
        assert len(lines) >= times, f"{times} times {pattern!r} was expected of\n{self.text}"
        return lines

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it by SIGKILL."""
        self._process.kill()
        self._process.wait()
        self._reader.join()

    def end(self, limit_seconds: float | None = None) -> int:
        """Wait for its end; return its exit code, having looked through everything that it said."""
        try:
            code = self._process.wait(self._limit_seconds if limit_seconds is None else limit_seconds)
        except subprocess.TimeoutExpired:
            pytest.fail(f"it was still there after its time, having said\n{self.text}")
        self._reader.join()
        self.check_output()
        # What is wrong may need a longer sentence.
        longest = max((len(line) for line in self.lines if not re.search("^waiting | is unknown: ", line)), default=0)
        assert code or longest <= LONGEST_LINE, f"a line of {longest} characters in\n{self.text}"
        return code

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end that is due within seconds; return the exit code."""
        self.send(number)
        return self.end(STOP_SECONDS_MAX)

    def check_output(self) -> None:
        """Fail where a line is not fit for a person, or not fit for anybody else's eyes."""
        for line in self.lines:
            assert "Traceback" not in line, self.text
            for name in ("KRAKEN_API_KEY", "KRAKEN_API_SECRET"):
                assert not self.settings[name] or self.settings[name] not in line, f"{name} is in {line!r}"


def run(
    *words: str,
    settings: Mapping[str, str],
    code: int = 0,
    bound: bool = False,
    limit_seconds: float = LIMIT_SECONDS,
) -> Bot:
    """Run main.py to its end, which must have this exit code."""
    with Bot(*words, settings=settings, bound=bound, limit_seconds=limit_seconds) as bot:
        ended = bot.end()
    assert ended == code, f"it ended with {ended} instead of {code}, having said\n{bot.text}"
    return bot


@contextlib.contextmanager
def running(*words: str, settings: Mapping[str, str], until: str) -> Iterator[Bot]:
    """Run main.py and go on when it has said a line that matches `until`."""
    with Bot(*words, settings=settings) as bot:
        bot.wait_for(until)
        yield bot


def stored_nonce(state: Path) -> int:
    """Return the nonce that a state folder keeps."""
    return int((state / "kraken_nonce.txt").read_text("ascii"))

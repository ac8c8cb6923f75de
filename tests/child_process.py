"""Child processes of tests: each has a hard time limit, communicates by lines, and is always reaped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.conftest import ROOT

LIMIT_SECONDS = 60.0


class Child:
    """`python -m MODULE ARGUMENTS`, killed at the latest when the `with` block ends or `limit_seconds` are over."""

    def __init__(
        self,
        module: str,
        *arguments: object,
        limit_seconds: float = LIMIT_SECONDS,
        cwd: Path = ROOT,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        variables = {**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})}
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=variables,
        )
        self._timer = threading.Timer(limit_seconds, self._process.kill)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        self._timer.cancel()
        for stream in (self._process.stdin, self._process.stdout):
            _close(stream)

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def write_line(self, line: str) -> None:
        """Send a line to the child."""
        stdin = self._process.stdin
        assert stdin is not None
        stdin.write(line + "\n")
        stdin.flush()

    def read_line(self) -> str:
        """Wait for the child's next line; an empty one means that the child has ended."""
        stdout = self._process.stdout
        assert stdout is not None
        return stdout.readline().rstrip("\n")

    def expect_line(self, expected: str) -> None:
        """Wait for the child's next line, which must be `expected`."""
        line = self.read_line()
        assert line == expected, f"the child said {line!r} instead of {expected!r}"

    def read_to_end(self) -> list[str]:
        """Wait until the child ends with code 0; return its remaining lines."""
        stdout = self._process.stdout
        assert stdout is not None
        lines = stdout.read().splitlines()
        code = self._process.wait()
        assert code == 0, f"the child ended with {code}"
        return lines

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the child."""
        self._process.send_signal(number)

    def drain(self) -> list[str]:
        """Return the unread lines of a child that was killed; the last may be incomplete."""
        stdout = self._process.stdout
        assert stdout is not None
        return stdout.read().splitlines()

    def kill(self) -> None:
        """Kill the child by SIGKILL and wait for its end."""
        self._process.kill()
        self._process.wait()


def _close(stream: IO[str] | None) -> None:
    if stream is not None:
        try:
            stream.close()
        except BrokenPipeError:
            return  # the child can no longer read it

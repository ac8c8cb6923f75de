"""What a run says: one line a decision, and what its modules log; as text on a terminal, as JSON elsewhere.

Whatever leaves here has been through `bot.redaction`. JSON goes to standard output whole, each line with its level:
Railway takes all that stands on the error stream for errors, and reads `level` and `message` of a JSON line (Railway:
Logs, "Structured logs"); Render makes the `level` of a JSON line the priority of its log streams (Render: Log Streams).
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from bot import redaction
from bot.clock import rfc3339

KEPT_LINES = 200
# Of one line: a stranger's answer in an error may be of any length.
KEPT_CHARACTERS = 2000
_SAID = "bot"
_FORM = "%(asctime)s %(levelname)s %(message)s"

hide = redaction.hide


class _Output(logging.StreamHandler[TextIO]):
    """Where every line goes: redacted, kept for the page, and written."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.is_json = False
        self.kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._trouble = ""

    def emit(self, record: logging.LogRecord) -> None:
        # Asked for with each line: who started us may have put another one in its place.
        stream = sys.stdout if self.is_json or record.name == _SAID else sys.stderr
        # There is none where the program was started without.
        self.stream = stream or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        """Return the line without what must not be seen, and keep it."""
        message = redaction.redact(record.getMessage())
        exception = redaction.redact(self._exception(record))
        self.keep(record.created, _level(record), message + exception)
        if self.is_json:
            return _as_json(record, message, exception.strip("\n"))
        if record.name == _SAID:
            return message
        return f"{_text.formatTime(record)} {record.levelname} {message}{exception}"

    def keep(self, created_seconds: float, level: str, text: str) -> None:
        """Keep a line for the page."""
        cut = text if len(text) <= KEPT_CHARACTERS else f"{text[:KEPT_CHARACTERS]} ..."
        self.kept.append(f"{rfc3339(created_seconds)} {level.upper()} {cut}")

    def _exception(self, record: logging.LogRecord) -> str:
        has_error = record.exc_info and record.exc_info[0]
        parts = [_text.formatException(record.exc_info) if has_error and record.exc_info else record.exc_text or ""]
        parts.append(record.stack_info or "")
        return "".join(f"\n{part}" for part in parts if part)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """Go on without the line: neither a full disk nor a wrong call of a logger may end the trading."""
        error = sys.exc_info()[1]
        if isinstance(error, BrokenPipeError) and self.stream is sys.stdout:
            _say_the_rest_to_nobody(sys.stdout)
            return
        trouble = redaction.redact(f"A line of {record.name} could not be written: {error!r}")
        if trouble == self._trouble:
            return
        self._trouble = trouble
        self.keep(record.created, "error", trouble)
        if self.stream is not sys.stderr and sys.stderr is not None:
            print(trouble, file=sys.stderr, flush=True)

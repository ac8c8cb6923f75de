"""The log: one line of text or JSON for each event and for each record of a library.

Both forms come from the same fields and the same clock, UTC; redaction is the last step of every line. The log of a run
goes to standard output: Railway treats everything on standard error as an error, and reads `level` and `message` of a
JSON line (Railway: Logs, "Structured logs"); Render maps its `level` to the priority in a log stream (Render: Log
Streams). A command that prints a result logs to standard error.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from types import TracebackType
from typing import Any, TextIO

from bot.base import redaction
from bot.base.clock import format_rfc3339, format_utc
from bot.base.event_catalog import Event
from bot.base.events import emit, escape_unprintable

RECENT_LINES_MAX = 200
# The limit for each line: an answer that an error quotes may be of any length.
RECENT_LINE_LENGTH_MAX = 2000

_PRINT_LOGGER = "bot"
_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"), (0, "debug"))

_formatter = logging.Formatter()


class _NullStream(io.TextIOBase):
    """The replacement for a stream that the program was started without."""

    def write(self, text: str) -> int:
        return len(text)


class _OutputHandler(logging.StreamHandler[TextIO | _NullStream]):
    """The handler of every line: it redacts the line, keeps it for the dashboard, and writes it."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.is_json = False
        self.logs_to_stdout = False
        self.recent_lines: deque[str] = deque(maxlen=RECENT_LINES_MAX)
        self._last_problem = ""

    def emit(self, record: logging.LogRecord) -> None:
        # Read for each line, as `print` does: a stream may be replaced.
        to_stdout = self.logs_to_stdout or record.name == _PRINT_LOGGER
        self.stream = (sys.stdout if to_stdout else sys.stderr) or _NullStream()
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        message = redaction.redact(record.getMessage())
        traceback_text = redaction.redact(_format_traceback(record))
        # A command's result may have several lines; what is logged has one, and its traceback is indented, so that no
        # text of others looks like a line of the log.
        line_ends = "\n\t" if record.name == _PRINT_LOGGER else "\t"
        text = f"{_replay_mark(record)}{escape_unprintable(message, line_ends)}"
        if traceback_text:
            lines = [escape_unprintable(line, "\t") for line in traceback_text.split("\n")]
            text = "\n  ".join((text, *lines))
        self.remember(record, text)
        if self.is_json:
            return _format_json(record, message, traceback_text)
        return text if record.name == _PRINT_LOGGER else f"{_prefix(record)}{text}"

    def remember(self, record: logging.LogRecord, text: str) -> None:
        """Keep a line for the dashboard."""
        truncated = text if len(text) <= RECENT_LINE_LENGTH_MAX else f"{text[:RECENT_LINE_LENGTH_MAX]} ..."
        self.recent_lines.append(f"{_prefix(record)}{truncated}")

    def flush(self) -> None:
        super().flush()
        # The next failure is reported again.
        self._last_problem = ""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - named by logging
        """Continue without the line: neither a full disk nor a logger's wrong arguments may end the trading."""
        error = sys.exc_info()[1]
        if isinstance(error, BrokenPipeError) and self.stream is sys.stdout:
            _redirect_stdout_to_null()
            return
        problem = redaction.redact(f"A line of {record.name} could not be written: {error!r}")
        if problem == self._last_problem:
            return
        self._last_problem = problem
        self.remember(record, problem)
        with contextlib.suppress(OSError, ValueError):
            print(problem, file=sys.stderr or _NullStream(), flush=True)


_output_handler = _OutputHandler()


def configure(output_format: str, *, logs_to_stdout: bool = False) -> None:
    """Write lines as "text" or "json" from now on; "auto" is text where standard output is a terminal, else JSON.

    A JSON log goes to standard output, a text log to standard error, or with `logs_to_stdout` to standard output.
    May be called again.
    """
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    _output_handler.is_json = output_format == "json" or (output_format == "auto" and not is_terminal)
    _output_handler.logs_to_stdout = logs_to_stdout or _output_handler.is_json
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The name of a folder may have bytes that are not text.
            stream.reconfigure(errors="backslashreplace")
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(_output_handler)
    # Uvicorn's own logging set-up has to be off (`log_config=None`). The bot itself reports that the server has
    # started.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def print_line(text: str) -> None:
    """Print one line of a command's result. When its reader has gone away (`| head`), the run ends cleanly."""
    _output_handler.handle(logging.LogRecord(_PRINT_LOGGER, logging.INFO, __file__, 0, text, None, None))


def recent_lines() -> list[str]:
    """Return the last 200 lines, oldest first, each with time and level; a traceback belongs to its line."""
    # One atomic step: the caller must not wait behind a line that cannot be written.
    return list(_output_handler.recent_lines)


def _format_traceback(record: logging.LogRecord) -> str:
    error = record.exc_info
    parts = [_formatter.formatException(error) if error and error[0] else record.exc_text, record.stack_info]
    return "\n".join(part for part in parts if part)


def _prefix(record: logging.LogRecord) -> str:
    return f"{format_utc(record.created)} {record.levelname:<7} "


def _event_fields(record: logging.LogRecord) -> Mapping[str, Any]:
    """Return the fields of an event; none for the record of a library."""
    if not isinstance(getattr(record, "event", None), Event):
        return {}
    fields: Mapping[str, Any] = vars(record)["fields"]
    return fields


def _json_value(value: Any) -> Any:
    """Return a value for JSON, redacted; decimal numbers are text, so that no digit is lost."""
    if value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, Mapping):
        return {redaction.redact(str(key)): _json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_json_value(item) for item in value]
    return redaction.redact(str(value))


def _replay_mark(record: logging.LogRecord) -> str:
    """Return the mark of a line of a replay, with the time of the market."""
    fields = _event_fields(record)
    return f"[replay {fields.get('market_time')}] " if fields.get("replay") else ""


def _format_json(record: logging.LogRecord, message: str, traceback_text: str) -> str:
    event = getattr(record, "event", None)
    line = {
        "time": format_rfc3339(record.created),
        "level": next(name for minimum_level, name in _LEVELS if record.levelno >= minimum_level),
        "logger": record.name,
        **({"event": event.key} if isinstance(event, Event) else {}),
        "message": message,
        **{name: _json_value(value) for name, value in _event_fields(record).items()},
        **({"exception": traceback_text} if traceback_text else {}),
    }
    # ASCII, so that no reader finds a line end in it.
    return json.dumps(line)


def _redirect_stdout_to_null() -> None:
    null_descriptor = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_descriptor, sys.stdout.fileno())
    os.close(null_descriptor)
    os.kill(os.getpid(), signal.SIGTERM)


def _log_uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    del kind
    emit(Event.PROGRAM_FAILED, exc_info=error.with_traceback(traceback))


def _log_uncaught_in_thread(hook_args: threading.ExceptHookArgs) -> None:
    if hook_args.exc_value is not None and not isinstance(hook_args.exc_value, SystemExit):
        name = hook_args.thread.name if hook_args.thread else "without a name"
        emit(Event.THREAD_FAILED, thread=name, exc_info=hook_args.exc_value)


def _log_unraisable(hook_args: sys.UnraisableHookArgs) -> None:
    if hook_args.exc_value is not None:
        reason = hook_args.err_msg or "An exception was passed over in"
        emit(Event.EXCEPTION_IGNORED, reason=reason, source=repr(hook_args.object), exc_info=hook_args.exc_value)

"""What a run says: one line a decision, and what its modules log; as text on a terminal, as JSON elsewhere.

Every line goes through `bot.base.redaction` first. JSON goes to standard output, each line with its level: Railway
takes whatever is on standard error for errors, and reads `level` and `message` of a line of JSON (Railway: Logs,
"Structured logs"); Render maps its `level` to the priority in a log stream (Render: Log Streams).
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
from collections import deque
from types import TracebackType
from typing import TextIO

from bot.base import redaction
from bot.base.clock import rfc3339

KEPT_LINES = 200
# Of each: an answer that an error quotes may be of any length.
KEPT_CHARACTERS = 2000

_SAID = "bot"
_LEVELS = ((logging.ERROR, "error"), (logging.WARNING, "warning"), (logging.INFO, "info"), (0, "debug"))

log = logging.getLogger(__name__)
_text = logging.Formatter()


class _Nobody(io.TextIOBase):
    """In place of a stream that the program was started without."""

    def write(self, text: str) -> int:
        return len(text)


class _Output(logging.StreamHandler[TextIO | _Nobody]):
    """Where every line goes: redacted, kept for the page, and written."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.is_json = False
        self.kept: deque[str] = deque(maxlen=KEPT_LINES)
        self._trouble = ""

    def emit(self, record: logging.LogRecord) -> None:
        # Looked up for each line, as `print` does: a stream may be put in place of another.
        to_stdout = self.is_json or record.name == _SAID
        self.stream = (sys.stdout if to_stdout else sys.stderr) or _Nobody()
        super().emit(record)

    def format(self, record: logging.LogRecord) -> str:
        message = redaction.redact(record.getMessage())
        trace = redaction.redact(_trace(record))
        self.keep(record, f"{message}\n{trace}" if trace else message)
        if self.is_json:
            return _as_json(record, message, trace)
        if record.name == _SAID:
            return _as_text(message)
        line = f"{_text.formatTime(record)} {record.levelname} {message}"
        return _as_text(f"{line}\n{trace}" if trace else line)

    def keep(self, record: logging.LogRecord, text: str) -> None:
        """Keep a line for the page."""
        cut = text if len(text) <= KEPT_CHARACTERS else f"{text[:KEPT_CHARACTERS]} ..."
        self.kept.append(f"{rfc3339(record.created)} {record.levelname} {cut}")

    def flush(self) -> None:
        super().flush()
        # What fails next is news again.
        self._trouble = ""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - named by logging
        """Go on without the line: neither a full disk nor a logger's wrong arguments may end the trading."""
        error = sys.exc_info()[1]
        if isinstance(error, BrokenPipeError) and self.stream is sys.stdout:
            _say_the_rest_to_nobody()
            return
        trouble = redaction.redact(f"A line of {record.name} could not be written: {error!r}")
        if trouble == self._trouble:
            return
        self._trouble = trouble
        self.keep(record, trouble)
        with contextlib.suppress(OSError, ValueError):
            print(trouble, file=sys.stderr or _Nobody(), flush=True)


_output = _Output()


def set_up(form: str) -> None:
    """Write lines as "text" or "json" from here on; "auto" is text where standard output is a terminal, else JSON.

    As text, what is said goes to standard output, and what is logged to the error stream. May be called again.
    """
    is_terminal = sys.stdout is not None and sys.stdout.isatty()
    _output.is_json = form == "json" or (form == "auto" and not is_terminal)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # The name of a folder may have bytes that are no text.
            stream.reconfigure(errors="backslashreplace")
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    root.addHandler(_output)
    # Uvicorn's own set-up has to be off (`log_config=None`). That it has started is said by others.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.access").disabled = True
    sys.excepthook = _ended_by
    threading.excepthook = _thread_ended_by
    sys.unraisablehook = _passed_over


def say(text: str) -> None:
    """Write one line of the run. Where nobody reads it any more (`| head`), the run is ended in good order."""
    _output.handle(logging.LogRecord(_SAID, logging.INFO, __file__, 0, text, None, None))


def hide(*secrets: str) -> None:
    """Never show these values, whatever the line: keys, tokens, addresses with a password, addresses of webhooks."""
    redaction.hide(*secrets)


def recent() -> list[str]:
    """Return the last 200 lines, oldest first, each with time and level; a traceback belongs to its line."""
    # One step for all threads: whoever looks must not wait behind a line that cannot be written.
    return list(_output.kept)


def _trace(record: logging.LogRecord) -> str:
    error = record.exc_info
    parts = [_text.formatException(error) if error and error[0] else record.exc_text, record.stack_info]
    return "\n".join(part for part in parts if part)


def _as_text(line: str) -> str:
    """Return a line without what a terminal would obey: names and answers come from others."""
    if line.isprintable():
        return line
    return "".join(one if one.isprintable() or one in "\n\t" else ascii(one)[1:-1] for one in line)


def _as_json(record: logging.LogRecord, message: str, trace: str) -> str:
    fields = {
        "time": rfc3339(record.created),
        "level": next(name for least, name in _LEVELS if record.levelno >= least),
        "logger": record.name,
        "message": message,
    }
    # ASCII: nothing in it can end a line, for whatever reads it.
    return json.dumps(fields | {"exception": trace} if trace else fields)


def _say_the_rest_to_nobody() -> None:
    nobody = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nobody, sys.stdout.fileno())
    os.close(nobody)
    os.kill(os.getpid(), signal.SIGTERM)


def _ended_by(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.error("A fault in the program has ended it.", exc_info=(kind, error, trace))


def _thread_ended_by(fault: threading.ExceptHookArgs) -> None:
    if fault.exc_value is not None and not isinstance(fault.exc_value, SystemExit):
        name = fault.thread.name if fault.thread else "without a name"
        error = (fault.exc_type, fault.exc_value, fault.exc_traceback)
        log.error("A fault in the program has ended its thread %s.", name, exc_info=error)


def _passed_over(fault: sys.UnraisableHookArgs) -> None:
    if fault.exc_value is not None:
        error = (fault.exc_type, fault.exc_value, fault.exc_traceback)
        log.error("%s %r", fault.err_msg or "An exception was passed over in", fault.object, exc_info=error)

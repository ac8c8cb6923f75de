"""Print and log secrets, then end as the first argument says: `log_child.py ENDING OUTPUT_FORMAT`.

The secrets come as a line of JSON on standard input: known secrets, and texts that only look like secrets.
"""

from __future__ import annotations

import json
import logging
import signal
import sys
import threading
import time
from typing import NoReturn

from bot.base import logging_setup
from bot.base.redaction import hide

log = logging.getLogger("child")


class LeakingFinalizer:
    """An object whose finalizer raises an error that nothing can catch."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __del__(self) -> None:
        """Fail."""
        raise ValueError(self._text)


def leak_secrets(text: str) -> None:
    """Print and log a text in every way that does not end the program."""
    logging_setup.print_line(f"printed {text}")
    log.warning("logged %r", {"headers": text})
    thread = threading.Thread(target=raise_error, args=(text,), name="leaking")
    thread.start()
    thread.join()
    LeakingFinalizer(f"third {text}")
    # SystemExit ends a thread on purpose and is no error.
    thread = threading.Thread(target=sys.exit, args=(text,))
    thread.start()
    thread.join()


def raise_error(text: str) -> NoReturn:
    """Raise an error with the text, caused by another one."""
    try:
        raise OSError(f"first {text}")
    except OSError as error:
        raise ValueError(f"second {text}", {"argument": text}) from error


def print_until_sigterm() -> None:
    """Print lines until SIGTERM comes, and then some more; exit with 0 if it came once."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: signals.append(number))
    while not signals:
        logging_setup.print_line("a line")
        log.warning("a warning")
        time.sleep(0.001)
    for _ in range(10):
        logging_setup.print_line("a line after SIGTERM")
    sys.exit(len(signals) - 1)


def main(ending: str, output_format: str) -> None:
    """Run as the module's docstring says."""
    known_secrets, secret_patterns = json.loads(sys.stdin.readline())
    logging_setup.configure(output_format)
    hide(*known_secrets)
    if ending == "print":
        print_until_sigterm()
    text = " ".join([*known_secrets, *secret_patterns])
    leak_secrets(text)
    if ending == "raise":
        raise_error(text)


if __name__ == "__main__":
    main(*sys.argv[1:])

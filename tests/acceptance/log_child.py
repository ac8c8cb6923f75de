"""Says and logs, and then ends in the way that its first argument names: `log_child.py WAY FORM`.

The secrets that it spills come as a line of JSON on its standard input: what is known to be secret, and what is not.
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

log = logging.getLogger("child")


class LeakingFinalizer:
    """Fails where nobody can catch it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __del__(self) -> None:
        """Fail."""
        raise ValueError(self._text)


def leak_secrets(text: str) -> None:
    """Show a text in every way that a program has, short of its end."""
    logging_setup.print_line(f"said {text}")
    log.warning("logged %r", {"headers": text})
    thread = threading.Thread(target=raise_error, args=(text,), name="spilling")
    thread.start()
    thread.join()
    LeakingFinalizer(f"third {text}")
    # What a thread is ended by on purpose is no fault.
    thread = threading.Thread(target=sys.exit, args=(text,))
    thread.start()
    thread.join()


def raise_error(text: str) -> NoReturn:
    """Raise an error with the text, out of another one."""
    try:
        raise OSError(f"first {text}")
    except OSError as error:
        raise ValueError(f"second {text}", {"argument": text}) from error


def print_until_sigterm() -> None:
    """Say lines until SIGTERM comes, and then some more; end with 0 where it came once."""
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: signals.append(number))
    while not signals:
        logging_setup.print_line("a line")
        log.warning("a warning")
        time.sleep(0.001)
    for _ in range(10):
        logging_setup.print_line("on the way out")
    sys.exit(len(signals) - 1)


def main(ending: str, output_format: str) -> None:
    """Do it."""
    known_secrets, secret_patterns = json.loads(sys.stdin.readline())
    logging_setup.configure(output_format)
    logging_setup.hide(*known_secrets)
    if ending == "say":
        print_until_sigterm()
    text = " ".join([*known_secrets, *secret_patterns])
    leak_secrets(text)
    if ending == "raise":
        raise_error(text)


if __name__ == "__main__":
    main(*sys.argv[1:])

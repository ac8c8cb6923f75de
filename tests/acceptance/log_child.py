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


class Spilling:
    """Fails where nobody can catch it."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __del__(self) -> None:
        """Fail."""
        raise ValueError(self._text)


def spill(text: str) -> None:
    """Show a text in every way that a program has, short of its end."""
    logging_setup.say(f"said {text}")
    log.warning("logged %r", {"headers": text})
    thread = threading.Thread(target=fail, args=(text,), name="spilling")
    thread.start()
    thread.join()
    Spilling(f"third {text}")
    # What a thread is ended by on purpose is no fault.
    thread = threading.Thread(target=sys.exit, args=(text,))
    thread.start()
    thread.join()


def fail(text: str) -> NoReturn:
    """Raise an error with the text, out of another one."""
    try:
        raise OSError(f"first {text}")
    except OSError as error:
        raise ValueError(f"second {text}", {"argument": text}) from error


def say_for_ever() -> None:
    """Say lines until SIGTERM comes, and then some more; end with 0 where it came once."""
    came: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: came.append(number))
    while not came:
        logging_setup.say("a line")
        log.warning("a warning")
        time.sleep(0.001)
    for _ in range(10):
        logging_setup.say("on the way out")
    sys.exit(len(came) - 1)


def main(way: str, form: str) -> None:
    """Do it."""
    known, shaped = json.loads(sys.stdin.readline())
    logging_setup.set_up(form)
    logging_setup.hide(*known)
    if way == "say":
        say_for_ever()
    text = " ".join([*known, *shaped])
    spill(text)
    if way == "raise":
        fail(text)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Forks while another of its threads holds the lock of a histogram, and counts in the child."""

from __future__ import annotations

import os
import signal
import sys
import threading

from bot.base import metrics

ALARM_SECONDS = 10

counting, go_on = threading.Event(), threading.Event()


class Slow(float):
    """A number that is added when it may be: what adds it holds its lock so long."""

    def __radd__(self, other: object) -> float:
        counting.set()
        go_on.wait()
        return float(self)


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Count in a thread, fork in the middle of it, count in both."""
    metrics.nonce_issued()
    worker = threading.Thread(target=metrics.turn_taken, args=(Slow(1.0),))
    worker.start()
    counting.wait()
    child = os.fork()
    if child:
        metrics.nonce_issued()
        os.waitpid(child, 0)
        go_on.set()
        worker.join()
        say(f"in the parent: {metrics.issued()} nonces")
        return
    # One that hangs would outlive the test.
    signal.alarm(ALARM_SECONDS)
    metrics.nonce_issued()
    metrics.turn_taken(1.0)
    lines = metrics.text().decode().splitlines()
    (waited,) = [line for line in lines if line.startswith("kraken_bot_turn_wait_seconds_sum")]
    say(f"in the child: {metrics.issued()} nonces; {waited}")
    os._exit(0)


if __name__ == "__main__":
    main()

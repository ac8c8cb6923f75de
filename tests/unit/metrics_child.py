"""Fork while another thread holds the lock of a histogram, and count in the child process."""

from __future__ import annotations

import os
import signal
import sys
import threading

from bot.base import metrics
from bot.dashboard import prometheus

ALARM_SECONDS = 10

counting, may_continue = threading.Event(), threading.Event()


class SlowNumber(float):
    """A number whose addition blocks until the test allows it, so the histogram holds its lock that long."""

    def __radd__(self, other: object) -> float:
        counting.set()
        may_continue.wait()
        return float(self)


def print_line(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Count in a thread, fork while it counts, and count in both processes."""
    metrics.record_nonce_issued()
    worker = threading.Thread(target=metrics.record_request_lock_wait, args=(SlowNumber(1.0),))
    worker.start()
    counting.wait()
    child = os.fork()
    if child:
        metrics.record_nonce_issued()
        os.waitpid(child, 0)
        may_continue.set()
        worker.join()
        print_line(f"in the parent: {metrics.issued_total()} nonces")
        return
    # A child that hangs would outlive the test.
    signal.alarm(ALARM_SECONDS)
    metrics.record_nonce_issued()
    metrics.record_request_lock_wait(1.0)
    lines = prometheus.render({}).decode().splitlines()
    (waited,) = [line for line in lines if line.startswith("kraken_bot_request_lock_wait_seconds_sum")]
    print_line(f"in the child: {metrics.issued_total()} nonces; {waited}")
    os._exit(0)


if __name__ == "__main__":
    main()

"""Tasks for the tests of SharedJson in child processes: `python -m tests.stores.shared_children TASK ARGUMENTS`."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable

from bot.base import shared_json
from bot.base.shared_json import Fields, SharedJson
from bot.kraken.rate_counters import STARTER
from bot.kraken.rate_limiter import RateLimiter
from tests.stores.children import print_line, read_line


def step(fields: Fields) -> int:
    """Increment the count and return it."""
    fields["count"] = fields.get("count", 0.0) + 1.0
    return int(fields["count"])


def count(path: str, times: str) -> None:
    """Wait for the parent's line, then increment the count `times` times."""
    fields = SharedJson(path)
    print_line("ready")
    read_line()
    for _ in range(int(times)):
        fields.update(step)
    print_line("done")


def count_forever(path: str) -> None:
    """Increment the count in a tight loop; write each count to standard output."""
    fields = SharedJson(path)
    while True:
        os.write(1, b"%d\n" % fields.update(step))


def count_on_a_full_disk(path: str) -> None:
    """Increment the count twice on a full disk, after another object's increment, and once more with free space.

    Print each count, and whether there is no problem.
    """
    SharedJson(path).update(step)
    fields = SharedJson(path)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 0, before[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        print_line(f"{fields.update(step)} {fields.problem is None}")


def hold(path: str) -> None:
    """Hold the file's lock until the parent writes a line."""

    def wait(_: Fields) -> None:
        print_line("held")
        read_line()

    SharedJson(path).update(wait)
    print_line("let go")


def fork_during_update(path: str) -> None:
    """Fork while another thread is inside an update; the child increments through the same object after that thread."""
    shared_json.LOCK_TIMEOUT_SECONDS = 60.0
    fields = SharedJson(path)
    inside, may_finish = threading.Event(), threading.Event()

    def wait(fields_in_update: Fields) -> None:
        step(fields_in_update)
        inside.set()
        may_finish.wait()
        print_line("parent goes on")

    thread = threading.Thread(target=fields.update, args=(wait,))
    thread.start()
    inside.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        print_line("child")
        print_line(fields.update(step))
        os._exit(0)
    read_line()
    may_finish.set()
    thread.join()
    os.waitpid(pid, 0)


def crash_after_exhausting_reads(path: str, now: str) -> None:
    """Record reads of a Starter key until one has to wait; print how many, and die."""
    rate_limiter, acquired = RateLimiter(path, STARTER), 0
    while not rate_limiter.try_acquire_rest("BalanceEx", float(now)):
        acquired += 1
    print_line(acquired)
    os.kill(os.getpid(), signal.SIGKILL)


TASKS: dict[str, Callable[..., None]] = {
    task.__name__: task
    for task in (count, count_forever, count_on_a_full_disk, hold, fork_during_update, crash_after_exhausting_reads)
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])

"""What the child processes of the shared fields' tests do: `python -m tests.stores.shared_children TASK ARGUMENTS`."""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
from collections.abc import Callable

from bot.base import shared_json
from bot.base.shared_json import Fields, SharedFields
from bot.kraken.rate_counters import STARTER
from bot.kraken.rate_limiter import KeyBudget
from tests.stores.children import hear, say


def step(fields: Fields) -> int:
    """Count one more; return the count."""
    fields["count"] = fields.get("count", 0.0) + 1.0
    return int(fields["count"])


def count(path: str, times: str) -> None:
    """Wait for the parent's word, then count so many steps."""
    fields = SharedFields(path)
    say("ready")
    hear()
    for _ in range(int(times)):
        fields.change(step)
    say("done")


def count_for_ever(path: str) -> None:
    """Count in a tight loop; after each step write the count to standard output."""
    fields = SharedFields(path)
    while True:
        os.write(1, b"%d\n" % fields.change(step))


def count_on_a_full_disk(path: str) -> None:
    """Count two steps on a full disk, after one of somebody else's, and one more when it has room again.

    Say each count, and whether all is well.
    """
    SharedFields(path).change(step)
    fields = SharedFields(path)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for limit in (0, 0, before[0]):
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        say(f"{fields.change(step)} {fields.problem is None}")


def hold(path: str) -> None:
    """Hold the fields until the parent says something."""

    def wait(_: Fields) -> None:
        say("held")
        hear()

    SharedFields(path).change(wait)
    say("let go")


def fork_in_a_change(path: str) -> None:
    """Fork while another thread is in a change; the child counts on the same object after that thread."""
    shared_json.LOCK_SECONDS_MAX = 60.0
    fields = SharedFields(path)
    inside, leave = threading.Event(), threading.Event()

    def wait(held: Fields) -> None:
        step(held)
        inside.set()
        leave.wait()
        say("parent goes on")

    thread = threading.Thread(target=fields.change, args=(wait,))
    thread.start()
    inside.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(60)
        say("child")
        say(fields.change(step))
        os._exit(0)
    hear()
    leave.set()
    thread.join()
    os.waitpid(pid, 0)


def crash_after_reads(path: str, now: str) -> None:
    """Book reads of a starter's key until it has to wait; say how many, and die."""
    budget, booked = KeyBudget(path, STARTER), 0
    while not budget.take_rest("BalanceEx", float(now)):
        booked += 1
    say(booked)
    os.kill(os.getpid(), signal.SIGKILL)


TASKS: dict[str, Callable[..., None]] = {
    task.__name__: task
    for task in (count, count_for_ever, count_on_a_full_disk, hold, fork_in_a_change, crash_after_reads)
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])

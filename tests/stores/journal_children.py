"""Tasks that the journal tests run in child processes: `python -m tests.stores.journal_children TASK ARGUMENTS`."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from decimal import Decimal

from bot.base.errors import JournalError, JournalVersionError, OrderBlockedError
from bot.base.models import OrderStatus
from bot.orders.journal import Journal
from bot.orders.order_state import OrderState
from tests.journal_rows import make_intent, make_kraken_order, make_open_kraken_order

MODULE = "tests.stores.journal_children"
_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE = 24, 1
_SMALL_DISK = 'mount -t tmpfs -o size=400k tmpfs "$0" && exec "$@"'


def print_line(text: object) -> None:
    """Print a line for the parent in one write."""
    os.write(1, f"{text}\n".encode())


def run_without_dac_override(*task_arguments: str) -> None:
    """Run a task in a process that obeys file modes even when root runs it."""
    ctypes.CDLL(None).prctl(_PR_CAPBSET_DROP, _CAP_DAC_OVERRIDE, 0, 0, 0)
    os.execv(sys.executable, [sys.executable, "-m", MODULE, *task_arguments])  # noqa: S606 - this program again


def run_on_small_disk(folder: str, *task_arguments: str) -> None:
    """Run a task where `folder` is a disk of 400 KiB that vanishes with the process."""
    child = [sys.executable, "-m", MODULE, *task_arguments]
    own_mounts = ["unshare", "--user", "--map-root-user", "--mount"]
    os.execvp("unshare", [*own_mounts, "sh", "-c", _SMALL_DISK, folder, *child])  # noqa: S606 - this program again


def run_counting_fsyncs(log: str, *task_arguments: str) -> None:
    """Run a task and log each of its fsyncs to `log`."""
    trace = ["strace", "-f", "-qq", "-e", "trace=fsync,fdatasync", "-e", "signal=none", "-o", log]
    os.execvp("strace", [*trace, sys.executable, "-m", MODULE, *task_arguments])  # noqa: S606 - this program again


def send(journal: Journal, cl_ord_id: str, symbol: str = "BTC/USD") -> None:
    """Record an order's intent and mark it sent."""
    journal.record_intent(make_intent(cl_ord_id, symbol=symbol))
    journal.mark_sent(cl_ord_id, "1790000000000000", 103.0, 111.0)


class CommandServer:
    """Execute the parent's commands, one per line, and answer each with a line."""

    def __init__(self, path: str) -> None:
        self.journal = Journal(path)
        self.path = path
        self.number = 0

    def send(self, cl_ord_id: str) -> str:
        """Send an order in a pair of its own."""
        send(self.journal, cl_ord_id, f"{cl_ord_id}/USD")
        return "sent"

    def send_btc(self, cl_ord_id: str) -> str:
        """Send an order in the pair that all processes share."""
        send(self.journal, cl_ord_id)
        return "sent"

    def reconcile(self, cl_ord_id: str) -> str:
        """Record that an order was not placed."""
        self.journal.set_state(cl_ord_id, OrderState.NOT_PLACED)
        return "reconciled"

    def unreconciled(self) -> str:
        """Return the ids of the orders with an unknown outcome."""
        return " ".join(sorted(intent.cl_ord_id for intent in self.journal.unresolved_intents()))

    def reopen(self) -> str:
        """Close the journal and open it again, as a new process would."""
        self.journal.close()
        self.journal = Journal(self.path)
        return "reopened"

    def limit_file_size(self, size: str) -> str:
        """Limit the size of every file to `size` bytes from now on; `all` restores the limit."""
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most if size == "all" else int(size), most))
        return "set"

    def crash(self, cl_ord_id: str) -> str:
        """Send an order from another process and kill that process with SIGKILL."""
        self.journal.close()
        pid = os.fork()
        if pid == 0:
            send(Journal(self.path), cl_ord_id, f"{cl_ord_id}/USD")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        self.journal = Journal(self.path)
        return "crashed"

    def fill_disk(self) -> str:
        """Fill the disk to its last byte."""
        with contextlib.suppress(OSError), open(self.path + ".fill", "wb", buffering=0) as file:
            while True:
                file.write(b"x" * 64)
        return "full"

    def free_disk(self) -> str:
        """Free the disk again."""
        os.unlink(self.path + ".fill")
        return "free"

    def send_until_refused(self) -> str:
        """Send orders until one is refused; return the ids of the orders before it."""
        done = []
        with contextlib.suppress(JournalError):
            while True:
                self.number += 1
                self.send(f"n{self.number}")
                done.append(f"n{self.number}")
        return " ".join(done)


def serve(path: str) -> None:
    """Answer the parent's commands until its input ends."""
    server = CommandServer(path)
    print_line("ready")
    for line in sys.stdin:
        word, *arguments = line.split()
        try:
            print_line(getattr(server, word)(*arguments))
        except (JournalError, JournalVersionError, OrderBlockedError) as error:
            print_line(f"{type(error).__name__}: {error}")


def send_forever(path: str, prefix: str) -> None:
    """Send and resolve one order after another; print each id once `mark_sent` has returned."""
    journal = Journal(path)
    number = 0
    while True:
        cl_ord_id = f"{prefix}{number:08d}"
        send(journal, cl_ord_id)
        print_line(cl_ord_id)
        journal.record_orders([make_kraken_order(cl_ord_id, f"O{cl_ord_id}")])
        number += 1


def die_before_every_statement(path: str) -> None:
    """Fork one child per SQL statement of an order's life cycle; each dies before its statement.

    The journal of each child is `path` followed by its number. Each child prints its number and the last step that was
    written; the last child finishes the life cycle.
    """
    number, status = 0, 1
    while status:
        pid = os.fork()
        if pid == 0:
            _run_order(f"{path}{number}", number)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        number += 1


def _run_order(path: str, statements: int) -> None:
    journal = Journal(path)
    journal.intents()
    left = statements

    def count(_statement: str) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

    with journal._database.read() as connection:
        connection.set_trace_callback(count)
    print_line(f"{statements} nothing")
    journal.record_intent(make_intent())
    print_line(f"{statements} intended")
    journal.mark_sent(make_intent().cl_ord_id, "1790000000000000", 103.0, 111.0)
    print_line(f"{statements} sent")
    journal.set_state(make_intent().cl_ord_id, OrderState.UNKNOWN)
    print_line(f"{statements} unknown")
    journal.record_orders([make_open_kraken_order(executed=Decimal("0.001"))])
    print_line(f"{statements} partly filled")
    journal.record_orders([make_kraken_order(status=OrderStatus.CANCELED)])
    print_line(f"{statements} cancelled")


def send_many(path: str, count: str) -> None:
    """Send and resolve `count` orders."""
    journal = Journal(path)
    for number in range(int(count)):
        send(journal, f"n{number}")
        journal.set_state(f"n{number}", OrderState.REFUSED)
        journal.record_orders([make_kraken_order(f"n{number}", f"O{number}")])


def open_concurrently(path: str, prefix: str, rounds: str) -> None:
    """In each round wait for the parent's line, then open a new journal and send ten orders."""
    print_line("ready")
    for number in range(int(rounds)):
        sys.stdin.readline()
        journal = Journal(f"{path}{number}")
        for order in range(10):
            send(journal, f"{prefix}{order}", f"{prefix}{order}/USD")
        print_line(f"sent {number}")


def fork_during_write(path: str) -> None:
    """Fork in the middle of a write; print what the child reads, and then what the parent reads."""
    journal = Journal(path)
    send(journal, "before")
    with journal._database.write() as connection:
        connection.execute("UPDATE intents SET symbol = 'ETH/USD'")
        pid = os.fork()
        if pid == 0:
            print_line(f"child {journal.intents()[0].symbol}")
            journal.close()
            os._exit(0)
        os.waitpid(pid, 0)
    print_line(f"parent {journal.intents()[0].symbol}")


def fork_while_threads_write(path: str, forks: str) -> None:
    """Send orders in threads and in children that are forked meanwhile; print how many each sent."""
    journal = Journal(path)
    stop = threading.Event()
    sent: list[str] = []

    def send_until_stopped(name: str) -> None:
        number = 0
        while not stop.wait(0.02):  # leaves the file free for the others at times
            number += 1
            send(journal, f"{name}-{number}", f"{name}-{number}/USD")
            sent.append(name)

    threads = [threading.Thread(target=send_until_stopped, args=(f"thread{number}",)) for number in range(3)]
    for thread in threads:
        thread.start()
    for number in range(int(forks)):
        pid = os.fork()
        if pid == 0:
            signal.alarm(30)
            send(journal, f"fork-{number}", f"fork-{number}/USD")
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            print_line(f"fork {number} ended with {status}")
            os._exit(1)
    stop.set()
    for thread in threads:
        thread.join()
    print_line(f"{len(sent)} {forks}")


TASKS: dict[str, Callable[..., None]] = {
    task.__name__: task
    for task in (
        run_without_dac_override,
        run_on_small_disk,
        run_counting_fsyncs,
        serve,
        send_forever,
        die_before_every_statement,
        send_many,
        open_concurrently,
        fork_during_write,
        fork_while_threads_write,
    )
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])

"""Tasks for the tests of nonce stores in child processes: `python -m tests.stores.store_children TASK ARGUMENTS`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from bot.base import clock
from bot.base.errors import LeaseLostError, StoreUnavailableError
from bot.nonce.file_store import FileStore
from bot.nonce.leader_election import LeaderElection
from bot.nonce.open_store import open_nonce_store
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import NonceRequest
from tests.stores.children import print_line, read_line
from tests.stores.memory_store import MemoryStore


def open_store(url: str, api_key: str, file: str) -> FileStore | SharedStore:
    """Return the key's store: at `url` with `file` as its local replica, or `file` alone where `url` is empty."""
    return SharedStore(open_nonce_store(url, api_key), FileStore(file)) if url else FileStore(file)


def print_nonces(url: str, api_key: str, file: str, count: str) -> None:
    """Wait for the parent's line, then print the next `count` nonces."""
    store = open_store(url, api_key, file)
    print_line("ready")
    read_line()
    print_line("\n".join(str(store.next_nonce()) for _ in range(int(count))))


def print_nonces_forever(url: str, api_key: str, file: str, ahead_us: str) -> None:
    """Request nonces in a tight loop, the first `ahead_us` ahead of the clock; write each to standard output."""
    store = open_store(url, api_key, file)
    nonce = store.next_nonce(clock.wall_us() + int(ahead_us))
    while True:
        os.write(1, b"%016d\n" % nonce)
        nonce = store.next_nonce()


def print_nonces_through_outages(url: str, api_key: str, ceiling: str) -> None:
    """Request nonces in a loop with the store as the only source; continue after each outage."""
    store = open_nonce_store(url, api_key)
    request = NonceRequest(0, int(ceiling))
    while True:
        try:
            nonce = store.next_nonce(request).nonce
        except StoreUnavailableError:
            clock.sleep(0.01)
            continue
        os.write(1, b"%016d\n" % nonce)


def fork_while_leading(file: str) -> None:
    """Acquire leadership; request a nonce in a forked child, then in this process; print both results."""
    store = SharedStore(MemoryStore(clock.wall_us), FileStore(file))
    election = LeaderElection(store, 3600.0)
    election.wait_for_leadership(threading.Event(), lambda _line: None)
    pid = os.fork()
    if not pid:
        try:
            print_line(f"the child gets {store.next_nonce()}")
        except LeaseLostError as error:
            print_line(error)
        os._exit(0)
    os.waitpid(pid, 0)
    print_line(f"the parent gets {len(str(store.next_nonce()))} digits")
    election.release(is_reconciled=True)


TASKS: dict[str, Callable[..., None]] = {
    task.__name__: task
    for task in (print_nonces, print_nonces_forever, print_nonces_through_outages, fork_while_leading)
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])

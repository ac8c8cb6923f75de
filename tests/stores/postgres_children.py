"""Tasks for PostgreSQL's tests in child processes: `python -m tests.stores.postgres_children TASK URL NAME`."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable

from bot.nonce.file_store import FileStore
from bot.nonce.postgres_store import PostgresStore
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import NonceRequest
from tests.stores.children import print_line, read_line

REQUEST = NonceRequest(floor=0, ceiling=2**63 - 1)


def first(url: str, name: str) -> None:
    """Print the next nonce after the parent's line."""
    store = PostgresStore(url, name)
    print_line("ready")
    read_line()
    print_line(store.next_nonce(REQUEST).nonce)
    store.close()


def fork(url: str, name: str, folder: str) -> None:
    """Request a nonce, one more in a forked child, and one more in the parent; print all three.

    Eight stores, because the order in which a store and its backend run their fork handlers is left to chance.
    """
    stores = [SharedStore(PostgresStore(url, name), FileStore(f"{folder}/{number}")) for number in range(8)]
    print_line(max(store.next_nonce() for store in stores))
    child = os.fork()
    if not child:
        print_line(stores[0].next_nonce())
        stores[0].backend.close()
        stores.clear()
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    print_line(stores[0].next_nonce())
    read_line()
    for store in stores:
        store.backend.close()


if __name__ == "__main__":
    tasks: dict[str, Callable[..., None]] = {"first": first, "fork": fork}
    tasks[sys.argv[1]](*sys.argv[2:])

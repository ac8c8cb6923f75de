"""What the child processes of PostgreSQL's own tests do: `python -m tests.stores.postgres_children TASK URL NAME`."""

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
    """Draw at the parent's word."""
    store = PostgresStore(url, name)
    print_line("ready")
    read_line()
    print_line(store.next_nonce(REQUEST).nonce)
    store.close()


def fork(url: str, name: str, folder: str) -> None:
    """Draw, have a forked child draw and end, and draw again; say the three nonces.

    With several stores, because it is left to chance whether a store or its engine hears of a fork first.
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

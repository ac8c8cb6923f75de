"""What the child processes of the shared stores' tests do: `python -m tests.stores.store_children TASK ARGUMENTS`."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable

from bot.base import clock
from bot.base.errors import LeaseLostError, StoreUnavailableError
from bot.nonce.file_store import FileStore
from bot.nonce.leader_election import Leadership
from bot.nonce.open_store import open_engine
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import Wish
from tests.stores.children import hear, say
from tests.stores.memory_store import MemoryEngine


def open_store(url: str, api_key: str, file: str) -> FileStore | SharedStore:
    """Return the store of the key: at `url` with `file` beside it, or where there is no URL the file alone."""
    return SharedStore(open_engine(url, api_key), FileStore(file)) if url else FileStore(file)


def draw(url: str, api_key: str, file: str, count: str) -> None:
    """Wait for the parent's word, then draw and print `count` nonces."""
    store = open_store(url, api_key, file)
    say("ready")
    hear()
    say("\n".join(str(store.draw()) for _ in range(int(count))))


def draw_for_ever(url: str, api_key: str, file: str, ahead_us: str) -> None:
    """Draw in a tight loop, the first nonce so far ahead of the clock; each is written to standard output at once."""
    store = open_store(url, api_key, file)
    nonce = store.draw(clock.wall_us() + int(ahead_us))
    while True:
        os.write(1, b"%016d\n" % nonce)
        nonce = store.draw()


def draw_through_trouble(url: str, api_key: str, ceiling: str) -> None:
    """Draw for ever with nothing but the store to say what is next, and go on when it was away."""
    engine = open_engine(url, api_key)
    wish = Wish(0, int(ceiling))
    while True:
        try:
            nonce = engine.draw(wish).nonce
        except StoreUnavailableError:
            clock.sleep(0.01)
            continue
        os.write(1, b"%016d\n" % nonce)


def fork_while_leading(file: str) -> None:
    """Lead, and draw in a forked child and then in this process; say what came of both."""
    store = SharedStore(MemoryEngine(clock.wall_us), FileStore(file))
    leadership = Leadership(store, 3600.0)
    leadership.wait(threading.Event(), lambda _said: None)
    pid = os.fork()
    if not pid:
        try:
            say(f"the child draws {store.draw()}")
        except LeaseLostError as error:
            say(error)
        os._exit(0)
    os.waitpid(pid, 0)
    say(f"the parent draws {len(str(store.draw()))} digits")
    leadership.sign_off(settled=True)


TASKS: dict[str, Callable[..., None]] = {
    task.__name__: task for task in (draw, draw_for_ever, draw_through_trouble, fork_while_leading)
}

if __name__ == "__main__":
    TASKS[sys.argv[1]](*sys.argv[2:])

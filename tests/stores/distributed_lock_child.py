"""Forks in a request lock: `python -m tests.stores.distributed_lock_child URL NAME FOLDER`."""

from __future__ import annotations

import os
import signal
import sys

from bot.nonce.distributed_lock import HostTurns
from bot.nonce.file_store import FileStore
from bot.nonce.local_lock import Turns, Urgency
from bot.nonce.postgres_store import PostgresEngine
from bot.nonce.redis_store import RedisEngine
from bot.nonce.shared_store import SharedStore
from tests.stores.children import say


def main(url: str, name: str, folder: str) -> None:
    """Fork in a turn; the child leaves the block, and then asks for a turn of its own."""
    store = SharedStore(
        (RedisEngine if url.startswith("redis") else PostgresEngine)(url, name), FileStore(f"{folder}/n")
    )
    turns = HostTurns(Turns(f"{folder}/kraken_nonce.0a1b2c3d.lock"), store)
    left, leave = os.pipe()
    pid = 0
    with turns.turn(Urgency.READ):
        store.draw()
        owner, pid = store.owner, os.fork()
        if pid:
            os.read(left, 1)
            row = store.engine.look()
            say("the parent has the turn" if row and row.turn_owner == owner else f"the turn is gone: {row}")
            say("parent gives back")
    if pid:
        _, status = os.waitpid(pid, 0)
        raise SystemExit(status)
    signal.alarm(60)
    say("child left the block")
    os.write(leave, b"x")
    with turns.turn(Urgency.READ):
        store.draw()
        say("child has a turn")
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

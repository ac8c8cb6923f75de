"""Fork while holding the distributed lock: `python -m tests.stores.distributed_lock_child URL NAME FOLDER`."""

from __future__ import annotations

import os
import signal
import sys

from bot.nonce.distributed_lock import DistributedRequestLock
from bot.nonce.file_store import FileStore
from bot.nonce.local_lock import Priority, RequestLock
from bot.nonce.postgres_store import PostgresStore
from bot.nonce.redis_store import RedisStore
from bot.nonce.shared_store import SharedStore
from tests.stores.children import print_line


def main(url: str, name: str, folder: str) -> None:
    """Fork while holding the lock; the child leaves the block, and then acquires the lock itself."""
    store = SharedStore((RedisStore if url.startswith("redis") else PostgresStore)(url, name), FileStore(f"{folder}/n"))
    lock = DistributedRequestLock(RequestLock(f"{folder}/kraken_nonce.0a1b2c3d.lock"), store)
    left_block_reader, left_block_writer = os.pipe()
    pid = 0
    with lock.hold(Priority.READ):
        store.next_nonce()
        owner, pid = store.owner, os.fork()
        if pid:
            os.read(left_block_reader, 1)
            record = store.backend.read_record()
            print_line(
                "the parent holds the lock"
                if record and record.lock_owner == owner
                else f"the parent does not hold the lock: {record}"
            )
            print_line("parent releases")
    if pid:
        _, status = os.waitpid(pid, 0)
        raise SystemExit(status)
    signal.alarm(60)
    print_line("child left the block")
    os.write(left_block_writer, b"x")
    with lock.hold(Priority.READ):
        store.next_nonce()
        print_line("child holds the lock")
    os._exit(0)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""A child process for the tests of Redis: `python -m tests.stores.redis_children URL`."""

from __future__ import annotations

import os
import signal
import sys
import threading

from bot.nonce.redis_store import RedisStore
from tests.stores.key_rows import granted_nonce, make_request

FORKS, NONCES_PER_CHILD = 8, 20


def print_nonces(process: str, nonces: list[int]) -> None:
    """Print the nonces of a process in one write."""
    os.write(1, f"{process} {' '.join(map(str, nonces))}\n".encode())


def request_in_forked_children(url: str) -> None:
    """Request nonces in two threads while this process forks, and in the forked children; each closes its store."""
    store = RedisStore(url, "forks")
    stop = threading.Event()
    thread_nonces: list[list[int]] = [[], []]

    def request_until_stopped(nonces: list[int]) -> None:
        while not stop.is_set():
            nonces.append(granted_nonce(store.next_nonce(make_request())))

    threads = [threading.Thread(target=request_until_stopped, args=(nonces,)) for nonces in thread_nonces]
    for thread in threads:
        thread.start()
    for number in range(FORKS):
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            print_nonces(
                f"child{number}", [granted_nonce(store.next_nonce(make_request())) for _ in range(NONCES_PER_CHILD)]
            )
            store.close()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            print_nonces(f"failed{number}", [status])
    stop.set()
    for thread, nonces in zip(threads, thread_nonces, strict=True):
        thread.join()
        print_nonces("parent", nonces)


if __name__ == "__main__":
    request_in_forked_children(sys.argv[1])

"""A process of its own for the tests of Redis: python -m tests.stores.redis_children URL."""

from __future__ import annotations

import os
import signal
import sys
import threading

from bot.nonce.redis_store import RedisEngine
from tests.stores.key_rows import drawn, wish

FORKS, DRAWS = 8, 20


def say(process: str, nonces: list[int]) -> None:
    """Print in one write which nonces a process has drawn."""
    os.write(1, f"{process} {' '.join(map(str, nonces))}\n".encode())


def draw_in_forks(url: str) -> None:
    """Draw in two threads of this process while it is forked, and in the children; each closes what it has."""
    engine = RedisEngine(url, "forks")
    stop = threading.Event()
    own: list[list[int]] = [[], []]

    def draw_until_stopped(nonces: list[int]) -> None:
        while not stop.is_set():
            nonces.append(drawn(engine.draw(wish())))

    threads = [threading.Thread(target=draw_until_stopped, args=(nonces,)) for nonces in own]
    for thread in threads:
        thread.start()
    for number in range(FORKS):
        pid = os.fork()
        if not pid:
            signal.alarm(20)
            say(f"child{number}", [drawn(engine.draw(wish())) for _ in range(DRAWS)])
            engine.close()
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        if status:
            say(f"failed{number}", [status])
    stop.set()
    for thread, nonces in zip(threads, own, strict=True):
        thread.join()
        say("parent", nonces)


if __name__ == "__main__":
    draw_in_forks(sys.argv[1])

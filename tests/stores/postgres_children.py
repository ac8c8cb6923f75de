"""What the child processes of PostgreSQL's own tests do: `python -m tests.stores.postgres_children TASK URL NAME`."""

from __future__ import annotations

import gc
import os
import sys

from bot.nonce.engine import Wish
from bot.nonce.postgres_engine import PostgresEngine
from tests.stores.children import hear, say

WISH = Wish(floor=0, ceiling=2**63 - 1)


def first(url: str, name: str) -> None:
    """Draw at the parent's word."""
    engine = PostgresEngine(url, name)
    say("ready")
    hear()
    say(engine.draw(WISH).nonce)
    engine.close()


def fork(url: str, name: str) -> None:
    """Draw, have a forked child draw and end, and draw again; say the three nonces."""
    engine = PostgresEngine(url, name)
    say(engine.draw(WISH).nonce)
    child = os.fork()
    if not child:
        say(engine.draw(WISH).nonce)
        engine.close()
        del engine
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0) == (child, 0)
    say(engine.draw(WISH).nonce)
    hear()
    engine.close()


if __name__ == "__main__":
    {"first": first, "fork": fork}[sys.argv[1]](*sys.argv[2:])

"""One private request per API key at a time, across hosts: the turn of a shared store, inside the machine's own.

A turn of the store has a lifetime, or a host that died with it would keep the key for ever. A holder that is paused
beyond it sends a lower nonce than its successor and is refused: the nonce is the fencing token.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from bot.base import clock
from bot.base.errors import TurnTimeout
from bot.nonce.local_lock import WAIT_SECONDS_MAX, Turns, Urgency
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import Outcome

# How soon the one who is next asks again, and how soon the others.
NEXT_PAUSE_SECONDS = 0.002
BUSY_PAUSE_SECONDS = 0.02


class HostTurns:
    """The turns of one sender on a key, ordered among its own machine's senders first, and then among the hosts."""

    def __init__(self, local: Turns, store: SharedStore) -> None:
        self._local = local
        self._store = store

    @contextmanager
    def turn(self, urgency: Urgency, timeout_seconds: float = WAIT_SECONDS_MAX) -> Iterator[None]:
        """Hold the turn for the length of a `with` block; its nonce is the first that this thread draws in it.

        Raises as `Turns.turn`, and StoreUnavailableError or LeaseLostError; in each case nothing was sent.
        """
        deadline = clock.boottime_seconds() + timeout_seconds
        with self._local.turn(urgency, timeout_seconds):
            nonce, owner = self._take(urgency, deadline), self._store.owner
            try:
                yield
            finally:
                # In a forked child the turn is its parent's, which may be sending in it.
                if owner == self._store.owner:
                    self._store.give_back(nonce)

    def check(self) -> None:
        """Raise TurnLostError, LeaseLostError or StoreUnavailableError where the request must not leave (any more)."""
        self._store.check()

    def stop(self, above: Urgency) -> None:
        """Refuse turns less urgent than `above` from now on, those that wait included."""
        self._local.stop(above)

    def close(self) -> None:
        """Close the machine's files; the store is shared by all of this process."""
        self._local.close()

    def _take(self, urgency: Urgency, deadline: float) -> int:
        began = clock.boottime_seconds()
        while not (drawn := self._store.take(clock.boottime_seconds() - began)).nonce:
            if clock.boottime_seconds() >= deadline:
                raise TurnTimeout(f"no turn from {self._store.place} in time: another host holds it; nothing was sent")
            self._local.check_stopping(urgency)
            pause_seconds = NEXT_PAUSE_SECONDS if drawn.outcome is Outcome.NEXT else BUSY_PAUSE_SECONDS
            clock.sleep(random.uniform(0.5, 1.5) * pause_seconds)
        return drawn.nonce

"""The contract of a shared store in plain Python, to read, and to hold Redis and PostgreSQL against."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from bot.nonce.store_protocol import NEXT_SECONDS, Drawn, Lease, Outcome, Row, Wish

SECOND_US = 1_000_000


@dataclass
class _Claim:
    """Somebody's until a moment; `lifetime_us` is the whole of it."""

    owner: str = ""
    until_us: int = 0
    lifetime_us: int = 0

    def remaining_us(self, now: int) -> int:
        self.until_us = min(self.until_us, now + self.lifetime_us)
        return max(0, self.until_us - now) if self.owner else 0

    def begin(self, owner: str, now: int, seconds: float) -> None:
        self.owner, self.lifetime_us = owner, round(seconds * SECOND_US)
        self.until_us = now + self.lifetime_us

    def end(self) -> None:
        self.owner, self.until_us = "", 0


class MemoryEngine:
    """One key's row in this process; `now_us` is the server's clock."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.place = "memory"
        self._now_us = now_us
        self._lock = threading.Lock()
        self.wipe()

    def wipe(self) -> None:
        """Lose everything."""
        self.nonce = 0
        self._turn, self._next, self._lease = _Claim(), _Claim(), _Claim()
        self._turn_nonce = self._next_since = 0
        self._generation = 0
        self._settled = self._clean = False

    def draw(self, wish: Wish) -> Drawn:
        with self._lock:
            return self._draw(wish, self._now_us())

    def take(self, wish: Wish, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0) -> Drawn:
        with self._lock:
            now = self._now_us()
            if self._is_stale(wish, now):
                return Drawn(Outcome.STALE, 0, self.nonce)
            held = self._turn.remaining_us(now) > 0
            reserved_us = self._next.remaining_us(now)
            since = now - round(waited_seconds * SECOND_US)
            reserved = reserved_us > 0 and self._next.owner != owner and self._next_since <= since
            if self._turn.owner != owner if held else reserved:
                if reserved:
                    return Drawn(Outcome.BUSY, 0, self.nonce)
                if self._next.owner != owner or reserved_us <= NEXT_SECONDS * SECOND_US / 2:
                    self._next.begin(owner, now, NEXT_SECONDS)
                    self._next_since = since
                return Drawn(Outcome.NEXT, 0, self.nonce)
            drawn = self._draw(wish, now)
            if drawn.outcome is Outcome.DRAWN:
                self._turn.begin(owner, now, lifetime_seconds)
                self._turn_nonce = drawn.nonce
                if self._next.owner == owner:
                    self._next.end()
            return drawn

    def _draw(self, wish: Wish, now: int) -> Drawn:
        if self._is_stale(wish, now):
            return Drawn(Outcome.STALE, 0, self.nonce)
        nonce = max(now * wish.ticks, self.nonce + 1, wish.floor)
        if nonce > wish.ceiling:
            return Drawn(Outcome.AHEAD, 0, self.nonce)
        last, self.nonce = self.nonce, nonce
        return Drawn(Outcome.DRAWN, nonce, last)

    def _is_stale(self, wish: Wish, now: int) -> bool:
        if not wish.generation:
            return False
        return wish.generation != self._generation or not self._lease.remaining_us(now)

    def give_back(self, nonce: int) -> None:
        with self._lock:
            if self._turn_nonce == nonce:
                self._turn.end()

    def acquire(self, owner: str, lifetime_seconds: float) -> Lease:
        with self._lock:
            now = self._now_us()
            remaining_us = self._lease.remaining_us(now)
            if remaining_us and self._lease.owner == owner:
                self._lease.begin(owner, now, lifetime_seconds)
            elif not remaining_us:
                self._clean = self._settled
                if self._lease.owner and self._turn.owner == self._lease.owner:
                    self._turn.end()
                self._lease.begin(owner, now, lifetime_seconds)
                self._generation = max(self._generation + 1, now)
                self._settled = False
            return self._standing(now)

    def renew(self, generation: int, lifetime_seconds: float) -> bool:
        with self._lock:
            now = self._now_us()
            if generation != self._generation or not self._lease.remaining_us(now):
                return False
            self._lease.begin(self._lease.owner, now, lifetime_seconds)
            return True

    def sign_off(self, generation: int, settled: bool) -> None:
        with self._lock:
            if self._lease.owner and generation == self._generation:
                if self._turn.owner == self._lease.owner:
                    self._turn.end()
                self._settled = settled and self._lease.remaining_us(self._now_us()) > 0
                self._lease.end()

    def look(self) -> Row | None:
        with self._lock:
            now = self._now_us()
            if not self.nonce and not self._generation:
                return None
            turn_owner = self._turn.owner if self._turn.remaining_us(now) else ""
            return Row(self.nonce, self._standing(now), turn_owner)

    def _standing(self, now: int) -> Lease:
        remaining_seconds = self._lease.remaining_us(now) / SECOND_US
        return Lease(self._lease.owner, self._generation, remaining_seconds, self._clean)

    def close(self) -> None:
        """Nothing is open."""

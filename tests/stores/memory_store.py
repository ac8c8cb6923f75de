"""The contract of a nonce store in plain Python: the reference for Redis and PostgreSQL."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from bot.nonce.store_protocol import RESERVATION_SECONDS, GrantStatus, KeyRecord, Lease, NonceGrant, NonceRequest

MICROSECONDS_PER_SECOND = 1_000_000


@dataclass
class _Claim:
    """Ownership until a deadline; `lifetime_us` is its whole lifetime."""

    owner: str = ""
    until_us: int = 0
    lifetime_us: int = 0

    def remaining_us(self, now: int) -> int:
        self.until_us = min(self.until_us, now + self.lifetime_us)
        return max(0, self.until_us - now) if self.owner else 0

    def begin(self, owner: str, now: int, lifetime_seconds: float) -> None:
        self.owner, self.lifetime_us = owner, round(lifetime_seconds * MICROSECONDS_PER_SECOND)
        self.until_us = now + self.lifetime_us

    def end(self) -> None:
        self.owner, self.until_us = "", 0


class MemoryStore:
    """One key's record in this process; `now_us` is the server's clock."""

    def __init__(self, now_us: Callable[[], int]) -> None:
        self.location = "memory"
        self._now_us = now_us
        self._lock = threading.Lock()
        self.wipe()

    def wipe(self) -> None:
        """Delete the record."""
        self.nonce = 0
        self._lock_claim, self._reservation, self._lease_claim = _Claim(), _Claim(), _Claim()
        self._lock_nonce = self._waiting_since = 0
        self._fencing_token = 0
        self._is_reconciled = self._is_clean_handover = False

    def next_nonce(self, request: NonceRequest) -> NonceGrant:
        with self._lock:
            return self._next_nonce(request, self._now_us())

    def acquire_lock(
        self, request: NonceRequest, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0
    ) -> NonceGrant:
        with self._lock:
            now = self._now_us()
            if self._is_stale(request, now):
                return NonceGrant(GrantStatus.STALE, 0, self.nonce)
            is_held = self._lock_claim.remaining_us(now) > 0
            reserved_us = self._reservation.remaining_us(now)
            waiting_since = now - round(waited_seconds * MICROSECONDS_PER_SECOND)
            is_reserved = reserved_us > 0 and self._reservation.owner != owner and self._waiting_since <= waiting_since
            if self._lock_claim.owner != owner if is_held else is_reserved:
                if is_reserved:
                    return NonceGrant(GrantStatus.BUSY, 0, self.nonce)
                if self._reservation.owner != owner or reserved_us <= RESERVATION_SECONDS * MICROSECONDS_PER_SECOND / 2:
                    self._reservation.begin(owner, now, RESERVATION_SECONDS)
                    self._waiting_since = waiting_since
                return NonceGrant(GrantStatus.RESERVED, 0, self.nonce)
            grant = self._next_nonce(request, now)
            if grant.status is GrantStatus.GRANTED:
                self._lock_claim.begin(owner, now, lifetime_seconds)
                self._lock_nonce = grant.nonce
                if self._reservation.owner == owner:
                    self._reservation.end()
            return grant

    def _next_nonce(self, request: NonceRequest, now: int) -> NonceGrant:
        if self._is_stale(request, now):
            return NonceGrant(GrantStatus.STALE, 0, self.nonce)
        nonce = max(now * request.units_per_microsecond, self.nonce + 1, request.floor)
        if nonce > request.ceiling:
            return NonceGrant(GrantStatus.ABOVE_CEILING, 0, self.nonce)
        previous_nonce, self.nonce = self.nonce, nonce
        return NonceGrant(GrantStatus.GRANTED, nonce, previous_nonce)

    def _is_stale(self, request: NonceRequest, now: int) -> bool:
        if not request.fencing_token:
            return False
        return request.fencing_token != self._fencing_token or not self._lease_claim.remaining_us(now)

    def release_lock(self, nonce: int) -> None:
        with self._lock:
            if self._lock_nonce == nonce:
                self._lock_claim.end()

    def acquire_lease(self, owner: str, lifetime_seconds: float) -> Lease:
        with self._lock:
            now = self._now_us()
            remaining_us = self._lease_claim.remaining_us(now)
            if remaining_us and self._lease_claim.owner == owner:
                self._lease_claim.begin(owner, now, lifetime_seconds)
            elif not remaining_us:
                self._is_clean_handover = self._is_reconciled
                if self._lease_claim.owner and self._lock_claim.owner == self._lease_claim.owner:
                    self._lock_claim.end()
                self._lease_claim.begin(owner, now, lifetime_seconds)
                self._fencing_token = max(self._fencing_token + 1, now)
                self._is_reconciled = False
            return self._current_lease(now)

    def renew_lease(self, fencing_token: int, lifetime_seconds: float) -> bool:
        with self._lock:
            now = self._now_us()
            if fencing_token != self._fencing_token or not self._lease_claim.remaining_us(now):
                return False
            self._lease_claim.begin(self._lease_claim.owner, now, lifetime_seconds)
            return True

    def release_lease(self, fencing_token: int, is_reconciled: bool) -> None:
        with self._lock:
            if self._lease_claim.owner and fencing_token == self._fencing_token:
                if self._lock_claim.owner == self._lease_claim.owner:
                    self._lock_claim.end()
                self._is_reconciled = is_reconciled and self._lease_claim.remaining_us(self._now_us()) > 0
                self._lease_claim.end()

    def read_record(self) -> KeyRecord | None:
        with self._lock:
            now = self._now_us()
            if not self.nonce and not self._fencing_token:
                return None
            lock_owner = self._lock_claim.owner if self._lock_claim.remaining_us(now) else ""
            return KeyRecord(self.nonce, self._current_lease(now), lock_owner)

    def _current_lease(self, now: int) -> Lease:
        remaining_seconds = self._lease_claim.remaining_us(now) / MICROSECONDS_PER_SECOND
        return Lease(self._lease_claim.owner, self._fencing_token, remaining_seconds, self._is_clean_handover)

    def close(self) -> None:
        """Do nothing: no connection is open."""

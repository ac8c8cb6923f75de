"""API keys: signature, nonce floor, nonce window, permissions, lockout.

Order of checks (Kraken publishes none; each check refuses before the next one): key known, not locked out, signature,
nonce, permission. A bad signature never moves the floor; a good one with a fresh nonce always does.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from collections import Counter, deque
from dataclasses import dataclass

from bot.simulator.errors import Refusal, SimulatorError

U64_MAX = 2**64 - 1
LOCKOUT_SECONDS = 900.0
LOCKOUT_WINDOW_SECONDS = 60.0
TRADING_PERMISSIONS = ("query-funds", "query-open-trades", "query-closed-trades", "modify-trades", "close-trades")


def sign(secret: str, path: str, nonce: str, payload: str) -> str:
    """Return API-Sign as Kraken's authentication guide defines it."""
    inner = hashlib.sha256((nonce + payload).encode()).digest()
    return base64.b64encode(hmac.digest(base64.b64decode(secret), path.encode() + inner, "sha512")).decode()


@dataclass(slots=True)
class ApiKey:
    """One key pair. `floor` is the highest nonce accepted, for ever; `created` is market time."""

    key: str
    secret: str
    name: str
    permissions: tuple[str, ...]
    nonce_window: int
    floor: int
    created: float
    used: float = 0.0


class KeyRing:
    """All keys of the account. Not thread-safe: the exchange's lock is around it.

    `lockout_after` bad keys, signatures or nonces within 60 s lock everyone out for 15 minutes, extended by further
    calls (0: never). `allow_nonce_repeats`: whether the same nonce may be used twice inside a nonce window.
    """

    def __init__(self, lockout_after: int = 0, allow_nonce_repeats: bool = False) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.changed_keys: dict[str, ApiKey] = {}
        self.refused_nonces: Counter[str] = Counter()
        self._lockout_after = lockout_after
        self._allow_nonce_repeats = allow_nonce_repeats
        self._failure_times: deque[float] = deque()
        self._locked_until = 0.0
        self._seen_nonces: dict[str, set[int]] = {}

    def add(self, key: ApiKey) -> None:
        """Add a key. Raises SimulatorError when its secret is not Base64."""
        try:
            base64.b64decode(key.secret, validate=True)
        except binascii.Error:
            raise SimulatorError("The secret of an API key must be Base64.") from None
        self.keys[key.key] = key
        self.changed_keys[key.key] = key

    def raise_nonce_floor(self, key: str, nonce: int) -> None:
        """Simulate another sender on the key, which has a higher nonce accepted."""
        self._record_nonce(self.keys[key], nonce)

    def authenticate(self, api_key: str, signature: str, path: str, nonce: str, payload: str, now: float) -> ApiKey:
        """Return the key of a request and move its floor. Raises Refusal."""
        key = self.keys.get(api_key)
        if key is None:
            self._record_failure(now)
            raise Refusal("EAPI:Invalid key")
        self._check_lockout(now)
        expected = sign(key.secret, path, nonce, payload)
        if not hmac.compare_digest(expected.encode(), signature.encode()):
            self._record_failure(now)
            raise Refusal("EAPI:Invalid signature")
        number = _parse_nonce(nonce)
        if number is None or not self._is_fresh(key, number):
            self._record_failure(now)
            self.refused_nonces[key.key] += 1
            raise Refusal("EAPI:Invalid nonce")
        self._record_nonce(key, number)
        key.used = now
        return key

    def _is_fresh(self, key: ApiKey, nonce: int) -> bool:
        if nonce > key.floor:
            return True
        if nonce < key.floor - key.nonce_window or not key.nonce_window:
            return False
        return self._allow_nonce_repeats or nonce not in self._seen_nonces.get(key.key, ())

    def _record_nonce(self, key: ApiKey, nonce: int) -> None:
        key.floor = max(key.floor, nonce)
        self.changed_keys[key.key] = key
        if key.nonce_window:
            seen = self._seen_nonces.setdefault(key.key, set())
            seen.add(nonce)
            if len(seen) > 10_000:
                seen.difference_update([old for old in seen if old < key.floor - key.nonce_window])

    def _check_lockout(self, now: float) -> None:
        if now < self._locked_until:
            self._locked_until = now + LOCKOUT_SECONDS
            raise Refusal("EGeneral:Temporary lockout")

    def _record_failure(self, now: float) -> None:
        self._check_lockout(now)
        if not self._lockout_after:
            return
        self._failure_times.append(now)
        while self._failure_times and self._failure_times[0] < now - LOCKOUT_WINDOW_SECONDS:
            self._failure_times.popleft()
        if len(self._failure_times) >= self._lockout_after:
            self._failure_times.clear()
            self._locked_until = now + LOCKOUT_SECONDS


def new_key(
    now: float, name: str, permissions: tuple[str, ...] = TRADING_PERMISSIONS, nonce_window: int = 0, floor: int = 0
) -> ApiKey:
    """Create a key pair in Kraken's format."""
    key = base64.b64encode(secrets.token_bytes(42)).decode()
    secret = base64.b64encode(secrets.token_bytes(64)).decode()
    return ApiKey(key, secret, name, permissions, nonce_window, floor, now)


def _parse_nonce(nonce: str) -> int | None:
    if not (nonce.isascii() and nonce.isdigit()) or len(nonce) > 20 or int(nonce) > U64_MAX:
        return None
    return int(nonce)

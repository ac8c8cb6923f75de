"""How a broker stands, for people and pages: nothing here sends, books, waits or takes a turn."""

from __future__ import annotations

from bot.broker_verbs import Account
from bot.kraken.breaker_file import BreakerState
from bot.kraken.circuit_breaker import CircuitBreaker
from bot.kraken.rate_limiter import RateLimiter


class BrokerStatus(Account):
    """What KrakenBroker tells of itself, from memory and from the key's own files."""

    _circuit_breaker: CircuitBreaker
    _rate_limiter: RateLimiter
    _last_nonce: int
    _has_issued_nonce: bool

    @property
    def refused_nonces(self) -> int:
        """How many nonces Kraken has refused since this object was made."""
        return self._circuit_breaker.refused_total

    @property
    def last_nonce(self) -> int | None:
        """The last nonce that this object has drawn, or None."""
        return self._last_nonce if self._has_issued_nonce else None

    @property
    def breaker_state(self) -> BreakerState | None:
        """The key's silence, or None while requests go; one whose time is over waits for its probe."""
        return self._circuit_breaker.state

    @property
    def rest_level(self) -> tuple[float, float]:
        """The points on the key's REST counter now, and Kraken's maximum for the tier."""
        return self._rate_limiter.rest_level(self.now())

    @property
    def engine_levels(self) -> dict[str, float]:
        """The points on the matching engine's counter of each pair that has any now."""
        return self._rate_limiter.engine_levels(self.now())

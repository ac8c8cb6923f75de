"""How a broker stands, for people and pages: nothing here sends, books, waits or takes a turn."""

from __future__ import annotations

from bot.broker_verbs import BrokerVerbs
from bot.kraken.breaker_file import Silence
from bot.kraken.circuit_breaker import KeyGuard
from bot.kraken.rate_limiter import KeyBudget


class BrokerStanding(BrokerVerbs):
    """What KrakenBroker tells of itself, from memory and from the key's own files."""

    _guard: KeyGuard
    _budget: KeyBudget
    _last_nonce: int
    _has_drawn: bool

    @property
    def refused_nonces(self) -> int:
        """How many nonces Kraken has refused since this object was made."""
        return self._guard.refused_total

    @property
    def last_nonce(self) -> int | None:
        """The last nonce that this object has drawn, or None."""
        return self._last_nonce if self._has_drawn else None

    @property
    def silence(self) -> Silence | None:
        """The key's silence, or None while requests go; one whose time is over waits for its probe."""
        return self._guard.silence

    @property
    def rest_level(self) -> tuple[float, float]:
        """The points on the key's REST counter now, and Kraken's maximum for the tier."""
        return self._budget.rest_level(self.now())

    @property
    def engine_levels(self) -> dict[str, float]:
        """The points on the matching engine's counter of each pair that has any now."""
        return self._budget.engine_levels(self.now())

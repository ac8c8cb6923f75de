"""How a broker stands, for people and pages: nothing here sends, books, waits or takes a turn."""

from __future__ import annotations

from bot import clock
from bot.broker_verbs import BrokerVerbs
from bot.key_budget import KeyBudget
from bot.key_guard import KeyGuard
from bot.nonce.file import Unit
from bot.nonce.silence import Silence


class BrokerStanding(BrokerVerbs):
    """What KrakenBroker tells of itself, from memory and from the key's own files."""

    _guard: KeyGuard
    _budget: KeyBudget
    _unit: Unit
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
    def nonce_unit(self) -> str:
        """The name of the nonces' unit: "us" or "ns"."""
        return self._unit.name

    @property
    def nonce_lead_seconds(self) -> float | None:
        """How far the last nonce is ahead of the clock now; 0.0 where the clock has passed it, None before any."""
        last = self.last_nonce
        if last is None:
            return None
        return max(0.0, (last / self._unit.ticks - clock.nonce_clock.now_us()) / 1_000_000)

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

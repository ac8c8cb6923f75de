"""How long to wait after an error: of the whole account, or of one pair."""

from __future__ import annotations

from bot.base.errors import BotError, KrakenError, StoreUnavailableError

MAX_BACK_OFF_SECONDS = 60.0
# The store is the bot's own, and quick to ask; the lease may expire meanwhile, with no other instance there to lead.
MAX_STORE_BACK_OFF_SECONDS = 3.0


class BackOff:
    """Delays in real time, also in a replay: the problem is the connection to the exchange, not the market.

    They double from a second on. `error` is the error of the last attempt; None where it succeeded. `remaining_seconds`
    is the delay before the next attempt, less what was waited since.
    """

    def __init__(self) -> None:
        self.error: BotError | None = None
        self._next_seconds = 1.0
        self.remaining_seconds = 0.0

    def fail(self, error: BotError, max_seconds: float) -> float:
        """Record an error; return how long to wait before the next attempt, `max_seconds` unless Kraken asks for
        more."""
        if isinstance(error, StoreUnavailableError):
            max_seconds = MAX_STORE_BACK_OFF_SECONDS
        seconds = min(self._next_seconds, max_seconds)
        self._next_seconds = seconds * 2
        if isinstance(error, KrakenError):
            seconds = max(seconds, error.wait_seconds)
        self.error = error
        self.remaining_seconds = seconds
        return seconds

    def succeed(self) -> None:
        """Forget the errors."""
        self.error = None
        self._next_seconds = 1.0
        self.remaining_seconds = 0.0

    def pass_time(self, seconds: float) -> None:
        """Count a wait."""
        self.remaining_seconds = max(0.0, self.remaining_seconds - seconds)

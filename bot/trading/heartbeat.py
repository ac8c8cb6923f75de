"""A line a minute that says what is being watched, while nothing else happens."""

from __future__ import annotations

from bot.clock import MarketClock
from bot.trading.broker import Broker
from bot.trading.narrator import Narrator
from bot.trading.own_orders import OwnOrders

HEARTBEAT_SECONDS = 60.0


class Heartbeat:
    """Says it at most once in a minute of real time, and never in a replay."""

    def __init__(self, broker: Broker, clock: MarketClock, narrator: Narrator, own: OwnOrders) -> None:
        self._broker = broker
        self._clock = clock
        self._narrator = narrator
        self._own = own
        self._last_seconds = broker.now()

    def beat(self, symbols: tuple[str, ...]) -> None:
        """Say it, if it is time."""
        now = self._broker.now()
        if self._clock.replaying or now - self._last_seconds < HEARTBEAT_SECONDS * self._clock.speed:
            return
        self._last_seconds = now
        pairs = [
            f"{symbol} {self._broker.get_current_price(symbol)}, holding {self._own.book.holding(symbol).quantity:f}"
            for symbol in symbols
        ]
        self._narrator.say(f"watching: {'; '.join(pairs)}; open orders: {len(self._own.open_orders())}")

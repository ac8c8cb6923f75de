"""The strategies, by the name that the settings use. A new one is a file here and a line below."""

from __future__ import annotations

from collections.abc import Callable

from bot.trading.strategies.base import Strategy
from bot.trading.strategies.moving_average import MovingAverage

STRATEGIES: dict[str, Callable[[], Strategy]] = {
    MovingAverage.name: MovingAverage,
}

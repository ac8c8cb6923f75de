"""What the trader last knew, for whoever looks at it: put together after each pass, and never asked for at Kraken."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bot.base.clock import boottime_seconds
from bot.base.models import Balance, Candle, Order
from bot.trading.broker import Broker
from bot.trading.decision_log import Narrator
from bot.trading.executor import Executor
from bot.trading.feed import Feed
from bot.trading.position import Holding
from bot.trading.risk import Refusal

CANDLES_SHOWN = 120


@dataclass(frozen=True, slots=True)
class PairView:
    """A pair: its last closed candles, oldest first, and what the bot holds of it."""

    symbol: str
    candles: tuple[Candle, ...]
    holding: Holding


@dataclass(frozen=True, slots=True)
class Observation:
    """The end of a pass. `boot_seconds` is when it was, by the boot clock; `now_seconds` by the market's.

    Money is in `quote`; `balances` are those that were last read, and `equity` what they are worth at the last closes;
    None where they have not been read yet. `refusals` are the orders that risk refused last, each with its time.
    """

    boot_seconds: float
    now_seconds: float
    quote: str
    pairs: tuple[PairView, ...]
    balances: dict[str, Balance] | None
    equity: Decimal | None
    realised: Decimal
    day_loss: Decimal
    open_orders: tuple[Order, ...]
    refusals: tuple[tuple[float, Refusal], ...]


class Observer:
    """Keeps the last observation. Read from any thread."""

    def __init__(self, broker: Broker, feed: Feed, executor: Executor, narrator: Narrator) -> None:
        self._broker = broker
        self._feed = feed
        self._executor = executor
        self._narrator = narrator
        self.latest: Observation | None = None

    def look(self, symbols: tuple[str, ...], quote: str) -> None:
        """Put together what is known now."""
        own, balances = self._executor.own, self._executor.last_balances
        pairs = tuple(
            PairView(symbol, self._feed.candles(symbol)[-CANDLES_SHOWN:], own.book.holding(symbol))
            for symbol in symbols
        )
        self.latest = Observation(
            boot_seconds=boottime_seconds(),
            now_seconds=self._broker.now(),
            quote=quote,
            pairs=pairs,
            balances=balances,
            equity=None if balances is None else self._worth(balances, symbols, quote),
            realised=own.book.realised_total(),
            day_loss=own.book.day_loss(self._broker.now()),
            open_orders=tuple(own.open_orders()),
            refusals=tuple(self._narrator.refusals),
        )

    def _worth(self, balances: dict[str, Balance], symbols: tuple[str, ...], quote: str) -> Decimal | None:
        worth = balances[quote].total if quote in balances else Decimal(0)
        for symbol in symbols:
            base = self._broker.pair(symbol).base
            if base in balances and balances[base].total:
                candle = self._feed.newest(symbol)
                if candle is None:
                    return None
                worth += balances[base].total * candle.close
        return worth

"""The last known state of the trader, published after each cycle, and never requested from Kraken."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from bot.base.clock import boottime_seconds
from bot.base.models import Balance, Candle, Order, total_with_swept
from bot.orders.position import Holding
from bot.trading.balance_check import BalanceCheck
from bot.trading.broker import Broker
from bot.trading.decision_log import DecisionLog
from bot.trading.executor import Executor
from bot.trading.feed import Feed
from bot.trading.risk import Refusal

SNAPSHOT_CANDLES = 120


@dataclass(frozen=True, slots=True)
class PairSnapshot:
    """A pair: its last closed candles, oldest first, and the bot's holding.

    `balance_problem` says how holding and balance disagree, or is empty.
    """

    symbol: str
    candles: tuple[Candle, ...]
    holding: Holding
    balance_problem: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state at the end of a cycle. `boot_seconds` is its time by the boot clock.

    Money is in `quote`; `balances` are the last ones read, and `equity` their value at the last closes; None where they
    have not been read yet. `refusals` are the last orders that risk refused, each with its time.
    """

    boot_seconds: float
    quote: str
    pairs: tuple[PairSnapshot, ...]
    balances: dict[str, Balance] | None
    equity: Decimal | None
    realised: Decimal
    realised_loss_today: Decimal
    open_orders: tuple[Order, ...]
    refusals: tuple[tuple[float, Refusal], ...]


class SnapshotPublisher:
    """Keeps the last snapshot. Read from any thread."""

    def __init__(
        self, broker: Broker, feed: Feed, executor: Executor, decision_log: DecisionLog, balance_check: BalanceCheck
    ) -> None:
        self._broker = broker
        self._balance_check = balance_check
        self._feed = feed
        self._executor = executor
        self._decision_log = decision_log
        self.latest: Snapshot | None = None

    def publish(self, symbols: tuple[str, ...], quote: str) -> None:
        """Publish what is known now."""
        order_tracker = self._executor.order_tracker
        pairs = tuple(
            PairSnapshot(
                symbol,
                self._feed.candles(symbol)[-SNAPSHOT_CANDLES:],
                order_tracker.book.holding(symbol),
                self._balance_check.problems.get(symbol, ""),
            )
            for symbol in symbols
        )
        self.latest = Snapshot(
            boot_seconds=boottime_seconds(),
            quote=quote,
            pairs=pairs,
            balances=self._executor.last_balances,
            equity=self.last_equity(symbols, quote),
            realised=order_tracker.book.realised_total(),
            realised_loss_today=order_tracker.book.realised_loss_today(self._broker.now()),
            open_orders=tuple(order_tracker.open_orders()),
            refusals=tuple(self._decision_log.refusals),
        )

    def last_equity(self, symbols: tuple[str, ...], quote: str) -> Decimal | None:
        """Return the value of the last balances at the last closes; None where one that counts was never read."""
        balances = self._executor.last_balances
        if balances is None:
            return None
        equity = total_with_swept(balances, quote)
        for symbol in symbols:
            coins = total_with_swept(balances, self._broker.pair(symbol).base)
            if coins:
                candle = self._feed.last_candle(symbol)
                if candle is None:
                    return None
                equity += coins * candle.close
        return equity

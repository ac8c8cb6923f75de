"""The state of the bot in one pair: the context of the strategy, and the input of the risk rules."""

from __future__ import annotations

from decimal import Decimal

from bot.base.models import ZERO, Candle, Pair, total_with_swept
from bot.kraken.pairs import minimum_volume, round_volume
from bot.trading.broker import Broker
from bot.trading.executor import Executor
from bot.trading.exit_policy import PairState
from bot.trading.feed import Feed
from bot.trading.risk import Controls, RiskLimits, RiskState, max_exit_quantity
from bot.trading.strategies.base import StrategyContext


class ContextBuilder:
    """Combines the market's data, the bot's own orders and the account's balances."""

    def __init__(self, broker: Broker, feed: Feed, executor: Executor, timeframe_seconds: int) -> None:
        self._broker = broker
        self._feed = feed
        self._executor = executor
        self._timeframe_seconds = timeframe_seconds

    def build_strategy_context(self, symbol: str, order_value: Decimal) -> StrategyContext:
        """Return the context for the strategy."""
        pair, order_tracker = self._broker.pair(symbol), self._executor.order_tracker
        holding = order_tracker.book.holding(symbol)
        if total_with_swept(self._executor.balances(), pair.base) < holding.quantity:
            # Kraken may show the coins of a fill a moment later than the fill.
            self._executor.invalidate_balances()
        coins = total_with_swept(self._executor.balances(), pair.base)
        held_quantity = round_volume(pair, min(holding.quantity, coins))
        candles = self._feed.candles(symbol)
        # A candle that is decided again, after an error or a restart, has the same context as the first time.
        sold = self._executor.sold_by_exits(symbol, candles[-1].time_seconds) if held_quantity and candles else ZERO
        quote_free = self._executor.balance(pair.quote).free - self._executor.unknown_buys()[1]
        return StrategyContext(
            pair=pair,
            timeframe_seconds=self._timeframe_seconds,
            candles=candles,
            # A quantity that is too small to sell is not a position: it would request an exit for ever.
            position_quantity=held_quantity + sold if held_quantity >= pair.order_minimum else ZERO,
            average_price=holding.average_price,
            entry_seconds=holding.entry_seconds,
            has_open_entry=bool(order_tracker.resting_entries(symbol)),
            order_value=order_value,
            quote_available=max(ZERO, quote_free),
        )

    def build_risk_state(self, symbol: str, candle: Candle, controls: Controls, *, is_stopping: bool) -> RiskState:
        """Return the input of the risk rules, at the last closed candle."""
        pair, order_tracker = self._broker.pair(symbol), self._executor.order_tracker
        held_quantity = order_tracker.book.holding(symbol).quantity
        return RiskState(
            pair=pair,
            timeframe_seconds=self._timeframe_seconds,
            now_seconds=self._broker.now(),
            price=candle.close,
            closed_seconds=candle.time_seconds + self._timeframe_seconds,
            answered_seconds=self._feed.answered_seconds(symbol),
            confirmed_seconds=self._feed.confirmed_seconds(symbol),
            status=self._feed.status,
            pair_status=self._feed.pair_status(symbol),
            is_halted=controls.is_halted(),
            entries_paused=controls.entries_paused(),
            is_watching=controls.is_watching,
            is_stopping=is_stopping,
            is_history_loaded=order_tracker.is_loaded,
            unresolved_order=self._executor.describe_unresolved_order(symbol),
            # The coins of an own stop are free once it is canceled, and an exit begins with that.
            held_quantity=round_volume(
                pair,
                min(held_quantity, self._free_coins(pair) + order_tracker.quantity_in_stops(symbol)),
            ),
            committed_quantity=held_quantity
            + order_tracker.resting_quantity(symbol)
            + self._executor.unknown_buys(symbol)[0],
            realised_loss_today=order_tracker.book.realised_loss_today(self._broker.now()),
            last_loss_seconds=order_tracker.book.last_loss_seconds(),
            last_loss_symbol=order_tracker.book.last_loss_symbol(),
        )

    def build_pair_state(self, state: RiskState, price: Decimal, limits: RiskLimits) -> PairState:
        """Return the input of the exit policy, where a sale is made at about this price."""
        pair, order_tracker = state.pair, self._executor.order_tracker
        return PairState(
            held_quantity=order_tracker.book.holding(pair.symbol).quantity,
            free_quantity=self._free_coins(pair),
            min_quantity=minimum_volume(pair, price) if price else pair.order_minimum,
            max_stop_quantity=max_exit_quantity(state, limits),
            lot_size=Decimal(1).scaleb(-pair.lot_decimals),
            working_orders=order_tracker.working(pair.symbol),
            has_unknown_order=any(order.symbol == pair.symbol for order in self._broker.unknown_orders()),
        )

    def _free_coins(self, pair: Pair) -> Decimal:
        """Return what an exit can sell, with what auto-earn has moved."""
        return self._executor.balance(pair.base).free + self._executor.swept(pair.base)

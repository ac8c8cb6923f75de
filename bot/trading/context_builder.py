"""Where the bot stands in one pair: what the strategy may look at, and what risk judges by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from decimal import ROUND_DOWN, ROUND_UP, Decimal

from bot.base.clock import MarketClock
from bot.base.errors import JournalError
from bot.base.models import ZERO, Candle, Pair
from bot.orders.journal import EquityPoint
from bot.trading.broker import Broker
from bot.trading.executor import Executor
from bot.trading.exit_policy import PairFacts
from bot.trading.feed import Feed
from bot.trading.risk import RiskLimits, RiskState, largest_part
from bot.trading.strategies.base import MarketView


class Situation:
    """Puts the market's data, the bot's own orders and the account's balances together."""

    def __init__(self, broker: Broker, feed: Feed, executor: Executor, timeframe_seconds: int) -> None:
        self._broker = broker
        self._feed = feed
        self._executor = executor
        self._timeframe_seconds = timeframe_seconds

    def view(self, symbol: str, order_value: Decimal) -> MarketView:
        """Return what the strategy may look at."""
        pair, own = self._broker.pair(symbol), self._executor.own
        holding = own.book.holding(symbol)
        if self._executor.balance(pair.base).total < holding.quantity:
            # Kraken may show the coins of a fill a moment later than the fill.
            self._executor.forget_balances()
        held = _on_lot_grid(pair, min(holding.quantity, self._executor.balance(pair.base).total))
        candles = self._feed.candles(symbol)
        # A candle that is decided again, after trouble or a restart, is seen as it was the first time.
        sold = self._executor.sold_by_exits(symbol, candles[-1].time_seconds) if held and candles else ZERO
        quote_free = self._executor.balance(pair.quote).free - self._executor.unknown_buys()[1]
        return MarketView(
            pair=pair,
            timeframe_seconds=self._timeframe_seconds,
            candles=candles,
            # What is too little to sell is no position: it would ask for an exit for ever.
            position_quantity=held + sold if held >= pair.order_minimum else ZERO,
            average_price=holding.average_price,
            entry_seconds=holding.entry_seconds,
            has_open_entry=bool(own.resting_entries(symbol)),
            order_value=order_value,
            quote_available=max(ZERO, quote_free),
        )

    def risk_state(self, symbol: str, candle: Candle, *, halted: bool, stopping: bool) -> RiskState:
        """Return what risk judges by, at the last closed candle."""
        pair, own = self._broker.pair(symbol), self._executor.own
        held = own.book.holding(symbol).quantity
        return RiskState(
            pair=pair,
            timeframe_seconds=self._timeframe_seconds,
            now_seconds=self._broker.now(),
            price=candle.close,
            closed_seconds=candle.time_seconds + self._timeframe_seconds,
            status=self._feed.status,
            pair_status=self._feed.pair_status(symbol),
            halted=halted,
            stopping=stopping,
            history_known=own.known,
            unsettled=self._executor.unsettled(symbol),
            # The coins of an own stop are free once it is cancelled, and an exit begins with that.
            held_quantity=_on_lot_grid(
                pair, min(held, self._executor.balance(pair.base).free + own.stopped_quantity(symbol))
            ),
            committed_quantity=held + own.resting_quantity(symbol) + self._executor.unknown_buys(symbol)[0],
            day_loss=own.book.day_loss(self._broker.now()),
            last_loss_seconds=own.book.last_loss_seconds(),
        )

    def facts(self, state: RiskState, price: Decimal, limits: RiskLimits) -> PairFacts:
        """Return what the next step is decided by, where what is sold is sold at about this price."""
        pair, own = state.pair, self._executor.own
        lot = Decimal(1).scaleb(-pair.lot_decimals)
        cost_minimum = (pair.cost_minimum / price).quantize(lot, rounding=ROUND_UP) if price else ZERO
        return PairFacts(
            held=own.book.holding(pair.symbol).quantity,
            free=self._executor.balance(pair.base).free,
            minimum=max(pair.order_minimum, cost_minimum),
            largest=largest_part(state, limits),
            lot=lot,
            working=own.working(pair.symbol),
            unknown=any(order.symbol == pair.symbol for order in self._broker.unknown_orders()),
        )

    def equity(self, symbols: tuple[str, ...], quote: str, price: Callable[[str], Decimal]) -> Decimal:
        """Return the quote balance and the coins of the pairs, each at its price."""
        coins = [self._executor.balance(self._broker.pair(symbol).base).total * price(symbol) for symbol in symbols]
        return self._executor.balance(quote).total + sum(coins, ZERO)


def _on_lot_grid(pair: Pair, quantity: Decimal) -> Decimal:
    return quantity.quantize(Decimal(1).scaleb(-pair.lot_decimals), rounding=ROUND_DOWN)


class Equity:
    """The quote balance and the coins of the traded pairs, in the quote currency."""

    def __init__(
        self, broker: Broker, feed: Feed, executor: Executor, situation: Situation, clock: MarketClock
    ) -> None:
        self._broker = broker
        self._feed = feed
        self._executor = executor
        self._situation = situation
        self._clock = clock
        self.due = False

    def now(self, symbols: tuple[str, ...], quote: str) -> Decimal:
        """Return it at current prices."""
        return self._situation.equity(symbols, quote, self._broker.get_current_price)

    def keep(self, symbols: tuple[str, ...], quote: str) -> None:
        """If it is due, write down what the account is worth at the candles' closes."""
        if not self.due:
            return
        if not self._clock.replaying:
            self._executor.forget_balances()
        value = self._situation.equity(symbols, quote, self._feed.close)
        # Where it cannot be written, the executor says so; a point of a curve is no loss.
        with contextlib.suppress(JournalError):
            self._broker.journal.add_equity(EquityPoint(self._broker.now(), quote, value))
        self.due = False

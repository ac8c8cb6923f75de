"""Takes the steps of bot/trading/exit_policy.py: leaves positions, and keeps stops under those that are held."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from decimal import Decimal

from bot.base.models import ZERO, Pair, Side, WantedOrder
from bot.kraken.pairs import round_price
from bot.trading.broker import Broker
from bot.trading.context_builder import Situation
from bot.trading.decision_log import Narrator
from bot.trading.executor import Executor
from bot.trading.exit_policy import Cancel, Done, Leave, PlaceStop, Protect, Sell, Step, Wait, next_step
from bot.trading.position import Holding
from bot.trading.risk import RiskLimits, RiskState, Verdict, check, comes_again, exit_parts

# Of the market's time. Kraken may refuse a stop because its coins are not free yet.
STOP_RETRY_SECONDS = 60.0

StateNow = Callable[[], RiskState]


class PositionKeeper:
    """Goes through the steps as far as they lead in one pass; the next pass reads the facts again and goes on.

    `stop_percent` is how far below the average entry price the stops are; 0 means that there are none.
    """

    def __init__(
        self,
        broker: Broker,
        situation: Situation,
        executor: Executor,
        narrator: Narrator,
        limits: RiskLimits,
        stop_percent: Decimal,
    ) -> None:
        self._broker = broker
        self._situation = situation
        self._executor = executor
        self._narrator = narrator
        self._limits = limits
        self._stop_percent = stop_percent
        self._retry_seconds: dict[str, float] = {}

    def judge(self, state: RiskState, wanted: Iterable[WantedOrder]) -> Verdict:
        """Let risk judge what a strategy wants: of an exit, what its candle has not sold yet."""
        orders: list[WantedOrder] = []
        for order in wanted:
            sold = self._executor.sold_by_exits(order.symbol, order.candle_seconds)
            if order.kind == "entry":
                # A candle that was left is not entered again, however many passes the leaving took.
                orders += [order] if not sold else []
            elif order.quantity > sold:
                orders.append(replace(order, quantity=min(order.quantity - sold, state.held_quantity)))
        return check(orders, state, self._limits)

    def leave(self, state_now: StateNow, wanted_now: Callable[[], Iterable[WantedOrder]]) -> bool:
        """Sell what is wanted and allowed, asked anew after each step; return whether that is done.

        What waits is not done, and neither is what the collar has left of a sale. An exit that Kraken has refused is:
        its signal has had its chance, and the coins get their stop back.
        """
        taken: list[Step] = []
        while True:
            state = state_now()
            verdict = self.judge(state, wanted_now())
            exits = [order for order in verdict.allowed if order.kind == "exit"]
            if not exits:
                return not any(map(comes_again, verdict.refusals))
            symbol = state.pair.symbol
            wanted = Leave(sum((order.quantity for order in exits), ZERO))
            step = next_step(self._situation.facts(state, state.price, self._limits), wanted)
            if isinstance(step, Wait):
                key = f"{exits[0].candle_seconds} {step.reason}"
                self._narrator.once(f"wait {symbol}", key, f"{symbol}  the exit waits: {step.reason}")
                return False
            if isinstance(step, Sell) and not any(isinstance(one, Sell) for one in taken):
                parts = exit_parts(replace(exits[0], quantity=step.quantity), state, self._limits)
                if not self._executor.execute(parts, state.price):
                    return not self._executor.unsettled(symbol)
            elif isinstance(step, Cancel) and step not in taken:
                self._executor.cancel(symbol, step.txids)
            else:
                return isinstance(step, Done)
            taken.append(step)

    def protect(self, state_now: StateNow) -> bool:
        """Keep stops under what is held; return whether that is so, or as near to it as can be for now."""
        taken: list[Step] = []
        while self._stop_percent:
            state = state_now()
            symbol = state.pair.symbol
            if self._broker.now() < self._retry_seconds.get(symbol, 0.0):
                return True
            holding = self._executor.own.book.holding(symbol)
            price = self._stop_price(state.pair, holding)
            step = next_step(self._situation.facts(state, price, self._limits), Protect(price))
            if isinstance(step, Done | Wait) or step in taken:
                return isinstance(step, Done)
            quantity = step.quantity if isinstance(step, PlaceStop) else ZERO
            verdict = check([self._stop(holding, quantity, price)], state, self._limits)
            for refusal in verdict.refusals:
                self._narrator.refusal(state.price, refusal)
                return True
            if isinstance(step, Cancel):
                taken.append(step)
                self._executor.cancel(symbol, step.txids)
            elif not self._executor.execute(verdict.allowed, state.price):
                self._executor.forget_balances()
                self._retry_seconds[symbol] = self._broker.now() + STOP_RETRY_SECONDS
                return True
        return True

    def _stop_price(self, pair: Pair, holding: Holding) -> Decimal:
        return round_price(pair, Side.SELL, holding.average_price * (1 - self._stop_percent / 100))

    def _stop(self, holding: Holding, quantity: Decimal, price: Decimal) -> WantedOrder:
        reason = f"what is held was bought at {holding.average_price:.8g} on average"
        # The entry is the same in Kraken's rows on every host, so the stop has the same name everywhere.
        entry_seconds = int(holding.entry_seconds)
        return WantedOrder(holding.symbol, Side.SELL, quantity, price, "stop", entry_seconds, reason)

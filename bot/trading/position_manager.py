"""Takes the steps of bot/trading/exit_policy.py: exits positions, and keeps stops under open positions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import replace
from decimal import Decimal
from enum import Enum, auto

from bot.base.errors import KrakenError, TransportError
from bot.base.event_catalog import Event
from bot.base.models import ZERO, OrderRequest, Pair, Side
from bot.kraken.pairs import round_stop_price
from bot.orders.position import Holding
from bot.trading.broker import Broker
from bot.trading.context_builder import ContextBuilder
from bot.trading.decision_log import DecisionLog
from bot.trading.executor import Executor
from bot.trading.exit_policy import (
    CancelOrders,
    Done,
    ExitPosition,
    ExitStep,
    PlaceStop,
    ProtectPosition,
    Sell,
    Wait,
    next_step,
)
from bot.trading.risk import (
    RiskLimits,
    RiskState,
    Verdict,
    check_orders,
    is_retryable,
    split_exit,
    worst_exit_price,
)

# Of the market's time. Kraken may refuse a stop because its coins are not free yet.
STOP_RETRY_SECONDS = 60.0

RiskStateReader = Callable[[], RiskState]


class Pause(Enum):
    """What a pair's turn waits for; it goes on once that is done for every pair.

    RECORDS: it has canceled an order, and what that sold is to be read now. FOLLOW_UP: it has placed an order, whose
    record can wait. ENTRY: it wants to buy, after the exits and stops of all pairs.
    """

    RECORDS = auto()
    FOLLOW_UP = auto()
    ENTRY = auto()


# What a pair does in one cycle; the result tells whether it is done.
Turn = Generator[Pause, None, bool]


class PositionManager:
    """Takes as many steps as possible in one cycle; the next cycle reads the state again and continues.

    Each method that takes steps pauses where the order records are needed, so that one read serves all pairs.

    `stop_loss_percent` is how far below the average entry the stops are; 0 means that there are none.
    """

    def __init__(
        self,
        broker: Broker,
        context_builder: ContextBuilder,
        executor: Executor,
        decision_log: DecisionLog,
        limits: RiskLimits,
        stop_loss_percent: Decimal,
    ) -> None:
        self._broker = broker
        self._context_builder = context_builder
        self._executor = executor
        self._decision_log = decision_log
        self._limits = limits
        self._stop_loss_percent = stop_loss_percent
        self._retry_at_seconds: dict[str, float] = {}

    def check_requests(self, state: RiskState, requests: Iterable[OrderRequest]) -> Verdict:
        """Apply the risk rules to a strategy's requests: of an exit, to what its candle has not sold yet."""
        remaining_requests: list[OrderRequest] = []
        for request in requests:
            sold = self._executor.sold_by_exits(request.symbol, request.candle_seconds)
            if request.kind == "entry":
                # A candle with an exit gets no entry, however many cycles the exit took.
                remaining_requests += [request] if not sold else []
            elif request.quantity > sold:
                remaining_requests.append(replace(request, quantity=min(request.quantity - sold, state.held_quantity)))
        return check_orders(remaining_requests, state, self._limits)

    def exit_position(self, read_state: RiskStateReader, read_requests: Callable[[], Iterable[OrderRequest]]) -> Turn:
        """Sell what is requested and allowed, with both checked again after each step; return whether that is done.

        An exit that waits is not done, and neither is one with a rest beyond the maximum slippage. An exit that Kraken
        has refused is done: its signal is used up, and the position gets its stop back.
        """
        steps_taken: list[ExitStep] = []
        while True:
            state = read_state()
            verdict = self.check_requests(state, read_requests())
            exits = [order for order in verdict.allowed if order.kind == "exit"]
            if not exits:
                return not any(map(is_retryable, verdict.refusals))
            symbol = state.pair.symbol
            goal = ExitPosition(sum((order.quantity for order in exits), ZERO))
            pair_state = self._context_builder.build_pair_state(
                state, worst_exit_price(state, self._limits), self._limits
            )
            step = next_step(pair_state, goal)
            if isinstance(step, Wait):
                key = f"{exits[0].candle_seconds} {step.reason}"
                self._decision_log.record_once(
                    f"wait {symbol}", key, Event.EXIT_DELAYED, symbol=symbol, reason=step.reason
                )
                return False
            if isinstance(step, Sell) and not any(isinstance(step_taken, Sell) for step_taken in steps_taken):
                if self._executor.has_unfilled_exit(symbol, exits[0].candle_seconds):
                    self._record_unfilled_exit(symbol, step)
                parts = split_exit(replace(exits[0], quantity=step.quantity), state, self._limits)
                if not self._executor.execute(parts, state.price):
                    return not self._executor.describe_unresolved_order(symbol)
                yield Pause.FOLLOW_UP
            elif isinstance(step, CancelOrders) and step not in steps_taken:
                self._executor.cancel(symbol, step.txids)
                yield Pause.RECORDS
            else:
                return isinstance(step, Done)
            steps_taken.append(step)

    def _record_unfilled_exit(self, symbol: str, sale: Sell) -> None:
        """Record, once for each entry, that the exit finds no buyer at its worst price and is repeated."""
        entry_seconds = self._executor.order_tracker.book.holding(symbol).entry_seconds
        if not self._decision_log.is_new(f"unfilled {symbol}", str(entry_seconds)):
            return
        best_price = None
        # It is for the record only, and must not keep the bot in a position.
        with contextlib.suppress(KrakenError, TransportError):
            best_price = self._broker.get_best_bid(symbol)
        self._decision_log.record(Event.EXIT_UNFILLED, symbol=symbol, volume=sale.quantity, best_price=best_price)

    def protect_position(self, read_state: RiskStateReader) -> Turn:
        """Keep stops under the position; return whether they are in place, or as nearly as possible for now."""
        steps_taken: list[ExitStep] = []
        while self._stop_loss_percent:
            state = read_state()
            symbol = state.pair.symbol
            if self._broker.now() < self._retry_at_seconds.get(symbol, 0.0):
                return True
            holding = self._executor.order_tracker.book.holding(symbol)
            price = self._stop_price(state.pair, holding)
            if holding.quantity and not price:
                verdict = check_orders([self._stop_request(holding, holding.quantity, price)], state, self._limits)
                self._decision_log.record_refusal(state.price, verdict.refusals[0])
                return True
            goal = ProtectPosition(price, only_add=state.is_halted)
            step = next_step(self._context_builder.build_pair_state(state, price, self._limits), goal)
            if isinstance(step, Done | Wait) or step in steps_taken:
                return isinstance(step, Done)
            quantity = step.quantity if isinstance(step, PlaceStop) else ZERO
            verdict = check_orders([self._stop_request(holding, quantity, price)], state, self._limits)
            for refusal in verdict.refusals:
                self._decision_log.record_refusal(state.price, refusal)
            if verdict.refusals or (isinstance(step, PlaceStop) and self._is_halted_beyond_trigger(state, step)):
                return True
            if isinstance(step, CancelOrders):
                steps_taken.append(step)
                self._executor.cancel(symbol, step.txids)
                yield Pause.RECORDS
            elif self._executor.execute(verdict.allowed, state.price):
                yield Pause.FOLLOW_UP
            else:
                self._executor.invalidate_balances()
                self._retry_at_seconds[symbol] = self._broker.now() + STOP_RETRY_SECONDS
                return True
        return True

    def _is_halted_beyond_trigger(self, state: RiskState, stop: PlaceStop) -> bool:
        """Tell whether the bot is halted and the stop would sell at once; recorded once for each trigger."""
        symbol = state.pair.symbol
        if not state.is_halted or (price := self._broker.get_current_price(symbol)) > stop.price:
            self._decision_log.forget(f"stop {symbol}")
            return False
        self._decision_log.record_once(
            f"stop {symbol}",
            f"{stop.price}",
            Event.STOP_BEYOND_TRIGGER,
            symbol=symbol,
            volume=stop.quantity,
            close=price,
            price=stop.price,
        )
        return True

    def _stop_price(self, pair: Pair, holding: Holding) -> Decimal:
        return round_stop_price(pair, Side.SELL, holding.average_price * (1 - self._stop_loss_percent / 100))

    def _stop_request(self, holding: Holding, quantity: Decimal, price: Decimal) -> OrderRequest:
        reason = f"the average entry price is {holding.average_price:.8g}"
        # Kraken's record of the entry is the same on every host, so the stop has the same client order id everywhere.
        entry_seconds = int(holding.entry_seconds)
        return OrderRequest(holding.symbol, Side.SELL, quantity, price, "stop", entry_seconds, reason)

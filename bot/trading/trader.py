"""The trader: observe, decide, check, act, reconcile, wait.

Each closed candle of each pair is decided once; between candles the bot's own orders are tracked. The whole state of
the bot comes from Kraken's records of its orders, so it may stop or die anywhere.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from functools import partial

from bot.base.clock import MarketClock, wall_seconds
from bot.base.errors import (
    BotError,
    CredentialsError,
    JournalError,
    JournalVersionError,
    KeyRuleError,
    LeaseLostError,
    NonceError,
    PermissionDeniedError,
    RequestLockTimeout,
    SettingsError,
    StateLostError,
    StoppingError,
    StoreUnavailableError,
    SymbolError,
)
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.models import ZERO, Candle, OrderRequest, common_quote
from bot.base.timeframes import parse_timeframe
from bot.orders.journal import EquityPoint
from bot.trading.back_off import MAX_BACK_OFF_SECONDS, BackOff
from bot.trading.balance_check import BalanceCheck
from bot.trading.broker import Broker
from bot.trading.context_builder import ContextBuilder
from bot.trading.dead_man_switch import DeadManSwitch
from bot.trading.decision_log import DecisionLog
from bot.trading.executor import Executor, OrderCounts
from bot.trading.feed import Feed
from bot.trading.position_manager import Pause, PositionManager, Turn
from bot.trading.read_budget import (
    BALANCE_READ_POINTS,
    FILL_READ_POINTS,
    ORDER_READ_POINTS,
    RESERVE_POINTS,
    ReadBudget,
    ReadPurpose,
)
from bot.trading.risk import Controls, RiskLimits, RiskState, is_retryable
from bot.trading.snapshot import SnapshotPublisher
from bot.trading.strategies.base import Strategy
from bot.trading.strategy_runner import StrategyRunner

# Of real time: a market that runs faster is not polled more often.
POLL_SECONDS = 10.0
# Of real time: how soon a pause or a halt is applied.
CONTROLS_POLL_SECONDS = 1.0
# While an exit, a stop or a cancel is between two steps. Kraken's lists may be this late.
PENDING_STEP_POLL_SECONDS = 3.0
# A candle that has just ended is requested a moment later, so that it is closed by Kraken's clock too.
CANDLE_GRACE_SECONDS = 1.0
# An entry stays open for one candle and a little longer, so that the next decision still finds it or finds its fill.
ENTRY_TTL_MARGIN_SECONDS = 60

_ENDS_RUN = (
    CredentialsError,
    JournalVersionError,
    KeyRuleError,
    LeaseLostError,
    NonceError,
    PermissionDeniedError,
    SettingsError,
    StateLostError,
    StoppingError,
    SymbolError,
)
# Kinds of these that pass by themselves.
_TRANSIENT_ERRORS = (StoreUnavailableError, RequestLockTimeout)
STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class TraderSettings:
    """What to trade and how. `max_cycles` ends the run after so many cycles at current prices; None never does.

    After `entry_ttl_seconds` a resting entry expires at Kraken; None means one candle and a minute. The dead man's
    switch is armed for `dead_man_switch_seconds`; 0 means never. A position has a stop at Kraken `stop_loss_percent`
    below its average entry; 0 means none.
    """

    symbols: tuple[str, ...]
    timeframe: str
    order_value: Decimal
    limits: RiskLimits
    entry_ttl_seconds: int | None = None
    cancel_entries_on_stop: bool = True
    dead_man_switch_seconds: int = 0
    stop_loss_percent: Decimal = ZERO
    max_cycles: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """The result of a run. Money is in `quote`; an equity that could not be read is None.

    Where there is no `equity_end`, `last_equity` is the last known one, of `last_equity_seconds`. `reason` says why the
    run ended and `error` is the exception that ended it, if any. `realised` is the realised P&L of this run.
    """

    reason: str
    error: Exception | None
    quote: str
    equity_start: Decimal | None
    equity_end: Decimal | None
    last_equity: Decimal | None
    last_equity_seconds: float | None
    realised: Decimal
    orders: OrderCounts
    refused_nonces: int
    cycles: int


class Trader:
    """One bot, one strategy, some pairs. `run` returns when `stop` is set, the market ends or an error ends the run."""

    def __init__(
        self,
        broker: Broker,
        strategy: Strategy,
        settings: TraderSettings,
        *,
        clock: MarketClock,
        stop: threading.Event,
        controls: Controls,
    ) -> None:
        self._broker = broker
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._controls = controls
        self._decision_log = DecisionLog(broker, clock)
        self._strategy_runner = StrategyRunner(strategy, self._decision_log)
        self._timeframe_seconds = parse_timeframe(settings.timeframe)
        self._feed = Feed(broker, settings.timeframe, self._decision_log)
        entry_ttl_seconds = settings.entry_ttl_seconds or self._timeframe_seconds + ENTRY_TTL_MARGIN_SECONDS
        self._executor = Executor(broker, strategy.name, entry_ttl_seconds, self._decision_log)
        self._budget = ReadBudget(broker, clock)
        self._dead_man_switch = DeadManSwitch(broker, settings.dead_man_switch_seconds, self._decision_log)
        self._context_builder = ContextBuilder(broker, self._feed, self._executor, self._timeframe_seconds)
        self._balance_check = BalanceCheck(broker, self._executor, self._decision_log)
        self.snapshot_publisher = SnapshotPublisher(
            broker, self._feed, self._executor, self._decision_log, self._balance_check
        )
        self._position_manager = PositionManager(
            broker,
            self._context_builder,
            self._executor,
            self._decision_log,
            settings.limits,
            settings.stop_loss_percent,
        )
        self._decided_candles: dict[str, int] = {}
        # An exit or a stop is between two steps; an entry waits for room on the rate counter.
        self._is_exit_pending = False
        self._is_entry_pending = False
        # A resting entry that a pause or a halt has to cancel may be left.
        self._is_cancel_pending = False
        self._applied_controls = (False, False)
        self._is_equity_due = False
        self._symbols: tuple[str, ...] = ()
        self._quote = ""
        self._equity_start: Decimal | None = None
        self._realised_at_start = ZERO
        self._account_back_off = BackOff()
        self._pair_back_offs: dict[str, BackOff] = {}
        self._cycle_count = 0
        self._live_cycle_count = 0

    @property
    def last_error(self) -> str:
        """The error of the last cycle, or those of single pairs; "" where every pair is traded."""
        if (error := self._account_back_off.error) is not None:
            return str(error)
        pair_errors = [
            f"{symbol}: {back_off.error}" for symbol, back_off in list(self._pair_back_offs.items()) if back_off.error
        ]
        failures = [f"{symbol}: {reason}" for symbol, reason in list(self._strategy_runner.failures.items())]
        return "; ".join(pair_errors + failures)

    def run(self) -> Summary:
        """Trade until something ends the run; then cancel resting entries (a setting) and sum up."""
        error: Exception | None = None
        try:
            self._resolve_pairs()
            reason = self._loop()
        except BotError as problem:
            reason, error = str(problem), problem
        except Exception as problem:  # whatever it is: do not trade on in an unforeseen state
            emit(Event.TRADER_FAILED, exc_info=problem)
            reason, error = f"an error in the program: {problem!r}", problem
        return self._finish(reason, error)

    def shutdown(self) -> None:
        """Disarm the switch, cancel resting entries (a setting); also from another thread, while `run` hangs."""
        self._dead_man_switch.stop()
        if self._settings.cancel_entries_on_stop or self._controls.forbid_resting_entries():
            self._executor.cancel_entries()

    def record_positions_left(self) -> None:
        """Record what stays at Kraken where nothing can be read or canceled; also from another thread."""
        self._executor.record_positions_left()

    def _loop(self) -> str:
        if self._clock.is_catching_up:
            self._decision_log.record_once("warm-up", "", Event.WARM_UP_STARTED)
        while not (reason := self._end_reason()):
            error = self._try_cycle()
            if self._end_reason():
                continue
            if error is None:
                self._wait_for_next_cycle()
            else:
                self._back_off(error)
        return reason

    def _try_cycle(self) -> BotError | None:
        try:
            self._run_cycle()
        except StoppingError:
            self._stop.set()
        except BotError as problem:
            if _is_fatal(problem):
                raise
            return problem
        self._account_back_off.succeed()
        self._decision_log.record_resolved("cycle", Event.CYCLE_RECOVERED)
        return None

    def _end_reason(self) -> str:
        if self._stop.is_set():
            return STOPPED
        if self._clock.has_ended:
            return "the market's prices have ended"
        if self._is_last_cycle():
            return f"{self._live_cycle_count} cycles done"
        return ""

    def _is_last_cycle(self) -> bool:
        return self._settings.max_cycles is not None and self._live_cycle_count >= self._settings.max_cycles

    def _run_cycle(self) -> None:
        self._controls.check_state()
        self._cycle_count += 1
        self._executor.begin_cycle()
        if not self._clock.is_catching_up:
            self._live_cycle_count += 1
            self._decision_log.record_resolved("warm-up", Event.WARM_UP_ENDED)
        errors = [] if self._clock.is_replaying else [_catch_transient_error(self._dead_man_switch.disarm_previous)]
        # This may take minutes: a status would be outdated by then, and an armed switch would fire.
        self._reconcile_startup()
        if self._stop.is_set():
            return
        # Before the orders and the market's data are read: a halt does not depend on them.
        errors.append(_catch_transient_error(self._apply_controls))
        self._reconcile()
        self._feed.refresh_status()
        errors.append(_catch_transient_error(self._refresh_dead_man_switch))
        self._trade_pairs()
        self._complete_cycle()
        for error in filter(None, errors):
            raise error

    def _complete_cycle(self) -> None:
        """Do what comes last in every cycle, whatever trouble single pairs have."""
        if self._budget.allows(ReadPurpose.FOLLOW_UP, FILL_READ_POINTS):
            self._executor.fetch_fills()
        _catch_transient_error(self._record_equity_if_due)
        self._decision_log.record_status_if_due(self._symbols, self._executor.order_tracker)
        # After a fill they are outdated, and the next decision may be an hour away; nothing waits for them here.
        may_read = not self._clock.is_replaying and self._budget.allows(ReadPurpose.FOLLOW_UP, BALANCE_READ_POINTS)
        if may_read and _catch_transient_error(self._executor.balances) is None:
            self._balance_check.check(self._symbols)
        self.snapshot_publisher.publish(self._symbols, self._quote)

    def _reconcile(self) -> None:
        """Read the working orders; query the unknown ones, which these reads may have answered."""
        self._read_orders(is_urgent=self._is_exit_pending or self._executor.order_tracker.has_unread_orders())
        self._is_exit_pending = self._is_entry_pending = False
        self._executor.resolve_unknown_orders()
        for symbol in self._executor.pop_retryable_symbols():
            self._decided_candles.pop(symbol, None)

    def _read_orders(self, *, is_urgent: bool) -> bool:
        """Read the working orders, if it is urgent or there is room for it; return whether they were read."""
        may_read = is_urgent or self._budget.allows(ReadPurpose.FOLLOW_UP, ORDER_READ_POINTS)
        self._executor.read_working_orders(may_read=may_read)
        return may_read

    def _refresh_dead_man_switch(self) -> None:
        # A jump of a replay is not a time in which the bot failed to renew the switch.
        if not self._clock.is_replaying:
            self._dead_man_switch.refresh(
                "the bot is halted" if self._controls.is_halted() else self._feed.blocked_reason()
            )

    def _apply_controls(self) -> None:
        self._applied_controls = self._controls.read()
        self._is_cancel_pending = not self._executor.apply_controls(self._controls)

    def _trade_pairs(self) -> None:
        """Let every pair have its turn: first the exits and stops of all, then the entries."""
        turns: dict[str, Turn] = {}
        for symbol in self._symbols:
            if self._pair_back_offs[symbol].remaining_seconds:
                continue
            # Public: they do not wait for the private reads of another pair.
            if error := _catch_transient_error(partial(self._feed.refresh_pair, symbol)):
                self._record_pair_error(symbol, error)
            else:
                turns[symbol] = self._trade_pair(symbol)
        entries = self._run_turns(turns)
        self._run_turns(entries)

    def _record_pair_error(self, symbol: str, error: BotError) -> None:
        """Let the pair wait, and no other one."""
        self._pair_back_offs[symbol].fail(error, self._max_back_off_seconds())
        self._decision_log.record_once(
            f"trouble {symbol}", type(error).__name__, Event.PAIR_FAILED, symbol=symbol, error=error
        )

    def _run_turns(self, turns: dict[str, Turn]) -> dict[str, Turn]:
        """Run the turns to their ends, with one read of the orders for all that wait; return those before an entry."""
        entries: dict[str, Turn] = {}
        while turns:
            pauses = {symbol: self._advance(symbol, turn) for symbol, turn in turns.items()}
            entries |= {symbol: turns[symbol] for symbol, pause in pauses.items() if pause is Pause.ENTRY}
            turns = {
                symbol: turns[symbol] for symbol, pause in pauses.items() if pause in {Pause.RECORDS, Pause.FOLLOW_UP}
            }
            if turns and not self._read_orders(is_urgent=Pause.RECORDS in pauses.values()):
                # The next cycle, which is soon, reads them first.
                self._is_exit_pending = True
                break
        return entries

    def _advance(self, symbol: str, turn: Turn) -> Pause | None:
        """Run a pair's turn up to its next pause; None where it has ended."""
        try:
            return next(turn)
        except StopIteration:
            self._pair_back_offs[symbol].succeed()
            self._decision_log.record_resolved(f"trouble {symbol}", Event.PAIR_RECOVERED, symbol=symbol)
        except BotError as problem:
            if _is_fatal(problem):
                raise
            self._record_pair_error(symbol, problem)
        return None

    def _trade_pair(self, symbol: str) -> Turn:
        candle = self._feed.last_candle(symbol)
        if candle is None:
            return True
        if self._decided_candles.get(symbol) != candle.time_seconds:
            if not (yield from self._decide_candle(symbol, candle)):
                # A pending entry need not be polled as often as a pending exit.
                if self._executor.order_tracker.book.holding(symbol).quantity > 0:
                    self._is_exit_pending = True
                # While an exit waits for the end of a halt, the position needs its stop.
                if not self._controls.is_halted():
                    return False
            else:
                self._decided_candles[symbol] = candle.time_seconds
                self._is_equity_due = True
                if self._executor.order_tracker.has_unread_orders(symbol):
                    yield Pause.FOLLOW_UP
        if not (yield from self._position_manager.protect_position(partial(self._build_risk_state, symbol, candle))):
            self._is_exit_pending = True
        return True

    def _reconcile_startup(self) -> None:
        order_tracker = self._executor.order_tracker
        if not order_tracker.is_loaded:
            try:
                self._executor.reconcile_startup(self._symbols, self._clock, self._stop)
            except BotError as problem:
                if _is_fatal(problem):
                    raise
                self._decision_log.record_once(
                    "history", type(problem).__name__, Event.HISTORY_READ_FAILED, error=problem
                )
            if not order_tracker.is_loaded:
                return
            self._decision_log.record_resolved("history", Event.HISTORY_READ)
            self._realised_at_start = order_tracker.book.realised_total()
        if self._equity_start is None:
            self._equity_start = self._current_equity()

    def _current_equity(self) -> Decimal:
        return self._executor.equity(self._symbols, self._quote, self._broker.get_current_price)

    def _record_equity_if_due(self) -> None:
        """After a decision, record the account's value at the candles' closes."""
        if not self._is_equity_due:
            return
        if not self._clock.is_replaying:
            has_room = self._budget.allows(ReadPurpose.FOLLOW_UP, BALANCE_READ_POINTS)
            if not has_room and not self._executor.has_fresh_balances():
                return
            self._executor.require_fresh_balances()
        self._executor.balances()
        value = self.snapshot_publisher.last_equity(self._symbols, self._quote)
        if value is None:
            # Coins of a pair whose candles were never read are worth something unknown, not nothing.
            return
        # The executor reports a journal that cannot be written; a missing point of the curve does no harm.
        with contextlib.suppress(JournalError):
            self._broker.journal.add_equity(EquityPoint(self._broker.now(), self._quote, value))
        self._is_equity_due = False

    def _decide_candle(self, symbol: str, candle: Candle) -> Turn:
        """Decide one candle; return whether that is done, or has to be repeated in the next cycle."""
        requests = self._request_orders(symbol)
        if not requests:
            self._decision_log.record_hold(symbol, candle.close)
            return True
        if all(request.kind == "entry" for request in requests):
            yield Pause.ENTRY
            if not self._is_last_cycle() and not self._budget.allows(ReadPurpose.ENTRY, BALANCE_READ_POINTS):
                self._is_entry_pending = True
                return False
            self._feed.confirm_price(symbol)
        self._executor.require_fresh_balances()
        verdict = self._position_manager.check_requests(
            self._build_risk_state(symbol, candle), self._request_orders(symbol)
        )
        for refusal in verdict.refusals:
            self._decision_log.record_refusal(candle.close, refusal)
        if any(order.kind == "exit" for order in verdict.allowed):
            return (
                yield from self._position_manager.exit_position(
                    partial(self._build_risk_state, symbol, candle), partial(self._request_orders, symbol)
                )
            )
        self._executor.execute(verdict.allowed, candle.close)
        return not any(map(is_retryable, verdict.refusals))

    def _request_orders(self, symbol: str) -> list[OrderRequest]:
        return self._strategy_runner.decide(
            self._context_builder.build_strategy_context(symbol, self._settings.order_value)
        )

    def _build_risk_state(self, symbol: str, candle: Candle) -> RiskState:
        self._controls.check_state()
        # An earlier read of this cycle may have waited for the rate counter; this one is public and never does.
        _catch_transient_error(self._feed.refresh_status)
        return self._context_builder.build_risk_state(symbol, candle, self._controls, is_stopping=self._stop.is_set())

    def _wait_for_next_cycle(self) -> None:
        now = self._broker.now()
        next_close_seconds = (now // self._timeframe_seconds + 1) * self._timeframe_seconds + CANDLE_GRACE_SECONDS
        wake_at_seconds = self._clock.now() + next_close_seconds - now
        if self._clock.is_catching_up:
            # The last jump ends at the present, not at a candle in the future.
            wake_at_seconds = min(wake_at_seconds, wall_seconds() + CANDLE_GRACE_SECONDS)
        elif not self._clock.is_replaying:
            query_seconds = self._broker.next_query_seconds()
            wait_seconds = min(POLL_SECONDS * self._clock.speed, self._dead_man_switch.due_seconds - now)
            if self._is_exit_pending or self._is_entry_pending or self._is_cancel_pending:
                wait_seconds = min(wait_seconds, PENDING_STEP_POLL_SECONDS)
            if query_seconds is not None:
                wait_seconds = min(wait_seconds, query_seconds)
            wake_at_seconds = min(wake_at_seconds, self._clock.now() + wait_seconds)
        back_offs = [back_off for back_off in self._pair_back_offs.values() if back_off.error]
        retry_seconds = min((back_off.remaining_seconds for back_off in back_offs), default=None)
        wait_seconds = (wake_at_seconds - self._clock.now()) / self._clock.speed
        # A replay would jump over the candles of a pair that waits.
        if retry_seconds is not None and (self._clock.is_replaying or retry_seconds < wait_seconds):
            wait_seconds = retry_seconds
            self._stop.wait(retry_seconds)
        else:
            wait_seconds = self._wait_until(wake_at_seconds)
        for back_off in back_offs:
            back_off.pass_time(wait_seconds)

    def _wait_until(self, wake_at_seconds: float) -> float:
        """Wait; in real time, only until a control changes, which is applied at once. Return the seconds waited."""
        wait_seconds = (wake_at_seconds - self._clock.now()) / self._clock.speed
        steps = 0 if self._clock.is_replaying else int(wait_seconds / CONTROLS_POLL_SECONDS)
        for step in range(1, steps + 1):
            self._clock.wait(CONTROLS_POLL_SECONDS * self._clock.speed, self._stop)
            if self._stop.is_set() or self._controls.read() != self._applied_controls:
                return step * CONTROLS_POLL_SECONDS
        self._clock.wait_until(wake_at_seconds, self._stop)
        return wait_seconds

    def _back_off(self, problem: BotError) -> None:
        self._decision_log.record_once("cycle", type(problem).__name__, Event.CYCLE_FAILED, error=problem)
        wait_seconds = self._account_back_off.fail(problem, self._max_back_off_seconds())
        self._stop.wait(wait_seconds)
        for back_off in self._pair_back_offs.values():
            back_off.pass_time(wait_seconds)

    def _max_back_off_seconds(self) -> float:
        # An order with an unknown outcome is queried soon after Kraken answers again.
        return POLL_SECONDS if _may_have_unknown_orders(self._broker) else MAX_BACK_OFF_SECONDS

    def _resolve_pairs(self) -> None:
        # Order records have the pair's own symbol, whatever name the settings use.
        pairs = {pair.symbol: pair for pair in map(self._broker.pair, self._settings.symbols)}
        self._symbols, self._quote = tuple(pairs), common_quote(pairs.values())
        self._pair_back_offs = {symbol: BackOff() for symbol in self._symbols}

    def _read_final_equity(self) -> Decimal | None:
        """Read orders and balances once more; None where a signal leaves no time to wait for room for that."""
        if self._stop.is_set() and not self._budget.allows(ReadPurpose.END, RESERVE_POINTS):
            self._decision_log.record(Event.FINAL_ACCOUNT_NOT_READ)
            return None
        self._executor.read_working_orders()
        self._executor.invalidate_balances()
        equity = self._current_equity()
        # For the books; the next start fetches what is left out.
        if not self._stop.is_set() or self._budget.allows(ReadPurpose.END, FILL_READ_POINTS):
            self._executor.fetch_fills()
        return equity

    def _finish(self, reason: str, error: Exception | None) -> Summary:
        equity_end = last_equity = last_equity_seconds = None
        # Without the state folder, the switch belongs to another bot by now.
        if error is not None and not isinstance(error, StateLostError):
            self._dead_man_switch.stop()
            if not isinstance(error, LeaseLostError):
                # Otherwise another instance looks after them.
                self.record_positions_left()
        elif error is None:
            self.shutdown()
            try:
                equity_end = self._read_final_equity()
            except BotError as problem:
                self._decision_log.record(Event.FINAL_ACCOUNT_READ_FAILED, error=problem)
                self.record_positions_left()
            if equity_end is None:
                last_equity = self.snapshot_publisher.last_equity(self._symbols, self._quote)
                last_equity_seconds = None if last_equity is None else self._executor.balances_seconds
        return Summary(
            reason=reason,
            error=error,
            quote=self._quote,
            equity_start=self._equity_start,
            equity_end=equity_end,
            last_equity=last_equity,
            last_equity_seconds=last_equity_seconds,
            realised=self._executor.order_tracker.book.realised_total() - self._realised_at_start,
            orders=self._executor.counts,
            refused_nonces=self._broker.refused_nonces,
            cycles=self._cycle_count,
        )


def _may_have_unknown_orders(broker: Broker) -> bool:
    try:
        return bool(broker.unknown_orders())
    except JournalError:
        return True


def _catch_transient_error(action: Callable[[], object]) -> BotError | None:
    # A problem with one pair, or with the switch, must not keep the bot in a position in another.
    try:
        action()
    except BotError as problem:
        if _is_fatal(problem):
            raise
        return problem
    return None


def _is_fatal(problem: BotError) -> bool:
    return isinstance(problem, _ENDS_RUN) and not isinstance(problem, _TRANSIENT_ERRORS)

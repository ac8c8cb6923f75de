"""The trader: observe, decide, check, act, settle, wait.

Each closed candle of each pair is decided once; between candles the bot's own orders are followed.
Everything it knows of itself comes from Kraken's rows of its orders, so it may stop or die anywhere.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial

from bot.base.clock import MarketClock, wall_seconds
from bot.base.errors import (
    BotError,
    CredentialsError,
    JournalError,
    JournalVersionError,
    KeyRuleError,
    KrakenError,
    LeaseLostError,
    NonceError,
    PermissionDeniedError,
    SettingsError,
    StateLostError,
    StoppingError,
    StoreUnavailableError,
    SymbolError,
    TurnTimeout,
)
from bot.base.models import ZERO, Candle, WantedOrder, common_quote
from bot.base.timeframes import seconds_of
from bot.trading.broker import Broker
from bot.trading.context_builder import Equity, Situation
from bot.trading.controls import Switches
from bot.trading.dead_man_switch import DeadManSwitch
from bot.trading.decision_log import Heartbeat, Narrator
from bot.trading.executor import Counts, Executor
from bot.trading.feed import Feed
from bot.trading.history import History
from bot.trading.position_manager import PositionKeeper
from bot.trading.risk import RiskLimits, RiskState, comes_again
from bot.trading.snapshot import Observer
from bot.trading.strategies.base import Strategy

# Of real time: a market that runs faster is not asked more often.
POLL_SECONDS = 10.0
# While an exit or a stop is between two steps. Kraken's lists may be so late.
UNDER_WAY_POLL_SECONDS = 3.0
BACK_OFF_SECONDS_MAX = 60.0
# A candle that has just ended is asked for a moment later, so that it is closed by Kraken's clock too.
CANDLE_GRACE_SECONDS = 1.0
# An entry lives one candle and a little, so that the next decision finds it still there or finds its fill.
ENTRY_EXTRA_SECONDS = 60

_ENDS_THE_RUN = (
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
# Of those, what passes.
_GOES_ON = (StoreUnavailableError, TurnTimeout)
STOPPED = "stopped"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TraderSettings:
    """What to trade and how. `max_ticks` ends the run after so many passes at current prices; None never does.

    After `entry_lifetime_seconds` a resting entry expires at Kraken; None means one candle and a minute. The dead man's
    switch is armed for `dead_man_switch_seconds`; 0 means never. A position has a stop at Kraken `stop_percent` below
    its average entry price; 0 means none.
    """

    symbols: tuple[str, ...]
    timeframe: str
    order_value: Decimal
    limits: RiskLimits
    entry_lifetime_seconds: int | None = None
    cancel_entries_on_stop: bool = True
    dead_man_switch_seconds: int = 0
    stop_percent: Decimal = ZERO
    max_ticks: int | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """How a run went. Money is in `quote`; an equity that could not be read is None.

    `reason` says why the run ended and `error` is what ended it, if anything did. `realised` is of this run.
    """

    reason: str
    error: Exception | None
    quote: str
    equity_start: Decimal | None
    equity_end: Decimal | None
    realised: Decimal
    orders: Counts
    refused_nonces: int
    passes: int


class Trader:
    """One bot, one strategy, some pairs. `run` returns when `stop` is set, the market ends or nothing can go on."""

    def __init__(
        self,
        broker: Broker,
        strategy: Strategy,
        settings: TraderSettings,
        *,
        clock: MarketClock,
        stop: threading.Event,
        report: Callable[[str], None],
        switches: Switches,
    ) -> None:
        """`report` takes lines for a person."""
        self._broker = broker
        self._strategy = strategy
        self._settings = settings
        self._clock = clock
        self._stop = stop
        self._switches = switches
        self._narrator = Narrator(report, clock, broker.now)
        self._timeframe_seconds = seconds_of(settings.timeframe)
        self._feed = Feed(broker, settings.timeframe, self._narrator)
        lifetime_seconds = settings.entry_lifetime_seconds or self._timeframe_seconds + ENTRY_EXTRA_SECONDS
        self._executor = Executor(broker, strategy.name, lifetime_seconds, self._narrator)
        self._switch = DeadManSwitch(broker, settings.dead_man_switch_seconds, self._narrator)
        self._situation = Situation(broker, self._feed, self._executor, self._timeframe_seconds)
        self._history = History(broker, self._executor, self._narrator, clock)
        self._equity = Equity(broker, self._feed, self._executor, self._situation, clock)
        self._heartbeat = Heartbeat(broker, clock, self._narrator, self._executor.own)
        self.observer = Observer(broker, self._feed, self._executor, self._narrator)
        self._keeper = PositionKeeper(
            broker, self._situation, self._executor, self._narrator, settings.limits, settings.stop_percent
        )
        self._decided: dict[str, int] = {}
        self._under_way = False
        self._symbols: tuple[str, ...] = ()
        self._quote = ""
        self._equity_start: Decimal | None = None
        self._realised_before = ZERO
        self._back_off_seconds = 1.0
        # Why the last pass did not go through; "" where it did.
        self.trouble = ""
        self._passes = 0
        self._ticks = 0

    def run(self) -> Summary:
        """Trade until something ends it; then cancel resting entries (a setting) and sum up."""
        error: Exception | None = None
        try:
            self._open_pairs()
            reason = self._loop()
        except BotError as problem:
            reason, error = str(problem), problem
        except Exception as problem:  # whatever it is: never trade on in a state that nobody thought of
            logger.exception("the trader stopped on an error in the program")
            reason, error = f"an error in the program: {problem!r}", problem
        return self._finish(reason, error)

    def clear_up(self) -> None:
        """Disarm the switch, cancel resting entries (a setting); also from another thread, while `run` hangs."""
        self._switch.stop()
        if self._settings.cancel_entries_on_stop:
            self._executor.cancel_entries()

    def _loop(self) -> str:
        if self._clock.catching_up:
            self._narrator.once("replay", "", "recent candles first, as fast as they go: these lines are of the past")
        while not (reason := self._end_reason()):
            trouble = self._try_pass()
            if self._end_reason():
                continue
            if trouble is None:
                self._wait()
            else:
                self._back_off(trouble)
        return reason

    def _try_pass(self) -> BotError | None:
        try:
            self._pass()
        except StoppingError:
            self._stop.set()
        except BotError as problem:
            if _ends_the_run(problem):
                raise
            return problem
        self._back_off_seconds = 1.0
        self.trouble = ""
        self._narrator.over("trouble", "going on")
        return None

    def _end_reason(self) -> str:
        if self._stop.is_set():
            return STOPPED
        if self._clock.ended:
            return "the market's prices have ended"
        if self._settings.max_ticks is not None and self._ticks >= self._settings.max_ticks:
            return f"{self._ticks} ticks done"
        return ""

    def _pass(self) -> None:
        self._switches.check_state()
        self._passes += 1
        self._under_way = False
        if not self._clock.catching_up:
            self._ticks += 1
            self._narrator.over("replay", "the replay is over: from here on at current prices")
        troubles = [] if self._clock.replaying else [_attempt(self._switch.begin)]
        # It may take minutes: a status would be old by then, and a switch that is armed would fire.
        self._know_history()
        if self._stop.is_set():
            return
        self._feed.refresh_status()
        troubles.append(_attempt(self._keep_switch))
        for symbol in self._executor.settle():
            self._decided.pop(symbol, None)
        troubles.append(_attempt(lambda: self._executor.heed(self._switches)))
        troubles += [_attempt(partial(self._follow_pair, symbol)) for symbol in self._symbols]
        for trouble in filter(None, troubles):
            raise trouble
        self._equity.keep(self._symbols, self._quote)
        self._heartbeat.beat(self._symbols)
        if not self._clock.replaying:
            # After a fill they are old, and the next decision may be an hour away; nothing waits for them here.
            _attempt(self._executor.know_balances)
        self.observer.look(self._symbols, self._quote)

    def _keep_switch(self) -> None:
        # The time that a replay jumps over is no silence of the bot's.
        if not self._clock.replaying:
            self._switch.keep("the kill switch is on" if self._switches.halted() else self._feed.held_up())

    def _follow_pair(self, symbol: str) -> None:
        self._feed.refresh_pair_status(symbol)
        self._feed.refresh_candles(symbol)
        candle = self._feed.newest(symbol)
        if candle is None:
            return
        if self._decided.get(symbol) != candle.time_seconds:
            if not self._decide(symbol, candle):
                # What is only wanted need not be asked for as often as what is to be left.
                self._under_way = self._under_way or self._executor.own.book.holding(symbol).quantity > 0
                return
            self._decided[symbol] = candle.time_seconds
            self._equity.due = True
        if not self._keeper.protect(partial(self._state, symbol, candle)):
            self._under_way = True

    def _know_history(self) -> None:
        if not self._history.known:
            try:
                self._history.read(self._symbols, self._stop)
            except BotError as problem:
                if _ends_the_run(problem):
                    raise
                text = f"the bot's own history could not be read, so it opens nothing: {problem}"
                self._narrator.once("history", type(problem).__name__, text)
            if not self._history.known:
                return
            self._narrator.over("history", "the bot's own history has been read")
            self._realised_before = self._executor.own.book.realised_total()
        if self._equity_start is None:
            self._equity_start = self._equity.now(self._symbols, self._quote)

    def _decide(self, symbol: str, candle: Candle) -> bool:
        """Decide one candle; return whether that is done, or has to be tried again at the next pass."""
        if not self._wanted(symbol):
            self._narrator.hold(symbol, candle.close)
            return True
        self._executor.forget_balances()
        verdict = self._keeper.judge(self._state(symbol, candle), self._wanted(symbol))
        for refusal in verdict.refusals:
            self._narrator.refusal(candle.close, refusal)
        if any(order.kind == "exit" for order in verdict.allowed):
            return self._keeper.leave(partial(self._state, symbol, candle), partial(self._wanted, symbol))
        self._executor.execute(verdict.allowed, candle.close)
        return not any(map(comes_again, verdict.refusals))

    def _wanted(self, symbol: str) -> list[WantedOrder]:
        return self._strategy.decide(self._situation.view(symbol, self._settings.order_value))

    def _state(self, symbol: str, candle: Candle) -> RiskState:
        switches = self._switches
        switches.check_state()
        state = self._situation.risk_state(symbol, candle, halted=switches.halted(), stopping=self._stop.is_set())
        return replace(state, entries_stopped=switches.entries_stopped())

    def _wait(self) -> None:
        now = self._broker.now()
        next_close_seconds = (now // self._timeframe_seconds + 1) * self._timeframe_seconds + CANDLE_GRACE_SECONDS
        when_seconds = self._clock.now() + next_close_seconds - now
        if self._clock.catching_up:
            # The last jump ends at the present, not at a candle that is still to come.
            when_seconds = min(when_seconds, wall_seconds() + CANDLE_GRACE_SECONDS)
        elif not self._clock.replaying:
            look_up_seconds = self._broker.next_look_up_seconds()
            wait_seconds = min(POLL_SECONDS * self._clock.speed, self._switch.due_seconds - now)
            if self._under_way:
                wait_seconds = min(wait_seconds, UNDER_WAY_POLL_SECONDS)
            if look_up_seconds is not None:
                wait_seconds = min(wait_seconds, look_up_seconds)
            when_seconds = min(when_seconds, self._clock.now() + wait_seconds)
        self._clock.wait_until(when_seconds, self._stop)

    def _back_off(self, problem: BotError) -> None:
        self.trouble = str(problem)
        self._narrator.once("trouble", type(problem).__name__, f"waiting: {problem}")
        # An order of unknown fate is looked up soon after Kraken answers again.
        most_seconds = POLL_SECONDS if _may_be_unknown(self._broker) else BACK_OFF_SECONDS_MAX
        if isinstance(problem, StoreUnavailableError):
            # Of our own, and quick to ask; the lease may be over meanwhile, and nobody else there to lead.
            most_seconds = UNDER_WAY_POLL_SECONDS
        seconds = min(self._back_off_seconds, most_seconds)
        self._back_off_seconds = seconds * 2
        if isinstance(problem, KrakenError):
            seconds = max(seconds, problem.wait_seconds)
        # In real time, also in a replay: what is in trouble is the line to the exchange, not the market.
        self._stop.wait(seconds)

    def _open_pairs(self) -> None:
        # Order rows bear the pair's own name, whatever name the settings use.
        pairs = {pair.symbol: pair for pair in map(self._broker.pair, self._settings.symbols)}
        self._symbols, self._quote = tuple(pairs), common_quote(pairs.values())

    def _finish(self, reason: str, error: Exception | None) -> Summary:
        equity_end = None
        # Without its state folder, it is another bot's switch by now.
        if error is not None and not isinstance(error, StateLostError):
            self._switch.stop()
        elif error is None:
            self.clear_up()
            try:
                self._executor.follow()
                self._executor.forget_balances()
                equity_end = self._equity.now(self._symbols, self._quote)
            except BotError as problem:
                self._narrator.say(f"the account could not be read at the end: {problem}")
        return Summary(
            reason=reason,
            error=error,
            quote=self._quote,
            equity_start=self._equity_start,
            equity_end=equity_end,
            realised=self._executor.own.book.realised_total() - self._realised_before,
            orders=self._executor.counts,
            refused_nonces=self._broker.refused_nonces,
            passes=self._passes,
        )


def _may_be_unknown(broker: Broker) -> bool:
    try:
        return bool(broker.unknown_orders())
    except JournalError:
        return True


def _attempt(work: Callable[[], None]) -> BotError | None:
    # Trouble with one pair, or with the switch, must not keep the bot in a position in another.
    try:
        work()
    except BotError as problem:
        if _ends_the_run(problem):
            raise
        return problem
    return None


def _ends_the_run(problem: BotError) -> bool:
    return isinstance(problem, _ENDS_THE_RUN) and not isinstance(problem, _GOES_ON)

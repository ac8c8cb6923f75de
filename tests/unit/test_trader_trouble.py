"""Trouble of one pair, or of the strategy in one pair, is its own: every other pair is traded as usual."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from typing import Any

import pytest

from bot.base.clock import ReplayClock
from bot.base.errors import NoAnswerError, ServiceError
from bot.base.event_catalog import Alert, Event
from bot.base.models import ZERO, Candle, OrderRequest, Side
from bot.trading.risk import Controls
from bot.trading.strategies.base import StrategyContext
from bot.trading.trader import Trader, TraderSettings
from tests.event_log import capture_events
from tests.trading_fakes import (
    WIDE_LIMITS,
    FakeBroker,
    InstantEvent,
    ScriptedStrategy,
    SteppedClock,
    make_candles,
    make_order,
    run_trader,
    sell_all,
)

PAIRS = ("BTC/USD", "ETH/USD")
FLAT = [100] * 30


def live_market() -> tuple[FakeBroker, SteppedClock, Counter[str]]:
    """Return a broker over two flat pairs at current prices, and the number of its candle requests by pair."""
    clock = SteppedClock(361.0)
    broker = FakeBroker(clock, {symbol: make_candles(FLAT) for symbol in PAIRS})
    requests: Counter[str] = Counter()
    get_candles = broker.get_candles

    def counted(symbol: str, timeframe: str, count: int) -> list[Candle]:
        requests[symbol] += 1
        return get_candles(symbol, timeframe, count)

    broker.get_candles = counted  # type: ignore[method-assign]
    return broker, clock, requests


def fail_candles(broker: FakeBroker, errors: dict[str, Exception]) -> None:
    """Let every candle request of these pairs fail."""
    get_candles = broker.get_candles

    def failing(symbol: str, timeframe: str, count: int) -> list[Candle]:
        candles = get_candles(symbol, timeframe, count)
        if symbol in errors:
            raise errors[symbol]
        return candles

    broker.get_candles = failing  # type: ignore[method-assign]


def test_only_the_failing_pair_backs_off() -> None:
    """With BTC/USD failing for ten minutes, its candles are requested after 1, 2, 4, 8, 16 ... s and then once a
    minute; those of ETH/USD once for each candle."""
    broker, clock, requests = live_market()
    fail_candles(broker, {"BTC/USD": NoAnswerError("half an answer")})
    stop = InstantEvent()
    summary, event_log = run_trader(broker, clock, ScriptedStrategy({}), symbols=PAIRS, stop=stop, max_cycles=66)
    assert stop.waits_seconds[:4] == [1.0, 2.0, 4.0, 8.0]
    assert max(stop.waits_seconds) <= 10.0
    holds = event_log.of(Event.HOLD_DECIDED)
    assert {hold["symbol"] for hold in holds} == {"ETH/USD"}
    assert requests["ETH/USD"] == len(holds) == (clock.now() - 301.0) // 60
    assert 8 <= requests["BTC/USD"] <= 18
    assert summary.error is None


def test_a_cycle_completes_whatever_trouble_a_pair_has() -> None:
    """With one pair failing, the equity is recorded, the status line is written and the snapshot is published."""
    broker, clock, _ = live_market()
    fail_candles(broker, {"BTC/USD": NoAnswerError("half an answer")})
    settings = TraderSettings(PAIRS, "1m", Decimal(100), WIDE_LIMITS, max_cycles=20)
    trader = Trader(
        broker,
        ScriptedStrategy({}),
        settings,
        clock=clock,
        stop=InstantEvent(),
        controls=Controls(lambda: False, lambda: False, lambda: None),
    )
    with capture_events() as event_log:
        trader.run()
    assert trader.snapshot_publisher.latest is not None
    assert trader.last_error == "BTC/USD: half an answer"
    assert len(event_log.of(Event.STATUS_REPORTED)) >= 1
    assert [point.value for point in broker.journal.equity_points()][:1] == [Decimal(1000)]


def test_no_equity_is_recorded_without_the_price_of_coins() -> None:
    """While the candles of a pair of which the account has coins were never read, no equity is recorded: the coins are
    not worth zero."""
    broker, clock, _ = live_market()
    broker.totals["BTC"] = Decimal(1)
    fail_candles(broker, {"BTC/USD": NoAnswerError("half an answer")})
    run_trader(broker, clock, ScriptedStrategy({}), symbols=PAIRS, max_cycles=20)
    assert broker.journal.equity_points() == []


def test_the_trouble_of_every_pair_is_said() -> None:
    """Two pairs that fail for different reasons are two warnings, each once, and two recoveries."""
    broker, clock, _ = live_market()
    errors: dict[str, Exception] = {
        "BTC/USD": NoAnswerError("half an answer"),
        "ETH/USD": ServiceError("OHLC", ["EService:Busy"]),
    }
    fail_candles(broker, errors)
    stop = InstantEvent()
    wait = stop.wait

    def recover(timeout: float | None = None) -> bool:
        if len(stop.waits_seconds) == 3:
            errors.clear()
        return wait(timeout)

    stop.wait = recover  # type: ignore[method-assign]
    _, event_log = run_trader(broker, clock, ScriptedStrategy({}), symbols=PAIRS, stop=stop, max_cycles=6)
    assert event_log.of(Event.PAIR_FAILED).values("symbol") == list(PAIRS)
    assert event_log.of(Event.PAIR_RECOVERED).values("symbol") == list(PAIRS)


def test_a_pair_that_fails_in_a_replay_misses_no_candle() -> None:
    """In a replay the market waits for the pair: each of the closed candles is decided."""
    clock = ReplayClock(60.0, 600.0)
    broker = FakeBroker(clock, {"BTC/USD": make_candles([100] * 10)})
    broker.fail("get_candles", *[NoAnswerError("half an answer")] * 3)
    seen: list[int] = []

    def observe(context: StrategyContext) -> list[OrderRequest]:
        seen.append(context.candles[-1].time_seconds)
        return []

    run_trader(broker, clock, ScriptedStrategy({60 * index: observe for index in range(10)}))
    assert seen == [60 * index for index in range(9)]


def broken(_context: StrategyContext) -> list[OrderRequest]:
    """Decide as a strategy with a fault in it."""
    raise ZeroDivisionError("a bug")


def test_an_exception_in_the_strategy_stops_its_decisions_for_that_pair_alone() -> None:
    """The strategy fails for BTC/USD, once: one error with strategy, pair and candle, which alerts. BTC/USD gets no
    decision more; ETH/USD is sold, and the run goes on."""
    broker, clock, _ = live_market()
    for txid, symbol in (("H1", "BTC/USD"), ("H2", "ETH/USD")):
        broker.orders[txid] = make_order(txid, Side.BUY, "1", "100", symbol=symbol, closed_seconds=2.0)
        broker.totals[symbol[:3]] = Decimal(1)

    def decide(context: StrategyContext) -> list[OrderRequest]:
        return broken(context) if context.pair.base == "BTC" else []

    def sell_both(context: StrategyContext) -> list[OrderRequest]:
        return sell_all(context)

    strategy = ScriptedStrategy({300: decide, 360: sell_both, 420: sell_both})
    summary, event_log = run_trader(broker, clock, strategy, symbols=PAIRS, max_cycles=12)
    (failure,) = event_log.of(Event.STRATEGY_FAILED)
    assert (failure["strategy"], failure["symbol"], failure["candle_time"]) == (
        "script",
        "BTC/USD",
        "1970-01-01T00:05:00Z",
    )
    assert "ZeroDivisionError" in failure.text
    assert failure.event.alert is Alert.STRATEGY_FAILED
    assert (broker.totals["BTC"], broker.totals["ETH"]) == (Decimal(1), ZERO)
    assert summary.error is None


def test_a_position_keeps_its_stop_after_its_strategy_has_failed() -> None:
    """The strategy fails in the candle in which the position has no stop yet; the stop is placed all the same."""
    broker, clock, _ = live_market()
    broker.orders["H"] = make_order("H", Side.BUY, "1", "100", closed_seconds=2.0)
    broker.totals["BTC"] = Decimal(1)
    strategy = ScriptedStrategy({300: broken})
    run_trader(broker, clock, strategy, stop_loss_percent=Decimal(10), max_cycles=3)
    assert broker.placed()[1:] == [("sell", "1", "90.0")]


@pytest.mark.parametrize("error", [NoAnswerError("half an answer"), ServiceError("BalanceEx", ["EService:Busy"])])
def test_a_failed_private_read_of_one_turn_leaves_the_others_their_turn(error: Any) -> None:
    """The balance that BTC/USD needs in its turn cannot be read once; ETH/USD is sold in the same cycle."""
    broker, clock, _ = live_market()
    for txid, symbol in (("H1", "BTC/USD"), ("H2", "ETH/USD")):
        broker.orders[txid] = make_order(txid, Side.BUY, "1", "100", symbol=symbol, closed_seconds=2.0)
        broker.totals[symbol[:3]] = Decimal(1)
    get_balances = broker.get_account_balance
    calls = 0

    def fail_second() -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise error
        return get_balances()

    broker.get_account_balance = fail_second  # type: ignore[method-assign]
    run_trader(broker, clock, ScriptedStrategy({300: sell_all}), symbols=PAIRS, max_cycles=1)
    assert (calls >= 2, broker.totals["ETH"]) == (True, ZERO)

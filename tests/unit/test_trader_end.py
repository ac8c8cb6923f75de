"""The last read of the account where there is room for it; otherwise the last known equity, with its time."""

from __future__ import annotations

from decimal import Decimal

from bot.base.errors import NoAnswerError
from bot.base.event_catalog import Event
from bot.trading.trader import Summary
from tests.event_log import EventLog
from tests.trading_fakes import (
    FakeBroker,
    InstantEvent,
    ScriptedStrategy,
    SteppedClock,
    make_candles,
    observe_context,
    run_trader,
)


def stop_in_first_cycle(broker: FakeBroker, *, has_room: bool) -> tuple[Summary, EventLog]:
    """Run a trader that is stopped while it decides its first candle, with room on the rate counter at the end or
    not."""
    stop = InstantEvent()
    broker.has_room = lambda points: has_room  # type: ignore[method-assign]
    script = ScriptedStrategy({300: observe_context(lambda _context: stop.set())})
    return run_trader(broker, broker._clock, script, stop=stop)


def test_a_stop_without_room_for_a_read_keeps_the_last_equity_with_its_time() -> None:
    """Stopped while the rate counter is full, the run reads nothing more: the summary has the equity of the balances
    that were read at 361 s as the last known one, with that time."""
    broker = FakeBroker(SteppedClock(361.0), {"BTC/USD": make_candles([100] * 12)})
    summary, event_log = stop_in_first_cycle(broker, has_room=False)
    assert (summary.equity_end, summary.last_equity, summary.last_equity_seconds) == (None, Decimal(1000), 361.0)
    assert broker.calls.count("get_account_balance") == 1
    assert Event.FINAL_ACCOUNT_NOT_READ in event_log.events


def test_a_stop_with_room_reads_the_account_once_more() -> None:
    """Stopped with room on the rate counter, the run reads the balances again."""
    broker = FakeBroker(SteppedClock(361.0), {"BTC/USD": make_candles([100] * 12)})
    summary, _ = stop_in_first_cycle(broker, has_room=True)
    assert (summary.equity_end, summary.last_equity, summary.last_equity_seconds) == (Decimal(1000), None, None)


def test_a_failed_read_at_the_end_keeps_the_last_equity_with_its_time() -> None:
    """Where the last read fails, the reason is said, and the summary has the last known equity."""
    broker = FakeBroker(SteppedClock(361.0), {"BTC/USD": make_candles([100] * 12)})
    get_price = broker.get_current_price
    prices = 0

    def fail_second(symbol: str) -> Decimal:
        nonlocal prices
        prices += 1
        if prices == 2:
            raise NoAnswerError("half an answer")
        return get_price(symbol)

    broker.get_current_price = fail_second  # type: ignore[method-assign]
    summary, event_log = stop_in_first_cycle(broker, has_room=True)
    assert (summary.equity_end, summary.last_equity, summary.last_equity_seconds) == (None, Decimal(1000), 361.0)
    assert event_log.of(Event.FINAL_ACCOUNT_READ_FAILED).values("error")[0].args == ("half an answer",)

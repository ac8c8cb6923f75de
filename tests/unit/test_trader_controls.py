"""How the trader applies its controls: stopped entries, the kill switch, and the check of its state folder."""

from __future__ import annotations

from decimal import Decimal
from itertools import chain, repeat

import pytest

from bot.base.errors import StateLostError
from bot.base.models import OrderStatus, Side
from tests.trading_fakes import FakeBroker, ScriptedStrategy, SteppedClock, buy, make_candles, make_order, run_trader


def live_market() -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market at current prices, just after the candle of 180 has closed."""
    clock = SteppedClock(241.0)
    return FakeBroker(clock, {"BTC/USD": make_candles([100] * 100)}), clock


@pytest.mark.parametrize(("is_halted", "status"), [(False, OrderStatus.CANCELED), (True, OrderStatus.OPEN)])
def test_while_entries_are_stopped_none_rests(is_halted: bool, status: OrderStatus) -> None:
    """A resting entry is canceled when entries are stopped, unless the kill switch is on, which changes nothing; in
    neither case is a new one placed."""
    broker, clock = live_market()
    broker.orders["OWN"] = make_order(
        "OWN", Side.BUY, status=OrderStatus.OPEN, volume=Decimal(1), price=Decimal(90), opened_seconds=200.0
    )
    run_trader(
        broker,
        clock,
        ScriptedStrategy({180: buy("1")}),
        max_cycles=3,
        cancel_entries_on_stop=False,
        is_halted=lambda: is_halted,
        entries_stopped=lambda: True,
    )
    assert broker.orders["OWN"].status is status
    assert "place_buy" not in broker.calls


@pytest.mark.parametrize(("checks_before", "orders"), [(1, 0), (4, 1)])
def test_a_trader_without_its_state_folder_sends_nothing(checks_before: int, orders: int) -> None:
    """A trader that has lost its state folder ends, whether at the beginning of a cycle or before an order. It sends
    nothing more, not even to the dead man's switch."""
    broker, clock = live_market()
    broker.fills_limits = False
    lost = StateLostError("the state folder was replaced")
    check_results = chain(repeat(None, checks_before), repeat(lost))
    sent_before: list[int] = []

    def check_state() -> None:
        if (error := next(check_results)) is not None:
            sent_before.append(len(broker.calls))
            raise error

    summary, _ = run_trader(
        broker, clock, ScriptedStrategy({180: buy("1")}), dead_man_switch_seconds=60, check_state=check_state
    )
    assert summary.error is lost
    assert sent_before == [len(broker.calls)]
    assert "switch 60" in broker.calls
    assert broker.calls.count("place_buy") == orders

"""How the trader applies its controls: paused entries, a halt, and the check of its state folder."""

from __future__ import annotations

from decimal import Decimal
from itertools import chain, repeat

import pytest

from bot.base.errors import StateLostError, TransportError
from bot.base.event_catalog import Event
from bot.base.models import OrderStatus, Side
from tests.trading_fakes import FakeBroker, ScriptedStrategy, SteppedClock, buy, make_candles, make_order, run_trader


def live_market() -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market at current prices, just after the candle of 180 has closed."""
    clock = SteppedClock(241.0)
    return FakeBroker(clock, {"BTC/USD": make_candles([100] * 100)}), clock


def rest_entry(broker: FakeBroker) -> None:
    """Let an entry of the bot rest at 90."""
    broker.orders["OWN"] = make_order(
        "OWN", Side.BUY, status=OrderStatus.OPEN, volume=Decimal(1), price=Decimal(90), opened_seconds=200.0
    )


@pytest.mark.parametrize(
    ("is_halted", "is_paused", "is_watching", "status"),
    [
        (False, True, False, OrderStatus.CANCELED),
        (True, False, False, OrderStatus.CANCELED),
        (True, True, False, OrderStatus.CANCELED),
        (True, False, True, OrderStatus.OPEN),
    ],
)
def test_while_entries_are_paused_or_the_bot_is_halted_none_rests(
    is_halted: bool, is_paused: bool, is_watching: bool, status: OrderStatus
) -> None:
    """A resting entry is canceled while entries are paused or the bot is halted, but not where it only watches; in
    no case is a new one placed."""
    broker, clock = live_market()
    rest_entry(broker)
    run_trader(
        broker,
        clock,
        ScriptedStrategy({180: buy("1")}),
        max_cycles=3,
        cancel_entries_on_stop=False,
        is_halted=lambda: is_halted,
        entries_paused=lambda: is_paused,
        is_watching=is_watching,
    )
    assert broker.orders["OWN"].status is status
    assert "place_buy" not in broker.calls


def test_a_halt_cancels_entries_within_a_second() -> None:
    """A halt at 244 s, between two cycles that are ten seconds apart, cancels the resting entry by 245 s."""
    broker, clock = live_market()
    rest_entry(broker)
    run_trader(broker, clock, ScriptedStrategy({}), max_cycles=2, is_halted=lambda: clock.now() >= 244.0)
    assert broker.orders["OWN"].status is OrderStatus.CANCELED
    assert broker.orders["OWN"].closed_seconds <= 245.0


def test_a_halt_cancels_entries_while_the_status_is_unavailable() -> None:
    """While Kraken's status cannot be read, a halted bot cancels its resting entry all the same."""
    broker, clock = live_market()
    rest_entry(broker)
    broker.fail("system_status", *[TransportError("no answer")] * 3)
    run_trader(broker, clock, ScriptedStrategy({}), max_cycles=2, cancel_entries_on_stop=False, is_halted=lambda: True)
    assert broker.orders["OWN"].status is OrderStatus.CANCELED


def test_a_cancel_that_fails_is_repeated_until_no_entry_is_left() -> None:
    """An entry whose cancel fails twice is canceled in the third cycle; the failure is recorded once."""
    broker, clock = live_market()
    rest_entry(broker)
    broker.fail("cancel_order", *[TransportError("no answer")] * 2)
    _, event_log = run_trader(
        broker, clock, ScriptedStrategy({}), max_cycles=3, cancel_entries_on_stop=False, is_halted=lambda: True
    )
    assert broker.orders["OWN"].status is OrderStatus.CANCELED
    assert event_log.of(Event.ORDER_CANCEL_FAILED).values("txid") == ["OWN"]


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

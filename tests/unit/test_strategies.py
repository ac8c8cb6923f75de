"""Strategies decide from literal candles; the expected values were computed by hand."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from bot.base.models import Candle, OrderRequest, Side
from bot.trading.strategies import STRATEGIES
from bot.trading.strategies.base import StrategyContext, buy_price, entry_quantity
from bot.trading.strategies.moving_average import MovingAverage, average_true_range
from tests.trading_fakes import make_candles, make_pair

CROSSING = [10, 10, 10, 13]  # averages of 2 and 3: 10 and 10, then 11.5 and 11


def make_context(closes: list[int], **fields: object) -> StrategyContext:
    """Return the context of a flat account with 100 to spend on an entry; `fields` override."""
    flat = StrategyContext(
        pair=make_pair(),
        timeframe_seconds=60,
        candles=tuple(make_candles(closes)),
        position_quantity=Decimal(0),
        average_price=Decimal(0),
        entry_seconds=0.0,
        has_open_entry=False,
        order_value=Decimal(100),
        quote_available=Decimal(1000),
    )
    return replace(flat, **fields)  # type: ignore[arg-type]  # the test names the fields


def context_with_position(closes: list[int], entry_price: int, entry_seconds: float) -> StrategyContext:
    """Return the context of an account that bought one coin."""
    return make_context(
        closes, position_quantity=Decimal(1), average_price=Decimal(entry_price), entry_seconds=entry_seconds
    )


def small_moving_average(stop_ranges: str = "3") -> MovingAverage:
    """Return the strategy with averages of 2 and 3 candles and a range of 2."""
    return MovingAverage(fast=2, slow=3, stop_candles=2, stop_ranges=Decimal(stop_ranges))


def test_a_crossing_upward_is_an_entry_at_the_last_close() -> None:
    """When the fast average crosses above the slow one, 100 is spent at the close of 13: 7.69230769 coins."""
    assert small_moving_average().decide(make_context(CROSSING)) == [
        OrderRequest(
            symbol="BTC/USD",
            side=Side.BUY,
            quantity=Decimal("7.69230769"),
            price=Decimal("13.0"),
            kind="entry",
            candle_seconds=180,
            reason="the 2 average crossed above the 3 average",
        )
    ]


@pytest.mark.parametrize(
    "context",
    [
        pytest.param(make_context([*CROSSING, 14]), id="a candle after the crossing"),
        pytest.param(make_context([10, 10, 10, 10]), id="no crossing"),
        pytest.param(make_context([10, 10, 10, 7]), id="a crossing downward with nothing held"),
        pytest.param(make_context(CROSSING[1:]), id="a candle too few to know the averages before"),
        pytest.param(make_context(CROSSING, has_open_entry=True), id="an entry is resting"),
        pytest.param(context_with_position(CROSSING, 10, 180.0), id="a position is held"),
        pytest.param(make_context([]), id="no candles at all"),
    ],
)
def test_there_is_no_entry_without_a_fresh_crossing_on_a_flat_account(context: StrategyContext) -> None:
    """Without a crossing at the last candle, or with a position, there is no order."""
    assert small_moving_average().decide(context) == []


def test_a_fast_average_below_the_slow_one_is_an_exit_in_every_candle() -> None:
    """Candles after the crossing downward, the whole position is still to be sold at market."""
    requests = small_moving_average().decide(context_with_position([20, 19, 18, 17, 16], 20, 0.0))
    assert [(request.side, request.quantity, request.price, request.kind) for request in requests] == [
        (Side.SELL, Decimal(1), None, "exit")
    ]
    assert requests[0].reason == "the 2 average is below the 3 average"


def test_the_volatility_stop_is_ranges_below_the_highest_close_since_the_entry() -> None:
    """After 30 and 28, with a mean range of (20 + 2) / 2 = 11, a stop of 0.1 ranges is 28.9 and one of 0.2 is 27.8."""
    context = context_with_position([10, 10, 30, 28], 10, 60.0)
    [request] = small_moving_average("0.1").decide(context)
    assert request.reason == "the close is below the volatility stop at 28.9"
    assert small_moving_average("0.2").decide(context) == []


def test_closes_before_the_entry_do_not_move_the_volatility_stop() -> None:
    """Bought at 28 after the candle of 30 had closed, the highest is 28, and a stop of 0.1 ranges is not reached."""
    assert small_moving_average("0.1").decide(context_with_position([10, 10, 30, 28], 28, 180.0)) == []


def test_the_volatility_stop_starts_from_the_average_entry_price() -> None:
    """Bought at 35, above every close, the highest is 35 and a stop of 0.5 ranges is 35 - 5.5 = 29.5."""
    [request] = small_moving_average("0.5").decide(context_with_position([10, 10, 30, 28], 35, 180.0))
    assert request.reason == "the close is below the volatility stop at 29.5"


def test_the_true_range_counts_the_gap_from_the_close_before() -> None:
    """A candle from 12 to 14 after a close of 10 has a range of 4, and one from 7 to 9 after 13 one of 6: the mean is
    5."""
    numbers = [(9, 11, 8, 10), (12, 14, 12, 13), (8, 9, 7, 8)]
    candles = [
        Candle(index, Decimal(opened), Decimal(high), Decimal(low), Decimal(close), Decimal(1))
        for index, (opened, high, low, close) in enumerate(numbers)
    ]
    assert average_true_range(candles, 2) == 5


def test_an_entry_spends_at_most_the_available_balance_including_its_fee() -> None:
    """With 50.5 to spend and 1 % reserved for the fee, 50 buys 5 coins at 10; with nothing it buys none."""
    assert entry_quantity(make_context([10], quote_available=Decimal("50.5")), Decimal(10)) == 5
    assert entry_quantity(make_context([10], quote_available=Decimal(0)), Decimal(10)) == 0


def test_a_buy_price_is_rounded_down_to_the_tick_size() -> None:
    """With a tick of 0.1 a price of 10.19 becomes 10.1, and 10.1 stays."""
    assert [buy_price(make_pair(), Decimal(price)) for price in ("10.19", "10.1")] == [Decimal("10.1")] * 2


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_registered_strategy_has_its_name_and_decides_from_the_context_alone(name: str) -> None:
    """Two instances of a strategy, one of which has decided before, request the same orders in the same context."""
    closes = [100 + (index * index) % 17 for index in range(60)]
    used, fresh = STRATEGIES[name](), STRATEGIES[name]()
    assert fresh.name == name
    contexts = [make_context(closes[: index + 1]) for index in range(60)]
    decisions = [used.decide(context) for context in contexts]
    assert any(decisions)
    assert [fresh.decide(context) for context in reversed(contexts)] == decisions[::-1]

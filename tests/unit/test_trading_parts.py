"""What the trader's parts keep: candles that join up, and order rows of which the final one holds."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from bot.models import OrderStatus, PlacedOrder, Side
from bot.trading.feed import CANDLES_KEPT, Feed
from bot.trading.own_orders import OwnOrders
from tests.trading_fakes import BOT_ID, FakeBroker, SteppedClock, make_candles, make_order


def broker_at(seconds: float, candles: int = 10) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market of one-minute candles."""
    clock = SteppedClock(seconds)
    return FakeBroker(clock, {"BTC/USD": make_candles([100] * candles)}), clock


def test_candles_join_up_whatever_the_answer_repeats() -> None:
    """An answer that brings a candle known already adds only the new one."""
    broker, clock = broker_at(121)
    feed = Feed(broker, "1m")
    feed.refresh_candles("BTC/USD")
    clock.time_seconds = 181
    ask = broker.get_candles
    broker.get_candles = lambda symbol, timeframe, count: ask(symbol, timeframe, count + 1)  # type: ignore[method-assign]
    feed.refresh_candles("BTC/USD")
    assert [candle.time_seconds for candle in feed.candles("BTC/USD")] == [0, 60, 120]


def test_a_hole_in_the_candles_is_filled_from_a_long_answer() -> None:
    """When an answer does not join what is known, all candles are asked for, and none is missing after it."""
    broker, clock = broker_at(121)
    feed = Feed(broker, "1m")
    feed.refresh_candles("BTC/USD")
    clock.time_seconds = 361
    ask, counts = broker.get_candles, []

    def short(symbol: str, timeframe: str, count: int) -> list[object]:
        counts.append(count)
        return ask(symbol, timeframe, min(count, 2) if count < CANDLES_KEPT else count)  # type: ignore[return-value]

    broker.get_candles = short  # type: ignore[method-assign,assignment]
    feed.refresh_candles("BTC/USD")
    assert [candle.time_seconds for candle in feed.candles("BTC/USD")] == [0, 60, 120, 180, 240, 300]
    assert counts == [4, CANDLES_KEPT]


def test_no_more_candles_are_kept_than_kraken_serves() -> None:
    """After 750 candles, one by one, the last 719 are kept."""
    broker, clock = broker_at(61, 750)
    feed = Feed(broker, "1m")
    for minute in range(1, 751):
        clock.time_seconds = minute * 60 + 1
        feed.refresh_candles("BTC/USD")
    times = [candle.time_seconds for candle in feed.candles("BTC/USD")]
    assert (len(times), times[0], times[-1]) == (719, 31 * 60, 749 * 60)


def test_of_two_rows_of_one_order_the_final_one_holds() -> None:
    """An order that the first answer shows open and the second closed is closed, with its one fill."""
    broker, _ = broker_at(100)
    own = OwnOrders(broker)
    row = make_order("A", Side.BUY, "1", "100", closed_seconds=99.0)
    broker.rows["A"] = row
    broker.get_open_orders = lambda: [replace(row, status=OrderStatus.OPEN, executed=Decimal(0))]  # type: ignore[method-assign]
    own.rebuild()
    assert own.open_orders() == []
    assert own.book.holding("BTC/USD").quantity == 1


def test_a_final_row_stays_final() -> None:
    """A late answer that shows a closed order open again changes nothing."""
    broker, _ = broker_at(100)
    own = OwnOrders(broker)
    row = make_order("A", Side.BUY, "1", "100", closed_seconds=99.0)
    broker.rows["A"] = row
    own.rebuild()
    del broker.rows["A"]
    broker.get_open_orders = lambda: [replace(row, status=OrderStatus.OPEN, executed=Decimal("0.5"))]  # type: ignore[method-assign]
    own.doubt(90.0)
    assert own.refresh() == []
    assert own.open_orders() == []
    assert own.book.holding("BTC/USD").quantity == 1


def test_nothing_is_asked_while_nothing_is_working() -> None:
    """A refresh without a working order makes no call; one with a resting order asks for open orders alone."""
    broker, clock = broker_at(100)
    own = OwnOrders(broker)
    own.refresh()
    assert broker.calls == []
    clock.time_seconds = 110
    broker.rows["A"] = make_order("A", Side.BUY, status=OrderStatus.OPEN, opened_seconds=110.0, volume=Decimal(1))
    own.expect(PlacedOrder("A", BOT_ID + "A", "BTC/USD", Side.BUY, Decimal(1), Decimal(100)))
    own.refresh()
    assert broker.calls == ["get_open_orders"]

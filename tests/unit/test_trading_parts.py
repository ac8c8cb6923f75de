"""What the trader's parts keep: candles that join up, and order rows of which the final one holds."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from bot.base.errors import NoAnswerError
from bot.base.models import OrderStatus, PlacedOrder, Side
from bot.trading.decision_log import Narrator
from bot.trading.feed import CANDLES_KEPT, Feed
from bot.trading.order_tracker import OwnOrders
from tests.trading_fakes import BOT_ID, FakeBroker, SteppedClock, make_candles, make_order


def broker_at(seconds: float, candles: int = 10) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market of one-minute candles."""
    clock = SteppedClock(seconds)
    return FakeBroker(clock, {"BTC/USD": make_candles([100] * candles)}), clock


def feed_of(broker: FakeBroker, clock: SteppedClock) -> tuple[Feed, list[str]]:
    """Return a feed of one-minute candles, and the lines that it writes."""
    lines: list[str] = []
    return Feed(broker, "1m", Narrator(lines.append, clock, broker.now)), lines


def test_candles_join_up_whatever_the_answer_repeats() -> None:
    """An answer that brings a candle known already adds only the new one."""
    broker, clock = broker_at(121)
    feed = feed_of(broker, clock)[0]
    feed.refresh_candles("BTC/USD")
    clock.time_seconds = 181
    ask = broker.get_candles
    broker.get_candles = lambda symbol, timeframe, count: ask(symbol, timeframe, count + 1)  # type: ignore[method-assign]
    feed.refresh_candles("BTC/USD")
    assert [candle.time_seconds for candle in feed.candles("BTC/USD")] == [0, 60, 120]


def test_a_hole_in_the_candles_is_filled_from_a_long_answer() -> None:
    """When an answer does not join what is known, all candles are asked for, and none is missing after it."""
    broker, clock = broker_at(121)
    feed = feed_of(broker, clock)[0]
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
    feed = feed_of(broker, clock)[0]
    for minute in range(1, 751):
        clock.time_seconds = minute * 60 + 1
        feed.refresh_candles("BTC/USD")
    times = [candle.time_seconds for candle in feed.candles("BTC/USD")]
    assert (len(times), times[0], times[-1]) == (719, 31 * 60, 749 * 60)


def test_statuses_are_asked_for_when_they_are_old() -> None:
    """In 300 s of looks every second, the exchange is asked every 30 s and the pair at the start and at the end."""
    broker, clock = broker_at(1000)
    feed, _ = feed_of(broker, clock)
    asked: list[tuple[str, float]] = []
    for second in range(301):
        clock.time_seconds = 1000.0 + second
        feed.refresh_status()
        feed.refresh_pair_status("BTC/USD")
        asked += [(verb, second) for verb in broker.calls]
        broker.calls.clear()
    assert [second for verb, second in asked if verb == "system_status"] == list(range(0, 301, 30))
    assert [second for verb, second in asked if verb == "pair_status"] == [0, 300]


def test_a_failed_look_at_a_pairs_status_is_made_again_at_once() -> None:
    """A look that was not answered leaves the status unknown and is due again."""
    broker, clock = broker_at(1000)
    feed, _ = feed_of(broker, clock)
    broker.fail("pair_status", NoAnswerError("half an answer"))
    with pytest.raises(NoAnswerError):
        feed.refresh_pair_status("BTC/USD")
    assert feed.pair_status("BTC/USD") == ""
    feed.refresh_pair_status("BTC/USD")
    assert feed.pair_status("BTC/USD") == "online"


def test_a_person_sees_when_a_status_holds_trading_up_and_when_it_goes_on() -> None:
    """Of six looks, three in each of two statuses, exchange and pair make one line each, and one when it is over."""
    broker, clock = broker_at(0)
    feed, lines = feed_of(broker, clock)
    for system, pair in [("maintenance", "post_only")] * 3 + [("online", "online")] * 3:
        broker.status, broker.pair_statuses = system, {"BTC/USD": pair}
        clock.time_seconds += 300
        feed.refresh_status()
        feed.refresh_pair_status("BTC/USD")
    assert [line.split("  ", 1)[1] for line in lines] == [
        "trading is held up: the exchange's status is maintenance: nothing is sent",
        "trading is held up: BTC/USD's status is post_only: cancels, post-only limit orders and nothing else",
        "trading goes on: the exchange's status is online again",
        "trading goes on: BTC/USD's status is online again",
    ]


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
    own.expect(PlacedOrder("B", BOT_ID + "B", "BTC/USD", Side.BUY, Decimal(1), Decimal(100)))
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

"""Parts of the trader: contiguous candles, refreshed statuses, and order records of which the final one counts."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from bot.base.errors import NoAnswerError
from bot.base.models import OrderStatus, PlacedOrder, Side
from bot.kraken.market_data import MAX_CANDLES
from bot.trading.decision_log import DecisionLog
from bot.trading.feed import Feed
from bot.trading.order_tracker import OrderTracker
from tests.event_log import EventLog
from tests.trading_fakes import BOT_ID, FakeBroker, SteppedClock, make_candles, make_order


def broker_at(seconds: float, candles: int = 10) -> tuple[FakeBroker, SteppedClock]:
    """Return a broker over a flat market of one-minute candles."""
    clock = SteppedClock(seconds)
    return FakeBroker(clock, {"BTC/USD": make_candles([100] * candles)}), clock


def make_feed(broker: FakeBroker, clock: SteppedClock) -> Feed:
    """Return a feed of one-minute candles."""
    return Feed(broker, "1m", DecisionLog(broker, clock))


def test_repeated_candles_in_a_response_are_not_duplicated() -> None:
    """A response that contains a known candle adds only the new one."""
    broker, clock = broker_at(121)
    feed = make_feed(broker, clock)
    feed.refresh_candles("BTC/USD")
    clock.time_seconds = 181
    get_candles = broker.get_candles
    broker.get_candles = lambda symbol, timeframe, count: get_candles(symbol, timeframe, count + 1)  # type: ignore[method-assign]
    feed.refresh_candles("BTC/USD")
    assert [candle.time_seconds for candle in feed.candles("BTC/USD")] == [0, 60, 120]


def test_a_gap_in_the_candles_is_filled_from_a_full_response() -> None:
    """If a response leaves a gap to the known candles, all candles are requested, and none is missing afterwards."""
    broker, clock = broker_at(121)
    feed = make_feed(broker, clock)
    feed.refresh_candles("BTC/USD")
    clock.time_seconds = 361
    get_candles, counts = broker.get_candles, []

    def get_short_response(symbol: str, timeframe: str, count: int) -> list[object]:
        counts.append(count)
        return get_candles(symbol, timeframe, min(count, 2) if count < MAX_CANDLES else count)  # type: ignore[return-value]

    broker.get_candles = get_short_response  # type: ignore[method-assign,assignment]
    feed.refresh_candles("BTC/USD")
    assert [candle.time_seconds for candle in feed.candles("BTC/USD")] == [0, 60, 120, 180, 240, 300]
    assert counts == [4, MAX_CANDLES]


def test_at_most_as_many_candles_are_kept_as_kraken_serves() -> None:
    """After 750 candles, one by one, the last 719 are stored."""
    broker, clock = broker_at(61, 750)
    feed = make_feed(broker, clock)
    for minute in range(1, 751):
        clock.time_seconds = minute * 60 + 1
        feed.refresh_candles("BTC/USD")
    times = [candle.time_seconds for candle in feed.candles("BTC/USD")]
    assert (len(times), times[0], times[-1]) == (719, 31 * 60, 749 * 60)


def test_statuses_are_refreshed_only_when_stale() -> None:
    """In 300 s of refreshes every second, the exchange is requested every 30 s and the pair at the start and at the
    end."""
    broker, clock = broker_at(1000)
    feed = make_feed(broker, clock)
    requests: list[tuple[str, float]] = []
    for second in range(301):
        clock.time_seconds = 1000.0 + second
        feed.refresh_status()
        feed.refresh_pair_status("BTC/USD")
        requests += [(verb, second) for verb in broker.calls]
        broker.calls.clear()
    assert [second for verb, second in requests if verb == "system_status"] == list(range(0, 301, 30))
    assert [second for verb, second in requests if verb == "pair_status"] == [0, 300]


def test_a_failed_pair_status_request_is_retried_at_once() -> None:
    """A failed request leaves the status unknown and is due again at once."""
    broker, clock = broker_at(1000)
    feed = make_feed(broker, clock)
    broker.fail("pair_status", NoAnswerError("half an answer"))
    with pytest.raises(NoAnswerError):
        feed.refresh_pair_status("BTC/USD")
    assert feed.pair_status("BTC/USD") == ""
    feed.refresh_pair_status("BTC/USD")
    assert feed.pair_status("BTC/USD") == "online"


def test_a_status_that_blocks_trading_and_its_end_are_each_logged_once(event_log: EventLog) -> None:
    """Over six refreshes, three in each of two statuses, exchange and pair log one line each, and one when trading
    resumes."""
    broker, clock = broker_at(0)
    feed = make_feed(broker, clock)
    for system, pair in [("maintenance", "post_only")] * 3 + [("online", "online")] * 3:
        broker.status, broker.pair_statuses = system, {"BTC/USD": pair}
        clock.time_seconds += 300
        feed.refresh_status()
        feed.refresh_pair_status("BTC/USD")
    assert event_log.texts == [
        "Trading is restricted: the exchange's status is maintenance: nothing is sent",
        "Trading is restricted: BTC/USD's status is post_only: cancels, post-only limit orders and nothing else",
        "Trading continues: the status of the exchange is online again.",
        "Trading continues: the status of BTC/USD is online again.",
    ]
    assert event_log.values("source", "status") == [
        ("the exchange", "maintenance"),
        ("BTC/USD", "post_only"),
        ("the exchange", "online"),
        ("BTC/USD", "online"),
    ]


def test_the_final_record_of_an_order_wins_over_an_open_one() -> None:
    """An order that the first query shows open and the second closed is closed, with its one fill."""
    broker, _ = broker_at(100)
    tracker = OrderTracker(broker)
    order = make_order("A", Side.BUY, "1", "100", closed_seconds=99.0)
    broker.orders["A"] = order
    broker.get_open_orders = lambda: [replace(order, status=OrderStatus.OPEN, executed=Decimal(0))]  # type: ignore[method-assign]
    tracker.rebuild()
    assert tracker.open_orders() == []
    assert tracker.book.holding("BTC/USD").quantity == 1


def test_a_final_order_record_stays_final() -> None:
    """A late answer that shows a closed order open again changes nothing."""
    broker, _ = broker_at(100)
    tracker = OrderTracker(broker)
    order = make_order("A", Side.BUY, "1", "100", closed_seconds=99.0)
    broker.orders["A"] = order
    tracker.rebuild()
    del broker.orders["A"]
    broker.get_open_orders = lambda: [replace(order, status=OrderStatus.OPEN, executed=Decimal("0.5"))]  # type: ignore[method-assign]
    tracker.add_accepted(PlacedOrder("B", BOT_ID + "B", "BTC/USD", Side.BUY, Decimal(1), Decimal(100)))
    assert tracker.refresh() == []
    assert tracker.open_orders() == []
    assert tracker.book.holding("BTC/USD").quantity == 1


def test_no_query_is_made_without_working_orders() -> None:
    """A refresh without a working order makes no call; one with a resting order requests open orders only."""
    broker, clock = broker_at(100)
    tracker = OrderTracker(broker)
    tracker.refresh()
    assert broker.calls == []
    clock.time_seconds = 110
    broker.orders["A"] = make_order("A", Side.BUY, status=OrderStatus.OPEN, opened_seconds=110.0, volume=Decimal(1))
    tracker.add_accepted(PlacedOrder("A", BOT_ID + "A", "BTC/USD", Side.BUY, Decimal(1), Decimal(100)))
    tracker.refresh()
    assert broker.calls == ["get_open_orders"]

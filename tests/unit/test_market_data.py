"""Market data without a network: the pairs are read once, and no lock is held meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bot.base.clock import MarketClock, ServerTime, judge_kraken_time
from bot.base.event_catalog import Event
from bot.kraken.account import Account
from bot.kraken.market_data import MarketData
from tests.event_log import EventLog
from tests.unit.kraken_samples import ASSET_PAIRS, ASSETS

LIMIT_SECONDS = 30.0


class SlowFirstReader:
    """Kraken's public endpoints, of which the first reader of the pairs waits for its answer."""

    def __init__(self) -> None:
        self.first_is_reading, self.may_answer = threading.Event(), threading.Event()
        self.pairs_read = 0

    def public_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return pairs and assets."""
        if method == "AssetPairs":
            self.pairs_read += 1
            if self.pairs_read == 1:
                self.first_is_reading.set()
                assert self.may_answer.wait(LIMIT_SECONDS)
        return {"AssetPairs": ASSET_PAIRS, "Assets": ASSETS}[method]

    def private_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Never called."""
        raise AssertionError(method)

    def response_date(self) -> float | None:
        """Return None: no Date came."""
        return None


def test_no_lock_is_held_while_the_pairs_are_read() -> None:
    """While one thread waits for the pairs another one reads them itself: a child that is forked in that moment has no
    lock to wait for. From then on they are read no more."""
    calls, clock = SlowFirstReader(), MarketClock()
    market_data = MarketData(calls, ServerTime(clock), clock)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(market_data.pair, "BTC/EUR")
        assert calls.first_is_reading.wait(LIMIT_SECONDS)
        second = pool.submit(market_data.pair, "BTC/EUR")
        try:
            assert second.result(LIMIT_SECONDS).symbol == "BTC/EUR"
        finally:
            calls.may_answer.set()
        assert first.result(LIMIT_SECONDS) == second.result(LIMIT_SECONDS)
    market_data.pair("BTC/EUR")
    assert calls.pairs_read == 2


class ScriptedCalls:
    """Kraken's endpoints with given results."""

    def __init__(self, **results: Any) -> None:
        self._results = {"AssetPairs": ASSET_PAIRS, "Assets": ASSETS, **results}

    def response_date(self) -> None:
        """Return no Date header."""

    def public_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return the result of the method."""
        return self._results[method]

    private_call = public_call


def test_an_odd_candle_is_said_once(event_log: EventLog) -> None:
    """Three answers with the same odd candle are one event, which names the pair."""
    rows = [[60, "10", "12", "9", "11", "10", "1", 3], [120, "10", "9", "12", "11", "10", "1", 3]]
    calls, clock = ScriptedCalls(OHLC={"XBTEUR": rows, "last": 120}), MarketClock(1_000.0)
    market_data = MarketData(calls, ServerTime(clock), clock)
    for _ in range(3):
        assert [candle.time_seconds for candle in market_data.get_candles("BTC/EUR", "1m", 10)] == [60]
    assert event_log.of(Event.CANDLE_LEFT_OUT).values("symbol") == ["BTC/EUR"]


def test_an_account_without_a_result_is_empty() -> None:
    """BalanceEx without error and result is an account that holds nothing."""
    calls, clock = ScriptedCalls(BalanceEx=None), MarketClock()
    market_data = MarketData(calls, ServerTime(clock), clock)
    assert Account(calls, market_data, "bot01").get_balances() == {}


@pytest.mark.parametrize(
    ("kraken", "date", "wall", "expected", "speed", "followed"),
    [
        # Two that agree within ten seconds.
        (5000, 5010, 1000, 1000, 1, 5000),
        (5000, 5011, 1000, 1000, 1, None),
        (5000, None, 5010, 1000, 1, 5000),
        (5000, 1010, 1000, 1000, 1, 1010),
        (-5000, 1010, 1000, 1000, 1, 1010),
        # None that agree: at most a minute ahead of the expected time.
        (1060, None, 1000, 1000, 1, 1060),
        (1061, None, 1000, 1000, 1, None),
        (-5000, None, 1000, 1000, 1, -5000),
        (5000, None, 9000, 5000, 1, 5000),
        # A market that runs 20 times as fast.
        (2200, None, 1000, 1000, 20, 2200),
        (2201, None, 1000, 1000, 20, None),
        (5000, 5200, 1000, 1000, 20, 5000),
    ],
)
def test_two_clocks_that_agree_are_followed(
    kraken: float, date: float | None, wall: float, expected: float, speed: float, followed: float | None
) -> None:
    """Two of Time, Date and wall clock that agree within 10 s are followed; a Time alone up to 60 s ahead."""
    assert judge_kraken_time(kraken, date, wall, expected, speed) == followed

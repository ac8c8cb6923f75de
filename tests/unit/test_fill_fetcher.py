"""Fills in the journal: they are fetched page by page until they add up to the executed volume of the order records."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import cast

import pytest

from bot.base.errors import BotError, NoAnswerError
from bot.base.models import Fill
from bot.orders.journal import Journal
from bot.trading.broker import Broker
from bot.trading.order_tracker import FillFetcher
from tests.journal_rows import make_fill, make_kraken_order

PAGE_SIZE = 2
HALF = replace(make_fill(), volume=Decimal("0.005"), cost=Decimal(250), fee=Decimal("0.625"))
FIRST, SECOND = replace(HALF, trade_id="T1"), replace(HALF, trade_id="T2", time_seconds=103.0)
EXTERNAL_FILLS = [replace(HALF, trade_id=f"F{at}", order_txid="OTHERS", time_seconds=200.0) for at in range(2)]
ORDER = make_kraken_order(opened_seconds=101.0)


class TradeHistoryBroker:
    """A broker with a trade history, newest first, and a clock that a test sets."""

    def __init__(self, journal: Path, trades: list[Fill]) -> None:
        self.journal = Journal(str(journal))
        self.trades = trades
        self.now_seconds = 1000.0
        self.requests: list[tuple[float, int]] = []
        self.error: BotError | None = None
        self.extra_count = 0

    def now(self) -> float:
        return self.now_seconds

    def get_trades_page(self, since_seconds: float, offset: int) -> tuple[list[Fill], int]:
        self.requests.append((since_seconds, offset))
        if self.error is not None:
            raise self.error
        newest_first = sorted(self.trades, key=lambda trade: -trade.time_seconds)
        return newest_first[offset : offset + PAGE_SIZE], len(newest_first) + self.extra_count


@pytest.fixture
def history(tmp_path: Path) -> TradeHistoryBroker:
    """Return an exchange on which one order was filled in two parts and others have traded since."""
    return TradeHistoryBroker(tmp_path / "journal.sqlite", [FIRST, SECOND, *EXTERNAL_FILLS])


def make_fetcher(history: TradeHistoryBroker) -> FillFetcher:
    """Return the fill fetcher over a history."""
    return FillFetcher(cast("Broker", history))


def test_pages_are_fetched_until_nothing_is_missing(history: TradeHistoryBroker) -> None:
    """Without delay, page after page is requested from a minute before the order; afterwards nothing is requested."""
    fills = make_fetcher(history)
    fills.expect([ORDER])
    assert [fills.fetch_page() for _ in range(3)] == [True, True, False]
    history.now_seconds += 3600
    assert not fills.fetch_page()
    assert history.requests == [(41.0, 0), (41.0, 2)]


def test_only_own_fills_are_written_to_the_journal(history: TradeHistoryBroker) -> None:
    """After the last page the journal has both fills of the own order and none of the other sender."""
    fills = make_fetcher(history)
    fills.expect([ORDER])
    while fills.fetch_page():
        pass
    assert history.journal.fills() == [FIRST, SECOND]


def test_fills_missing_in_the_journal_are_fetched_after_a_restart(history: TradeHistoryBroker) -> None:
    """After a kill with the order record and one of its two fills written, the next run fetches the other fill."""
    history.journal.record_orders([ORDER])
    history.journal.add_fills([FIRST])
    fills = make_fetcher(history)
    fills.load_missing()
    while fills.fetch_page():
        pass
    assert history.journal.fills() == [FIRST, SECOND]


def test_a_lagging_history_is_queried_again_from_the_first_page(history: TradeHistoryBroker) -> None:
    """If a fill is missing after the last page, the first page is requested again after 30 s and not earlier."""
    history.trades = [FIRST]
    fills = make_fetcher(history)
    fills.expect([ORDER])
    assert (fills.fetch_page(), fills.fetch_page()) == (True, False)
    history.trades = [FIRST, SECOND]
    history.now_seconds += 29.9
    assert not fills.fetch_page()
    history.now_seconds += 0.1
    assert fills.fetch_page()
    assert [offset for _, offset in history.requests] == [0, 0]
    assert history.journal.fills() == [FIRST, SECOND]


def test_an_unanswered_page_is_requested_again(history: TradeHistoryBroker) -> None:
    """A missing answer raises; the same page is requested again after 30 s and not earlier."""
    fills = make_fetcher(history)
    fills.expect([ORDER])
    fills.fetch_page()
    history.error = NoAnswerError("half an answer")
    with pytest.raises(NoAnswerError):
        fills.fetch_page()
    history.error = None
    history.now_seconds += 29.9
    assert not fills.fetch_page()
    history.now_seconds += 0.1
    assert fills.fetch_page()
    assert [offset for _, offset in history.requests] == [0, 2, 2]
    assert history.journal.fills() == [FIRST, SECOND]


def test_a_page_that_could_not_be_written_is_requested_again(tmp_path: Path) -> None:
    """A failed write raises nothing; the same page is requested again after 30 s and not earlier."""
    history = TradeHistoryBroker(tmp_path / "gone" / "journal.sqlite", [FIRST, SECOND])
    fills = make_fetcher(history)
    fills.expect([ORDER])
    assert fills.fetch_page()
    (tmp_path / "gone").mkdir()
    history.now_seconds += 29.9
    assert not fills.fetch_page()
    history.now_seconds += 0.1
    assert fills.fetch_page()
    assert [offset for _, offset in history.requests] == [0, 0]
    assert history.journal.fills() == [FIRST, SECOND]


def test_a_new_fill_restarts_at_the_first_page(history: TradeHistoryBroker) -> None:
    """An order that fills while older pages are read is on the first page, which is requested at once."""
    fills = make_fetcher(history)
    fills.expect([ORDER])
    fills.fetch_page()
    late = replace(make_fill("T3", "OLATE"), time_seconds=300.0)
    history.trades.append(late)
    fills.expect([make_kraken_order("mybot0000000000002", "OLATE", opened_seconds=290.0)])
    while fills.fetch_page():
        pass
    assert [offset for _, offset in history.requests] == [0, 0, 2, 4]
    assert history.journal.fills() == [FIRST, SECOND, late]


def test_an_order_of_the_first_minute_is_queried_from_zero(history: TradeHistoryBroker) -> None:
    """A minute before second 0 becomes 0, because Kraken accepts no negative time."""
    fills = make_fetcher(history)
    fills.expect([replace(ORDER, opened_seconds=30.0)])
    fills.fetch_page()
    assert history.requests == [(0.0, 0)]


def test_an_empty_page_is_the_last_one_regardless_of_the_count(history: TradeHistoryBroker) -> None:
    """If Kraken counts more trades than it returns, the first page is requested again after 30 s and not earlier."""
    history.trades, history.extra_count = [], 5
    fills = make_fetcher(history)
    fills.expect([ORDER])
    assert (fills.fetch_page(), fills.fetch_page()) == (True, False)
    history.now_seconds += 30
    assert fills.fetch_page()
    assert [offset for _, offset in history.requests] == [0, 0]

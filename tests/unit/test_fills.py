"""The fills in the journal: fetched a page at a time until they are what the order rows say was executed."""

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
from bot.trading.fills import Fills
from tests.journal_rows import fill, row

PAGE_ROWS = 2
HALF = replace(fill(), volume=Decimal("0.005"), cost=Decimal(250), fee=Decimal("0.625"))
FIRST, SECOND = replace(HALF, trade_id="T1"), replace(HALF, trade_id="T2", time_seconds=103.0)
FOREIGN = [replace(HALF, trade_id=f"F{at}", order_txid="OTHERS", time_seconds=200.0) for at in range(2)]
ORDER = row(opened_seconds=101.0)


class History:
    """A broker with a trade history, newest first, and a clock that a test sets."""

    def __init__(self, journal: Path, trades: list[Fill]) -> None:
        self.journal = Journal(str(journal))
        self.trades = trades
        self.seconds = 1000.0
        self.asked: list[tuple[float, int]] = []
        self.problem: BotError | None = None
        self.more = 0

    def now(self) -> float:
        return self.seconds

    def get_trades_page(self, since_seconds: float, offset: int) -> tuple[list[Fill], int]:
        self.asked.append((since_seconds, offset))
        if self.problem is not None:
            raise self.problem
        newest_first = sorted(self.trades, key=lambda one: -one.time_seconds)
        return newest_first[offset : offset + PAGE_ROWS], len(newest_first) + self.more


@pytest.fixture
def history(tmp_path: Path) -> History:
    """Return an exchange on which one order was filled in two parts, and others have traded since."""
    return History(tmp_path / "journal.sqlite", [FIRST, SECOND, *FOREIGN])


def fills_of(history: History) -> Fills:
    """Return the keeper of fills over a history."""
    return Fills(cast("Broker", history))


def test_pages_are_fetched_until_nothing_is_missing(history: History) -> None:
    """Without a wait in between, page after page is asked for from a minute before the order, then nothing any more."""
    fills = fills_of(history)
    fills.expect([ORDER])
    assert [fills.fetch() for _ in range(3)] == [True, True, False]
    history.seconds += 3600
    assert not fills.fetch()
    assert history.asked == [(41.0, 0), (41.0, 2)]


def test_own_fills_are_written_down_and_no_others(history: History) -> None:
    """After the last page the journal has both parts of the own order, and nothing of the other sender's."""
    fills = fills_of(history)
    fills.expect([ORDER])
    while fills.fetch():
        pass
    assert history.journal.fills() == [FIRST, SECOND]


def test_after_a_restart_what_the_journal_lacks_is_fetched(history: History) -> None:
    """Killed with the row of an order written and one of its two fills, the next life fetches the other."""
    history.journal.take_rows([ORDER])
    history.journal.add_fills([FIRST])
    fills = fills_of(history)
    fills.load()
    while fills.fetch():
        pass
    assert history.journal.fills() == [FIRST, SECOND]


def test_a_history_that_lags_is_asked_again_from_the_front(history: History) -> None:
    """Where the last page leaves a part missing, the first page is asked for again after 30 s and not before."""
    history.trades = [FIRST]
    fills = fills_of(history)
    fills.expect([ORDER])
    assert (fills.fetch(), fills.fetch()) == (True, False)
    history.trades = [FIRST, SECOND]
    history.seconds += 29.9
    assert not fills.fetch()
    history.seconds += 0.1
    assert fills.fetch()
    assert [offset for _, offset in history.asked] == [0, 0]
    assert history.journal.fills() == [FIRST, SECOND]


def test_a_page_that_is_not_answered_is_asked_for_again(history: History) -> None:
    """No answer raises; the same page is asked for again after 30 s and not before."""
    fills = fills_of(history)
    fills.expect([ORDER])
    fills.fetch()
    history.problem = NoAnswerError("half an answer")
    with pytest.raises(NoAnswerError):
        fills.fetch()
    history.problem = None
    history.seconds += 29.9
    assert not fills.fetch()
    history.seconds += 0.1
    assert fills.fetch()
    assert [offset for _, offset in history.asked] == [0, 2, 2]
    assert history.journal.fills() == [FIRST, SECOND]


def test_a_page_that_could_not_be_written_is_asked_for_again(tmp_path: Path) -> None:
    """Where the disk refuses, nothing is raised, and the same page is asked for again after 30 s and not before."""
    history = History(tmp_path / "gone" / "journal.sqlite", [FIRST, SECOND])
    fills = fills_of(history)
    fills.expect([ORDER])
    assert fills.fetch()
    (tmp_path / "gone").mkdir()
    history.seconds += 29.9
    assert not fills.fetch()
    history.seconds += 0.1
    assert fills.fetch()
    assert [offset for _, offset in history.asked] == [0, 0]
    assert history.journal.fills() == [FIRST, SECOND]


def test_another_fill_in_the_middle_begins_at_the_front(history: History) -> None:
    """An order that fills while older pages are read is on the first page, which is asked for at once."""
    fills = fills_of(history)
    fills.expect([ORDER])
    fills.fetch()
    late = replace(fill("T3", "OLATE"), time_seconds=300.0)
    history.trades.append(late)
    fills.expect([row("mybot0000000000002", "OLATE", opened_seconds=290.0)])
    while fills.fetch():
        pass
    assert [offset for _, offset in history.asked] == [0, 0, 2, 4]
    assert history.journal.fills() == [FIRST, SECOND, late]


def test_an_order_of_the_first_minute_is_asked_for_from_zero(history: History) -> None:
    """A minute before the beginning of time is its beginning: Kraken reads no negative time."""
    fills = fills_of(history)
    fills.expect([replace(ORDER, opened_seconds=30.0)])
    fills.fetch()
    assert history.asked == [(0.0, 0)]


def test_an_empty_page_is_the_last_one_whatever_the_count_says(history: History) -> None:
    """Where Kraken counts more trades than it gives, the front is asked for again after 30 s and not before."""
    history.trades, history.more = [], 5
    fills = fills_of(history)
    fills.expect([ORDER])
    assert (fills.fetch(), fills.fetch()) == (True, False)
    history.seconds += 30
    assert fills.fetch()
    assert [offset for _, offset in history.asked] == [0, 0]

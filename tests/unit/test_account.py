"""Reading a long history of orders, page by page, from an exchange that does not always answer."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from bot.base.clock import ServerTime
from bot.base.errors import NoAnswerError
from bot.base.event_catalog import Event
from bot.kraken.account import Account
from bot.kraken.market_data import MarketData
from tests.event_log import capture_events
from tests.trading_fakes import SteppedClock
from tests.unit.kraken_samples import ASSET_PAIRS, ASSETS, ORDER

NOW = 1_790_000_000.0
PAGE_SIZE = 50


class BusyKraken:
    """ClosedOrders of an account with many orders; each request takes `page_seconds`, and some are not answered."""

    def __init__(self, clock: SteppedClock, orders: int, page_seconds: float = 6.0) -> None:
        self._clock = clock
        self._page_seconds = page_seconds
        self._row = ORDER | {"status": "canceled"}
        # Newest first: when they closed, and from when on the list has them.
        self.orders = {f"O{number}": (NOW - 120 - number, 0.0) for number in range(orders)}
        self.requests = 0
        self.fails: Callable[[], bool] = lambda: False

    def close_order(self, txid: str, listed_after_seconds: float = 0.0) -> None:
        """Let an order close now, and appear in the list later."""
        now = self._clock.now()
        closed = {**self.orders, txid: (now, now + listed_after_seconds)}
        self.orders = dict(sorted(closed.items(), key=lambda order: -order[1][0]))

    def response_date(self) -> None:
        """Return no Date header."""

    def public_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return pairs and assets."""
        return {"AssetPairs": ASSET_PAIRS, "Assets": ASSETS}[method]

    def private_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Return a page."""
        assert (method, params is not None) == ("ClosedOrders", True)
        self.requests += 1
        self._clock.time_seconds += self._page_seconds
        if self.fails():
            raise NoAnswerError("HTTP 520")
        listed = [(txid, closed) for txid, (closed, since) in self.orders.items() if since <= self._clock.now()]
        page = listed[params["ofs"] :][:PAGE_SIZE]  # type: ignore[index]  # as asserted above
        return {"closed": {txid: self._row | {"closetm": closed} for txid, closed in page}, "count": len(listed)}


def make_account(kraken: BusyKraken, clock: SteppedClock) -> Account:
    """Return the account."""
    return Account(kraken, MarketData(kraken, ServerTime(clock), clock), "bot01")


def read_until_answered(account: Account) -> list[str]:
    """Read the whole history, again and again until it succeeds; return the ids."""
    while True:
        try:
            return [order.txid for order in account.get_closed_orders(0.0)]
        except NoAnswerError:
            pass


def test_a_page_that_is_not_answered_costs_little_more_than_that_page() -> None:
    """Of 60 pages every seventh is not answered: all orders are read with less than a hundred requests."""
    clock = SteppedClock(NOW)
    kraken = BusyKraken(clock, orders=3000)
    kraken.fails = lambda: kraken.requests % 7 == 0
    txids = read_until_answered(make_account(kraken, clock))
    assert txids == list(kraken.orders)
    assert kraken.requests < 100


@pytest.mark.parametrize("seed", range(20))
def test_orders_that_close_meanwhile_are_read(seed: int) -> None:
    """Whatever fails, and whatever closes meanwhile: an order that was in the list before the last attempt is read."""
    random_numbers, clock = random.Random(seed), SteppedClock(NOW)
    kraken = BusyKraken(clock, orders=random_numbers.randrange(1, 400))
    account = make_account(kraken, clock)
    listed_txids: set[str] = set()

    def fail_at_times() -> bool:
        if random_numbers.random() < 0.5:
            kraken.close_order(f"N{kraken.requests}", random_numbers.choice([0.0, 3.0]))
        return random_numbers.random() < 0.3

    kraken.fails = fail_at_times
    while True:
        listed_txids = {txid for txid, (_, since) in kraken.orders.items() if since <= clock.now()}
        try:
            read_txids = [order.txid for order in account.get_closed_orders(0.0)]
        except NoAnswerError:
            continue
        break
    assert listed_txids <= set(read_txids)
    assert len(read_txids) == len(set(read_txids))


def test_an_order_that_is_listed_late_is_read_after_an_interruption() -> None:
    """An order that had closed before an interrupted reading, and was listed after it, is read by the next one."""
    clock = SteppedClock(NOW)
    kraken = BusyKraken(clock, orders=200, page_seconds=0.0)
    account = make_account(kraken, clock)
    kraken.close_order("late", listed_after_seconds=3.0)
    clock.time_seconds += 1
    # More than a page, so that the late one is not beside the first that is known.
    for number in range(60):
        kraken.close_order(f"newer {number}")
    kraken.fails = lambda: kraken.requests == 3
    with pytest.raises(NoAnswerError):
        account.get_closed_orders(0.0)
    clock.time_seconds += 5
    assert [order.txid for order in account.get_closed_orders(0.0)] == list(kraken.orders)


def test_another_span_is_read_from_its_beginning() -> None:
    """An interrupted reading of the whole history adds nothing to a reading of the last minutes."""
    clock = SteppedClock(NOW)
    kraken = BusyKraken(clock, orders=200)
    account = make_account(kraken, clock)
    kraken.fails = lambda: kraken.requests == 3
    with pytest.raises(NoAnswerError):
        account.get_closed_orders(0.0)
    kraken.orders = {}
    assert account.get_closed_orders(NOW) == []


def test_the_progress_of_a_long_reading_is_reported() -> None:
    """At 6 s a page, 3,000 orders take six minutes: the first report, after five pages, says that 330 s remain."""
    clock = SteppedClock(NOW)
    kraken = BusyKraken(clock, orders=3000)
    with capture_events() as event_log:
        make_account(kraken, clock).get_closed_orders(0.0)
    reports = event_log.of(Event.HISTORY_PROGRESS).values("count", "total", "wait_seconds")
    assert reports[0] == (250, 3000, 330.0)
    assert reports[-1] == (2750, 3000, 30.0)

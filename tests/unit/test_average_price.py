"""An average price is never worse than the order's own limit, although a cost is rounded."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest

from bot.app.reports import order_rows
from bot.base.clock import MarketClock
from bot.base.event_catalog import Event
from bot.base.models import Order, Side
from bot.trading.decision_log import DecisionLog
from bot.trading.order_tracker import FillDelta
from tests.event_log import capture_events
from tests.trading_fakes import FakeBroker, make_order

# 0.3 coins at a limit of 0.00004 cost 0.000012: with five decimals 0.00001, and 0.5 at 0.00003 cost 0.00002.
BUY = ("0.5", "0.00003", "0.00002", "0.00003")
SELL = ("0.3", "0.00004", "0.00001", "0.00004")


def limit_order(side: Side, volume: str, limit: str, cost: str) -> Order:
    """Return the record of a filled limit order whose average is the quotient of cost and volume."""
    return replace(make_order("X", side, volume, cost), price=Decimal(limit), kind="limit")


@pytest.mark.parametrize(("side", "numbers"), [(Side.BUY, BUY), (Side.SELL, SELL)])
def test_a_logged_price_is_no_worse_than_the_limit(side: Side, numbers: tuple[str, str, str, str]) -> None:
    """Fills and the end of an order are logged at its limit where the quotient is worse."""
    order = limit_order(side, *numbers[:3])
    assert (order.average_price > order.price) == (side is Side.BUY)
    log = DecisionLog(FakeBroker(MarketClock(), {}), MarketClock())
    with capture_events() as event_log:
        log.record_fill(FillDelta(order, order.executed, order.cost, order.fee))
        log.record_ended(order)
    assert event_log.of(Event.ORDER_FILLED, Event.ORDER_ENDED).values("price") == [Decimal(numbers[3])] * 2


def test_a_reported_price_is_no_worse_than_the_limit() -> None:
    """The `orders` report has the limit where the quotient is worse, and a better average as it is."""
    worse, better = limit_order(Side.BUY, *BUY[:3]), limit_order(Side.BUY, "1", "0.00003", "0.00002")
    averages = [order_rows([], [order], 0.0, only_open=False)[0]["average"] for order in (worse, better)]
    assert averages == [Decimal("0.00003"), Decimal("0.00002")]


def test_a_stop_keeps_the_price_that_it_got() -> None:
    """A stop sells at a price below its trigger, which is no limit."""
    stop = replace(limit_order(Side.SELL, "1", "90", "80"), kind="stop-loss")
    assert stop.bounded_average(stop.average_price) == 80

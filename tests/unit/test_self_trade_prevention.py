"""Self-trade prevention in the simulator: an order never trades with a resting order of its own account."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.simulator.exchange import Exchange
from bot.simulator.storage import Storage
from tests.simulator_parts import START, make_exchange, order_error, place_order

BALANCES = {"ZUSD": "10000", "XXBT": "1"}
OUTCOMES = [
    ({}, "canceled", "open"),
    ({"stptype": "cancel-newest"}, "canceled", "open"),
    ({"stptype": "cancel-oldest"}, "closed", "canceled"),
    ({"stptype": "cancel-both"}, "canceled", "canceled"),
]


def statuses(exchange: Exchange, *txids: str) -> list[str]:
    """Return the statuses of these orders."""
    return [exchange.account.orders[txid].status for txid in txids]


@pytest.mark.parametrize(("stptype", "newest", "oldest"), OUTCOMES)
@pytest.mark.parametrize("order", [{"ordertype": "market"}, {"price": "49000", "timeinforce": "IOC"}], ids=str)
def test_an_arriving_sale_that_meets_an_own_buy(
    order: dict[str, str], stptype: dict[str, str], newest: str, oldest: str
) -> None:
    """A sale that meets a buy at the price of 50000 is canceled by default; stptype cancels the buy, or both."""
    exchange = make_exchange((0, "50000"), starting_balances=BALANCES)
    bid = place_order(exchange, price="50000")
    ask = place_order(exchange, type="sell", **order, **stptype)
    assert statuses(exchange, ask, bid) == [newest, oldest]
    assert len(exchange.account.trades) == (newest == "closed")
    assert exchange.account.audit() == []


@pytest.mark.parametrize(("stptype", "newest", "oldest"), OUTCOMES)
def test_a_triggered_stop_that_meets_an_own_buy(stptype: dict[str, str], newest: str, oldest: str) -> None:
    """A stop that triggers at 49000, where an own buy of 48999.9 rests a tick below, follows the same rule."""
    exchange = make_exchange((0, "50000"), (100, "49000"), starting_balances=BALANCES)
    stop = place_order(exchange, type="sell", ordertype="stop-loss", price="49000", **stptype)
    bid = place_order(exchange, price="48999.9")
    exchange.advance(START + 100)
    assert statuses(exchange, stop, bid) == [newest, oldest]
    assert exchange.account.audit() == []


def test_an_arriving_buy_that_meets_an_own_sale_is_canceled() -> None:
    """A market buy meets a sale that rests one tick above the price, and is canceled."""
    exchange = make_exchange((0, "50000"), starting_balances=BALANCES)
    ask = place_order(exchange, type="sell", price="50000.1")
    bid = place_order(exchange, ordertype="market")
    assert statuses(exchange, bid, ask) == ["canceled", "open"]


def test_orders_that_do_not_meet_are_not_canceled() -> None:
    """A sale at the market does not meet an own buy two ticks below the price."""
    exchange = make_exchange((0, "50000"), starting_balances=BALANCES)
    bid = place_order(exchange, price="49999.8")
    ask = place_order(exchange, type="sell", ordertype="market")
    assert statuses(exchange, ask, bid) == ["closed", "open"]


def test_two_own_orders_that_the_path_touches_at_once_do_not_trade() -> None:
    """A stop and a buy at one price: the buy fills or is canceled, and each order ends once."""
    for is_stop_first in (True, False):
        exchange = make_exchange((0, "50000"), (100, "48000"), starting_balances=BALANCES)
        stop = {"type": "sell", "ordertype": "stop-loss", "price": "49000", "stptype": "cancel-oldest"}
        for order in [stop, {"price": "49000"}][:: 1 if is_stop_first else -1]:
            place_order(exchange, **order)
        exchange.advance(START + 100)
        assert exchange.account.audit() == []
        assert len(exchange.account.trades) == (1 if is_stop_first else 2)


def test_an_unknown_stptype_is_refused() -> None:
    """Any other word is refused with Kraken's general error."""
    assert order_error(make_exchange((0, "50000")), price="49000", stptype="none") == (
        "EGeneral:Invalid arguments:stptype"
    )


def test_stptype_survives_a_restart(tmp_path: Path) -> None:
    """A stop that was stored with its stptype has it after the file is opened again; one without has none."""
    exchange = make_exchange((0, "50000"), starting_balances=BALANCES)
    stop = {"type": "sell", "ordertype": "stop-loss", "price": "49000"}
    txids = [place_order(exchange, **stop, **stptype) for stptype in ({"stptype": "cancel-oldest"}, {})]
    storage = Storage(tmp_path / "account.db", "scripted")
    storage.save(exchange.account, [], exchange.now, None)
    saved_state = storage.load()
    storage.close()
    assert saved_state is not None
    assert [saved_state.account.orders[txid].stptype for txid in txids] == ["cancel-oldest", ""]

"""Orders of KrakenBroker before they leave: the largest order, and what is sent."""

from __future__ import annotations

import threading
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from bot.base.errors import OrderBlockedError, OrderRefusedError, OrderRuleError, OrderUnknownError
from bot.base.models import OrderStatus, Side
from bot.nonce.local_lock import Urgency
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, Desk, open_desk, pass_time, price, wait_for, waiting_calls

pytestmark = pytest.mark.usefixtures("nonce_file")

RICH = SimulatorOptions(balances={"ZUSD": "1000000", "XXBT": "100"})
LIMIT = Decimal(250)
NAMED = ORDER | {"cl_ord_id": "abcde1234567890123"}


def sent_orders(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Return a list that fills with the fields of every AddOrder that arrives."""
    arrived: list[dict[str, str]] = []
    add_order = desk.simulator.exchange.add_order

    def seen(params: dict[str, str]) -> dict[str, Any]:
        arrived.append(dict(params))
        return add_order(params)

    monkeypatch.setattr(desk.simulator.exchange, "add_order", seen)
    return arrived


# The largest order


def test_a_limit_order_above_the_largest_is_not_sent() -> None:
    """A limit order worth more than MAX_ORDER_VALUE raises OrderRuleError and does not reach Kraken."""
    with open_desk(RICH, max_order_value=LIMIT) as desk:
        with pytest.raises(OrderRuleError, match="MAX_ORDER_VALUE"):
            desk.broker.place_limit_order("BTC/USD", "buy", Decimal("0.2501"), Decimal(1000))
        assert "AddOrder" not in desk.methods()


def test_a_limit_order_of_exactly_the_largest_is_sent() -> None:
    """A limit order worth exactly MAX_ORDER_VALUE is placed."""
    with open_desk(RICH, max_order_value=LIMIT) as desk:
        desk.broker.place_limit_order("BTC/USD", "buy", Decimal("0.25"), Decimal(1000))
        assert desk.orders_placed() == 1


@pytest.mark.parametrize(("size", "unit"), [("0.1", "base"), ("251", "quote")])
@pytest.mark.parametrize("side", list(Side))
def test_a_market_order_above_the_largest_is_not_sent(size: str, unit: str, side: Side) -> None:
    """A market order above MAX_ORDER_VALUE, in coins or in money, bought or sold, does not reach Kraken."""
    with open_desk(RICH, max_order_value=LIMIT) as desk:
        with pytest.raises(OrderRuleError, match="MAX_ORDER_VALUE"):
            desk.broker.place_market_order("BTC/USD", side, Decimal(size), unit)
        assert "AddOrder" not in desk.methods()


TRICKS: dict[str, dict[str, str]] = {
    "limit": {"volume": "1"},
    "market": {"ordertype": "market", "volume": "1", "price": ""},
    "market with a small price": {"ordertype": "market", "volume": "1", "price": "0.1"},
    "relative price, up": {"volume": "1", "price": "+10"},
    "relative price, down": {"volume": "1", "price": "-10"},
    "relative price, either": {"volume": "1", "price": "#10"},
    "percent": {"volume": "1", "price": "1%"},
    "exponent": {"volume": "1e3"},
    "not a number": {"volume": "NaN"},
    "infinite": {"volume": "Infinity"},
    "negative": {"volume": "-1"},
    "a stop with a small trigger": {"ordertype": "stop-loss", "volume": "1", "price": "1"},
    "a sale far below the market": {"type": "sell", "volume": "1", "price": "1"},
    "size in the quote currency": {"oflags": "viqc", "ordertype": "market", "volume": "1000"},
    "a closing order": {"volume": "0.001", "close[ordertype]": "limit", "close[price]": "1"},
    "leverage": {"volume": "0.001", "leverage": "5"},
}


@pytest.mark.parametrize("fields", TRICKS.values(), ids=TRICKS.keys())
def test_a_raw_order_does_not_get_round_the_largest(fields: dict[str, str]) -> None:
    """An AddOrder by private_call whose worth is above MAX_ORDER_VALUE, or cannot be told, does not reach Kraken."""
    with open_desk(RICH, max_order_value=LIMIT) as desk:
        with pytest.raises(OrderRuleError):
            desk.broker.private_call("AddOrder", ORDER | fields)
        assert "AddOrder" not in desk.methods()


@pytest.mark.parametrize("method", ["AddOrderBatch", "AmendOrder", "EditOrder"])
def test_batches_and_changes_of_orders_are_not_offered(method: str) -> None:
    """Methods whose outcome could not be settled raise OrderRuleError and are not sent."""
    with open_desk() as desk:
        with pytest.raises(OrderRuleError, match="not offered"):
            desk.broker.private_call(method, ORDER)
        assert desk.methods() == []


def test_a_size_has_no_default_unit() -> None:
    """place_market_order without size_type, or with another word, is an error and sends nothing."""
    with open_desk() as desk:
        with pytest.raises(TypeError):
            desk.broker.place_market_order("BTC/USD", "buy", Decimal(100))  # type: ignore[call-arg]
        with pytest.raises(OrderRuleError, match="size_type"):
            desk.broker.place_market_order("BTC/USD", "buy", Decimal(100), "usd")
        assert desk.methods() == []


def test_floats_are_refused() -> None:
    """A float as quantity or price raises TypeError and sends nothing."""
    with open_desk() as desk:
        with pytest.raises(TypeError):
            desk.broker.place_market_order("BTC/USD", "buy", 100.0, "quote")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            desk.broker.place_limit_order("BTC/USD", "buy", 0.001, Decimal(1000))  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            desk.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), 1000.0)  # type: ignore[arg-type]
        assert desk.methods() == []


# What is sent


@pytest.mark.parametrize("side", list(Side))
def test_a_market_order_is_a_limit_order_within_the_collar(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A market order goes out as limit, immediate or cancel, at most one percent worse than the current price."""
    with open_desk(RICH) as desk:
        arrived = sent_orders(desk, monkeypatch)
        before = price(desk)
        desk.broker.place_market_order("BTC/USD", side, Decimal("0.01"), "base")
        (order,) = arrived
        worst = before * (Decimal("1.01") if side is Side.BUY else Decimal("0.99"))
        assert (order["ordertype"], order["timeinforce"], order["volume"]) == ("limit", "IOC", "0.01")
        assert abs(Decimal(order["price"]) - worst) <= Decimal("0.1")


def test_the_collar_is_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a collar of 5 percent a market sell goes out five percent below the current price."""
    with open_desk(RICH, market_collar_percent=Decimal(5)) as desk:
        arrived = sent_orders(desk, monkeypatch)
        worst = price(desk) * Decimal("0.95")
        desk.broker.place_market_order("BTC/USD", "sell", Decimal("0.01"), "base")
        assert abs(Decimal(arrived[0]["price"]) - worst) <= Decimal("0.1")


def test_a_hundred_dollars_never_buy_more_than_a_hundred_dollars() -> None:
    """A market buy of 100 in quote costs at most 100, and more than 98."""
    with open_desk() as desk:
        desk.broker.place_market_order("BTC/USD", "buy", Decimal(100), "quote")
        (trade,) = desk.simulator.exchange.account.trades
        assert 98 < trade.cost <= 100


def test_every_order_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every AddOrder carries a deadline from 2 to 60 s after Kraken's time, raw ones too."""
    with open_desk(RICH) as desk:
        arrived = sent_orders(desk, monkeypatch)
        desk.broker.connect()
        desk.broker.private_call("AddOrder", ORDER)
        desk.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000))
        desk.broker.place_market_order("BTC/USD", "buy", Decimal("0.001"), "base")
        ahead = [datetime.fromisoformat(order["deadline"]).timestamp() - desk.clock.now() for order in arrived]
        assert len(ahead) == 3
        assert all(2 <= seconds <= 60 for seconds in ahead)


def test_the_deadline_counts_from_when_the_order_leaves() -> None:
    """An order that has waited 30 s for its turn is still accepted: its deadline was not set before it waited."""
    with open_desk() as desk:
        placing = threading.Thread(target=desk.broker.private_call, args=("AddOrder", ORDER))
        desk.broker.private_call("BalanceEx")
        with desk.broker._turns.turn(Urgency.READ):
            placing.start()
            wait_for(lambda: waiting_calls(desk.broker))
            pass_time(desk.clock, 30)
        placing.join()
        assert desk.orders_placed() == 1


def test_a_deadline_of_the_callers_is_refused() -> None:
    """AddOrder with a deadline of its own raises OrderRuleError: the proof that an order is dead rests on ours."""
    with open_desk() as desk:
        with pytest.raises(OrderRuleError, match="deadline"):
            desk.broker.private_call("AddOrder", ORDER | {"deadline": "2099-01-01T00:00:00Z"})
        assert "AddOrder" not in desk.methods()


def test_an_entry_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit order with expire_seconds goes out as GTD with that expiry, and Kraken ends it then."""
    with open_desk() as desk:
        arrived = sent_orders(desk, monkeypatch)
        placed = desk.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000), expire_seconds=100)
        assert (arrived[0]["timeinforce"], arrived[0]["expiretm"]) == ("GTD", str(int(desk.clock.now()) + 100))
        pass_time(desk.clock, 101)
        (order,) = desk.broker.get_closed_orders()
        assert (order.txid, order.status) == (placed.txid, OrderStatus.EXPIRED)


@pytest.mark.parametrize("given", [None, ""])
def test_an_order_without_an_id_gets_one(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AddOrder whose cl_ord_id is missing or empty goes out with one that begins with the bot's id."""
    with open_desk() as desk:
        arrived = sent_orders(desk, monkeypatch)
        desk.broker.private_call("AddOrder", ORDER | {"cl_ord_id": given})
        assert arrived[0]["cl_ord_id"].startswith(desk.broker.bot_id)
        assert len(arrived[0]["cl_ord_id"]) == 18


@pytest.mark.parametrize("pair", ["BTC/USD", "ETH/USD"])
def test_an_order_that_a_crash_left_behind_is_not_sent_again(pair: str) -> None:
    """After a restart the same client id is found on each pair, and no second order is placed."""
    with open_desk(RICH) as desk:
        names = {symbol: desk.broker.client_order_id(symbol, "test", 60, "entry") for symbol in ("BTC/USD", "ETH/USD")}
        size = Decimal("0.01")
        placed = desk.broker.place_market_order(pair, "buy", size, "base", cl_ord_id=names[pair])
        restarted = desk.open_broker()
        others = [symbol for symbol in names if symbol != pair]
        for symbol in others:
            restarted.place_market_order(symbol, "buy", size, "base", cl_ord_id=names[symbol])
        again = restarted.place_market_order(pair, "buy", size, "base", cl_ord_id=names[pair])
        assert (again.txid, desk.orders_placed()) == (placed.txid, 2)
        restarted.close()


def test_an_id_that_was_placed_is_answered_with_its_order_and_not_sent_again() -> None:
    """The same id twice is one AddOrder, and both answers name the same order."""
    with open_desk() as desk:
        txids = [desk.broker.private_call("AddOrder", NAMED)["txid"] for _ in range(2)]
        assert txids[0] == txids[1]
        assert desk.methods().count("AddOrder") == 1


def test_an_id_that_was_refused_is_refused_again_and_not_sent() -> None:
    """Kraken's final no to an id is given again, word for word, without another AddOrder."""
    with open_desk() as desk:
        words = []
        for _ in range(2):
            with pytest.raises(OrderRefusedError) as refused:
                desk.broker.private_call("AddOrder", NAMED | {"volume": "100000"})
            words.append(refused.value.strings)
        assert words[0] == words[1] == ["EOrder:Insufficient funds"]
        assert desk.methods().count("AddOrder") == 1


def test_an_id_that_was_proved_absent_is_not_sent_again() -> None:
    """An id that was settled as not placed is blocked: its signal goes under the id of the next attempt."""
    with open_desk() as desk:
        desk.broker.private_call("AddOrder", NAMED | {"cl_ord_id": "abcde0000000000000"})
        desk.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderUnknownError):
            desk.broker.private_call("AddOrder", NAMED)
        while desk.broker.unknown_orders():
            desk.broker.settle_unknown()
            pass_time(desk.clock, desk.broker.next_look_up_seconds() or 0.0)
        sent = desk.broker.journal.intent(NAMED["cl_ord_id"])
        with pytest.raises(OrderBlockedError, match="was sent before and is not placed"):
            desk.broker.private_call("AddOrder", NAMED)
        assert desk.broker.journal.intent(NAMED["cl_ord_id"]) == sent
        assert desk.orders_placed() == 1

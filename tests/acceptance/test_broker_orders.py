"""Orders of KrakenBroker before they are sent: MAX_ORDER_VALUE, and the fields of AddOrder."""

from __future__ import annotations

import threading
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest

from bot.base.errors import OrderBlockedError, OrderOutcomeUnknownError, OrderRefusedError, OrderRuleError
from bot.base.models import OrderStatus, Side
from bot.nonce.local_lock import Priority
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import (
    ORDER,
    BrokerSetup,
    advance_time,
    count_waiting_calls,
    current_btc_price,
    open_broker_setup,
    wait_for,
)

pytestmark = pytest.mark.usefixtures("nonce_file")

RICH_OPTIONS = SimulatorOptions(balances={"ZUSD": "1000000", "XXBT": "100"})
LIMIT_ORDER = Decimal(250)
ORDER_WITH_ID = ORDER | {"cl_ord_id": "abcde1234567890123"}


def sent_orders(setup: BrokerSetup, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Return a list to which the fields of every arriving AddOrder are appended."""
    arrived: list[dict[str, str]] = []
    add_order = setup.simulator.exchange.add_order

    def record_and_add(params: dict[str, str]) -> dict[str, Any]:
        arrived.append(dict(params))
        return add_order(params)

    monkeypatch.setattr(setup.simulator.exchange, "add_order", record_and_add)
    return arrived


# MAX_ORDER_VALUE


def test_limit_order_above_max_order_value_is_not_sent() -> None:
    """A limit order worth more than MAX_ORDER_VALUE raises OrderRuleError and does not reach Kraken."""
    with open_broker_setup(RICH_OPTIONS, max_order_value=LIMIT_ORDER) as setup:
        with pytest.raises(OrderRuleError, match="MAX_ORDER_VALUE"):
            setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.2501"), Decimal(1000))
        assert "AddOrder" not in setup.request_methods()


def test_limit_order_at_max_order_value_is_sent() -> None:
    """A limit order worth exactly MAX_ORDER_VALUE is placed."""
    with open_broker_setup(RICH_OPTIONS, max_order_value=LIMIT_ORDER) as setup:
        setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.25"), Decimal(1000))
        assert setup.placed_order_count() == 1


@pytest.mark.parametrize(("size", "unit"), [("0.1", "base"), ("251", "quote")])
@pytest.mark.parametrize("side", list(Side))
def test_market_order_above_max_order_value_is_not_sent(size: str, unit: str, side: Side) -> None:
    """A market order above MAX_ORDER_VALUE, sized in base or quote, buy or sell, does not reach Kraken."""
    with open_broker_setup(RICH_OPTIONS, max_order_value=LIMIT_ORDER) as setup:
        with pytest.raises(OrderRuleError, match="MAX_ORDER_VALUE"):
            setup.broker.place_market_order("BTC/USD", side, Decimal(size), unit)
        assert "AddOrder" not in setup.request_methods()


EVASIONS: dict[str, dict[str, str]] = {
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


@pytest.mark.parametrize("fields", EVASIONS.values(), ids=EVASIONS.keys())
def test_raw_order_cannot_bypass_max_order_value(fields: dict[str, str]) -> None:
    """An AddOrder by private_call whose value is above MAX_ORDER_VALUE, or unknown, does not reach Kraken."""
    with open_broker_setup(RICH_OPTIONS, max_order_value=LIMIT_ORDER) as setup:
        with pytest.raises(OrderRuleError):
            setup.broker.private_call("AddOrder", ORDER | fields)
        assert "AddOrder" not in setup.request_methods()


@pytest.mark.parametrize("method", ["AddOrderBatch", "AmendOrder", "EditOrder"])
def test_batch_and_amend_methods_are_rejected(method: str) -> None:
    """Methods whose outcome could not be reconciled raise OrderRuleError and are not sent."""
    with open_broker_setup() as setup:
        with pytest.raises(OrderRuleError) as caught:
            setup.broker.private_call(method, ORDER)
        assert caught.value.rule == "method"
        assert setup.request_methods() == []


def test_a_size_has_no_default_unit() -> None:
    """place_market_order without size_type, or with an unknown one, is an error and sends nothing."""
    with open_broker_setup() as setup:
        with pytest.raises(TypeError):
            setup.broker.place_market_order("BTC/USD", "buy", Decimal(100))  # type: ignore[call-arg]
        with pytest.raises(OrderRuleError, match="size_type"):
            setup.broker.place_market_order("BTC/USD", "buy", Decimal(100), "usd")
        assert setup.request_methods() == []


def test_floats_are_refused() -> None:
    """A float as quantity or price raises TypeError and sends nothing."""
    with open_broker_setup() as setup:
        with pytest.raises(TypeError):
            setup.broker.place_market_order("BTC/USD", "buy", 100.0, "quote")  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            setup.broker.place_limit_order("BTC/USD", "buy", 0.001, Decimal(1000))  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), 1000.0)  # type: ignore[arg-type]
        assert setup.request_methods() == []


# The fields of AddOrder


@pytest.mark.parametrize("side", list(Side))
def test_market_order_is_a_limit_order_within_max_slippage(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """A market order is sent as limit, immediate or cancel, at most one percent worse than the current price."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        arrived = sent_orders(setup, monkeypatch)
        before = current_btc_price(setup)
        setup.broker.place_market_order("BTC/USD", side, Decimal("0.01"), "base")
        (order,) = arrived
        worst = before * (Decimal("1.01") if side is Side.BUY else Decimal("0.99"))
        assert (order["ordertype"], order["timeinforce"], order["volume"]) == ("limit", "IOC", "0.01")
        assert abs(Decimal(order["price"]) - worst) <= Decimal("0.1")


def test_max_slippage_is_configurable(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a max slippage of 5 percent a market sell is sent five percent below the current price."""
    with open_broker_setup(RICH_OPTIONS, max_slippage_percent=Decimal(5)) as setup:
        arrived = sent_orders(setup, monkeypatch)
        worst = current_btc_price(setup) * Decimal("0.95")
        setup.broker.place_market_order("BTC/USD", "sell", Decimal("0.01"), "base")
        assert abs(Decimal(arrived[0]["price"]) - worst) <= Decimal("0.1")


def test_a_hundred_dollars_never_buy_more_than_a_hundred_dollars() -> None:
    """A market buy of 100 in quote costs at most 100, and more than 98."""
    with open_broker_setup() as setup:
        setup.broker.place_market_order("BTC/USD", "buy", Decimal(100), "quote")
        (trade,) = setup.simulator.exchange.account.trades
        assert 98 < trade.cost <= 100


def test_every_order_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every AddOrder has a deadline 2 to 60 s after Kraken's time, raw ones too."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        arrived = sent_orders(setup, monkeypatch)
        setup.broker.connect()
        setup.broker.private_call("AddOrder", ORDER)
        setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000))
        setup.broker.place_market_order("BTC/USD", "buy", Decimal("0.001"), "base")
        seconds_ahead = [datetime.fromisoformat(order["deadline"]).timestamp() - setup.clock.now() for order in arrived]
        assert len(seconds_ahead) == 3
        assert all(2 <= seconds <= 60 for seconds in seconds_ahead)


def test_deadline_starts_when_the_order_is_sent() -> None:
    """An order that has waited 30 s for the request lock is accepted: its deadline was not set before the wait."""
    with open_broker_setup() as setup:
        placing = threading.Thread(target=setup.broker.private_call, args=("AddOrder", ORDER))
        setup.broker.private_call("BalanceEx")
        with setup.broker._request_lock.hold(Priority.READ):
            placing.start()
            wait_for(lambda: count_waiting_calls(setup.broker))
            advance_time(setup.clock, 30)
        placing.join()
        assert setup.placed_order_count() == 1


def test_caller_supplied_deadline_is_rejected() -> None:
    """AddOrder with the caller's deadline raises OrderRuleError: the proof of absence depends on the broker's own."""
    with open_broker_setup() as setup:
        with pytest.raises(OrderRuleError, match="deadline"):
            setup.broker.private_call("AddOrder", ORDER | {"deadline": "2099-01-01T00:00:00Z"})
        assert "AddOrder" not in setup.request_methods()


def test_an_entry_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit order with expire_seconds is sent as GTD with that expiry, and Kraken expires it then."""
    with open_broker_setup() as setup:
        arrived = sent_orders(setup, monkeypatch)
        placed = setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000), expire_seconds=100)
        assert (arrived[0]["timeinforce"], arrived[0]["expiretm"]) == ("GTD", str(int(setup.clock.now()) + 100))
        advance_time(setup.clock, 101)
        (order,) = setup.broker.get_closed_orders()
        assert (order.txid, order.status) == (placed.txid, OrderStatus.EXPIRED)


@pytest.mark.parametrize("given", [None, ""])
def test_an_order_without_an_id_gets_one(given: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """An AddOrder whose cl_ord_id is missing or empty is sent with one that begins with the bot's id."""
    with open_broker_setup() as setup:
        arrived = sent_orders(setup, monkeypatch)
        setup.broker.private_call("AddOrder", ORDER | {"cl_ord_id": given})
        assert arrived[0]["cl_ord_id"].startswith(setup.broker.bot_id)
        assert len(arrived[0]["cl_ord_id"]) == 18


@pytest.mark.parametrize("pair", ["BTC/USD", "ETH/USD"])
def test_order_from_before_a_crash_is_not_resent(pair: str) -> None:
    """After a restart an order with the same client order id is found on each pair, and no second one is placed."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        ids = {symbol: setup.broker.client_order_id(symbol, "test", 60, "entry") for symbol in ("BTC/USD", "ETH/USD")}
        size = Decimal("0.01")
        placed = setup.broker.place_market_order(pair, "buy", size, "base", cl_ord_id=ids[pair])
        restarted = setup.open_broker()
        others = [symbol for symbol in ids if symbol != pair]
        for symbol in others:
            restarted.place_market_order(symbol, "buy", size, "base", cl_ord_id=ids[symbol])
        again = restarted.place_market_order(pair, "buy", size, "base", cl_ord_id=ids[pair])
        assert (again.txid, setup.placed_order_count()) == (placed.txid, 2)
        restarted.close()


def test_placed_id_returns_its_order_without_resending() -> None:
    """The same id twice is one AddOrder, and both results name the same order."""
    with open_broker_setup() as setup:
        txids = [setup.broker.private_call("AddOrder", ORDER_WITH_ID)["txid"] for _ in range(2)]
        assert txids[0] == txids[1]
        assert setup.request_methods().count("AddOrder") == 1


def test_refused_id_is_refused_again_without_sending() -> None:
    """Kraken's final refusal of an id is raised again with the same strings, without another AddOrder."""
    with open_broker_setup() as setup:
        refusals = []
        for _ in range(2):
            with pytest.raises(OrderRefusedError) as refused:
                setup.broker.private_call("AddOrder", ORDER_WITH_ID | {"volume": "100000"})
            refusals.append(refused.value.error_strings)
        assert refusals[0] == refusals[1] == ["EOrder:Insufficient funds"]
        assert setup.request_methods().count("AddOrder") == 1


def test_id_proved_absent_is_not_resent() -> None:
    """An id that was reconciled as not placed is blocked: its signal needs the id of the next attempt."""
    with open_broker_setup() as setup:
        setup.broker.private_call("AddOrder", ORDER_WITH_ID | {"cl_ord_id": "abcde0000000000000"})
        setup.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.private_call("AddOrder", ORDER_WITH_ID)
        while setup.broker.unknown_orders():
            setup.broker.reconcile_unknown_orders()
            advance_time(setup.clock, setup.broker.next_query_seconds() or 0.0)
        sent_intent = setup.broker.journal.get_intent(ORDER_WITH_ID["cl_ord_id"])
        with pytest.raises(OrderBlockedError, match="was sent before and is not placed"):
            setup.broker.private_call("AddOrder", ORDER_WITH_ID)
        assert setup.broker.journal.get_intent(ORDER_WITH_ID["cl_ord_id"]) == sent_intent
        assert setup.placed_order_count() == 1


def test_a_resting_buy_gives_way_to_every_sale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each selling order has the stptype cancel-oldest, raw ones too, and no buying order has one."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        arrived = sent_orders(setup, monkeypatch)
        setup.broker.place_limit_order("BTC/USD", "sell", Decimal("0.001"), Decimal(900_000))
        setup.broker.place_stop_order("BTC/USD", "sell", Decimal("0.001"), Decimal(1000))
        setup.broker.place_market_order("BTC/USD", "sell", Decimal("0.001"), "base")
        setup.broker.private_call("AddOrder", ORDER | {"type": "sell", "price": "900000"})
        setup.broker.private_call("AddOrder", ORDER)
        assert [order.get("stptype", "") for order in arrived] == ["cancel-oldest"] * 4 + [""]

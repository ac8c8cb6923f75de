"""Refusals of AddOrder and CancelOrder, with Kraken's exact errors."""

from __future__ import annotations

import dataclasses
import uuid
from contextlib import nullcontext
from decimal import Decimal

import pytest

from bot.base.clock import format_rfc3339
from bot.simulator.errors import Refusal, SimulatorError
from bot.simulator.exchange import PAIR_STATUSES
from bot.simulator.instruments import KNOWN_PAIRS
from bot.simulator.orders import parse_order
from tests.simulator_parts import START, make_exchange, order_error, place_order

LIMIT_PRICE = {"price": "49000"}
PRICE_DECIMALS = "EOrder:Invalid price:XBT/USD price can only be specified up to 1 decimals."

REFUSALS = [
    ({"pair": ""}, "EGeneral:Invalid arguments:pair"),
    ({"pair": "XBTXYZ"}, "EQuery:Unknown asset pair"),
    ({"type": "hold"}, "EGeneral:Invalid arguments:type"),
    ({"ordertype": "iceberg"}, "EGeneral:Invalid arguments:ordertype"),
    ({"volume": ""}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "one"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "1e-3"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "-1"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "0"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "0.001000001"}, "EGeneral:Invalid arguments:volume"),
    ({"volume": "0.00004999"}, "EGeneral:Invalid arguments:volume minimum not met"),
    ({"price": ""}, "EGeneral:Invalid arguments:price"),
    ({"price": "cheap"}, "EOrder:Invalid price:Invalid price argument."),
    ({"price": "0"}, "EOrder:Invalid price:Invalid price argument."),
    ({"price": "+10"}, "EOrder:Invalid price:Invalid price argument."),
    ({"price": "49000.05"}, PRICE_DECIMALS),
    ({"price": "0.1"}, "EOrder:Cost minimum not met"),
    ({"ordertype": "market", "oflags": "viqc", "type": "sell"}, "EGeneral:Invalid arguments:viqc"),
    ({"oflags": "viqc"}, "EGeneral:Invalid arguments:viqc"),
    ({"ordertype": "market", "oflags": "viqc", "volume": "1"}, "EGeneral:Invalid arguments:volume minimum not met"),
    ({"oflags": "fast"}, "EGeneral:Invalid arguments:oflags"),
    ({"oflags": "fcib,fciq"}, "EGeneral:Invalid arguments:oflags"),
    ({"oflags": "post", "ordertype": "market"}, "EGeneral:Invalid arguments:oflags"),
    ({"timeinforce": "DAY"}, "EGeneral:Invalid arguments:timeinforce"),
    ({"timeinforce": "FOK", "ordertype": "market"}, "EGeneral:Invalid arguments:timeinforce"),
    ({"timeinforce": "GTD"}, "EGeneral:Invalid arguments:expiretm"),
    ({"expiretm": "soon"}, "EGeneral:Invalid arguments:expiretm"),
    ({"expiretm": "+4"}, "EGeneral:Invalid arguments:expiretm"),
    ({"expiretm": str(START - 1)}, "EGeneral:Invalid arguments:expiretm"),
    ({"expiretm": "+2678401"}, "EGeneral:Invalid arguments:expiretm"),
    ({"userref": "abc"}, "EGeneral:Invalid arguments:userref"),
    ({"userref": "2147483648"}, "EGeneral:Invalid arguments:userref"),
    ({"cl_ord_id": "nineteen-characters"}, "EGeneral:Invalid arguments:cl_ord_id"),
    ({"cl_ord_id": "f\u00fcnf"}, "EGeneral:Invalid arguments:cl_ord_id"),
    ({"cl_ord_id": "one", "userref": "1"}, "EGeneral:Invalid arguments:cl_ord_id"),
    ({"leverage": "3"}, "EGeneral:Invalid arguments:leverage"),
    ({"reduce_only": "true"}, "EGeneral:Invalid arguments:reduce_only"),
    ({"starttm": "+60"}, "EGeneral:Invalid arguments:starttm"),
    ({"price2": "48000"}, "EGeneral:Invalid arguments:price2"),
    ({"close[ordertype]": "limit"}, "EGeneral:Invalid arguments:close[ordertype]"),
    ({"ordertype": "stop-loss", "trigger": "index"}, "EGeneral:Invalid arguments:Index unavailable"),
    ({"trigger": "mark"}, "EGeneral:Invalid arguments:trigger"),
    ({"deadline": "tomorrow"}, "EGeneral:Invalid arguments:deadline"),
    ({"deadline": "2026-09-21T13:33:20"}, "EGeneral:Invalid arguments:deadline"),
    ({"deadline": format_rfc3339(START + 62)}, "EGeneral:Invalid arguments:deadline"),
    ({"deadline": format_rfc3339(START)}, "EService:Deadline elapsed"),
    ({"price": "50000.1", "oflags": "post"}, "EOrder:Post only order"),
    ({"type": "sell"}, "EOrder:Insufficient funds"),
    ({"volume": "1"}, "EOrder:Insufficient funds"),
]


@pytest.mark.parametrize(("params", "string"), REFUSALS, ids=[str(next(iter(p.items()))) for p, _ in REFUSALS])
def test_an_invalid_order_gets_krakens_error_and_has_no_effect(params: dict[str, str], string: str) -> None:
    """The error is exactly the string, and no order, hold or trade remains."""
    exchange = make_exchange((0, "50000"))
    assert order_error(exchange, **LIMIT_PRICE | params) == string
    assert not exchange.account.orders
    assert not exchange.account.trades
    assert exchange.account.free_balance("ZUSD") == 10000


@pytest.mark.parametrize(
    "params",
    [
        {"pair": "XXBTZUSD"},
        {"pair": "BTC/USD"},
        {"pair": "XBT/USD"},
        {"volume": "0.010000000"},
        {"price": "49000.10"},
        {"oflags": "post"},
        {"oflags": "post,fciq,nompp"},
        {"timeinforce": "GTD", "expiretm": "+5"},
        {"timeinforce": "GTD", "expiretm": str(int(START) + 86400)},
        {"userref": "-5"},
        {"cl_ord_id": "eighteen-character"},
        {"cl_ord_id": str(uuid.UUID(int=7))},
        {"cl_ord_id": uuid.UUID(int=7).hex},
        {"deadline": format_rfc3339(START + 60)},
        {"deadline": format_rfc3339(START + 0.001)},
        {"leverage": "none", "starttm": "0", "reduce_only": "false"},
    ],
    ids=str,
)
def test_a_valid_order_is_accepted(params: dict[str, str]) -> None:
    """Every documented form of an order is accepted and rests in the book."""
    exchange = make_exchange((0, "50000"))
    assert order_error(exchange, **LIMIT_PRICE | params) == ""
    assert len(exchange.account.open_orders) == 1


def test_a_price_between_two_ticks_is_refused() -> None:
    """If the tick is coarser than the decimals, valid decimals alone do not make a price valid."""
    pair = dataclasses.replace(KNOWN_PAIRS["BTC/USD"], tick_size=Decimal("0.5"))
    with pytest.raises(Refusal, match=r"^EOrder:Tick size check failed$"):
        parse_order(pair, {"type": "buy", "ordertype": "limit", "volume": "1", "price": "49000.1"}, START)


def test_a_market_order_below_the_cost_minimum_is_refused() -> None:
    """0.00005 BTC at 5000 is 0.25 dollars, and the minimum is 0.5."""
    exchange = make_exchange((0, "5000"))
    assert order_error(exchange, ordertype="market", volume="0.00005") == "EOrder:Cost minimum not met"


def test_a_client_id_may_be_open_only_once() -> None:
    """A second order with the same cl_ord_id is refused while the first is open, and accepted afterwards."""
    exchange = make_exchange((0, "50000"))
    place_order(exchange, price="49000", cl_ord_id="mine")
    assert order_error(exchange, price="49000", cl_ord_id="mine") == "EOrder:Duplicate order"
    exchange.cancel({"cl_ord_id": "mine"})
    assert order_error(exchange, price="49000", cl_ord_id="mine") == ""


def test_a_userref_may_be_open_any_number_of_times() -> None:
    """A userref is a tag, not an id; one cancel by it cancels every order that has it."""
    exchange = make_exchange((0, "50000"))
    for _ in range(3):
        place_order(exchange, price="49000", userref="7")
    assert exchange.cancel({"txid": "7"}) == {"count": 3}


def test_validate_checks_and_does_not_place() -> None:
    """The answer has the description and no txid, and nothing rests; an invalid order is refused as usual."""
    exchange = make_exchange((0, "50000"))
    right = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.01", "price": "49000"}
    answer = exchange.add_order(right | {"validate": "true"})
    assert answer == {"descr": {"order": "buy 0.01000000 XBTUSD @ limit 49000.0"}}
    assert exchange.account.orders == {}
    assert order_error(exchange, price="49000.05", validate="true") == PRICE_DECIMALS


@pytest.mark.parametrize(
    ("params", "string"),
    [
        ({}, "EGeneral:Invalid arguments:txid"),
        ({"txid": "OAAAAA-BBBBB-CCCCCC"}, "EOrder:Invalid order"),
        ({"cl_ord_id": "unknown"}, "EOrder:Invalid order"),
    ],
)
def test_canceling_an_unknown_order_is_refused(params: dict[str, str], string: str) -> None:
    """An id that never existed, or is closed, gets Kraken's error of 2026."""
    with pytest.raises(Refusal) as refused:
        make_exchange((0, "50000")).cancel(params)
    assert refused.value.error == string


@pytest.mark.parametrize(
    ("status", "order", "post", "cancel"),
    [
        ("maintenance", "EService:Unavailable", "EService:Unavailable", "EService:Unavailable"),
        ("cancel_only", "EService:Market in cancel_only mode", "EService:Market in cancel_only mode", ""),
        ("post_only", "EService:Market in post_only mode", "", ""),
    ],
)
def test_the_system_status_decides_what_is_allowed(status: str, order: str, post: str, cancel: str) -> None:
    """Orders, post-only orders and cancels are accepted or refused as Kraken's SystemStatus page says."""
    exchange = make_exchange((0, "50000"))
    txid = place_order(exchange, price="49000")
    exchange.set_status(status)
    assert order_error(exchange, price="49000") == order
    assert order_error(exchange, price="49000", oflags="post") == post
    with pytest.raises(Refusal, match=f"^{cancel}$") if cancel else nullcontext():
        exchange.cancel({"txid": txid})


MODE_ERRORS = {mode: f"EService:Market in {mode} mode" for mode in PAIR_STATUSES}


@pytest.mark.parametrize(
    ("mode", "market", "limit", "post"),
    [
        ("online", "", "", ""),
        ("cancel_only", *[MODE_ERRORS["cancel_only"]] * 3),
        ("post_only", MODE_ERRORS["post_only"], MODE_ERRORS["post_only"], ""),
        ("limit_only", MODE_ERRORS["limit_only"], "", ""),
        ("reduce_only", *[MODE_ERRORS["reduce_only"]] * 3),
    ],
)
def test_the_status_of_a_pair_decides_what_is_allowed_on_it(mode: str, market: str, limit: str, post: str) -> None:
    """Market, limit and post-only orders are accepted or refused; cancels work, and so does the other pair."""
    exchange = make_exchange((0, "50000"))
    txid = place_order(exchange, price="49000")
    exchange.set_pair_status("BTC/USD", mode)
    assert order_error(exchange, ordertype="market") == market
    assert order_error(exchange, price="49000") == limit
    assert order_error(exchange, price="49000", oflags="post") == post
    assert order_error(exchange, pair="ETHUSD", ordertype="market") == ""
    assert exchange.cancel({"txid": txid}) == {"count": 1}


def test_the_stricter_of_the_two_statuses_counts() -> None:
    """On a limit_only pair of a post_only system, a post-only order is accepted and a limit order is not."""
    exchange = make_exchange((0, "50000"))
    exchange.set_pair_status("XBTUSD", "limit_only")
    exchange.set_status("post_only")
    assert order_error(exchange, price="49000", oflags="post") == ""
    assert order_error(exchange, price="49000") == MODE_ERRORS["post_only"]


@pytest.mark.parametrize(("name", "mode"), [("XBTXYZ", "online"), ("XBTUSD", "maintenance")])
def test_a_status_that_a_pair_cannot_have_is_refused(name: str, mode: str) -> None:
    """An unknown pair and an unknown status are each an error."""
    with pytest.raises(SimulatorError, match=name if mode == "online" else mode):
        make_exchange((0, "50000")).set_pair_status(name, mode)

"""Kraken's responses are parsed into exact models."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bot.base.errors import NoAnswerError
from bot.base.models import Balance, Candle, Fill, KeyInfo, Order, OrderStatus, Side, SystemStatus
from bot.kraken import responses
from tests.unit.kraken_samples import KEY_INFO, OHLC, ORDER, PAIR_TABLE, TRADE, replace_entry


def recorded(folder: Path, name: str) -> Any:
    """Return the result of a recorded response, with numbers parsed as the client parses them."""
    answer = json.loads((folder / "data" / f"http_{name}.json").read_text("utf-8"), parse_float=Decimal)
    assert answer["error"] == []
    return answer["result"]


def test_the_recorded_time_is_read(shared: Path) -> None:
    """The recorded Time gives its Unix seconds."""
    assert responses.read_time(recorded(shared, "server_time")) == 1762820224.0


def test_the_recorded_status_is_read(shared: Path) -> None:
    """The recorded SystemStatus gives its status and the time of the request."""
    assert responses.read_system_status(recorded(shared, "system_status"), 5.0) == SystemStatus("online", 5.0)


@pytest.mark.parametrize(
    ("row", "status"), [({"status": "post_only"}, "post_only"), ({"status": None}, "online"), ({}, "online")]
)
def test_the_status_of_a_pair_is_read(row: dict[str, str | None], status: str) -> None:
    """The status of a pair is Kraken's value, and online if there is none."""
    assert responses.read_pair_status({"XXBTZUSD": row}) == status


def test_the_recorded_ticker_is_read(shared: Path) -> None:
    """The recorded Ticker gives the price of the last trade, and the best bid."""
    assert responses.read_price(recorded(shared, "ticker")) == Decimal("105899.40000")
    assert responses.read_best_bid(recorded(shared, "ticker")) == Decimal("105944.20000")


def test_the_recorded_candles_are_read(shared: Path) -> None:
    """The recorded OHLC gives every candle except the running one; the newest is the one that Kraken names as last."""
    result = recorded(shared, "ohlc")
    candles = responses.read_candles(result, 60, 1762820230.0)
    assert len(candles) == len(result["XBTUSDT"]) - 1
    assert candles[-1].time_seconds == result["last"]
    assert candles[3] == Candle(
        1762777200,
        Decimal("106038.1"),
        Decimal("106044.3"),
        Decimal("106038.1"),
        Decimal("106040.1"),
        Decimal("0.08317981"),
    )


@pytest.mark.parametrize(
    ("last", "now", "expected"),
    [
        (1790000060, 1790000130.0, 2),
        (1790000060, 1790000185.0, 2),
        (1790000120, 1790000130.0, 2),
        (1790000120, 1790000180.0, 3),
        (1790000120, 1790000119.9, 1),
        (0, 1790000180.0, 0),
    ],
)
def test_only_closed_candles_come_out(last: int, now: float, expected: int) -> None:
    """A candle is closed when both Kraken's `last` and the clock say so."""
    candles = responses.read_candles(OHLC | {"last": last}, 60, now)
    assert [candle.time_seconds for candle in candles] == [1790000000, 1790000060, 1790000120][:expected]


def test_a_pair_without_candles_has_none() -> None:
    """An empty candle list means no candles."""
    assert responses.read_candles({"XBTEUR": [], "last": 0}, 60, 1790000000.0) == []


def test_balances_have_common_names_and_exact_values() -> None:
    """BalanceEx gives exact totals by name, with suffixed and unknown assets kept apart."""
    totals = {"ZEUR": "812.3300", "XXBT": "0.0412000000", "XBT.F": "0.1", "SOL": "3.5000000000", "XNEW": "1"}
    result = {name: {"balance": total, "hold_trade": "0"} for name, total in totals.items()}
    balances = responses.read_balance_ex(result, PAIR_TABLE)
    assert list(balances) == ["EUR", "BTC", "BTC.F", "SOL", "XNEW"]
    assert balances["BTC"] == Balance("BTC", Decimal("0.0412000000"), Decimal(0))


def test_two_codes_of_one_asset_add_up() -> None:
    """The balances of two codes with one name are added."""
    result = {"XXBT": {"balance": "0.5", "hold_trade": "0.1"}, "XBT": {"balance": "0.25", "hold_trade": "0.2"}}
    assert responses.read_balance_ex(result, PAIR_TABLE) == {"BTC": Balance("BTC", Decimal("0.75"), Decimal("0.3"))}


def test_extended_balances_include_held_amounts_and_credit() -> None:
    """Free is balance + credit - credit_used - hold_trade (Kraken: BalanceEx page)."""
    credit = {"balance": "10", "credit": "5.5", "credit_used": "2", "hold_trade": "1"}
    balances = responses.read_balance_ex(
        {"ZEUR": {"balance": "812.3300", "hold_trade": "120.0000"}, "SOL": credit}, PAIR_TABLE
    )
    assert balances["EUR"] == Balance("EUR", Decimal("812.3300"), Decimal("120.0000"))
    assert balances["EUR"].free == Decimal("692.3300")
    assert balances["SOL"].free == Decimal("12.5")


def test_an_empty_account_has_no_balances() -> None:
    """An account without any asset answers with an empty object, which is not an error."""
    assert responses.read_balance_ex({}, PAIR_TABLE) == {}


def test_an_open_order_is_read() -> None:
    """Each field of an order record is parsed, with the order's own price apart from that of its fills."""
    assert responses.read_open_orders({"open": {"OQ7TEX-3F5KA-9ZPLMN": ORDER}}, PAIR_TABLE) == [
        Order(
            txid="OQ7TEX-3F5KA-9ZPLMN",
            cl_ord_id="bot-0001",
            symbol="BTC/EUR",
            side=Side.BUY,
            kind="limit",
            status=OrderStatus.OPEN,
            price=Decimal("51234.5"),
            volume=Decimal("0.00100000"),
            executed=Decimal("0.00040000"),
            cost=Decimal("20.49380"),
            fee=Decimal("0.08197"),
            average_price=Decimal("51234.4"),
            opened_seconds=1790000000.1234,
            closed_seconds=0.0,
            expires_seconds=1790003600.0,
            reason="",
        )
    ]


@pytest.mark.parametrize(
    "missing", [{"cl_ord_id": None}, {"cl_ord_id": ..., "userref": 0}, {"cl_ord_id": "", "userref": 7}], ids=str
)
def test_an_order_without_a_client_id_is_read(missing: dict[str, Any]) -> None:
    """A missing, null or empty cl_ord_id, with any userref, becomes the empty string."""
    row = {name: value for name, value in (ORDER | missing).items() if value is not ...}
    assert [order.cl_ord_id for order in responses.read_open_orders({"open": {"O1": row}}, PAIR_TABLE)] == [""]


def test_times_are_read_however_they_were_parsed() -> None:
    """A time may be a float, integer, Decimal or text."""
    for value in (1790000000.5, Decimal("1790000000.5"), "1790000000.5"):
        [order] = responses.read_open_orders({"open": {"O1": ORDER | {"opentm": value}}}, PAIR_TABLE)
        assert order.opened_seconds == 1790000000.5


def test_closed_orders_keep_their_order_and_the_grand_total() -> None:
    """A page of closed orders keeps its order, newest first, with the total count, closing times and reasons."""
    closed = ORDER | {"status": "canceled", "closetm": 1790000100.5, "reason": "User requested"}
    orders, count = responses.read_closed_orders(
        {"closed": {"O2": closed, "O1": closed | {"status": "expired", "reason": None}}, "count": 117}, PAIR_TABLE
    )
    assert [(order.txid, order.status, order.reason) for order in orders] == [
        ("O2", OrderStatus.CANCELED, "User requested"),
        ("O1", OrderStatus.EXPIRED, ""),
    ]
    assert (orders[0].closed_seconds, orders[0].executed, count) == (1790000100.5, Decimal("0.0004"), 117)


def test_an_order_of_an_unlisted_pair_is_read() -> None:
    """An order of a pair that is no longer listed is parsed, and keeps Kraken's name for it."""
    [order] = responses.read_open_orders({"open": {"O1": replace_entry(ORDER, "descr/pair", "GONEEUR")}}, PAIR_TABLE)
    assert order.symbol == "GONEEUR"


@pytest.mark.parametrize("offset", ["+1.5000%", "-20.0", "#5%"])
def test_trailing_order_has_price_zero(offset: str) -> None:
    """An order with an offset in place of a price has the price zero."""
    [order] = responses.read_open_orders({"open": {"O1": replace_entry(ORDER, "descr/price", offset)}}, PAIR_TABLE)
    assert order.price == 0


def test_trades_are_read() -> None:
    """Each field of a trade record is parsed, with the total count."""
    assert responses.read_trades({"trades": {"TQ3V7A-K2M4P-XW8RST": TRADE}, "count": 31}, PAIR_TABLE) == (
        [
            Fill(
                trade_id="TQ3V7A-K2M4P-XW8RST",
                order_txid="OQ7TEX-3F5KA-9ZPLMN",
                symbol="BTC/EUR",
                side=Side.SELL,
                price=Decimal("51234.5"),
                volume=Decimal("0.00100000"),
                cost=Decimal("51.23450"),
                fee=Decimal("0.20494"),
                time_seconds=1790000012.55,
            )
        ],
        31,
    )


def test_key_info_is_read_without_the_key() -> None:
    """The name, permissions, windows, expiry and other limits of the key are parsed, and the key itself is not."""
    limits = {
        "validUntil": "1800000000",
        "queryFrom": "1600000000",
        "queryTo": 1700000000,
        "ipAllowlist": ["192.0.2.1"],
    }
    info = responses.read_key_info(KEY_INFO | limits)
    assert info == KeyInfo(
        "bot",
        1790000000123456789,
        0,
        frozenset(KEY_INFO["permissions"]),
        valid_until_seconds=1_800_000_000.0,
        query_from_seconds=1_600_000_000.0,
        query_to_seconds=1_700_000_000.0,
        modified_seconds=1_770_000_000.0,
        ip_allowlist=("192.0.2.1",),
    )
    assert "the key itself" not in repr(info)


def test_a_placed_order_has_one_txid() -> None:
    """The AddOrder response gives its only txid."""
    assert (
        responses.read_add_order_txid({"descr": {"order": "buy"}, "txid": ["OQ7TEX-3F5KA-9ZPLMN"]})
        == "OQ7TEX-3F5KA-9ZPLMN"
    )


def test_a_cancel_is_counted() -> None:
    """The CancelOrder response gives the count, pending or not."""
    assert (responses.read_cancel_count({"count": 1, "pending": True}), responses.read_cancel_count({"count": 0})) == (
        1,
        0,
    )


def candle_rows(count: int) -> list[list[object]]:
    """Return so many sound candles of a minute, as Kraken writes them."""
    return [[60 * index, "10", "12", "9", "11", "10.5", "1.5", 3] for index in range(count)]


@pytest.mark.parametrize(
    ("index", "row"),
    [
        (7, [420, "10", "12", "13", "11", "10.5", "1.5", 3]),
        (7, [420, "10", "12", "9", "11", "10.5", "-1", 3]),
        (7, [360, "10", "12", "9", "11", "10.5", "1.5", 3]),
        (7, "not a candle"),
    ],
    ids=["low above high", "negative volume", "time of the one before", "no list"],
)
def test_one_odd_candle_of_720_is_left_out_and_said(index: int, row: object) -> None:
    """Of 720 rows, the last of which is running, one cannot be used: it is named, and the other 718 are read."""
    rows: list[object] = [*candle_rows(720)]
    rows[index] = row
    odd_candles: list[str] = []
    candles = responses.read_candles({"XBTEUR": rows, "last": 718 * 60}, 60, 719 * 60.0 + 1, odd_candles)
    assert [candle.time_seconds for candle in candles] == [60 * each for each in range(719) if each != index]
    assert len(odd_candles) == 1
    assert str(row) in odd_candles[0]


def test_many_odd_candles_make_the_answer_unreadable() -> None:
    """Two odd candles of a hundred are more than one in a hundred."""
    rows = candle_rows(100)
    rows[3][4] = rows[50][4] = "100"
    with pytest.raises(NoAnswerError, match="contradicts itself"):
        responses.read_candles({"XBTEUR": rows, "last": 98 * 60}, 60, 6000.0, [])

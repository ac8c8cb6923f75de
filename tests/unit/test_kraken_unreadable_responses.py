"""An unreadable response of Kraken is an error, never zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from bot.base.errors import NoAnswerError
from bot.kraken import responses
from tests.unit.kraken_samples import KEY_INFO, OHLC, ORDER, PAIR_TABLE, TRADE, replace_entry

READERS: dict[str, tuple[Callable[[Any], Any], Any]] = {
    "time": (responses.read_time, {"unixtime": 1762820224}),
    "status": (lambda result: responses.read_system_status(result, 0.0), {"status": "online"}),
    "pair_status": (responses.read_pair_status, {"XXBTZEUR": {"status": "online"}}),
    "price": (responses.read_price, {"XXBTZEUR": {"c": ["51234.5", "0.1"]}}),
    "best_bid": (responses.read_best_bid, {"XXBTZEUR": {"b": ["51234.4", "1", "1.000"]}}),
    "candles": (lambda result: responses.read_candles(result, 60, 1790000180.0), OHLC),
    "balance_ex": (
        lambda result: responses.read_balance_ex(result, PAIR_TABLE),
        {"ZEUR": {"balance": "812.3300", "hold_trade": "1"}},
    ),
    "open": (lambda result: responses.read_open_orders(result, PAIR_TABLE), {"open": {"O1": ORDER}}),
    "closed": (lambda result: responses.read_closed_orders(result, PAIR_TABLE), {"closed": {"O1": ORDER}, "count": 1}),
    "trades": (lambda result: responses.read_trades(result, PAIR_TABLE), {"trades": {"T1": TRADE}, "count": 1}),
    "key": (responses.read_key_info, KEY_INFO),
    "placed": (responses.read_add_order_txid, {"txid": ["O1"]}),
    "cancel": (responses.read_cancel_count, {"count": 1}),
}
DAMAGES = [
    ("time", "unixtime", ...),
    ("time", "unixtime", None),
    ("time", "unixtime", True),
    ("time", "unixtime", "soon"),
    ("status", "status", ...),
    ("pair_status", "XXBTZEUR", None),
    ("pair_status", "XETHZEUR", {"status": "online"}),
    ("pair_status", "XXBTZEUR/status", 1),
    ("price", "XXBTZEUR", None),
    ("price", "XXBTZEUR/c", []),
    ("best_bid", "XXBTZEUR/b", []),
    ("best_bid", "XXBTZEUR/b/0", "0.0"),
    ("price", "XXBTZEUR/c/0", "0.0"),
    ("price", "XXBTZEUR/c/0", "-1"),
    ("price", "XXBTZEUR/c/0", ""),
    ("price", "XETHZEUR", {"c": ["1", "1"]}),
    ("candles", "last", ...),
    ("candles", "XBTEUR", ...),
    ("candles", "XBTEUR", {}),
    ("candles", "XETHEUR", []),
    ("candles", "XBTEUR/1", "row"),
    ("candles", "XBTEUR/1", [1790000060, "11.0"]),
    ("candles", "XBTEUR/1/0", 1790000000),
    ("candles", "XBTEUR/0/0", -90000000000000),
    ("candles", "XBTEUR/1/4", "0"),
    ("candles", "XBTEUR/1/3", "0"),
    ("candles", "XBTEUR/1/2", "10.9"),
    ("candles", "XBTEUR/1/3", "11.1"),
    ("candles", "XBTEUR/1/6", "-1"),
    ("candles", "XBTEUR/1/4", None),
    ("candles", "XBTEUR/1/4", "nan"),
    ("balance_ex", "ZEUR/balance", None),
    ("balance_ex", "ZEUR/balance", 812.33),
    ("balance_ex", "ZEUR/balance", True),
    ("balance_ex", "ZEUR/balance", "1_000"),
    ("balance_ex", "ZEUR/balance", "Infinity"),
    ("balance_ex", "ZEUR/balance", "NaN"),
    ("balance_ex", "ZEUR", "812.3300"),
    ("balance_ex", "ZEUR/balance", ...),
    ("balance_ex", "ZEUR/hold_trade", ...),
    ("balance_ex", "ZEUR/credit", "some"),
    ("open", "open", ...),
    ("open", "open", []),
    ("open", "open/O1", None),
    ("open", "open/O1/status", "resting"),
    ("open", "open/O1/descr", ...),
    ("open", "open/O1/descr/pair", ...),
    ("open", "open/O1/descr/type", "hold"),
    ("open", "open/O1/descr/price", "cheap"),
    ("open", "open/O1/vol", ...),
    ("open", "open/O1/vol_exec", None),
    ("open", "open/O1/cost", 20.4938),
    ("open", "open/O1/opentm", ...),
    ("open", "open/O1/opentm", "yesterday"),
    ("open", "open/O1/opentm", -1),
    ("open", "open/O1/cl_ord_id", 17),
    ("closed", "count", ...),
    ("closed", "count", "1.5"),
    ("closed", "closed", None),
    ("open", "open/O1", []),
    ("trades", "trades", ...),
    ("trades", "count", ...),
    ("trades", "trades/T1/price", ...),
    ("trades", "trades/T1/ordertxid", ...),
    ("trades", "trades/T1/time", None),
    ("trades", "trades/T1/time", 253402300800),
    ("trades", "trades/T1/time", "9e15"),
    ("trades", "trades/T1/type", ...),
    ("key", "nonce", ...),
    ("key", "nonce", "many"),
    ("key", "nonceWindow", ...),
    ("key", "permissions", ...),
    ("key", "permissions", "all"),
    ("key", "permissions", [1]),
    ("placed", "txid", ...),
    ("placed", "txid", []),
    ("placed", "txid", ["O1", "O2"]),
    ("placed", "txid", "O1"),
    ("placed", "txid", [""]),
    ("placed", "txid", [None]),
    ("cancel", "count", ...),
    ("cancel", "count", True),
]


@pytest.mark.parametrize("name", READERS)
def test_the_samples_are_readable_before_they_are_damaged(name: str) -> None:
    """Each parser accepts its undamaged sample, so the damage alone causes the errors of the next test."""
    read, sample = READERS[name]
    assert read(sample) is not None


@pytest.mark.parametrize(("name", "path", "new"), DAMAGES, ids=str)
def test_a_damaged_answer_is_an_error(name: str, path: str, new: Any) -> None:
    """A missing or unreadable required field makes the whole response unreadable."""
    read, sample = READERS[name]
    with pytest.raises(NoAnswerError, match="unreadable reply to "):
        read(replace_entry(sample, path, new))


@pytest.mark.parametrize("result", [None, [], "text", 7, True], ids=repr)
@pytest.mark.parametrize("name", READERS)
def test_an_answer_of_another_shape_is_an_error(name: str, result: Any) -> None:
    """A response that is not an object is unreadable."""
    with pytest.raises(NoAnswerError, match="unreadable reply to "):
        READERS[name][0](result)


@pytest.mark.parametrize("field", [name for name in KEY_INFO if name not in {"permissions", "apiKeyName"}])
def test_unreadable_key_info_does_not_reveal_the_key(field: str) -> None:
    """Whichever field is invalid, even one that contains the key, neither error nor parsed value contains the key."""
    try:
        output = repr(responses.read_key_info(KEY_INFO | {field: "the key itself"}))
    except NoAnswerError as error:
        output = str(error)
    assert "the key itself" not in output

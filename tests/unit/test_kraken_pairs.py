"""Pairs are found under all of their names, and an order with an invalid precision or size is refused before it is
sent."""

from __future__ import annotations

import json
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bot.base.errors import OrderRuleError, SymbolError
from bot.base.models import Pair, Side
from bot.kraken.pairs import (
    PairTable,
    check_order,
    format_decimal,
    round_price,
    round_stop_price,
    round_volume,
)
from tests.trading_fakes import make_pair

ASSETS: dict[str, Any] = {
    code: {"aclass": "currency", "altname": altname, "decimals": 10, "display_decimals": 5, "status": "enabled"}
    for code, altname in {
        "XXBT": "XBT",
        "XETH": "ETH",
        "XXDG": "XDG",
        "XXRP": "XRP",
        "XTZ": "XTZ",
        "XZEC": "ZEC",
        "SOL": "SOL",
        "ZUSD": "USD",
        "ZEUR": "EUR",
        "USDT": "USDT",
        "XBT.F": "XBT.F",
    }.items()
}


def make_asset_pair(altname: str, wsname: str, base: str, quote: str, **fields: Any) -> dict[str, Any]:
    """Return an entry of AssetPairs in Kraken's shape; None leaves a field out."""
    entry = {
        "altname": altname,
        "wsname": wsname,
        "aclass_base": "currency",
        "base": base,
        "aclass_quote": "currency",
        "quote": quote,
        "pair_decimals": 1,
        "cost_decimals": 5,
        "lot_decimals": 8,
        "lot_multiplier": 1,
        "fees": [],
        "fees_maker": [],
        "ordermin": "0.00005",
        "costmin": "0.5",
        "tick_size": "0.1",
        "status": "online",
    }
    return {name: value for name, value in (entry | fields).items() if value is not None}


ASSET_PAIRS: dict[str, Any] = {
    "XXBTZUSD": make_asset_pair("XBTUSD", "XBT/USD", "XXBT", "ZUSD"),
    "XETHZEUR": make_asset_pair(
        "ETHEUR", "ETH/EUR", "XETH", "ZEUR", pair_decimals=2, tick_size="0.01", ordermin="0.001"
    ),
    "XDGUSD": make_asset_pair(
        "XDGUSD", "XDG/USD", "XXDG", "ZUSD", pair_decimals=7, tick_size="0.0000001", ordermin="13"
    ),
    "XTZUSD": make_asset_pair("XTZUSD", "XTZ/USD", "XTZ", "ZUSD", pair_decimals=4, tick_size="0.0001", ordermin="4"),
    "SOLUSD": make_asset_pair(
        "SOLUSD", "SOL/USD", "SOL", "ZUSD", status=None, lot_multiplier=None, costmin=None, tick_size=None
    ),
    "XBTUSDT": make_asset_pair("XBTUSDT", "XBT/USDT", "XXBT", "USDT", tick_size="0.5"),
}

TABLE = PairTable(ASSET_PAIRS, ASSETS)
BTC = TABLE.find("BTC/USD")
HALF_TICK_PAIR = TABLE.find("BTC/USDT")


def violated_rule(pair: Pair, volume: str, price: str, side: Side = Side.BUY) -> tuple[str, str]:
    """Return the violated rule and the nearest value."""
    with pytest.raises(OrderRuleError) as caught:
        check_order(pair, side, Decimal(volume), Decimal(price))
    assert caught.value.rule in str(caught.value)
    assert caught.value.nearest in str(caught.value)
    return caught.value.rule, caught.value.nearest


@pytest.mark.parametrize(
    "name", ["BTC/USD", "btc/usd", "XBT/USD", "XBTUSD", "xbtusd", "XXBTZUSD", "BTCUSD", " BTC/USD "]
)
def test_one_pair_has_many_names(name: str) -> None:
    """Our symbol, Kraken's three names and the joined form, in any case, name the same pair."""
    assert TABLE.find(name) is BTC
    assert (BTC.symbol, BTC.pair_id, BTC.altname, BTC.wsname) == ("BTC/USD", "XXBTZUSD", "XBTUSD", "XBT/USD")


@pytest.mark.parametrize(
    ("name", "symbol"),
    [
        ("DOGE/USD", "DOGE/USD"),
        ("XDGUSD", "DOGE/USD"),
        ("XTZ/USD", "XTZ/USD"),
        ("XTZUSD", "XTZ/USD"),
        ("XBTUSDT", "BTC/USDT"),
        ("ETHEUR", "ETH/EUR"),
        ("SOL/ZUSD", "SOL/USD"),
    ],
)
def test_names_are_looked_up_rather_than_stripped(name: str, symbol: str) -> None:
    """A letter that belongs to an asset is kept, and one that Kraken prepends is removed."""
    assert TABLE.find(name).symbol == symbol


@pytest.mark.parametrize(("name", "near"), [("BTC/UDS", "BTC/USD"), ("XBTUSDD", "BTC/USD"), ("ETH/EUP", "ETH/EUR")])
def test_an_unknown_name_is_answered_with_near_ones(name: str, near: str) -> None:
    """The error names the requested symbol and pairs with similar names."""
    with pytest.raises(SymbolError) as caught:
        TABLE.find(name)
    assert name in str(caught.value)
    assert near in str(caught.value)


def test_a_name_like_no_other_gets_no_hint() -> None:
    """The error for a name that is similar to no other suggests nothing."""
    with pytest.raises(SymbolError, match=r"^Kraken knows no pair 'QQQQ'$"):
        TABLE.find("QQQQ")


def test_an_ambiguous_name_is_refused() -> None:
    """A name that two pairs share names neither, while each of their own ids still does."""
    table = PairTable(
        {
            "AAUSD": make_asset_pair("AAUSD", "AA/USD", "AA", "ZUSD"),
            "AAUSD.d": make_asset_pair("AAUSD.d", "AA/USD", "AA", "ZUSD"),
        },
        ASSETS,
    )
    with pytest.raises(SymbolError, match=r"several pairs: AAUSD, AAUSD\.d"):
        table.find("AA/USD")
    assert table.find("AAUSD.d").pair_id == "AAUSD.d"


def test_missing_fields_have_the_meaning_of_their_absence() -> None:
    """Without tick_size a tick is one in the last decimal; without costmin there is no minimum cost."""
    pair = TABLE.find("SOL/USD")
    assert (pair.tick_size, pair.cost_minimum) == (Decimal("0.1"), Decimal(0))


@pytest.mark.parametrize(
    "fields",
    [
        {"pair_decimals": None},
        {"pair_decimals": "1"},
        {"pair_decimals": True},
        {"lot_decimals": -1},
        {"tick_size": "0"},
        {"tick_size": 0.5},
        {"tick_size": "1e-400"},
        {"ordermin": "many"},
        {"costmin": "NaN"},
        {"base": None},
        {"altname": 7},
    ],
    ids=str,
)
def test_damaged_entry_disables_only_its_pair(fields: dict[str, Any]) -> None:
    """An entry that cannot be read makes its pair unusable, with the reason, and affects no other pair."""
    table = PairTable(
        {"XXBTZUSD": make_asset_pair("XBTUSD", "XBT/USD", "XXBT", "ZUSD") | fields, "SOLUSD": ASSET_PAIRS["SOLUSD"]},
        ASSETS,
    )
    assert table.find("SOL/USD").symbol == "SOL/USD"
    with pytest.raises(SymbolError, match="cannot be read"):
        table.find("XXBTZUSD")


def test_an_asset_left_out_of_assets_is_named_by_the_wsname() -> None:
    """Without an entry in Assets the two halves of the wsname name the assets."""
    table = PairTable({"XXBTZUSD": ASSET_PAIRS["XXBTZUSD"]}, {})
    assert table.find("BTC/USD").pair_id == "XXBTZUSD"
    assert table.asset_name("XXBT") == "BTC"


@pytest.mark.parametrize(
    ("asset_id", "name"),
    [
        ("XXBT", "BTC"),
        ("XBT", "BTC"),
        ("XXDG", "DOGE"),
        ("ZUSD", "USD"),
        ("XTZ", "XTZ"),
        ("XXRP", "XRP"),
        ("XZEC", "ZEC"),
        ("SOL", "SOL"),
        ("KFEE", "KFEE"),
        ("XNEW", "XNEW"),
        ("XBT.F", "BTC.F"),
        ("XXBT.HOLD", "BTC.HOLD"),
        ("SOL.S", "SOL.S"),
        ("ZUSD.M", "USD.M"),
        ("ETH2.S", "ETH2.S"),
    ],
)
def test_assets_have_the_name_in_common_use(asset_id: str, name: str) -> None:
    """Kraken's codes get their common names, suffixes are kept, and unknown ids stay as they are."""
    assert TABLE.asset_name(asset_id) == name


def test_unlisted_pair_keeps_the_kraken_name() -> None:
    """A listed pair gets our symbol, and an unlisted one keeps its name."""
    assert (TABLE.symbol_of("XBTUSD"), TABLE.symbol_of("GONEUSD")) == ("BTC/USD", "GONEUSD")


def test_the_recorded_answer_is_read(shared: Path) -> None:
    """The recorded AssetPairs response gives BTC/USDT with its precision and minima."""
    result = json.loads((shared / "data" / "http_asset_pairs.json").read_text("utf-8"))["result"]
    pair = PairTable(result, {}).find("BTC/USDT")
    assert (pair.pair_id, pair.base, pair.quote, pair.base_id) == ("XBTUSDT", "BTC", "USDT", "XXBT")
    assert (pair.price_decimals, pair.lot_decimals, pair.cost_decimals) == (1, 8, 5)
    assert (pair.tick_size, pair.order_minimum, pair.cost_minimum) == (
        Decimal("0.1"),
        Decimal("0.00005"),
        Decimal("0.5"),
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("37500", "37500"),
        ("37500.10", "37500.1"),
        ("1E-8", "0.00000001"),
        ("1E+5", "100000"),
        ("0.00", "0"),
        ("-0.0", "0"),
        ("100", "100"),
        ("123456789012345678901234567890.12345678901", "123456789012345678901234567890.12345678901"),
    ],
)
def test_numbers_are_written_plainly(value: str, text: str) -> None:
    """A number is formatted without exponent or trailing zeros, and with all of its digits."""
    assert format_decimal(Decimal(value)) == text


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=0, max_value=10**12, places=10))
def test_a_written_number_reads_back_as_itself(value: Decimal) -> None:
    """Formatting a number loses nothing."""
    assert Decimal(format_decimal(value)) == value


@pytest.mark.parametrize("value", ["NaN", "Infinity"])
def test_non_finite_numbers_are_refused(value: str) -> None:
    """NaN and infinity are refused."""
    with pytest.raises(ValueError, match="not a number"):
        format_decimal(Decimal(value))


def test_a_good_order_passes() -> None:
    """An order on the tick and lot grid and above both minima is accepted."""
    check_order(BTC, Side.BUY, Decimal("0.00005"), Decimal("37500.1"))
    check_order(BTC, Side.SELL, Decimal("1.25000000"), Decimal("37500.10"))


@pytest.mark.parametrize(
    ("pair", "volume", "price", "side", "expected"),
    [
        (BTC, "0.01", "37500.15", Side.BUY, ("pair_decimals", "37500.1")),
        (BTC, "0.01", "37500.15", Side.SELL, ("pair_decimals", "37500.2")),
        (BTC, "0.01", "0.01", Side.BUY, ("pair_decimals", "0.1")),
        (HALF_TICK_PAIR, "0.01", "37500.1", Side.BUY, ("tick_size", "37500")),
        (HALF_TICK_PAIR, "0.01", "37500.1", Side.SELL, ("tick_size", "37500.5")),
        (BTC, "0.010000001", "37500", Side.BUY, ("lot_decimals", "0.01")),
        (BTC, "0.000000001", "37500", Side.BUY, ("lot_decimals", "0.00005")),
        (BTC, "0.00004", "37500", Side.BUY, ("ordermin", "0.00005")),
        (BTC, "0.00004", "1000", Side.BUY, ("ordermin", "0.0005")),
        (BTC, "0.0001", "3000", Side.BUY, ("costmin", "0.00016667")),
        (BTC, "0", "37500", Side.BUY, ("positive", "")),
        (BTC, "-1", "37500", Side.BUY, ("positive", "")),
        (BTC, "1", "0", Side.BUY, ("positive", "")),
        (BTC, "NaN", "37500", Side.BUY, ("positive", "")),
        (BTC, "1", "Infinity", Side.BUY, ("positive", "")),
        (BTC, "1E+1000000", "37500", Side.BUY, ("positive", "")),
        (BTC, "1", "1E-1000000", Side.BUY, ("positive", "")),
    ],
)
def test_violated_rule_is_named_with_the_nearest_value(
    pair: Pair, volume: str, price: str, side: Side, expected: tuple[str, str]
) -> None:
    """The error names the first violated rule and the nearest valid value, none of it worse for the bot."""
    assert violated_rule(pair, volume, price, side) == expected


def test_long_numbers_are_rounded_exactly() -> None:
    """A number with more digits than the default decimal context loses only what is beyond the grid."""
    number = Decimal("123456789012345678901234567890.123456789")
    assert round_volume(BTC, number) == Decimal("123456789012345678901234567890.12345678")
    assert round_price(BTC, Side.SELL, number) == Decimal("123456789012345678901234567890.2")
    check_order(BTC, Side.SELL, round_volume(BTC, number), round_price(BTC, Side.SELL, number))


@pytest.mark.parametrize("number", [0.01, 1, "0.01", None], ids=repr)
def test_only_decimals_are_money(number: Any) -> None:
    """Floats, and every other type than Decimal, are refused wherever an amount is expected."""
    good = Decimal(1)
    with pytest.raises(TypeError, match="Decimal"):
        check_order(BTC, Side.BUY, number, good)
    with pytest.raises(TypeError, match="Decimal"):
        check_order(BTC, Side.BUY, good, number)
    with pytest.raises(TypeError, match="Decimal"):
        round_price(BTC, Side.BUY, number)
    with pytest.raises(TypeError, match="Decimal"):
        round_volume(BTC, number)
    with pytest.raises(TypeError, match="Decimal"):
        format_decimal(number)


PAIRS = st.builds(
    lambda decimals, ticks, lots, minimum, cost: PairTable(
        {
            "XXBTZUSD": make_asset_pair(
                "XBTUSD",
                "XBT/USD",
                "XXBT",
                "ZUSD",
                pair_decimals=decimals,
                lot_decimals=lots,
                tick_size=format_decimal(ticks),
                ordermin=format_decimal(minimum),
                costmin=format_decimal(cost),
            )
        },
        ASSETS,
    ).find("BTC/USD"),
    decimals=st.integers(0, 10),
    ticks=st.sampled_from(
        [Decimal(text) for text in ("0.1", "0.5", "0.01", "0.25", "0.00005", "1", "3", "1E-10", "10")]
    ),
    lots=st.integers(0, 10),
    minimum=st.decimals(min_value=0, max_value=1000, places=8),
    cost=st.decimals(min_value=0, max_value=1000, places=5),
)
NUMBERS = st.decimals(min_value=Decimal("1e-12"), max_value=Decimal("1e12"), allow_nan=False)


@given(pair=PAIRS, side=st.sampled_from(Side), price=NUMBERS, volume=NUMBERS)
def test_a_rounded_order_passes(pair: Pair, side: Side, price: Decimal, volume: Decimal) -> None:
    """A rounded order above the minima is accepted; one below them violates no other rule."""
    price, volume = round_price(pair, side, price), round_volume(pair, volume)
    large_enough = volume >= pair.order_minimum and Fraction(price) * Fraction(volume) >= pair.cost_minimum
    if large_enough and price > 0 and volume > 0:
        check_order(pair, side, volume, price)
    else:
        with pytest.raises(OrderRuleError, match=r"rule: (positive|ordermin|costmin)"):
            check_order(pair, side, volume, price)


@given(pair=PAIRS, side=st.sampled_from(Side), price=NUMBERS)
def test_rounding_a_price_is_never_worse_and_never_far(pair: Pair, side: Side, price: Decimal) -> None:
    """A buy is rounded down and a sell up, by less than ten units of the coarser grid, and rounding is idempotent."""
    rounded = round_price(pair, side, price)
    assert rounded <= price if side is Side.BUY else rounded >= price
    assert abs(rounded - price) < 10 * max(pair.tick_size, Decimal(1).scaleb(-pair.price_decimals))
    assert round_price(pair, side, rounded) == rounded


@given(pair=PAIRS, volume=NUMBERS)
def test_rounding_a_volume_is_down_and_less_than_a_lot(pair: Pair, volume: Decimal) -> None:
    """A volume is rounded down by less than one unit of its last decimal."""
    rounded = round_volume(pair, volume)
    assert 0 <= volume - rounded < Decimal(1).scaleb(-pair.lot_decimals)


@given(pair=PAIRS, side=st.sampled_from(Side), price=NUMBERS, volume=NUMBERS)
def test_the_nearest_value_is_allowed(pair: Pair, side: Side, price: Decimal, volume: Decimal) -> None:
    """Using the nearest value of the error, at most twice, makes the order valid."""
    for _ in range(2):
        try:
            check_order(pair, side, volume, price)
        except OrderRuleError as error:
            if error.rule in {"pair_decimals", "tick_size"}:
                price = Decimal(error.nearest)
            else:
                volume = Decimal(error.nearest)
    check_order(pair, side, volume, price)


@pytest.mark.parametrize(
    ("side", "price", "expected"),
    [
        (Side.SELL, "89.96", "89.9"),
        (Side.SELL, "90.0", "90.0"),
        (Side.SELL, "0.09", "0"),
        (Side.BUY, "110.04", "110.1"),
        (Side.BUY, "0.01", "0.1"),
    ],
)
def test_a_stop_is_never_rounded_toward_the_market(side: Side, price: str, expected: str) -> None:
    """With a tick of 0.1 a sell stop is rounded down, to zero below the first tick, and a buy stop up."""
    assert round_stop_price(make_pair(), side, Decimal(price)) == Decimal(expected)


def test_the_hint_for_a_stop_off_the_grid_lies_beyond_it() -> None:
    """The nearest allowed trigger of a sell stop at 89.96 is 89.9, and below the first tick there is none."""
    for price, nearest in (("89.96", "89.9"), ("0.09", "")):
        with pytest.raises(OrderRuleError) as caught:
            check_order(make_pair(), Side.SELL, Decimal(100), Decimal(price), is_stop=True)
        assert (caught.value.rule, caught.value.nearest) == ("pair_decimals", nearest)

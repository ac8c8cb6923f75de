"""Names of pairs and assets, and the rules an order must keep, from AssetPairs and Assets.

Names come from these tables. Stripping letters would be wrong: XTZ, XRP and ZEC begin with an X or a Z of their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from decimal import Context, Decimal, InvalidOperation
from itertools import product
from math import lcm
from typing import Any

from bot.base.errors import OrderRuleError, SymbolError
from bot.base.models import ZERO, Pair, Side

# Kraken's own codes that differ from the ones in use everywhere else.
_COMMON_ASSET_NAMES = {"XBT": "BTC", "XDG": "DOGE"}

FIAT_ASSETS = frozenset({"USD", "EUR", "GBP", "CAD", "JPY", "AUD", "CHF"})
# Coins that follow a fiat currency.
STABLE_ASSETS = frozenset(
    {"USDT", "USDC", "USDG", "USDD", "USDE", "USDQ", "USDR", "USDS", "USD1", "DAI", "PYUSD", "RLUSD", "TUSD"}
    | {"EURC", "EURQ", "EURR", "EURT", "EUROP"}
)

# Exact arithmetic: the values below are bounded by so many digits before and after the point that nothing is ever
# rounded by accident. The bound leaves room for quotients of small numbers, which have many digits.
_EXACT_CONTEXT = Context(prec=1000)
_MAX_EXPONENT = 100
_MAX_DECIMALS = 20


# What AssetPairs calls the rules of a pair that may change, and what `Pair` does.
_RULES = ("pair_decimals", "lot_decimals", "tick_size", "ordermin", "costmin")
_RULE_FIELDS = ("price_decimals", "lot_decimals", "cost_decimals", "tick_size", "order_minimum", "cost_minimum")
_UNREADABLE_ROW_ERRORS = (KeyError, TypeError, ValueError, AttributeError, InvalidOperation)


class PairTable:
    """Every pair of the exchange under all of its names.

    A row that cannot be read makes its own pair unusable and no other.
    """

    def __init__(self, asset_pairs: Mapping[str, Any], assets: Mapping[str, Any]) -> None:
        """Take the results of AssetPairs and Assets as Kraken gave them."""
        self._altnames = _asset_altnames(asset_pairs, assets)
        self._unreadable: dict[str, str] = {}
        # The exact id wins over the altname, and both over the names that are put together from the two assets.
        self._levels: tuple[dict[str, list[Pair]], ...] = ({}, {}, {})
        for pair_id, row in asset_pairs.items():
            self._add_pair(pair_id, row)

    def find(self, symbol: str) -> Pair:
        """Return the pair that `symbol` names: BTC/USD, btc/usd, XBT/USD, XBTUSD, XXBTZUSD or BTCUSD.

        Raises SymbolError for an unknown or ambiguous name.
        """
        key = symbol.strip().upper()
        for level in self._levels:
            found = level.get(key, [])
            if len(found) == 1:
                return found[0]
            if found:
                raise SymbolError(f"{symbol} names several pairs: {', '.join(pair.pair_id for pair in found)}")
        raise SymbolError(self._unknown_pair_message(symbol, key))

    def update(self, pair: Pair, row: Mapping[str, Any]) -> Pair:
        """Take over the rules of a pair from a newer row of AssetPairs; return the pair.

        Raises ValueError for a row that cannot be read, lacks a rule, or is of other assets; nothing is changed then.
        """
        try:
            changed = self._parse_pair(pair.pair_id, row)
        except _UNREADABLE_ROW_ERRORS as error:
            raise ValueError(f"{type(error).__name__}: {error}") from error
        if any(row.get(rule) is None for rule in _RULES):
            raise ValueError(f"one of {', '.join(_RULES)} is missing")
        # The names of a pair are those of the first reading.
        rules = {name: getattr(changed, name) for name in _RULE_FIELDS}
        if replace(pair, **rules) != changed:
            raise ValueError("its names or assets are others")
        for level, names in zip(self._levels, self._lookup_names(pair), strict=True):
            for name in names:
                level[name] = [changed if one.pair_id == pair.pair_id else one for one in level[name]]
        return changed

    def symbol_of(self, kraken_name: str) -> str:
        """Return our symbol for a name in one of Kraken's rows.

        The name itself is returned for a pair that AssetPairs no longer lists: old rows outlive their pairs.
        """
        try:
            return self.find(kraken_name).symbol
        except SymbolError:
            return kraken_name

    def asset_name(self, asset_id: str) -> str:
        """Return the name in common use: XXBT is BTC, ZUSD is USD, XBT.F is BTC.F.

        A suffix (.F, .S, .B, .M, .T, .HOLD) keeps its balance apart from the coin that can be traded (Kraken:
        BalanceEx page). An id that Kraken does not list is kept as it is.
        """
        code, dot, suffix = asset_id.partition(".")
        altname = self._altnames.get(code, code)
        return _COMMON_ASSET_NAMES.get(altname, altname) + dot + suffix

    def _add_pair(self, pair_id: str, row: Any) -> None:
        try:
            pair = self._parse_pair(pair_id, row)
            names_by_level = self._lookup_names(pair)
        except _UNREADABLE_ROW_ERRORS as error:
            self._unreadable[pair_id.upper()] = f"{type(error).__name__}: {error}"
            return
        for level, names in zip(self._levels, names_by_level, strict=True):
            for name in names:
                level.setdefault(name, []).append(pair)

    def _parse_pair(self, pair_id: str, row: Mapping[str, Any]) -> Pair:
        base, quote = self.asset_name(row["base"]), self.asset_name(row["quote"])
        price_decimals = _parse_decimals(row["pair_decimals"])
        altname = row.get("altname") or pair_id
        return Pair(
            symbol=f"{base}/{quote}",
            pair_id=pair_id,
            altname=altname,
            wsname=row.get("wsname") or f"{base}/{quote}",
            base=base,
            quote=quote,
            base_id=row["base"],
            quote_id=row["quote"],
            price_decimals=price_decimals,
            lot_decimals=_parse_decimals(row["lot_decimals"]),
            cost_decimals=_parse_decimals(row.get("cost_decimals", price_decimals)),
            tick_size=_parse_number(row.get("tick_size"), _decimal_step(price_decimals)),
            order_minimum=_parse_number(row.get("ordermin"), ZERO),
            cost_minimum=_parse_number(row.get("costmin"), ZERO),
        )

    def _lookup_names(self, pair: Pair) -> tuple[set[str], set[str], set[str]]:
        combined_names = {
            base + slash + quote
            for base, slash, quote in product(
                (pair.base_id, self._altnames.get(pair.base_id, pair.base), pair.base),
                ("", "/"),
                (pair.quote_id, self._altnames.get(pair.quote_id, pair.quote), pair.quote),
            )
        }
        combined_names.add(pair.wsname)
        return {pair.pair_id.upper()}, {pair.altname.upper()}, {name.upper() for name in combined_names}

    def _unknown_pair_message(self, symbol: str, key: str) -> str:
        if key in self._unreadable:
            return f"Kraken's row for {symbol} cannot be read ({self._unreadable[key]})"
        matches = difflib.get_close_matches(key, self._all_names(), n=6, cutoff=0.7)
        suggestions = list(dict.fromkeys(self.symbol_of(name) for name in matches))[:3]
        hint = f"; near to it: {', '.join(suggestions)}" if suggestions else ""
        return f"Kraken knows no pair {symbol!r}{hint}"

    def _all_names(self) -> Iterator[str]:
        for level in self._levels:
            yield from level


def format_decimal(value: Decimal) -> str:
    """Write a number as Kraken wants it, and for people: plain digits, no exponent, no trailing zeros."""
    _require_decimal(value)
    if not value.is_finite():
        raise ValueError(f"{value} is not a number that can be sent")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def describe_rules(pair: Pair) -> str:
    """Describe what Kraken demands of an order of the pair."""
    return (
        f"prices with {pair.price_decimals} decimals in steps of {format_decimal(pair.tick_size)}, volumes with "
        f"{pair.lot_decimals} decimals from {format_decimal(pair.order_minimum)} {pair.base} and "
        f"{format_decimal(pair.cost_minimum)} {pair.quote}"
    )


def round_price(pair: Pair, side: Side, price: Decimal) -> Decimal:
    """Return the price on the pair's grid that is no worse for us: down for a buy, up for a sell."""
    _require_ordinary_size(pair, "price", price)
    increment = _price_increment(pair)
    return _round_down(price, increment) if side is Side.BUY else _round_up(price, increment)


def round_stop_price(pair: Pair, side: Side, price: Decimal) -> Decimal:
    """Return the trigger of a stop-loss on the pair's grid, never nearer to the market: down for a sell, up for a buy.

    It is zero where no tick lies below.
    """
    return round_price(pair, Side.BUY if side is Side.SELL else Side.SELL, price)


def round_volume(pair: Pair, volume: Decimal) -> Decimal:
    """Return the volume rounded down to the pair's lot_decimals; it may be too small to trade."""
    _require_ordinary_size(pair, "volume", volume)
    return _round_down(volume, _decimal_step(pair.lot_decimals))


def minimum_volume(pair: Pair, price: Decimal) -> Decimal:
    """Return the smallest volume of an order at this price, by `ordermin` and `costmin`, in whole lots."""
    # Whole lots throughout, since the quotient of two decimals need not be a decimal.
    step = _decimal_step(pair.lot_decimals)
    lot_cost = _EXACT_CONTEXT.multiply(price, step)
    cost = _round_up(pair.cost_minimum, lot_cost)
    cost_volume = _EXACT_CONTEXT.multiply(_EXACT_CONTEXT.divide_int(cost, lot_cost), step)
    return max(_round_up(pair.order_minimum, step), cost_volume, step)


def check_order(pair: Pair, side: Side, volume: Decimal, price: Decimal, *, is_stop: bool = False) -> None:
    """Raise OrderRuleError if Kraken would refuse the order for its precision or size; `price` is a stop's trigger.

    The error names the rule (positive, pair_decimals, tick_size, lot_decimals, ordermin, costmin), the nearest
    allowed value, and what Kraken would have said (Kraken: errors guide, and strings that users were shown).
    Floats raise TypeError.
    """
    for field, value in (("price", price), ("volume", volume)):
        _require_ordinary_size(pair, field, value)
        if value <= 0:
            raise _rule_error(pair, field, value, "is not above zero", "positive", "")
    _check_price(pair, side, price, is_stop)
    _check_volume(pair, volume, price)


def breaks_no_rule(pair: Pair, side: Side, volume: Decimal, price: Decimal) -> bool:
    """Whether an order keeps the precision and the minima of its pair."""
    try:
        check_order(pair, side, volume, price)
    except OrderRuleError:
        return False
    return True


def _check_price(pair: Pair, side: Side, price: Decimal, is_stop: bool) -> None:
    if is_stop:
        stop_price = round_stop_price(pair, side, price)
        nearest = format_decimal(stop_price) if stop_price else ""
    else:
        nearest = format_decimal(max(round_price(pair, side, price), _price_increment(pair)))
    if _EXACT_CONTEXT.remainder(price, _decimal_step(pair.price_decimals)):
        problem = (
            f"has too many decimals; Kraken would say EOrder:Invalid price:{pair.altname} "
            f"price can only be specified up to {pair.price_decimals} decimals"
        )
        raise _rule_error(pair, "price", price, problem, "pair_decimals", nearest)
    if _EXACT_CONTEXT.remainder(price, pair.tick_size):
        problem = (
            f"is not a multiple of {format_decimal(pair.tick_size)}; Kraken would say EOrder:Tick size check failed"
        )
        raise _rule_error(pair, "price", price, problem, "tick_size", nearest)


def _check_volume(pair: Pair, volume: Decimal, price: Decimal) -> None:
    step = _decimal_step(pair.lot_decimals)
    minimum = minimum_volume(pair, price)
    if _EXACT_CONTEXT.remainder(volume, step):
        nearest = format_decimal(max(_round_down(volume, step), minimum))
        problem = f"has more than {pair.lot_decimals} decimals; Kraken would say EGeneral:Invalid arguments:volume"
        raise _rule_error(pair, "volume", volume, problem, "lot_decimals", nearest)
    if volume < pair.order_minimum:
        problem = (
            f"is below the minimum of {format_decimal(pair.order_minimum)}; Kraken would say "
            "EGeneral:Invalid arguments:volume minimum not met or EOrder:Order minimum not met"
        )
        raise _rule_error(pair, "volume", volume, problem, "ordermin", format_decimal(minimum))
    if _EXACT_CONTEXT.multiply(price, volume) < pair.cost_minimum:
        problem = (
            f"at {format_decimal(price)} costs less than the minimum of {format_decimal(pair.cost_minimum)} "
            f"{pair.quote}; Kraken would say EOrder:Cost minimum not met"
        )
        raise _rule_error(pair, "volume", volume, problem, "costmin", format_decimal(minimum))


def _rule_error(pair: Pair, field: str, value: Decimal, problem: str, rule: str, nearest: str) -> OrderRuleError:
    hint = f". The nearest allowed is {nearest}" if nearest else ""
    return OrderRuleError(f"{pair.symbol} {field} {value} {problem} (rule: {rule}){hint}", rule, nearest)


def _price_increment(pair: Pair) -> Decimal:
    # A price must keep both rules: the number of decimals, and a multiple of the tick size.
    exponent = pair.tick_size.normalize().as_tuple().exponent
    decimals = max(pair.price_decimals, -int(exponent), 0)
    ticks = int(pair.tick_size.scaleb(decimals))
    return Decimal(lcm(ticks, 10 ** (decimals - pair.price_decimals))).scaleb(-decimals)


def _round_down(value: Decimal, step: Decimal) -> Decimal:
    return _EXACT_CONTEXT.multiply(_EXACT_CONTEXT.divide_int(value, step), step)


def _round_up(value: Decimal, step: Decimal) -> Decimal:
    down = _round_down(value, step)
    return _EXACT_CONTEXT.add(down, step) if down < value else down


def _decimal_step(decimals: int) -> Decimal:
    return Decimal(1).scaleb(-decimals)


def _require_decimal(value: object) -> None:
    if not isinstance(value, Decimal):
        raise TypeError(f"money is Decimal, made from text; {value!r} is {type(value).__name__}")


def _require_ordinary_size(pair: Pair, field: str, value: Decimal) -> None:
    _require_decimal(value)
    digits_after = value.as_tuple().exponent
    if not isinstance(digits_after, int) or max(abs(value.adjusted()), abs(digits_after)) > _MAX_EXPONENT:
        raise _rule_error(pair, field, value, "is not a number of ordinary size", "positive", "")


def _parse_decimals(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_DECIMALS:
        raise ValueError(f"{value!r} is not a number of decimals")
    return value


def _parse_number(value: Any, default: Decimal) -> Decimal:
    if value is None:
        return default
    number = Decimal(value) if isinstance(value, str | int | Decimal) else Decimal("NaN")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_MAX_DECIMALS or number.adjusted() > _MAX_DECIMALS:
        raise ValueError(f"{value!r} is not a number of ordinary size")
    if number < 0 or (number == 0 and default != 0):
        raise ValueError(f"{value!r} is not a minimum or a step")
    return number


def _asset_altnames(asset_pairs: Mapping[str, Any], assets: Mapping[str, Any]) -> dict[str, str]:
    # Assets is the authority; a wsname such as XBT/USD names the two assets of a pair that Assets leaves out.
    altnames: dict[str, str] = {}
    for row in asset_pairs.values():
        wsname = row.get("wsname") if isinstance(row, dict) else None
        if isinstance(wsname, str) and wsname.count("/") == 1:
            base, quote = wsname.split("/")
            altnames |= {str(row.get("base")): base, str(row.get("quote")): quote}
    for asset_id, row in assets.items():
        if isinstance(row, dict) and isinstance(row.get("altname"), str):
            altnames[asset_id] = row["altname"]
    return altnames

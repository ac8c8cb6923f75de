"""Names of pairs and assets, and the rules an order must keep, from AssetPairs and Assets.

Names are looked up, never made by stripping letters: XTZ, XRP and ZEC begin with an X or a Z of their own.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from decimal import Context, Decimal, InvalidOperation
from itertools import product
from math import lcm
from typing import Any

from bot.base.errors import OrderRuleError, SymbolError
from bot.base.models import ZERO, Pair, Side

# Kraken's own codes that differ from the ones in use everywhere else.
_MODERN_NAMES = {"XBT": "BTC", "XDG": "DOGE"}

# Exact arithmetic: the values below are bounded by so many digits before and after the point that nothing is ever
# rounded by accident. The bound leaves room for quotients of small numbers, which have many digits.
_EXACT = Context(prec=1000)
_SIZE_MAX = 100
_DECIMALS_MAX = 20


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
            self._add(pair_id, row)

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
        raise SymbolError(self._why_unknown(symbol, key))

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
        return _MODERN_NAMES.get(altname, altname) + dot + suffix

    def _add(self, pair_id: str, row: Any) -> None:
        try:
            pair = self._read(pair_id, row)
            names_by_level = self._names(pair)
        except (KeyError, TypeError, ValueError, AttributeError, InvalidOperation) as error:
            self._unreadable[pair_id.upper()] = f"{type(error).__name__}: {error}"
            return
        for level, names in zip(self._levels, names_by_level, strict=True):
            for name in names:
                level.setdefault(name, []).append(pair)

    def _read(self, pair_id: str, row: Mapping[str, Any]) -> Pair:
        base, quote = self.asset_name(row["base"]), self.asset_name(row["quote"])
        price_decimals = _decimals(row["pair_decimals"])
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
            lot_decimals=_decimals(row["lot_decimals"]),
            cost_decimals=_decimals(row.get("cost_decimals", price_decimals)),
            tick_size=_number(row.get("tick_size"), _step(price_decimals)),
            order_minimum=_number(row.get("ordermin"), ZERO),
            cost_minimum=_number(row.get("costmin"), ZERO),
        )

    def _names(self, pair: Pair) -> tuple[set[str], set[str], set[str]]:
        put_together = {
            base + slash + quote
            for base, slash, quote in product(
                (pair.base_id, self._altnames.get(pair.base_id, pair.base), pair.base),
                ("", "/"),
                (pair.quote_id, self._altnames.get(pair.quote_id, pair.quote), pair.quote),
            )
        }
        put_together.add(pair.wsname)
        return {pair.pair_id.upper()}, {pair.altname.upper()}, {name.upper() for name in put_together}

    def _why_unknown(self, symbol: str, key: str) -> str:
        if key in self._unreadable:
            return f"Kraken's row for {symbol} cannot be read ({self._unreadable[key]})"
        close = difflib.get_close_matches(key, self._all_names(), n=6, cutoff=0.7)
        near = list(dict.fromkeys(self.symbol_of(name) for name in close))[:3]
        hint = f"; near to it: {', '.join(near)}" if near else ""
        return f"Kraken knows no pair {symbol!r}{hint}"

    def _all_names(self) -> Iterator[str]:
        for level in self._levels:
            yield from level


def as_text(value: Decimal) -> str:
    """Write a number as Kraken wants it: plain digits, no exponent, no trailing zeros."""
    _refuse_other_types(value)
    if not value.is_finite():
        raise ValueError(f"{value} is not a number that can be sent")
    text = format(value, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def round_price(pair: Pair, side: Side, price: Decimal) -> Decimal:
    """Return the price on the pair's grid that is no worse for us: down for a buy, up for a sell."""
    _require_ordinary(pair, "price", price)
    grid = _price_grid(pair)
    return _round_down(price, grid) if side is Side.BUY else _round_up(price, grid)


def round_volume(pair: Pair, volume: Decimal) -> Decimal:
    """Return the volume rounded down to the pair's lot_decimals; it may be too small to trade."""
    _require_ordinary(pair, "volume", volume)
    return _round_down(volume, _step(pair.lot_decimals))


def check_order(pair: Pair, side: Side, volume: Decimal, price: Decimal) -> None:
    """Raise OrderRuleError if Kraken would refuse the order for its precision or size.

    The error names the rule (positive, pair_decimals, tick_size, lot_decimals, ordermin, costmin), the nearest
    allowed value, and what Kraken would have said (Kraken: errors guide, and strings that users were shown).
    Floats raise TypeError.
    """
    for what, value in (("price", price), ("volume", volume)):
        _require_ordinary(pair, what, value)
        if value <= 0:
            raise _broken(pair, what, value, "is not above zero", "positive", "")
    _check_price(pair, side, price)
    _check_volume(pair, volume, price)


def _check_price(pair: Pair, side: Side, price: Decimal) -> None:
    grid = _price_grid(pair)
    nearest = as_text(max(round_price(pair, side, price), grid))
    if _EXACT.remainder(price, _step(pair.price_decimals)):
        limit = (
            f"has too many decimals; Kraken would say EOrder:Invalid price:{pair.altname} "
            f"price can only be specified up to {pair.price_decimals} decimals"
        )
        raise _broken(pair, "price", price, limit, "pair_decimals", nearest)
    if _EXACT.remainder(price, pair.tick_size):
        limit = f"is not a multiple of {as_text(pair.tick_size)}; Kraken would say EOrder:Tick size check failed"
        raise _broken(pair, "price", price, limit, "tick_size", nearest)


def _check_volume(pair: Pair, volume: Decimal, price: Decimal) -> None:
    step = _step(pair.lot_decimals)
    smallest = _smallest_volume(pair, price)
    if _EXACT.remainder(volume, step):
        nearest = as_text(max(_round_down(volume, step), smallest))
        limit = f"has more than {pair.lot_decimals} decimals; Kraken would say EGeneral:Invalid arguments:volume"
        raise _broken(pair, "volume", volume, limit, "lot_decimals", nearest)
    if volume < pair.order_minimum:
        limit = (
            f"is below the minimum of {as_text(pair.order_minimum)}; Kraken would say "
            "EGeneral:Invalid arguments:volume minimum not met or EOrder:Order minimum not met"
        )
        raise _broken(pair, "volume", volume, limit, "ordermin", as_text(smallest))
    if _EXACT.multiply(price, volume) < pair.cost_minimum:
        limit = (
            f"at {as_text(price)} costs less than the minimum of {as_text(pair.cost_minimum)} {pair.quote}; "
            "Kraken would say EOrder:Cost minimum not met"
        )
        raise _broken(pair, "volume", volume, limit, "costmin", as_text(smallest))


def _broken(pair: Pair, what: str, value: Decimal, limit: str, rule: str, nearest: str) -> OrderRuleError:
    hint = f". The nearest allowed is {nearest}" if nearest else ""
    return OrderRuleError(f"{pair.symbol} {what} {value} {limit} (rule: {rule}){hint}", rule, nearest)


def _smallest_volume(pair: Pair, price: Decimal) -> Decimal:
    # Whole lots throughout, since the quotient of two decimals need not be a decimal.
    step = _step(pair.lot_decimals)
    cost_of_a_lot = _EXACT.multiply(price, step)
    cost = _round_up(pair.cost_minimum, cost_of_a_lot)
    for_cost = _EXACT.multiply(_EXACT.divide_int(cost, cost_of_a_lot), step)
    return max(_round_up(pair.order_minimum, step), for_cost, step)


def _price_grid(pair: Pair) -> Decimal:
    # A price must keep both rules: so many decimals, and whole ticks.
    exponent = pair.tick_size.normalize().as_tuple().exponent
    decimals = max(pair.price_decimals, -int(exponent), 0)
    ticks = int(pair.tick_size.scaleb(decimals))
    return Decimal(lcm(ticks, 10 ** (decimals - pair.price_decimals))).scaleb(-decimals)


def _round_down(value: Decimal, step: Decimal) -> Decimal:
    return _EXACT.multiply(_EXACT.divide_int(value, step), step)


def _round_up(value: Decimal, step: Decimal) -> Decimal:
    down = _round_down(value, step)
    return _EXACT.add(down, step) if down < value else down


def _step(decimals: int) -> Decimal:
    return Decimal(1).scaleb(-decimals)


def _refuse_other_types(value: object) -> None:
    if not isinstance(value, Decimal):
        raise TypeError(f"money is Decimal, made from text; {value!r} is {type(value).__name__}")


def _require_ordinary(pair: Pair, what: str, value: Decimal) -> None:
    _refuse_other_types(value)
    digits_after = value.as_tuple().exponent
    if not isinstance(digits_after, int) or max(abs(value.adjusted()), abs(digits_after)) > _SIZE_MAX:
        raise _broken(pair, what, value, "is not a number of ordinary size", "positive", "")


def _decimals(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _DECIMALS_MAX:
        raise ValueError(f"{value!r} is not a number of decimals")
    return value


def _number(value: Any, default: Decimal) -> Decimal:
    if value is None:
        return default
    number = Decimal(value) if isinstance(value, str | int | Decimal) else Decimal("NaN")
    exponent = number.as_tuple().exponent
    if not isinstance(exponent, int) or exponent < -_DECIMALS_MAX or number.adjusted() > _DECIMALS_MAX:
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

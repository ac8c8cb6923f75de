"""The traded assets and pairs, with Kraken's names, precision and minima."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bot.simulator.errors import SimulatorError


@dataclass(frozen=True, slots=True)
class AssetRules:
    """One entry of Assets. Amounts of the asset have at most `decimals` decimals."""

    asset_id: str
    altname: str
    decimals: int
    display_decimals: int

    @property
    def smallest_unit(self) -> Decimal:
        """The smallest amount of the asset."""
        return Decimal(1).scaleb(-self.decimals)


@dataclass(frozen=True, slots=True)
class PairRules:
    """One entry of AssetPairs. `symbol` is the common name, such as BTC/USD."""

    symbol: str
    pair_id: str
    altname: str
    wsname: str
    base: AssetRules
    quote: AssetRules
    price_decimals: int
    tick_size: Decimal
    order_minimum: Decimal
    cost_minimum: Decimal
    lot_decimals: int = 8
    cost_decimals: int = 5


def _build_pair(
    symbol: str, names: tuple[str, str, str], assets: tuple[str, str], decimals: int, minimum: str
) -> PairRules:
    pair_id, altname, wsname = names
    base, quote = ASSETS[assets[0]], ASSETS[assets[1]]
    tick = Decimal(1).scaleb(-decimals)
    return PairRules(symbol, pair_id, altname, wsname, base, quote, decimals, tick, Decimal(minimum), Decimal("0.5"))


ASSETS = {
    asset.asset_id: asset
    for asset in (
        AssetRules("XXBT", "XBT", 10, 5),
        AssetRules("XETH", "ETH", 10, 5),
        AssetRules("SOL", "SOL", 10, 5),
        AssetRules("USDT", "USDT", 8, 4),
        AssetRules("ZUSD", "USD", 4, 2),
        AssetRules("ZEUR", "EUR", 4, 2),
    )
}

KNOWN_PAIRS = {
    pair.symbol: pair
    for pair in (
        _build_pair("BTC/USD", ("XXBTZUSD", "XBTUSD", "XBT/USD"), ("XXBT", "ZUSD"), 1, "0.00005"),
        _build_pair("ETH/USD", ("XETHZUSD", "ETHUSD", "ETH/USD"), ("XETH", "ZUSD"), 2, "0.001"),
        _build_pair("SOL/USD", ("SOLUSD", "SOLUSD", "SOL/USD"), ("SOL", "ZUSD"), 2, "0.02"),
        _build_pair("BTC/EUR", ("XXBTZEUR", "XBTEUR", "XBT/EUR"), ("XXBT", "ZEUR"), 1, "0.00005"),
        _build_pair("BTC/USDT", ("XBTUSDT", "XBTUSDT", "XBT/USDT"), ("XXBT", "USDT"), 1, "0.00005"),
    )
}


class Instruments:
    """The pairs of one exchange, found by any of their names."""

    def __init__(self, pairs: Iterable[PairRules]) -> None:
        self.pairs = tuple(pairs)
        # Every name that a request may use for a pair (Kraken: AddOrder page and its SDK).
        self._by_name = {
            name: pair for pair in self.pairs for name in (pair.symbol, pair.pair_id, pair.altname, pair.wsname)
        }
        self.assets = {asset.asset_id: asset for pair in self.pairs for asset in (pair.base, pair.quote)}

    def find(self, name: str) -> PairRules | None:
        """Return the pair with that name, or None."""
        return self._by_name.get(name)

    def get(self, pair_id: str) -> PairRules:
        """Return the pair of one of the exchange's own orders."""
        return self._by_name[pair_id]

    def find_asset(self, name: str) -> AssetRules | None:
        """Return the asset by its id or its altname, or None."""
        return next((a for a in self.assets.values() if name in (a.asset_id, a.altname)), None)


def known_instruments(names: Iterable[str]) -> Instruments:
    """Return the pairs with built-in rules. Raises SimulatorError for another name."""
    return _select(names, Instruments(KNOWN_PAIRS.values()), "The simulator")


def instruments_from_kraken(
    names: Iterable[str], pair_entries: Mapping[str, Any], asset_entries: Mapping[str, Any]
) -> Instruments:
    """Build the instruments from the results of Kraken's own AssetPairs and Assets. Raises SimulatorError."""
    common_names = {"XBT": "BTC", "XDG": "DOGE"}
    assets = {
        asset_id: AssetRules(asset_id, entry["altname"], entry["decimals"], entry["display_decimals"])
        for asset_id, entry in asset_entries.items()
    }
    pairs = []
    for pair_id, entry in pair_entries.items():
        base, quote = assets[entry["base"]], assets[entry["quote"]]
        symbol = "/".join(common_names.get(asset.altname, asset.altname) for asset in (base, quote))
        tick = Decimal(entry.get("tick_size") or Decimal(1).scaleb(-entry["pair_decimals"]))
        minima = Decimal(entry["ordermin"]), Decimal(entry.get("costmin") or "0")
        pair_names = (pair_id, entry["altname"], entry.get("wsname") or symbol)
        decimals = (entry["lot_decimals"], entry["cost_decimals"])
        pairs.append(PairRules(symbol, *pair_names, base, quote, entry["pair_decimals"], tick, *minima, *decimals))
    return _select(names, Instruments(pairs), "Kraken")


def _select(names: Iterable[str], available: Instruments, source: str) -> Instruments:
    pair_by_name = {name: available.find(name.strip().upper()) for name in names}
    unknown = [name for name, pair in pair_by_name.items() if pair is None]
    if unknown or not pair_by_name:
        symbols = ", ".join(pair.symbol for pair in available.pairs)
        raise SimulatorError(f"{source} does not know {', '.join(unknown) or 'no pair at all'}; it has {symbols}.")
    return Instruments(dict.fromkeys(pair for pair in pair_by_name.values() if pair is not None))

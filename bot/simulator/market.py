"""The public endpoints, drawn from the price path."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from bot.simulator.errors import Refusal
from bot.simulator.exchange import Exchange
from bot.simulator.instruments import PairRules
from bot.simulator.orders import Params, find_pair, invalid
from bot.simulator.prices import Candle
from bot.simulator.serializers import asset_row, fixed, pair_row

INTERVALS_MINUTES = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
OHLC_ROWS = 720
TRADE_ROWS = 1000
HOUR = 3600
DAY = 86400
Result = dict[str, Any]


class Market:
    """Answers what anyone may ask."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._catalogue = exchange.catalogue
        self._prices = exchange.prices
        self.methods: dict[str, Callable[[Params, float], Result]] = {
            "Time": self._time,
            "SystemStatus": self._system_status,
            "Assets": self._assets,
            "AssetPairs": self._asset_pairs,
            "Ticker": self._ticker,
            "OHLC": self._ohlc,
            "Depth": self._depth,
            "Trades": self._trades,
            "Spread": self._spread,
        }

    def _time(self, params: Params, now: float) -> Result:
        moment = self._exchange.time
        return {"unixtime": int(moment), "rfc1123": _moment(moment, "%a, %d %b %y %H:%M:%S +0000")}

    def _system_status(self, params: Params, now: float) -> Result:
        return {"status": self._exchange.status(now), "timestamp": _moment(now, "%Y-%m-%dT%H:%M:%SZ")}

    def _assets(self, params: Params, now: float) -> Result:
        names = _names(params.get("asset", ""))
        if not names:
            return {asset_id: asset_row(asset) for asset_id, asset in self._catalogue.assets.items()}
        found = [self._catalogue.find_asset(name) for name in names]
        if None in found:
            raise Refusal("EQuery:Unknown asset")
        return {asset.asset_id: asset_row(asset) for asset in found if asset is not None}

    def _asset_pairs(self, params: Params, now: float) -> Result:
        return {pair.pair_id: pair_row(pair, self._exchange.pair_status(pair)) for pair in self._pairs(params)}

    def _ticker(self, params: Params, now: float) -> Result:
        return {pair.pair_id: self._ticker_row(pair, now) for pair in self._pairs(params)}

    def _pairs(self, params: Params) -> list[PairRules]:
        names = _names(params.get("pair", ""))
        if not names:
            return list(self._catalogue.pairs)
        return [find_pair(self._catalogue, name) for name in names]

    def _ticker_row(self, pair: PairRules, now: float) -> Result:
        last = self._prices.price(pair, now)
        span_seconds = max(HOUR, self._prices.finest_seconds)
        day = self._prices.candles(pair, span_seconds, int(now) - DAY, now)
        day = day or [Candle(int(now), last, last, last, last, Decimal(0), 0)]
        today = [candle for candle in day if candle.time >= int(now) // DAY * DAY] or day[-1:]
        decimals = max(5, pair.price_decimals)
        bid, ask = max(pair.tick_size, last - pair.tick_size), last + pair.tick_size
        return {
            "a": [fixed(ask, decimals), "1", "1.000"],
            "b": [fixed(bid, decimals), "1", "1.000"],
            "c": [fixed(last, decimals), fixed(pair.order_minimum, pair.lot_decimals)],
            "v": [fixed(sum((c.volume for c in span), Decimal(0)), 8) for span in (today, day)],
            "p": [fixed(_mean(span), decimals) for span in (today, day)],
            "t": [sum(c.count for c in span) for span in (today, day)],
            "l": [fixed(min(c.low for c in span), decimals) for span in (today, day)],
            "h": [fixed(max(c.high for c in span), decimals) for span in (today, day)],
            "o": fixed(today[0].open, decimals),
        }

    def _ohlc(self, params: Params, now: float) -> Result:
        pair = find_pair(self._catalogue, params.get("pair", ""))
        minutes = _whole(params, "interval", 1)
        if minutes not in INTERVALS_MINUTES:
            raise invalid("interval")
        seconds = minutes * 60
        running = int(now) // seconds * seconds
        first = running - (OHLC_ROWS - 1) * seconds
        # `since` is exclusive, and older history than the last 720 rows is never served.
        first = max(first, _whole(params, "since", 0) + 1)
        candles = self._prices.candles(pair, seconds, first, now)
        rows = [_ohlc_row(candle, pair) for candle in candles]
        return {pair.pair_id: rows, "last": running - seconds}

    def _depth(self, params: Params, now: float) -> Result:
        pair = find_pair(self._catalogue, params.get("pair", ""))
        count = _whole(params, "count", 100)
        if not 1 <= count <= 500:
            raise invalid("count")
        last, decimals = self._prices.price(pair, now), max(5, pair.price_decimals)

        def level(index: int, step: Decimal) -> list[str | int]:
            price = max(pair.tick_size, last + step * (index + 1))
            volume = pair.order_minimum * (100 + index * 37 % 211)
            return [fixed(price, decimals), fixed(volume, 3), int(now)]

        sides = {"asks": pair.tick_size, "bids": -pair.tick_size}
        return {pair.pair_id: {name: [level(i, step) for i in range(count)] for name, step in sides.items()}}

    def _trades(self, params: Params, now: float) -> Result:
        pair = find_pair(self._catalogue, params.get("pair", ""))
        count = min(max(1, _whole(params, "count", TRADE_ROWS)), TRADE_ROWS)
        since = _whole(params, "since", 0)
        begin = since / 1e9 if since else now - HOUR
        knots = self._prices.knots(pair, max(begin, now - DAY), now) if begin < now else []
        knots = knots[:count] if since else knots[-count:]
        decimals, volume = max(5, pair.price_decimals), fixed(pair.order_minimum * 20, 8)
        rows = [[fixed(price, decimals), volume, round(at, 7), "b", "m", "", int(at)] for at, price in knots]
        last = int(knots[-1][0] * 1e9) if knots else since
        return {pair.pair_id: rows, "last": str(last)}

    def _spread(self, params: Params, now: float) -> Result:
        pair = find_pair(self._catalogue, params.get("pair", ""))
        begin = max(float(_whole(params, "since", 0)), now - HOUR)
        knots = self._prices.knots(pair, begin, now)[-200:] if begin < now else []
        decimals, tick = max(5, pair.price_decimals), pair.tick_size
        rows = [[int(at), fixed(price - tick, decimals), fixed(price + tick, decimals)] for at, price in knots]
        return {pair.pair_id: rows, "last": int(now)}


def _moment(now: float, layout: str) -> str:
    return datetime.fromtimestamp(now, UTC).strftime(layout)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _whole(params: Params, name: str, default: int) -> int:
    text = params.get(name, "") or str(default)
    if not (text.isascii() and text.isdigit() and len(text) <= 20):
        raise invalid(name)
    return int(text)


def _mean(candles: list[Candle]) -> Decimal:
    return sum((candle.open + candle.close for candle in candles), Decimal(0)) / (2 * len(candles))


def _ohlc_row(candle: Candle, pair: PairRules) -> list[str | int]:
    prices = [fixed(price, pair.price_decimals) for price in (candle.open, candle.high, candle.low, candle.close)]
    average = fixed((candle.high + candle.low + candle.close) / 3, pair.price_decimals) if candle.count else "0.0"
    return [candle.time, *prices, average, fixed(candle.volume, 8), candle.count]

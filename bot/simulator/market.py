"""The public endpoints, computed from the price path."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from bot.base.clock import format_utc
from bot.simulator.errors import Refusal
from bot.simulator.exchange import Exchange
from bot.simulator.instruments import PairRules
from bot.simulator.orders import Params, find_pair, invalid_argument, parse_int, split_names
from bot.simulator.prices import SimCandle
from bot.simulator.serializers import format_decimal, serialize_asset, serialize_pair

INTERVALS_MINUTES = (1, 5, 15, 30, 60, 240, 1440, 10080, 21600)
OHLC_CANDLES_MAX = 720
TRADES_MAX = 1000
HOUR_SECONDS = 3600
DAY_SECONDS = 86400
Result = dict[str, Any]


class PublicEndpoints:
    """Answers requests that need no key."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._instruments = exchange.instruments
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
        unix_seconds = self._exchange.server_time
        rfc1123 = datetime.fromtimestamp(unix_seconds, UTC).strftime("%a, %d %b %y %H:%M:%S +0000")
        return {"unixtime": int(unix_seconds), "rfc1123": rfc1123}

    def _system_status(self, params: Params, now: float) -> Result:
        return {"status": self._exchange.status(now), "timestamp": format_utc(now)}

    def _assets(self, params: Params, now: float) -> Result:
        names = split_names(params, "asset")
        if not names:
            return {asset_id: serialize_asset(asset) for asset_id, asset in self._instruments.assets.items()}
        found = [self._instruments.find_asset(name) for name in names]
        if None in found:
            raise Refusal("EQuery:Unknown asset")
        return {asset.asset_id: serialize_asset(asset) for asset in found if asset is not None}

    def _asset_pairs(self, params: Params, now: float) -> Result:
        return {pair.pair_id: serialize_pair(pair, self._exchange.pair_status(pair)) for pair in self._pairs(params)}

    def _ticker(self, params: Params, now: float) -> Result:
        return {pair.pair_id: self._ticker_entry(pair, now) for pair in self._pairs(params)}

    def _pairs(self, params: Params) -> list[PairRules]:
        names = split_names(params, "pair")
        if not names:
            return list(self._instruments.pairs)
        return [find_pair(self._instruments, name) for name in names]

    def _ticker_entry(self, pair: PairRules, now: float) -> Result:
        last = self._prices.price(pair, now)
        candle_seconds = max(HOUR_SECONDS, self._prices.shortest_candle_seconds)
        day_candles = self._prices.candles(pair, candle_seconds, int(now) - DAY_SECONDS, now)
        day_candles = day_candles or [SimCandle(int(now), last, last, last, last, Decimal(0), 0)]
        midnight = int(now) // DAY_SECONDS * DAY_SECONDS
        today_candles = [candle for candle in day_candles if candle.time >= midnight] or day_candles[-1:]
        spans = today_candles, day_candles
        decimals = max(5, pair.price_decimals)
        bid, ask = max(pair.tick_size, last - pair.tick_size), last + pair.tick_size
        return {
            "a": [format_decimal(ask, decimals), "1", "1.000"],
            "b": [format_decimal(bid, decimals), "1", "1.000"],
            "c": [format_decimal(last, decimals), format_decimal(pair.order_minimum, pair.lot_decimals)],
            "v": [format_decimal(sum((c.volume for c in span), Decimal(0)), 8) for span in spans],
            "p": [format_decimal(_mean_price(span), decimals) for span in spans],
            "t": [sum(c.count for c in span) for span in spans],
            "l": [format_decimal(min(c.low for c in span), decimals) for span in spans],
            "h": [format_decimal(max(c.high for c in span), decimals) for span in spans],
            "o": format_decimal(today_candles[0].open, decimals),
        }

    def _ohlc(self, params: Params, now: float) -> Result:
        pair = find_pair(self._instruments, params.get("pair", ""))
        minutes = parse_int(params, "interval", 1)
        if minutes not in INTERVALS_MINUTES:
            raise invalid_argument("interval")
        seconds = minutes * 60
        running_candle_time = int(now) // seconds * seconds
        first = running_candle_time - (OHLC_CANDLES_MAX - 1) * seconds
        # `since` is exclusive, and candles before the last 720 are never served.
        first = max(first, parse_int(params, "since", 0) + 1)
        candles = self._prices.candles(pair, seconds, first, now)
        rows = [_ohlc_row(candle, pair) for candle in candles]
        return {pair.pair_id: rows, "last": running_candle_time - seconds}

    def _depth(self, params: Params, now: float) -> Result:
        pair = find_pair(self._instruments, params.get("pair", ""))
        count = parse_int(params, "count", 100)
        if not 1 <= count <= 500:
            raise invalid_argument("count")
        last, decimals = self._prices.price(pair, now), max(5, pair.price_decimals)

        def level(index: int, step: Decimal) -> list[str | int]:
            price = max(pair.tick_size, last + step * (index + 1))
            volume = pair.order_minimum * (100 + index * 37 % 211)
            return [format_decimal(price, decimals), format_decimal(volume, 3), int(now)]

        sides = {"asks": pair.tick_size, "bids": -pair.tick_size}
        return {pair.pair_id: {name: [level(i, step) for i in range(count)] for name, step in sides.items()}}

    def _trades(self, params: Params, now: float) -> Result:
        pair = find_pair(self._instruments, params.get("pair", ""))
        count = min(max(1, parse_int(params, "count", TRADES_MAX)), TRADES_MAX)
        since = parse_int(params, "since", 0)
        start_seconds = since / 1e9 if since else now - HOUR_SECONDS
        points = (
            self._prices.price_points(pair, max(start_seconds, now - DAY_SECONDS), now) if start_seconds < now else []
        )
        points = points[:count] if since else points[-count:]
        decimals, volume = max(5, pair.price_decimals), format_decimal(pair.order_minimum * 20, 8)
        rows = [[format_decimal(price, decimals), volume, round(at, 7), "b", "m", "", int(at)] for at, price in points]
        last = int(points[-1][0] * 1e9) if points else since
        return {pair.pair_id: rows, "last": str(last)}

    def _spread(self, params: Params, now: float) -> Result:
        pair = find_pair(self._instruments, params.get("pair", ""))
        start_seconds = max(float(parse_int(params, "since", 0)), now - HOUR_SECONDS)
        points = self._prices.price_points(pair, start_seconds, now)[-200:] if start_seconds < now else []
        decimals, tick = max(5, pair.price_decimals), pair.tick_size
        rows = [
            [int(at), format_decimal(price - tick, decimals), format_decimal(price + tick, decimals)]
            for at, price in points
        ]
        return {pair.pair_id: rows, "last": int(now)}


def _mean_price(candles: list[SimCandle]) -> Decimal:
    return sum((candle.open + candle.close for candle in candles), Decimal(0)) / (2 * len(candles))


def _ohlc_row(candle: SimCandle, pair: PairRules) -> list[str | int]:
    prices = [
        format_decimal(price, pair.price_decimals) for price in (candle.open, candle.high, candle.low, candle.close)
    ]
    average = (
        format_decimal((candle.high + candle.low + candle.close) / 3, pair.price_decimals) if candle.count else "0.0"
    )
    return [candle.time, *prices, average, format_decimal(candle.volume, 8), candle.count]

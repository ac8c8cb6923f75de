"""Price paths: deterministic, consistent with their candles, and without invented prices."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import pytest

from bot.simulator.errors import PriceFileError
from bot.simulator.instruments import KNOWN_PAIRS, PairRules
from bot.simulator.prices import PriceSource, SimCandle, SyntheticPrices
from bot.simulator.prices_recorded import CandleFile, CandlePath, RecordedPrices

BTC, ETH, SOL = (KNOWN_PAIRS[symbol] for symbol in ("BTC/USD", "ETH/USD", "SOL/USD"))
NOW = 1_790_000_000.5
SEED = 20261123
ROWS = """\
1640995200,100.0,104.0,98.0,102.0,1.5,10
1640995260,102.0,103.0,95.0,96.0,2.5,20
1640995440,97.0,99.0,97.0,98.0,0.5,5
"""
FIRST_CANDLE_TIME = 1640995200


def recorded_prices(folder: Path, text: str = ROWS) -> RecordedPrices:
    """Return the prices of a file with that text."""
    path = folder / "prices.csv"
    path.write_text(text)
    return RecordedPrices(BTC, path)


def crossings(candles: list[SimCandle]) -> int:
    """Return how often the mean of 10 closes crosses that of 30."""
    closes = [candle.close for candle in candles]

    def above(end: int) -> bool:
        return sum(closes[end - 10 : end]) / 10 > sum(closes[end - 30 : end]) / 30

    return sum(above(end) != above(end - 1) for end in range(31, len(closes)))


def test_synthetic_prices_are_deterministic_across_processes() -> None:
    """The price of a seed, pair and time is a constant."""
    assert [str(SyntheticPrices(1).price(pair, NOW)) for pair in (BTC, ETH, SOL)] == [
        "81934.2",
        "4589.64",
        "193.89",
    ]


def test_synthetic_prices_depend_on_seed_and_pair() -> None:
    """The path depends on both the seed and the pair."""
    moves = set()
    for seed, pair in ((1, BTC), (2, BTC), (1, KNOWN_PAIRS["BTC/EUR"])):
        prices = SyntheticPrices(seed)
        moves.add(prices.price(pair, NOW) / prices.price(pair, NOW - 86400))
    assert len(moves) == 3


def test_synthetic_prices_do_not_depend_on_earlier_queries() -> None:
    """A price read after a month of candles equals one read first."""
    busy = SyntheticPrices(1)
    busy.candles(BTC, 3600, int(NOW) - 30 * 86400, NOW)
    assert busy.price(BTC, NOW) == SyntheticPrices(1).price(BTC, NOW)


@pytest.mark.parametrize(
    ("pair", "timeframe"),
    [*((BTC, seconds) for seconds in (60, 300, 900, 1800, 3600, 14400, 86400)), (ETH, 3600), (SOL, 3600)],
)
def test_synthetic_prices_turn_often_enough_to_trade(pair: PairRules, timeframe: int) -> None:
    """A moving average crosses another at least six times in 720 candles, in every timeframe."""
    prices = SyntheticPrices(1, timeframe // 12)
    assert crossings(prices.candles(pair, timeframe, int(NOW) - 719 * timeframe, NOW)) >= 6


def check_candles_against_path(prices: PriceSource, interval: int, begin: int, now: float) -> None:
    """Every price point is between low and high of its candle; each candle opens and closes on the path."""
    for candle in prices.candles(BTC, interval, begin, now):
        until = min(now, candle.time + interval - 1)
        inside = [price for _, price in prices.price_points(BTC, candle.time, until)]
        assert candle.low <= min(inside), candle
        assert max(inside) <= candle.high, candle
        assert candle.open == prices.price(BTC, candle.time), candle


def test_synthetic_candles_are_consistent_with_the_price_path() -> None:
    """The prices that the engine matches against are within the candles."""
    check_candles_against_path(SyntheticPrices(3, 7), 300, int(NOW) - 6000, NOW)


def test_recorded_candles_are_consistent_with_the_price_path(tmp_path: Path) -> None:
    """The prices that the engine matches against are within the recorded candles, also across a gap."""
    check_candles_against_path(recorded_prices(tmp_path), 60, FIRST_CANDLE_TIME, FIRST_CANDLE_TIME + 299)


def test_the_path_through_a_recorded_candle_touches_both_extremes(tmp_path: Path) -> None:
    """A rising candle goes open, low, high, close; a falling one open, high, low, close."""
    knots = recorded_prices(tmp_path).price_points(BTC, FIRST_CANDLE_TIME - 1, FIRST_CANDLE_TIME + 119)
    assert [str(price) for _, price in knots] == ["100.0", "98.0", "104.0", "102.0", "102.0", "103.0", "95.0", "96.0"]


def test_recorded_prices_are_flat_where_nothing_was_traded(tmp_path: Path) -> None:
    """Between 00:02 and 00:04 the price stays at the last close."""
    prices = recorded_prices(tmp_path)
    assert {str(price) for _, price in prices.price_points(BTC, FIRST_CANDLE_TIME + 119, FIRST_CANDLE_TIME + 239)} == {
        "96.0"
    }


def test_recorded_candles_equal_the_file(tmp_path: Path) -> None:
    """One-minute candles equal the lines of the file, with flat ones of no volume in the gap."""
    closed = recorded_prices(tmp_path).candles(BTC, 60, FIRST_CANDLE_TIME, FIRST_CANDLE_TIME + 300)[:-1]
    assert [(c.time - FIRST_CANDLE_TIME, str(c.open), str(c.close), str(c.volume), c.count) for c in closed] == [
        (0, "100.0", "102.0", "1.5", 10),
        (60, "102.0", "96.0", "2.5", 20),
        (120, "96.0", "96.0", "0", 0),
        (180, "96.0", "96.0", "0", 0),
        (240, "97.0", "98.0", "0.5", 5),
    ]


def test_a_partly_loaded_file_gives_the_same_prices_as_a_fully_loaded_one(tmp_path: Path) -> None:
    """Price, price points and candles at any time are those of a path through all lines at once, also across gaps."""
    rng = random.Random(SEED)
    times = sorted(rng.sample(range(9000), 3000))
    closes = [str(rng.randint(400_00, 500_00) / 100) for _ in times]
    rows = [
        f"{FIRST_CANDLE_TIME + 60 * at},450.0,500.0,400.0,{close},1,1" for at, close in zip(times, closes, strict=True)
    ]
    prices = recorded_prices(tmp_path, "\n".join(rows) + "\n")
    full_path = CandlePath(BTC, CandleFile(tmp_path / "prices.csv").read_candles(0, len(rows)), 60)
    for _ in range(100):
        now = FIRST_CANDLE_TIME + rng.uniform(-100, 9100) * 60
        before, interval = now - rng.expovariate(1e-4), rng.choice((60, 300, 3600))
        context = f"seed {SEED}: {now} {before} {interval}"
        assert prices.price(BTC, now) == full_path.price(now), context
        assert prices.price_points(BTC, before, now) == full_path.price_points(before, now), context
        assert prices.candles(BTC, interval, int(before), now) == full_path.candles(interval, int(before), now), context


def test_discarding_old_data_keeps_the_last_1500_candles() -> None:
    """After 3,000 one-minute candles, 1,500 are stored: more than a day of them, unchanged."""
    price = Decimal(100)
    rows = [SimCandle(FIRST_CANDLE_TIME + 60 * at, price, price + at, price, price, price, 1) for at in range(3000)]
    path, now = CandlePath(BTC, rows, 60), FIRST_CANDLE_TIME + 3000 * 60
    path.discard_before(now - 3600)
    assert path.candles(60, FIRST_CANDLE_TIME, now)[:-1] == rows[-1500:]


def test_recorded_candles_are_aggregated_into_longer_ones(tmp_path: Path) -> None:
    """A five-minute candle has the first open, the extremes of all, the last close, and the sum of the volumes."""
    candle = recorded_prices(tmp_path).candles(BTC, 300, FIRST_CANDLE_TIME, FIRST_CANDLE_TIME + 300)[0]
    values = [str(x) for x in (candle.open, candle.high, candle.low, candle.close, candle.volume, candle.count)]
    assert values == ["100.0", "104.0", "95.0", "98.0", "4.5", "35"]


def test_a_running_candle_has_no_look_ahead(tmp_path: Path) -> None:
    """Half a minute in, the running candle includes the path so far: the low of 98, not yet the high of 104."""
    candles = recorded_prices(tmp_path).candles(BTC, 60, FIRST_CANDLE_TIME, FIRST_CANDLE_TIME + 15)
    assert [(str(c.low), str(c.high), c.count) for c in candles] == [("98.0", "100.0", 0)]


def test_there_are_no_candles_after_the_end_of_the_file(tmp_path: Path) -> None:
    """An hour after the file's end the last closed candle is still the file's last."""
    assert [
        c.time - FIRST_CANDLE_TIME
        for c in recorded_prices(tmp_path).candles(BTC, 60, FIRST_CANDLE_TIME, FIRST_CANDLE_TIME + 3900)
    ][-2:] == [180, 240]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("time,open,high,low,close,volume,trades\n" + ROWS, 1),
        (ROWS + "1640995500,98.0,99.0\n", 4),
        (ROWS + "1640995500,98.0,99.0,97.0,x,1,1\n", 4),
        (ROWS + "1640995500,98.0,99.0,97.0,nan,1,1\n", 4),
        (ROWS + "1640995500,98.0,97.0,99.0,98.0,1,1\n", 4),
        (ROWS + "1640995500,0,99.0,0,98.0,1,1\n", 4),
        (ROWS + "\n", 4),
        (ROWS + ROWS, 4),
    ],
)
def test_an_invalid_price_file_is_refused_with_its_line(tmp_path: Path, text: str, line: int) -> None:
    """A header, a short line, a word, an impossible candle or a step back in time: the error names the first invalid
    line."""
    with pytest.raises(PriceFileError, match=f"prices.csv, line {line}: "):
        recorded_prices(tmp_path, text)


def test_a_file_that_is_missing_empty_or_binary_is_refused(tmp_path: Path) -> None:
    """Each is refused with one sentence that names the file."""
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    empty = tmp_path / "empty"
    empty.touch()
    for path in (tmp_path / "missing", binary, empty):
        with pytest.raises(PriceFileError, match=str(path)):
            CandleFile(path)


def test_two_weeks_of_real_candles_load(shared: Path) -> None:
    """The recorded file has 20,160 candles, one a minute."""
    prices = RecordedPrices(BTC, shared / "data" / "XBTUSD_1.csv")
    assert (prices.shortest_candle_seconds, (prices.end_seconds - prices.start_seconds) // 60) == (60, 20160)
    assert prices.price(BTC, prices.start_seconds) == Decimal("46319.0")

"""A local Kraken in the test's own process, with scripted prices, for bots that trade on it as live bots do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import cycle, islice, pairwise
from pathlib import Path

from bot.base.clock import MarketClock, boottime_seconds, sleep
from bot.simulator.account import SimOrder
from bot.simulator.instruments import PairRules, known_instruments
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import PricePoint, SimCandle
from bot.simulator.prices_recorded import CandlePath
from bot.simulator.server import Simulator

HOUR = 3600
# Market time. Nonces follow the wall clock, which is independent of it.
START = 1_780_000_000 // 86_400 * 86_400
# Fast enough that waits of seconds take none, slow enough that an order's deadline of 8 s is kept.
SPEED = 20.0
WAIT_TIMEOUT_SECONDS = 60.0

# The fault `slow` makes a call hang for longer than any timeout of the bot.
HANGING_OPTIONS = SimulatorOptions(tier="pro", slow_seconds=30.0)

# Falling, and then a jump that takes the 10-candle average above the 30-candle average within the last candle.
FALLING = tuple(range(1000, 955, -1))
CROSSING = (*FALLING, 1200)
# The hour after it is above the last close, so that an entry at that close rests.
RESTING = (*CROSSING, 1300, 1320, 1330)
# The hour after it is below the last close, so that the entry fills.
FILLING = (*CROSSING, 1190, 1180, 1185)
QUIET = (*FALLING, 955, 954, 953)

# For bots that have to trade again and again: one-minute candles up and down, in which the averages cross in every
# wave of 16. Four candles a second; an order's deadline of 8 s is 33 ms away.
WAVE = (1000, 1010, 1020, 1030, 1040, 1030, 1020, 1010, 1000, 990, 980, 970, 960, 970, 980, 990)
WAVE_SPEED = 240.0
WAVE_CANDLES = 60_000
# The first crossing is five candles later: more than a second, in which a bot can start.
WAVE_HISTORY = 208


class ScriptedCandles:
    """Candles for a sequence of closes, the same for every pair."""

    def __init__(self, closes: Sequence[int], candle_seconds: int, has_gaps: bool = True) -> None:
        """`has_gaps`: a candle opens at its own close, not at the close of the one before it."""
        self.source_id = "scripted for a test"
        self.shortest_candle_seconds = candle_seconds
        self._closes = closes
        self._has_gaps = has_gaps
        self._paths: dict[str, CandlePath] = {}

    def _path(self, pair: PairRules) -> CandlePath:
        if pair.pair_id not in self._paths:
            self._paths[pair.pair_id] = CandlePath(pair, self._candles(), self.shortest_candle_seconds)
        return self._paths[pair.pair_id]

    def _candles(self) -> list[SimCandle]:
        volume, candles = Decimal(1), []
        for index, (before, now) in enumerate(pairwise(map(Decimal, self._closes))):
            first = now if self._has_gaps else before
            low, high = min(first, now) - 2, max(first, now) + 2
            begin = START + index * self.shortest_candle_seconds
            candles.append(SimCandle(begin, first, high, low, now, volume, 1))
        return candles

    def status(self, now: float) -> str:
        """Return online."""
        return "online"

    def price(self, pair: PairRules, now: float) -> Decimal:
        """Return the price at `now`."""
        return self._path(pair).price(now)

    def price_points(self, pair: PairRules, after: float, until: float) -> list[PricePoint]:
        """Return the points of the price path."""
        return self._path(pair).price_points(after, until)

    def candles(self, pair: PairRules, interval: int, first: int, now: float) -> list[SimCandle]:
        """Return the candles from `first` on."""
        return self._path(pair).candles(interval, first, now)


class SkippableClock(MarketClock):
    """A market clock that can skip forward."""

    def skip(self, seconds: float) -> None:
        """Skip this much market time."""
        self._boot_start -= seconds / self.speed


class LocalKraken:
    """A simulator with prices that make the strategy trade, and the settings of a bot on it."""

    def __init__(
        self, simulator: Simulator, clock: SkippableClock, state_folder: Path, speed: float, timeframe: str
    ) -> None:
        self.simulator = simulator
        self._clock = clock
        self.state = state_folder
        self._speed = speed
        self._timeframe = timeframe

    def settings(self, **overrides: str) -> dict[str, str]:
        """Return the settings of a live bot on it; `overrides` win."""
        defaults = {
            "TRADING_MODE": "live",
            "KRAKEN_API_URL": self.simulator.url,
            "KRAKEN_API_KEY": self.simulator.key,
            "KRAKEN_API_SECRET": self.simulator.secret,
            "KRAKEN_TIER": "pro",
            "STATE_DIR": str(self.state),
            "SKIP_OVERLAP_WAIT": "1",
            "MARKET_SPEED": f"{self._speed:g}",
            "TIMEFRAME": self._timeframe,
            "COOLDOWN_SECONDS": "0",
            "MAX_DAILY_LOSS": "100000",
        }
        return defaults | overrides

    @property
    def request_methods(self) -> list[str]:
        """The methods of the private requests that arrived, oldest first."""
        return [request.method for request in list(self.simulator.request_log)]

    def wait_for(self, method: str, times: int = 1) -> None:
        """Wait until `times` requests of a method have arrived; only a failure takes the whole time."""
        deadline_seconds = boottime_seconds() + WAIT_TIMEOUT_SECONDS
        while self.request_methods.count(method) < times:
            assert boottime_seconds() < deadline_seconds, f"no {method} number {times} after {self.request_methods}"
            sleep(0.01)

    def advance_time(self, seconds: float) -> None:
        """Skip market time at the exchange; the clock of a running bot would stay behind."""
        self._clock.skip(seconds)
        self.simulator.api.state()

    @property
    def refused_nonces(self) -> int:
        """How many requests were refused for their nonce."""
        return int(self.simulator.api.state()["refused_nonces"])

    @property
    def nonce_floor(self) -> int:
        """The highest nonce that was accepted on the bot's key."""
        return int(self.simulator.api.state()["floors"][self.simulator.key])

    @property
    def orders(self) -> list[SimOrder]:
        """All orders that were ever accepted."""
        with self.simulator.api.lock:
            return list(self.simulator.exchange.account.orders.values())

    def open_orders(self) -> list[SimOrder]:
        """Return the orders that are open."""
        return [order for order in self.orders if order.status == "open"]

    def place_external_order(self) -> str:
        """Place an order as another program would; return its txid."""
        params = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.01", "price": "100"}
        with self.simulator.api.lock:
            return str(self.simulator.exchange.add_order(params)["txid"][0])

    def check_account(self) -> None:
        """Fail if the account does not add up, or if two orders have the same client order id."""
        state = self.simulator.api.state()
        assert state["audit"], state["problems"]
        ids = [order.cl_ord_id for order in self.orders if order.cl_ord_id]
        assert len(ids) == len(set(ids)), f"two orders with one client order id: {sorted(ids)}"


@contextlib.contextmanager
def local_kraken(
    state_folder: Path,
    closes: Sequence[int] = QUIET,
    *,
    candle_seconds: int = HOUR,
    timeframe: str = "1h",
    at_candle: int = len(CROSSING) - 1,
    speed: float = SPEED,
    has_gaps: bool = True,
    options: SimulatorOptions | None = None,
    pairs: Sequence[str] = ("BTC/USD", "ETH/USD", "SOL/USD"),
) -> Iterator[LocalKraken]:
    """Open a local Kraken whose market time is shortly after the close of candle number `at_candle`."""
    clock = SkippableClock(START + at_candle * candle_seconds + candle_seconds / 60, speed)
    options = options or SimulatorOptions(tier="pro")
    with Simulator(
        options, clock, ScriptedCandles(closes, candle_seconds, has_gaps), known_instruments(pairs)
    ) as simulator:
        yield LocalKraken(simulator, clock, state_folder, speed, timeframe)


@contextlib.contextmanager
def trading_kraken(state_folder: Path) -> Iterator[LocalKraken]:
    """Open a local Kraken whose market makes the strategy buy and sell every few seconds."""
    closes = tuple(islice(cycle(WAVE), WAVE_CANDLES))
    with local_kraken(
        state_folder,
        closes,
        candle_seconds=60,
        timeframe="1m",
        at_candle=WAVE_HISTORY,
        speed=WAVE_SPEED,
        has_gaps=False,
    ) as kraken:
        yield kraken

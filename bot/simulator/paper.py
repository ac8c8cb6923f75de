"""A paper account for main.py: prices, market clock, state file and server, opened together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from bot.base.clock import MarketClock, ReplayClock, wall_seconds
from bot.simulator.errors import SimulatorError
from bot.simulator.instruments import Catalogue, known_pairs
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import PriceSource, SyntheticPrices
from bot.simulator.prices_live import LiveError, LivePrices, answers_within
from bot.simulator.prices_recorded import RecordedPrices
from bot.simulator.server import Simulator
from bot.simulator.storage import peek, remove

HISTORY_CANDLES = 720
WARM_UP_CANDLES = 60
KNOTS_PER_CANDLE = 12
PROBE_SECONDS = 2.0
START_AMOUNT = "10000"
SEED = 1
LIVE_URL = "https://api.kraken.com"


@dataclass(frozen=True, slots=True)
class PaperMarket:
    """An open paper account. `prices_label` says in a sentence where prices come from."""

    url: str
    key: str
    secret: str
    clock: MarketClock
    prices_label: str
    simulator: Simulator


@dataclass(frozen=True, slots=True)
class _World:
    """One source of prices and what goes with it. `begin` and `end` are given for a recorded market only."""

    prices: PriceSource
    catalogue: Catalogue
    file_name: str
    label: str
    begin: float | None = None
    end: float | None = None


@contextmanager
def open_paper(
    pairs: Sequence[str],
    prices: str,
    timeframe_seconds: int,
    state_dir: Path,
    speed: float = 1.0,
    live_url: str = LIVE_URL,
) -> Iterator[PaperMarket]:
    """Open the paper account of `state_dir` with prices from `auto`, `live`, `synthetic` or `replay:FILE`.

    A new account first runs through the last 720 candles. One that was there before goes on from where it was: open
    orders are matched through the gap. Every kind of prices has an account of its own. Raises SimulatorError.
    """
    with ExitStack() as stack:
        world = _open_world(stack, pairs, prices, timeframe_seconds, live_url)
        if speed != 1.0 and not isinstance(world.prices, SyntheticPrices):
            raise SimulatorError("Only synthetic prices can run at another speed than the clock's.")
        path = state_dir / world.file_name
        clock = _choose_clock(world, path, timeframe_seconds, speed)
        quote = world.catalogue.pairs[0].quote.asset_id
        options = SimulatorOptions(balances={quote: START_AMOUNT}, tier="pro", state_path=path, log_rows=0)
        simulator = stack.enter_context(Simulator(options, clock, world.prices, world.catalogue))
        yield PaperMarket(simulator.url, simulator.key, simulator.secret, clock, world.label, simulator)


def _open_world(stack: ExitStack, pairs: Sequence[str], prices: str, timeframe: int, live_url: str) -> _World:
    if prices.startswith("replay:"):
        return _recorded(pairs, Path(prices.removeprefix("replay:")), timeframe)
    if prices == "synthetic":
        return _synthetic(pairs, timeframe, "synthetic prices (made up, the same on every run)")
    if prices == "live":
        return _live(stack, pairs, timeframe, live_url)
    if prices != "auto":
        raise SimulatorError(f"Prices are live, synthetic, replay:FILE or auto, not {prices}.")
    why = "Kraken does not answer"
    if answers_within(live_url, PROBE_SECONDS):
        try:
            return _live(stack, pairs, timeframe, live_url)
        except LiveError as error:
            why = str(error)
    return _synthetic(pairs, timeframe, f"synthetic prices (made up; live ones were not to be had: {why})")


def _synthetic(pairs: Sequence[str], timeframe: int, label: str) -> _World:
    prices = SyntheticPrices(SEED, timeframe // KNOTS_PER_CANDLE)
    return _World(prices, known_pairs(pairs), "paper_synthetic.db", label)


def _live(stack: ExitStack, pairs: Sequence[str], timeframe: int, live_url: str) -> _World:
    prices = LivePrices(pairs, timeframe, live_url)
    stack.callback(prices.close)
    prices.start()
    return _World(prices, prices.catalogue, "paper_live.db", f"live prices from {live_url}", begin=prices.begin)


def _recorded(pairs: Sequence[str], path: Path, timeframe: int) -> _World:
    catalogue = known_pairs(pairs)
    if len(catalogue.pairs) != 1:
        raise SimulatorError(f"A file has the prices of one pair; {len(catalogue.pairs)} pairs are set.")
    pair = catalogue.pairs[0]
    prices = RecordedPrices(pair, path)
    if timeframe % prices.finest_seconds:
        raise SimulatorError(
            f"{path} has candles of {prices.finest_seconds} s; a timeframe of {timeframe} s cannot be made of them."
        )
    name = f"paper_replay_{prices.short_name}.db"
    return _World(prices, catalogue, name, f"recorded prices of {pair.symbol} from {path}", prices.begin, prices.end)


def _choose_clock(world: _World, path: Path, timeframe: int, speed: float) -> MarketClock:
    """Return the market's clock: a new account first runs through history."""
    kept = peek(path, world.prices.world)
    wall = wall_seconds()
    if world.begin is not None and world.end is not None:
        if kept is not None and kept.now >= world.end:
            remove(path)
            kept = None
        warm_seconds = min(WARM_UP_CANDLES * timeframe, (world.end - world.begin) / 2)
        return ReplayClock(kept.now if kept else world.begin + float(warm_seconds), world.end)
    if speed != 1.0 or (kept is not None and kept.now > wall):
        # An account that was run faster than the clock is ahead of it: its market goes on from there.
        return MarketClock(max(wall, kept.now if kept else 0.0), speed)
    if kept is not None:
        return MarketClock()
    return ReplayClock(max(wall - HISTORY_CANDLES * timeframe, world.begin or 0.0))

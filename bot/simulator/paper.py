"""A paper account for main.py: prices, market clock, state file and server, opened together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from bot.base.clock import MarketClock, ReplayClock, wall_seconds
from bot.simulator.errors import LivePricesError, SimulatorError, StateFileInUseError
from bot.simulator.instruments import Instruments, PairRules, known_instruments
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import PriceSource, SyntheticPrices
from bot.simulator.prices_live import LivePrices, is_kraken_reachable
from bot.simulator.prices_recorded import RecordedPrices
from bot.simulator.server import Simulator
from bot.simulator.storage import delete_state, read_pair_ids, read_state

WARM_UP_CANDLES = 720
REPLAY_HISTORY_CANDLES = 60
POINTS_PER_CANDLE = 12
PROBE_TIMEOUT_SECONDS = 2.0
STARTING_BALANCE = "10000"
SYNTHETIC_SEED = 1
LIVE_URL = "https://api.kraken.com"
SYNTHETIC_FILE_NAME = "paper_synthetic.db"
LIVE_FILE_NAME = "paper_live.db"


@dataclass(frozen=True, slots=True)
class PaperAccount:
    """An open paper account. `price_source_label` describes the source of the prices in a sentence."""

    url: str
    key: str
    secret: str
    clock: MarketClock
    price_source_label: str
    simulator: Simulator


@dataclass(frozen=True, slots=True)
class _PriceSetup:
    """One source of prices and its settings. Start and end are given for a recorded market only."""

    prices: PriceSource
    instruments: Instruments
    file_name: str
    label: str
    start_seconds: float | None = None
    end_seconds: float | None = None


@contextmanager
def open_paper_account(
    pairs: Sequence[str],
    price_source: str,
    timeframe_seconds: int,
    state_dir: Path,
    speed: float = 1.0,
    live_url: str = LIVE_URL,
) -> Iterator[PaperAccount]:
    """Open the paper account of `state_dir` with prices from `auto`, `live`, `synthetic` or `replay:FILE`.

    A new account first warms up over the last 720 candles. An existing account continues where it was: open orders are
    matched over the gap. Each price source has an account of its own. Raises SimulatorError.
    """
    with ExitStack() as stack:
        setup = _open_prices(stack, pairs, price_source, timeframe_seconds, live_url, account_dir=state_dir)
        _check_speed(setup, speed)
        path = state_dir / setup.file_name
        clock = _choose_clock(setup, path, timeframe_seconds, speed)
        quote = setup.instruments.pairs[0].quote.asset_id
        options = SimulatorOptions(balances={quote: STARTING_BALANCE}, tier="pro", state_path=path, request_log_size=0)
        simulator = stack.enter_context(Simulator(options, clock, setup.prices, setup.instruments))
        yield PaperAccount(simulator.url, simulator.key, simulator.secret, clock, setup.label, simulator)


@dataclass(frozen=True, slots=True)
class PaperPreview:
    """What a run would open: the pairs with their current prices, and the free balance of their quote currency.

    `free_balance` is None while another program has the account open.
    """

    pairs: tuple[tuple[PairRules, Decimal], ...]
    free_balance: Decimal | None


def preview_paper_account(
    pairs: Sequence[str], price_source: str, timeframe_seconds: int, state_dir: Path, speed: float, live_url: str
) -> PaperPreview:
    """Return what `open_paper_account` would open, without opening it. Raises the same SimulatorError."""
    with ExitStack() as stack:
        setup = _open_prices(stack, pairs, price_source, timeframe_seconds, live_url, account_dir=None)
        _check_speed(setup, speed)
        now = wall_seconds() if setup.end_seconds is None else setup.start_seconds or 0.0
        priced_pairs = tuple((pair, setup.prices.price(pair, now)) for pair in setup.instruments.pairs)
        quote = setup.instruments.pairs[0].quote.asset_id
        try:
            saved_state = read_state(state_dir / setup.file_name, setup.prices.source_id)
        except StateFileInUseError:
            return PaperPreview(priced_pairs, None)
        if saved_state is None:
            return PaperPreview(priced_pairs, Decimal(STARTING_BALANCE))
        return PaperPreview(priced_pairs, saved_state.account.free_balance(quote))


def _check_speed(setup: _PriceSetup, speed: float) -> None:
    if speed != 1.0 and not isinstance(setup.prices, SyntheticPrices):
        raise SimulatorError("Only synthetic prices can run at another speed than the clock's.")


def paper_account_paths(pairs: Sequence[str], price_source: str, timeframe_seconds: int, state_dir: Path) -> list[Path]:
    """Return the state files of the accounts with this price source, existing or not: two for `auto`.

    Raises SimulatorError for a recorded market that cannot be read.
    """
    if price_source.startswith("replay:"):
        setup = _open_recorded(pairs, Path(price_source.removeprefix("replay:")), timeframe_seconds)
        return [state_dir / setup.file_name]
    names = {"synthetic": [SYNTHETIC_FILE_NAME], "live": [LIVE_FILE_NAME]}
    return [state_dir / name for name in names.get(price_source, [SYNTHETIC_FILE_NAME, LIVE_FILE_NAME])]


def _open_prices(
    stack: ExitStack,
    pairs: Sequence[str],
    price_source: str,
    timeframe_seconds: int,
    live_url: str,
    *,
    account_dir: Path | None,
) -> _PriceSetup:
    """Open prices and rules of the pairs, and of those in which the account in `account_dir`, if any, has orders."""
    if price_source.startswith("replay:"):
        return _open_recorded(pairs, Path(price_source.removeprefix("replay:")), timeframe_seconds)
    if price_source == "synthetic":
        return _open_synthetic(
            pairs, account_dir, timeframe_seconds, "synthetic prices (made up, the same on every run)"
        )
    if price_source == "live":
        return _open_live(stack, pairs, account_dir, timeframe_seconds, live_url)
    if price_source != "auto":
        raise SimulatorError(f"Prices are live, synthetic, replay:FILE or auto, not {price_source}.")
    reason = "Kraken does not answer"
    if is_kraken_reachable(live_url, PROBE_TIMEOUT_SECONDS):
        try:
            return _open_live(stack, pairs, account_dir, timeframe_seconds, live_url)
        except LivePricesError as error:
            reason = str(error)
    return _open_synthetic(
        pairs, account_dir, timeframe_seconds, f"synthetic prices (made up; live ones were not to be had: {reason})"
    )


def _with_account_pairs(pairs: Sequence[str], account_dir: Path | None, file_name: str) -> list[str]:
    """Add the pairs of the account's orders: one that is no longer set may have an open order."""
    return [*pairs, *(read_pair_ids(account_dir / file_name) if account_dir else ())]


def _open_synthetic(pairs: Sequence[str], account_dir: Path | None, timeframe_seconds: int, label: str) -> _PriceSetup:
    prices = SyntheticPrices(SYNTHETIC_SEED, timeframe_seconds // POINTS_PER_CANDLE)
    names = _with_account_pairs(pairs, account_dir, SYNTHETIC_FILE_NAME)
    return _PriceSetup(prices, known_instruments(names), SYNTHETIC_FILE_NAME, label)


def _open_live(
    stack: ExitStack, pairs: Sequence[str], account_dir: Path | None, timeframe_seconds: int, live_url: str
) -> _PriceSetup:
    prices = LivePrices(_with_account_pairs(pairs, account_dir, LIVE_FILE_NAME), timeframe_seconds, live_url)
    stack.callback(prices.close)
    prices.start()
    return _PriceSetup(
        prices, prices.instruments, LIVE_FILE_NAME, f"live prices from {live_url}", start_seconds=prices.start_seconds
    )


def _open_recorded(pairs: Sequence[str], path: Path, timeframe_seconds: int) -> _PriceSetup:
    instruments = known_instruments(pairs)
    if len(instruments.pairs) != 1:
        raise SimulatorError(f"A file has the prices of one pair; {len(instruments.pairs)} pairs are set.")
    pair = instruments.pairs[0]
    prices = RecordedPrices(pair, path)
    if timeframe_seconds % prices.shortest_candle_seconds:
        raise SimulatorError(
            f"{path} has candles of {prices.shortest_candle_seconds} s; "
            f"a timeframe of {timeframe_seconds} s cannot be made of them."
        )
    name = f"paper_replay_{prices.short_digest}.db"
    return _PriceSetup(
        prices,
        instruments,
        name,
        f"recorded prices of {pair.symbol} from {path}",
        prices.start_seconds,
        prices.end_seconds,
    )


def _choose_clock(setup: _PriceSetup, path: Path, timeframe_seconds: int, speed: float) -> MarketClock:
    """Return the market's clock: a new account first warms up over history."""
    saved_state = read_state(path, setup.prices.source_id)
    wall_now = wall_seconds()
    if setup.start_seconds is not None and setup.end_seconds is not None:
        if saved_state is not None and saved_state.now >= setup.end_seconds:
            delete_state(path)
            saved_state = None
        warm_up_seconds = min(REPLAY_HISTORY_CANDLES * timeframe_seconds, (setup.end_seconds - setup.start_seconds) / 2)
        return ReplayClock(
            saved_state.now if saved_state else setup.start_seconds + float(warm_up_seconds), setup.end_seconds
        )
    if speed != 1.0 or (saved_state is not None and saved_state.now > wall_now):
        # An account that ran faster than the clock is ahead of it: its market continues from there.
        return MarketClock(max(wall_now, saved_state.now if saved_state else 0.0), speed)
    if saved_state is not None:
        return MarketClock()
    return ReplayClock(max(wall_now - WARM_UP_CANDLES * timeframe_seconds, setup.start_seconds or 0.0))

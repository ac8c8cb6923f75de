"""`python -m bot.simulator`: the local Kraken as a program of its own."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from bot.base.clock import MarketClock, wall_seconds
from bot.simulator.errors import SimulatorError
from bot.simulator.instruments import Instruments, known_instruments
from bot.simulator.limits import TIERS
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import PriceSource, SyntheticPrices
from bot.simulator.prices_recorded import RecordedPrices
from bot.simulator.server import Simulator
from bot.simulator.storage import read_state

REPLAY_HISTORY_SECONDS = 3600.0


def _parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bot.simulator", description="A local Kraken for tests and paper.")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one (default 8000)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep the account there (default: in memory)")
    parser.add_argument("--seed", type=int, default=1, help="of synthetic prices and of faults (default 1)")
    parser.add_argument("--speed", type=float, default=1.0, help="market seconds per second (default 1)")
    parser.add_argument("--prices", default="synthetic", help="synthetic, or replay:FILE (Kraken's OHLCVT CSV)")
    parser.add_argument("--pairs", default="BTC/USD,ETH/USD,SOL/USD", help="separated by commas")
    parser.add_argument(
        "--balance", action="append", metavar="ASSET=AMOUNT", help="of a new account (default 10000 of the first quote)"
    )
    parser.add_argument("--tier", choices=sorted(TIERS), default="pro", help="rate limits (default pro)")
    parser.add_argument(
        "--latency-ms", type=latency_range, default=(0.0, 0.0), metavar="A-B", help="how long requests take to arrive"
    )
    parser.add_argument(
        "--fault",
        type=fault_probability,
        action="append",
        default=[],
        metavar="NAME=RATE",
        help="see docs/simulator.md",
    )
    parser.add_argument("--lockout-after", type=int, default=0, metavar="N", help="bad requests a minute (default off)")
    parser.add_argument("--key", default="", help="API key (default: made once and kept)")
    parser.add_argument("--secret", default="", help="its secret, Base64")
    return parser.parse_args(argv)


def fault_probability(text: str) -> tuple[str, float]:
    """Read NAME=RATE."""
    name, _, rate = text.partition("=")
    return name, float(rate)


def latency_range(text: str) -> tuple[float, float]:
    """Read A-B, or A alone, as a range of seconds."""
    low_ms, _, high_ms = text.partition("-")
    return float(low_ms) / 1000, float(high_ms or low_ms) / 1000


def _build_options(arguments: argparse.Namespace, instruments: Instruments) -> SimulatorOptions:
    if bool(arguments.key) != bool(arguments.secret):
        raise SimulatorError("--key and --secret go together.")
    balances = arguments.balance or [f"{instruments.pairs[0].quote.asset_id}=10000"]
    return SimulatorOptions(
        balances=dict(word.partition("=")[::2] for word in balances),
        tier=arguments.tier,
        seed=arguments.seed,
        state_path=arguments.state,
        port=arguments.port,
        key=arguments.key,
        secret=arguments.secret,
        latency_seconds=arguments.latency_ms,
        fault_rates=dict(arguments.fault),
        lockout_after=arguments.lockout_after,
    )


def _open_price_source(arguments: argparse.Namespace, instruments: Instruments) -> PriceSource:
    if arguments.prices == "synthetic":
        return SyntheticPrices(arguments.seed)
    if not arguments.prices.startswith("replay:"):
        raise SimulatorError(f"Prices are synthetic or replay:FILE, not {arguments.prices}.")
    if len(instruments.pairs) != 1:
        raise SimulatorError("A file has the prices of one pair; name it with --pairs.")
    return RecordedPrices(instruments.pairs[0], Path(arguments.prices.removeprefix("replay:")))


def _build_clock(arguments: argparse.Namespace, prices: PriceSource) -> MarketClock:
    """Return the market's clock: it continues from the state file, and a recorded market begins with its file."""
    saved_state = read_state(arguments.state, prices.source_id) if arguments.state else None
    start_seconds = (
        prices.start_seconds + REPLAY_HISTORY_SECONDS if isinstance(prices, RecordedPrices) else wall_seconds()
    )
    if saved_state is not None:
        start_seconds = saved_state.now if isinstance(prices, RecordedPrices) else max(start_seconds, saved_state.now)
    elif arguments.speed == 1 and not isinstance(prices, RecordedPrices):
        return MarketClock()
    return MarketClock(start_seconds, arguments.speed)


def main(argv: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Return the exit code: 0, or 2 with one sentence on the problem."""
    arguments = _parse_arguments(argv)
    stop = threading.Event()
    for signal_number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signal_number, lambda *_: stop.set())
    try:
        instruments = known_instruments(arguments.pairs.split(","))
        prices = _open_price_source(arguments, instruments)
        with Simulator(
            _build_options(arguments, instruments), _build_clock(arguments, prices), prices, instruments
        ) as simulator:
            print(f"Kraken simulator on {simulator.url}")
            print(f"key    {simulator.key}")
            print(f"secret {simulator.secret}", flush=True)
            stop.wait()
    except SimulatorError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""`python -m bot.simulator`: the local Kraken as a program of its own."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from pathlib import Path

from bot.clock import MarketClock
from bot.simulator.errors import SimulatorError
from bot.simulator.limits import TIERS
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import SyntheticPrices
from bot.simulator.server import Simulator


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bot.simulator", description="A local Kraken for tests and paper.")
    parser.add_argument("--port", type=int, default=8000, help="0 picks a free one (default 8000)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="keep the account there (default: in memory)")
    parser.add_argument("--seed", type=int, default=1, help="of synthetic prices and of faults (default 1)")
    parser.add_argument("--speed", type=float, default=1.0, help="market seconds per second (default 1)")
    parser.add_argument("--prices", default="synthetic", help="synthetic, or replay:FILE (Kraken's OHLCVT CSV)")
    parser.add_argument("--pairs", default="BTC/USD,ETH/USD,SOL/USD", help="separated by commas")
    parser.add_argument("--balance", action="append", metavar="ASSET=AMOUNT", help="of a new account (ZUSD=10000)")
    parser.add_argument("--tier", choices=sorted(TIERS), default="pro", help="rate limits (default pro)")
    parser.add_argument("--latency-ms", default="0", metavar="A-B", help="how long requests take to arrive")
    parser.add_argument("--fault", action="append", default=[], metavar="NAME=RATE", help="see docs/simulator.md")
    parser.add_argument("--lockout-after", type=int, default=0, metavar="N", help="bad requests a minute (default off)")
    parser.add_argument("--key", default="", help="API key (default: made once and kept)")
    parser.add_argument("--secret", default="", help="its secret, Base64")
    return parser.parse_args(words)


def _rates(words: list[str]) -> dict[str, float]:
    rates = {}
    for word in words:
        name, _, rate = word.partition("=")
        rates[name] = _number(rate, f"--fault {word}")
    return rates


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SimulatorError(f"{where}: {text or 'nothing'} is not a number.") from None


def _latency(text: str) -> tuple[float, float]:
    low, _, high = text.partition("-")
    milliseconds = _number(low, "--latency-ms"), _number(high or low, "--latency-ms")
    return milliseconds[0] / 1000, milliseconds[1] / 1000


def _options(given: argparse.Namespace) -> SimulatorOptions:
    if bool(given.key) != bool(given.secret):
        raise SimulatorError("--key and --secret go together.")
    return SimulatorOptions(
        pairs=tuple(given.pairs.split(",")),
        balances=dict(word.partition("=")[::2] for word in given.balance or ["ZUSD=10000"]),
        tier=given.tier,
        seed=given.seed,
        state_path=given.state,
        port=given.port,
        key=given.key,
        secret=given.secret,
        latency_seconds=_latency(given.latency_ms),
        fault_rates=_rates(given.fault),
        lockout_after=given.lockout_after,
    )


def main(words: list[str] | None = None) -> int:
    """Serve until SIGTERM or Ctrl-C. Return the exit code: 0, or 2 with one sentence on what is wrong."""
    given = _arguments(words)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        options = _options(given)
        with Simulator(options, MarketClock(speed=given.speed), SyntheticPrices(given.seed)) as simulator:
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

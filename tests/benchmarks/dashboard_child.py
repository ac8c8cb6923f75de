"""A trading bot with its page, which times itself: `python -m tests.benchmarks.dashboard_child`.

Its settings are in the environment.
A line on standard input is answered with a line of JSON: `calls SECONDS` with what private calls took, one after the
other, in milliseconds; `made COUNT` with what it cost to make what is shown, in milliseconds of the thread's own. All
that it says besides is the bot's.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import main as program
from bot.app.lifecycle import Lifecycle
from bot.base import logging_setup, metrics
from bot.base.clock import boottime_seconds
from bot.broker_manager import KrakenBroker
from bot.config import Settings, load_settings
from bot.dashboard.cache import CachedSnapshot
from bot.dashboard.snapshot import SnapshotReader
from bot.kraken.rate_counters import UNLIMITED
from bot.trading.strategies import STRATEGIES

READY, ANSWER = "ready", "answer "
# Two months of one-minute candles, and a full log.
EQUITY_POINTS, LINES = 100_000, 200


def time_calls(broker: KrakenBroker, seconds: float) -> list[float]:
    """Return what each private call took, in milliseconds."""
    until, durations_ms = boottime_seconds() + seconds, []
    while boottime_seconds() < until:
        start = time.perf_counter_ns()
        broker.private_call("Balance")
        durations_ms.append((time.perf_counter_ns() - start) / 1e6)
    return durations_ms


def measure_render_costs(settings: Settings, runner: Lifecycle, count: int) -> dict[str, list[float]]:
    """Return what it cost each time to make what is shown, by name."""
    durations_ms: dict[str, list[float]] = {}

    def timed(name: str, make: Callable[[], object]) -> None:
        start = time.thread_time_ns()
        make()
        durations_ms.setdefault(name, []).append((time.thread_time_ns() - start) / 1e6)

    reader = SnapshotReader(settings, runner)
    for _ in range(count):
        timed("facts", reader.read)
        cached = CachedSnapshot(reader.read())
        metrics.update_gauges(cached.status)
        # Each is made at the first look at it.
        timed("page", partial(cached.page, "csrf"))
        timed("page again", partial(cached.page, "csrf"))
        timed("event", partial(getattr, cached, "event"))
        timed("JSON", partial(getattr, cached, "json"))
        timed("metrics", metrics.render)
    reader.close()
    return durations_ms


def fill_journal(broker: KrakenBroker) -> None:
    """Write down a long past."""
    with broker.journal._database.write() as connection:
        now = broker.now()
        rows = ((now - 60.0 * number, "USD", f"{10_000 + number % 17}") for number in range(EQUITY_POINTS))
        connection.executemany("INSERT OR REPLACE INTO equity VALUES (?, ?, ?)", rows)


def main() -> None:
    """Trade until the parent has heard enough."""
    # Of no tier, so that calls can be made one after the other.
    settings = replace(load_settings(strategies=STRATEGIES), tier=UNLIMITED)
    logging_setup.configure("text")
    runner = Lifecycle(logging_setup.print_line)
    with program.monitoring(settings, runner):
        trading = threading.Thread(target=program.trade, args=(settings, runner, None), daemon=True)
        trading.start()
        while runner.broker is None or runner.trader is None or runner.trader.snapshot_publisher.latest is None:
            assert trading.is_alive()
            time.sleep(0.01)
        fill_journal(runner.broker)
        for number in range(LINES):
            logging_setup.print_line(
                f"a line of the log like many others, as long as they are: number {number} of some two hundred"
            )
        logging_setup.print_line(READY)
        for line in sys.stdin:
            word, size = line.split()
            is_calls = word == "calls"
            answer = (
                time_calls(runner.broker, float(size))
                if is_calls
                else measure_render_costs(settings, runner, int(size))
            )
            logging_setup.print_line(ANSWER + json.dumps(answer))


if __name__ == "__main__":
    main()

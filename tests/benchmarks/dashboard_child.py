"""A trading bot with a dashboard that measures itself: `python -m tests.benchmarks.dashboard_child`.

The settings come from the environment. Each line on standard input is a command, answered with one line of JSON:
`calls SECONDS` with the duration of each sequential private call in milliseconds; `render COUNT` with the cost of each
rendering step in milliseconds of thread CPU time. All other output lines are the bot's own.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from bot.app.lifecycle import Lifecycle
from bot.base import logging_setup
from bot.base.clock import boottime_seconds
from bot.broker_manager import KrakenBroker
from bot.cli.monitoring import monitoring
from bot.cli.run import trade
from bot.config import Settings, load_settings
from bot.dashboard import prometheus
from bot.dashboard.cache import CachedSnapshot
from bot.dashboard.snapshot import SnapshotReader
from bot.kraken.rate_counters import UNLIMITED
from bot.trading.strategies import STRATEGIES

READY, ANSWER = "ready", "answer "
# Two months of one-minute candles, and a full log.
EQUITY_POINTS, LINES = 100_000, 200


def time_calls(broker: KrakenBroker, seconds: float) -> list[float]:
    """Return the duration of each private call in milliseconds."""
    until, durations_ms = boottime_seconds() + seconds, []
    while boottime_seconds() < until:
        start = time.perf_counter_ns()
        broker.private_call("Balance")
        durations_ms.append((time.perf_counter_ns() - start) / 1e6)
    return durations_ms


def measure_render_costs(settings: Settings, lifecycle: Lifecycle, count: int) -> dict[str, list[float]]:
    """Return the cost of each rendering step in milliseconds, by name."""
    durations_ms: dict[str, list[float]] = {}

    def timed(name: str, make: Callable[[], object]) -> None:
        start = time.thread_time_ns()
        make()
        durations_ms.setdefault(name, []).append((time.thread_time_ns() - start) / 1e6)

    reader = SnapshotReader(settings, lifecycle)
    for _ in range(count):
        timed("snapshot", reader.read)
        cached = CachedSnapshot(reader.read())
        # Each is rendered on first access.
        timed("page", partial(cached.page, "csrf"))
        timed("cached page", partial(cached.page, "csrf"))
        timed("event", partial(getattr, cached, "event"))
        timed("JSON", partial(getattr, cached, "json"))
        timed("metrics", partial(prometheus.render, cached.status))
    reader.close()
    return durations_ms


def fill_journal(broker: KrakenBroker) -> None:
    """Fill the journal with a long equity history."""
    with broker.journal._database.write() as connection:
        now = broker.now()
        rows = ((now - 60.0 * number, "USD", f"{10_000 + number % 17}") for number in range(EQUITY_POINTS))
        connection.executemany("INSERT OR REPLACE INTO equity VALUES (?, ?, ?)", rows)


def main() -> None:
    """Trade and answer commands until standard input ends."""
    # The tier "unlimited" lets calls follow each other without a wait.
    settings = replace(load_settings(strategies=STRATEGIES), tier=UNLIMITED)
    logging_setup.configure("text")
    lifecycle = Lifecycle()
    with monitoring(settings, lifecycle):
        trading = threading.Thread(target=trade, args=(settings, lifecycle, None), daemon=True)
        trading.start()
        while (
            lifecycle.broker is None or lifecycle.trader is None or lifecycle.trader.snapshot_publisher.latest is None
        ):
            assert trading.is_alive()
            time.sleep(0.01)
        fill_journal(lifecycle.broker)
        for number in range(LINES):
            logging_setup.print_line(f"a log line of realistic length, as most lines are: {number} of two hundred")
        logging_setup.print_line(READY)
        for line in sys.stdin:
            word, size = line.split()
            is_calls = word == "calls"
            answer = (
                time_calls(lifecycle.broker, float(size))
                if is_calls
                else measure_render_costs(settings, lifecycle, int(size))
            )
            logging_setup.print_line(ANSWER + json.dumps(answer))


if __name__ == "__main__":
    main()

"""Cost of the dashboard: for a trading bot, and to render and serve the page."""

from __future__ import annotations

import json
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests import dashboard_readers
from tests.acceptance.processes import isolated_settings
from tests.benchmarks import machine
from tests.benchmarks.bench_broker import ExchangeProcess, format_verdict, run_exchange
from tests.benchmarks.dashboard_child import ANSWER, READY
from tests.child_process import Child
from tests.dashboard_tools import TOKEN
from tests.server_processes import free_port

# At this speed the trader calls so often that several percent of the calls wait for it, so p99 is a stable figure.
LATENCY_MS, SPEED = 20, 60
LIMIT_SECONDS = 300.0
P99_GROWTH_MS_MAX = 5.0
# Six rounds, alternating, 30 s of each kind.
ROUNDS, ROUND_SECONDS = 6, 5.0
# Readers begin before the first call and end after the last.
MARGIN_SECONDS = 0.5
COST_SAMPLES, REQUESTS, BATCHES = 100, 200, 15


@dataclass(frozen=True)
class TradingBot:
    """A bot in its own process, and the exchange it trades on in another."""

    process: Child
    exchange: ExchangeProcess
    port: int

    def request(self, line: str) -> Any:
        """Send the bot a command line; return its answer."""
        self.process.write_line(line)
        return json.loads(self._wait_for(ANSWER).removeprefix(ANSWER))

    def wait_until_ready(self) -> None:
        """Return when the dashboard shows the first trading cycle."""
        self._wait_for(READY)

    def _wait_for(self, start: str) -> str:
        while not (line := self.process.read_line()).startswith(start):
            assert line, "the bot has ended"
        return line


@contextmanager
def run_trading_bot(folder: Path) -> Iterator[TradingBot]:
    """Run a bot that trades three pairs on an exchange that is 20 ms away."""
    port = free_port()
    with run_exchange(LATENCY_MS, "--speed", str(SPEED)) as exchange_process:
        settings = {
            "TRADING_MODE": "live",
            "KRAKEN_API_URL": exchange_process.url,
            "KRAKEN_API_KEY": exchange_process.key,
            "KRAKEN_API_SECRET": exchange_process.secret,
            "STATE_DIR": str(folder),
            "SKIP_OVERLAP_WAIT": "1",
            "MARKET_SPEED": str(SPEED),
            "TIMEFRAME": "1m",
            "PAIRS": "BTC/USD,ETH/USD,SOL/USD",
            "COOLDOWN_SECONDS": "0",
            "MAX_DAILY_LOSS": "100000",
            "PORT": str(port),
            "STATUS_TOKEN": TOKEN,
        }
        child = "tests.benchmarks.dashboard_child"
        with Child(child, limit_seconds=LIMIT_SECONDS, environment=isolated_settings(settings)) as process:
            bot = TradingBot(process, exchange_process, port)
            bot.wait_until_ready()
            yield bot


def percentile(values: list[float], fraction: float) -> float:
    """Return the value that this fraction of the values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * fraction))]


@pytest.mark.bench
@pytest.mark.timeout(LIMIT_SECONDS)
@pytest.mark.parametrize("rate", [200, 400])
def test_private_call_latency_under_dashboard_load(tmp_path: Path, rate: int) -> None:
    """Print how much the p99 latency of private calls grows while clients read the page and the health check.

    No nonce is refused, and every reader gets an answer.
    """
    baseline_ms: list[list[float]] = []
    loaded_ms: list[list[float]] = []
    waits_ms: list[float] = []
    statuses: set[str] = set()
    with (
        run_trading_bot(tmp_path) as bot,
        Child("tests.dashboard_readers", bot.port, TOKEN, limit_seconds=LIMIT_SECONDS) as readers,
    ):
        for _ in range(ROUNDS):
            baseline_ms.append(bot.request(f"calls {ROUND_SECONDS}"))
            dashboard_readers.start_load(readers, rate, ROUND_SECONDS + MARGIN_SECONDS, "/healthz", "/")
            loaded_ms.append(bot.request(f"calls {ROUND_SECONDS}"))
            readings = dashboard_readers.finish_load(readers)
            waits_ms += readings.latencies_ms
            statuses |= set(readings.statuses)
        refused = bot.exchange.state()["refused_nonces"]
    print(f"\n{rate} requests/s, half for the page, Kraken {LATENCY_MS} ms away: {machine.describe(tmp_path)}")
    for share in (0.5, 0.9, 0.95, 0.99):
        quiet_ms, busy_ms = (
            percentile(list(chain.from_iterable(rounds)), share) for rounds in (baseline_ms, loaded_ms)
        )
        print(f"  private call, p{share * 100:.0f}: {quiet_ms:.2f} ms alone, {busy_ms:.2f} ms beside readers")
    growth_ms = busy_ms - quiet_ms
    verdict = format_verdict(growth_ms <= P99_GROWTH_MS_MAX)
    print(f"  p99 grows by {growth_ms:.2f} ms, at most {P99_GROWTH_MS_MAX:g}: {verdict}")
    growth_by_round_ms = [
        percentile(busy, 0.99) - percentile(quiet, 0.99) for quiet, busy in zip(baseline_ms, loaded_ms, strict=True)
    ]
    each_round = ", ".join(f"{one:+.1f}" for one in growth_by_round_ms)
    print(f"  by rounds {each_round} ms, median {statistics.median(growth_by_round_ms):+.2f}")
    print(f"  readers wait {percentile(waits_ms, 0.5):.2f} ms, p99 {percentile(waits_ms, 0.99):.2f} ms")
    assert refused == 0
    assert statuses == {"/healthz 200", "/ 200"}


class KeptAliveConnection:
    """A minimal kept-alive connection, so that the measurement times the server and not the client."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def measure_seconds(self, path: str, count: int) -> float:
        """Return the seconds that `count` sequential requests take."""
        head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        start = time.perf_counter()
        for _ in range(count):
            self._socket.sendall(head)
            self._read_response()
        return time.perf_counter() - start

    def _read_response(self) -> None:
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._socket.recv(262_144)
        fields, _, body = received.partition(b"\r\n\r\n")
        assert fields.startswith(b"HTTP/1.1 200 "), fields
        remaining = int(fields.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]) - len(body)
        while remaining:
            remaining -= len(self._socket.recv(remaining))

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


@pytest.mark.bench
@pytest.mark.timeout(LIMIT_SECONDS)
def test_cost_of_the_dashboard(tmp_path: Path) -> None:
    """Print the cost to render snapshot, page and metrics, and the requests per second against a bare route."""
    with run_trading_bot(tmp_path) as bot, Child("tests.benchmarks.bare_page_child") as bare:
        render_ms = bot.request(f"render {COST_SAMPLES}")
        floor, ours = KeptAliveConnection(int(bare.read_line())), KeptAliveConnection(bot.port)
        rounds = [
            (
                floor.measure_seconds("/healthz", REQUESTS),
                ours.measure_seconds("/healthz", REQUESTS),
                ours.measure_seconds("/", REQUESTS),
            )
            for _ in range(BATCHES)
        ]
        floor.close()
        ours.close()
        refused = bot.exchange.state()["refused_nonces"]
    print(f"\ndashboard of a bot that trades three pairs: {machine.describe(tmp_path)}")
    each = ", ".join(f"{name} {statistics.median(times):.2f} ms" for name, times in render_ms.items())
    print(f"  rendered at most once a second for all clients: {each}")
    rates = [REQUESTS / statistics.median(column) for column in zip(*rounds, strict=True)]
    ratios = [statistics.median(row[at] / row[0] for row in rounds) for at in range(3)]
    print(f"  on one connection: a bare route {rates[0]:.0f} requests/s", end="")
    print(f", /healthz {rates[1]:.0f} ({ratios[1]:.2f} times its time), / {rates[2]:.0f} ({ratios[2]:.2f} times)")
    assert refused == 0

"""The memory of a bot over many candles, with its dashboard open and polled."""

from __future__ import annotations

import http.client
import json
import random
import re
import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bot.base.clock import sleep
from tests.acceptance.processes import BotProcess
from tests.dashboard_tools import TOKEN
from tests.server_processes import free_port

SEED = 20_261_123
START_SECONDS = 1_640_995_200
# The first candles are the warm-up of a recording.
WARM_UP_CANDLES = 100
SAMPLE_SECONDS = 0.3
LIMIT_SECONDS = 3000.0
RSS_KB_MAX = 120 * 1024
# In a short run bounded buffers are still filling: 720 candles, 200 log lines, file caches.
SHORT_CYCLES, SHORT_GROWTH_KB_MAX = 2_500, 8 * 1024
MARK_CYCLES, MARKS = 10_000, 10
GROWTH_MAX = 0.01


def write_recording(path: Path, candles: int) -> None:
    """Write one-minute candles of a mean-reverting random walk."""
    rng, last, lines = random.Random(SEED), 500_000, []
    for number in range(candles):
        close = last + rng.randint(-400, 400) + (500_000 - last) // 2000
        high, low = max(last, close) + rng.randint(0, 100), min(last, close) - rng.randint(0, 100)
        tenths = ",".join(f"{price / 10:.1f}" for price in (last, high, low, close))
        lines.append(f"{START_SECONDS + 60 * number},{tenths},12.5,92\n")
        last = close
    path.write_text("".join(lines), "ascii")


@dataclass
class MemoryMonitor:
    """Poll a bot's dashboard and sample the memory of its process as (cycles, KB)."""

    port: int
    pid: int
    samples: list[tuple[int, int]] = field(default_factory=list)

    def sample(self) -> bool:
        """Take one sample; return whether the bot answered."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            for path in ("/", "/metrics", "/api/status"):
                connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
                response = connection.getresponse()
                body = response.read()
                assert response.status == 200, (path, response.status, body)
            resident = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text("ascii"))
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        cycles = _count_cycles(json.loads(body))
        if cycles and resident:
            self.samples.append((cycles, int(resident[0])))
        return True

    def median_rss_kb(self, first: int, last: int) -> float:
        """Return the median memory of the process between two cycles."""
        return statistics.median(kb for cycles, kb in self.samples if first <= cycles < last)

    @property
    def peak_rss_kb(self) -> int:
        """The maximum memory of the process."""
        return max(kb for _, kb in self.samples)


def _count_cycles(status: dict[str, Any]) -> int:
    candles = [candle for pair in status["pairs"] for candle in pair["candles"]]
    return (candles[-1][0] - START_SECONDS) // 60 if candles else 0


@contextmanager
def open_event_stream(port: int) -> Iterator[None]:
    """Keep the dashboard's event stream open, and read it."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/events", headers={"Authorization": f"Bearer {TOKEN}"})
    stream = connection.getresponse()
    assert stream.status == 200

    def read() -> None:
        try:
            while stream.readline():
                pass
        except (OSError, http.client.HTTPException):
            return

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield
    finally:
        reader.join(20)
        connection.close()


def run_monitored(folder: Path, cycles: int) -> MemoryMonitor:
    """Run a paper bot for `cycles` cycles at full speed, and sample its memory."""
    recording, port = folder / "walk.csv", free_port()
    write_recording(recording, cycles + WARM_UP_CANDLES)
    settings = {
        "STATE_DIR": str(folder / "state"),
        "PRICE_SOURCE": f"replay:{recording}",
        "TIMEFRAME": "1m",
        "PORT": str(port),
        "STATUS_TOKEN": TOKEN,
    }
    with BotProcess("--cycles", str(cycles), settings=settings, timeout_seconds=LIMIT_SECONDS) as bot:
        bot.wait_for("filled")
        monitor = MemoryMonitor(port, bot.pid)
        with open_event_stream(port):
            while monitor.sample():
                sleep(SAMPLE_SECONDS)
        assert bot.wait_and_check() == 0
    assert bot.lines[-1].endswith("; refused nonces: 0")
    return monitor


def test_memory_stays_bounded_over_many_candles_with_an_open_page(tmp_path: Path, full_size: bool) -> None:
    """Over 100,000 candles a paper bot with a polled dashboard uses less than 120 MB, and after the first 10,000 grows
    by less than 1 % per 10,000 on average; in the short run of 2,500 it grows by less than 8 MB."""
    if not full_size:
        monitor = run_monitored(tmp_path, SHORT_CYCLES)
        growth_kb = monitor.median_rss_kb(1_500, SHORT_CYCLES) - monitor.median_rss_kb(0, 1_000)
        assert (monitor.peak_rss_kb < RSS_KB_MAX, growth_kb < SHORT_GROWTH_KB_MAX) == (True, True), monitor.samples
        return
    monitor = run_monitored(tmp_path, MARKS * MARK_CYCLES)
    rss_kb = [monitor.median_rss_kb(at * MARK_CYCLES - 1_000, at * MARK_CYCLES) for at in range(1, MARKS + 1)]
    growth = (rss_kb[-1] / rss_kb[0]) ** (1 / (MARKS - 1)) - 1
    print(f"\nmemory every {MARK_CYCLES} cycles, KB: {rss_kb}; peak {monitor.peak_rss_kb}; growth {growth:.2%} each")
    assert monitor.peak_rss_kb < RSS_KB_MAX
    assert growth < GROWTH_MAX, rss_kb

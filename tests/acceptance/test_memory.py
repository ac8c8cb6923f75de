"""What a bot holds in memory over many candles, with its page open and looked at."""

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
from tests.acceptance.processes import Bot
from tests.dashboard_tools import TOKEN
from tests.server_processes import free_port

SEED = 20_261_123
BEGIN = 1_640_995_200
# The first candles are the warm-up of a recording.
SPARE_CANDLES = 100
LOOK_SECONDS = 0.3
LIMIT_SECONDS = 3000.0
HELD_KB_MAX = 120 * 1024
# In a short run what is kept on purpose is still being filled: 720 candles, 200 lines of log, the files' caches.
SHORT_TICKS, SHORT_GROWTH_KB_MAX = 1_500, 8 * 1024
MARK_TICKS, MARKS = 10_000, 10
GROWTH_MAX = 0.01


def write_recording(path: Path, candles: int) -> None:
    """Write one-minute candles of a random walk, which comes back when it is far away."""
    dice, last, lines = random.Random(SEED), 500_000, []
    for number in range(candles):
        close = last + dice.randint(-400, 400) + (500_000 - last) // 2000
        high, low = max(last, close) + dice.randint(0, 100), min(last, close) - dice.randint(0, 100)
        tenths = ",".join(f"{price / 10:.1f}" for price in (last, high, low, close))
        lines.append(f"{BEGIN + 60 * number},{tenths},12.5,92\n")
        last = close
    path.write_text("".join(lines), "ascii")


@dataclass
class Onlooker:
    """Looks at a bot's page now and then, and at what the process holds: (ticks, KB) at each look."""

    port: int
    pid: int
    looks: list[tuple[int, int]] = field(default_factory=list)

    def look(self) -> bool:
        """Look once; return whether the bot was there."""
        link = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            for path in ("/", "/metrics", "/api/status"):
                link.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
                answer = link.getresponse()
                body = answer.read()
                assert answer.status == 200, (path, answer.status, body)
            resident = re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.pid}/status").read_text("ascii"))
        except (OSError, http.client.HTTPException):
            return False
        finally:
            link.close()
        ticks = _ticks(json.loads(body))
        if ticks and resident:
            self.looks.append((ticks, int(resident[0])))
        return True

    def held_kb(self, first: int, last: int) -> float:
        """Return what the process held between two ticks, by the median."""
        return statistics.median(kb for ticks, kb in self.looks if first <= ticks < last)

    @property
    def most_kb(self) -> int:
        """The most that it held."""
        return max(kb for _, kb in self.looks)


def _ticks(status: dict[str, Any]) -> int:
    candles = [row for pair in status["pairs"] for row in pair["candles"]]
    return (candles[-1][0] - BEGIN) // 60 if candles else 0


@contextmanager
def open_page(port: int) -> Iterator[None]:
    """Keep the page's stream of news open, and read it."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    link.request("GET", "/events", headers={"Authorization": f"Bearer {TOKEN}"})
    stream = link.getresponse()
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
        link.close()


def watched_run(folder: Path, ticks: int) -> Onlooker:
    """Run a paper bot for so many ticks, as fast as they go, and look at it all the time."""
    recording, port = folder / "walk.csv", free_port()
    write_recording(recording, ticks + SPARE_CANDLES)
    settings = {
        "STATE_DIR": str(folder / "state"),
        "PRICES": f"replay:{recording}",
        "TIMEFRAME": "1m",
        "PORT": str(port),
        "STATUS_TOKEN": TOKEN,
    }
    with Bot("--ticks", str(ticks), settings=settings, limit_seconds=LIMIT_SECONDS) as bot:
        bot.wait_for("filled")
        onlooker = Onlooker(port, bot.pid)
        with open_page(port):
            while onlooker.look():
                sleep(LOOK_SECONDS)
        assert bot.end() == 0
    assert bot.lines[-1] == "refused nonces: 0"
    return onlooker


def test_many_candles_with_an_open_page_take_little_memory(tmp_path: Path, full_size: bool) -> None:
    """Over 100,000 candles a paper bot whose page is looked at holds less than 120 MB, and after the first 10,000 it
    grows by less than 1 % for each 10,000, on average; over the 1,500 of the short run it grows by less than 8 MB."""
    if not full_size:
        onlooker = watched_run(tmp_path, SHORT_TICKS)
        growth_kb = onlooker.held_kb(1_000, SHORT_TICKS) - onlooker.held_kb(0, 500)
        assert (onlooker.most_kb < HELD_KB_MAX, growth_kb < SHORT_GROWTH_KB_MAX) == (True, True), onlooker.looks
        return
    onlooker = watched_run(tmp_path, MARKS * MARK_TICKS)
    held_kb = [onlooker.held_kb(at * MARK_TICKS - 1_000, at * MARK_TICKS) for at in range(1, MARKS + 1)]
    growth = (held_kb[-1] / held_kb[0]) ** (1 / (MARKS - 1)) - 1
    print(f"\nmemory at each {MARK_TICKS} ticks, KB: {held_kb}; most {onlooker.most_kb}; growth {growth:.2%} each")
    assert onlooker.most_kb < HELD_KB_MAX
    assert growth < GROWTH_MAX, held_kb

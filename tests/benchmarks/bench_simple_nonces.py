"""What the simple way of keeping a nonce loses, and what ours does: the figures in docs/nonces.md."""

from __future__ import annotations

import multiprocessing
import random
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import krakenex
import pytest

from bot.broker_manager import get_kraken_nonce
from bot.nonce.file_store import store_at
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.benchmarks import machine
from tests.benchmarks.bench_nonce import PublishedWay

SEED = 20261122
PROCESSES = 8
NONCES_EACH = 5000
KILLS = 150
THREADS = 8
CALLS_EACH = 100
FORK = multiprocessing.get_context("fork")

Open = Callable[[Path], Callable[[], int]]
WAYS: dict[str, Open] = {
    "published": lambda path: PublishedWay(path).draw,
    "ours": lambda path: store_at(path).draw,
}


def draw_some(open_way: Open, path: Path, drawn: Path) -> None:
    """Draw nonces and write them down elsewhere."""
    draw = open_way(path)
    drawn.write_text("\n".join(str(draw()) for _ in range(NONCES_EACH)))


def draw_for_ever(open_way: Open, path: Path, told: Connection) -> None:
    """Draw until killed, with a word now and then."""
    draw = open_way(path)
    while True:
        for _ in range(20):
            draw()
        told.send_bytes(b".")


def duplicates(open_way: Open, path: Path) -> int:
    """Let processes draw at once; return how many nonces were drawn more than once."""
    lists = [path.with_suffix(f".{number}") for number in range(PROCESSES)]
    processes = [FORK.Process(target=draw_some, args=(open_way, path, drawn)) for drawn in lists]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    nonces = [nonce for drawn in lists for nonce in drawn.read_text("ascii").split()]
    assert len(nonces) == PROCESSES * NONCES_EACH
    return len(nonces) - len(set(nonces))


def files_lost(open_way: Open, path: Path) -> int:
    """Kill processes while they draw; return how often the file was empty afterwards."""
    moments, lost = random.Random(SEED), 0
    for _ in range(KILLS):
        heard, told = FORK.Pipe(duplex=False)
        process = FORK.Process(target=draw_for_ever, args=(open_way, path, told))
        process.start()
        for _ in range(moments.randrange(1, 20)):
            heard.recv_bytes()
        process.kill()
        process.join()
        heard.close()
        told.close()
        lost += path.read_text("ascii") == ""
    return lost


@pytest.mark.bench
def test_what_each_way_loses(tmp_path: Path) -> None:
    """Of the two ways, only the simple one draws nonces twice and loses its file."""
    print(f"\nlosses: {machine.describe(tmp_path)}, seed {SEED}")
    figures: dict[str, tuple[int, int]] = {}
    for name, open_way in WAYS.items():
        twice, lost = (
            duplicates(open_way, tmp_path / f"{name}.txt"),
            files_lost(open_way, tmp_path / f"{name}_killed.txt"),
        )
        figures[name] = (twice, lost)
        print(
            f"  {name}: {twice} of {PROCESSES * NONCES_EACH} nonces twice, {lost} of {KILLS} files empty after a kill"
        )
    assert figures["ours"] == (0, 0)
    assert min(figures["published"]) > 0


@pytest.mark.bench
def test_what_a_counter_without_turns_loses(nonce_file: Path) -> None:
    """Threads that draw in order from one file, and send without turns, are refused."""
    with Simulator(SimulatorOptions(latency_seconds=(0.0, 0.005))) as simulator:

        def work() -> None:
            api = krakenex.API(simulator.key, simulator.secret)
            api.uri, api._nonce = simulator.url, get_kraken_nonce
            for _ in range(CALLS_EACH):
                api.query_private("Balance")
            api.close()

        workers = [threading.Thread(target=work) for _ in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        refused = simulator.api.state()["refused_nonces"]
    print(f"\nno turns: {machine.describe(nonce_file)}")
    print(f"  one counter, {THREADS} threads, 0 to 5 ms on the way: {refused} of {THREADS * CALLS_EACH} calls refused")
    assert refused > 0

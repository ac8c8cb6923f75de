"""Losses of the simple way to keep a nonce and of this bot's: the figures in docs/nonces.md."""

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
from bot.nonce.file_store import open_file_store
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.benchmarks import machine
from tests.benchmarks.bench_nonce import PublishedNonceStore

SEED = 20261122
PROCESSES = 8
NONCES_EACH = 5000
KILLS = 150
THREADS = 8
CALLS_EACH = 100
FORK = multiprocessing.get_context("fork")

OpenStore = Callable[[Path], Callable[[], int]]
IMPLEMENTATIONS: dict[str, OpenStore] = {
    "published": lambda path: PublishedNonceStore(path).next_nonce,
    "ours": lambda path: open_file_store(path).next_nonce,
}


def issue_nonces(open_store: OpenStore, path: Path, output_path: Path) -> None:
    """Take nonces and write them to another file."""
    next_nonce = open_store(path)
    output_path.write_text("\n".join(str(next_nonce()) for _ in range(NONCES_EACH)))


def issue_nonces_forever(open_store: OpenStore, path: Path, progress: Connection) -> None:
    """Take nonces until killed; report progress regularly."""
    next_nonce = open_store(path)
    while True:
        for _ in range(20):
            next_nonce()
        progress.send_bytes(b".")


def count_duplicates(open_store: OpenStore, path: Path) -> int:
    """Take nonces in concurrent processes; return the number of duplicates."""
    lists = [path.with_suffix(f".{number}") for number in range(PROCESSES)]
    processes = [FORK.Process(target=issue_nonces, args=(open_store, path, output_path)) for output_path in lists]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    nonces = [nonce for output_path in lists for nonce in output_path.read_text("ascii").split()]
    assert len(nonces) == PROCESSES * NONCES_EACH
    return len(nonces) - len(set(nonces))


def count_lost_files(open_store: OpenStore, path: Path) -> int:
    """Kill processes while they take nonces; return how often the file was empty afterwards."""
    rng, lost = random.Random(SEED), 0
    for _ in range(KILLS):
        receiver, sender = FORK.Pipe(duplex=False)
        process = FORK.Process(target=issue_nonces_forever, args=(open_store, path, sender))
        process.start()
        for _ in range(rng.randrange(1, 20)):
            receiver.recv_bytes()
        process.kill()
        process.join()
        receiver.close()
        sender.close()
        lost += path.read_text("ascii") == ""
    return lost


@pytest.mark.bench
def test_duplicate_nonces_and_lost_files_of_each_implementation(tmp_path: Path) -> None:
    """Of the two implementations, only the simple one issues duplicate nonces and loses its file."""
    print(f"\nlosses: {machine.describe(tmp_path)}, seed {SEED}")
    figures: dict[str, tuple[int, int]] = {}
    for name, open_store in IMPLEMENTATIONS.items():
        duplicate_count, lost_count = (
            count_duplicates(open_store, tmp_path / f"{name}.txt"),
            count_lost_files(open_store, tmp_path / f"{name}_killed.txt"),
        )
        figures[name] = (duplicate_count, lost_count)
        print(f"  {name}: {duplicate_count} of {PROCESSES * NONCES_EACH} nonces twice", end="")
        print(f", {lost_count} of {KILLS} files empty after a kill")
    assert figures["ours"] == (0, 0)
    assert min(figures["published"]) > 0


@pytest.mark.bench
def test_a_shared_counter_without_a_request_lock_gets_refusals(nonce_file: Path) -> None:
    """Threads that share one nonce file but no request lock get refusals."""
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
    print(f"\nno request lock: {machine.describe(nonce_file)}")
    print(f"  one counter, {THREADS} threads, 0 to 5 ms on the way: {refused} of {THREADS * CALLS_EACH} calls refused")
    assert refused > 0

"""Cost of KrakenBroker compared with bare krakenex, each on a local Kraken in its own process."""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import ccxt
import krakenex
import pytest

from bot.base.clock import boottime_seconds
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import UNLIMITED
from tests.benchmarks import machine
from tests.child_process import Child
from tests.conftest import ROOT

CPU_RATIO_MAX = 0.40
CALL_RATIO_MAX = 0.60
THROUGHPUT_RATIO_MIN = 0.95
START_RATIO_MAX = 2.4
CALLS, THREADS, LATENCY_MS, STARTS = 1500, 8, 20, 7

BARE_START = """
import sys, krakenex
api = krakenex.API(sys.argv[2], sys.argv[3])
api.uri = sys.argv[1]
api.query_private("Balance")
"""


@dataclass(frozen=True)
class ExchangeProcess:
    """A local Kraken in its own process. Each client gets one, because nonces in different units cannot share a key."""

    url: str
    key: str
    secret: str

    def state(self) -> dict[str, int]:
        """Return its counts of accepted and refused requests."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc)
        connection.request("GET", "/simulator/state")
        counts: dict[str, int] = json.loads(connection.getresponse().read())
        connection.close()
        return counts

    def open_krakenex(self) -> krakenex.API:
        """Return an unmodified krakenex client that points at this exchange."""
        api = krakenex.API(self.key, self.secret)
        api.uri = self.url
        return api

    def open_broker(self) -> KrakenBroker:
        """Return a KrakenBroker that points at this exchange."""
        return KrakenBroker(self.key, self.secret, api_url=self.url, tier=UNLIMITED)


@contextmanager
def run_exchange(latency_ms: int = 0, *extra_arguments: str) -> Iterator[ExchangeProcess]:
    """Run a local Kraken with the extra arguments until the block ends."""
    arguments = ("--port", "0", "--tier", "unlimited", "--latency-ms", f"{latency_ms}", *extra_arguments)
    with Child("bot.simulator", *arguments, limit_seconds=300) as process:
        url, key, secret = (process.read_line().split()[-1] for _ in range(3))
        yield ExchangeProcess(url, key, secret)


def measure_microseconds(call: Callable[[], object]) -> float:
    """Return how long one call takes, in microseconds."""
    start = time.perf_counter_ns()
    call()
    return (time.perf_counter_ns() - start) / 1000


def format_verdict(is_met: bool) -> str:
    """Return whether a figure meets its target, as text."""
    return "met" if is_met else "MISSED"


def measure_cpu_microseconds(call: Callable[[], object], count: int) -> float:
    """Return the CPU time of this process for one call, in microseconds."""
    start = time.process_time_ns()
    for _ in range(count):
        call()
    return (time.process_time_ns() - start) / 1000 / count


@pytest.mark.bench
def test_cpu_of_a_private_call(nonce_file: Path) -> None:
    """Print the client's CPU for a private call to a bare-socket server: http.client alone, krakenex, ccxt and this
    bot with its nonce file, request lock and rate counter, measured alternately."""
    key, secret = "key", "c2VjcmV0" * 11
    with Child("tests.benchmarks.bare_server_child", limit_seconds=300) as process:
        address = f"127.0.0.1:{process.read_line()}"
        url = f"http://{address}"
        floor = http.client.HTTPConnection(address)
        bare = krakenex.API(key, secret)
        bare.uri = url
        exchange = ccxt.kraken({"apiKey": key, "secret": secret, "enableRateLimit": False})
        exchange.urls["api"] = {"public": url, "private": url}
        broker = KrakenBroker(key, secret, api_url=url, tier=UNLIMITED)

        def call_http_client() -> None:
            floor.request("POST", "/0/private/Balance", b"nonce=1")
            floor.getresponse().read()

        variants: tuple[Callable[[], object], ...] = (
            call_http_client,
            lambda: bare.query_private("Balance"),
            exchange.private_post_balance,
            lambda: broker.private_call("Balance"),
        )
        assert broker.private_call("Balance")["ZUSD"] == "10000.0000"
        rounds = [[measure_cpu_microseconds(way, CALLS // 15) for way in variants] for _ in range(16)][1:]
        floor.close()
        bare.close()
        exchange.session.close()
        broker.close()
    floor_us, bare_us, ccxt_us, ours_us = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = ours_us / bare_us
    print(f"\nCPU of a private call: {machine.describe(nonce_file)}")
    print(f"  http.client {floor_us:.0f} us, krakenex {bare_us:.0f} us, ccxt {ccxt_us:.0f} us, ours {ours_us:.0f} us")
    print(f"  ours to krakenex {ratio:.3f}, at most {CPU_RATIO_MAX}: {format_verdict(ratio <= CPU_RATIO_MAX)}", end="")
    print(f"; below ccxt: {format_verdict(ours_us < ccxt_us)}")


@pytest.mark.bench
def test_cost_of_a_private_call(nonce_file: Path) -> None:
    """Print the ratio of the median private call of this bot to that of krakenex, measured alternately."""
    with run_exchange() as theirs, run_exchange() as quiet, run_exchange() as mine:
        bare, bare_quiet, broker = theirs.open_krakenex(), quiet.open_krakenex(), mine.open_broker()
        bare_quiet.session.trust_env = False
        variants: tuple[Callable[[], object], ...] = (
            lambda: broker.private_call("Balance"),
            lambda: bare.query_private("Balance"),
            lambda: bare_quiet.query_private("Balance"),
        )
        rounds = [[measure_microseconds(way) for way in variants] for _ in range(CALLS)]
        refused = mine.state()["refused_nonces"]
        broker.close()
        bare.close()
        bare_quiet.close()
    ours_us, bare_us, quiet_us = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = ours_us / bare_us
    print(f"\nprivate call: {machine.describe(nonce_file)}")
    print(f"  ours {ours_us:.0f} us, krakenex {bare_us:.0f} us: {ratio:.3f}", end="")
    print(f", at most {CALL_RATIO_MAX}: {format_verdict(ratio <= CALL_RATIO_MAX)}")
    print(f"  krakenex without the proxy look-up {quiet_us:.0f} us: {ours_us / quiet_us:.3f}")
    assert refused == 0


def measure_calls_per_second(call: Callable[[], object], threads: int, count: int) -> float:
    """Return the calls per second of all threads together, with `count` calls in each thread."""

    def work() -> None:
        barrier.wait()
        for _ in range(count):
            call()

    barrier = threading.Barrier(threads + 1)
    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    barrier.wait()
    start = boottime_seconds()
    for worker in workers:
        worker.join()
    return threads * count / (boottime_seconds() - start)


@pytest.mark.bench
@pytest.mark.parametrize("latency_ms", [LATENCY_MS, 0])
def test_throughput_of_threads(nonce_file: Path, latency_ms: int) -> None:
    """Print the ratio of calls per second of 8 threads through one broker to one krakenex thread."""
    count = 10 if latency_ms else 40
    with run_exchange(latency_ms) as theirs, run_exchange(latency_ms) as mine:
        bare, broker = theirs.open_krakenex(), mine.open_broker()
        rounds = [
            (
                measure_calls_per_second(lambda: broker.private_call("Balance"), THREADS, count),
                measure_calls_per_second(lambda: bare.query_private("Balance"), 1, THREADS * count),
            )
            for _ in range(5)
        ]
        refused = mine.state()["refused_nonces"]
        broker.close()
        bare.close()
    ratio = statistics.median(ours / one for ours, one in rounds)
    ours, one = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"\n{THREADS} threads, {latency_ms} ms of latency: {machine.describe(nonce_file)}")
    print(f"  ours {ours:.1f} calls/s, one krakenex thread {one:.1f} calls/s: {ratio:.3f}", end="")
    print(
        f", at least {THROUGHPUT_RATIO_MIN}: {format_verdict(ratio >= THROUGHPUT_RATIO_MIN)}"
        if latency_ms
        else " (no target)"
    )
    print(f"  refused nonces {refused}")
    assert refused == 0


def measure_seconds_to_first_call(
    arguments: list[str], environment: dict[str, str], exchange_process: ExchangeProcess
) -> float:
    """Return the seconds from the start of a process to its first accepted private call."""
    before = exchange_process.state()["accepted"]
    start = boottime_seconds()
    process = subprocess.Popen(
        [sys.executable, *arguments], env={**os.environ, **environment}, stdout=subprocess.DEVNULL, cwd=ROOT
    )
    try:
        while exchange_process.state()["accepted"] == before:
            assert boottime_seconds() - start < 30, "no private call was accepted"
            time.sleep(0.001)
        return boottime_seconds() - start
    finally:
        process.kill()
        process.wait()


@pytest.mark.bench
def test_start_to_first_private_call(nonce_file: Path, tmp_path: Path) -> None:
    """Print the ratio of main.py to a krakenex script: seconds from process start to the first accepted call."""
    with run_exchange() as theirs, run_exchange() as mine:
        live = {
            "TRADING_MODE": "live",
            "KRAKEN_API_URL": mine.url,
            "KRAKEN_API_KEY": mine.key,
            "KRAKEN_API_SECRET": mine.secret,
            "STATE_DIR": str(tmp_path),
        }
        bare = ["-c", BARE_START, theirs.url, theirs.key, theirs.secret]
        rounds = [
            (measure_seconds_to_first_call(["main.py"], live, mine), measure_seconds_to_first_call(bare, {}, theirs))
            for _ in range(STARTS + 1)
        ][1:]
        refused = mine.state()["refused_nonces"]
    ours, one = (statistics.median(column) for column in zip(*rounds, strict=True))
    print(f"\nstart to first accepted private call: {machine.describe(nonce_file)}")
    print(f"  main.py {ours:.3f} s, krakenex {one:.3f} s: {ours / one:.2f}", end="")
    print(f", at most {START_RATIO_MAX:g}: {format_verdict(ours / one <= START_RATIO_MAX)}")
    assert refused == 0

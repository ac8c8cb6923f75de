"""Cost of a shared store: a nonce, the request lock, many senders on one key, and a leader handover."""

from __future__ import annotations

import signal
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import psycopg
import pytest
import redis

from bot import broker_manager
from bot.base.clock import boottime_seconds
from bot.broker_manager import get_kraken_nonce, kraken_request_lock
from bot.nonce.store_protocol import NonceRequest, NonceStore
from tests.acceptance.local_kraken import LocalKraken, local_kraken
from tests.acceptance.processes import BotProcess
from tests.acceptance.sender_child import SenderPlan
from tests.benchmarks import machine
from tests.benchmarks.bench_broker import format_verdict, run_exchange
from tests.child_process import Child
from tests.servers import Server, open_postgres, open_redis
from tests.stores.key_rows import MAX_NONCE
from tests.tcp_proxy import FaultProxy

KEY = "bench"
ROUNDS, CALLS_PER_ROUND = 40, 100
NONCE_RATIO_MAX = 1.3
SENDERS, CALLS, SENDER_ROUNDS = 8, 160, 3
SENDERS_RATIO_MIN = 0.8
SIGTERM_HANDOVER_SECONDS_MAX, HANDOVERS = 1.0, 3
LEASE_SECONDS = 10.0
# Hardly faster than real time: at 1 a bot would use the wall clock, which is not this market's.
SPEED = 2.0

UPSERT = "INSERT INTO bare VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET n = bare.n + 1 RETURNING n"
REQUEST = NonceRequest(0, MAX_NONCE)


@pytest.fixture
def nonce_store(nonce_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that sets NONCE_STORE; the nonce file is the test's own."""
    assert str(broker_manager.NONCE_FILE) == str(nonce_file)
    return lambda url: monkeypatch.setattr(broker_manager, "NONCE_STORE", url)


def next_nonce() -> int:
    """Return a nonce as the bot gets it: from the store, with a copy in the local file."""
    return get_kraken_nonce(api_key=KEY)


def measure_microseconds(work: Callable[[], object]) -> float:
    """Return the mean cost of a call in microseconds."""
    start = time.perf_counter_ns()
    for _ in range(CALLS_PER_ROUND):
        work()
    return (time.perf_counter_ns() - start) / 1000 / CALLS_PER_ROUND


def print_nonces(title: str, bare_name: str, bare: Callable[[], object], store: NonceStore) -> None:
    """Measure a nonce, the store's part of it and the bare command alternately; print medians and ratios."""

    def lock_and_next_nonce() -> None:
        with kraken_request_lock(api_key=KEY):
            next_nonce()

    variants = (next_nonce, lambda: store.next_nonce(REQUEST), bare, lock_and_next_nonce)
    for way in variants:
        way()
    rounds = [[measure_microseconds(way) for way in variants] for _ in range(ROUNDS)]
    nonce_us, store_us, bare_us, lock_us = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(one[0] / one[2] for one in rounds)
    print(f"\n{title}")
    print(f"  get_kraken_nonce() {nonce_us:.0f} us, {bare_name} {bare_us:.0f} us: {ratio:.2f}", end="")
    print(f", at most {NONCE_RATIO_MAX}: {format_verdict(ratio <= NONCE_RATIO_MAX)}")
    print(f"  the store's next_nonce alone {store_us:.0f} us: {store_us / bare_us:.2f}", end="")
    print(f"; request lock and nonce {lock_us:.0f} us")


def print_round_trips(server: Server, nonce_store: Callable[[str], None]) -> None:
    """Print the number of round trips of a request lock with its nonce."""
    with FaultProxy(server) as proxy:
        nonce_store(proxy.url)
        with closing(broker_manager._open_shared_store(KEY, "us").backend):
            counts = []
            for _ in range(2):
                with kraken_request_lock(api_key=KEY):
                    next_nonce()
                counts.append(proxy.responses)
    round_trips = counts[1] - counts[0]
    print(f"  round trips of request lock and nonce {round_trips}, at most 2: {format_verdict(round_trips <= 2)}")


@pytest.mark.bench
@pytest.mark.parametrize("append_only", [False, True], ids=["in memory", "synced at every command"])
def test_cost_of_a_nonce_from_redis(nonce_store: Callable[[str], None], tmp_path: Path, append_only: bool) -> None:
    """Print the cost of a nonce and of a bare INCR through redis-py, and the round trips of the request lock."""
    with open_redis(tmp_path, append_only=append_only) as server, redis.Redis.from_url(server.url) as client:
        nonce_store(server.url)
        kind = "synced at every command" if append_only else "in memory"
        with closing(broker_manager._open_shared_store(KEY, "us").backend) as store:
            title = f"Redis, {kind}: {machine.describe(tmp_path)}"
            print_nonces(title, "bare INCR", lambda: client.incr("bare"), store)
        print_round_trips(server, nonce_store)


@pytest.mark.bench
@pytest.mark.parametrize("fsync", ["off", "on"])
def test_cost_of_a_nonce_from_postgres(nonce_store: Callable[[str], None], tmp_path: Path, fsync: str) -> None:
    """Print the cost of a nonce and of a bare upsert through psycopg, and the round trips of the request lock."""
    with open_postgres(tmp_path, fsync=fsync) as server:
        nonce_store(server.url)
        with (
            psycopg.connect(server.url, autocommit=True, prepare_threshold=None) as bare,
            closing(broker_manager._open_shared_store(KEY, "us").backend) as store,
        ):
            bare.execute("CREATE TABLE bare (name text PRIMARY KEY, n bigint NOT NULL)")
            title = f"PostgreSQL, fsync {fsync}: {machine.describe(tmp_path)}"
            print_nonces(title, "bare upsert", lambda: bare.execute(UPSERT, [KEY]).fetchone(), store)
        print_round_trips(server, nonce_store)


def measure_calls_per_second(plan: SenderPlan, folder: Path, senders: int) -> float:
    """Return the calls per second of all senders together, each a process with its own state folder."""
    with ExitStack() as stack:
        children = []
        for number in range(senders):
            environment = {"STATE_DIR": str(folder / f"host{number}")}
            child = Child("tests.acceptance.sender_child", plan.to_json(), limit_seconds=300, environment=environment)
            children.append(stack.enter_context(child))
        for child in children:
            child.expect_line("ready")
        start = boottime_seconds()
        for child in children:
            child.write_line("go")
        first = [child.read_line() for child in children]
        seconds = boottime_seconds() - start
        assert all(
            line.startswith("ok ") for line in first + [line for child in children for line in child.read_to_end()]
        )
    return senders * plan.calls / seconds


@pytest.mark.bench
@pytest.mark.parametrize("latency_ms", [20, 5])
def test_many_senders(tmp_path: Path, latency_ms: int) -> None:
    """Print the ratio of calls per second: 8 senders on one key through Redis to one sender, measured alternately."""
    with open_redis(tmp_path, append_only=False) as server, run_exchange(latency_ms) as kraken:
        now = time.time()
        boot = boottime_seconds()

        def measured(senders: int) -> float:
            plan = SenderPlan(kraken.url, kraken.key, kraken.secret, server.url, now, boot, 1.0, CALLS // senders)
            return measure_calls_per_second(plan, tmp_path, senders)

        rounds = [(measured(SENDERS), measured(1)) for _ in range(SENDER_ROUNDS)]
        refused = kraken.state()["refused_nonces"]
    many, one = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(both / alone for both, alone in rounds)
    print(f"\n{SENDERS} senders on one key through Redis, {latency_ms} ms of latency: {machine.describe(tmp_path)}")
    print(f"  together {many:.1f} calls/s, one alone {one:.1f} calls/s: {ratio:.3f}", end="")
    met = f", at least {SENDERS_RATIO_MIN}: {format_verdict(ratio >= SENDERS_RATIO_MIN)}"
    print(met if latency_ms == 20 else " (no target)")
    print(f"  refused nonces {refused}")
    assert refused == 0


class FailoverPair:
    """Instances of main.py: one leader and one standby at a time."""

    def __init__(self, kraken: LocalKraken, store: str, folder: Path) -> None:
        self._kraken, self._store, self._folder = kraken, store, folder
        self._open = ExitStack()
        self._count = 0
        self._leader = self._start()
        self._leader.wait_for("^leader ")
        kraken.wait_for("GetApiKeyInfo", self._count)

    def close(self) -> None:
        """End all instances."""
        self._open.close()

    def _start(self) -> BotProcess:
        self._count += 1
        settings = self._kraken.settings(
            NONCE_STORE=self._store, LEASE_SECONDS=f"{LEASE_SECONDS:g}", STATE_DIR=str(self._folder / f"{self._count}")
        )
        return self._open.enter_context(BotProcess(settings=settings, timeout_seconds=300))

    def measure_handover(self, number: signal.Signals) -> float:
        """Send the leader a signal; return the seconds until the first accepted request of the next leader."""
        leader, self._leader = self._leader, self._start()
        self._leader.wait_for("^Standby: ")
        clock = self._kraken.simulator.clock
        start_seconds = clock.now()
        leader.send(number)
        # A leader sends this request first and never again.
        self._kraken.wait_for("GetApiKeyInfo", self._count)
        rows = [row for row in list(self._kraken.simulator.request_log) if row.method == "GetApiKeyInfo"]
        assert rows[-1].is_nonce_accepted
        # The new leader has reconciled what it took over before the next instance starts.
        self._leader.wait_for("^Account: ")
        return (rows[-1].time - start_seconds) / clock.speed


@contextmanager
def open_failover_pair(tmp_path: Path) -> Iterator[FailoverPair]:
    """Open a local Kraken, a Redis and a leader."""
    (tmp_path / "redis").mkdir()
    with local_kraken(tmp_path, speed=SPEED) as kraken, open_redis(tmp_path / "redis") as server:
        with closing(FailoverPair(kraken, server.url, tmp_path)) as opened:
            yield opened
        assert kraken.refused_nonces == 0


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_handover_time(tmp_path: Path) -> None:
    """Print the time from the leader's signal to the next leader's first accepted request, by the exchange's clock."""
    with open_failover_pair(tmp_path) as instances:
        seconds = {
            number: [instances.measure_handover(number) for _ in range(HANDOVERS)]
            for number in (signal.SIGTERM, signal.SIGKILL)
        }
    print(f"\nhandover, a lease of {LEASE_SECONDS:g} s: {machine.describe(tmp_path)}")
    limits = {signal.SIGTERM: SIGTERM_HANDOVER_SECONDS_MAX, signal.SIGKILL: LEASE_SECONDS + 1}
    for number, limit in limits.items():
        worst = max(seconds[number])
        each = ", ".join(f"{one:.2f}" for one in seconds[number])
        print(f"  on {number.name} {each} s; at most {limit:g}: {format_verdict(worst <= limit)}")

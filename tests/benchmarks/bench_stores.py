"""What a shared store costs: a nonce, a turn, many senders on one key, and a hand-over from one leader to the next."""

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
from bot.broker_manager import get_kraken_nonce, kraken_turn
from bot.nonce.store_protocol import Engine, Wish
from tests.acceptance.local_kraken import LocalKraken, local_kraken
from tests.acceptance.processes import Bot
from tests.acceptance.sender_child import Plan
from tests.benchmarks import machine
from tests.benchmarks.bench_broker import exchange, verdict
from tests.child_process import Child
from tests.servers import Server, open_postgres, open_redis
from tests.stores.key_rows import HIGHEST
from tests.tcp_proxy import Gateway

KEY = "bench"
ROUNDS, DRAWS = 40, 100
NONCE_RATIO_MAX = 1.3
SENDERS, CALLS, SENDER_ROUNDS = 8, 160, 3
SENDERS_RATIO_MIN = 0.8
TERM_SECONDS_MAX, HAND_OVERS = 1.0, 3
LEASE_SECONDS = 10.0
# Hardly faster than real: at 1 a bot would take the wall clock's time, which is not this market's.
SPEED = 2.0

UPSERT = "INSERT INTO bare VALUES (%s, 1) ON CONFLICT (name) DO UPDATE SET n = bare.n + 1 RETURNING n"
WISH = Wish(0, HIGHEST)


@pytest.fixture
def nonce_store(nonce_file: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return what sets NONCE_STORE, with a nonce file of the test's own."""
    assert str(broker_manager.NONCE_FILE) == str(nonce_file)
    return lambda url: monkeypatch.setattr(broker_manager, "NONCE_STORE", url)


def draw() -> int:
    """Return a nonce as the bot draws it: the store's, kept in the local file."""
    return get_kraken_nonce(api_key=KEY)


def microseconds_each(work: Callable[[], object]) -> float:
    """Return what one of many calls costs, in microseconds."""
    start = time.perf_counter_ns()
    for _ in range(DRAWS):
        work()
    return (time.perf_counter_ns() - start) / 1000 / DRAWS


def print_nonces(title: str, bare_name: str, bare: Callable[[], object], engine: Engine) -> None:
    """Measure a nonce, the store's part of it and the bare command, in turn; print the medians and their ratios."""

    def turn() -> None:
        with kraken_turn(api_key=KEY):
            draw()

    ways = (draw, lambda: engine.draw(WISH), bare, turn)
    for way in ways:
        way()
    rounds = [[microseconds_each(way) for way in ways] for _ in range(ROUNDS)]
    nonce_us, engine_us, bare_us, turn_us = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(one[0] / one[2] for one in rounds)
    print(f"\n{title}")
    print(f"  get_kraken_nonce() {nonce_us:.0f} us, {bare_name} {bare_us:.0f} us: {ratio:.2f}", end="")
    print(f", at most {NONCE_RATIO_MAX}: {verdict(ratio <= NONCE_RATIO_MAX)}")
    print(f"  the engine's draw alone {engine_us:.0f} us: {engine_us / bare_us:.2f}; turn and nonce {turn_us:.0f} us")


def print_round_trips(server: Server, nonce_store: Callable[[str], None]) -> None:
    """Print how many answers come over the wire for a turn with its nonce."""
    with Gateway(server) as gateway:
        nonce_store(gateway.url)
        with closing(broker_manager._shared_store(KEY, "us").engine):
            counts = []
            for _ in range(2):
                with kraken_turn(api_key=KEY):
                    draw()
                counts.append(gateway.answers)
    steps = counts[1] - counts[0]
    print(f"  round trips of a turn with its nonce {steps}, at most 2: {verdict(steps <= 2)}")


@pytest.mark.bench
@pytest.mark.parametrize("append_only", [False, True], ids=["in memory", "synced at every command"])
def test_cost_of_a_nonce_from_redis(nonce_store: Callable[[str], None], tmp_path: Path, append_only: bool) -> None:
    """A nonce and a bare INCR through redis-py, in turn; and how many round trips a turn takes."""
    with open_redis(tmp_path, append_only=append_only) as server, redis.Redis.from_url(server.url) as client:
        nonce_store(server.url)
        kind = "synced at every command" if append_only else "in memory"
        with closing(broker_manager._shared_store(KEY, "us").engine) as engine:
            title = f"Redis, {kind}: {machine.describe(tmp_path)}"
            print_nonces(title, "bare INCR", lambda: client.incr("bare"), engine)
        print_round_trips(server, nonce_store)


@pytest.mark.bench
@pytest.mark.parametrize("fsync", ["off", "on"])
def test_cost_of_a_nonce_from_postgres(nonce_store: Callable[[str], None], tmp_path: Path, fsync: str) -> None:
    """A nonce and a bare upsert through psycopg, in turn; and how many round trips a turn takes."""
    with open_postgres(tmp_path, fsync=fsync) as server:
        nonce_store(server.url)
        with (
            psycopg.connect(server.url, autocommit=True, prepare_threshold=None) as bare,
            closing(broker_manager._shared_store(KEY, "us").engine) as engine,
        ):
            bare.execute("CREATE TABLE bare (name text PRIMARY KEY, n bigint NOT NULL)")
            title = f"PostgreSQL, fsync {fsync}: {machine.describe(tmp_path)}"
            print_nonces(title, "bare upsert", lambda: bare.execute(UPSERT, [KEY]).fetchone(), engine)
        print_round_trips(server, nonce_store)


def calls_a_second(plan: Plan, folder: Path, senders: int) -> float:
    """Return how many calls a second so many senders make together, each a process with a folder of its own."""
    with ExitStack() as stack:
        children = []
        for number in range(senders):
            environment = {"STATE_DIR": str(folder / f"host{number}")}
            child = Child("tests.acceptance.sender_child", plan.line(), limit_seconds=300, environment=environment)
            children.append(stack.enter_context(child))
        for child in children:
            child.expect("ready")
        start = boottime_seconds()
        for child in children:
            child.tell("go")
        first = [child.line() for child in children]
        seconds = boottime_seconds() - start
        assert all(line.startswith("ok ") for line in first + [line for child in children for line in child.rest()])
    return senders * plan.calls / seconds


@pytest.mark.bench
@pytest.mark.parametrize("latency_ms", [20, 5])
def test_many_senders(tmp_path: Path, latency_ms: int) -> None:
    """Calls a second of 8 senders on one key through Redis and of one sender, in turn: the ratio is printed."""
    with open_redis(tmp_path, append_only=False) as server, exchange(latency_ms) as kraken:
        now = time.time()
        boot = boottime_seconds()

        def measured(senders: int) -> float:
            plan = Plan(kraken.url, kraken.key, kraken.secret, server.url, now, boot, 1.0, CALLS // senders)
            return calls_a_second(plan, tmp_path, senders)

        rounds = [(measured(SENDERS), measured(1)) for _ in range(SENDER_ROUNDS)]
        refused = kraken.state()["refused_nonces"]
    many, one = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratio = statistics.median(both / alone for both, alone in rounds)
    print(f"\n{SENDERS} senders on one key through Redis, {latency_ms} ms of latency: {machine.describe(tmp_path)}")
    print(f"  together {many:.1f} calls/s, one alone {one:.1f} calls/s: {ratio:.3f}", end="")
    met = f", at least {SENDERS_RATIO_MIN}: {verdict(ratio >= SENDERS_RATIO_MIN)}"
    print(met if latency_ms == 20 else " (no target)")
    print(f"  refused nonces {refused}")
    assert refused == 0


class Relay:
    """Instances of main.py, of which one leads and the next one stands by."""

    def __init__(self, kraken: LocalKraken, store: str, folder: Path) -> None:
        self._kraken, self._store, self._folder = kraken, store, folder
        self._open = ExitStack()
        self._count = 0
        self._leader = self._start()
        self._leader.wait_for("^leader ")
        kraken.wait_for("GetApiKeyInfo", self._count)

    def close(self) -> None:
        """End all of them."""
        self._open.close()

    def _start(self) -> Bot:
        self._count += 1
        settings = self._kraken.settings(
            NONCE_STORE=self._store, LEASE_SECONDS=f"{LEASE_SECONDS:g}", STATE_DIR=str(self._folder / f"{self._count}")
        )
        return self._open.enter_context(Bot(settings=settings, limit_seconds=300))

    def hand_over(self, number: signal.Signals) -> float:
        """Send the leader a signal; return the seconds until the first accepted request of the next one."""
        leader, self._leader = self._leader, self._start()
        self._leader.wait_for("^standby ")
        clock = self._kraken.simulator.clock
        begin = clock.now()
        leader.send(number)
        # The first that a leader sends, and nobody does later.
        self._kraken.wait_for("GetApiKeyInfo", self._count)
        rows = [row for row in list(self._kraken.simulator.log) if row.method == "GetApiKeyInfo"]
        assert rows[-1].accepted
        # It has settled what it took over, or found nothing, before the next one is started.
        self._leader.wait_for("^account ")
        return (rows[-1].time - begin) / clock.speed


@contextmanager
def relay(tmp_path: Path) -> Iterator[Relay]:
    """Open a local Kraken, a Redis and a leader."""
    (tmp_path / "redis").mkdir()
    with local_kraken(tmp_path, speed=SPEED) as kraken, open_redis(tmp_path / "redis") as server:
        with closing(Relay(kraken, server.url, tmp_path)) as opened:
            yield opened
        assert kraken.refused_nonces == 0


@pytest.mark.bench
@pytest.mark.timeout(300)
def test_hand_over(tmp_path: Path) -> None:
    """From the leader's signal to the next leader's first accepted request, by the exchange's clock: printed."""
    with relay(tmp_path) as instances:
        seconds = {
            number: [instances.hand_over(number) for _ in range(HAND_OVERS)]
            for number in (signal.SIGTERM, signal.SIGKILL)
        }
    print(f"\nhand-over, a lease of {LEASE_SECONDS:g} s: {machine.describe(tmp_path)}")
    limits = {signal.SIGTERM: TERM_SECONDS_MAX, signal.SIGKILL: LEASE_SECONDS + 1}
    for number, limit in limits.items():
        worst = max(seconds[number])
        each = ", ".join(f"{one:.2f}" for one in seconds[number])
        print(f"  on {number.name} {each} s; at most {limit:g}: {verdict(worst <= limit)}")

"""Start-up time of a bot with a long order history, and the time it needs to resolve its unknown orders."""

from __future__ import annotations

import re
import shutil
import statistics
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from bot import broker_manager
from bot.base.clock import MarketClock, ReplayClock, boottime_seconds, sleep
from bot.base.models import Side
from bot.base.paths import journal_file_path
from bot.broker_manager import KrakenBroker
from bot.kraken.account import HISTORY_PAGE_SIZE
from bot.kraken.new_order import ORDER_DEADLINE_SECONDS, client_order_id
from bot.kraken.rate_counters import UNLIMITED
from bot.orders.journal import Journal
from bot.orders.order_state import UNRESOLVED_STATES, Intent
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS, QUERY_GAP_SECONDS
from bot.simulator.instruments import ASSETS, KNOWN_PAIRS, AssetRules, Instruments, PairRules
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from bot.trading.order_tracker import FillFetcher, OrderTracker
from tests.acceptance.local_kraken import CROSSING, HOUR, RESTING, START, LocalKraken, ScriptedCandles, SkippableClock
from tests.acceptance.processes import BotProcess
from tests.benchmarks import machine
from tests.benchmarks.bench_broker import BARE_START, format_verdict, measure_seconds_to_first_call, run_exchange

BOT_ID = "bench"
HISTORY_ORDERS = 10_000
UNKNOWN_ORDERS = 20
STARTS = 3
FIRST_ORDER_SECONDS_MAX = 2.0
RECONCILIATION_SECONDS_MAX = ORDER_DEADLINE_SECONDS + DEADLINE_MARGIN_SECONDS + QUERY_GAP_SECONDS
WAIT_SECONDS_MAX = 30.0
REQUEST_TIMEOUT_SECONDS = 10.0
# Hardly faster than real time: the program's own seconds count twice. At 1 the bot would use the wall clock.
SPEED = 2.0
# The close of the candle in which the averages cross: the signal that the bot finds when it starts.
NOW = START + (len(CROSSING) - 1) * HOUR
NONCE_FILE_NAME = "kraken_nonce.txt"
VOLUME = Decimal("0.001")
# Above and below every price.
HIGH, LOW = Decimal(2000), Decimal(800)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")


def make_unlisted_pair(number: int) -> PairRules:
    """Return an invented pair: one for each unknown order, because a pair can have only one."""
    name = f"COIN{number:02d}"
    names = (f"{name}/USD", f"{name}USD", f"{name}USD", f"{name}/USD")
    decimals, tick_size = 2, Decimal("0.01")
    return PairRules(*names, AssetRules(name, name, 10, 5), ASSETS["ZUSD"], decimals, tick_size, VOLUME, LOW * VOLUME)


UNLISTED_PAIRS = [make_unlisted_pair(number) for number in range(UNKNOWN_ORDERS)]


def open_simulator(state: Path, clock: MarketClock) -> Simulator:
    """Return a simulator with its account in a state folder."""
    options = SimulatorOptions(state_path=state / "exchange.sqlite")
    return Simulator(
        options, clock, ScriptedCandles(RESTING, HOUR), Instruments([KNOWN_PAIRS["BTC/USD"], *UNLISTED_PAIRS])
    )


def add_order(simulator: Simulator, cl_ord_id: str, pair: str, side: str, price: Decimal) -> None:
    """Place an order directly on the exchange, without HTTP."""
    order = {"pair": pair, "type": side, "ordertype": "limit", "volume": str(VOLUME), "price": str(price)}
    with simulator.api.lock:
        simulator.exchange.add_order({**order, "oflags": "fciq", "cl_ord_id": cl_ord_id})


def make_client_order_id(symbol: str, number: int) -> str:
    """Return the client order id of an order of this bot."""
    return client_order_id(BOT_ID, symbol, "bench", number, kind="entry", attempt=0)


def fill_history(state: Path) -> None:
    """Fill 10,000 orders of this bot along the price path; the final position is zero."""
    clock = ReplayClock(START + HOUR, NOW)
    every_seconds = (NOW - 2 * HOUR - clock.now()) / HISTORY_ORDERS
    with open_simulator(state, clock) as simulator:
        for number in range(HISTORY_ORDERS):
            clock.wait(every_seconds, threading.Event())
            simulator.exchange.advance(clock.now())
            side, price = ("sell", LOW) if number % 2 else ("buy", HIGH)
            add_order(simulator, make_client_order_id("BTC/USD", number), "XBTUSD", side, price)


def rebuild_journal(state: Path, simulator: Simulator) -> float:
    """Rebuild the journal from Kraken's order records, as after a lost disk; return the seconds without trading."""
    broker_manager.NONCE_FILE = str(state / NONCE_FILE_NAME)
    key, secret = simulator.key, simulator.secret
    broker = KrakenBroker(
        key, secret, api_url=simulator.url, tier=UNLIMITED, bot_id=BOT_ID, market_clock=simulator.clock
    )
    with closing(broker):
        broker.connect()
        start_seconds = boottime_seconds()
        OrderTracker(broker).rebuild()
        rebuilt_seconds = boottime_seconds() - start_seconds
        fills = FillFetcher(broker)
        fills.load_missing()
        for _ in range(HISTORY_ORDERS // HISTORY_PAGE_SIZE):
            fills.fetch_page()
        assert len(broker.journal.intents()) == len(broker.journal.fills()) == HISTORY_ORDERS
    return rebuilt_seconds


def create_unknown_orders(state: Path, simulator: Simulator) -> None:
    """Leave 20 unknown orders, each abandoned after 10 s without an answer; Kraken has every other one."""
    with closing(Journal(journal_file_path(state / NONCE_FILE_NAME, simulator.key))) as journal:
        now = simulator.clock.now()
        for number, pair in enumerate(UNLISTED_PAIRS):
            sent_seconds = now - (UNKNOWN_ORDERS - 1 - number) * REQUEST_TIMEOUT_SECONDS
            cl_ord_id = make_client_order_id(pair.symbol, number)
            journal.record_intent(Intent(cl_ord_id, pair.symbol, Side.BUY, "limit", VOLUME, HIGH, sent_seconds))
            journal.mark_sent(cl_ord_id, "1", sent_seconds, sent_seconds + ORDER_DEADLINE_SECONDS)
            if number % 2 == 0:
                add_order(simulator, cl_ord_id, pair.altname, "buy", HIGH)
        journal.set_complete_until(BOT_ID, now)


@dataclass(frozen=True)
class StartMeasurement:
    """Seconds to the first order, market seconds from the first answer to the last outcome, and peak memory."""

    first_order_seconds: float
    reconciliation_seconds: float
    peak_kib: int


def wait_until(condition: Callable[[], bool]) -> None:
    """Poll until the condition holds."""
    limit = boottime_seconds() + WAIT_SECONDS_MAX
    while not condition():
        assert boottime_seconds() < limit, "the condition does not become true"
        sleep(0.002)


@contextmanager
def run_restored_exchange(template: Path, state: Path) -> Iterator[LocalKraken]:
    """Run the exchange on a copy of a bot's state; its market is a minute after the signal."""
    shutil.copytree(template, state)
    clock = SkippableClock(NOW + 60, SPEED)
    with open_simulator(state, clock) as simulator:
        yield LocalKraken(simulator, clock, state, SPEED, "1h")


def measure_start(template: Path, state: Path) -> StartMeasurement:
    """Start the bot on the order history and measure it."""
    with run_restored_exchange(template, state) as kraken:
        create_unknown_orders(state, kraken.simulator)
        clock, account = kraken.simulator.clock, kraken.simulator.exchange.account
        before, start_seconds = len(account.orders), boottime_seconds()
        with BotProcess(settings=kraken.settings(BOT_ID=BOT_ID)) as bot:
            wait_until(lambda: len(account.orders) > before)
            first_order_seconds = boottime_seconds() - start_seconds
            first_response_seconds = next(row.time for row in kraken.simulator.request_log if row.is_nonce_accepted)
            with closing(Journal(journal_file_path(state / NONCE_FILE_NAME, kraken.simulator.key))) as journal:
                wait_until(lambda: not journal.unresolved_intents())
                reconciliation_seconds = clock.now() - first_response_seconds
                states = [one.state for one in journal.intents() if one.symbol.startswith("COIN")]
            status = Path(f"/proc/{bot.pid}/status").read_text("ascii")
            assert bot.stop() == 0
        kraken.check_account()
        assert (len(account.orders), kraken.refused_nonces) == (before + 1, 0)
    assert len(states) == UNKNOWN_ORDERS
    assert not UNRESOLVED_STATES & set(states)
    assert sum("placed" not in state for state in states) == UNKNOWN_ORDERS // 2
    return StartMeasurement(
        first_order_seconds, reconciliation_seconds, int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])
    )


@linux_only
@pytest.mark.bench
@pytest.mark.timeout(300)
def test_start_with_a_long_order_history(tmp_path: Path, nonce_file: Path) -> None:
    """Print start-up times with 10,000 closed and 20 unknown orders; each start resolves all 20 and trades once."""
    template = tmp_path / "template"
    template.mkdir()
    fill_history(template)
    with open_simulator(template, MarketClock(NOW)) as simulator:
        rebuilt_seconds = rebuild_journal(template, simulator)
    starts = [measure_start(template, tmp_path / f"start{number}") for number in range(STARTS)]
    with run_exchange() as theirs:
        bare = ["-c", BARE_START, theirs.url, theirs.key, theirs.secret]
        bare_seconds = statistics.median(measure_seconds_to_first_call(bare, {}, theirs) for _ in range(STARTS))
    first_order_seconds = statistics.median(one.first_order_seconds for one in starts)
    reconciliation_seconds = max(one.reconciliation_seconds for one in starts)
    print(f"\nstart with {HISTORY_ORDERS} closed and {UNKNOWN_ORDERS} unknown orders: {machine.describe(nonce_file)}")
    print(f"  process start to its first order {first_order_seconds:.2f} s", end="")
    print(f" ({', '.join(f'{one.first_order_seconds:.2f}' for one in starts)})", end="")
    verdict = format_verdict(first_order_seconds <= FIRST_ORDER_SECONDS_MAX)
    print(f", at most {FIRST_ORDER_SECONDS_MAX:g}: {verdict}", end="")
    print(f"; {first_order_seconds / bare_seconds:.1f} starts of krakenex to its first call ({bare_seconds:.2f} s)")
    print(f"  first answer to last outcome of {UNKNOWN_ORDERS} {reconciliation_seconds:.1f} s of the market", end="")
    verdict = format_verdict(reconciliation_seconds <= RECONCILIATION_SECONDS_MAX)
    print(f", at most {RECONCILIATION_SECONDS_MAX:g}: {verdict}")
    print(f"  peak memory {max(one.peak_kib for one in starts) / 1024:.0f} MiB", end="")
    print(f"; with the journal lost, reading Kraken's order records {rebuilt_seconds:.1f} s")
    assert len(starts) == STARTS

"""How soon a bot trades that has a long past, and how soon it knows the fate of what it had not been answered."""

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
from bot.base.paths import journal_file
from bot.broker_manager import KrakenBroker
from bot.broker_verbs import HISTORY_PAGE_ROWS
from bot.kraken.order_requests import client_order_id
from bot.kraken.rate_counters import UNLIMITED
from bot.orders.journal import Journal
from bot.orders.order_state import UNSETTLED, Intent
from bot.orders.reconciliation import DEADLINE_SECONDS, GAP_SECONDS, MARGIN_SECONDS
from bot.simulator.instruments import ASSETS, KNOWN_PAIRS, AssetRules, Catalogue, PairRules
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from bot.trading.fills import Fills
from bot.trading.order_tracker import OwnOrders
from tests.acceptance.local_kraken import CROSSING, HOUR, RESTING, START, DrawnCandles, DrawnClock, LocalKraken
from tests.acceptance.processes import Bot
from tests.benchmarks import machine
from tests.benchmarks.bench_broker import BARE_START, exchange, seconds_to_first_call, verdict

BOT_ID = "bench"
SETTLED = 10_000
UNKNOWN = 20
STARTS = 3
TRADING_SECONDS_MAX = 2.0
SETTLING_SECONDS_MAX = DEADLINE_SECONDS + MARGIN_SECONDS + GAP_SECONDS
WAIT_SECONDS_MAX = 30.0
GIVEN_UP_SECONDS = 10.0
# Hardly faster than real: the program's own seconds count as often. At 1 the bot would take the wall clock's time.
SPEED = 2.0
# The close of the candle in which the averages cross: the signal that the bot finds when it starts.
NOW = START + (len(CROSSING) - 1) * HOUR
NONCE_FILE_NAME = "kraken_nonce.txt"
VOLUME = Decimal("0.001")
# Above and below every price.
HIGH, LOW = Decimal(2000), Decimal(800)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="the peak of a process's memory is read from /proc")


def coin(number: int) -> PairRules:
    """Return a pair that is traded nowhere: one for each unknown order, as no pair can have two."""
    name = f"COIN{number:02d}"
    names = (f"{name}/USD", f"{name}USD", f"{name}USD", f"{name}/USD")
    decimals, cent = 2, Decimal("0.01")
    return PairRules(*names, AssetRules(name, name, 10, 5), ASSETS["ZUSD"], decimals, cent, VOLUME, LOW * VOLUME)


COINS = [coin(number) for number in range(UNKNOWN)]


def open_simulator(state: Path, clock: MarketClock) -> Simulator:
    """Return the simulator whose account is kept in a state folder."""
    options = SimulatorOptions(state_path=state / "exchange.sqlite")
    return Simulator(options, clock, DrawnCandles(RESTING, HOUR), Catalogue([KNOWN_PAIRS["BTC/USD"], *COINS]))


def add_order(simulator: Simulator, cl_ord_id: str, pair: str, side: str, price: Decimal) -> None:
    """Place an order that nobody asks for over HTTP."""
    order = {"pair": pair, "type": side, "ordertype": "limit", "volume": str(VOLUME), "price": str(price)}
    with simulator.api.lock:
        simulator.exchange.add_order({**order, "oflags": "fciq", "cl_ord_id": cl_ord_id})


def identity(symbol: str, number: int) -> str:
    """Return the name of an order of this bot."""
    return client_order_id(BOT_ID, symbol, "bench", number, kind="entry", attempt=0)


def trade_for_days(state: Path) -> None:
    """Fill 10,000 orders of this bot, one after the other along the price path; it holds nothing in the end."""
    clock = ReplayClock(START + HOUR, NOW)
    every_seconds = (NOW - 2 * HOUR - clock.now()) / SETTLED
    with open_simulator(state, clock) as simulator:
        for number in range(SETTLED):
            clock.wait(every_seconds, threading.Event())
            simulator.exchange.advance(clock.now())
            side, price = ("sell", LOW) if number % 2 else ("buy", HIGH)
            add_order(simulator, identity("BTC/USD", number), "XBTUSD", side, price)


def write_down(state: Path, simulator: Simulator) -> float:
    """Make the journal from Kraken's rows, as a bot does whose disk was lost; return how long it could not trade."""
    broker_manager.NONCE_FILE = str(state / NONCE_FILE_NAME)
    key, secret = simulator.key, simulator.secret
    broker = KrakenBroker(key, secret, api_url=simulator.url, tier=UNLIMITED, bot_id=BOT_ID, market=simulator.clock)
    with closing(broker):
        broker.connect()
        begin_seconds = boottime_seconds()
        OwnOrders(broker).rebuild()
        rebuilt_seconds = boottime_seconds() - begin_seconds
        fills = Fills(broker)
        fills.load()
        for _ in range(SETTLED // HISTORY_PAGE_ROWS):
            fills.fetch()
        assert len(broker.journal.intents()) == len(broker.journal.fills()) == SETTLED
    return rebuilt_seconds


def leave_unknown(state: Path, simulator: Simulator) -> None:
    """Leave 20 orders, each given up after 10 s without an answer, the last by a kill; Kraken has every other one."""
    with closing(Journal(journal_file(state / NONCE_FILE_NAME, simulator.key))) as journal:
        now = simulator.clock.now()
        for number, pair in enumerate(COINS):
            sent_seconds = now - (UNKNOWN - 1 - number) * GIVEN_UP_SECONDS
            name = identity(pair.symbol, number)
            journal.intend(Intent(name, pair.symbol, Side.BUY, "limit", VOLUME, HIGH, sent_seconds))
            journal.leave(name, "1", sent_seconds, sent_seconds + DEADLINE_SECONDS)
            if number % 2 == 0:
                add_order(simulator, name, pair.altname, "buy", HIGH)
        journal.set_known_until(BOT_ID, now)


@dataclass(frozen=True)
class Started:
    """Seconds to the first order, market seconds from the first answer to the last fate, and the peak of memory."""

    order_seconds: float
    settled_seconds: float
    peak_kib: int


def wait_until(done: Callable[[], bool]) -> None:
    """Wait, as briefly as it may be."""
    limit = boottime_seconds() + WAIT_SECONDS_MAX
    while not done():
        assert boottime_seconds() < limit, "it does not come"
        sleep(0.002)


@contextmanager
def left_behind(template: Path, state: Path) -> Iterator[LocalKraken]:
    """Run the exchange on a copy of what a bot has left behind; its market is a minute after the signal."""
    shutil.copytree(template, state)
    clock = DrawnClock(NOW + 60, SPEED)
    with open_simulator(state, clock) as simulator:
        yield LocalKraken(simulator, clock, state, SPEED, "1h")


def start(template: Path, state: Path) -> Started:
    """Start the bot on a past, and measure it."""
    with left_behind(template, state) as kraken:
        leave_unknown(state, kraken.simulator)
        clock, account = kraken.simulator.clock, kraken.simulator.exchange.account
        before, begin_seconds = len(account.orders), boottime_seconds()
        with Bot(settings=kraken.settings(BOT_ID=BOT_ID)) as bot:
            wait_until(lambda: len(account.orders) > before)
            order_seconds = boottime_seconds() - begin_seconds
            answered_seconds = next(row.time for row in kraken.simulator.log if row.accepted)
            with closing(Journal(journal_file(state / NONCE_FILE_NAME, kraken.simulator.key))) as journal:
                wait_until(lambda: not journal.unsettled())
                settled_seconds = clock.now() - answered_seconds
                states = [one.state for one in journal.intents() if one.symbol.startswith("COIN")]
            status = Path(f"/proc/{bot.pid}/status").read_text("ascii")
            assert bot.stop() == 0
        kraken.check_account()
        assert (len(account.orders), kraken.refused_nonces) == (before + 1, 0)
    assert len(states) == UNKNOWN
    assert not UNSETTLED & set(states)
    assert sum("placed" not in state for state in states) == UNKNOWN // 2
    return Started(order_seconds, settled_seconds, int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]))


@linux_only
@pytest.mark.bench
@pytest.mark.timeout(300)
def test_start_with_a_long_past(tmp_path: Path, nonce_file: Path) -> None:
    """Starts with 10,000 settled and 20 unknown orders are timed; each settles all 20 and trades on its signal once."""
    template = tmp_path / "template"
    template.mkdir()
    trade_for_days(template)
    with open_simulator(template, MarketClock(NOW)) as simulator:
        rebuilt_seconds = write_down(template, simulator)
    starts = [start(template, tmp_path / f"start{number}") for number in range(STARTS)]
    with exchange() as theirs:
        bare = ["-c", BARE_START, theirs.url, theirs.key, theirs.secret]
        bare_seconds = statistics.median(seconds_to_first_call(bare, {}, theirs) for _ in range(STARTS))
    order_seconds = statistics.median(one.order_seconds for one in starts)
    settled_seconds = max(one.settled_seconds for one in starts)
    print(f"\nstart with {SETTLED} settled orders and {UNKNOWN} unknown ones: {machine.describe(nonce_file)}")
    print(f"  process start to its first order {order_seconds:.2f} s", end="")
    print(f" ({', '.join(f'{one.order_seconds:.2f}' for one in starts)})", end="")
    print(f", at most {TRADING_SECONDS_MAX:g}: {verdict(order_seconds <= TRADING_SECONDS_MAX)}", end="")
    print(f"; {order_seconds / bare_seconds:.1f} starts of krakenex to its first call ({bare_seconds:.2f} s)")
    print(f"  first answer to the last of the {UNKNOWN} fates {settled_seconds:.1f} s of the market", end="")
    print(f", at most {SETTLING_SECONDS_MAX:g}: {verdict(settled_seconds <= SETTLING_SECONDS_MAX)}")
    print(f"  peak memory {max(one.peak_kib for one in starts) / 1024:.0f} MiB", end="")
    print(f"; with the journal lost, reading Kraken's rows {rebuilt_seconds:.1f} s")
    assert len(starts) == STARTS

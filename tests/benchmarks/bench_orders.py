"""Cost of an order on its whole path through journal and broker, and of its disk syncs."""

from __future__ import annotations

import os
import random
import shutil
import statistics
import sys
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import count
from pathlib import Path

import krakenex
import pytest

from bot import broker_manager
from bot.base.clock import format_rfc3339, wall_seconds
from bot.base.models import Side
from bot.broker_manager import KrakenBroker
from tests.benchmarks import machine
from tests.benchmarks.bench_broker import ExchangeProcess, format_verdict, measure_microseconds, run_exchange
from tests.child_process import Child

ORDER_RATIO_MAX = 1.5
ROUNDS = 400
SEED = 20261123
LARGE_BALANCE = ("--balance", "ZUSD=1000000000")
# Above every price, so that each order fills at once and no open order slows the exchange down.
MARKETABLE_PRICE, VOLUME = Decimal(10_000_000), Decimal("0.0001")
SYNCED_ORDERS = 200
BLOCK = os.urandom(4096)

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")


class BrokerOrders:
    """Orders through KrakenBroker, with journal and nonce file in one folder on disk."""

    def __init__(self, exchange_process: ExchangeProcess) -> None:
        self.broker: KrakenBroker = exchange_process.open_broker()
        self.broker.connect()
        # Nothing was sent before. Without this, start-up reconciliation delays the first signal's order by 16 s.
        self.broker.journal.set_complete_until(self.broker.bot_id, self.broker.now())
        self._numbers = count()

    def place_with_signal_id(self) -> None:
        """Place an order with the client order id of a signal, as the trader does."""
        cl_ord_id = self.broker.client_order_id("BTC/USD", "bench", next(self._numbers) * 60, "entry")
        self.broker.place_limit_order("BTC/USD", Side.BUY, VOLUME, MARKETABLE_PRICE, cl_ord_id=cl_ord_id)

    def place_with_random_id(self) -> None:
        """Place an order with a random client order id, as a script does."""
        self.broker.place_limit_order("BTC/USD", Side.BUY, VOLUME, MARKETABLE_PRICE)


class KrakenexOrders:
    """The same AddOrder through krakenex, and one synced write to the same disk; the nonces are of the same key."""

    def __init__(self, exchange_process: ExchangeProcess, folder: Path) -> None:
        self.api = krakenex.API(exchange_process.key, exchange_process.secret)
        self.api.uri = exchange_process.url
        self.api._nonce = self._nonce
        self._descriptor = os.open(folder / "block", os.O_RDWR | os.O_CREAT)
        self._is_synced = False
        self._numbers = count()

    def _nonce(self) -> int:
        if self._is_synced:
            self.sync()
        return int(wall_seconds() * 1_000_000)

    def sync(self) -> None:
        """Write 4 KiB in place and wait for the disk."""
        os.pwrite(self._descriptor, BLOCK, 0)
        os.fdatasync(self._descriptor)

    def place(self) -> None:
        """Place the order."""
        data = {
            "pair": "XBTUSD",
            "type": "buy",
            "ordertype": "limit",
            "volume": str(VOLUME),
            "price": str(MARKETABLE_PRICE),
            "oflags": "fciq",
            "cl_ord_id": f"bench{next(self._numbers):013d}",
            "deadline": format_rfc3339(wall_seconds() + 8),
        }
        answer = self.api.query_private("AddOrder", data)
        assert answer["error"] == [], answer

    def place_synced(self) -> None:
        """Place the order with the synced write between its nonce and its first byte, where the journal's is."""
        self._is_synced = True
        self.place()
        self._is_synced = False

    def close(self) -> None:
        """Close the connection and the file."""
        self.api.close()
        os.close(self._descriptor)


@pytest.mark.bench
def test_cost_of_an_order(nonce_file: Path) -> None:
    """Print the ratio of the median cost of an order to that of krakenex plus an fsync, measured in random order."""
    with run_exchange(0, *LARGE_BALANCE) as exchange_process:
        ours, bare = BrokerOrders(exchange_process), KrakenexOrders(exchange_process, nonce_file.parent)
        variants: dict[str, Callable[[], None]] = {
            "signal id": ours.place_with_signal_id,
            "random id": ours.place_with_random_id,
            "krakenex": bare.place,
            "fsync": bare.sync,
            "krakenex with fsync": bare.place_synced,
        }
        durations_us: dict[str, list[float]] = {name: [] for name in variants}
        rng = random.Random(SEED)
        for _ in range(ROUNDS):
            # The call after an fsync finds cold caches; the random order spreads that over all variants.
            for name in rng.sample(list(variants), len(variants)):
                durations_us[name].append(measure_microseconds(variants[name]))
        unknown_orders, refused = ours.broker.unknown_orders(), exchange_process.state()["refused_nonces"]
        ours.broker.close()
        bare.close()
    print_costs({name: statistics.median(column) for name, column in durations_us.items()}, nonce_file)
    assert (unknown_orders, refused) == ([], 0)


def print_costs(median_us: dict[str, float], path: Path) -> None:
    """Print the cost of each variant and the ratios of this bot's orders."""
    minimum_us = median_us["krakenex"] + median_us["fsync"]
    print(f"\norder: {machine.describe(path)}")
    print("  " + ", ".join(f"{name} {cost_us:.0f} us" for name, cost_us in median_us.items()))
    for name in ("signal id", "random id"):
        ratio = median_us[name] / minimum_us
        print(f"  {name} to krakenex + fsync {ratio:.2f}, at most {ORDER_RATIO_MAX:g}: ", end="")
        print(format_verdict(ratio <= ORDER_RATIO_MAX), end="")
        print(f"; to krakenex with the fsync inside {median_us[name] / median_us['krakenex with fsync']:.2f}")


@linux_only
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which counts the fsyncs")
@pytest.mark.bench
def test_fsyncs_of_an_order(nonce_file: Path) -> None:
    """Print the fsyncs that 200 more orders cost; each order has an fsync of its own."""
    counts = []
    for orders in (1, SYNCED_ORDERS + 1):
        folder = nonce_file.parent / f"{orders}" / "state"
        folder.mkdir(parents=True)
        log = folder / "log"
        with run_exchange(0, *LARGE_BALANCE) as exchange_process:
            trace = (
                log,
                exchange_process.url,
                exchange_process.key,
                exchange_process.secret,
                folder / "kraken_nonce.txt",
                orders,
            )
            with Child("tests.benchmarks.order_child", *trace, limit_seconds=120) as child:
                seconds = float(child.read_to_end()[-1])
        counts.append(Counter(line.partition("<")[2].partition(">")[0] for line in log.read_text().splitlines()))
    few, many = ({Path(path).name: number for path, number in one.items()} for one in counts)
    print(f"\nfsyncs: {machine.describe(nonce_file)}")
    print(f"  {SYNCED_ORDERS} orders within {seconds:.1f} s, traced:")
    more = {name: number - few.get(name, 0) for name, number in many.items() if number > few.get(name, 0)}
    for name, number in sorted(more.items()):
        print(f"  {name}: {number}, {number / SYNCED_ORDERS:.3f} an order")
    assert next(number for name, number in more.items() if name.endswith("-wal")) >= SYNCED_ORDERS


def place_orders(exchange_process: ExchangeProcess, nonce_path: Path, orders: int) -> None:
    """Place `orders` orders with the journal beside `nonce_path`."""
    broker_manager.NONCE_FILE = str(nonce_path)
    ours = BrokerOrders(exchange_process)
    for _ in range(orders):
        ours.place_with_signal_id()
    ours.broker.close()

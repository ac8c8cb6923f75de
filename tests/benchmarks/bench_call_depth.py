"""How many calls of our own code, in how many files, stand between a verb of the broker and the HTTP connection.

The connection's own calls are printed apart: they took the place of calls in requests and urllib3, which never counted.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from decimal import Decimal
from itertools import count
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from bot.broker_manager import KrakenBroker
from bot.kraken.http_connection import HttpConnection
from tests.benchmarks.bench_broker import run_exchange
from tests.conftest import ROOT

BALANCE_CALLS_MAX, BALANCE_FILES_MAX = 75, 15
ORDER_CALLS_MAX, ORDER_FILES_MAX = 220, 20

PRODUCT = str(ROOT / "bot") + "/"


def count_calls(work: Callable[[], object]) -> tuple[Counter[str], int]:
    """Return how often functions of each file of the product were called, comprehensions and generators included, and
    the number of calls within `HttpConnection.request`."""
    calls: Counter[str] = Counter()
    within_connection: list[FrameType] = []
    connection_calls = 0

    def profile(frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal connection_calls
        if event == "return" and within_connection and frame is within_connection[0]:
            within_connection.clear()
        if event != "call" or not frame.f_code.co_filename.startswith(PRODUCT):
            return
        if within_connection:
            connection_calls += 1
            return
        calls[frame.f_code.co_filename.removeprefix(PRODUCT)] += 1
        if frame.f_code is HttpConnection.request.__code__:
            within_connection.append(frame)

    sys.setprofile(profile)
    try:
        work()
    finally:
        sys.setprofile(None)
    return calls, connection_calls


def report(title: str, counts: tuple[Counter[str], int], calls_max: int, files_max: int) -> None:
    """Print the counts of a verb; each is within its limit."""
    calls, connection_calls = counts
    print(f"\n{title}: {calls.total()} calls (at most {calls_max}) in {len(calls)} files (at most {files_max})")
    for name, number in calls.most_common():
        print(f"  {number:4} {name}")
    print(f"  and {connection_calls} within the HTTP connection")
    assert (calls.total() <= calls_max, len(calls) <= files_max) == (True, True)


@pytest.mark.bench
def test_calls_of_a_balance_read_and_of_a_limit_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A warm balance read takes at most 75 calls in 15 files of the product, a warm accepted limit order 220 in 20."""
    monkeypatch.setattr("bot.broker_manager.NONCE_FILE", str(tmp_path / "kraken_nonce.txt"))
    numbers = count()

    def place_order(broker: KrakenBroker) -> None:
        broker.place_limit_order(
            "BTC/USD", "buy", Decimal("0.001"), Decimal(1000), cl_ord_id=f"{broker.bot_id}{next(numbers):013}"
        )

    with run_exchange() as exchange:
        broker = exchange.open_broker()
        broker.connect()
        broker.get_account_balance()
        place_order(broker)
        balance_calls = count_calls(broker.get_account_balance)
        order_calls = count_calls(lambda: place_order(broker))
        broker.close()
    report("get_account_balance", balance_calls, BALANCE_CALLS_MAX, BALANCE_FILES_MAX)
    report("place_limit_order", order_calls, ORDER_CALLS_MAX, ORDER_FILES_MAX)

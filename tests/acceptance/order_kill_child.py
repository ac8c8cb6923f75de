"""Runs of a bot that places the orders of given signals: each is a process of its own and ends as its plan says.

`order_kill_child.py` reads one plan a line, as JSON (`RunPlan`), forks a run, and prints how it ended: killed, done or
failed. It forks because a new interpreter would take longer than the run. Before the fork nothing of the bot exists.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict, dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

from bot import broker_manager
from bot.base.clock import MarketClock, sleep
from bot.base.errors import BotError, CircuitOpenError
from bot.base.events import subscribe
from bot.base.models import OrderRequest, Side
from bot.broker_manager import KrakenBroker
from bot.kraken import nonce_recovery
from bot.kraken.rate_counters import Tier
from bot.orders.order_state import PLACED_STATES
from bot.trading.decision_log import DecisionLog
from bot.trading.executor import MAX_ATTEMPTS, Executor
from tests.acceptance.order_kill_steps import KillPoints

BOT_ID = "kills"
STRATEGY = "scripted"
START = 1_790_000_000
CANDLE_SECONDS = 60
ENTRY_TTL_SECONDS = 90
# Longer than the query lag of the exchange.
RETRY_WAIT_SECONDS = 5.0
# Below the price, except in the dips, where it fills.
RESTING_PRICE = Decimal(40_000)
VOLUME = Decimal("0.01")
# Large enough that calls seldom wait, small enough that a rate limit refusal costs seconds.
TIER = Tier("quick", 200, 20.0, 200, 20.0)
# After this many retries the error is permanent.
MAX_RETRIES = 500


class SharedClock(MarketClock):
    """A market clock shared between processes: it stands still until one of them waits, and then jumps."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)
        self._created_seconds = self.now()

    @classmethod
    def create(cls, path: Path, start_seconds: float) -> SharedClock:
        """Create the file of a clock that stands at `start_seconds`."""
        path.write_bytes(struct.pack("d", start_seconds))
        return cls(path)

    def now(self) -> float:
        """Return the market's time in Unix seconds."""
        return float(struct.unpack("d", self._memory[:8])[0])

    def elapsed(self) -> float:
        """Return market seconds since this clock was created."""
        return self.now() - self._created_seconds

    def wait_until(self, when_seconds: float, stop: threading.Event) -> bool:
        """Jump to `when_seconds`."""
        if when_seconds > self.now():
            self._memory[:8] = struct.pack("d", when_seconds)
        return stop.is_set()


@dataclass(frozen=True)
class Signal:
    """The signal at the close of candle `number`: by turns a buy, a resting order, one that is canceled, a sale."""

    number: int

    @property
    def symbol(self) -> str:
        """The pair."""
        return ("BTC/USD", "ETH/USD")[self.number // 4 % 2]

    @property
    def candle_seconds(self) -> int:
        """The start of its candle."""
        return START + self.number * CANDLE_SECONDS

    @property
    def is_canceled(self) -> bool:
        """Whether its order is canceled as soon as it rests."""
        return self.number % 4 == 2

    def order_request(self) -> OrderRequest:
        """Return the order of the signal."""
        side = Side.SELL if self.number % 4 == 3 else Side.BUY
        price = RESTING_PRICE if self.number % 4 in (1, 2) else None
        return OrderRequest(self.symbol, side, VOLUME, price, "entry", self.candle_seconds, "requested by a test")


@dataclass(frozen=True)
class RunPlan:
    """One run: the key, the folders, the signals from `first` up to but not `last`, and how it ends.

    It is killed when it reaches `step` for the `kill_at_visit`th time, or after `kill_after_seconds` of real time
    unless that is zero.
    """

    url: str
    key: str
    secret: str
    state: str
    clock: str
    first: int
    last: int
    step: str = ""
    kill_at_visit: int = 1
    kill_after_seconds: float = 0.0

    def to_json(self) -> str:
        """Return the plan as the child reads it."""
        return json.dumps(asdict(self))


class BotRun:
    """A bot without a strategy: it reconciles at the start, trades the signals, and follows every order to its end."""

    def __init__(self, plan: RunPlan) -> None:
        self._plan = plan
        self._clock = SharedClock(Path(plan.clock))
        self._stop = threading.Event()
        self._output_lines: list[str] = []
        # The time for which the circuit breaker is open is the only wait on the wall clock.
        nonce_recovery.EXTERNAL_SENDER_OPEN_SECONDS = 0.1
        nonce_recovery.MAX_OPEN_SECONDS = 0.2
        broker_manager.NONCE_FILE = str(Path(plan.state) / "kraken_nonce.txt")
        self._broker = KrakenBroker(
            plan.key, plan.secret, api_url=plan.url, tier=TIER, market_clock=self._clock, bot_id=BOT_ID
        )
        KillPoints(plan.step, plan.kill_at_visit).install(self._broker)
        subscribe(lambda _event, _fields, text: self._output_lines.append(text))
        trade_log = DecisionLog(self._broker, self._clock)
        self._executor = Executor(self._broker, STRATEGY, ENTRY_TTL_SECONDS, trade_log)

    def run(self) -> None:
        """Run to the end of the plan."""
        self._retry(self._broker.connect)
        self._retry(self._await_complete_history)
        for number in range(self._plan.first, self._plan.last):
            self._retry(partial(self._execute_signal, Signal(number)))
        self._retry(self._check_all_closed)

    def _retry(self, action: Callable[[], object]) -> None:
        for _ in range(MAX_RETRIES):
            try:
                action()
            except BotError as error:
                self._output_lines.append(str(error))
                self._wait(RETRY_WAIT_SECONDS)
                if isinstance(error, CircuitOpenError):
                    sleep(nonce_recovery.EXTERNAL_SENDER_OPEN_SECONDS)
            else:
                return
        raise AssertionError("\n".join(["the error is permanent", *self._output_lines[-20:]]))

    def _wait(self, seconds: float) -> None:
        self._clock.wait(seconds, self._stop)

    def _await_complete_history(self) -> None:
        while not self._broker.history_is_complete():
            self._executor.reconcile()
            self._wait(self._broker.next_query_seconds() or 0.0)
        self._executor.rebuild()

    def _reconcile(self) -> None:
        self._executor.reconcile()
        while self._broker.unknown_orders():
            self._wait(self._broker.next_query_seconds() or 0.0)
            self._executor.reconcile()

    def _execute_signal(self, trade_signal: Signal) -> None:
        self._clock.wait_until(trade_signal.candle_seconds + CANDLE_SECONDS, self._stop)
        order_request = trade_signal.order_request()
        self._reconcile()
        # Even if it was placed before: then this must not place a second order.
        self._executor.execute([order_request], RESTING_PRICE)
        txid = self._find_txid(order_request)
        if not txid:
            raise BotError(f"signal {trade_signal.number} is not placed yet")
        if trade_signal.is_canceled:
            self._wait(RETRY_WAIT_SECONDS)
            self._executor.read_working_orders()
            self._executor.fetch_fills()
            if any(order.txid == txid for order in self._executor.order_tracker.open_orders()):
                self._executor.cancel(trade_signal.symbol, [txid])

    def _find_txid(self, order_request: OrderRequest) -> str:
        for attempt in range(MAX_ATTEMPTS):
            cl_ord_id = self._broker.client_order_id(
                order_request.symbol, STRATEGY, order_request.candle_seconds, order_request.kind, attempt
            )
            intent = self._broker.journal.get_intent(cl_ord_id)
            if intent is not None and intent.state in PLACED_STATES:
                return intent.txid
        return ""

    def _check_all_closed(self) -> None:
        self._executor.reconcile()
        journal = self._broker.journal
        if journal.unresolved_intents() or journal.working_intents() or journal.orders_with_missing_fills():
            raise BotError("some orders are not closed")


def wait_for_exit(plan: RunPlan, pid: int) -> str:
    """Wait for the end of a run, or kill it as planned; return how it ended."""
    if plan.kill_after_seconds:
        sleep(plan.kill_after_seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    return "failed" if status else "done"


def main() -> None:
    """Execute one run after the other."""
    for line in sys.stdin:
        plan = RunPlan(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            # An error ends this process with its traceback.
            BotRun(plan).run()
            os._exit(0)
        sys.stdout.write(wait_for_exit(plan, pid) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

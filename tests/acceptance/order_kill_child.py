"""Lives of a bot that places the orders of given signals: each is a process of its own, and ends as its plan says.

`order_kill_child.py` reads one life a line, as JSON (`Plan`), forks it, and says how it ended: killed, done or failed.
Forked, because a start from nothing would take longer than the life; nothing of the bot is made before the fork.
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
from bot.base.errors import BotError, SilenceError
from bot.base.models import Side, WantedOrder
from bot.broker_manager import KrakenBroker
from bot.kraken import nonce_recovery
from bot.kraken.rate_counters import Tier
from bot.orders.order_state import PLACED
from bot.trading.decision_log import Narrator
from bot.trading.executor import ATTEMPTS_MAX, Executor
from tests.acceptance.order_kill_steps import Seams

BOT_ID = "kills"
STRATEGY = "scripted"
START = 1_790_000_000
CANDLE_SECONDS = 60
LIFETIME_SECONDS = 90
# Longer than Kraken's lists lag.
PATIENCE_SECONDS = 5.0
# Below the price but for the dips, in which it fills.
RESTING_PRICE = Decimal(40_000)
VOLUME = Decimal("0.01")
# Large enough that it is seldom waited for, small enough that a refusal for a limit costs seconds.
TIER = Tier("quick", 200, 20.0, 200, 20.0)
# A life that tries so often has come upon something that does not pass.
TRIES_MAX = 500


class SharedClock(MarketClock):
    """A market clock of several processes: it stands still until one of them waits, and then jumps."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        with path.open("r+b") as file:
            self._cell = mmap.mmap(file.fileno(), 8)
        self._begin_seconds = self.now()

    @classmethod
    def begin(cls, path: Path, start_seconds: float) -> SharedClock:
        """Make the file of a clock that stands at `start_seconds`."""
        path.write_bytes(struct.pack("d", start_seconds))
        return cls(path)

    def now(self) -> float:
        """Return the market's time in Unix seconds."""
        return float(struct.unpack("d", self._cell[:8])[0])

    def elapsed(self) -> float:
        """Return market seconds since this clock was made."""
        return self.now() - self._begin_seconds

    def wait_until(self, when_seconds: float, stop: threading.Event) -> bool:
        """Jump to `when_seconds`."""
        if when_seconds > self.now():
            self._cell[:8] = struct.pack("d", when_seconds)
        return stop.is_set()


@dataclass(frozen=True)
class Signal:
    """What is wanted at the close of candle `number`: in turn to buy, to rest, to rest and be cancelled, to sell."""

    number: int

    @property
    def symbol(self) -> str:
        """The pair."""
        return ("BTC/USD", "ETH/USD")[self.number // 4 % 2]

    @property
    def candle_seconds(self) -> int:
        """When its candle began."""
        return START + self.number * CANDLE_SECONDS

    @property
    def is_cancelled(self) -> bool:
        """Whether its order is cancelled as soon as it rests."""
        return self.number % 4 == 2

    def wanted(self) -> WantedOrder:
        """Return the order."""
        side = Side.SELL if self.number % 4 == 3 else Side.BUY
        price = RESTING_PRICE if self.number % 4 in (1, 2) else None
        return WantedOrder(self.symbol, side, VOLUME, price, "entry", self.candle_seconds, "a test wants it")


@dataclass(frozen=True)
class Plan:
    """One life: the key, the folders, the signals `first` up to but not `last`, and how it ends.

    It dies when it comes to `step` for the `times`th time, or after `kill_after_seconds` of real time, if not zero.
    """

    url: str
    key: str
    secret: str
    state: str
    clock: str
    first: int
    last: int
    step: str = ""
    times: int = 1
    kill_after_seconds: float = 0.0

    def line(self) -> str:
        """Return it as the child reads it."""
        return json.dumps(asdict(self))


class Life:
    """A bot without a strategy of its own: it knows its past, wants what the signals say, and follows every order."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._clock = SharedClock(Path(plan.clock))
        self._stop = threading.Event()
        self._lines: list[str] = []
        # The silence after refused nonces is the one wait that goes by the wall clock.
        nonce_recovery.FOREIGN_SILENCE_SECONDS = 0.1
        nonce_recovery.SILENCE_SECONDS_MAX = 0.2
        broker_manager.NONCE_FILE = str(Path(plan.state) / "kraken_nonce.txt")
        self._broker = KrakenBroker(
            plan.key, plan.secret, api_url=plan.url, tier=TIER, market=self._clock, bot_id=BOT_ID
        )
        Seams(plan.step, plan.times).watch(self._broker)
        narrator = Narrator(self._lines.append, self._clock, self._broker.now)
        self._executor = Executor(self._broker, STRATEGY, LIFETIME_SECONDS, narrator)

    def run(self) -> None:
        """Live to the end of the plan."""
        self._persist(self._broker.connect)
        self._persist(self._know_the_past)
        for number in range(self._plan.first, self._plan.last):
            self._persist(partial(self._follow_signal, Signal(number)))
        self._persist(self._follow_all)

    def _persist(self, work: Callable[[], object]) -> None:
        for _ in range(TRIES_MAX):
            try:
                work()
            except BotError as problem:
                self._lines.append(str(problem))
                self._wait(PATIENCE_SECONDS)
                if isinstance(problem, SilenceError):
                    sleep(nonce_recovery.FOREIGN_SILENCE_SECONDS)
            else:
                return
        raise AssertionError("\n".join(["it does not pass", *self._lines[-20:]]))

    def _wait(self, seconds: float) -> None:
        self._clock.wait(seconds, self._stop)

    def _know_the_past(self) -> None:
        while not self._broker.knows_the_past():
            self._executor.settle()
            self._wait(self._broker.next_look_up_seconds() or 0.0)
        self._executor.rebuild()

    def _settle(self) -> None:
        self._executor.settle()
        while self._broker.unknown_orders():
            self._wait(self._broker.next_look_up_seconds() or 0.0)
            self._executor.settle()

    def _follow_signal(self, given: Signal) -> None:
        self._clock.wait_until(given.candle_seconds + CANDLE_SECONDS, self._stop)
        wanted = given.wanted()
        self._settle()
        # Also where it was placed before: then no second order may come of it.
        self._executor.execute([wanted], RESTING_PRICE)
        txid = self._txid(wanted)
        if not txid:
            raise BotError(f"signal {given.number} is not placed yet")
        if given.is_cancelled:
            self._wait(PATIENCE_SECONDS)
            self._executor.follow()
            if any(order.txid == txid for order in self._executor.own.open_orders()):
                self._executor.cancel(given.symbol, [txid])

    def _txid(self, wanted: WantedOrder) -> str:
        for attempt in range(ATTEMPTS_MAX):
            identity = self._broker.client_order_id(
                wanted.symbol, STRATEGY, wanted.candle_seconds, wanted.kind, attempt
            )
            intent = self._broker.journal.intent(identity)
            if intent is not None and intent.state in PLACED:
                return intent.txid
        return ""

    def _follow_all(self) -> None:
        self._executor.settle()
        journal = self._broker.journal
        if journal.unsettled() or journal.working() or journal.without_fills():
            raise BotError("some orders have not ended")


def ended(plan: Plan, pid: int) -> str:
    """Wait for the end of a life, or bring it about; return how it ended."""
    if plan.kill_after_seconds:
        sleep(plan.kill_after_seconds)
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return "killed"
    return "failed" if status else "done"


def main() -> None:
    """Live one life after the other."""
    for line in sys.stdin:
        plan = Plan(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            # An error of a life ends this process, and is told as Python tells it.
            Life(plan).run()
            os._exit(0)
        sys.stdout.write(ended(plan, pid) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

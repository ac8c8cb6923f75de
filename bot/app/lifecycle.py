"""Runs the bot until it ends or a signal comes, and gets out within five seconds of a signal."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import StrEnum
from functools import partial

from bot.app.instance_lock import InstanceLock
from bot.base.clock import boottime_seconds
from bot.broker_manager import KrakenBroker
from bot.nonce.leader_election import Leadership
from bot.trading.trader import Trader

# Together under five seconds.
GRACE_SECONDS = 2.5
UNWIND_SECONDS = 0.5
CANCEL_SECONDS = 1.0
SIGN_OFF_SECONDS = 0.3
LOOK_UP_SECONDS = 0.2
HANGS_SECONDS = 300.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class State(StrEnum):
    """What a run is doing."""

    STARTING = "starting"
    STANDBY = "standby"
    TRADING = "trading"
    WAITING = "waiting"
    STOPPING = "stopping"


class Runner:
    """The bot in a thread of its own, and the main thread waiting for the first of: its end, a signal.

    The start is part of it: Kraken may hang in the very first call. Whoever does the work says what there is to
    stop as soon as it is there: `broker`, then `trader`.
    """

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self.stop = threading.Event()
        self.broker: KrakenBroker | None = None
        # Closed or not: what it tells of itself, it has from memory and from its key's files.
        self.last_broker: KrakenBroker | None = None
        self.trader: Trader | None = None
        self.leadership: Leadership | None = None
        self.lock: InstanceLock | None = None
        # Where prices come from, in words.
        self.prices = ""
        # With why it does not trade.
        self.standing: tuple[State, str] = State.STARTING, ""
        self._became_seconds = boottime_seconds()
        # The one thing of Python's that a signal handler may put into safely.
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self, work: Callable[[], int]) -> int:
        """Return what `work` returns, or raise what it raises; 0 where a call was lost on the way out."""
        for number in _SIGNALS:
            signal.signal(number, lambda signum, _frame: self._news.put(signal.Signals(signum).name))
        done = ThreadPoolExecutor(1, thread_name_prefix="bot").submit(work)
        done.add_done_callback(lambda _done: self._news.put(""))
        name = self._first_news()
        if name and not self._stopped(done, name):
            self._leave_behind(name)
            return 0
        return done.result()

    def become(self, state: State, reason: str = "") -> None:
        """Say what the run is doing from here on, and why it does not trade."""
        if not self.stop.is_set():
            self.standing = state, reason
            self._became_seconds = boottime_seconds()

    def is_alive(self) -> bool:
        """Whether nothing hangs, as far as can be seen: while it trades, a pass has ended within five minutes."""
        trader = self.trader
        if trader is None or self.standing[0] is not State.TRADING:
            return True
        seen = trader.observer.latest
        return boottime_seconds() - (seen.boot_seconds if seen else self._became_seconds) < HANGS_SECONDS

    def forget(self) -> None:
        """The broker is about to be closed."""
        self.broker = None

    def check_state(self) -> None:
        """Raise StateLostError where the state folder is not ours any more."""
        if self.lock is not None:
            self.lock.check()

    def _first_news(self) -> str:
        # Handlers run in this thread, but a signal may wake another one: most often where it met a stopped process.
        while True:
            with contextlib.suppress(queue.Empty):
                return self._news.get(timeout=LOOK_UP_SECONDS)

    def _stopped(self, done: Future[int], name: str) -> bool:
        self._report(f"{name}: stopping; the call in flight has {GRACE_SECONDS:g} s.")
        self.become(State.STOPPING, name)
        self.stop.set()
        if self.broker is not None and self.trader is None:
            # Nothing of the start needs an end of its own.
            self.broker.stop()
        wait([done], GRACE_SECONDS)
        if not done.done() and self.broker is not None:
            # What waits for a turn or a rate counter gives up now; only a lost request does not.
            self.broker.stop()
            wait([done], UNWIND_SECONDS)
        return done.done()

    def _leave_behind(self, name: str) -> None:
        self._report("A request is still unanswered and is left behind.")
        for order in self.broker.unknown_orders() if self.broker else ():
            self._report(
                f"{order.symbol}  unknown: {order.side} {order.volume:f} ({order.cl_ord_id}), never sent again;"
            )
            self._report("         the next start finds it at Kraken if it was placed.")
        if self.trader is not None:
            _try_for(CANCEL_SECONDS, self.trader.clear_up)
        if self.leadership is not None:
            _try_for(SIGN_OFF_SECONDS, partial(self.leadership.sign_off, settled=False))
        self._report(f"Ended: {name}, with a request unanswered; the account was not read again.")
        if self.broker is not None:
            self._report(f"refused nonces: {self.broker.refused_nonces}")


def _try_for(seconds: float, work: Callable[[], object]) -> None:
    worker = threading.Thread(target=work, name="last-words", daemon=True)
    worker.start()
    worker.join(seconds)

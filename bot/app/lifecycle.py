"""Runs the bot until it ends or a signal comes, and ends within five seconds of a signal."""

from __future__ import annotations

import contextlib
import queue
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from enum import StrEnum
from functools import partial
from pathlib import Path

from bot.app.control_files import ControlFiles
from bot.app.instance_lock import InstanceLock
from bot.base.clock import boottime_seconds
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.broker_manager import KrakenBroker
from bot.nonce.leader_election import LeaderElection
from bot.trading.trader import Trader

# Together under five seconds.
GRACE_PERIOD_SECONDS = 2.5
UNWIND_SECONDS = 0.5
CANCEL_SECONDS = 1.0
LEASE_RELEASE_SECONDS = 0.3
SIGNAL_POLL_SECONDS = 0.2
CONTROLS_POLL_SECONDS = 1.0
HANG_TIMEOUT_SECONDS = 300.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class LifecycleState(StrEnum):
    """What a run is doing."""

    STARTING = "starting"
    STANDBY = "standby"
    TRADING = "trading"
    WAITING = "waiting"
    STOPPING = "stopping"


class Lifecycle:
    """The bot in a thread of its own, while the main thread waits for its end or for a signal.

    The start is part of it: Kraken may hang in the very first call. The work sets the objects that have to be stopped
    as soon as they exist: `broker`, then `trader`.
    """

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.broker: KrakenBroker | None = None
        # Closed or not: its status comes from memory and from its key's files.
        self.last_broker: KrakenBroker | None = None
        self.trader: Trader | None = None
        self.leadership: LeaderElection | None = None
        self.instance_lock: InstanceLock | None = None
        self.control_files: ControlFiles | None = None
        # A description of the price source.
        self.price_source = ""
        # With the reason why the bot does not trade.
        self.status: tuple[LifecycleState, str] = LifecycleState.STARTING, ""
        self._state_since_seconds = boottime_seconds()
        # Set once the bot trades or waits.
        self.has_started = threading.Event()
        # The only Python object that a signal handler may safely put into.
        self._wake_ups: queue.SimpleQueue[str] = queue.SimpleQueue()

    def run(self, work: Callable[[], int]) -> int:
        """Return the result of `work`, or raise its exception; 0 where a call was abandoned at the end."""
        for number in _SIGNALS:
            signal.signal(number, lambda signum, _frame: self._wake_ups.put(signal.Signals(signum).name))
        future = ThreadPoolExecutor(1, thread_name_prefix="bot").submit(work)
        future.add_done_callback(lambda _future: self._wake_ups.put(""))
        signal_name = self._wait_for_wake_up()
        if signal_name and not self._stop_within_grace_period(future, signal_name):
            self._abandon_request(signal_name)
            return 0
        return future.result()

    def watch_controls(self, control_files: ControlFiles) -> None:
        """Report a pause or a halt within a second, whatever the bot is doing, until it stops.

        A standby leaves that to the instance that trades.
        """
        self.control_files = control_files
        threading.Thread(target=self._watch_controls, args=(control_files,), name="controls", daemon=True).start()

    def _watch_controls(self, control_files: ControlFiles) -> None:
        while not self.stop.is_set():
            if self.status[0] is not LifecycleState.STANDBY:
                control_files.is_halted()
                control_files.entries_paused()
            self.stop.wait(CONTROLS_POLL_SECONDS)

    def set_state(self, state: LifecycleState, reason: str = "") -> None:
        """Set the state of the run, and the reason why it does not trade."""
        if state is not LifecycleState.STARTING:
            self.has_started.set()
        if not self.stop.is_set():
            self.status = state, reason
            self._state_since_seconds = boottime_seconds()

    @property
    def state_age_seconds(self) -> float:
        """How long the run has been in its state."""
        return boottime_seconds() - self._state_since_seconds

    def enter_standby(self, reason: str) -> None:
        """Set the state, and log why this instance does not trade."""
        self.set_state(LifecycleState.STANDBY, reason)
        emit(Event.STANDBY_ENTERED, reason=reason)

    def is_alive(self) -> bool:
        """Tell whether the bot makes progress: while it trades, a cycle has ended within the last five minutes."""
        trader = self.trader
        if trader is None or self.status[0] is not LifecycleState.TRADING:
            return True
        snapshot = trader.snapshot_publisher.latest
        return (
            boottime_seconds() - (snapshot.boot_seconds if snapshot else self._state_since_seconds)
            < HANG_TIMEOUT_SECONDS
        )

    def hold_state_folder(self, folder: Path, status_url: str) -> None:
        """Take the state folder, or see that it is still ours: a service that waits is running, too.

        `status_url`: where `status` finds the page; "" without one.
        """
        self.check_state()
        if self.instance_lock is None:
            self.instance_lock = InstanceLock(folder)
            if status_url:
                self.instance_lock.publish(status_url=status_url)

    def release_state_folder(self) -> None:
        """Let another bot have the state folder, where this one has taken it."""
        if self.instance_lock is not None:
            self.instance_lock.release()

    def check_state(self) -> None:
        """Raise StateLostError where the state folder no longer belongs to this bot."""
        if self.instance_lock is not None:
            self.instance_lock.check()

    def _wait_for_wake_up(self) -> str:
        # Handlers run in this thread, but a signal may wake another one: most often when it reached a stopped process.
        while True:
            with contextlib.suppress(queue.Empty):
                return self._wake_ups.get(timeout=SIGNAL_POLL_SECONDS)

    def _stop_within_grace_period(self, future: Future[int], signal_name: str) -> bool:
        emit(Event.SHUTDOWN_STARTED, signal=signal_name, grace_seconds=GRACE_PERIOD_SECONDS)
        self.set_state(LifecycleState.STOPPING, signal_name)
        self.stop.set()
        if self.broker is not None and self.trader is None:
            # Nothing of the start needs an orderly end.
            self.broker.stop()
        wait([future], GRACE_PERIOD_SECONDS)
        if not future.done() and self.broker is not None:
            # Requests that wait for the request lock or a rate counter give up now; only a hanging request does not.
            self.broker.stop()
            wait([future], UNWIND_SECONDS)
        return future.done()

    def _abandon_request(self, signal_name: str) -> None:
        emit(Event.REQUEST_ABANDONED)
        for order in self.broker.unknown_orders() if self.broker else ():
            emit(
                Event.ORDER_ABANDONED,
                symbol=order.symbol,
                side=order.side,
                volume=order.volume,
                cl_ord_id=order.cl_ord_id,
            )
        # The bot's thread may clear it meanwhile.
        trader = self.trader
        if trader is not None:
            _run_with_timeout(CANCEL_SECONDS, trader.shutdown)
            trader.record_positions_left()
        if self.leadership is not None:
            _run_with_timeout(LEASE_RELEASE_SECONDS, partial(self.leadership.release, is_reconciled=False))
        refused_nonces = self.broker.refused_nonces if self.broker else 0
        emit(Event.RUN_ABANDONED, signal=signal_name, refused_nonces=refused_nonces)


def _run_with_timeout(seconds: float, action: Callable[[], object]) -> None:
    worker = threading.Thread(target=action, name="last-words", daemon=True)
    worker.start()
    worker.join(seconds)

"""Runs the trader until it ends or a signal comes, and gets out within five seconds of a signal."""

from __future__ import annotations

import queue
import signal
import threading
from collections.abc import Callable

from bot.broker_manager import KrakenBroker
from bot.trader import Summary, Trader

# Together under five seconds.
GRACE_SECONDS = 3.0
UNWIND_SECONDS = 0.5
CANCEL_SECONDS = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Runner:
    """The trader in a thread of its own, and the main thread waiting for the first of: its end, a signal."""

    def __init__(self, broker: KrakenBroker, report: Callable[[str], None]) -> None:
        self._broker = broker
        self._report = report
        self.stop = threading.Event()
        # The one thing of Python's that a signal handler may put into safely.
        self._news: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._summary: Summary | None = None

    def listen(self) -> None:
        """Take SIGTERM and Ctrl-C from now on."""
        for number in _SIGNALS:
            signal.signal(number, lambda signum, _frame: self._news.put(signal.Signals(signum).name))

    def run(self, trader: Trader, cancel_entries: bool) -> Summary | None:
        """Return the trader's summary; None where a call was lost on the way out, and its order is unknown."""

        def trade() -> None:
            self._summary = trader.run()
            self._news.put("")

        thread = threading.Thread(target=trade, name="trader", daemon=True)
        thread.start()
        name = self._news.get()
        if name:
            self._report(f"{name}: stopping; the call in flight has {GRACE_SECONDS:.0f} s.")
            self.stop.set()
            thread.join(GRACE_SECONDS)
            if thread.is_alive():
                # What waits for a turn or a rate counter gives up now; only a lost request does not.
                self._broker.stop()
                thread.join(UNWIND_SECONDS)
            if thread.is_alive():
                self._leave_behind(trader, cancel_entries)
        return self._summary

    def _leave_behind(self, trader: Trader, cancel_entries: bool) -> None:
        self._report("A request is still unanswered. If it was an order, its outcome is unknown and is found out at the")
        self._report("next start; it is never sent again.")
        if cancel_entries:
            worker = threading.Thread(target=trader.cancel_entries, name="last-cancels", daemon=True)
            worker.start()
            worker.join(CANCEL_SECONDS)

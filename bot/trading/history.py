"""What the bot has to know before it trades: every order of its own that there is, and what came of it."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from bot.base.clock import MarketClock
from bot.trading.broker import Broker
from bot.trading.decision_log import Narrator
from bot.trading.executor import Executor

LONG_SECONDS = 60.0
WHY_SO_LONG = (
    "because STATE_DIR has no journal of this key, an instance elsewhere may still trade; "
    "where there is none, SINGLE_INSTANCE=1 skips this"
)


class History:
    """Reads the bot's own history at the start."""

    def __init__(self, broker: Broker, executor: Executor, narrator: Narrator, clock: MarketClock) -> None:
        self._broker = broker
        self._executor = executor
        self._narrator = narrator
        self._clock = clock
        self._working: list[str] | None = None

    @property
    def known(self) -> bool:
        """Whether it has been read."""
        return self._executor.own.known

    def read(self, symbols: Iterable[str], stop: threading.Event) -> None:
        """Await what an earlier life may have sent, unless the journal knows it all; then take everything over.

        Raises BotError; then it is read later.
        """
        if self._working is None:
            # Before the past is looked for, which already brings the journal up to date.
            self._working = [intent.txid for intent in self._broker.journal.working()]
        if self._await_the_past(stop):
            return
        self._executor.rebuild()
        self._executor.tell_ended(self._working)
        for symbol, holding in sorted(self._executor.own.book.holdings.items()):
            what = "" if symbol in symbols else ", a pair that is not traded now: left alone"
            self._narrator.say(f"{symbol}  holding {holding.quantity:f} at {holding.average_price:.8g}{what}")

    def _await_the_past(self, stop: threading.Event) -> bool:
        """Let turn up what an earlier life sent that the journal knows nothing of; return whether it was stopped."""
        while not self._broker.knows_the_past():
            if not self._clock.replaying:
                seconds = self._broker.past_wait_seconds()
                text = "orders that this journal does not know may still turn up, so none is sent for another"
                self._narrator.once("past", "", f"{text} {seconds:.0f} s")
                if seconds > LONG_SECONDS:
                    self._narrator.once("past is long", "", WHY_SO_LONG)
            self._executor.settle()
            if self._clock.wait(self._broker.next_look_up_seconds() or 0.0, stop):
                return True
        return False

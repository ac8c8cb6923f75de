"""The next nonce of a key from a store that hosts share; the local nonce file is kept as a second copy.

A store that was wiped, evicted, failed over or restored may go back: every wish is bounded by the highest nonce that
this process has drawn and by the local file. Hosts need not agree about the time: nonces start from the server's.
"""

from __future__ import annotations

import functools
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable
from typing import ParamSpec, Protocol, TypeVar

from bot.base import clock, fork_safety, metrics
from bot.base.errors import LeaseLostError, NonceAheadError, NonceError, StoreUnavailableError, TurnLostError
from bot.base.paths import key_file
from bot.nonce.file_store import MICROSECONDS, FileStore, Unit, ceiling, store_at
from bot.nonce.open_store import open_engine
from bot.nonce.store_protocol import Drawn, Engine, Outcome, Wish

log = logging.getLogger(__name__)

# A request that begins in time has left long before its turn is over: its connection takes 3 s at most. Its answer may
# come later.
TURN_SECONDS = 16.0
BEGIN_SECONDS_MAX = 3.0

Given = ParamSpec("Given")
Answer = TypeVar("Answer")


class Standing(Protocol):
    """Whether this process may send at all: by the lease of `generation`."""

    generation: int

    def check(self) -> None:
        """Raise LeaseLostError or StoreUnavailableError where it may not."""


class _Held(threading.local):
    """The turn of a thread: its nonce, until that has been handed out, and until when a request may begin in it."""

    nonce = 0
    begin_until_seconds: float | None = None


class SharedStore:
    """The nonces, turns and lease of one key, for every process of every host that names the same store.

    `owner` names this process to the others. `problem` is None, or one sentence on why the store cannot be used at the
    moment. With a `leadership` nothing is drawn but under its lease.
    """

    def __init__(self, engine: Engine, file: FileStore) -> None:
        self.engine = engine
        self.problem: str | None = None
        self.leadership: Standing | None = None
        self._file = file
        self._highest = 0
        self._start_anew()
        fork_safety.forget_in_child(self)

    def _start_anew(self) -> None:
        self.owner = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        # Re-entrant, so that a signal handler that draws is told off instead of waiting for itself.
        self._lock = threading.RLock()
        self._drawing = False
        self._held = _Held()

    def after_fork_in_child(self) -> None:
        """The turn is the parent's."""
        self._start_anew()

    @property
    def place(self) -> str:
        """Where the store is, without credentials."""
        return self.engine.place

    def draw(self, at_least: int = 0) -> int:
        """Return max(the server's clock, last + 1, at_least), written in the store before it is returned.

        Raises StoreUnavailableError where the store does not answer, NonceAheadError where the nonce would be more
        than a day ahead of this machine's clock, TurnLostError or LeaseLostError where this thread's turn, or the
        lease that this process draws under, is over.
        """
        self.check()
        came_with_turn, self._held.nonce = self._held.nonce, 0
        if came_with_turn and at_least <= came_with_turn:
            return came_with_turn
        return self._draw(self.engine.draw, at_least).nonce

    def take(self, waited_seconds: float = 0.0) -> Drawn:
        """Take the turn, whose nonce the next `draw` of this thread hands out; NEXT or BUSY where it is another's.

        `waited_seconds` is for how long it has been asked for in vain. Raises as `draw`.
        """
        # A thread that asks has none: what an interrupt may have left behind must not end this one.
        self._held.nonce, self._held.begin_until_seconds = 0, None
        began = clock.boottime_seconds()

        def take(wish: Wish) -> Drawn:
            return self.engine.take(wish, self.owner, TURN_SECONDS, waited_seconds)

        drawn = self._draw(take)
        if drawn.nonce:
            self._held.nonce, self._held.begin_until_seconds = drawn.nonce, began + BEGIN_SECONDS_MAX
        return drawn

    def give_back(self, nonce: int) -> None:
        """Give back the turn that came with this nonce. Where the store is away, it ends by itself."""
        self._held.nonce, self._held.begin_until_seconds = 0, None
        try:
            self.ask(self.engine.give_back, nonce)
        except StoreUnavailableError:
            return

    def check(self) -> None:
        """Raise TurnLostError, LeaseLostError or StoreUnavailableError where a request must not leave (any more)."""
        begin_until_seconds = self._held.begin_until_seconds
        if begin_until_seconds is not None and clock.boottime_seconds() > begin_until_seconds:
            raise TurnLostError("the request was held up until its turn was nearly over; nothing was sent")
        if self.leadership is not None:
            self.leadership.check()

    def peek(self) -> int | None:
        """Return the last nonce in the store, or None where it has none. Raises StoreUnavailableError."""
        row = self.ask(self.engine.look)
        return row.nonce if row else None

    def ask(self, step: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
        """Return the answer of one of the engine's steps; say once when the store is away, and once when it is back."""
        return self._told(lambda: _timed(step, *args, **kwargs))

    def _told(self, work: Callable[[], Answer]) -> Answer:
        try:
            answer = work()
        except StoreUnavailableError as error:
            if self.problem is None:
                log.error("No private request is sent until the nonce store is back: %s.", error)
            self.problem = str(error)
            raise
        if self.problem is not None:
            log.info("The nonce store %s is back.", self.place)
            self.problem = None
        return answer

    def _draw(self, step: Callable[[Wish], Drawn], at_least: int = 0) -> Drawn:
        # One at a time, or a nonce drawn later might be looked at first, as if the store had gone back.
        with self._lock:
            if self._drawing:
                raise NonceError("a nonce was asked for in the middle of drawing one (from a signal handler?)")
            self._drawing = True
            try:
                self.check()
                wish = self._wish(at_least)
                drawn = self._told(lambda: self._drawn(step, wish))
                self._take_over(drawn)
            finally:
                self._drawing = False
            return drawn

    def _drawn(self, step: Callable[[Wish], Drawn], wish: Wish) -> Drawn:
        drawn = _timed(step, wish)
        asked_for = wish.floor <= drawn.nonce <= wish.ceiling if drawn.outcome is Outcome.DRAWN else not drawn.nonce
        if not asked_for:
            # Too high a nonce would close the key for ever.
            raise StoreUnavailableError(f"the nonce store {self.place} gave a nonce that was not asked for; not used")
        return drawn

    def _wish(self, at_least: int) -> Wish:
        unit = self._file.unit
        highest = ceiling(unit)
        if at_least > highest:
            raise NonceAheadError(f"a nonce of at least {at_least} was asked for, more than a day ahead of the clock")
        floor = max(self._highest, self._file.kept()) + 1
        generation = self.leadership.generation if self.leadership else 0
        return Wish(max(floor, at_least), highest, unit.ticks, generation)

    def _take_over(self, drawn: Drawn) -> None:
        if drawn.outcome is Outcome.STALE:
            raise LeaseLostError(lease_over(self.place))
        if drawn.outcome is Outcome.AHEAD:
            raise far_ahead(self.place, drawn.last)
        if drawn.outcome is not Outcome.DRAWN:
            return
        if drawn.last < self._highest:
            log.warning(
                "The nonce store %s went back to %s (wiped, restored, failed over?); going on above %s.",
                self.place,
                drawn.last,
                self._highest,
            )
        elif not self._highest and drawn.last < self._file.kept():
            log.warning(
                "The nonce store %s holds %s, below this folder's nonce file (a new or restored store, or the file was "
                "written for another key): going on above the file.",
                self.place,
                drawn.last or "nothing",
            )
        self._highest = drawn.nonce
        self._file.keep(drawn.nonce)


def _timed(step: Callable[Given, Answer], *args: Given.args, **kwargs: Given.kwargs) -> Answer:
    with metrics.timed_step(step.__name__):
        return step(*args, **kwargs)


def lease_over(place: str) -> str:
    """Return the words for a lease that was not renewed in time; whether another one has been granted is not known."""
    return f"this instance's lease is over, says {place}, so another one may lead by now; nothing was sent"


def far_ahead(place: str, last: int) -> NonceAheadError:
    """Return the error for a store whose next nonce would be more than a day ahead of the clock."""
    return NonceAheadError(
        f"the nonce store {place} holds {last}, and the next nonce would be more than a day ahead of the clock. "
        "Check the clocks of this machine and of the store's; a key that is used with NONCE_UNIT=ns can be used with "
        "nothing else"
    )


def file_of_key(nonce_file: str | os.PathLike[str], api_key: str, unit: Unit) -> FileStore:
    """Return the nonce file of a key: the common one; in a finer unit than microseconds one of its own."""
    path = os.fspath(nonce_file) if unit is MICROSECONDS else key_file(nonce_file, api_key, "txt")
    return store_at(path, unit)


_stores: dict[tuple[str, str, str, Unit], SharedStore] = {}


@functools.cache
def shared_store_at(url: str, api_key: str, nonce_file: str | os.PathLike[str], unit: Unit) -> SharedStore:
    """Return this process's store for a key. Raises SettingsError for an address that is none."""
    file = file_of_key(nonce_file, api_key, unit)
    known = (url, api_key, os.path.realpath(file.path), unit)
    if known not in _stores:
        # `setdefault` is one step for all threads; the cache is not.
        _stores.setdefault(known, SharedStore(open_engine(url, api_key), file))
    return _stores[known]

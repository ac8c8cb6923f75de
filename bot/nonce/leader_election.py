"""Who trades: one leader per account, by a lease in the shared store; everybody else stands by and is silent."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import Enum

from bot.base import clock, fork_safety
from bot.base.errors import LeaseLostError, StoppingError, StoreUnavailableError
from bot.base.events import Event, tell
from bot.nonce.shared_store import SharedStore, lease_over
from bot.nonce.store_protocol import Lease

log = logging.getLogger(__name__)

# How soon a standby notices that the leader has signed off.
STANDBY_SECONDS = 0.25
# Of its lifetime: how often a lease is renewed, and how long before its end the leader falls silent by itself.
RENEW_PART = 0.3
SILENT_PART = 0.1
JOIN_SECONDS = 1.0


class Former(Enum):
    """The leader before: none in this store, signed off with nothing unsettled, or gone in whatever way."""

    NOBODY = "nobody"
    SETTLED = "settled"
    VANISHED = "vanished"


class Leadership:
    """This process's part in the lease of a key.

    From then on the process draws nonces under its lease only. `generation` is that of the lease, 0 before the first.
    """

    def __init__(self, store: SharedStore, lifetime_seconds: float) -> None:
        self._store = store
        self._lifetime_seconds = lifetime_seconds
        self._lost = "this instance stands by; nothing was sent"
        self._until_seconds = 0.0
        self.generation = 0
        # The owner of the lease when it was last asked for, and its generation.
        self._found = "", 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        store.leadership = self
        fork_safety.forget_in_child(self)

    def after_fork_in_child(self) -> None:
        """The parent leads, and renews."""
        self._lost = "the process that this one was forked from leads; nothing was sent"

    def wait(self, stop: threading.Event, say: Callable[[str], None]) -> Former:
        """Stand by until this process leads; return what became of the leader before it.

        Raises StoppingError when `stop` is set first, and StoreUnavailableError where the store could never be used;
        later it is waited for.
        """
        said = ""
        former = Former.VANISHED
        while True:
            try:
                if not said:
                    row = self._store.ask(self._store.engine.look)
                    former = Former.VANISHED if row and row.lease.generation else Former.NOBODY
                lease = self._try_to_lead()
                if lease.owner == self._store.owner:
                    say(f"leader   generation {lease.generation}, by {self._store.place}")
                    tell(Event.LEADER_CHANGE, f"{lease.owner} leads, generation {lease.generation}.")
                    return Former.SETTLED if lease.clean else former
                former = Former.VANISHED
                state, news = lease.owner, f"standby  {lease.owner} leads; silent until it ends"
            except StoreUnavailableError as error:
                if not said and not self.generation:
                    raise
                # One outage, in however many words.
                state, news = "away", f"standby  {error}"
            if state != said:
                say(news)
                said = state
            if stop.wait(STANDBY_SECONDS):
                raise StoppingError("the program is stopping; nothing was sent")

    def check(self) -> None:
        """Raise LeaseLostError where this process does not lead, StoreUnavailableError where that cannot be known."""
        if self._lost:
            raise LeaseLostError(self._lost)
        if clock.boottime_seconds() >= self._until_seconds:
            raise StoreUnavailableError(
                f"the lease could not be renewed at {self._store.place} in time, so another instance may lead by now; "
                "nothing was sent"
            )

    @property
    def leads(self) -> bool:
        """Whether this process leads, as far as it knows."""
        return not self._lost and clock.boottime_seconds() < self._until_seconds

    @property
    def leader(self) -> tuple[str, int]:
        """Who leads, and the lease's generation, as they were last found; nobody and 0 where that is not known: before
        the first answer, and after this process's own lead.
        """
        return ("", 0) if self._found[0] == self._store.owner and not self.leads else self._found

    def sign_off(self, settled: bool) -> bool:
        """Let another instance lead at once; return whether that was done: a lease that was lost or cannot be reached
        ends by itself. `settled`: no order of ours has an unknown fate, and no call is left.
        """
        self._ended.set()
        if self._thread is not None:
            self._thread.join(JOIN_SECONDS)
            self._thread = None
        was_leading, self._lost = not self._lost, "this instance has signed off; nothing was sent"
        if was_leading:
            try:
                self._store.ask(self._store.engine.sign_off, self.generation, settled)
            except StoreUnavailableError:
                return False
        return was_leading

    def _try_to_lead(self) -> Lease:
        began = clock.boottime_seconds()
        lease = self._store.ask(self._store.engine.acquire, self._store.owner, self._lifetime_seconds)
        self._found = lease.owner, lease.generation
        if lease.owner == self._store.owner:
            self.generation = lease.generation
            self._live_on(began)
            self._lost = ""
            self._ended = threading.Event()
            self._thread = threading.Thread(target=self._keep, args=(self._ended,), name="kraken-lease", daemon=True)
            self._thread.start()
        return lease

    def _live_on(self, asked_seconds: float) -> None:
        # Counted from before the server was asked, by a clock that goes on while this machine sleeps.
        self._until_seconds = asked_seconds + self._lifetime_seconds * (1 - SILENT_PART)

    def _keep(self, ended: threading.Event) -> None:
        try:
            self._renew_until(ended)
        finally:
            # Whatever ends the renewals ends the leadership too, or the bot would be silent for ever; not one that has
            # begun since.
            if not ended.is_set():
                self._lost = lease_over(self._store.place)
                tell(Event.LEADER_CHANGE, f"{self._store.owner} does not lead any more: {self._lost}")

    def _renew_until(self, ended: threading.Event) -> None:
        wait_seconds = self._lifetime_seconds * RENEW_PART
        while not ended.wait(wait_seconds):
            began = clock.boottime_seconds()
            try:
                renewed = self._store.ask(self._store.engine.renew, self.generation, self._lifetime_seconds)
            except StoreUnavailableError:
                wait_seconds = self._lifetime_seconds * SILENT_PART
                continue
            if ended.is_set():
                return
            if not renewed:
                log.warning("The lease of generation %s is over: another instance may lead.", self.generation)
                return
            self._live_on(began)
            wait_seconds = self._lifetime_seconds * RENEW_PART

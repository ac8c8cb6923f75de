"""Redis and PostgreSQL agree with the memory store step by step, while the server's clock is moved at random."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest

from bot.base.clock import DAY_US
from bot.nonce.store_protocol import GrantStatus, KeyRecord, Lease, NonceGrant, NonceStore
from tests.stores.key_rows import MAX_NONCE, acquire_lease, granted_nonce, make_request
from tests.stores.memory_store import MemoryStore
from tests.stores.moved_clocks import MICROSECONDS_PER_SECOND, MovedClock

SEED = 20261123
STEPS = 40
# Redis' clock cannot be stopped. All moves and lifetimes are multiples of 10 s, so an episode that takes less than the
# second that a reservation lives has the same result as on a frozen clock.
MAX_EPISODE_US = 800_000


class Reference(MemoryStore):
    """The memory store, except that reading writes nothing, as in the other stores."""

    def read_record(self) -> KeyRecord | None:
        """Read the record and restore everything."""
        saved_claims = replace(self._lock_claim), replace(self._reservation), replace(self._lease_claim)
        record = super().read_record()
        self._lock_claim, self._reservation, self._lease_claim = saved_claims
        return record


@dataclass
class Side:
    """One store and the fencing tokens that it has granted: tokens are compared by their order."""

    store: NonceStore
    fencing_tokens: list[int] = field(default_factory=list)

    def normalize_lease(self, lease: Lease) -> tuple[str, int, int, bool]:
        """Return what must be equal on both sides."""
        if lease.fencing_token not in self.fencing_tokens:
            self.fencing_tokens.append(lease.fencing_token)
        rank = self.fencing_tokens.index(lease.fencing_token)
        return lease.owner, rank, round(lease.remaining_seconds / 10), lease.is_clean_handover

    def normalize_record(self, record: KeyRecord | None) -> object:
        """Return what must be equal on both sides."""
        return record and (record.last_nonce, self.normalize_lease(record.lease), record.lock_owner)

    def fencing_token(self, back: int) -> int:
        """Return the newest token (0), one before it, or one that never existed; tokens rise on either side."""
        return sorted(self.fencing_tokens)[-1 - back] if back < len(self.fencing_tokens) else 5


class Player:
    """Plays the same random steps on both sides and compares the answers."""

    def __init__(self, moved: MovedClock, seed: int) -> None:
        self._random = random.Random(seed)
        self._now_us = moved.now_us()
        self._moved = moved
        self._sides = [Side(Reference(lambda: self._now_us)), Side(moved.store)]
        self._nonces = [1]
        # So far ahead that the clock never decides, because one that cannot be stopped would decide differently.
        self._start = self._now_us + 10 * DAY_US
        # The contract leaves open whether a request above the ceiling notices a clock that was set back, so a run has
        # only one of the two.
        self._allows_setback = bool(seed % 2)
        self.trace: list[str] = []

    def play(self) -> bool:
        """Return whether both sides gave the same answers."""
        floor = make_request(floor=self._start)
        if not self._same("first next_nonce", *(side.store.next_nonce(floor) for side in self._sides)):
            return False
        kinds = [self._next_nonce, self._acquire_lock, self._acquire_lock, self._release_lock, self._acquire_lease]
        kinds += [self._renew_lease, self._release_lease, self._read_record, self._move]
        return all(self._random.choice(kinds)() for _ in range(STEPS))

    def _same(self, step: str, one: object, other: object) -> bool:
        self.trace.append(f"{step}: {one}" if one == other else f"{step}: {one} but {other}")
        return one == other

    def _requests(self) -> list[tuple[Side, int, int, int]]:
        floor = self._random.choice([0, self._start + self._random.randrange(300)])
        near = self._start + self._random.randrange(300)
        ceiling = MAX_NONCE if self._allows_setback else self._random.choice([MAX_NONCE, MAX_NONCE, MAX_NONCE, near])
        back = self._random.choice([-1, 0, 0, 1, 9])
        return [(side, floor, ceiling, 0 if back < 0 else side.fencing_token(back)) for side in self._sides]

    def _lifetime(self) -> float:
        return self._random.choice([10.0, 20.0, 60.0])

    def _remember(self, answers: list[NonceGrant]) -> list[NonceGrant]:
        if answers[0].nonce:
            self._nonces.append(answers[0].nonce)
        return answers

    def _next_nonce(self) -> bool:
        requests = self._requests()
        answers = [
            side.store.next_nonce(make_request(floor, ceiling, 1, one)) for side, floor, ceiling, one in requests
        ]
        return self._same("next_nonce", *self._remember(answers))

    def _acquire_lock(self) -> bool:
        # The contract leaves open who has waited longest after the clock was set back, so then there is one owner.
        owner = "a" if self._allows_setback else self._random.choice("abc")
        lifetime, waited = self._lifetime(), self._random.choice([0.0, 10.0])
        requests = self._requests()
        answers = [
            side.store.acquire_lock(make_request(floor, ceiling, 1, one), owner, lifetime, waited)
            for side, floor, ceiling, one in requests
        ]
        return self._same(f"{owner} acquires the lock for {lifetime} s after {waited} s", *self._remember(answers))

    def _release_lock(self) -> bool:
        nonce = self._random.choice(self._nonces[-3:])
        for side in self._sides:
            side.store.release_lock(nonce)
        self.trace.append(f"release_lock {nonce}")
        return self._read_record()

    def _acquire_lease(self) -> bool:
        owner, lifetime = self._random.choice("abc"), self._lifetime()
        leases = [side.normalize_lease(side.store.acquire_lease(owner, lifetime)) for side in self._sides]
        return self._same(f"{owner} acquires the lease for {lifetime} s", *leases)

    def _renew_lease(self) -> bool:
        back, lifetime = self._random.choice([0, 0, 1]), self._lifetime()
        renewed = [side.store.renew_lease(side.fencing_token(back), lifetime) for side in self._sides]
        return self._same(f"renew_lease for {lifetime} s", *renewed)

    def _release_lease(self) -> bool:
        back, is_reconciled = self._random.choice([0, 0, 1]), self._random.random() < 0.5
        for side in self._sides:
            side.store.release_lease(side.fencing_token(back), is_reconciled)
        self.trace.append(f"release_lease {back} back, reconciled {is_reconciled}")
        return self._read_record()

    def _read_record(self) -> bool:
        return self._same("read_record", *(side.normalize_record(side.store.read_record()) for side in self._sides))

    def _move(self) -> bool:
        back = [-60, -30, -10] if self._allows_setback else []
        step_us = self._random.choice([*back, 10, 20, 40]) * MICROSECONDS_PER_SECOND
        self._now_us += step_us
        self._moved.move(step_us)
        self.trace.append(f"the server's clock moves by {step_us // MICROSECONDS_PER_SECOND} s")
        return True


def test_stores_agree_with_the_reference_step_by_step(moved_clock: MovedClock, full_size: bool) -> None:
    """Random steps of three owners have the same results on both sides while the server's clock is moved to and fro."""
    episodes = 1000 if full_size else 12
    for seed in range(SEED, SEED + episodes):
        for _ in range(10):
            moved_clock.wipe()
            began_us = moved_clock.real_us()
            player = Player(moved_clock, seed)
            is_equal = player.play()
            if is_equal or moved_clock.real_us() - began_us < MAX_EPISODE_US:
                break
        assert is_equal, "\n".join([f"seed {seed}", *player.trace])


def test_a_clock_set_back(moved_clock: MovedClock) -> None:
    """After the server's clock was set back by an hour, nonces continue above the last, and lock and lease expire
    within one lifetime from when that is noticed."""
    store = moved_clock.store
    fencing_token = acquire_lease(store, "a", 20.0).fencing_token
    nonce = granted_nonce(store.acquire_lock(make_request(), "script", 20.0))
    moved_clock.move(-3600 * MICROSECONDS_PER_SECOND)
    assert granted_nonce(store.next_nonce(make_request(fencing_token=fencing_token))) == nonce + 1
    assert store.acquire_lease("b", 20.0).remaining_seconds <= 20.0
    assert store.acquire_lock(make_request(), "b", 20.0).status is GrantStatus.RESERVED
    moved_clock.move(20 * MICROSECONDS_PER_SECOND)
    assert store.next_nonce(make_request(fencing_token=fencing_token)).status is GrantStatus.STALE
    assert acquire_lease(store, "b", 20.0).fencing_token == fencing_token + 1
    assert granted_nonce(store.acquire_lock(make_request(), "b", 20.0)) == nonce + 2


@pytest.mark.parametrize("step", ["next_nonce", "acquire_lock", "acquire_lease", "acquire a held lock"])
def test_a_clock_set_back_is_noticed(moved_clock: MovedClock, step: str) -> None:
    """Whichever step first notices that the server's clock was set back, the lease expires one lifetime later."""
    store = moved_clock.store
    fencing_token = acquire_lease(store, "a", 20.0).fencing_token
    granted_nonce(store.acquire_lock(make_request(), "script" if step == "acquire a held lock" else "a", 3600.0))
    moved_clock.move(-3600 * MICROSECONDS_PER_SECOND)
    if step == "next_nonce":
        granted_nonce(store.next_nonce(make_request(fencing_token=fencing_token)))
    elif step == "acquire_lease":
        assert store.acquire_lease("b", 20.0).owner == "a"
    else:
        store.acquire_lock(make_request(fencing_token=fencing_token), "a", 3600.0)
    moved_clock.move(20 * MICROSECONDS_PER_SECOND)
    assert store.next_nonce(make_request(fencing_token=fencing_token)).status is GrantStatus.STALE


def test_a_reservation_expires_after_the_clock_was_set_back(moved_clock: MovedClock) -> None:
    """A reservation expires within a second after it is noticed that the server's clock was set back."""
    store = moved_clock.store
    granted_nonce(store.acquire_lock(make_request(), "a", 20.0))
    # So that the lock's own end stays within its lifetime.
    moved_clock.move(6 * MICROSECONDS_PER_SECOND)
    assert store.acquire_lock(make_request(), "b", 20.0, 10.0).status is GrantStatus.RESERVED
    moved_clock.move(-5 * MICROSECONDS_PER_SECOND)
    assert store.acquire_lock(make_request(), "c", 20.0).status is GrantStatus.BUSY
    moved_clock.move(11 * MICROSECONDS_PER_SECOND // 10)
    assert store.acquire_lock(make_request(), "c", 20.0).status is GrantStatus.RESERVED


def test_reading_the_record_does_not_write_the_clock_correction(moved_clock: MovedClock) -> None:
    """Reading writes nothing: after the clock was set back, a lease has one full lifetime left at every read."""
    store = moved_clock.store
    acquire_lease(store, "a", 20.0)
    moved_clock.move(-3600 * MICROSECONDS_PER_SECOND)
    for _ in range(2):
        record = store.read_record()
        assert record is not None
        assert record.lease.remaining_seconds == pytest.approx(20.0, abs=1.0)
        moved_clock.move(60 * MICROSECONDS_PER_SECOND)


def test_a_clock_set_forward(moved_clock: MovedClock) -> None:
    """After the server's clock was set forward by an hour, lock and lease have expired; nonce and token follow it."""
    store = moved_clock.store
    previous_lease = acquire_lease(store, "a", 20.0)
    nonce = granted_nonce(store.acquire_lock(make_request(), "script", 20.0))
    moved_clock.move(3600 * MICROSECONDS_PER_SECOND)
    assert store.next_nonce(make_request(fencing_token=previous_lease.fencing_token)).status is GrantStatus.STALE
    assert (
        acquire_lease(store, "b", 20.0).fencing_token >= previous_lease.fencing_token + 3600 * MICROSECONDS_PER_SECOND
    )
    assert granted_nonce(store.acquire_lock(make_request(), "b", 20.0)) >= nonce + 3600 * MICROSECONDS_PER_SECOND


def test_a_reservation_is_extended_while_its_owner_polls(moved_clock: MovedClock) -> None:
    """A reservation ends a second after it began, unless its owner asks again in the second half of it."""
    store = moved_clock.store
    granted_nonce(store.acquire_lock(make_request(), "a", 20.0))
    assert store.acquire_lock(make_request(), "b", 20.0).status is GrantStatus.RESERVED
    for _ in range(3):
        moved_clock.move(6 * MICROSECONDS_PER_SECOND // 10)
        assert store.acquire_lock(make_request(), "c", 20.0).status is GrantStatus.BUSY
        assert store.acquire_lock(make_request(), "b", 20.0).status is GrantStatus.RESERVED
    moved_clock.move(11 * MICROSECONDS_PER_SECOND // 10)
    assert store.acquire_lock(make_request(), "c", 20.0).status is GrantStatus.RESERVED

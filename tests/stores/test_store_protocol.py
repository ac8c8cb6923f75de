"""The contract of `bot.nonce.store_protocol`, sentence by sentence, for the memory store, Redis and PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bot.nonce.store_protocol import GrantStatus, KeyRecord, Lease, NonceGrant, NonceStore
from tests.stores.key_rows import (
    HOUR_SECONDS,
    MAX_NONCE,
    StoreKey,
    acquire_lease,
    granted_nonce,
    make_request,
    poll_until,
)

HOUR_US = 3_600_000_000
# Long enough to be observed alive, short enough to wait for its expiry.
SHORT_LIFETIME_SECONDS = 0.03


@pytest.fixture
def store(store_key: StoreKey) -> NonceStore:
    """Return a client of a key that has no record yet."""
    return store_key.connect()


def is_lock_free(store: NonceStore) -> bool:
    """Return whether nobody holds the lock."""
    record = store.read_record()
    return record is not None and not record.lock_owner


def is_lease_expired(store: NonceStore) -> bool:
    """Return whether the lease's lifetime has passed."""
    record = store.read_record()
    return record is not None and record.lease.remaining_seconds == 0.0


class TestNonces:
    """`next_nonce` without a lease."""

    @pytest.mark.parametrize("units_per_microsecond", [1, 1000], ids=["us", "ns"])
    def test_it_starts_from_the_servers_clock(
        self, store_key: StoreKey, store: NonceStore, units_per_microsecond: int
    ) -> None:
        """A nonce is the server's time in the request's unit, where nothing requires a higher one."""
        before = store_key.server_us()
        nonce = granted_nonce(store.next_nonce(make_request(units_per_microsecond=units_per_microsecond)))
        assert before * units_per_microsecond <= nonce <= store_key.server_us() * units_per_microsecond
        assert nonce % units_per_microsecond == 0

    def test_it_continues_above_the_previous_nonce(self, store_key: StoreKey, store: NonceStore) -> None:
        """A nonce is the last one plus one where the last one is ahead of the server's clock."""
        ahead = granted_nonce(store.next_nonce(make_request(floor=store_key.server_us() + HOUR_US)))
        assert granted_nonce(store.next_nonce(make_request())) == ahead + 1

    def test_it_is_at_least_the_floor(self, store_key: StoreKey, store: NonceStore) -> None:
        """A nonce is exactly the floor where clock and last are below it; a floor that the last has reached has no
        effect."""
        floor = store_key.server_us() + HOUR_US
        assert granted_nonce(store.next_nonce(make_request(floor=floor))) == floor
        assert granted_nonce(store.next_nonce(make_request(floor=floor))) == floor + 1

    @pytest.mark.parametrize("floor", [2**53, 10**16 - 2, 1_999_999_999_999_999_998, 10**18 - 2, MAX_NONCE - 4])
    def test_every_digit_counts(self, store: NonceStore, floor: int) -> None:
        """Four nonces in a row are exact and one apart where a double would round, carry or lose them."""
        nonces = [granted_nonce(store.next_nonce(make_request(floor=floor + 1))) for _ in range(4)]
        assert nonces == [floor + 1, floor + 2, floor + 3, floor + 4]
        record = store.read_record()
        assert record is not None
        assert record.last_nonce == floor + 4

    def test_the_ceiling_is_inclusive(self, store_key: StoreKey, store: NonceStore) -> None:
        """A nonce may equal the ceiling; the next one is ABOVE_CEILING with the last nonce, and nothing is written."""
        ceiling = granted_nonce(store.next_nonce(make_request(floor=store_key.server_us() + HOUR_US))) + 1
        assert granted_nonce(store.next_nonce(make_request(ceiling=ceiling))) == ceiling
        before = store.read_record()
        assert store.next_nonce(make_request(ceiling=ceiling)) == NonceGrant(GrantStatus.ABOVE_CEILING, 0, ceiling)
        assert store.next_nonce(make_request(floor=ceiling + 2, ceiling=ceiling + 1)) == NonceGrant(
            GrantStatus.ABOVE_CEILING, 0, ceiling
        )
        assert store.read_record() == before

    def test_there_is_none_above_the_highest_number(self, store: NonceStore) -> None:
        """Above a last nonce of 2^63 - 1, the highest integer, the answer is ABOVE_CEILING too."""
        assert granted_nonce(store.next_nonce(make_request(floor=MAX_NONCE))) == MAX_NONCE
        assert store.next_nonce(make_request()) == NonceGrant(GrantStatus.ABOVE_CEILING, 0, MAX_NONCE)
        assert store.acquire_lock(make_request(), "a", HOUR_SECONDS) == NonceGrant(
            GrantStatus.ABOVE_CEILING, 0, MAX_NONCE
        )

    def test_previous_nonce_is_returned(self, store_key: StoreKey, store: NonceStore) -> None:
        """`previous_nonce` is what the store held before: 0 without a record, and 0 again after it was wiped."""
        first = store.next_nonce(make_request())
        second = store.next_nonce(make_request())
        third = store.acquire_lock(make_request(), "a", HOUR_SECONDS)
        assert [first.previous_nonce, second.previous_nonce, third.previous_nonce] == [0, first.nonce, second.nonce]
        store_key.wipe()
        assert store.next_nonce(make_request()).previous_nonce == 0

    def test_it_is_written_before_it_is_returned(self, store_key: StoreKey, store: NonceStore) -> None:
        """Another client reads each issued nonce, and gets one above it."""
        other = store_key.connect()
        for _ in range(5):
            nonce = granted_nonce(store.next_nonce(make_request()))
            record = other.read_record()
            assert record is not None
            assert record.last_nonce == nonce
            assert granted_nonce(other.next_nonce(make_request())) > nonce

    def test_threads(self, store_key: StoreKey, store: NonceStore, full_size: bool) -> None:
        """Four threads on two clients get different nonces, each rising, and the highest is in the store."""
        count = 2000 if full_size else 100
        clients = [store, store_key.connect()]

        def request_nonces(number: int) -> list[int]:
            return [granted_nonce(clients[number % 2].next_nonce(make_request())) for _ in range(count)]

        with ThreadPoolExecutor(4) as pool:
            sequences = list(pool.map(request_nonces, range(4)))
        together = [nonce for sequence in sequences for nonce in sequence]
        assert len(set(together)) == 4 * count
        assert all(sequence == sorted(sequence) for sequence in sequences)
        record = store.read_record()
        assert record is not None
        assert record.last_nonce == max(together)


class TestNoncesUnderALease:
    """`next_nonce` and `acquire_lock` with a fencing token."""

    def test_the_leader_gets_a_nonce(self, store: NonceStore) -> None:
        """A nonce is granted with the lease's fencing token while the lease lives."""
        fencing_token = acquire_lease(store, "a").fencing_token
        granted_nonce(store.next_nonce(make_request(fencing_token=fencing_token)))
        granted_nonce(store.acquire_lock(make_request(fencing_token=fencing_token), "a", HOUR_SECONDS))

    def test_a_nonce_without_fencing_token_needs_no_lease(self, store: NonceStore) -> None:
        """Without a fencing token a nonce is granted whoever leads."""
        acquire_lease(store, "a")
        granted_nonce(store.next_nonce(make_request()))
        granted_nonce(store.acquire_lock(make_request(), "b", HOUR_SECONDS))

    @pytest.mark.parametrize("why", ["no lease", "another token", "expired", "released", "superseded"])
    def test_a_token_without_a_live_lease_is_stale(self, store: NonceStore, why: str) -> None:
        """With a token that is not that of a live lease nothing is written, and the last nonce is returned."""
        last = granted_nonce(store.next_nonce(make_request()))
        fencing_token = 5
        if why != "no lease":
            lease = acquire_lease(
                store, "a", SHORT_LIFETIME_SECONDS if why in {"expired", "superseded"} else HOUR_SECONDS
            )
            fencing_token = lease.fencing_token - (why == "another token")
        if why == "released":
            store.release_lease(fencing_token, is_reconciled=True)
        if why in {"expired", "superseded"}:
            poll_until(lambda: is_lease_expired(store))
        if why == "superseded":
            acquire_lease(store, "b")
        assert store.next_nonce(make_request(fencing_token=fencing_token)) == NonceGrant(GrantStatus.STALE, 0, last)
        assert store.acquire_lock(make_request(fencing_token=fencing_token), "a", HOUR_SECONDS) == NonceGrant(
            GrantStatus.STALE, 0, last
        )
        record = store.read_record()
        assert record is not None
        assert (record.last_nonce, record.lock_owner) == (last, "")


class TestRequestLock:
    """`acquire_lock` and `release_lock`."""

    def test_acquiring_the_lock_returns_a_nonce(self, store_key: StoreKey, store: NonceStore) -> None:
        """The lock is acquired together with a nonce by the same rules, and the store has its owner."""
        floor = store_key.server_us() + HOUR_US
        assert store.acquire_lock(make_request(floor=floor), "a", HOUR_SECONDS) == NonceGrant(
            GrantStatus.GRANTED, floor, 0
        )
        assert store.read_record() == KeyRecord(floor, Lease(), "a")

    def test_one_owner_at_a_time(self, store: NonceStore) -> None:
        """While one owner holds the lock, another is RESERVED and all others BUSY: no nonce, and the last one is
        returned."""
        nonce = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        for owner, outcome in ("b", GrantStatus.RESERVED), ("c", GrantStatus.BUSY), ("b", GrantStatus.RESERVED):
            assert store.acquire_lock(make_request(), owner, HOUR_SECONDS) == NonceGrant(outcome, 0, nonce)
        assert store.read_record() == KeyRecord(nonce, Lease(), "a")

    def test_next_nonce_does_not_wait_for_the_lock(self, store: NonceStore) -> None:
        """A nonce is granted without the lock while another owner holds it."""
        nonce = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        assert granted_nonce(store.next_nonce(make_request())) > nonce

    def test_above_ceiling_does_not_acquire_the_lock(self, store: NonceStore) -> None:
        """Where the nonce would be above the ceiling, the lock is not acquired either, and no record is written."""
        assert store.acquire_lock(make_request(ceiling=1), "a", HOUR_SECONDS) == NonceGrant(
            GrantStatus.ABOVE_CEILING, 0, 0
        )
        assert store.read_record() is None
        granted_nonce(store.acquire_lock(make_request(), "b", HOUR_SECONDS))

    def test_a_released_lock_is_free_at_once(self, store: NonceStore) -> None:
        """A released lock is free at once, and a second release changes nothing."""
        nonce = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        store.release_lock(nonce)
        assert is_lock_free(store)
        granted_nonce(store.acquire_lock(make_request(), "b", HOUR_SECONDS))
        store.release_lock(nonce)
        assert not is_lock_free(store)

    def test_an_expired_lock_is_free(self, store: NonceStore) -> None:
        """A lock that is not released is free after its lifetime; a late release does not free another owner's lock."""
        late = granted_nonce(store.acquire_lock(make_request(), "a", SHORT_LIFETIME_SECONDS))
        poll_until(lambda: is_lock_free(store))
        granted_nonce(store.acquire_lock(make_request(), "b", HOUR_SECONDS))
        store.release_lock(late)
        assert store.acquire_lock(make_request(), "a", HOUR_SECONDS).status is GrantStatus.RESERVED

    def test_the_owner_reacquires_its_lock(self, store: NonceStore) -> None:
        """Its owner acquires the lock again with a higher nonce, and only a release with that nonce frees it."""
        lost = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        nonce = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        assert nonce > lost
        store.release_lock(lost)
        assert not is_lock_free(store)
        store.release_lock(nonce)
        assert is_lock_free(store)

    def test_the_owner_reacquires_despite_a_reservation(self, store: NonceStore) -> None:
        """Its owner acquires the lock again despite a reservation; otherwise nobody would have it until it expires."""
        granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        assert store.acquire_lock(make_request(), "b", HOUR_SECONDS).status is GrantStatus.RESERVED
        store.release_lock(granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS)))
        granted_nonce(store.acquire_lock(make_request(), "b", HOUR_SECONDS))

    def test_the_first_waiter_holds_the_reservation(self, store: NonceStore) -> None:
        """The first unsuccessful caller gets the lock, not a busy sender that asks sooner, nor a third one."""
        nonce = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        for owner in "bcb":
            assert store.acquire_lock(make_request(), owner, HOUR_SECONDS).status is (
                GrantStatus.RESERVED if owner == "b" else GrantStatus.BUSY
            )
        store.release_lock(nonce)
        for owner in "ac":
            assert store.acquire_lock(make_request(), owner, HOUR_SECONDS).status is GrantStatus.BUSY
        granted_nonce(store.acquire_lock(make_request(), "b", HOUR_SECONDS))

    def test_the_longest_waiter_gets_the_reservation(self, store: NonceStore) -> None:
        """A caller that has waited longer than the reserved one replaces it, or acquires the lock at once if it is
        free."""
        nonce = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        for owner, waited_seconds, outcome in (
            ("b", 2.0, GrantStatus.RESERVED),
            ("c", 1.0, GrantStatus.BUSY),
            ("c", 3.0, GrantStatus.RESERVED),
            ("b", 2.5, GrantStatus.BUSY),
        ):
            assert store.acquire_lock(make_request(), owner, HOUR_SECONDS, waited_seconds).status is outcome
        store.release_lock(nonce)
        granted_nonce(store.acquire_lock(make_request(), "d", HOUR_SECONDS, 4.0))
        assert store.acquire_lock(make_request(), "b", HOUR_SECONDS, 3.5).status is GrantStatus.RESERVED

    def test_a_reservation_is_used_once(self, store: NonceStore) -> None:
        """An owner that used its reservation has none any more: the next unsuccessful caller gets one."""
        nonce = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        assert store.acquire_lock(make_request(), "b", HOUR_SECONDS).status is GrantStatus.RESERVED
        store.release_lock(nonce)
        nonce = granted_nonce(store.acquire_lock(make_request(), "b", HOUR_SECONDS))
        assert store.acquire_lock(make_request(), "a", HOUR_SECONDS).status is GrantStatus.RESERVED
        store.release_lock(nonce)
        assert store.acquire_lock(make_request(), "b", HOUR_SECONDS).status is GrantStatus.BUSY
        granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))

    def test_an_abandoned_reservation_expires(self, store: NonceStore) -> None:
        """A reservation whose owner does not ask again expires by the store's clock, and another acquires the lock."""
        nonce = granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
        assert store.acquire_lock(make_request(), "gone", HOUR_SECONDS).status is GrantStatus.RESERVED
        store.release_lock(nonce)
        assert store.acquire_lock(make_request(), "c", HOUR_SECONDS).status is GrantStatus.BUSY
        poll_until(lambda: store.acquire_lock(make_request(), "c", HOUR_SECONDS).status is GrantStatus.GRANTED)

    def test_many_senders_acquire_one_at_a_time(self, store_key: StoreKey, store: NonceStore, full_size: bool) -> None:
        """Of four senders on two clients that ask at once, one at a time holds the lock, with rising nonces."""
        clients = [store, store_key.connect()]
        inside: list[str] = []
        nonces: list[int] = []
        pause = threading.Event()

        def acquire_repeatedly(owner: str) -> None:
            client = clients[ord(owner) % 2]
            for _ in range(200 if full_size else 8):
                while (
                    answer := client.acquire_lock(make_request(), owner, HOUR_SECONDS)
                ).status is not GrantStatus.GRANTED:
                    pause.wait(0.002)
                inside.append(owner)
                assert inside == [owner]
                nonces.append(answer.nonce)
                inside.remove(owner)
                client.release_lock(answer.nonce)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(acquire_repeatedly, "abcd"))
        assert nonces == sorted(set(nonces))


def test_an_unknown_key_has_no_record(store: NonceStore) -> None:
    """Steps on an unknown key that have no effect leave no record."""
    assert store.read_record() is None
    store.release_lock(1)
    assert not store.renew_lease(1, HOUR_SECONDS)
    store.release_lease(1, is_reconciled=True)
    assert store.next_nonce(make_request(fencing_token=1)) == NonceGrant(GrantStatus.STALE, 0, 0)
    assert store.next_nonce(make_request(ceiling=1)) == NonceGrant(GrantStatus.ABOVE_CEILING, 0, 0)
    assert store.read_record() is None


def test_a_closed_store_reopens_on_next_use(store: NonceStore) -> None:
    """A closed client reopens with its next use, and may be closed twice."""
    nonce = granted_nonce(store.next_nonce(make_request()))
    store.close()
    store.close()
    assert granted_nonce(store.next_nonce(make_request())) > nonce

"""The lease contract of `bot.nonce.store_protocol`, for the memory store, Redis and PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from bot.nonce.store_protocol import GrantStatus, Lease, NonceStore
from tests.stores.key_rows import HOUR_SECONDS, StoreKey, acquire_lease, granted_nonce, make_request, poll_until
from tests.stores.test_store_protocol import SHORT_LIFETIME_SECONDS, is_lease_expired, is_lock_free


@pytest.fixture
def store(store_key: StoreKey) -> NonceStore:
    """Return a client of a key that has no record yet."""
    return store_key.connect()


def current_lease(store: NonceStore) -> Lease:
    """Return the lease in the store."""
    record = store.read_record()
    assert record is not None
    return record.lease


def test_the_first_one_leads(store_key: StoreKey, store: NonceStore) -> None:
    """The first caller leads for its lifetime, with the server's time as its fencing token and no clean handover."""
    before = store_key.server_us()
    lease = acquire_lease(store, "a")
    assert before <= lease.fencing_token <= store_key.server_us()
    assert HOUR_SECONDS - 60.0 < lease.remaining_seconds <= HOUR_SECONDS
    assert not lease.is_clean_handover
    assert current_lease(store).fencing_token == lease.fencing_token


def test_a_second_instance_is_on_standby(store: NonceStore) -> None:
    """While one instance leads, another gets the leader's name, token and remaining time, and nothing changes."""
    lease = acquire_lease(store, "a")
    observed_lease = store.acquire_lease("b", 2 * HOUR_SECONDS)
    assert (observed_lease.owner, observed_lease.fencing_token, observed_lease.is_clean_handover) == (
        "a",
        lease.fencing_token,
        False,
    )
    assert 0.0 < observed_lease.remaining_seconds <= lease.remaining_seconds
    assert current_lease(store).owner == "a"


def test_the_leader_reacquires_its_lease(store: NonceStore) -> None:
    """The owner that acquires its live lease again keeps its fencing token, for a new lifetime."""
    lease = acquire_lease(store, "a")
    renewed_lease = acquire_lease(store, "a", 2 * HOUR_SECONDS)
    assert renewed_lease.fencing_token == lease.fencing_token
    assert renewed_lease.remaining_seconds > HOUR_SECONDS
    granted_nonce(store.next_nonce(make_request(fencing_token=lease.fencing_token)))


def test_a_previous_leader_gets_a_new_lease(store: NonceStore) -> None:
    """An expired lease is not revived for its owner: it gets a new grant with a higher token, and no clean handover."""
    store.release_lease(acquire_lease(store, "z").fencing_token, is_reconciled=True)
    previous_lease = acquire_lease(store, "a", SHORT_LIFETIME_SECONDS)
    poll_until(lambda: is_lease_expired(store))
    lease = acquire_lease(store, "a")
    assert lease.fencing_token > previous_lease.fencing_token
    assert not lease.is_clean_handover
    assert store.next_nonce(make_request(fencing_token=previous_lease.fencing_token)).status is GrantStatus.STALE


def test_an_expired_lease_is_granted_to_another(store: NonceStore) -> None:
    """After the lease has expired another owner leads with a higher token, and without a clean handover."""
    previous_lease = acquire_lease(store, "a", SHORT_LIFETIME_SECONDS)
    poll_until(lambda: is_lease_expired(store))
    assert current_lease(store) == Lease("a", previous_lease.fencing_token, 0.0, is_clean_handover=False)
    lease = acquire_lease(store, "b")
    assert lease.fencing_token > previous_lease.fencing_token
    assert not lease.is_clean_handover


@pytest.mark.parametrize("is_reconciled", [True, False])
def test_a_released_lease_is_granted_at_once(store: NonceStore, is_reconciled: bool) -> None:
    """A released lease is granted at once with a higher token; `is_clean_handover` repeats what the release said."""
    previous_lease = acquire_lease(store, "a")
    store.release_lease(previous_lease.fencing_token, is_reconciled)
    assert current_lease(store) == Lease("", previous_lease.fencing_token, 0.0, is_clean_handover=False)
    lease = acquire_lease(store, "b")
    assert lease.fencing_token > previous_lease.fencing_token
    assert lease.is_clean_handover is is_reconciled


def test_a_late_release_is_not_a_clean_handover(store: NonceStore) -> None:
    """A release after the lease has expired is not a clean handover."""
    previous_lease = acquire_lease(store, "a", SHORT_LIFETIME_SECONDS)
    poll_until(lambda: is_lease_expired(store))
    store.release_lease(previous_lease.fencing_token, is_reconciled=True)
    assert not acquire_lease(store, "b").is_clean_handover


def test_is_clean_handover_belongs_to_the_last_grant(store: NonceStore) -> None:
    """`is_clean_handover` lasts as long as its grant, and is False for the next one if the owner did not release."""
    store.release_lease(acquire_lease(store, "a").fencing_token, is_reconciled=True)
    lease = acquire_lease(store, "b", SHORT_LIFETIME_SECONDS)
    assert lease.is_clean_handover
    assert current_lease(store).is_clean_handover
    poll_until(lambda: is_lease_expired(store))
    assert not acquire_lease(store, "c").is_clean_handover


def test_a_released_owner_gets_a_new_fencing_token(store: NonceStore) -> None:
    """An owner that released its lease and asks again gets a new fencing token."""
    previous_lease = acquire_lease(store, "a")
    store.release_lease(previous_lease.fencing_token, is_reconciled=True)
    assert acquire_lease(store, "a").fencing_token > previous_lease.fencing_token


def test_a_fencing_token_is_never_reused(store_key: StoreKey, store: NonceStore) -> None:
    """A fencing token that was lost with the store's data is never granted again, and gets no nonce."""
    lost_token = acquire_lease(store, "a").fencing_token
    store_key.wipe()
    assert acquire_lease(store, "b").fencing_token > lost_token
    assert store.next_nonce(make_request(fencing_token=lost_token)).status is GrantStatus.STALE


def test_a_renewed_lease_lives_a_full_lifetime(store: NonceStore) -> None:
    """A renewed lease lives for a full lifetime from the renewal."""
    lease = acquire_lease(store, "a", HOUR_SECONDS)
    assert store.renew_lease(lease.fencing_token, 2 * HOUR_SECONDS)
    assert current_lease(store).remaining_seconds > HOUR_SECONDS
    assert store.renew_lease(lease.fencing_token, SHORT_LIFETIME_SECONDS)
    assert current_lease(store).remaining_seconds <= SHORT_LIFETIME_SECONDS


def test_an_expired_lease_is_not_renewed(store: NonceStore) -> None:
    """An expired lease is not renewed even while nobody else has it: it stays expired, and gets no nonce."""
    lease = acquire_lease(store, "a", SHORT_LIFETIME_SECONDS)
    poll_until(lambda: is_lease_expired(store))
    assert not store.renew_lease(lease.fencing_token, HOUR_SECONDS)
    assert is_lease_expired(store)
    assert store.next_nonce(make_request(fencing_token=lease.fencing_token)).status is GrantStatus.STALE


def test_a_released_or_unknown_lease_is_not_renewed(store: NonceStore) -> None:
    """A lease that was released, has another owner, or never existed is not renewed, and nothing changes."""
    previous_lease = acquire_lease(store, "a")
    store.release_lease(previous_lease.fencing_token, is_reconciled=True)
    before = store.read_record()
    assert not store.renew_lease(previous_lease.fencing_token, HOUR_SECONDS)
    assert store.read_record() == before
    lease = acquire_lease(store, "b")
    assert not store.renew_lease(previous_lease.fencing_token, 2 * HOUR_SECONDS)
    assert not store.renew_lease(lease.fencing_token + 1, 2 * HOUR_SECONDS)
    assert current_lease(store).remaining_seconds <= HOUR_SECONDS


def test_a_repeated_release_changes_nothing(store: NonceStore) -> None:
    """A release that is repeated, or that comes after another owner leads, changes nothing."""
    previous_lease = acquire_lease(store, "a")
    store.release_lease(previous_lease.fencing_token, is_reconciled=True)
    store.release_lease(previous_lease.fencing_token, is_reconciled=False)
    lease = acquire_lease(store, "b")
    assert lease.is_clean_handover
    store.release_lease(previous_lease.fencing_token, is_reconciled=True)
    assert current_lease(store).owner == "b"
    granted_nonce(store.next_nonce(make_request(fencing_token=lease.fencing_token)))


def test_a_grant_releases_the_previous_leaders_lock(store: NonceStore) -> None:
    """The lock of a leader whose lease has expired is free once another owner leads."""
    acquire_lease(store, "a", SHORT_LIFETIME_SECONDS)
    granted_nonce(store.acquire_lock(make_request(), "a", HOUR_SECONDS))
    poll_until(lambda: is_lease_expired(store))
    assert not is_lock_free(store)
    acquire_lease(store, "b")
    assert is_lock_free(store)
    granted_nonce(store.acquire_lock(make_request(), "b", HOUR_SECONDS))


def test_a_grant_keeps_another_senders_lock(store: NonceStore) -> None:
    """The lock of a sender that did not lead stays its own when another owner leads."""
    acquire_lease(store, "a", SHORT_LIFETIME_SECONDS)
    granted_nonce(store.acquire_lock(make_request(), "script", HOUR_SECONDS))
    poll_until(lambda: is_lease_expired(store))
    acquire_lease(store, "b")
    record = store.read_record()
    assert record is not None
    assert record.lock_owner == "script"
    assert store.acquire_lock(make_request(), "b", HOUR_SECONDS).status is GrantStatus.RESERVED


@pytest.mark.parametrize("owner", ["a", "script"])
def test_a_release_frees_the_leaders_lock(store: NonceStore, owner: str) -> None:
    """A leader's lock is free at once after the release of its lease; another sender's lock is not."""
    lease = acquire_lease(store, "a")
    granted_nonce(store.acquire_lock(make_request(), owner, HOUR_SECONDS))
    store.release_lease(lease.fencing_token, is_reconciled=False)
    assert is_lock_free(store) == (owner == "a")


def test_one_of_many_leads(store_key: StoreKey, store: NonceStore, full_size: bool) -> None:
    """Of four that ask at the same moment, again and again, one leads, and all get its name."""
    clients = {owner: store_key.connect() for owner in "abcd"}
    with ThreadPoolExecutor(4) as pool:
        for _ in range(500 if full_size else 20):
            leases = list(pool.map(lambda owner: clients[owner].acquire_lease(owner, HOUR_SECONDS), clients))
            assert len({(lease.owner, lease.fencing_token) for lease in leases}) == 1
            store.release_lease(leases[0].fencing_token, is_reconciled=True)

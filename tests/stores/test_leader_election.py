"""Leadership of this process: acquired, renewed, lost, released, and ended before the lease expires."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.base.errors import LeaseLostError, StoppingError, StoreUnavailableError
from bot.nonce import leader_election
from bot.nonce.file_store import FileStore
from bot.nonce.leader_election import LeaderElection, PreviousLeader
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import Lease
from tests.child_process import Child
from tests.stores.conftest import FrozenClock, wait_until
from tests.stores.memory_store import MemoryStore

LIFETIME_SECONDS = 10.0


class Host:
    """One process on a host of its own; tests control when its lease is renewed."""

    def __init__(self, backend: MemoryStore, folder: Path) -> None:
        self.store = SharedStore(backend, FileStore(str(folder / "kraken_nonce.txt")))
        self.election = LeaderElection(self.store, LIFETIME_SECONDS)
        self.standby_reasons: list[str] = []
        self.stop = threading.Event()

    def lead(self) -> PreviousLeader:
        """Wait for leadership until the test stops it."""
        return self.election.wait_for_leadership(self.stop, self.standby_reasons.append)

    def try_once(self) -> None:
        """Poll once, and find that another host leads."""
        self.stop.set()
        with pytest.raises(StoppingError):
            self.lead()
        self.stop.clear()


def may_send(host: Host) -> bool:
    """Return whether a host may send."""
    try:
        host.election.check()
    except (LeaseLostError, StoreUnavailableError):
        return False
    return True


class UnavailableStore(MemoryStore):
    """A store that can be made unavailable."""

    is_unavailable = False

    def _check_available(self) -> None:
        if self.is_unavailable:
            raise StoreUnavailableError("the store is out of reach")

    def acquire_lease(self, owner: str, lifetime_seconds: float) -> Lease:
        self._check_available()
        return super().acquire_lease(owner, lifetime_seconds)

    def renew_lease(self, fencing_token: int, lifetime_seconds: float) -> bool:
        self._check_available()
        return super().renew_lease(fencing_token, lifetime_seconds)

    def release_lease(self, fencing_token: int, is_reconciled: bool) -> None:
        self._check_available()
        super().release_lease(fencing_token, is_reconciled)


@pytest.fixture
def backend(frozen_clock: FrozenClock) -> UnavailableStore:
    """Return a store on the test's clock."""
    return UnavailableStore(frozen_clock.now_us)


@pytest.fixture
def hosts(backend: UnavailableStore, tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Return two hosts."""
    pair = Host(backend, tmp_path / "first"), Host(backend, tmp_path / "second")
    yield pair
    backend.is_unavailable = False
    for host in pair:
        host.election.release(is_reconciled=False)


def test_a_standby_gets_no_nonce(hosts: tuple[Host, Host], backend: UnavailableStore) -> None:
    """An instance that does not lead is refused nonces and locks before the store is asked."""
    first, second = hosts
    first.lead()
    second.try_once()
    before = backend.nonce
    for request in (second.store.next_nonce, second.store.acquire_lock):
        with pytest.raises(LeaseLostError, match="is a standby"):
            request()
    assert backend.nonce == before


def test_a_standby_reports_the_leader_once(hosts: tuple[Host, Host]) -> None:
    """A standby reports the leader once, however often it polls."""
    first, second = hosts
    first.lead()
    threading.Timer(0.7, second.stop.set).start()
    with pytest.raises(StoppingError):
        second.lead()
    assert second.standby_reasons == [f"{first.store.owner} leads; nothing is sent until it ends"]


@pytest.mark.parametrize("is_reconciled", [True, False])
def test_a_successor_learns_whether_the_release_was_clean(hosts: tuple[Host, Host], is_reconciled: bool) -> None:
    """The next leader learns whether the previous one released the lease with every order reconciled."""
    first, second = hosts
    first.lead()
    first.election.release(is_reconciled)
    assert second.lead() is (PreviousLeader.CLEAN if is_reconciled else PreviousLeader.UNCLEAN)


def test_the_first_leader_has_no_previous_leader(hosts: tuple[Host, Host]) -> None:
    """The first leader of a store learns that there was none before it; the next one does not."""
    first, second = hosts
    assert first.lead() is PreviousLeader.NONE
    first.election.release(is_reconciled=False)
    assert second.lead() is PreviousLeader.UNCLEAN


def test_an_expired_lease_is_an_unclean_handover(hosts: tuple[Host, Host], frozen_clock: FrozenClock) -> None:
    """A lease that expired was not released, so its owner's orders may still be on their way."""
    first, second = hosts
    first.lead()
    frozen_clock.advance(LIFETIME_SECONDS)
    assert second.lead() is PreviousLeader.UNCLEAN


def test_no_nonce_after_release(hosts: tuple[Host, Host]) -> None:
    """After the release every nonce is refused."""
    first, _second = hosts
    first.lead()
    first.election.release(is_reconciled=True)
    with pytest.raises(LeaseLostError, match="has released the lease"):
        first.store.next_nonce()


def test_a_leader_stops_sending_before_its_lease_expires(hosts: tuple[Host, Host], frozen_clock: FrozenClock) -> None:
    """A leader that has not renewed may send until a tenth of the lifetime is left, and no longer."""
    first, _second = hosts
    first.lead()
    frozen_clock.boot_seconds += LIFETIME_SECONDS * 0.9 - 0.01
    first.election.check()
    frozen_clock.boot_seconds += 0.02
    with pytest.raises(StoreUnavailableError, match="could not be renewed"):
        first.store.next_nonce()


@pytest.mark.parametrize("step", ["acquire_lease", "renew_lease"])
def test_a_lease_lifetime_starts_before_the_store_call(
    hosts: tuple[Host, Host], frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A store whose answer takes 5 s has used up 5 s of the lease that it grants or renews."""
    first, _second = hosts
    monkeypatch.setattr(leader_election, "RENEW_FRACTION", 0.0001 if step == "renew_lease" else 0.9)
    original_step, calls, go_on = getattr(first.store.backend, step), [], threading.Event()

    def respond_late(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) > 1:
            go_on.wait()
        result = original_step(*arguments)
        frozen_clock.boot_seconds += 5.0
        return result

    monkeypatch.setattr(first.store.backend, step, respond_late)
    first.lead()
    wait_until(lambda: len(calls) == (2 if step == "renew_lease" else 1))
    frozen_clock.boot_seconds += LIFETIME_SECONDS * 0.9 - 5.0 - 0.01
    assert may_send(first)
    frozen_clock.boot_seconds += 0.02
    assert not may_send(first)
    go_on.set()


def test_a_forked_child_of_a_leader_does_not_lead(tmp_path: Path) -> None:
    """A forked child of a leader is refused nonces, and the parent goes on."""
    with Child("tests.stores.store_children", "fork_while_leading", tmp_path / "nonce") as child:
        assert child.read_to_end() == [
            "the process that this one was forked from leads; nothing was sent",
            "the parent gets 16 digits",
        ]


def test_a_suspended_leader_is_refused_by_its_fencing_token(
    hosts: tuple[Host, Host], frozen_clock: FrozenClock
) -> None:
    """A leader whose own clocks stood still while another took over is refused by its fencing token."""
    first, second = hosts
    first.lead()
    frozen_clock.us += int(LIFETIME_SECONDS * 1_000_000)
    second.lead()
    first.election.check()
    with pytest.raises(LeaseLostError, match="is over, so another one may lead"):
        first.store.next_nonce()


def test_a_previous_leader_cannot_acquire_the_lock(hosts: tuple[Host, Host], frozen_clock: FrozenClock) -> None:
    """A previous leader cannot acquire the lock, and its attempt leaves no trace in it."""
    first, second = hosts
    first.lead()
    frozen_clock.us += int(LIFETIME_SECONDS * 1_000_000)
    second.lead()
    with pytest.raises(LeaseLostError):
        first.store.acquire_lock()
    assert second.store.acquire_lock().nonce > 0


def test_the_leader_is_reported_with_its_fencing_token(hosts: tuple[Host, Host], frozen_clock: FrozenClock) -> None:
    """Leader and standby report the same owner and fencing token; a previous leader reports nobody until it has polled,
    and then its successor with that one's token."""
    first, second = hosts
    assert second.election.leader == ("", 0)
    first.lead()
    second.try_once()
    leaders = first.store.owner, first.election.fencing_token
    assert (first.election.leader, second.election.leader) == (leaders, leaders)
    frozen_clock.advance(LIFETIME_SECONDS)
    assert first.election.leader == ("", 0)
    second.lead()
    first.try_once()
    assert first.election.leader == (second.store.owner, second.election.fencing_token)


def test_a_lease_is_renewed(backend: UnavailableStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader renews its lease by itself, several times and with its own fencing token."""
    host = Host(backend, tmp_path)
    monkeypatch.setattr(leader_election, "RENEW_FRACTION", 0.0001)
    renewed: list[int] = []
    renew = backend.renew_lease

    def counted(fencing_token: int, lifetime_seconds: float) -> bool:
        renewed.append(fencing_token)
        return renew(fencing_token, lifetime_seconds)

    monkeypatch.setattr(backend, "renew_lease", counted)
    host.lead()
    wait_until(lambda: len(renewed) > 2)
    host.election.release(is_reconciled=True)
    assert set(renewed) == {host.election.fencing_token}


def test_a_late_renewal_ends_leadership(
    hosts: tuple[Host, Host], frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A renewal that comes too late ends the leadership even when no request is made."""
    first, second = hosts
    monkeypatch.setattr(leader_election, "RENEW_FRACTION", 0.02)
    may_renew = threading.Event()
    renew = first.store.backend.renew_lease
    monkeypatch.setattr(first.store.backend, "renew_lease", lambda *arguments: may_renew.wait() and renew(*arguments))
    first.lead()
    frozen_clock.us += int(LIFETIME_SECONDS * 1_000_000)
    second.lead()
    may_renew.set()

    wait_until(lambda: not may_send(first))
    second.election.check()


def test_a_leader_goes_on_when_the_store_is_back_in_time(
    hosts: tuple[Host, Host], backend: UnavailableStore, frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that stopped sending because its store was unavailable resumes while its lease still lives there."""
    first, _second = hosts
    monkeypatch.setattr(leader_election, "RENEW_FRACTION", 0.002)
    monkeypatch.setattr(leader_election, "SAFETY_FRACTION", 0.002)
    first.lead()
    monkeypatch.setattr(leader_election, "SAFETY_FRACTION", 0.1)
    fencing_token = first.election.fencing_token
    backend.is_unavailable = True
    wait_until(lambda: first.store.problem is not None)
    frozen_clock.boot_seconds += LIFETIME_SECONDS
    with pytest.raises(StoreUnavailableError):
        first.store.next_nonce()
    backend.is_unavailable = False
    wait_until(lambda: first.store.problem is None)
    wait_until(lambda: may_send(first))
    assert first.store.next_nonce() > 0
    assert first.election.fencing_token == fencing_token


def test_an_expired_lease_is_not_revived(
    hosts: tuple[Host, Host], frozen_clock: FrozenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader whose lease has expired in the store loses it, and leads again with a new token after an unclean
    handover."""
    first, _second = hosts
    monkeypatch.setattr(leader_election, "RENEW_FRACTION", 0.002)
    first.lead()
    fencing_token = first.election.fencing_token
    frozen_clock.us += int(LIFETIME_SECONDS * 1_000_000)
    wait_until(lambda: not may_send(first))
    with pytest.raises(LeaseLostError):
        first.election.check()
    assert first.lead() is PreviousLeader.UNCLEAN
    assert first.election.fencing_token > fencing_token


def test_a_renewal_failure_ends_leadership(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where an exception ends the renewals, the process learns that it no longer leads, and can lead again."""
    first, _second = hosts
    monkeypatch.setattr(leader_election, "RENEW_FRACTION", 0.002)
    monkeypatch.setattr(threading, "excepthook", lambda _fault: None)
    with monkeypatch.context() as faulty:
        faulty.setattr(first.store.backend, "renew_lease", lambda *_given: 1 // 0)
        first.lead()
        wait_until(lambda: not may_send(first))
    with pytest.raises(LeaseLostError):
        first.election.check()
    first.lead()
    assert may_send(first)


def test_an_unreachable_store_at_start_is_an_error(hosts: tuple[Host, Host], backend: UnavailableStore) -> None:
    """A store that is unavailable at the start raises StoreUnavailableError at once."""
    backend.is_unavailable = True
    with pytest.raises(StoreUnavailableError):
        hosts[0].lead()


def test_a_standby_waits_for_its_store(hosts: tuple[Host, Host], backend: UnavailableStore) -> None:
    """A standby whose store becomes unavailable reports that, waits, and then leads."""
    first, second = hosts
    first.lead()
    leaders: list[PreviousLeader] = []
    standby = threading.Thread(target=lambda: leaders.append(second.lead()))
    standby.start()
    wait_until(lambda: len(second.standby_reasons) == 1)
    backend.is_unavailable = True
    wait_until(lambda: len(second.standby_reasons) == 2)
    assert second.standby_reasons[1] == "the store is out of reach"
    backend.is_unavailable = False
    first.election.release(is_reconciled=True)
    standby.join()
    assert leaders == [PreviousLeader.CLEAN]


def test_an_outage_is_reported_once(
    hosts: tuple[Host, Host], backend: UnavailableStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A standby prints one line for an outage, even when the error message differs with each poll."""
    first, second = hosts
    first.lead()
    attempts = iter(range(1_000_000))

    def fail(owner: str, lifetime_seconds: float) -> Lease:
        if (attempt := next(attempts)) == 0:
            return UnavailableStore.acquire_lease(backend, owner, lifetime_seconds)
        if attempt == 9:
            second.stop.set()
        raise StoreUnavailableError(f"reason {attempt}")

    monkeypatch.setattr(backend, "acquire_lease", fail)
    monkeypatch.setattr(leader_election, "STANDBY_POLL_SECONDS", 0.001)
    with pytest.raises(StoppingError):
        second.lead()
    assert second.standby_reasons[1:] == ["reason 1"]


def test_release_returns_whether_it_was_done(hosts: tuple[Host, Host], backend: UnavailableStore) -> None:
    """`release` returns True for a lease that this process holds, and False on standby or without the store."""
    first, second = hosts
    first.lead()
    assert second.election.release(is_reconciled=True) is False
    assert first.election.release(is_reconciled=True) is True
    second.lead()
    backend.is_unavailable = True
    assert second.election.release(is_reconciled=True) is False


def test_a_release_that_does_not_arrive_is_no_error(hosts: tuple[Host, Host], backend: UnavailableStore) -> None:
    """A release that does not reach the store still ends this process's leadership."""
    first, _second = hosts
    first.lead()
    backend.is_unavailable = True
    first.election.release(is_reconciled=True)
    with pytest.raises(LeaseLostError):
        first.election.check()

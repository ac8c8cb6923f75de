"""Whether this process leads: taken, renewed, lost, signed off, and silent in good time."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from bot.base.errors import LeaseLostError, StoppingError, StoreUnavailableError
from bot.nonce import leader_election
from bot.nonce.file_store import FileStore
from bot.nonce.leader_election import Former, Leadership
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import Lease
from tests.child_process import Child
from tests.stores.conftest import StillClock, wait_until
from tests.stores.memory_store import MemoryEngine

SECONDS = 10.0


class Host:
    """One process on a host of its own; its renewals come when the test says so."""

    def __init__(self, engine: MemoryEngine, folder: Path) -> None:
        self.store = SharedStore(engine, FileStore(str(folder / "kraken_nonce.txt")))
        self.leadership = Leadership(self.store, SECONDS)
        self.said: list[str] = []
        self.stop = threading.Event()

    def lead(self) -> Former:
        """Lead, or stand by until the test stops it."""
        return self.leadership.wait(self.stop, self.said.append)

    def try_once(self) -> None:
        """Look once, and find that another one leads."""
        self.stop.set()
        with pytest.raises(StoppingError):
            self.lead()
        self.stop.clear()


def leads(host: Host) -> bool:
    """Say whether a host may send."""
    try:
        host.leadership.check()
    except (LeaseLostError, StoreUnavailableError):
        return False
    return True


class AwayEngine(MemoryEngine):
    """A store that can be out of reach."""

    away = False

    def _reach(self) -> None:
        if self.away:
            raise StoreUnavailableError("the store is out of reach")

    def acquire(self, owner: str, lifetime_seconds: float) -> Lease:
        self._reach()
        return super().acquire(owner, lifetime_seconds)

    def renew(self, generation: int, lifetime_seconds: float) -> bool:
        self._reach()
        return super().renew(generation, lifetime_seconds)

    def sign_off(self, generation: int, settled: bool) -> None:
        self._reach()
        super().sign_off(generation, settled)


@pytest.fixture
def engine(still_clock: StillClock) -> AwayEngine:
    """Return a store whose clock is the test's."""
    return AwayEngine(still_clock.now_us)


@pytest.fixture
def hosts(engine: AwayEngine, tmp_path: Path) -> Iterator[tuple[Host, Host]]:
    """Return two hosts."""
    pair = Host(engine, tmp_path / "first"), Host(engine, tmp_path / "second")
    yield pair
    engine.away = False
    for host in pair:
        host.leadership.sign_off(settled=False)


def test_a_standby_draws_nothing(hosts: tuple[Host, Host], engine: AwayEngine) -> None:
    """An instance that does not lead is refused its nonces and turns, before the store is asked for one."""
    first, second = hosts
    first.lead()
    second.try_once()
    before = engine.nonce
    for ask in (second.store.draw, second.store.take):
        with pytest.raises(LeaseLostError, match="stands by"):
            ask()
    assert engine.nonce == before


def test_a_standby_says_who_leads_once(hosts: tuple[Host, Host]) -> None:
    """However often it looks, a standby says once who leads."""
    first, second = hosts
    first.lead()
    threading.Timer(0.7, second.stop.set).start()
    with pytest.raises(StoppingError):
        second.lead()
    assert second.said == [f"standby  {first.store.owner} leads; silent until it ends"]


@pytest.mark.parametrize("settled", [True, False])
def test_a_successor_learns_how_the_leader_has_signed_off(hosts: tuple[Host, Host], settled: bool) -> None:
    """Whoever leads next is told whether the leader before it signed off with every order settled."""
    first, second = hosts
    first.lead()
    first.leadership.sign_off(settled)
    assert second.lead() is (Former.SETTLED if settled else Former.VANISHED)


def test_the_first_one_to_lead_learns_that_nobody_has(hosts: tuple[Host, Host]) -> None:
    """Whoever leads in a store in which nobody has led before is told so, and the next one is not."""
    first, second = hosts
    assert first.lead() is Former.NOBODY
    first.leadership.sign_off(settled=False)
    assert second.lead() is Former.VANISHED


def test_after_a_leader_that_vanished_nothing_is_clean(hosts: tuple[Host, Host], still_clock: StillClock) -> None:
    """A lease that ran out was not signed off, so its orders may still be under way."""
    first, second = hosts
    first.lead()
    still_clock.advance(SECONDS)
    assert second.lead() is Former.VANISHED


def test_who_has_signed_off_sends_nothing(hosts: tuple[Host, Host]) -> None:
    """After the sign-off every nonce is refused."""
    first, _second = hosts
    first.lead()
    first.leadership.sign_off(settled=True)
    with pytest.raises(LeaseLostError, match="signed off"):
        first.store.draw()


def test_a_leader_is_silent_before_its_lifetime_ends(hosts: tuple[Host, Host], still_clock: StillClock) -> None:
    """A leader that has not renewed may send until a tenth of the lifetime is left, and not a moment longer."""
    first, _second = hosts
    first.lead()
    still_clock.boot_seconds += SECONDS * 0.9 - 0.01
    first.leadership.check()
    still_clock.boot_seconds += 0.02
    with pytest.raises(StoreUnavailableError, match="could not be renewed"):
        first.store.draw()


@pytest.mark.parametrize("step", ["acquire", "renew"])
def test_a_lifetime_counts_from_before_the_store_was_asked(
    hosts: tuple[Host, Host], still_clock: StillClock, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """A store whose answer takes 5 s has used up 5 s of the lease that it grants or renews."""
    first, _second = hosts
    monkeypatch.setattr(leader_election, "RENEW_PART", 0.0001 if step == "renew" else 0.9)
    answer, asked, go_on = getattr(first.store.engine, step), [], threading.Event()

    def answer_late(*given: object) -> object:
        asked.append(given)
        if len(asked) > 1:
            go_on.wait()
        answered = answer(*given)
        still_clock.boot_seconds += 5.0
        return answered

    monkeypatch.setattr(first.store.engine, step, answer_late)
    first.lead()
    wait_until(lambda: len(asked) == (2 if step == "renew" else 1))
    still_clock.boot_seconds += SECONDS * 0.9 - 5.0 - 0.01
    assert leads(first)
    still_clock.boot_seconds += 0.02
    assert not leads(first)
    go_on.set()


def test_a_forked_child_of_a_leader_does_not_lead(tmp_path: Path) -> None:
    """A child that is forked while its parent leads is refused its nonces, and the parent goes on."""
    with Child("tests.stores.store_children", "fork_while_leading", tmp_path / "nonce") as child:
        assert child.rest() == [
            "the process that this one was forked from leads; nothing was sent",
            "the parent draws 16 digits",
        ]


def test_a_host_that_slept_is_told_by_the_store(hosts: tuple[Host, Host], still_clock: StillClock) -> None:
    """A leader whose own clocks stood still while another took over is refused by its generation."""
    first, second = hosts
    first.lead()
    still_clock.us += int(SECONDS * 1_000_000)
    second.lead()
    first.leadership.check()
    with pytest.raises(LeaseLostError, match="lease is over"):
        first.store.draw()


def test_a_turn_is_refused_to_a_former_leader(hosts: tuple[Host, Host], still_clock: StillClock) -> None:
    """A former leader does not get the turn either, and leaves no mark on it."""
    first, second = hosts
    first.lead()
    still_clock.us += int(SECONDS * 1_000_000)
    second.lead()
    with pytest.raises(LeaseLostError):
        first.store.take()
    assert second.store.take().nonce > 0


def test_the_leader_is_told_with_its_own_generation(hosts: tuple[Host, Host], still_clock: StillClock) -> None:
    """Leader and standby tell the same owner and generation; who has lost the lead tells nobody until it has asked,
    and then its follower, with the follower's generation."""
    first, second = hosts
    assert second.leadership.leader == ("", 0)
    first.lead()
    second.try_once()
    led = first.store.owner, first.leadership.generation
    assert (first.leadership.leader, second.leadership.leader) == (led, led)
    still_clock.advance(SECONDS)
    assert first.leadership.leader == ("", 0)
    second.lead()
    first.try_once()
    assert first.leadership.leader == (second.store.owner, second.leadership.generation)


def test_a_lease_is_renewed(engine: AwayEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A leader renews by itself, so that its lease ends later than a lifetime after it began."""
    host = Host(engine, tmp_path)
    monkeypatch.setattr(leader_election, "RENEW_PART", 0.0001)
    renewed: list[int] = []
    renew = engine.renew

    def counted(generation: int, lifetime_seconds: float) -> bool:
        renewed.append(generation)
        return renew(generation, lifetime_seconds)

    monkeypatch.setattr(engine, "renew", counted)
    host.lead()
    wait_until(lambda: len(renewed) > 2)
    host.leadership.sign_off(settled=True)
    assert set(renewed) == {host.leadership.generation}


def test_a_leader_learns_that_it_was_followed(
    hosts: tuple[Host, Host], still_clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The renewal that comes too late ends the leadership without any request being made."""
    first, second = hosts
    monkeypatch.setattr(leader_election, "RENEW_PART", 0.02)
    gate = threading.Event()
    renew = first.store.engine.renew
    monkeypatch.setattr(first.store.engine, "renew", lambda *given: gate.wait() and renew(*given))
    first.lead()
    still_clock.us += int(SECONDS * 1_000_000)
    second.lead()
    gate.set()

    wait_until(lambda: not leads(first))
    second.leadership.check()


def test_a_leader_goes_on_when_the_store_is_back_in_time(
    hosts: tuple[Host, Host], engine: AwayEngine, still_clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader that was silent because its store was away goes on under its lease while that still lives there."""
    first, _second = hosts
    monkeypatch.setattr(leader_election, "RENEW_PART", 0.002)
    monkeypatch.setattr(leader_election, "SILENT_PART", 0.002)
    first.lead()
    monkeypatch.setattr(leader_election, "SILENT_PART", 0.1)
    generation = first.leadership.generation
    engine.away = True
    wait_until(lambda: first.store.problem is not None)
    still_clock.boot_seconds += SECONDS
    with pytest.raises(StoreUnavailableError):
        first.store.draw()
    engine.away = False
    wait_until(lambda: first.store.problem is None)
    wait_until(lambda: leads(first))
    assert first.store.draw() > 0
    assert first.leadership.generation == generation


def test_a_lease_that_ran_out_is_not_brought_back(
    hosts: tuple[Host, Host], still_clock: StillClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A leader whose lease is over at the store stands by, and leads again under a new generation that is not clean."""
    first, _second = hosts
    monkeypatch.setattr(leader_election, "RENEW_PART", 0.002)
    first.lead()
    generation = first.leadership.generation
    still_clock.us += int(SECONDS * 1_000_000)
    wait_until(lambda: not leads(first))
    with pytest.raises(LeaseLostError):
        first.leadership.check()
    assert first.lead() is Former.VANISHED
    assert first.leadership.generation > generation


def test_renewals_that_end_by_a_fault_end_the_leadership(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a fault ends the renewals the bot learns that it does not lead any more, and can lead again."""
    first, _second = hosts
    monkeypatch.setattr(leader_election, "RENEW_PART", 0.002)
    monkeypatch.setattr(threading, "excepthook", lambda _fault: None)
    with monkeypatch.context() as faulty:
        faulty.setattr(first.store.engine, "renew", lambda *_given: 1 // 0)
        first.lead()
        wait_until(lambda: not leads(first))
    with pytest.raises(LeaseLostError):
        first.leadership.check()
    first.lead()
    assert leads(first)


def test_a_store_that_never_answered_is_an_error(hosts: tuple[Host, Host], engine: AwayEngine) -> None:
    """A store that cannot be reached at the start is told at once."""
    engine.away = True
    with pytest.raises(StoreUnavailableError):
        hosts[0].lead()


def test_a_standby_waits_for_its_store(hosts: tuple[Host, Host], engine: AwayEngine) -> None:
    """A store that goes away while an instance stands by is waited for, which is said, and then it leads."""
    first, second = hosts
    first.lead()
    led: list[Former] = []
    standby = threading.Thread(target=lambda: led.append(second.lead()))
    standby.start()
    wait_until(lambda: len(second.said) == 1)
    engine.away = True
    wait_until(lambda: len(second.said) == 2)
    assert second.said[1] == "standby  the store is out of reach"
    engine.away = False
    first.leadership.sign_off(settled=True)
    standby.join()
    assert led == [Former.SETTLED]


def test_an_outage_is_said_once_in_whatever_words(
    hosts: tuple[Host, Host], engine: AwayEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that is away for a new reason with every look makes a standby say one line."""
    first, second = hosts
    first.lead()
    looks = iter(range(1_000_000))

    def away(owner: str, lifetime_seconds: float) -> Lease:
        if (look := next(looks)) == 0:
            return AwayEngine.acquire(engine, owner, lifetime_seconds)
        if look == 9:
            second.stop.set()
        raise StoreUnavailableError(f"reason {look}")

    monkeypatch.setattr(engine, "acquire", away)
    monkeypatch.setattr(leader_election, "STANDBY_SECONDS", 0.001)
    with pytest.raises(StoppingError):
        second.lead()
    assert second.said[1:] == ["standby  reason 1"]


def test_a_sign_off_tells_whether_it_was_done(hosts: tuple[Host, Host], engine: AwayEngine) -> None:
    """Signing off says yes of a lease that we have, and no where we stand by or the store is away."""
    first, second = hosts
    first.lead()
    assert second.leadership.sign_off(settled=True) is False
    assert first.leadership.sign_off(settled=True) is True
    second.lead()
    engine.away = True
    assert second.leadership.sign_off(settled=True) is False


def test_a_sign_off_that_does_not_arrive_is_no_error(hosts: tuple[Host, Host], engine: AwayEngine) -> None:
    """Signing off from a store that is away ends our own leadership all the same."""
    first, _second = hosts
    first.lead()
    engine.away = True
    first.leadership.sign_off(settled=True)
    with pytest.raises(LeaseLostError):
        first.leadership.check()

"""Turns across hosts: the nonce that comes with a turn, its end whatever happens, one time-out for both locks."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.base import clock
from bot.base.errors import StoppingError, StoreUnavailableError, TurnLostError, TurnTimeout
from bot.nonce import shared_store
from bot.nonce.distributed_lock import HostTurns
from bot.nonce.file_store import FileStore
from bot.nonce.local_lock import Turns, Urgency
from bot.nonce.postgres_store import PostgresEngine
from bot.nonce.redis_store import RedisEngine
from bot.nonce.shared_store import SharedStore
from tests.child_process import Child
from tests.servers import Server
from tests.stores.conftest import wait_until
from tests.stores.key_rows import KeyRow, PostgresRow, RedisRow
from tests.tcp_proxy import Gateway

LIMIT_SECONDS = 20.0
# Longer than any test, so that nothing that a test waits for comes about by a turn's end.
LONG_SECONDS = 3600.0


@pytest.fixture(autouse=True)
def long_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no turn end by itself."""
    monkeypatch.setattr(shared_store, "TURN_SECONDS", LONG_SECONDS)


class MovedBoot:
    """The boot clock, which goes on and can be moved ahead."""

    def __init__(self) -> None:
        self._real = clock.boottime_seconds
        self._ahead_seconds = 0.0

    def now(self) -> float:
        """Return the time."""
        return self._real() + self._ahead_seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._ahead_seconds += seconds


@pytest.fixture
def boot(monkeypatch: pytest.MonkeyPatch) -> MovedBoot:
    """Put the boot clock into the test's hands."""
    moved = MovedBoot()
    monkeypatch.setattr(clock, "boottime_seconds", moved.now)
    return moved


class Host:
    """A host of its own: its folder, its store, its turns."""

    def __init__(self, row: KeyRow, folder: Path) -> None:
        folder.mkdir()
        self.row = row
        self.engine = row.connect()
        self.store = SharedStore(self.engine, FileStore(str(folder / "kraken_nonce.txt")))
        self.local = Turns(str(folder / "kraken_nonce.0a1b2c3d.lock"))
        self.turns = HostTurns(self.local, self.store)

    def has_the_turn(self) -> bool:
        """Tell whether the store says that this host has the turn."""
        row = self.engine.look()
        return row is not None and row.turn_owner == self.store.owner

    def is_free(self) -> bool:
        """Tell whether the turn can be had on this host at once, and leave it free."""
        with self.turns.turn(Urgency.READ, 0.0):
            return self.has_the_turn()


@pytest.fixture
def host(key_row: KeyRow, tmp_path: Path) -> Host:
    """Return one host."""
    return Host(key_row, tmp_path / "one")


@pytest.fixture
def other(key_row: KeyRow, tmp_path: Path) -> Host:
    """Return a second host, on the same key."""
    return Host(key_row, tmp_path / "two")


class Worker(threading.Thread):
    """A thread that does one thing; `error` is what it raised."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self.error: Exception | None = None
        self._work = work
        self.start()

    def run(self) -> None:
        """Do it."""
        try:
            self._work()
        except (TurnTimeout, StoppingError) as error:
            self.error = error

    def end(self) -> Exception | None:
        """Wait for the end; return the error."""
        self.join(LIMIT_SECONDS)
        assert not self.is_alive()
        return self.error


def in_thread(work: Callable[[], int]) -> int:
    """Do something in another thread; return its answer."""
    answers: list[int] = []
    assert Worker(lambda: answers.append(work())).end() is None
    return answers[0]


def is_next(host: Host) -> Callable[[], bool]:
    """Tell when the thread of this host that asks the store for its turn has asked in vain, twice at least."""
    asked: list[object] = []
    take = host.engine.take

    def count(*arguments: object) -> object:
        asked.append(arguments)
        return take(*arguments)  # type: ignore[arg-type]

    host.engine.take = count  # type: ignore[method-assign, assignment]
    return lambda: len(asked) > 1


# The nonce of a turn


def test_the_first_nonce_is_the_one_that_came_with_the_turn(host: Host) -> None:
    """The first nonce that is drawn in a turn is the one that the store drew with it: nothing more is asked of it."""
    with host.turns.turn(Urgency.READ):
        row = host.engine.look()
        assert row is not None
        assert host.store.draw() == row.nonce
        assert host.engine.look() == row


def test_no_other_thread_gets_the_nonce_of_a_turn(host: Host) -> None:
    """Another thread that draws during a turn gets another nonce, and the turn's own is still there for its thread."""
    with host.turns.turn(Urgency.READ):
        came_with_it = host.store.peek()
        assert came_with_it is not None
        assert in_thread(host.store.draw) > came_with_it
        assert host.store.draw() == came_with_it


def test_a_second_nonce_in_a_turn_is_fresh(host: Host) -> None:
    """A second and a third draw in one turn return higher nonces, each written in the store."""
    with host.turns.turn(Urgency.READ):
        first = host.store.draw()
        second, third = host.store.draw(), host.store.draw()
        assert first < second < third == host.store.peek()


def test_a_turns_nonce_that_is_too_low_is_not_handed_out(host: Host) -> None:
    """Where at least a higher nonce is asked for, that is drawn instead of the one that came with the turn."""
    with host.turns.turn(Urgency.READ):
        wanted = (host.store.peek() or 0) + 60_000_000
        assert host.store.draw(wanted) == wanted


def test_the_nonce_of_a_turn_ends_with_it(host: Host) -> None:
    """A nonce that was not drawn in its turn is never handed out after it."""
    with host.turns.turn(Urgency.READ):
        came_with_it = host.store.peek()
    assert came_with_it is not None
    assert host.store.draw() > came_with_it


def test_no_nonce_after_three_seconds_in_the_turn(host: Host, boot: MovedBoot) -> None:
    """Within 3 s of its turn a request may begin; after that neither check nor draw lets it, until the next turn."""
    with host.turns.turn(Urgency.READ):
        boot.advance(2.5)
        host.turns.check()
        boot.advance(1.0)
        with pytest.raises(TurnLostError, match="nothing was sent"):
            host.turns.check()
        with pytest.raises(TurnLostError, match="nothing was sent"):
            host.store.draw()
    assert host.store.draw()
    with host.turns.turn(Urgency.READ):
        assert host.store.draw() == host.store.peek()


def test_three_seconds_count_from_before_the_store_was_asked(
    host: Host, boot: MovedBoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that takes 3.5 s to give the turn has used up the time in which a request may begin."""
    take = host.engine.take

    def take_long(*arguments: object) -> object:
        boot.advance(3.5)
        return take(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(host.engine, "take", take_long)
    with host.turns.turn(Urgency.READ), pytest.raises(TurnLostError):
        host.store.draw()


# The end of a turn


def test_one_host_at_a_time(host: Host, other: Host) -> None:
    """While one host has the turn another gets TurnTimeout; after it has given it back, the other has it at once."""
    with host.turns.turn(Urgency.READ):
        assert host.has_the_turn()
        with pytest.raises(TurnTimeout, match="another host"), other.turns.turn(Urgency.READ, 0.02):
            raise AssertionError("served")
        assert host.has_the_turn()
    with other.turns.turn(Urgency.READ, LIMIT_SECONDS):
        assert other.has_the_turn()
    assert not other.has_the_turn()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, StoreUnavailableError, TurnLostError])
def test_an_exception_in_the_block_gives_the_turn_back(host: Host, error: type[BaseException]) -> None:
    """Whatever is raised in the block comes out of it, and the turn is given back, in the store and on the host."""
    with pytest.raises(error, match="of the block"), host.turns.turn(Urgency.READ):
        raise error("of the block")
    assert not host.has_the_turn()
    assert host.is_free()


def test_a_host_that_waited_in_vain_leaves_nothing_taken(host: Host, other: Host) -> None:
    """After TurnTimeout from the store the next one on the host can ask at once, and gets the turn when it is free."""
    with host.turns.turn(Urgency.READ):
        with pytest.raises(TurnTimeout), other.turns.turn(Urgency.READ, 0.0):
            raise AssertionError("served")
        assert not other.local._busy
    assert other.is_free()


def test_a_stop_ends_the_wait_for_the_store(host: Host, other: Host) -> None:
    """A read that waits for the store's turn ends with StoppingError when the program stops; a cancel still goes."""
    asking = is_next(other)

    def read() -> None:
        with other.turns.turn(Urgency.READ, LIMIT_SECONDS):
            raise AssertionError("served")

    with host.turns.turn(Urgency.READ):
        reader = Worker(read)
        wait_until(asking)
        other.turns.stop(above=Urgency.CANCEL)
        assert isinstance(reader.end(), StoppingError)
        assert not other.local._busy
    with other.turns.turn(Urgency.CANCEL, LIMIT_SECONDS):
        assert other.has_the_turn()


@pytest.mark.parametrize("key_row", ["redis", "postgres"], indirect=True)
def test_a_forked_child_leaves_the_turn_to_its_parent(key_row: KeyRow, tmp_path: Path) -> None:
    """A child that is forked in a turn and leaves the block does not end its parent's turn; its own comes after it."""
    assert isinstance(key_row, RedisRow | PostgresRow)
    with Child("tests.stores.distributed_lock_child", key_row.url, key_row.name, tmp_path) as child:
        said = child.rest()
    assert said == ["child left the block", "the parent has the turn", "parent gives back", "child has a turn"]


# One time-out, and who goes first


def test_one_time_out_for_both_locks(host: Host, other: Host, boot: MovedBoot) -> None:
    """Who waits 199 of his 200 s for another thread of his host waits for the other host until the 200 s are over."""
    asking = is_next(other)

    def read() -> None:
        with other.turns.turn(Urgency.READ, 200.0):
            raise AssertionError("served")

    with host.turns.turn(Urgency.READ):
        with other.local.turn(Urgency.READ):
            reader = Worker(read)
            wait_until(lambda: len(other.local._waiting) == 1)
            boot.advance(199.0)
        wait_until(asking)
        assert reader.is_alive()
        boot.advance(1.0)
        assert isinstance(reader.end(), TurnTimeout)


def test_the_most_urgent_of_a_host_goes_first(host: Host, other: Host) -> None:
    """Behind the one that asks the store already, a host's threads get its turns by urgency, not by their order."""
    served: list[Urgency] = []
    asking = is_next(other)

    def serve(urgency: Urgency) -> Worker:
        def work() -> None:
            with other.turns.turn(urgency, LIMIT_SECONDS):
                assert other.has_the_turn()
                served.append(urgency)

        return Worker(work)

    with host.turns.turn(Urgency.READ):
        workers = [serve(Urgency.READ)]
        wait_until(asking)
        for number, urgency in enumerate((Urgency.READ, Urgency.ORDER, Urgency.CANCEL)):
            workers.append(serve(urgency))
            wait_until(lambda waiting=number + 1: len(other.local._waiting) == waiting)  # type: ignore[misc]
    assert [worker.end() for worker in workers] == [None] * 4
    assert served == [Urgency.READ, Urgency.CANCEL, Urgency.ORDER, Urgency.READ]


def test_hosts_that_ask_at_once_share_the_turns(host: Host, other: Host) -> None:
    """Two hosts with two threads each ask again at once: no turn begins within another, and their nonces rise."""
    log: list[tuple[int, str]] = []

    def send(one: Host) -> None:
        for _ in range(15):
            with one.turns.turn(Urgency.READ, LIMIT_SECONDS):
                nonce = one.store.draw()
                log.append((nonce, "begins"))
                # Somebody else's thread would find the time to run here.
                clock.sleep(0)
                log.append((nonce, "ends"))

    workers = [Worker(lambda one=one: send(one)) for one in (host, other, host, other)]  # type: ignore[misc]
    assert [worker.end() for worker in workers] == [None] * 4
    assert len(log) == 2 * 60
    assert log == sorted(log)


# The store away in the middle


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Server:
    """Return a server of the test's own."""
    return request.getfixturevalue(f"{request.param}_server")  # type: ignore[no-any-return]


def store_at(gateway: Gateway, server: Server, folder: Path) -> SharedStore:
    """Return a store by way of a gateway."""
    engine = (RedisEngine if gateway.url.startswith("redis") else PostgresEngine)(gateway.url, f"{server.port}")
    return SharedStore(engine, FileStore(str(folder / "kraken_nonce.txt")))


def test_a_turn_that_cannot_be_given_back_is_still_ours(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Where the store is away when a turn ends, that is logged and not raised; when it is back, our own next turn is
    given at the first asking, while another host still finds it taken."""
    caplog.set_level(logging.INFO)
    with Gateway(server) as gateway:
        store = store_at(gateway, server, tmp_path)
        turns = HostTurns(Turns(str(tmp_path / "kraken_nonce.0a1b2c3d.lock")), store)
        with turns.turn(Urgency.READ):
            first = store.draw()
            gateway.close_port()
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        with pytest.raises(StoreUnavailableError), turns.turn(Urgency.READ):
            raise AssertionError("served")
        gateway.open_port()
        row = store.engine.look()
        assert row is not None
        assert row.turn_owner == store.owner
        with turns.turn(Urgency.READ, 0.0):
            assert store.draw() > first
        row = store.engine.look()
        assert row is not None
        assert row.turn_owner == ""
        assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]
        store.engine.close()


def test_a_turn_whose_answer_was_lost_is_given_again(server: Server, tmp_path: Path) -> None:
    """Where the answer that gave the turn is lost, the host's next asking gets the turn, with a higher nonce."""
    with Gateway(server) as gateway:
        store = store_at(gateway, server, tmp_path)
        turns = HostTurns(Turns(str(tmp_path / "kraken_nonce.0a1b2c3d.lock")), store)
        with turns.turn(Urgency.READ):
            first = store.draw()
        gateway.cut("answer")
        try:
            with turns.turn(Urgency.READ, 0.0):
                second = store.draw()
        except StoreUnavailableError:
            with turns.turn(Urgency.READ, 0.0):
                second = store.draw()
        assert gateway.cuts == 1
        assert second > first
        store.engine.close()

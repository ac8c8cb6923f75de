"""What a nonce, a turn and a lease are worth when the server that has them is killed or its answers are lost."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from bot.base import clock
from bot.base.errors import StoreUnavailableError
from bot.nonce.file_store import FileStore
from bot.nonce.open_store import open_engine
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import Engine, Outcome, Row
from tests.child_process import Child
from tests.servers import Server, open_postgres, open_redis
from tests.stores.conftest import wait_until
from tests.stores.key_rows import HIGHEST, HOUR_SECONDS, drawn, lead, wish
from tests.tcp_proxy import Gateway, Way

CHILDREN = "tests.stores.store_children"
SEED = 20261123
HOUR_US = 3_600_000_000

Open = Callable[[Path], AbstractContextManager[Server]]
DURABLE: dict[str, Open] = {
    "redis, every command on the disk": open_redis,
    "postgres, fsync on": lambda folder: open_postgres(folder, fsync="on", recovery_init_sync_method="syncfs"),
    # The kernel still has what was written, and it was not killed.
    "postgres, fsync off": open_postgres,
}


@pytest.mark.parametrize("kind", DURABLE)
def test_a_killed_server_loses_nothing(tmp_path: Path, full_size: bool, kind: str) -> None:
    """A server killed while clients draw has, when it is back, every nonce that it gave, the turn and the lease.

    The nonces are an hour ahead of the clock, and the clients have no other witness, so that only the server's counts.
    """
    chance = random.Random(SEED)
    api_key = secrets.token_hex(8)
    with DURABLE[kind](tmp_path) as server, ExitStack() as stack:
        engine = open_engine(server.url, api_key)
        stack.callback(engine.close)
        generation = lead(engine, "a").generation
        drawn(engine.take(wish(floor=clock.wall_us() + HOUR_US), "script", HOUR_SECONDS))
        arguments = ("draw_through_trouble", server.url, api_key, HIGHEST)
        children = [stack.enter_context(Child(CHILDREN, *arguments, limit_seconds=600)) for _ in range(2)]
        nonces: list[list[int]] = [[], []]
        for _ in range(20 if full_size else 1):
            for child, mine in zip(children, nonces, strict=True):
                mine += [int(child.line()) for _ in range(chance.randrange(1, 50))]
            server.kill()
            server.start()
            row = wait_for_row(engine)
            assert row.nonce >= max(*nonces[0], *nonces[1])
            assert (row.turn_owner, row.lease.owner, row.lease.generation) == ("script", "a", generation)
        for child, mine in zip(children, nonces, strict=True):
            child.kill()
            mine += [int(line) for line in child.unread() if len(line) == 16]
        together = nonces[0] + nonces[1]
        assert len(set(together)) == len(together), f"seed {SEED}"
        assert all(mine == sorted(mine) for mine in nonces)
        assert drawn(engine.draw(wish(generation=generation))) > max(together)


def wait_for_row(engine: Engine) -> Row:
    """Return the row as soon as the server takes connections."""
    found: list[Row | None] = []

    def look() -> bool:
        try:
            found.append(engine.look())
        except StoreUnavailableError:
            return False
        return True

    wait_until(look)
    assert found[-1] is not None
    return found[-1]


def test_a_killed_redis_without_persistence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis that keeps nothing has nothing after a kill: whoever drew goes on above its own highest and says so, a
    new process of that host above the host's file, and any other host above the server's clock."""
    api_key = secrets.token_hex(8)
    with open_redis(tmp_path, append_only=False) as server, ExitStack() as stack:

        def open_store(host: str) -> SharedStore:
            engine = open_engine(server.url, api_key)
            stack.callback(engine.close)
            return SharedStore(engine, FileStore(str(tmp_path / host)))

        def lose_all() -> None:
            server.kill()
            server.start()

        store, other = open_store("one"), open_store("other")
        within_the_clock = other.draw()
        lose_all()
        assert open_store("new host").draw() > within_the_clock
        highest = store.draw(clock.wall_us() + HOUR_US)
        lose_all()
        assert store.peek() is None
        caplog.clear()
        assert store.draw() == highest + 1
        assert store.draw() == highest + 2
        assert [record.levelname for record in caplog.records if "went back" in record.message] == ["WARNING"]
        lose_all()
        assert open_store("one").draw() == highest + 3


@dataclass(frozen=True)
class Door:
    """A server's gateway, and clients of one key: one by the gateway, one that nothing happens to."""

    gateway: Gateway
    cut_off: Engine
    safe: Engine

    def without_answer(self, step: Callable[[], object], way: Way, keep_bytes: int) -> None:
        """Do a step whose next request or answer gets lost; whether the engine itself then asks again is its own."""
        self.cut_off.look()
        cuts = self.gateway.cuts
        self.gateway.cut(way, keep_bytes=keep_bytes)
        with suppress(StoreUnavailableError):
            step()
        assert self.gateway.cuts == cuts + 1


LOST = [("request", 0), ("request", 9), ("answer", 0), ("answer", 3)]


@pytest.fixture(params=LOST, ids=["no request", "half a request", "no answer", "half an answer"])
def lost(request: pytest.FixtureRequest) -> tuple[Way, int]:
    """Return what gets lost, and how much of it comes through."""
    loss: tuple[Way, int] = request.param
    return loss


@pytest.fixture
def door(any_server: Server) -> Iterator[Door]:
    """Return a gateway of a test's own, and clients of a new key."""
    api_key = secrets.token_hex(8)
    with Gateway(any_server) as gateway:
        door = Door(gateway, open_engine(gateway.url, api_key), open_engine(any_server.url, api_key))
        # What is done once only, such as making the table, is done before.
        lease = lead(door.safe, "warm up")
        assert door.safe.renew(lease.generation, HOUR_SECONDS)
        door.safe.give_back(drawn(door.safe.take(wish(), "warm up", HOUR_SECONDS)))
        door.safe.sign_off(lease.generation, settled=False)
        yield door
        door.cut_off.close()
        door.safe.close()


def look(engine: Engine) -> Row:
    """Return the row, which must be there."""
    row = engine.look()
    assert row is not None
    return row


def test_a_lost_draw(door: Door, lost: tuple[Way, int]) -> None:
    """A draw that was cut off and is repeated gives a nonce above all before: the lost one is a gap."""
    before = drawn(door.cut_off.draw(wish()))
    door.without_answer(lambda: door.cut_off.draw(wish()), *lost)
    gap = look(door.safe).nonce
    assert gap >= before
    assert drawn(door.cut_off.draw(wish())) > gap


def test_a_lost_take(door: Door, lost: tuple[Way, int]) -> None:
    """A take that was cut off and is repeated by its owner has the turn, and one giving back frees it."""
    door.without_answer(lambda: door.cut_off.take(wish(), "a", HOUR_SECONDS), *lost)
    between = look(door.safe).nonce
    nonce = drawn(door.cut_off.take(wish(), "a", HOUR_SECONDS))
    assert nonce > between
    assert look(door.safe).turn_owner == "a"
    door.cut_off.give_back(nonce)
    drawn(door.safe.take(wish(), "b", HOUR_SECONDS))


def test_a_lost_giving_back(door: Door, lost: tuple[Way, int]) -> None:
    """A giving back that was cut off and is repeated frees the turn, and never the turn that another took between."""
    nonce = drawn(door.cut_off.take(wish(), "a", HOUR_SECONDS))
    door.without_answer(lambda: door.cut_off.give_back(nonce), *lost)
    taken = door.safe.take(wish(), "b", HOUR_SECONDS).outcome is Outcome.DRAWN
    door.cut_off.give_back(nonce)
    assert look(door.safe).turn_owner == ("b" if taken else "")


def test_a_lost_grant(door: Door, lost: tuple[Way, int]) -> None:
    """A lease that was asked for in vain and is asked for again is one grant: of one generation, that draws."""
    door.without_answer(lambda: door.cut_off.acquire("a", HOUR_SECONDS), *lost)
    between = look(door.safe).lease
    lease = lead(door.cut_off, "a")
    assert between.owner in {"", "a"}
    assert (between.owner == "a") == (between.generation == lease.generation)
    drawn(door.safe.draw(wish(generation=lease.generation)))


def test_a_lost_renewal(door: Door, lost: tuple[Way, int]) -> None:
    """A renewal that was cut off and is repeated renews the same lease."""
    generation = lead(door.cut_off, "a").generation
    door.without_answer(lambda: door.cut_off.renew(generation, 2 * HOUR_SECONDS), *lost)
    assert door.cut_off.renew(generation, 2 * HOUR_SECONDS)
    lease = look(door.safe).lease
    assert (lease.owner, lease.generation) == ("a", generation)
    assert lease.remaining_seconds > HOUR_SECONDS


@pytest.mark.parametrize("settled", [True, False])
def test_a_lost_sign_off(door: Door, lost: tuple[Way, int], settled: bool) -> None:
    """A sign-off that was cut off and is repeated ends the lease, says what it said, and ends no successor's."""
    generation = lead(door.cut_off, "a").generation
    door.without_answer(lambda: door.cut_off.sign_off(generation, settled), *lost)
    early = door.safe.acquire("early", HOUR_SECONDS)
    door.cut_off.sign_off(generation, settled)
    if early.owner == "early":
        assert look(door.safe).lease.owner == "early"
        assert early.clean is settled
    else:
        assert lead(door.safe, "b").clean is settled


def test_a_lost_look(door: Door, lost: tuple[Way, int]) -> None:
    """A look that was cut off changes nothing, and the next one sees the same."""
    drawn(door.safe.draw(wish()))
    before = door.safe.look()
    door.without_answer(door.cut_off.look, *lost)
    assert door.cut_off.look() == before

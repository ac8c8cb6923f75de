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
from bot.nonce.open_store import open_nonce_store
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import GrantStatus, KeyRecord, NonceStore
from tests.child_process import Child
from tests.servers import Server, open_postgres, open_redis
from tests.stores.conftest import wait_until
from tests.stores.key_rows import HOUR_SECONDS, MAX_NONCE, acquire_lease, granted_nonce, make_request
from tests.tcp_proxy import Direction, FaultProxy

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
    random_source = random.Random(SEED)
    api_key = secrets.token_hex(8)
    with DURABLE[kind](tmp_path) as server, ExitStack() as stack:
        backend = open_nonce_store(server.url, api_key)
        stack.callback(backend.close)
        fencing_token = acquire_lease(backend, "a").fencing_token
        granted_nonce(backend.acquire_lock(make_request(floor=clock.wall_us() + HOUR_US), "script", HOUR_SECONDS))
        arguments = ("draw_through_trouble", server.url, api_key, MAX_NONCE)
        children = [stack.enter_context(Child(CHILDREN, *arguments, limit_seconds=600)) for _ in range(2)]
        nonces: list[list[int]] = [[], []]
        for _ in range(20 if full_size else 1):
            for child, child_nonces in zip(children, nonces, strict=True):
                child_nonces += [int(child.read_line()) for _ in range(random_source.randrange(1, 50))]
            server.kill()
            server.start()
            record = wait_for_row(backend)
            assert record.last_nonce >= max(*nonces[0], *nonces[1])
            assert (record.lock_owner, record.lease.owner, record.lease.fencing_token) == ("script", "a", fencing_token)
        for child, child_nonces in zip(children, nonces, strict=True):
            child.kill()
            child_nonces += [int(line) for line in child.drain() if len(line) == 16]
        together = nonces[0] + nonces[1]
        assert len(set(together)) == len(together), f"seed {SEED}"
        assert all(child_nonces == sorted(child_nonces) for child_nonces in nonces)
        assert granted_nonce(backend.next_nonce(make_request(fencing_token=fencing_token))) > max(together)


def wait_for_row(backend: NonceStore) -> KeyRecord:
    """Return the row as soon as the server takes connections."""
    found: list[KeyRecord | None] = []

    def look() -> bool:
        try:
            found.append(backend.read_record())
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
            backend = open_nonce_store(server.url, api_key)
            stack.callback(backend.close)
            return SharedStore(backend, FileStore(str(tmp_path / host)))

        def lose_all() -> None:
            server.kill()
            server.start()

        store, other = open_store("one"), open_store("other")
        within_the_clock = other.next_nonce()
        lose_all()
        assert open_store("new host").next_nonce() > within_the_clock
        highest = store.next_nonce(clock.wall_us() + HOUR_US)
        lose_all()
        assert store.peek() is None
        caplog.clear()
        assert store.next_nonce() == highest + 1
        assert store.next_nonce() == highest + 2
        assert [record.levelname for record in caplog.records if "went back" in record.message] == ["WARNING"]
        lose_all()
        assert open_store("one").next_nonce() == highest + 3


@dataclass(frozen=True)
class GatewayClients:
    """A server's gateway, and clients of one key: one by the gateway, one that nothing happens to."""

    gateway: FaultProxy
    cut_off: NonceStore
    safe: NonceStore

    def without_answer(self, step: Callable[[], object], way: Direction, keep_bytes: int) -> None:
        """Do a step whose next request or answer gets lost; whether the engine itself then asks again is its own."""
        self.cut_off.read_record()
        cuts = self.gateway.cuts
        self.gateway.cut(way, forwarded_bytes=keep_bytes)
        with suppress(StoreUnavailableError):
            step()
        assert self.gateway.cuts == cuts + 1


LOST = [("request", 0), ("request", 9), ("answer", 0), ("answer", 3)]


@pytest.fixture(params=LOST, ids=["no request", "half a request", "no answer", "half an answer"])
def lost(request: pytest.FixtureRequest) -> tuple[Direction, int]:
    """Return what gets lost, and how much of it comes through."""
    loss: tuple[Direction, int] = request.param
    return loss


@pytest.fixture
def gateway_clients(any_server: Server) -> Iterator[GatewayClients]:
    """Return a gateway of a test's own, and clients of a new key."""
    api_key = secrets.token_hex(8)
    with FaultProxy(any_server) as gateway:
        gateway_clients = GatewayClients(
            gateway, open_nonce_store(gateway.url, api_key), open_nonce_store(any_server.url, api_key)
        )
        # What is done once only, such as making the table, is done before.
        lease = acquire_lease(gateway_clients.safe, "warm up")
        assert gateway_clients.safe.renew_lease(lease.fencing_token, HOUR_SECONDS)
        gateway_clients.safe.release_lock(
            granted_nonce(gateway_clients.safe.acquire_lock(make_request(), "warm up", HOUR_SECONDS))
        )
        gateway_clients.safe.release_lease(lease.fencing_token, is_reconciled=False)
        yield gateway_clients
        gateway_clients.cut_off.close()
        gateway_clients.safe.close()


def read_record(backend: NonceStore) -> KeyRecord:
    """Return the row, which must be there."""
    record = backend.read_record()
    assert record is not None
    return record


def test_a_lost_next_nonce_leaves_a_gap(gateway_clients: GatewayClients, lost: tuple[Direction, int]) -> None:
    """A draw that was cut off and is repeated gives a nonce above all before: the lost one is a gap."""
    before = granted_nonce(gateway_clients.cut_off.next_nonce(make_request()))
    gateway_clients.without_answer(lambda: gateway_clients.cut_off.next_nonce(make_request()), *lost)
    gap = read_record(gateway_clients.safe).last_nonce
    assert gap >= before
    assert granted_nonce(gateway_clients.cut_off.next_nonce(make_request())) > gap


def test_a_lost_acquire_is_repeatable(gateway_clients: GatewayClients, lost: tuple[Direction, int]) -> None:
    """A take that was cut off and is repeated by its owner has the turn, and one giving back frees it."""
    gateway_clients.without_answer(
        lambda: gateway_clients.cut_off.acquire_lock(make_request(), "a", HOUR_SECONDS), *lost
    )
    between = read_record(gateway_clients.safe).last_nonce
    nonce = granted_nonce(gateway_clients.cut_off.acquire_lock(make_request(), "a", HOUR_SECONDS))
    assert nonce > between
    assert read_record(gateway_clients.safe).lock_owner == "a"
    gateway_clients.cut_off.release_lock(nonce)
    granted_nonce(gateway_clients.safe.acquire_lock(make_request(), "b", HOUR_SECONDS))


def test_a_lost_release_is_repeatable(gateway_clients: GatewayClients, lost: tuple[Direction, int]) -> None:
    """A giving back that was cut off and is repeated frees the turn, and never the turn that another took between."""
    nonce = granted_nonce(gateway_clients.cut_off.acquire_lock(make_request(), "a", HOUR_SECONDS))
    gateway_clients.without_answer(lambda: gateway_clients.cut_off.release_lock(nonce), *lost)
    taken = gateway_clients.safe.acquire_lock(make_request(), "b", HOUR_SECONDS).status is GrantStatus.GRANTED
    gateway_clients.cut_off.release_lock(nonce)
    assert read_record(gateway_clients.safe).lock_owner == ("b" if taken else "")


def test_a_lost_lease_grant_is_repeatable(gateway_clients: GatewayClients, lost: tuple[Direction, int]) -> None:
    """A lease that was asked for in vain and is asked for again is one grant: of one generation, that draws."""
    gateway_clients.without_answer(lambda: gateway_clients.cut_off.acquire_lease("a", HOUR_SECONDS), *lost)
    between = read_record(gateway_clients.safe).lease
    lease = acquire_lease(gateway_clients.cut_off, "a")
    assert between.owner in {"", "a"}
    assert (between.owner == "a") == (between.fencing_token == lease.fencing_token)
    granted_nonce(gateway_clients.safe.next_nonce(make_request(fencing_token=lease.fencing_token)))


def test_a_lost_renewal_is_repeatable(gateway_clients: GatewayClients, lost: tuple[Direction, int]) -> None:
    """A renewal that was cut off and is repeated renews the same lease."""
    fencing_token = acquire_lease(gateway_clients.cut_off, "a").fencing_token
    gateway_clients.without_answer(lambda: gateway_clients.cut_off.renew_lease(fencing_token, 2 * HOUR_SECONDS), *lost)
    assert gateway_clients.cut_off.renew_lease(fencing_token, 2 * HOUR_SECONDS)
    lease = read_record(gateway_clients.safe).lease
    assert (lease.owner, lease.fencing_token) == ("a", fencing_token)
    assert lease.remaining_seconds > HOUR_SECONDS


@pytest.mark.parametrize("is_reconciled", [True, False])
def test_a_lost_lease_release_is_repeatable(
    gateway_clients: GatewayClients, lost: tuple[Direction, int], is_reconciled: bool
) -> None:
    """A sign-off that was cut off and is repeated ends the lease, says what it said, and ends no successor's."""
    fencing_token = acquire_lease(gateway_clients.cut_off, "a").fencing_token
    gateway_clients.without_answer(lambda: gateway_clients.cut_off.release_lease(fencing_token, is_reconciled), *lost)
    early = gateway_clients.safe.acquire_lease("early", HOUR_SECONDS)
    gateway_clients.cut_off.release_lease(fencing_token, is_reconciled)
    if early.owner == "early":
        assert read_record(gateway_clients.safe).lease.owner == "early"
        assert early.is_clean_handover is is_reconciled
    else:
        assert acquire_lease(gateway_clients.safe, "b").is_clean_handover is is_reconciled


def test_a_lost_read_changes_nothing(gateway_clients: GatewayClients, lost: tuple[Direction, int]) -> None:
    """A look that was cut off changes nothing, and the next one sees the same."""
    granted_nonce(gateway_clients.safe.next_nonce(make_request()))
    before = gateway_clients.safe.read_record()
    gateway_clients.without_answer(gateway_clients.cut_off.read_record, *lost)
    assert gateway_clients.cut_off.read_record() == before

"""Nonces, locks and leases after the server was killed or its answers were lost."""

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
    # The kernel still has what was written, because only the server is killed.
    "postgres, fsync off": open_postgres,
}


@pytest.mark.parametrize("kind", DURABLE)
def test_a_killed_server_loses_nothing(tmp_path: Path, full_size: bool, kind: str) -> None:
    """A server killed while clients request nonces has every issued nonce, the lock and the lease when it is back.

    The nonces are an hour ahead of the clock and the clients keep no replica, so only the server's data counts.
    """
    random_source = random.Random(SEED)
    api_key = secrets.token_hex(8)
    with DURABLE[kind](tmp_path) as server, ExitStack() as stack:
        backend = open_nonce_store(server.url, api_key)
        stack.callback(backend.close)
        fencing_token = acquire_lease(backend, "a").fencing_token
        granted_nonce(backend.acquire_lock(make_request(floor=clock.wall_us() + HOUR_US), "script", HOUR_SECONDS))
        arguments = ("print_nonces_through_outages", server.url, api_key, MAX_NONCE)
        children = [stack.enter_context(Child(CHILDREN, *arguments, limit_seconds=600)) for _ in range(2)]
        nonces: list[list[int]] = [[], []]
        for _ in range(20 if full_size else 1):
            for child, child_nonces in zip(children, nonces, strict=True):
                child_nonces += [int(child.read_line()) for _ in range(random_source.randrange(1, 50))]
            server.kill()
            server.start()
            record = wait_for_record(backend)
            assert record.last_nonce >= max(*nonces[0], *nonces[1])
            assert (record.lock_owner, record.lease.owner, record.lease.fencing_token) == ("script", "a", fencing_token)
        for child, child_nonces in zip(children, nonces, strict=True):
            child.kill()
            child_nonces += [int(line) for line in child.drain() if len(line) == 16]
        together = nonces[0] + nonces[1]
        assert len(set(together)) == len(together), f"seed {SEED}"
        assert all(child_nonces == sorted(child_nonces) for child_nonces in nonces)
        assert granted_nonce(backend.next_nonce(make_request(fencing_token=fencing_token))) > max(together)


def wait_for_record(backend: NonceStore) -> KeyRecord:
    """Return the record as soon as the server accepts connections."""
    found: list[KeyRecord | None] = []

    def try_read() -> bool:
        try:
            found.append(backend.read_record())
        except StoreUnavailableError:
            return False
        return True

    wait_until(try_read)
    assert found[-1] is not None
    return found[-1]


def test_a_killed_redis_without_persistence(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A Redis without persistence is empty after a kill: a running process continues above its own highest nonce and
    logs that, a new process above its host's file, and a new host above the server's clock."""
    api_key = secrets.token_hex(8)
    with open_redis(tmp_path, append_only=False) as server, ExitStack() as stack:

        def open_store(host: str) -> SharedStore:
            backend = open_nonce_store(server.url, api_key)
            stack.callback(backend.close)
            return SharedStore(backend, FileStore(str(tmp_path / host)))

        def wipe_by_kill() -> None:
            server.kill()
            server.start()

        store, other = open_store("one"), open_store("other")
        first_nonce = other.next_nonce()
        wipe_by_kill()
        assert open_store("new host").next_nonce() > first_nonce
        highest = store.next_nonce(clock.wall_us() + HOUR_US)
        wipe_by_kill()
        assert store.peek() is None
        caplog.clear()
        assert store.next_nonce() == highest + 1
        assert store.next_nonce() == highest + 2
        assert [record.levelname for record in caplog.records if "went back" in record.message] == ["WARNING"]
        wipe_by_kill()
        assert open_store("one").next_nonce() == highest + 3


@dataclass(frozen=True)
class ProxiedClients:
    """A fault proxy before a server, and two clients of one key: one behind the proxy, one connected directly."""

    proxy: FaultProxy
    cut_off: NonceStore
    safe: NonceStore

    def lose_message(self, step: Callable[[], object], direction: Direction, forwarded_bytes: int) -> None:
        """Run a step whose next request or answer is lost; whether the store retries by itself is left to it."""
        self.cut_off.read_record()
        cuts = self.proxy.cuts
        self.proxy.cut(direction, forwarded_bytes=forwarded_bytes)
        with suppress(StoreUnavailableError):
            step()
        assert self.proxy.cuts == cuts + 1


LOST = [("request", 0), ("request", 9), ("answer", 0), ("answer", 3)]


@pytest.fixture(params=LOST, ids=["no request", "half a request", "no answer", "half an answer"])
def lost(request: pytest.FixtureRequest) -> tuple[Direction, int]:
    """Return what is lost, and how many bytes of it are forwarded."""
    loss: tuple[Direction, int] = request.param
    return loss


@pytest.fixture
def clients(any_server: Server) -> Iterator[ProxiedClients]:
    """Return a fault proxy that only this test uses, and clients of a new key."""
    api_key = secrets.token_hex(8)
    with FaultProxy(any_server) as proxy:
        clients = ProxiedClients(proxy, open_nonce_store(proxy.url, api_key), open_nonce_store(any_server.url, api_key))
        # Do once what is done only once, such as creating the table.
        lease = acquire_lease(clients.safe, "warm up")
        assert clients.safe.renew_lease(lease.fencing_token, HOUR_SECONDS)
        clients.safe.release_lock(granted_nonce(clients.safe.acquire_lock(make_request(), "warm up", HOUR_SECONDS)))
        clients.safe.release_lease(lease.fencing_token, is_reconciled=False)
        yield clients
        clients.cut_off.close()
        clients.safe.close()


def read_record(backend: NonceStore) -> KeyRecord:
    """Return the record, which must exist."""
    record = backend.read_record()
    assert record is not None
    return record


def test_a_lost_next_nonce_leaves_a_gap(clients: ProxiedClients, lost: tuple[Direction, int]) -> None:
    """A lost and repeated `next_nonce` returns a nonce above all earlier ones: the lost one is a gap."""
    before = granted_nonce(clients.cut_off.next_nonce(make_request()))
    clients.lose_message(lambda: clients.cut_off.next_nonce(make_request()), *lost)
    gap = read_record(clients.safe).last_nonce
    assert gap >= before
    assert granted_nonce(clients.cut_off.next_nonce(make_request())) > gap


def test_a_lost_acquire_is_repeatable(clients: ProxiedClients, lost: tuple[Direction, int]) -> None:
    """A lost acquisition that its owner repeats holds the lock, and one release frees it."""
    clients.lose_message(lambda: clients.cut_off.acquire_lock(make_request(), "a", HOUR_SECONDS), *lost)
    between = read_record(clients.safe).last_nonce
    nonce = granted_nonce(clients.cut_off.acquire_lock(make_request(), "a", HOUR_SECONDS))
    assert nonce > between
    assert read_record(clients.safe).lock_owner == "a"
    clients.cut_off.release_lock(nonce)
    granted_nonce(clients.safe.acquire_lock(make_request(), "b", HOUR_SECONDS))


def test_a_lost_release_is_repeatable(clients: ProxiedClients, lost: tuple[Direction, int]) -> None:
    """A lost and repeated release frees the lock, and never a lock that another owner has acquired in between."""
    nonce = granted_nonce(clients.cut_off.acquire_lock(make_request(), "a", HOUR_SECONDS))
    clients.lose_message(lambda: clients.cut_off.release_lock(nonce), *lost)
    is_acquired = clients.safe.acquire_lock(make_request(), "b", HOUR_SECONDS).status is GrantStatus.GRANTED
    clients.cut_off.release_lock(nonce)
    assert read_record(clients.safe).lock_owner == ("b" if is_acquired else "")


def test_a_lost_lease_grant_is_repeatable(clients: ProxiedClients, lost: tuple[Direction, int]) -> None:
    """A lost and repeated lease request is one grant with one fencing token, which is valid for a nonce."""
    clients.lose_message(lambda: clients.cut_off.acquire_lease("a", HOUR_SECONDS), *lost)
    between = read_record(clients.safe).lease
    lease = acquire_lease(clients.cut_off, "a")
    assert between.owner in {"", "a"}
    assert (between.owner == "a") == (between.fencing_token == lease.fencing_token)
    granted_nonce(clients.safe.next_nonce(make_request(fencing_token=lease.fencing_token)))


def test_a_lost_renewal_is_repeatable(clients: ProxiedClients, lost: tuple[Direction, int]) -> None:
    """A lost and repeated renewal renews the same lease."""
    fencing_token = acquire_lease(clients.cut_off, "a").fencing_token
    clients.lose_message(lambda: clients.cut_off.renew_lease(fencing_token, 2 * HOUR_SECONDS), *lost)
    assert clients.cut_off.renew_lease(fencing_token, 2 * HOUR_SECONDS)
    lease = read_record(clients.safe).lease
    assert (lease.owner, lease.fencing_token) == ("a", fencing_token)
    assert lease.remaining_seconds > HOUR_SECONDS


@pytest.mark.parametrize("is_reconciled", [True, False])
def test_a_lost_lease_release_is_repeatable(
    clients: ProxiedClients, lost: tuple[Direction, int], is_reconciled: bool
) -> None:
    """A lost and repeated release ends the lease, keeps whether it was clean, and never ends a successor's lease."""
    fencing_token = acquire_lease(clients.cut_off, "a").fencing_token
    clients.lose_message(lambda: clients.cut_off.release_lease(fencing_token, is_reconciled), *lost)
    early = clients.safe.acquire_lease("early", HOUR_SECONDS)
    clients.cut_off.release_lease(fencing_token, is_reconciled)
    if early.owner == "early":
        assert read_record(clients.safe).lease.owner == "early"
        assert early.is_clean_handover is is_reconciled
    else:
        assert acquire_lease(clients.safe, "b").is_clean_handover is is_reconciled


def test_a_lost_read_changes_nothing(clients: ProxiedClients, lost: tuple[Direction, int]) -> None:
    """A lost read changes nothing, and the next one returns the same."""
    granted_nonce(clients.safe.next_nonce(make_request()))
    before = clients.safe.read_record()
    clients.lose_message(clients.cut_off.read_record, *lost)
    assert clients.cut_off.read_record() == before

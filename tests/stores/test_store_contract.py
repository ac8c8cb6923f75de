"""The guarantee of every nonce store: the memory store, the file store, Redis and PostgreSQL."""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from bot.base import clock
from bot.base.errors import NonceAheadError, NonceError
from bot.nonce.file_store import FileStore
from bot.nonce.open_store import open_nonce_store
from bot.nonce.shared_store import SharedStore
from bot.nonce.store_protocol import NonceGrant, NonceRequest
from tests.child_process import Child
from tests.stores.conftest import FrozenClock
from tests.stores.key_rows import StoreKey
from tests.stores.memory_store import MemoryStore
from tests.stores.moved_clocks import MICROSECONDS_PER_SECOND, MovedClock

CHILDREN = "tests.stores.store_children"
SEED = 20261123
HOUR_US = 3600 * MICROSECONDS_PER_SECOND
Store = FileStore | SharedStore


class Hosts:
    """Hosts that share a store of one kind; each has its own nonce file, except where the file is the shared store."""

    def __init__(self, kind: str, url: str, folder: Path) -> None:
        self.kind, self.url = kind, url
        self.api_key = secrets.token_hex(8)
        self._folder = folder
        self._memory = MemoryStore(clock.wall_us)
        self._opened: list[SharedStore] = []

    def file(self, host: str) -> Path:
        """Return the nonce file of a host."""
        return self._folder / ("shared" if self.kind == "file" else host)

    def open(self, host: str) -> Store:
        """Return the store as a new process of a host opens it."""
        file = FileStore(str(self.file(host)))
        if self.kind == "file":
            return file
        backend = self._memory if self.kind == "memory" else open_nonce_store(self.url, self.api_key)
        self._opened.append(SharedStore(backend, file))
        return self._opened[-1]

    def child(self, task: str, host: str, *arguments: object) -> Child:
        """Return a child process of a host that requests nonces."""
        return Child(CHILDREN, task, self.url, self.api_key, self.file(host), *arguments)

    def close(self) -> None:
        """Close every opened store."""
        for store in self._opened:
            store.backend.close()


def make_hosts(kind: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Hosts]:
    """Yield hosts that share a new key."""
    hosts = Hosts(kind, request.getfixturevalue(f"{kind}_url") if kind in {"redis", "postgres"} else "", folder)
    yield hosts
    hosts.close()


@pytest.fixture(params=["memory", "file", "redis", "postgres"])
def hosts(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosts]:
    """Return hosts that share a store of each kind."""
    yield from make_hosts(request.param, request, tmp_path)


@pytest.fixture(params=["file", "redis", "postgres"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Hosts]:
    """Return hosts that share a store of each kind that works across processes."""
    yield from make_hosts(request.param, request, tmp_path)


def check(sequences: list[list[int]]) -> int:
    """Check that all nonces differ and that each sequence rises; return the highest."""
    together = [nonce for sequence in sequences for nonce in sequence]
    assert len(set(together)) == len(together)
    assert all(sequence == sorted(sequence) for sequence in sequences)
    return max(together)


def test_threads(hosts: Hosts, full_size: bool) -> None:
    """Four threads on two hosts get different nonces, each rising; store and file hold the highest."""
    count = 2000 if full_size else 100
    stores = {host: hosts.open(host) for host in ("one", "other")}
    of_thread = ["one", "other", "one", "other"]

    def request_nonces(host: str) -> list[int]:
        return [stores[host].next_nonce() for _ in range(count)]

    with ThreadPoolExecutor(4) as pool:
        sequences = list(pool.map(request_nonces, of_thread))
    highest = check(sequences)
    assert stores["one"].peek() == stores["other"].peek() == highest
    host = next(host for host, sequence in zip(of_thread, sequences, strict=True) if highest in sequence)
    assert hosts.file(host).read_text() == str(highest)


def test_processes(machines: Hosts, full_size: bool) -> None:
    """Three processes on separate hosts get different nonces, each rising; the next nonce is above them all."""
    count = 5000 if full_size else 200
    with ExitStack() as stack:
        children = [stack.enter_context(machines.child("print_nonces", f"host{number}", count)) for number in range(3)]
        for child in children:
            child.expect_line("ready")
        for child in children:
            child.write_line("go")
        sequences = [[int(line) for line in child.read_to_end()] for child in children]
    assert [len(sequence) for sequence in sequences] == [count] * 3
    assert machines.open("new").next_nonce() > check(sequences)


def test_at_least(hosts: Hosts) -> None:
    """A nonce is at_least where that is ahead of the clock and of the last, else above the last, on every host."""
    one, other = hosts.open("one"), hosts.open("other")
    # The first nonce of a process whose file is ahead of the clock skips what a power loss may have taken.
    one.next_nonce()
    other.next_nonce()
    ahead = clock.wall_us() + HOUR_US
    assert one.next_nonce(ahead) == ahead
    assert other.next_nonce(ahead) == ahead + 1
    assert one.next_nonce(ahead - 5) == ahead + 2
    assert other.next_nonce() == ahead + 3


def test_a_day_ahead(hosts: Hosts) -> None:
    """A nonce of more than a day ahead is refused, and nothing is written."""
    store = hosts.open("one")
    last = store.next_nonce()
    with pytest.raises(NonceAheadError, match="was requested"):
        store.next_nonce(clock.wall_us() + 25 * HOUR_US)
    assert store.peek() == last


def test_next_nonce_within_next_nonce_raises(tmp_path: Path) -> None:
    """A call of `next_nonce` inside `next_nonce`, as from a signal handler, raises, and the outer call goes on."""
    backend = MemoryStore(clock.wall_us)
    store = SharedStore(backend, FileStore(str(tmp_path / "nonce")))
    next_nonce = backend.next_nonce

    def request_within(request: NonceRequest) -> NonceGrant:
        with pytest.raises(NonceError, match="while another one was being issued"):
            store.next_nonce()
        return next_nonce(request)

    backend.next_nonce = request_within  # type: ignore[method-assign]
    assert store.next_nonce() < store.next_nonce()


def test_written_before_it_is_returned(hosts: Hosts) -> None:
    """When a nonce is returned, another host sees it, and it is in the host's own file."""
    one, other = hosts.open("one"), hosts.open("other")
    for _ in range(5):
        nonce = one.next_nonce()
        assert other.peek() == nonce
        assert hosts.file("one").read_text() == str(nonce)


def test_a_new_key_has_no_nonce(hosts: Hosts) -> None:
    """A key without a nonce has nothing to read."""
    assert hosts.open("one").peek() is None


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_host_whose_clock_is_wrong(
    store_key: StoreKey, tmp_path: Path, frozen_clock: FrozenClock, hours: int
) -> None:
    """A host whose clock is hours off gets nonces like any other: from the server's time, rising."""
    stores = [SharedStore(store_key.connect(), FileStore(str(tmp_path / name))) for name in ("right", "wrong")]
    before = store_key.server_us()
    nonces = []
    for number in range(6):
        frozen_clock.us = store_key.server_us() + (number % 2) * hours * HOUR_US
        nonces.append(stores[number % 2].next_nonce())
    assert nonces == sorted(set(nonces))
    assert before <= nonces[0]
    assert nonces[-1] <= store_key.server_us()


def test_a_server_whose_clock_is_set(moved_clock: MovedClock, tmp_path: Path) -> None:
    """Where the server's clock is set back and forth by hours, the nonces of two hosts keep rising.

    PostgreSQL gets an adjustable clock; the TIME of Redis cannot be moved, so its record is written as a server would
    have left it whose clock was ahead.
    """
    stores = [SharedStore(moved_clock.store, FileStore(str(tmp_path / name))) for name in ("one", "other")]
    nonces = []
    for hours in (0, 2, -1, -3, 2):
        moved_clock.move(hours * HOUR_US)
        nonces += [store.next_nonce() for store in stores * 2]
    assert nonces == sorted(set(nonces))


def test_killed_clients(machines: Hosts, full_size: bool) -> None:
    """After each SIGKILL during `next_nonce`, a new client continues above every issued nonce.

    Every other client starts half an hour further ahead of the clock, so that the clock cannot stand in for the store.
    """
    random_source = random.Random(SEED)
    store = machines.open("survivor")
    for number in range(40 if full_size else 2):
        ahead_us = number % 2 * (number + 1) * HOUR_US // 4
        with machines.child("print_nonces_forever", f"host{number}", ahead_us) as child:
            issued = [int(child.read_line()) for _ in range(random_source.randrange(1, 200))]
            child.kill()
            # The kill may cut the last line.
            issued += [int(line) for line in child.drain() if len(line) == 16]
        assert issued == sorted(set(issued)), f"seed {SEED}, kill {number}"
        assert store.next_nonce() > issued[-1], f"seed {SEED}, kill {number}"
        assert machines.open("new").next_nonce() > issued[-1] + 1, f"seed {SEED}, kill {number}"

"""Many senders on one key, each on a host of its own with its own clock: the purpose of the distributed lock.

The hosts share no file. Requests are delayed at random, so they can overtake each other.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from bot.base.clock import MarketClock, wall_seconds
from bot.nonce.open_store import open_nonce_store
from bot.nonce.shared_store import LOCK_LIFETIME_SECONDS
from bot.nonce.store_protocol import KeyRecord
from bot.simulator.api import LoggedRequest
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.broker_tools import wait_for
from tests.acceptance.sender_child import SenderPlan
from tests.child_process import Child
from tests.server_processes import process_state

CLOCK_OFFSETS_SECONDS = (-5.0, 3.0, 0.0, 0.0)
# A lock lifetime that a test can wait for. If much shorter, it could expire during a normal request on a busy machine.
SHORT_LOCK_SECONDS = 2.0
# The longest waiter is next as soon as it asks: that is three requests of others, and some more between its polls.
MAX_REQUESTS_BETWEEN = 20
LIMIT_SECONDS = 900.0


class Hosts:
    """Four senders on one key of a local Kraken, over a network with jitter."""

    def __init__(self, simulator: Simulator, plan: SenderPlan, folder: Path) -> None:
        self.simulator = simulator
        self.children: list[Child] = []
        self._plan = plan
        self._folder = folder
        self._exit_stack = ExitStack()

    def start(self, **first_plan_changes: Any) -> None:
        """Start the senders and let them call; `first_plan_changes` apply to the plan of the first one."""
        for number, offset_seconds in enumerate(CLOCK_OFFSETS_SECONDS):
            changes = {} if number else first_plan_changes
            plan = replace(self._plan, clock_offset_seconds=offset_seconds, **changes)
            environment = {"STATE_DIR": str(self._folder / f"host{number}")}
            child = Child(
                "tests.acceptance.sender_child", plan.to_json(), limit_seconds=LIMIT_SECONDS, environment=environment
            )
            self.children.append(self._exit_stack.enter_context(child))
        for child in self.children:
            child.expect_line("ready")
        for child in self.children:
            child.write_line("go")

    def close(self) -> None:
        """End the senders."""
        self._exit_stack.close()

    def wait_for_the_first_to_stop(self) -> None:
        """Wait until the first sender has stopped itself between its nonce and the first byte."""
        wait_for(lambda: process_state(self.children[0].pid) == "T", LIMIT_SECONDS)

    def wait_for_others(self) -> None:
        """Wait until a call that arrives from now on is accepted."""
        before = self.simulator.api.accepted_nonces
        wait_for(lambda: self.simulator.api.accepted_nonces > before, LIMIT_SECONDS)

    def record(self) -> KeyRecord:
        """Return the store's record of the key."""
        with closing(open_nonce_store(self._plan.store, self._plan.key)) as nonce_store:
            record = nonce_store.read_record()
        assert record is not None
        return record

    @property
    def log(self) -> list[LoggedRequest]:
        """The requests that arrived, oldest first."""
        return list(self.simulator.request_log)

    def refused(self) -> list[LoggedRequest]:
        """Return the requests that were refused, for any reason."""
        return [request for request in self.log if request.error]

    def accepted(self) -> list[int]:
        """Return the accepted nonces in order of arrival."""
        return [int(request.nonce) for request in self.log if request.is_nonce_accepted]


@contextmanager
def four_hosts(
    folder: Path, store: str, full_size: bool, calls: int, lock_seconds: float = 0.0, uses_shared_lock: bool = True
) -> Iterator[Hosts]:
    """Open four senders that make `calls` calls each, after a first one."""
    options = SimulatorOptions(latency_seconds=(0.0, 0.05 if full_size else 0.012))
    clock = MarketClock(wall_seconds(), 1.0 if full_size else 20.0)
    with Simulator(options, clock) as simulator:
        account = simulator.url, simulator.key, simulator.secret
        times = clock.now(), clock._boot_start, clock.speed
        plan = SenderPlan(*account, store, *times, calls, lock_seconds=lock_seconds, uses_shared_lock=uses_shared_lock)
        with closing(Hosts(simulator, plan, folder)) as hosts:
            yield hosts


def longest_wait(nonces: list[int], nonces_by_sender: list[list[int]]) -> int:
    """Return the maximum number of requests of others between two of one sender, while all had calls to make."""
    sender_by_nonce = {nonce: number for number, own in enumerate(nonces_by_sender) for nonce in own}
    senders = [sender_by_nonce[nonce] for nonce in nonces if nonce >= max(own[0] for own in nonces_by_sender)]
    until = min(len(senders) - senders[::-1].index(number) for number in range(len(nonces_by_sender)))
    last_index = dict.fromkeys(range(len(nonces_by_sender)), -1)
    longest = 0
    for index, number in enumerate(senders[:until]):
        longest = max(longest, index - last_index[number] - 1)
        last_index[number] = index
    return longest


def nonces_of(lines: list[str]) -> list[int]:
    """Return the nonces of the calls, all of which must have succeeded."""
    assert all(line.startswith("ok ") for line in lines), lines
    return [int(line.removeprefix("ok ")) for line in lines]


def test_without_the_shared_lock_some_calls_are_refused(tmp_path: Path, redis_url: str) -> None:
    """With shared nonces but no shared lock some calls are refused: calls with higher nonces overtake them."""
    with four_hosts(tmp_path, redis_url, full_size=False, calls=10, uses_shared_lock=False) as hosts:
        hosts.start()
        for child in hosts.children:
            child.read_to_end()
        assert {request.error for request in hosts.refused()} == {"EAPI:Invalid nonce"}


def test_with_the_shared_lock_no_call_is_refused(tmp_path: Path, store: str, full_size: bool) -> None:
    """No call of four hosts is refused or sent twice, and no sender waits long for the others."""
    calls = 999 if full_size else 60
    with four_hosts(tmp_path, store, full_size, calls) as hosts:
        hosts.start()
        nonces_by_sender = [nonces_of(child.read_to_end()) for child in hosts.children]
        assert hosts.refused() == []
        assert hosts.accepted() == sorted(nonce for own in nonces_by_sender for nonce in own)
        assert len(hosts.accepted()) == 4 * (calls + 1)
        longest = longest_wait(hosts.accepted(), nonces_by_sender)
        print(f"the longest wait was {longest} requests of others")
        assert longest <= MAX_REQUESTS_BETWEEN


def test_a_suspended_read_is_refused_once_and_repeated(tmp_path: Path, store: str, full_size: bool) -> None:
    """A read that is suspended for longer than the lock's lifetime is refused once and repeated; no other is."""
    lock_seconds = LOCK_LIFETIME_SECONDS if full_size else SHORT_LOCK_SECONDS
    with four_hosts(tmp_path, store, full_size, 10, lock_seconds) as hosts:
        hosts.start(stop_at_call=3)
        hosts.wait_for_the_first_to_stop()
        last_nonce = hosts.record().last_nonce
        hosts.wait_for_others()
        hosts.children[0].signal(signal.SIGCONT)
        for child in hosts.children:
            nonces_of(child.read_to_end())
        assert [(request.method, request.nonce, request.error) for request in hosts.refused()] == [
            ("BalanceEx", str(last_nonce), "EAPI:Invalid nonce")
        ]
        assert len(hosts.accepted()) == 4 * 11
        assert_lock_lifetime_passed(hosts, last_nonce, lock_seconds)


def assert_lock_lifetime_passed(hosts: Hosts, last_nonce: int, lock_seconds: float) -> None:
    """Fail if, by the server's clock, a nonce was issued within the lock lifetime after `last_nonce`."""
    assert min(nonce for nonce in hosts.accepted() if nonce > last_nonce) >= last_nonce + lock_seconds * 1e6


def test_a_suspended_order_is_refused_once_and_not_resent(tmp_path: Path, store: str, full_size: bool) -> None:
    """An order that is suspended for longer than the lock's lifetime is refused once, unknown, reconciled as not
    placed, and not sent again; no other call is refused."""
    lock_seconds = LOCK_LIFETIME_SECONDS if full_size else SHORT_LOCK_SECONDS
    with four_hosts(tmp_path, store, full_size, 10, lock_seconds) as hosts:
        hosts.start(stop_at_call=3, is_order=True)
        hosts.wait_for_the_first_to_stop()
        last_nonce = hosts.record().last_nonce
        hosts.wait_for_others()
        hosts.children[0].signal(signal.SIGCONT)
        first_lines, *other_outputs = [child.read_to_end() for child in hosts.children]
        for lines in other_outputs:
            nonces_of(lines)
        assert first_lines[4:7] == ["unknown", "not placed", "not sent again"]
        nonces_of([*first_lines[:4], *first_lines[7:]])
        assert [(request.method, request.nonce, request.error) for request in hosts.refused()] == [
            ("AddOrder", str(last_nonce), "EAPI:Invalid nonce")
        ]
        assert [request.method for request in hosts.log].count("AddOrder") == 1
        assert not hosts.simulator.exchange.account.orders
        assert_lock_lifetime_passed(hosts, last_nonce, lock_seconds)


def test_a_killed_lock_holder_delays_others_by_the_lock_lifetime(tmp_path: Path, store: str, full_size: bool) -> None:
    """When a lock holder is killed the others continue after the lock's lifetime, and nothing is refused."""
    lock_seconds = LOCK_LIFETIME_SECONDS if full_size else SHORT_LOCK_SECONDS
    with four_hosts(tmp_path, store, full_size, 10, lock_seconds) as hosts:
        hosts.start(stop_at_call=3)
        hosts.wait_for_the_first_to_stop()
        abandoned = hosts.record()
        assert abandoned.lock_owner
        hosts.children[0].kill()
        for child in hosts.children[1:]:
            nonces_of(child.read_to_end())
        assert hosts.refused() == []
        assert abandoned.last_nonce not in hosts.accepted()
        assert_lock_lifetime_passed(hosts, abandoned.last_nonce, lock_seconds)

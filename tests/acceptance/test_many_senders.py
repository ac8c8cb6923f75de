"""Many senders on one key, each on a host of its own with its own clock: what the shared turn is for.

The hosts have no file in common. Requests are delayed at random on their way, so that they can overtake each other.
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

CLOCKS_OFF_SECONDS = (-5.0, 3.0, 0.0, 0.0)
# A turn whose end is waited for. Much shorter, a busy machine could hold an ordinary request up for longer.
SHORT_TURN_SECONDS = 2.0
# Who has waited longest is next as soon as it asks, so there are three turns of others, and some while it does not ask.
WAIT_TURNS_MAX = 20
LIMIT_SECONDS = 900.0


class Hosts:
    """Four senders on one key of a local Kraken, behind a line with jitter."""

    def __init__(self, simulator: Simulator, plan: SenderPlan, folder: Path) -> None:
        self.simulator = simulator
        self.children: list[Child] = []
        self._plan = plan
        self._folder = folder
        self._open = ExitStack()

    def start(self, **of_the_first: Any) -> None:
        """Start the senders and let them call; the first one's plan is changed."""
        for number, off_seconds in enumerate(CLOCKS_OFF_SECONDS):
            plan = replace(self._plan, clock_offset_seconds=off_seconds, **({} if number else of_the_first))
            environment = {"STATE_DIR": str(self._folder / f"host{number}")}
            child = Child(
                "tests.acceptance.sender_child", plan.to_json(), limit_seconds=LIMIT_SECONDS, environment=environment
            )
            self.children.append(self._open.enter_context(child))
        for child in self.children:
            child.expect_line("ready")
        for child in self.children:
            child.write_line("go")

    def close(self) -> None:
        """End the senders."""
        self._open.close()

    def wait_for_the_first_to_stop(self) -> None:
        """Return when the first sender stands still between its nonce and the first byte."""
        wait_for(lambda: process_state(self.children[0].pid) == "T", LIMIT_SECONDS)

    def wait_for_others(self) -> None:
        """Return when a call that came after now was accepted."""
        before = self.simulator.api.accepted_nonces
        wait_for(lambda: self.simulator.api.accepted_nonces > before, LIMIT_SECONDS)

    def row(self) -> KeyRecord:
        """Return what the store has of the key."""
        with closing(open_nonce_store(self._plan.store, self._plan.key)) as engine:
            row = engine.read_record()
        assert row is not None
        return row

    @property
    def log(self) -> list[LoggedRequest]:
        """The requests that arrived, oldest first."""
        return list(self.simulator.request_log)

    def refused(self) -> list[LoggedRequest]:
        """Return the requests that were refused, for whatever reason."""
        return [row for row in self.log if row.error]

    def accepted(self) -> list[int]:
        """Return the nonces that were accepted, in their order of arrival."""
        return [int(row.nonce) for row in self.log if row.is_nonce_accepted]


@contextmanager
def four_hosts(
    folder: Path, store: str, full_size: bool, calls: int, turn_seconds: float = 0.0, shared_turn: bool = True
) -> Iterator[Hosts]:
    """Open four senders that make so many calls each, after a first one."""
    options = SimulatorOptions(latency_seconds=(0.0, 0.05 if full_size else 0.012))
    clock = MarketClock(wall_seconds(), 1.0 if full_size else 20.0)
    with Simulator(options, clock) as simulator:
        account = simulator.url, simulator.key, simulator.secret
        times = clock.now(), clock._boot_start, clock.speed
        plan = SenderPlan(*account, store, *times, calls, lock_seconds=turn_seconds, uses_shared_lock=shared_turn)
        with closing(Hosts(simulator, plan, folder)) as hosts:
            yield hosts


def longest_wait(nonces: list[int], of_each: list[list[int]]) -> int:
    """Return for how many turns of others a sender has waited at most, while each had something to send."""
    sender_of = {nonce: number for number, own in enumerate(of_each) for nonce in own}
    turns = [sender_of[nonce] for nonce in nonces if nonce >= max(own[0] for own in of_each)]
    until = min(len(turns) - turns[::-1].index(number) for number in range(len(of_each)))
    last = dict.fromkeys(range(len(of_each)), -1)
    longest = 0
    for index, number in enumerate(turns[:until]):
        longest = max(longest, index - last[number] - 1)
        last[number] = index
    return longest


def nonces_of(lines: list[str]) -> list[int]:
    """Return the nonces with which calls went well, which all must have done."""
    assert all(line.startswith("ok ") for line in lines), lines
    return [int(line.removeprefix("ok ")) for line in lines]


def test_without_the_shared_turn(tmp_path: Path, redis_url: str) -> None:
    """With the counter alone some calls are refused: they are overtaken on their way by calls with higher nonces."""
    with four_hosts(tmp_path, redis_url, full_size=False, calls=10, shared_turn=False) as hosts:
        hosts.start()
        for child in hosts.children:
            child.read_to_end()
        assert {row.error for row in hosts.refused()} == {"EAPI:Invalid nonce"}


def test_through_the_shared_turn(tmp_path: Path, store: str, full_size: bool) -> None:
    """No call of four hosts is refused or sent twice, and no sender waits long for others that ask again at once."""
    calls = 999 if full_size else 60
    with four_hosts(tmp_path, store, full_size, calls) as hosts:
        hosts.start()
        of_each = [nonces_of(child.read_to_end()) for child in hosts.children]
        assert hosts.refused() == []
        assert hosts.accepted() == sorted(nonce for own in of_each for nonce in own)
        assert len(hosts.accepted()) == 4 * (calls + 1)
        longest = longest_wait(hosts.accepted(), of_each)
        print(f"the longest wait was {longest} turns of others")
        assert longest <= WAIT_TURNS_MAX


def test_a_sender_stopped_before_its_bytes_leave(tmp_path: Path, store: str, full_size: bool) -> None:
    """A read that is held up for longer than its turn is refused once, none of the others' is, and it is repeated."""
    turn_seconds = LOCK_LIFETIME_SECONDS if full_size else SHORT_TURN_SECONDS
    with four_hosts(tmp_path, store, full_size, 10, turn_seconds) as hosts:
        hosts.start(stop_at=3)
        hosts.wait_for_the_first_to_stop()
        last = hosts.row().last_nonce
        hosts.wait_for_others()
        hosts.children[0].signal(signal.SIGCONT)
        for child in hosts.children:
            nonces_of(child.read_to_end())
        assert [(row.method, row.nonce, row.error) for row in hosts.refused()] == [
            ("BalanceEx", str(last), "EAPI:Invalid nonce")
        ]
        assert len(hosts.accepted()) == 4 * 11
        assert_waited(hosts, last, turn_seconds)


def assert_waited(hosts: Hosts, last: int, turn_seconds: float) -> None:
    """Hold that by the server's clock nobody drew above `last` in the lifetime of its turn."""
    assert min(nonce for nonce in hosts.accepted() if nonce > last) >= last + turn_seconds * 1e6


def test_an_order_stopped_before_its_bytes_leave(tmp_path: Path, store: str, full_size: bool) -> None:
    """An order that is held up for longer than its turn is refused once, unknown, settled as not placed, and is not
    sent again; no call of the others' is refused."""
    turn_seconds = LOCK_LIFETIME_SECONDS if full_size else SHORT_TURN_SECONDS
    with four_hosts(tmp_path, store, full_size, 10, turn_seconds) as hosts:
        hosts.start(stop_at=3, is_order=True)
        hosts.wait_for_the_first_to_stop()
        last = hosts.row().last_nonce
        hosts.wait_for_others()
        hosts.children[0].signal(signal.SIGCONT)
        first, *others = [child.read_to_end() for child in hosts.children]
        for lines in others:
            nonces_of(lines)
        assert first[4:7] == ["unknown", "not placed", "not sent again"]
        nonces_of([*first[:4], *first[7:]])
        assert [(row.method, row.nonce, row.error) for row in hosts.refused()] == [
            ("AddOrder", str(last), "EAPI:Invalid nonce")
        ]
        assert [row.method for row in hosts.log].count("AddOrder") == 1
        assert not hosts.simulator.exchange.account.orders
        assert_waited(hosts, last, turn_seconds)


def test_a_sender_killed_in_its_turn(tmp_path: Path, store: str, full_size: bool) -> None:
    """When a sender is killed in its turn the others go on after the turn's lifetime, and nothing is refused."""
    turn_seconds = LOCK_LIFETIME_SECONDS if full_size else SHORT_TURN_SECONDS
    with four_hosts(tmp_path, store, full_size, 10, turn_seconds) as hosts:
        hosts.start(stop_at=3)
        hosts.wait_for_the_first_to_stop()
        dead = hosts.row()
        assert dead.lock_owner
        hosts.children[0].kill()
        for child in hosts.children[1:]:
            nonces_of(child.read_to_end())
        assert hosts.refused() == []
        assert dead.last_nonce not in hosts.accepted()
        assert_waited(hosts, dead.last_nonce, turn_seconds)

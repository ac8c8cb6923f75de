"""Three instances on one account, while they and their store are killed, stopped and parted at random.

The exchange keeps no deadlines, so that nothing but the lease and the nonces stands between two leaders.
"""

from __future__ import annotations

import random
import signal
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import pytest

from bot.base.clock import boottime_seconds, sleep
from tests.acceptance.instances import Fleet, Instance, check_signals, trading_fleet, wait_until
from tests.servers import Server, open_postgres, open_redis
from tests.tcp_proxy import FaultProxy

NAMES = ("first", "second", "third")
LEASE_SECONDS = 3.0
# Real time between two events, and how long what was parted or paused stays so, in lifetimes.
PAUSE_SECONDS = (0.2, 1.2)
TROUBLE_LIFETIMES = (0.1, 1.7)
# Of SIGSTOP: longer than the lifetime.
STOP_LIFETIMES = (1.1, 1.8)
SPEED = 240.0
# How long is waited for a call to be held up; a standby makes none.
HOLD_SECONDS = 1.0
# Within this time a leader asks its store, and is answered.
ASKS_SECONDS = 0.3
# The exit code of a start where the store is out of reach; the platform starts it again.
NO_STORE_CODE = 4


class Chaos:
    """What happens to the instances and their store, and who puts it right again when.

    Half of what happens to an instance does so while a call of its own is under way, which arrives later.
    """

    def __init__(self, fleet: Fleet, server: Server, doors: dict[str, FaultProxy], seed: int) -> None:
        self.fleet = fleet
        self.told: list[str] = []
        self._server = server
        self._doors = doors
        self._chance = random.Random(seed)
        self._lives = {name: self._start(name) for name in NAMES}
        # What puts it right again, by what is in trouble, and when that is due.
        self._troubles: dict[str, tuple[float, Callable[[], None]]] = {}
        self._bag: list[str] = []
        self._events: dict[str, Callable[[str], None]] = {
            "kill": self._kill,
            "stop": self._stop,
            "stop in a question": self._stop_in_a_question,
            "terminate": self._terminate,
            "refuse": partial(self._part, silent=False),
            "silence": partial(self._part, silent=True),
            "store restarts": lambda _: self._server.restart(),
            "store crashes": lambda _: self._crash(),
            "store pauses": lambda _: self._pause(),
        }

    def run(self, events: int) -> None:
        """Let so many things happen, and then put everything right."""
        while len(self.told) < events:
            self._wait(self._chance.uniform(*PAUSE_SECONDS))
            # Each kind comes as often as the others.
            self._bag = self._bag or self._chance.sample(list(self._events), len(self._events))
            what = self._bag.pop()
            where = "store" if what.startswith("store") else self._someone()
            while where in self._troubles or not where:
                self._wait(0.1)
                where = where or self._someone()
            self._let_happen(where, what)
        self._wait(max((due for due, _ in self._troubles.values()), default=0.0) - boottime_seconds())

    def _someone(self) -> str:
        """Return an instance that is well, most often the one that leads; "" where there is none."""
        well = [name for name in NAMES if name not in self._troubles and not self._lives[name].has_ended]
        leader = self.fleet.observed_requests[-1].instance.name if self.fleet.observed_requests else ""
        if leader in well and self._chance.random() < 0.7:
            return leader
        return self._chance.choice(well) if well else ""

    def start_again(self) -> None:
        """Start again who could not reach the store at its start; nothing else may have ended an instance."""
        for name, life in self._lives.items():
            if life.has_ended and name not in self._troubles:
                assert life.exit_code == NO_STORE_CODE, f"it ended with {life.exit_code}\n{life.text}"
                self._lives[name] = self._start(name)

    def end(self) -> None:
        """End the instances in good order."""
        for life in self._lives.values():
            life.send(signal.SIGTERM)
        for life in self._lives.values():
            self._check_end(life)

    @staticmethod
    def _check_end(life: Instance) -> None:
        # At the very start nothing has been done yet that could need an end of its own.
        good = (0, NO_STORE_CODE) if life.text else (-signal.SIGTERM,)
        assert life.wait_and_check() in good, f"it ended with {life.exit_code}\n{life.text}"

    def _let_happen(self, where: str, what: str) -> None:
        if where == "store":
            self.told.append(what)
            for life in self._lives.values():
                life.disturbances.append(what)
        else:
            held = self._hold_a_call(where) if what != "terminate" and self._chance.random() < 0.5 else ""
            self.told.append(f"{what} {where}{held}")
            self._lives[where].disturbances.append(f"{what}{held}")
        self._events[what](where)

    def _hold_a_call(self, name: str) -> str:
        """Let the next call of an instance arrive later than what happens to it; return what was held, in words."""
        door, method = self._lives[name].server, self._chance.choice(["", "AddOrder"])
        door.hold_next_request(method)
        until = boottime_seconds() + HOLD_SECONDS
        while not door.is_holding and boottime_seconds() < until:
            self._wait(0.0)
            sleep(0.005)
        if not door.is_holding:
            door.release()
            return ""
        self._put_right(f"a call of {name}", STOP_LIFETIMES, door.release)
        return f" while its {method or 'call'} is under way"

    def _start(self, name: str) -> Instance:
        store = self._doors[name].url
        return self.fleet.start(name, NONCE_STORE=store, LEASE_SECONDS=f"{LEASE_SECONDS:g}")

    def _kill(self, name: str) -> None:
        self._lives[name].kill()
        self._lives[name] = self._start(name)

    def _terminate(self, name: str) -> None:
        self._lives[name].send(signal.SIGTERM)
        self._check_end(self._lives[name])
        self._lives[name] = self._start(name)

    def _stop(self, name: str) -> None:
        life = self._lives[name]
        life.send(signal.SIGSTOP)
        self._put_right(name, STOP_LIFETIMES, lambda: life.send(signal.SIGCONT))

    def _stop_in_a_question(self, name: str) -> None:
        """Stop an instance that waits for its store; the store is asked, and answers, when another one leads."""
        self._doors[name].start_partition(blackhole=True)
        sleep(ASKS_SECONDS)
        self._lives[name].send(signal.SIGSTOP)
        self._put_right(name, STOP_LIFETIMES, partial(self._go_on_answered, name, self._lives[name]))

    def _go_on_answered(self, name: str, life: Instance) -> None:
        self._doors[name].end_partition()
        sleep(ASKS_SECONDS)
        life.send(signal.SIGCONT)

    def _part(self, name: str, silent: bool) -> None:
        self._doors[name].start_partition(blackhole=silent)
        self._put_right(name, TROUBLE_LIFETIMES, self._doors[name].end_partition)

    def _crash(self) -> None:
        self._server.kill()
        self._server.start()

    def _pause(self) -> None:
        self._server.pause()
        self._put_right("store", TROUBLE_LIFETIMES, self._server.resume)

    def _put_right(self, where: str, lifetimes: tuple[float, float], how: Callable[[], None]) -> None:
        due = boottime_seconds() + LEASE_SECONDS * self._chance.uniform(*lifetimes)
        self._troubles[where] = due, how

    def _wait(self, seconds: float) -> None:
        """Let time pass, in which troubles end."""
        until = boottime_seconds() + seconds
        while True:
            for where, (due, put_right) in list(self._troubles.items()):
                if boottime_seconds() >= due:
                    put_right()
                    del self._troubles[where]
            self.start_again()
            if boottime_seconds() >= until:
                return
            sleep(0.02)


@pytest.mark.parametrize(
    ("open_server", "seed"), [(open_redis, 20_261_123), (open_postgres, 20_261_124)], ids=["redis", "postgres"]
)
def test_never_two_leaders(
    tmp_path: Path, open_server: Callable[[Path], AbstractContextManager[Server]], seed: int, full_size: bool
) -> None:
    """Whatever happens, no call of an earlier generation is accepted after one of a later, only late calls of instances
    that were held up are refused, no signal is traded twice, and in the end one of them trades."""
    with ExitStack() as stack:
        server = stack.enter_context(open_server(tmp_path))
        doors = {name: stack.enter_context(FaultProxy(server)) for name in NAMES}
        (tmp_path / "fleet").mkdir()
        fleet = stack.enter_context(trading_fleet(tmp_path / "fleet", speed=SPEED, enforce_deadline=False))
        chaos = Chaos(fleet, server, doors, seed)
        fleet.instances[0].wait_for("^(leader|standby)")
        chaos.run(200 if full_size else 4)
        print(f"seed {seed}: {', '.join(chaos.told)}")
        wait_for_an_order(chaos)
        chaos.end()
        check(fleet, seed, full_size)


def wait_for_an_order(chaos: Chaos) -> None:
    """Wait until somebody sends an order, now that nothing more happens."""
    fleet = chaos.fleet
    before = len(fleet.observed_requests)

    def traded() -> bool:
        chaos.start_again()
        return any(
            heard.request.method == "AddOrder" and heard.request.is_nonce_accepted
            for heard in fleet.observed_requests[before:]
        )

    wait_until(traded, lambda: "\n".join(life.text[-3000:] for life in fleet.instances[-3:]))


def check(fleet: Fleet, seed: int, full_size: bool) -> None:
    """Hold the exchange's log to what is promised, and print what was refused to whom."""
    fleet.check_leaders()
    check_signals(fleet.kraken)
    highest = 0
    late: Counter[str] = Counter()
    for heard in fleet.observed_requests:
        if heard.request.is_nonce_accepted:
            highest = heard.generation
        elif heard.has_refused_nonce:
            where = f"seed {seed}: {heard} while generation {highest} leads; {fleet.describe_disturbances()}\n{heard.instance.text}"
            assert heard.generation < highest, where
            assert heard.instance.disturbances, where
            late[f"{heard.request.method} of {heard.instance.name}"] += 1
    assert late or not full_size, "nothing came late: there was nothing to keep apart"
    generations = len({heard.generation for heard in fleet.observed_requests})
    orders = sum(heard.request.method == "AddOrder" for heard in fleet.observed_requests)
    print(f"{generations} generations in {len(fleet.instances)} lives, {orders} orders; late calls: {dict(late)}")

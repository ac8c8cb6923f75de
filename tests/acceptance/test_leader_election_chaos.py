"""Three instances on one account, while they and their store are killed, stopped and partitioned at random.

The exchange does not enforce deadlines, so only the lease and the nonces keep two leaders apart.
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
# Real time between two events, and the duration of a partition or pause in lease lifetimes.
PAUSE_SECONDS = (0.2, 1.2)
OUTAGE_LIFETIMES = (0.1, 1.7)
# The duration of a SIGSTOP: longer than the lease lifetime.
STOP_LIFETIMES = (1.1, 1.8)
SPEED = 240.0
# How long to wait for a request to hold; a standby sends none.
HOLD_SECONDS = 1.0
# Within this time a leader calls its store and gets the response.
STORE_CALL_SECONDS = 0.3
# The exit code of a start without a reachable store; the platform starts it again.
NO_STORE_EXIT_CODE = 4


class Chaos:
    """Random events for the instances and their store, with their scheduled repairs.

    Half of the events of an instance happen while one of its requests is held, which arrives later.
    """

    def __init__(self, fleet: Fleet, server: Server, proxies: dict[str, FaultProxy], seed: int) -> None:
        self.fleet = fleet
        self.event_log: list[str] = []
        self._server = server
        self._proxies = proxies
        self._rng = random.Random(seed)
        self._instances = {name: self._start(name) for name in NAMES}
        # The repair of each disturbed part, and when it is due.
        self._repairs: dict[str, tuple[float, Callable[[], None]]] = {}
        self._next_events: list[str] = []
        self._events: dict[str, Callable[[str], None]] = {
            "kill": self._kill,
            "stop": self._stop,
            "stop during a store call": self._stop_during_store_call,
            "terminate": self._terminate,
            "reset connections": partial(self._partition, blackhole=False),
            "blackhole": partial(self._partition, blackhole=True),
            "store restarts": lambda _: self._server.restart(),
            "store crashes": lambda _: self._crash_store(),
            "store pauses": lambda _: self._pause_store(),
        }

    def run(self, events: int) -> None:
        """Cause this many events, and then repair everything."""
        while len(self.event_log) < events:
            self._wait(self._rng.uniform(*PAUSE_SECONDS))
            # Each kind of event comes equally often.
            self._next_events = self._next_events or self._rng.sample(list(self._events), len(self._events))
            event = self._next_events.pop()
            target = "store" if event.startswith("store") else self._choose_instance()
            while target in self._repairs or not target:
                self._wait(0.1)
                target = target or self._choose_instance()
            self._cause(event, target)
        self._wait(max((due for due, _ in self._repairs.values()), default=0.0) - boottime_seconds())

    def _choose_instance(self) -> str:
        """Return an undisturbed instance, most often the leader; "" if there is none."""
        undisturbed = [name for name in NAMES if name not in self._repairs and not self._instances[name].has_ended]
        leader = self.fleet.observed_requests[-1].instance.name if self.fleet.observed_requests else ""
        if leader in undisturbed and self._rng.random() < 0.7:
            return leader
        return self._rng.choice(undisturbed) if undisturbed else ""

    def restart_ended(self) -> None:
        """Restart instances that could not reach the store at the start; fail if one ended for another reason."""
        for name, instance in self._instances.items():
            if instance.has_ended and name not in self._repairs:
                assert instance.exit_code == NO_STORE_EXIT_CODE, f"it ended with {instance.exit_code}\n{instance.text}"
                self._instances[name] = self._start(name)

    def end(self) -> None:
        """End all instances by SIGTERM."""
        for instance in self._instances.values():
            instance.send(signal.SIGTERM)
        for instance in self._instances.values():
            self._check_end(instance)

    @staticmethod
    def _check_end(instance: Instance) -> None:
        # Before the first output the signal handler is not installed.
        expected_codes = (0, NO_STORE_EXIT_CODE) if instance.text else (-signal.SIGTERM,)
        assert instance.wait_and_check() in expected_codes, f"it ended with {instance.exit_code}\n{instance.text}"

    def _cause(self, event: str, target: str) -> None:
        if target == "store":
            self.event_log.append(event)
            for instance in self._instances.values():
                instance.disturbances.append(event)
        else:
            held = self._hold_request(target) if event != "terminate" and self._rng.random() < 0.5 else ""
            self.event_log.append(f"{event} {target}{held}")
            self._instances[target].disturbances.append(f"{event}{held}")
        self._events[event](target)

    def _hold_request(self, name: str) -> str:
        """Hold the next request of an instance until after the event; return a description of what is held."""
        server, method = self._instances[name].server, self._rng.choice(["", "AddOrder"])
        server.hold_next_request(method)
        deadline_seconds = boottime_seconds() + HOLD_SECONDS
        while not server.is_holding and boottime_seconds() < deadline_seconds:
            self._wait(0.0)
            sleep(0.005)
        if not server.is_holding:
            server.release()
            return ""
        self._schedule_repair(f"a request of {name}", STOP_LIFETIMES, server.release)
        return f" while its {method or 'request'} is in flight"

    def _start(self, name: str) -> Instance:
        store = self._proxies[name].url
        return self.fleet.start(name, NONCE_STORE=store, LEASE_SECONDS=f"{LEASE_SECONDS:g}")

    def _kill(self, name: str) -> None:
        self._instances[name].kill()
        self._instances[name] = self._start(name)

    def _terminate(self, name: str) -> None:
        self._instances[name].send(signal.SIGTERM)
        self._check_end(self._instances[name])
        self._instances[name] = self._start(name)

    def _stop(self, name: str) -> None:
        instance = self._instances[name]
        instance.send(signal.SIGSTOP)
        self._schedule_repair(name, STOP_LIFETIMES, lambda: instance.send(signal.SIGCONT))

    def _stop_during_store_call(self, name: str) -> None:
        """Stop an instance that waits for its store; its call arrives there when another instance leads."""
        self._proxies[name].start_partition(blackhole=True)
        sleep(STORE_CALL_SECONDS)
        self._instances[name].send(signal.SIGSTOP)
        self._schedule_repair(name, STOP_LIFETIMES, partial(self._continue_with_response, name, self._instances[name]))

    def _continue_with_response(self, name: str, instance: Instance) -> None:
        self._proxies[name].end_partition()
        sleep(STORE_CALL_SECONDS)
        instance.send(signal.SIGCONT)

    def _partition(self, name: str, blackhole: bool) -> None:
        self._proxies[name].start_partition(blackhole=blackhole)
        self._schedule_repair(name, OUTAGE_LIFETIMES, self._proxies[name].end_partition)

    def _crash_store(self) -> None:
        self._server.kill()
        self._server.start()

    def _pause_store(self) -> None:
        self._server.pause()
        self._schedule_repair("store", OUTAGE_LIFETIMES, self._server.resume)

    def _schedule_repair(self, target: str, lifetimes: tuple[float, float], repair: Callable[[], None]) -> None:
        due = boottime_seconds() + LEASE_SECONDS * self._rng.uniform(*lifetimes)
        self._repairs[target] = due, repair

    def _wait(self, seconds: float) -> None:
        """Wait, and make the repairs that are due."""
        deadline_seconds = boottime_seconds() + seconds
        while True:
            for target, (due, repair) in list(self._repairs.items()):
                if boottime_seconds() >= due:
                    repair()
                    del self._repairs[target]
            self.restart_ended()
            if boottime_seconds() >= deadline_seconds:
                return
            sleep(0.02)


@pytest.mark.parametrize(
    ("open_server", "seed"), [(open_redis, 20_261_123), (open_postgres, 20_261_124)], ids=["redis", "postgres"]
)
def test_never_two_leaders(
    tmp_path: Path, open_server: Callable[[Path], AbstractContextManager[Server]], seed: int, full_size: bool
) -> None:
    """No request is accepted after one with a higher fencing token, only late requests of disturbed instances are
    refused, no signal is traded twice, and in the end one instance trades."""
    with ExitStack() as stack:
        server = stack.enter_context(open_server(tmp_path))
        proxies = {name: stack.enter_context(FaultProxy(server)) for name in NAMES}
        (tmp_path / "fleet").mkdir()
        fleet = stack.enter_context(trading_fleet(tmp_path / "fleet", speed=SPEED, enforce_deadline=False))
        chaos = Chaos(fleet, server, proxies, seed)
        fleet.instances[0].wait_for(" leads( with|;)")
        chaos.run(200 if full_size else 4)
        print(f"seed {seed}: {', '.join(chaos.event_log)}")
        wait_for_an_order(chaos)
        chaos.end()
        check(fleet, seed, full_size)


def wait_for_an_order(chaos: Chaos) -> None:
    """Wait until an instance trades, after the last event."""
    fleet = chaos.fleet
    before = len(fleet.observed_requests)

    def has_traded() -> bool:
        chaos.restart_ended()
        return any(
            observed.request.method == "AddOrder" and observed.request.is_nonce_accepted
            for observed in fleet.observed_requests[before:]
        )

    wait_until(has_traded, lambda: "\n".join(instance.text[-3000:] for instance in fleet.instances[-3:]))


def check(fleet: Fleet, seed: int, full_size: bool) -> None:
    """Check the exchange's log against the guarantees, and print the refused requests."""
    fleet.check_leaders()
    check_signals(fleet.kraken)
    highest = 0
    late_requests: Counter[str] = Counter()
    for observed in fleet.observed_requests:
        if observed.request.is_nonce_accepted:
            highest = observed.fencing_token
        elif observed.has_refused_nonce:
            context = f"seed {seed}: {observed} while fencing token {highest} leads; {fleet.describe_disturbances()}"
            context += f"\n{observed.instance.text}"
            assert observed.fencing_token < highest, context
            assert observed.instance.disturbances, context
            late_requests[f"{observed.request.method} of {observed.instance.name}"] += 1
    assert late_requests or not full_size, "no request came late, so the leases were not tested"
    fencing_tokens = len({observed.fencing_token for observed in fleet.observed_requests})
    orders = sum(observed.request.method == "AddOrder" for observed in fleet.observed_requests)
    print(f"{fencing_tokens} leases, {len(fleet.instances)} processes, {orders} orders; late: {dict(late_requests)}")

"""Instances of the bot on separate hosts: deployed, stopped, killed, and identified at the exchange.

Each process of an instance has its own port of the local Kraken. So the exchange's log tells which process sent a
request, and the output of that process tells under which lease.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

from bot.base.clock import boottime_seconds, sleep
from bot.kraken.new_order import client_order_id
from bot.simulator.api import PRIVATE_PATH, Api, LoggedRequest
from bot.simulator.faults import NO_FAULT, Fault
from bot.simulator.http_server import SimulatorHttpServer
from bot.simulator.instruments import PairRules, known_instruments
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices_recorded import CandlePath
from bot.simulator.server import Simulator
from tests.acceptance.local_kraken import START, LocalKraken, ScriptedCandles, SkippableClock
from tests.acceptance.processes import LOG_PREFIX, isolated_settings
from tests.acceptance.versions import HERE, Version
from tests.server_processes import LIBC

# For loaded machines; only a failure takes the whole time.
TIMEOUT_SECONDS = 60.0
INVALID_NONCE = "EAPI:Invalid nonce"
# The second form is that of the version in `versions.py`.
LEADER = re.compile(r" leads with fencing token (\d+) in |^leader   generation (\d+), by ", re.MULTILINE)
BOT_ID = "fleet"
PAIRS = ("BTC/USD", "ETH/USD", "SOL/USD")
CANDLE_SECONDS = 60
_WAVE = (1000, 1030, 1030, 1000, 970, 970)
_CANDLES, _HISTORY = 60_000, 100
_PR_SET_PDEATHSIG = 1
# The order kinds of a signal, exit parts included; attempts follow an order that was proved not placed.
_KINDS = ("entry", "exit", "exit2", "exit3")
_ATTEMPTS = 10


def wait_until(
    condition: Callable[[], bool], describe: Callable[[], str], timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Wait until the condition holds; fail with the description if it does not."""
    deadline_seconds = boottime_seconds() + timeout_seconds
    while not condition():
        assert boottime_seconds() < deadline_seconds, describe()
        sleep(0.01)


class InterceptingServer:
    """A port of the simulator for one sender, whose requests can be delayed on their way.

    `on_arrival` is called when a private request arrives; `on_handled`, with the result of that call, once the exchange
    has handled the request: one at a time, and in the exchange's order.
    """

    def __init__(
        self, simulator: Simulator, on_arrival: Callable[[], int], on_handled: Callable[[int, LoggedRequest], None]
    ) -> None:
        self._api = simulator.api
        self._on_arrival = on_arrival
        self._on_handled = on_handled
        self._method_to_hold: str | None = None
        self._released = threading.Event()
        self._released.set()
        self._server = SimulatorHttpServer(cast(Api, self), simulator.faults, simulator.options, simulator.clock)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.5,), daemon=True).start()

    def handle(
        self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault = NO_FAULT
    ) -> tuple[int, bytes]:
        """Pass a request to the exchange, as the simulator's own server does."""
        if not target.startswith(PRIVATE_PATH):
            return self._api.handle(http_method, target, headers, body, fault)
        context = self._on_arrival()
        if self._method_to_hold in ("", target.removeprefix(PRIVATE_PATH)):
            self._method_to_hold = None
            self._released.clear()
        self._released.wait()
        # Under the exchange's lock, or a request of another server could come between.
        with self._api.lock:
            response = self._api.handle(http_method, target, headers, body, fault)
            self._on_handled(context, self._api.request_log[-1])
        return response

    def hold_next_request(self, method: str = "") -> None:
        """Hold the next request of a method, or of any, and all that follow it, until `release`."""
        self._method_to_hold = method

    @property
    def is_holding(self) -> bool:
        """Whether a request is being held."""
        return not self._released.is_set()

    def release(self) -> None:
        """Let the held requests arrive."""
        self._method_to_hold = None
        self._released.set()

    def close(self) -> None:
        """Close the port and its connections."""
        self._server.shutdown()
        self._server.close_connections()
        self._server.server_close()
        self.release()


@dataclass(frozen=True, slots=True)
class ObservedRequest:
    """A private request as the exchange saw it, its sender, and the sender's fencing token (0: no lease)."""

    instance: Instance
    fencing_token: int
    request: LoggedRequest
    boot_seconds: float

    @property
    def has_refused_nonce(self) -> bool:
        """Whether its nonce was refused."""
        return self.request.error == INVALID_NONCE

    def __str__(self) -> str:
        request, result = self.request, self.request.error or "accepted"
        sender = f"{self.instance.name} {self.fencing_token}"
        return f"{sender} {request.method} {request.nonce} {result} at {request.time:.0f}"


class Instance:
    """One process of an instance. Its output goes into a file: a line is there before the request that follows it."""

    def __init__(
        self,
        name: str,
        kraken: LocalKraken,
        settings: dict[str, str],
        output: Path,
        log: list[ObservedRequest],
        arguments: Sequence[str],
        version: Version,
    ) -> None:
        self.name = name
        # Everything done to it that may delay its requests.
        self.disturbances: list[str] = []
        # The time of the first signal to it.
        self.first_signal_seconds: float | None = None
        self.exit_code: int | None = None
        self._log = log
        self._output = output
        self.server = InterceptingServer(kraken.simulator, self._current_fencing_token, self._record_request)
        settings = isolated_settings(settings | {"KRAKEN_API_URL": self.server.url})
        self._secrets = [settings["KRAKEN_API_KEY"], settings["KRAKEN_API_SECRET"]]
        with output.open("wb") as output_file:
            self._process = subprocess.Popen(
                [sys.executable, str(version.folder / "main.py"), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output_file,
                stderr=output_file,
                cwd="/",
                env={**os.environ, **version.rename_settings(settings)},
                # A stopped process must not outlive its test either.
                preexec_fn=lambda: LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509 - one call
            )

    def _current_fencing_token(self) -> int:
        """Return the fencing token of the lease that it last printed, or 0."""
        # Lines are written in one piece.
        tokens = [new or old for new, old in LEADER.findall(self.text)]
        return int(tokens[-1]) if tokens else 0

    def _record_request(self, fencing_token: int, request: LoggedRequest) -> None:
        self._log.append(ObservedRequest(self, fencing_token, request, boottime_seconds()))

    @property
    def text(self) -> str:
        """Everything that it has printed so far."""
        return LOG_PREFIX.sub("", self._output.read_text("utf-8"))

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether its process has ended."""
        self.exit_code = self._process.poll()
        return self.exit_code is not None

    def requests(self, method: str = "") -> list[ObservedRequest]:
        """Return its requests that were accepted, oldest first."""
        return [
            observed
            for observed in list(self._log)
            if observed.instance is self
            and observed.request.is_nonce_accepted
            and method in ("", observed.request.method)
        ]

    def wait_for(self, pattern: str) -> str:
        """Wait until it has printed a line that matches; return the first one."""
        wait_until(
            lambda: self._matching_lines(pattern) != [] or self.has_ended,
            lambda: f"expected {pattern!r} in\n{self.text}",
        )
        assert self._matching_lines(pattern), f"expected {pattern!r} in\n{self.text}"
        return self._matching_lines(pattern)[0]

    def wait_for_request(self, method: str = "", times: int = 1, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        """Wait until the exchange has accepted `times` requests from it."""
        wait_until(
            lambda: len(self.requests(method)) >= times,
            lambda: f"{self.name} sent no {method or 'request'} number {times}; its output was\n{self.text}",
            timeout_seconds,
        )

    def _matching_lines(self, pattern: str) -> list[str]:
        # The last line may be incomplete.
        return [line for line in self.text.split("\n")[:-1] if re.search(pattern, line)]

    def send(self, signal_number: signal.Signals) -> None:
        """Send it a signal."""
        self.first_signal_seconds = self.first_signal_seconds or boottime_seconds()
        self._process.send_signal(signal_number)

    def wait_for_end(self, seconds: float) -> None:
        """Wait at most this long for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def wait_and_check(self) -> int:
        """Wait for its end and check its output; return its exit code."""
        wait_until(lambda: self.has_ended, lambda: f"{self.name} did not end; its output was\n{self.text}")
        self.check_output()
        assert self.exit_code is not None
        return self.exit_code

    def kill(self) -> None:
        """End it by SIGKILL, even if it is stopped."""
        if not self.has_ended:
            self.send(signal.SIGKILL)
        self.wait_and_check()

    def check_output(self) -> None:
        """Fail if its output contains a traceback or a secret."""
        text = self.text
        assert "Traceback" not in text, text
        assert not any(secret in text for secret in self._secrets), "a key or its secret was printed"


class Fleet:
    """Instances of one bot on one account, and their requests in the order of the exchange."""

    def __init__(self, kraken: LocalKraken, folder: Path) -> None:
        self.kraken = kraken
        self.observed_requests: list[ObservedRequest] = []
        self.instances: list[Instance] = []
        self._folder = folder

    def start(self, name: str, **settings: str) -> Instance:
        """Start one more process of an instance, on the disk of that instance's earlier processes."""
        return self.start_version(HERE, name, **settings)

    def start_version(self, version: Version, name: str, *arguments: str, **settings: str) -> Instance:
        """Start a process of another version of the program, or one with arguments."""
        defaults = {"STATE_DIR": str(self._folder / name), "BOT_ID": BOT_ID, "PAIRS": ",".join(PAIRS)}
        output = self._folder / f"process-{len(self.instances)}.txt"
        instance = Instance(
            name,
            self.kraken,
            self.kraken.settings(**(defaults | settings)),
            output,
            self.observed_requests,
            arguments,
            version,
        )
        self.instances.append(instance)
        return instance

    def close(self) -> None:
        """Kill the processes that still run, and close the ports."""
        for instance in self.instances:
            if not instance.has_ended:
                instance.kill()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda instance: instance.server.close(), self.instances))

    @property
    def refused_requests(self) -> list[ObservedRequest]:
        """The requests whose nonces were refused."""
        return [observed for observed in self.observed_requests if observed.has_refused_nonce]

    def leader_names(self) -> list[str]:
        """Return the senders of the accepted requests in order, consecutive repeats removed."""
        names = [observed.instance.name for observed in self.observed_requests if observed.request.is_nonce_accepted]
        return [name for name, before in zip(names, [None, *names], strict=False) if name != before]

    def check_leaders(self) -> None:
        """Fail if a request was sent without a lease, or accepted after one with a higher fencing token."""
        highest = 0
        for observed in self.observed_requests:
            assert observed.fencing_token, f"not the leader: {observed}\n{observed.instance.text}"
            if observed.request.is_nonce_accepted:
                assert observed.fencing_token >= highest, (
                    f"fencing token {highest} leads already: {observed}\n{observed.instance.text}"
                )
                highest = observed.fencing_token
        owners = {observed.fencing_token: observed.instance for observed in self.observed_requests}
        assert all(owners[observed.fencing_token] is observed.instance for observed in self.observed_requests), (
            "two instances had one fencing token"
        )

    def describe_disturbances(self) -> str:
        """Return what was done to which instance, for the message of a failed test."""
        return "; ".join(
            f"{instance.name}: {', '.join(instance.disturbances) or 'undisturbed'}" for instance in self.instances
        )


class WavePrices(ScriptedCandles):
    """Waves that make the strategy buy every six candles and sell three candles later.

    Each pair is one candle behind the pair before it, so a bot has to send an order in every candle.
    """

    def __init__(self) -> None:
        super().__init__((), CANDLE_SECONDS, has_gaps=False)
        self._candles_by_symbol = {
            symbol: ScriptedCandles(closes_for(symbol), CANDLE_SECONDS, has_gaps=False) for symbol in PAIRS
        }

    def _path(self, pair: PairRules) -> CandlePath:
        return self._candles_by_symbol[pair.symbol]._path(pair)


def closes_for(symbol: str) -> list[int]:
    """Return the closes of a pair."""
    return list(islice(cycle(_WAVE), PAIRS.index(symbol), PAIRS.index(symbol) + _CANDLES))


@contextlib.contextmanager
def trading_fleet(folder: Path, *, speed: float, **options: Any) -> Iterator[Fleet]:
    """Open an empty fleet on a local Kraken whose market makes a bot trade in every candle; kill its processes at the
    end."""
    clock = SkippableClock(START + _HISTORY * CANDLE_SECONDS + 1, speed)
    with (
        Simulator(SimulatorOptions(tier="pro", **options), clock, WavePrices(), known_instruments(PAIRS)) as simulator,
        contextlib.closing(Fleet(LocalKraken(simulator, clock, folder, speed, "1m"), folder)) as fleet,
    ):
        yield fleet


@dataclass(frozen=True, slots=True)
class Signal:
    """A signal of the strategy in candle number `candle`."""

    symbol: str
    candle: int
    kind: str


def traded_signals(kraken: LocalKraken) -> list[Signal]:
    """Return the signal of each order of a fleet, found by its client order id."""
    orders = kraken.orders
    last = int(max((order.opened for order in orders), default=START) - START) // CANDLE_SECONDS
    signals = {
        client_order_id(
            BOT_ID, symbol, "moving_average", START + candle * CANDLE_SECONDS, kind=kind, attempt=attempt
        ): Signal(symbol, candle, kind)
        for symbol in PAIRS
        for candle in range(last + 1)
        for kind in _KINDS
        for attempt in range(_ATTEMPTS)
    }
    return [signals[order.cl_ord_id] for order in orders]


def check_signals(kraken: LocalKraken) -> None:
    """Fail if a signal was traded twice, an undisturbed bot would not have placed an entry, or the account does not add
    up."""
    kraken.check_account()
    traded = Counter(traded_signals(kraken))
    assert max(traded.values(), default=0) <= 1, f"traded twice: {traded.most_common(3)}"
    wrong = [signal for signal in traded if signal.kind == "entry" and not _is_crossing(signal)]
    assert not wrong, f"not signals of the strategy: {wrong}"


def _is_crossing(signal: Signal) -> bool:
    """Whether in this candle the mean of the last 10 closes rose above that of the last 30."""
    closes = closes_for(signal.symbol)
    # A candle lies between two closes.
    until = signal.candle + 2

    def is_above(until: int) -> bool:
        return 3 * sum(closes[until - 10 : until]) > sum(closes[until - 30 : until])

    return is_above(until) and not is_above(until - 1)

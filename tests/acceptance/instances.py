"""Instances of the bot on hosts of their own: deployed, stopped, killed, and told apart at the exchange.

Every life of an instance, which is one process, has a port of the local Kraken to itself. So the exchange's own log
says who has sent a request; and what that process had said by then, under which lease.
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
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any, cast

from bot.base.clock import boottime_seconds, sleep
from bot.kraken.order_requests import client_order_id
from bot.simulator.api import PRIVATE, Api, LoggedRequest
from bot.simulator.faults import Fault
from bot.simulator.http_server import WireServer
from bot.simulator.instruments import PairRules, known_pairs
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices_recorded import CandlePath
from bot.simulator.server import Simulator
from tests.acceptance.local_kraken import START, DrawnCandles, DrawnClock, LocalKraken
from tests.acceptance.processes import only
from tests.conftest import ROOT
from tests.server_processes import LIBC

# For machines that have a lot to do; only a failure takes it.
LIMIT_SECONDS = 60.0
BAD_NONCE = "EAPI:Invalid nonce"
LEADER = re.compile(r"^leader +generation (\d+)", re.MULTILINE)
BOT_ID = "fleet"
PAIRS = ("BTC/USD", "ETH/USD", "SOL/USD")
CANDLE_SECONDS = 60
_WAVE = (1000, 1030, 1030, 1000, 970, 970)
_CANDLES, _HISTORY = 60_000, 100
_PR_SET_PDEATHSIG = 1
# A signal's order may be one of these; parts of an exit, and attempts after one that was proved not placed.
_KINDS = ("entry", "exit", "exit2", "exit3")
_ATTEMPTS = 10


def wait_until(condition: Callable[[], bool], what: Callable[[], str], limit_seconds: float = LIMIT_SECONDS) -> None:
    """Wait until something that processes do has come true."""
    limit = boottime_seconds() + limit_seconds
    while not condition():
        assert boottime_seconds() < limit, what()
        sleep(0.01)


class Door:
    """A port of the simulator's own, for one sender, whose requests can be held up on their way.

    `arrived` is called when a private request comes; `heard`, with what that has returned, when the exchange has taken
    the request: one at a time, and in the exchange's order.
    """

    def __init__(
        self, simulator: Simulator, arrived: Callable[[], int], heard: Callable[[int, LoggedRequest], None]
    ) -> None:
        self._api = simulator.api
        self._arrived = arrived
        self._heard = heard
        self._held_method: str | None = None
        self._go_on = threading.Event()
        self._go_on.set()
        self._server = WireServer(cast(Api, self), simulator.faults, simulator.options, simulator.clock)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.5,), daemon=True).start()

    def handle(
        self, http_method: str, target: str, headers: Mapping[str, str], body: bytes, fault: Fault | None = None
    ) -> tuple[int, bytes]:
        """Hand a request to the exchange, as the simulator's own server does."""
        if not target.startswith(PRIVATE):
            return self._api.handle(http_method, target, headers, body, fault)
        note = self._arrived()
        if self._held_method in ("", target.removeprefix(PRIVATE)):
            self._held_method = None
            self._go_on.clear()
        self._go_on.wait()
        # The exchange's own lock, or another door's request might be taken between.
        with self._api.lock:
            answer = self._api.handle(http_method, target, headers, body, fault)
            self._heard(note, self._api.log[-1])
        return answer

    def hold_next(self, method: str = "") -> None:
        """Hold up the next request of a method, or of any, and all that come after it, until `let_go`."""
        self._held_method = method

    @property
    def holds(self) -> bool:
        """Whether a request is held up."""
        return not self._go_on.is_set()

    def let_go(self) -> None:
        """Let what is held up arrive."""
        self._held_method = None
        self._go_on.set()

    def close(self) -> None:
        """Close the port and its connections."""
        self._server.shutdown()
        self._server.hang_up()
        self._server.server_close()
        self.let_go()


@dataclass(frozen=True, slots=True)
class Heard:
    """A private request as the exchange saw it, who sent it, and under which generation of the lease; 0 is none."""

    life: Life
    generation: int
    row: LoggedRequest
    boot_seconds: float

    @property
    def is_late(self) -> bool:
        """Whether its nonce was refused."""
        return self.row.error == BAD_NONCE

    def __str__(self) -> str:
        row = self.row
        return (
            f"{self.life.name} {self.generation} {row.method} {row.nonce} {row.error or 'accepted'} at {row.time:.0f}"
        )


class Life:
    """One process of an instance. What it says goes into a file: whatever it sent, it had said before."""

    def __init__(
        self, name: str, kraken: LocalKraken, settings: dict[str, str], output: Path, log: list[Heard]
    ) -> None:
        self.name = name
        # What was done to it that may hold its calls up.
        self.disturbed: list[str] = []
        # When it was first told to end.
        self.signalled_seconds: float | None = None
        self.code: int | None = None
        self._log = log
        self._output = output
        self.door = Door(kraken.simulator, self._leads_under, self._hear)
        settings = only(settings | {"KRAKEN_API_URL": self.door.url})
        self._secrets = [settings["KRAKEN_API_KEY"], settings["KRAKEN_API_SECRET"]]
        with output.open("wb") as said:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "main.py")],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                cwd="/",
                env={**os.environ, **settings},
                # Also one that is stopped must not outlive its test.
                preexec_fn=lambda: LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0),  # noqa: PLW1509 - one call
            )

    def _leads_under(self) -> int:
        """Return the generation of the lease that it has said it leads under, 0 before the first."""
        # Lines are written whole.
        said = LEADER.findall(self.text)
        return int(said[-1]) if said else 0

    def _hear(self, generation: int, row: LoggedRequest) -> None:
        self._log.append(Heard(self, generation, row, boottime_seconds()))

    @property
    def text(self) -> str:
        """Everything that it has said so far."""
        return self._output.read_text("utf-8")

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def ended(self) -> bool:
        """Whether its process has ended."""
        self.code = self._process.poll()
        return self.code is not None

    def requests(self, method: str = "") -> list[Heard]:
        """Return what it has sent that was accepted, oldest first."""
        return [
            heard
            for heard in list(self._log)
            if heard.life is self and heard.row.accepted and method in ("", heard.row.method)
        ]

    def wait_for(self, pattern: str) -> str:
        """Wait until it has said a line that matches; return the first one."""
        wait_until(
            lambda: self._lines(pattern) != [] or self.ended, lambda: f"{pattern!r} was expected of\n{self.text}"
        )
        assert self._lines(pattern), f"{pattern!r} was expected of\n{self.text}"
        return self._lines(pattern)[0]

    def wait_for_request(self, method: str = "", times: int = 1, limit_seconds: float = LIMIT_SECONDS) -> None:
        """Wait until the exchange has accepted so many requests from it."""
        wait_until(
            lambda: len(self.requests(method)) >= times,
            lambda: f"{self.name} sent no {method or 'request'} number {times}, having said\n{self.text}",
            limit_seconds,
        )

    def _lines(self, pattern: str) -> list[str]:
        # The last piece may be a line half written.
        return [line for line in self.text.split("\n")[:-1] if re.search(pattern, line)]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.signalled_seconds = self.signalled_seconds or boottime_seconds()
        self._process.send_signal(number)

    def wait_for_end(self, seconds: float) -> None:
        """Wait for its end, at most so long."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def end(self) -> int:
        """Wait for its end; return its exit code, having looked through everything that it said."""
        wait_until(lambda: self.ended, lambda: f"{self.name} was still there, having said\n{self.text}")
        self.check_output()
        assert self.code is not None
        return self.code

    def kill(self) -> None:
        """End it by SIGKILL, also where it is stopped."""
        if not self.ended:
            self.send(signal.SIGKILL)
        self.end()

    def check_output(self) -> None:
        """Fail where it told of an error in the program, or told a secret."""
        text = self.text
        assert "Traceback" not in text, text
        assert not any(secret in text for secret in self._secrets), "a key or its secret was said"


class Fleet:
    """Instances of one bot on one account, and all that the exchange has heard of them, in its order."""

    def __init__(self, kraken: LocalKraken, folder: Path) -> None:
        self.kraken = kraken
        self.heard: list[Heard] = []
        self.lives: list[Life] = []
        self._folder = folder

    def start(self, name: str, **settings: str) -> Life:
        """Start one more life of an instance; its disk is its own, and has what its former lives left there."""
        mine = {"STATE_DIR": str(self._folder / name), "BOT_ID": BOT_ID, "PAIRS": ",".join(PAIRS)}
        output = self._folder / f"life-{len(self.lives)}.txt"
        life = Life(name, self.kraken, self.kraken.settings(**(mine | settings)), output, self.heard)
        self.lives.append(life)
        return life

    def close(self) -> None:
        """Kill what still runs, and close the ports."""
        for life in self.lives:
            if not life.ended:
                life.kill()
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda life: life.door.close(), self.lives))

    @property
    def refused(self) -> list[Heard]:
        """The requests whose nonces were refused."""
        return [heard for heard in self.heard if heard.is_late]

    def leaders(self) -> list[str]:
        """Return whose requests were accepted, one after the other: a name comes again where another's was between."""
        names = [heard.life.name for heard in self.heard if heard.row.accepted]
        return [name for name, before in zip(names, [None, *names], strict=False) if name != before]

    def check_leaders(self) -> None:
        """Fail where a request was sent without a lease, or one was accepted after one of a later generation was."""
        highest = 0
        for heard in self.heard:
            assert heard.generation, f"it does not lead: {heard}\n{heard.life.text}"
            if heard.row.accepted:
                assert heard.generation >= highest, f"generation {highest} leads already: {heard}\n{heard.life.text}"
                highest = heard.generation
        owners = {heard.generation: heard.life for heard in self.heard}
        assert all(owners[heard.generation] is heard.life for heard in self.heard), "two had one generation"

    def story(self) -> str:
        """Return what was done to whom, for whoever has to find out why a test failed."""
        return "; ".join(f"{life.name}: {', '.join(life.disturbed) or 'undisturbed'}" for life in self.lives)


class Waves(DrawnCandles):
    """Waves that make the strategy buy every six candles and sell three candles later; each pair is a candle later than
    the one before it, so a bot has to send an order in every candle.
    """

    def __init__(self) -> None:
        super().__init__((), CANDLE_SECONDS, gap=False)
        self._of_pair = {symbol: DrawnCandles(closes_of(symbol), CANDLE_SECONDS, gap=False) for symbol in PAIRS}

    def _path(self, pair: PairRules) -> CandlePath:
        return self._of_pair[pair.symbol]._path(pair)


def closes_of(symbol: str) -> list[int]:
    """Return the closes of a pair."""
    return list(islice(cycle(_WAVE), PAIRS.index(symbol), PAIRS.index(symbol) + _CANDLES))


@contextlib.contextmanager
def waving_fleet(folder: Path, *, speed: float, **options: Any) -> Iterator[Fleet]:
    """Open a local Kraken whose market makes a bot trade in every candle, and a fleet without instances on it; all
    processes end with it."""
    clock = DrawnClock(START + _HISTORY * CANDLE_SECONDS + 1, speed)
    with (
        Simulator(SimulatorOptions(tier="pro", **options), clock, Waves(), known_pairs(PAIRS)) as simulator,
        contextlib.closing(Fleet(LocalKraken(simulator, clock, folder, speed, "1m"), folder)) as fleet,
    ):
        yield fleet


@dataclass(frozen=True, slots=True)
class Signal:
    """What the strategy wanted in a candle, the one with this number."""

    symbol: str
    candle: int
    kind: str


def traded_signals(kraken: LocalKraken) -> list[Signal]:
    """Return the signals that the orders of a fleet were sent for, one for each order: their names tell."""
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
    """Fail where a signal was traded twice, an entry is none that an undisturbed bot would have placed on this market,
    or the account does not add up."""
    kraken.check_account()
    traded = Counter(traded_signals(kraken))
    assert max(traded.values(), default=0) <= 1, f"traded twice: {traded.most_common(3)}"
    wrong = [signal for signal in traded if signal.kind == "entry" and not _crosses(signal)]
    assert not wrong, f"nobody wanted {wrong}"


def _crosses(signal: Signal) -> bool:
    """Whether in this candle the mean of the last 10 closes came to be above that of the last 30."""
    closes = closes_of(signal.symbol)
    # A candle lies between two closes.
    until = signal.candle + 2

    def is_above(until: int) -> bool:
        return 3 * sum(closes[until - 10 : until]) > sum(closes[until - 30 : until])

    return is_above(until) and not is_above(until - 1)

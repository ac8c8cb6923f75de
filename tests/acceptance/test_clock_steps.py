"""A wrong answer to Time and a step of the wall clock, in processes whose wall clock the test moves.

Kraken accepts a nonce from any year and never takes a lower one again (Kraken: authentication guide), so each test
looks at what the key has accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from bot.base.clock import wall_seconds
from bot.simulator.api import LoggedRequest
from bot.simulator.http_server import _RequestHandler
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance.local_kraken import SkippableClock
from tests.acceptance.processes import run, stored_nonce
from tests.child_process import Child

TEN_YEARS = 10 * 365 * 86_400
TWO_DAYS = 2 * 86_400
TOLERANCE_SECONDS = 61.0

has_date = pytest.mark.parametrize("has_date", [True, False], ids=["Date", "no Date"])


class Setup:
    """A Kraken with a clock of its own, whose Time may be wrong, and processes on one key and state folder."""

    def __init__(self, simulator: Simulator, clock: SkippableClock, folder: Path) -> None:
        self.simulator, self.clock, self.folder = simulator, clock, folder
        self.time_requests = 0
        self.time_error_seconds = 0
        methods = simulator.api._public_endpoints.methods
        handle_time = methods["Time"]

        def answer(params: Mapping[str, str], now: float) -> dict[str, Any]:
            self.time_requests += 1
            result = handle_time(params, now)
            return {**result, "unixtime": result["unixtime"] + self.time_error_seconds}

        methods["Time"] = answer

    def start_child(self) -> Child:
        """Return a process with a broker, not entered yet."""
        simulator = self.simulator
        return Child(
            "tests.acceptance.clock_child",
            simulator.url,
            simulator.key,
            simulator.secret,
            environment={"STATE_DIR": str(self.folder)},
        )

    @property
    def requests(self) -> list[LoggedRequest]:
        """The private requests that have arrived."""
        return list(self.simulator.request_log)

    def seconds_ahead(self) -> float:
        """Return how far the last accepted nonce is ahead of Kraken's clock."""
        return max(int(request.nonce) for request in self.requests) / 1e6 - self.clock.now()


@pytest.fixture
def setup(tmp_path: Path) -> Iterator[Setup]:
    """Open a Kraken whose time is that of this machine."""
    clock = SkippableClock(wall_seconds())
    with Simulator(SimulatorOptions(), clock) as simulator:
        yield Setup(simulator, clock, tmp_path)


def ask(child: Child, command: str) -> str:
    """Have the child run one command; return its answer."""
    child.write_line(command)
    return child.read_line()


def run_commands(child: Child, *commands: str) -> None:
    """Have the child run commands, which must all succeed."""
    for command in commands:
        assert ask(child, command) == "ok", command


@contextmanager
def date_header(is_sent: bool) -> Iterator[None]:
    """Let the simulator send an HTTP Date or none."""
    with pytest.MonkeyPatch.context() as patch:
        if not is_sent:
            patch.setattr(_RequestHandler, "date_time_string", lambda *_: "")
        yield


@has_date
def test_a_wrong_time_does_not_burn_the_key(setup: Setup, has_date: bool) -> None:
    """Where every answer to Time is ten years ahead, from the first on or later, nonces stay at the right time, and the
    next start is refused nothing."""
    setup.time_error_seconds = TEN_YEARS
    with date_header(has_date):
        for _ in range(2):
            with setup.start_child() as child:
                run_commands(child, "cycle", "read")
        setup.time_error_seconds = 0
        with setup.start_child() as child:
            run_commands(child, "cycle", "read", "step 120")
            setup.time_error_seconds = TEN_YEARS
            run_commands(child, "cycle", "read")
    assert [request.error for request in setup.requests] == [""] * 4
    assert abs(setup.seconds_ahead()) < TOLERANCE_SECONDS


@has_date
def test_a_wrong_time_does_not_move_deadlines(setup: Setup, has_date: bool) -> None:
    """After an answer to Time that is ten years ahead, Kraken's time in the program is still right."""
    setup.time_error_seconds = TEN_YEARS
    with date_header(has_date), setup.start_child() as child:
        run_commands(child, "cycle")
        assert abs(float(ask(child, "now")) - setup.clock.now()) < TOLERANCE_SECONDS


@has_date
def test_a_brief_forward_step_does_not_burn_the_key(setup: Setup, has_date: bool) -> None:
    """A wall clock that is two days ahead for a while moves no nonce, before Kraken's Time was asked again and after
    it; and the next start is refused nothing."""
    with date_header(has_date):
        with setup.start_child() as child:
            run_commands(
                child, "cycle", "read", f"step {TWO_DAYS}", "read", "cycle", "read", f"step -{TWO_DAYS}", "read"
            )
        with setup.start_child() as child:
            run_commands(child, "cycle", "read")
    assert [request.error for request in setup.requests] == [""] * 5
    assert abs(setup.seconds_ahead()) < TOLERANCE_SECONDS
    assert abs(stored_nonce(setup.folder) / 1e6 - wall_seconds()) < TOLERANCE_SECONDS


def test_a_step_with_a_wrong_time_is_not_followed(setup: Setup) -> None:
    """Where the wall clock is two days ahead, Time ten years and no Date is sent, no two clocks agree: nonces go on
    from the noted time, until Time is right again, and then the wall clock is known to be wrong."""
    with date_header(is_sent=False), setup.start_child() as child:
        run_commands(child, "cycle", "read", f"step {TWO_DAYS}")
        setup.time_error_seconds = TEN_YEARS
        run_commands(child, "cycle", "read")
        assert abs(setup.seconds_ahead()) < TOLERANCE_SECONDS
        setup.time_error_seconds = 0
        run_commands(child, "cycle", "read")
    assert abs(setup.seconds_ahead()) < TOLERANCE_SECONDS
    assert [request.error for request in setup.requests] == [""] * 3


@has_date
def test_a_right_step_is_followed_with_the_next_cycle(setup: Setup, has_date: bool) -> None:
    """Where wall clock and Kraken are both an hour ahead, as after a pause of the machine, the next cycle asks Time
    once, and the next nonce and Kraken's time are an hour ahead too."""
    with date_header(has_date), setup.start_child() as child:
        run_commands(child, "cycle", "read")
        before = int(setup.requests[-1].nonce)
        setup.clock.skip(3600)
        run_commands(child, "step 3600", "read")
        assert int(setup.requests[-1].nonce) - before < TOLERANCE_SECONDS * 1e6
        assert setup.time_requests == 1
        run_commands(child, "cycle", "read", "cycle")
        assert setup.time_requests == 2
        assert int(setup.requests[-1].nonce) - before > 3590e6
        assert abs(float(ask(child, "now")) - setup.clock.now()) < TOLERANCE_SECONDS


def test_without_a_request_for_time_nonces_follow_the_wall_clock(setup: Setup) -> None:
    """A process that never asks Kraken's Time follows its wall clock wherever it steps."""
    with setup.start_child() as child:
        before = int(ask(child, "nonce"))
        run_commands(child, "step 3600")
        assert int(ask(child, "nonce")) - before > 3590e6


def test_the_command_line_survives_a_wrong_time(setup: Setup) -> None:
    """With a Time that is ten years ahead `check` and a run of one cycle write nonces of today, and so does a run after
    them."""
    settings = {
        "TRADING_MODE": "live",
        "KRAKEN_API_URL": setup.simulator.url,
        "KRAKEN_API_KEY": setup.simulator.key,
        "KRAKEN_API_SECRET": setup.simulator.secret,
        "STATE_DIR": str(setup.folder),
        "SKIP_OVERLAP_WAIT": "1",
        "PAIRS": "BTC/USD",
    }
    for arguments, error_seconds in ((("check",), TEN_YEARS), (("--cycles", "1"), TEN_YEARS), (("--cycles", "1"), 0)):
        setup.time_error_seconds = error_seconds
        run(*arguments, settings=settings)
        assert abs(stored_nonce(setup.folder) / 1e6 - wall_seconds()) < TOLERANCE_SECONDS, arguments
    assert [request.error for request in setup.requests if request.error] == []

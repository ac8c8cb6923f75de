"""The dashboard of a trading bot under load."""

from __future__ import annotations

from itertools import cycle, islice
from pathlib import Path

from bot.base.clock import boottime_seconds
from bot.simulator.options import SimulatorOptions
from tests import dashboard_readers
from tests.acceptance.local_kraken import WAVE, WAVE_HISTORY, local_kraken
from tests.acceptance.processes import running
from tests.child_process import Child
from tests.dashboard_tools import TOKEN
from tests.server_processes import free_port

RATE = 200
WAIT_TIMEOUT_SECONDS = 60.0
DISTANT_SIMULATOR = SimulatorOptions(tier="pro", latency_seconds=(0.02, 0.02))
# Two candles a second, an order every eight candles; an order's deadline is three times the latency away.
SPEED = 120.0


def test_dashboard_load_costs_no_nonce(state: Path, full_size: bool) -> None:
    """While the page and /healthz are requested 200 times a second, a bot that trades at 20 ms of latency has every
    nonce accepted, and every reader gets a response."""
    seconds = 30.0 if full_size else 2.0
    port, close_prices = free_port(), tuple(islice(cycle(WAVE), 6000))
    with local_kraken(
        state,
        close_prices,
        candle_seconds=60,
        timeframe="1m",
        at_candle=WAVE_HISTORY,
        speed=SPEED,
        has_gaps=False,
        options=DISTANT_SIMULATOR,
    ) as kraken:
        page = {"PORT": str(port), "STATUS_TOKEN": TOKEN, "PAIRS": "BTC/USD,ETH/USD,SOL/USD"}
        with (
            running(settings=kraken.settings(**page), until="^Account: ") as bot,
            Child("tests.dashboard_readers", port, TOKEN, limit_seconds=WAIT_TIMEOUT_SECONDS + seconds) as load_process,
        ):
            orders, until = kraken.request_methods.count("AddOrder"), boottime_seconds() + WAIT_TIMEOUT_SECONDS
            while True:
                dashboard_readers.start_load(load_process, RATE, seconds, "/healthz", "/")
                result = dashboard_readers.finish_load(load_process)
                half = int(RATE * seconds / 2)
                assert result.statuses == {"/healthz 200": half, "/ 200": half}
                if kraken.request_methods.count("AddOrder") > orders:
                    break
                assert boottime_seconds() < until, f"it did not trade:\n{bot.text}"
            assert bot.stop() == 0
        assert bot.lines[-1].endswith("; refused nonces: 0")
        assert [request for request in kraken.simulator.request_log if not request.is_nonce_accepted] == []

"""One key, many processes: they share its rate counters, its pauses, and the circuit breaker's probe."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

import pytest

from bot import broker_manager
from bot.base.clock import MarketClock, boottime_seconds, wall_seconds, wall_us
from bot.base.errors import OrderRefusedError, RateLimitError
from bot.base.paths import key_file_path
from bot.kraken.rate_counters import STARTER
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import (
    ORDER,
    BrokerSetup,
    open_broker_setup,
    run_in_threads,
    start_broker_child,
    wait_for,
)
from tests.child_process import Child

pytestmark = pytest.mark.usefixtures("nonce_file")

SPEED = 20.0
PROCESSES, READS = 4, 8
RATE_LIMIT = "EAPI:Rate limit exceeded"


def read_in_processes_within_limit(setup: BrokerSetup, folder: Path, limiter_paths: list[str]) -> list[str]:
    """Let one process per rate limiter file read as fast as it is allowed to; return their outputs."""
    start, boot = setup.clock.now(), boottime_seconds()
    credentials = (setup.simulator.key, setup.simulator.secret)
    with ExitStack() as stack:
        children = [
            stack.enter_context(
                Child(
                    "tests.acceptance.rate_limit_child",
                    *(setup.simulator.url, *credentials, start, boot, SPEED, READS, limiter_path),
                    environment={"STATE_DIR": str(folder)},
                )
            )
            for limiter_path in limiter_paths
        ]
        for process in children:
            process.expect_line("ready")
        for process in children:
            process.write_line("go")
        return [line for process in children for line in process.read_to_end()]


def test_processes_sharing_a_limiter_never_exceed_the_rate_limit(tmp_path: Path) -> None:
    """Four processes that read as fast as allowed, twice the allowance at once, are never refused by Kraken."""
    with open_broker_setup(SimulatorOptions(tier="starter"), MarketClock(wall_seconds(), SPEED)) as setup:
        assert read_in_processes_within_limit(setup, tmp_path, ["shared"] * PROCESSES) == ["ok"] * PROCESSES * READS
        assert [request.error for request in setup.requests()] == [""] * PROCESSES * READS


def test_processes_with_separate_limiters_exceed_the_rate_limit(tmp_path: Path) -> None:
    """The same four processes, each with a rate limiter of its own, are refused by Kraken."""
    with open_broker_setup(SimulatorOptions(tier="starter"), MarketClock(wall_seconds(), SPEED)) as setup:
        limiter_paths = [str(tmp_path / f"own.{number}") for number in range(PROCESSES)]
        assert "RateLimitError" in read_in_processes_within_limit(setup, tmp_path, limiter_paths)
        assert RATE_LIMIT in [request.error for request in setup.requests()]


def test_calls_queued_for_the_request_lock_do_not_burst() -> None:
    """After a response that took 10 s of market time the threads that wait for the lock are never refused."""
    options = SimulatorOptions(tier="starter", slow_seconds=10.0 / SPEED)
    with open_broker_setup(options, MarketClock(wall_seconds(), SPEED), tier=STARTER) as setup:
        setup.simulator.faults.fire_next("slow", "BalanceEx")
        assert run_in_threads(20, lambda: setup.broker.private_call("BalanceEx")) == []
        assert [request.error for request in setup.requests()] == [""] * 20


@pytest.mark.parametrize("method", ["BalanceEx", "CancelAll", "AddOrder"])
def test_throttled_response_pauses_all_senders(method: str) -> None:
    """After `EService:Throttled` no broker of the key sends anything before the time that Kraken named."""
    with open_broker_setup() as setup:
        other = setup.open_broker()
        until = int(setup.clock.now()) + 40
        setup.simulator.faults.raise_next("BalanceEx", f"EService: Throttled: {until}")
        with pytest.raises(RateLimitError):
            setup.broker.private_call("BalanceEx")
        assert setup.clock.now() < until - 30
        other.private_call(method, ORDER if method == "AddOrder" else None)
        assert setup.clock.now() >= until
        assert setup.request_methods() == ["BalanceEx", method]
        other.close()


@pytest.mark.parametrize(("string", "waits"), [(RATE_LIMIT, (6.0, 6.1)), ("EGeneral:Too many requests", (5.0, 5.1))])
def test_rate_limit_refusal_is_shared_between_brokers(string: str, waits: tuple[float, float]) -> None:
    """After a rate limit refusal the next read of another broker of the key waits as long as that limit requires."""
    with open_broker_setup(tier=STARTER) as setup:
        other = setup.open_broker(tier=STARTER)
        setup.simulator.faults.raise_next("BalanceEx", string)
        with pytest.raises(RateLimitError):
            setup.broker.private_call("BalanceEx")
        before = setup.clock.now()
        other.private_call("BalanceEx")
        assert waits[0] <= setup.clock.now() - before <= waits[1]
        other.close()


def test_restart_does_not_reset_the_rate_counter() -> None:
    """A broker that is opened after others have used up the allowance waits for the same decay."""
    with open_broker_setup(tier=STARTER) as setup:
        start = setup.clock.now()
        for _ in range(20):
            broker = setup.open_broker(tier=STARTER)
            broker.private_call("BalanceEx")
            broker.close()
        assert setup.clock.now() - start == pytest.approx((20 - 14) / 0.33, abs=1.0)


def test_cancel_during_shutdown_skips_pauses() -> None:
    """While the program stops a cancel is sent at once, during a pause and with a full counter too."""
    with open_broker_setup(tier=STARTER) as setup:
        txid = setup.broker.private_call("AddOrder", ORDER)["txid"][0]
        setup.broker._rate_limiter.saturate_rest(setup.broker.now())
        setup.broker._rate_limiter.pause(setup.broker.now() + 30.0, "throttled")
        setup.broker.stop()
        before = setup.clock.now()
        setup.broker.private_call("CancelOrder", {"txid": txid})
        setup.broker.private_call("CancelAll")
        assert setup.clock.now() == before
        assert setup.request_methods()[1:] == ["CancelOrder", "CancelAll"]


# Circuit breaker: refusals are counted together, and one process at a time probes


def open_expired_breaker(setup: BrokerSetup) -> None:
    """Leave the key's circuit breaker open, with its time over."""
    text = json.dumps({"until_seconds": wall_seconds() - 1, "seconds": 100.0, "reason": "another sender"})
    Path(key_file_path(broker_manager.NONCE_FILE, setup.simulator.key, "silence")).write_text(text)


def outputs_of_children(setup: BrokerSetup, folder: Path, arguments: list[object], count: int) -> list[list[str]]:
    """Let `count` processes call at once; return the outputs of each."""
    with ExitStack() as stack:
        children = [stack.enter_context(start_broker_child(folder, setup, *arguments)) for _ in range(count)]
        return [process.read_to_end()[1:] for process in children]


def test_nonce_refusals_are_counted_across_processes(tmp_path: Path) -> None:
    """With an external sender on the key four processes get three refusals together, and the breaker opens without a
    nonce jump."""
    with open_broker_setup() as setup:
        setup.broker.private_call("BalanceEx")
        setup.simulator.faults.fire_next("foreign_nonce", "BalanceEx", times=100)
        outputs = outputs_of_children(setup, tmp_path, ["reads", 5, 1], 4)
        assert {outcome for outcomes in outputs for outcome in outcomes} == {"InvalidNonceError", "CircuitOpenError"}
        assert setup.refused_nonce_count() == 3
        assert max(int(request.nonce) for request in setup.requests()) <= wall_us()


def test_one_process_probes_for_all_others(tmp_path: Path) -> None:
    """When the breaker's time is over, four processes that call at once send one probe, and then all their calls."""
    with open_broker_setup(SimulatorOptions(latency_seconds=(0.005, 0.02))) as setup:
        open_expired_breaker(setup)
        assert outputs_of_children(setup, tmp_path, ["reads", 3, 2], 4) == [["ok"] * 6] * 4
        assert setup.request_methods() == ["GetApiKeyInfo"] + ["BalanceEx"] * 24


def test_refused_probe_blocks_all_further_requests(tmp_path: Path) -> None:
    """When the probe is refused, none of four processes that call at once sends anything else."""
    with open_broker_setup(SimulatorOptions(latency_seconds=(0.005, 0.02))) as setup:
        open_expired_breaker(setup)
        setup.simulator.faults.fire_next("spurious_nonce", "GetApiKeyInfo")
        assert outputs_of_children(setup, tmp_path, ["reads", 3, 2], 4) == [["CircuitOpenError"] * 6] * 4
        assert setup.request_methods() == ["GetApiKeyInfo"]


def test_next_process_probes_when_the_prober_is_killed(tmp_path: Path) -> None:
    """When the probing process is killed, the next one probes, and nothing else is sent before the response."""
    with open_broker_setup(SimulatorOptions(slow_seconds=30.0)) as setup:
        open_expired_breaker(setup)
        setup.simulator.faults.fire_next("slow", "GetApiKeyInfo")
        with start_broker_child(tmp_path, setup, "one") as prober:
            wait_for(lambda: setup.request_methods() == ["GetApiKeyInfo"])
            prober.kill()
        assert outputs_of_children(setup, tmp_path, ["one"], 1) == [["ok"]]
        assert setup.request_methods() == ["GetApiKeyInfo", "GetApiKeyInfo", "BalanceEx"]


# The matching engine's counters


def test_matching_engine_limit_delays_only_its_pair() -> None:
    """After `EOrder:Rate limit exceeded` the next order of the pair waits 17 s at one point a second, ETH/USD does not
    wait."""
    with open_broker_setup(tier=STARTER) as setup:
        setup.simulator.faults.raise_next("AddOrder", "EOrder:Rate limit exceeded")
        with pytest.raises(OrderRefusedError):
            setup.broker.private_call("AddOrder", ORDER)
        begin = setup.clock.now()
        setup.broker.private_call("AddOrder", ORDER | {"pair": "ETHUSD", "volume": "0.01", "price": "1000"})
        assert setup.clock.now() == begin
        setup.broker.private_call("AddOrder", ORDER)
        assert setup.clock.now() - begin == pytest.approx(17.0)


def test_cancels_of_new_orders_wait_for_the_matching_engine_counter() -> None:
    """Twelve orders that are placed and canceled at once are never refused: the cancels wait for the counter."""
    with open_broker_setup(SimulatorOptions(tier="starter"), tier=STARTER) as setup:
        txids = [setup.broker.private_call("AddOrder", ORDER)["txid"][0] for _ in range(12)]
        begin = setup.clock.now()
        assert all(setup.broker.cancel_order(txid, "BTC/USD") for txid in txids)
        assert setup.clock.now() > begin

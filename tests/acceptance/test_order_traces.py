"""The bad traces of tests/model over HTTP: each duplicates or loses an order of its faulty client, and none of the
broker."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from bot import broker_manager
from bot.base.clock import MarketClock, ReplayClock, nonce_clock
from bot.base.errors import KeyRuleError, OrderOutcomeUnknownError
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import PRO
from bot.orders.order_state import PLACED_STATES as ORDER_PLACED
from bot.orders.order_state import OrderState
from bot.simulator.errors import Refusal
from bot.simulator.keys import ApiKey
from bot.simulator.options import SimulatorOptions
from bot.simulator.orders import Params
from bot.simulator.server import Simulator
from tests.acceptance import order_peers
from tests.acceptance.broker_tools import YEARS_SECONDS, advance_time
from tests.acceptance.order_peers import NOT_PLACED, PLACED, SENT_SECONDS, SIGNAL, VOLUME, FaultyProcedure, NaiveClient
from tests.model.mutants import MUTANTS
from tests.model.protocol import Violation
from tests.simulator_parts import START, ScriptedPrices

pytestmark = pytest.mark.usefixtures("nonce_file")

BOT_ID = "trace"
SECOND_ATTEMPT = "trace0000000000002"
# With this seed both queries lag behind the order with that id by more than 2.9 of at most 3 s.
LATE_SEED = 910
RESTING_PRICE, FILLING_PRICE = Decimal(40_000), Decimal(60_000)


@dataclass(frozen=True)
class ExchangeSetup:
    """A local Kraken with a fault, in market seconds; at `dip_after_seconds` the price fills a resting order.

    During `blind_seconds` after the order was sent the key sees no order; `tells_key_info`: GetApiKeyInfo says so.
    `expected_verdict` is the true outcome of the order of a client that follows the rules.
    """

    fault: str
    price: Decimal = RESTING_PRICE
    dip_after_seconds: float = 1000.0
    delay_seconds: float = 2.0
    queue_seconds: float = 2.0
    has_query_lag: bool = False
    enforce_deadline: bool = True
    deadline_checked_at: str = "engine"
    clock_offset_seconds: float = 0.0
    nonce_window: int = 0
    blind_seconds: tuple[float, float] = (0.0, 0.0)
    tells_key_info: bool = True
    expected_verdict: str = PLACED

    @contextmanager
    def open(self) -> Iterator[Simulator]:
        """Open the simulator, with a clock that moves only when a thread waits on it."""
        options = SimulatorOptions(
            balances={"ZUSD": "100000"},
            seed=LATE_SEED,
            delay_seconds=self.delay_seconds,
            queue_seconds=self.queue_seconds,
            open_lag_seconds=3.0 if self.has_query_lag else 0.0,
            closed_lag_seconds=3.0 if self.has_query_lag else 0.0,
            enforce_deadline=self.enforce_deadline,
            deadline_checked_at=self.deadline_checked_at,
            clock_offset_seconds=self.clock_offset_seconds,
            nonce_window=self.nonce_window,
            allow_nonce_repeats=bool(self.nonce_window),
        )
        dip = 100 + self.dip_after_seconds
        prices = ScriptedPrices((0, "50000"), (dip - 0.1, "50000"), (dip, "39000"), (dip + 0.1, "50000"))
        clock = ReplayClock(START, START + YEARS_SECONDS)
        with Simulator(options, clock, prices) as simulator:
            if self.blind_seconds[1]:
                self._make_key_blind(simulator)
            yield simulator

    def _make_key_blind(self, simulator: Simulator) -> None:
        methods = simulator.api.private_endpoints.methods
        read_key_info = methods["GetApiKeyInfo"]
        begin, end = (SENT_SECONDS + seconds for seconds in self.blind_seconds)

        def is_blind() -> bool:
            return begin <= simulator.clock.now() < end

        def answer_key_info(params: Params, key: ApiKey) -> dict[str, Any]:
            if not self.tells_key_info:
                raise Refusal("EGeneral:Unknown method")
            info = read_key_info(params, key)
            changes = [
                seconds for seconds in (float(info["modifiedTime"]), begin, end) if seconds <= simulator.clock.now()
            ]
            return info | {"queryTo": "1700000000" if is_blind() else "0", "modifiedTime": str(int(max(changes)))}

        def answer_list(method: str, empty: dict[str, Any]) -> Callable[[Params, ApiKey], dict[str, Any]]:
            read_list = methods[method]
            return lambda params, key: empty if is_blind() else read_list(params, key)

        methods["GetApiKeyInfo"] = answer_key_info
        methods["OpenOrders"] = answer_list("OpenOrders", {"open": {}})
        methods["ClosedOrders"] = answer_list("ClosedOrders", {"closed": {}, "count": 0})


# By their names in tests/model/mutants.py: the faulty client, its violation, and the exchange that causes it.
TRACES: dict[str, tuple[FaultyProcedure, Violation, ExchangeSetup]] = {
    "again with a fresh nonce after Invalid nonce": (
        order_peers.resend_after_invalid_nonce,
        Violation.DOUBLED,
        ExchangeSetup("duplicated_second", FILLING_PRICE),
    ),
    "Invalid nonce read as placed": (
        order_peers.treat_invalid_nonce_as_placed,
        Violation.IMAGINED,
        ExchangeSetup("foreign_nonce", expected_verdict=NOT_PLACED),
    ),
    "Invalid nonce read as not placed": (
        order_peers.treat_refusal_as_not_placed,
        Violation.LOST,
        ExchangeSetup("duplicated_second"),
    ),
    "a gateway's refusal read as not placed": (
        order_peers.treat_refusal_as_not_placed,
        Violation.LOST,
        ExchangeSetup("gateway_limit_executed"),
    ),
    "queries at once": (order_peers.query_at_once, Violation.LOST, ExchangeSetup("queued")),
    "queries before the deadline": (
        order_peers.query_before_deadline,
        Violation.LOST,
        ExchangeSetup("queued", queue_seconds=7.9),
    ),
    "queries at the deadline": (
        order_peers.query_without_margin,
        Violation.LOST,
        ExchangeSetup("queued", queue_seconds=7.9, has_query_lag=True),
    ),
    "closed before open": (
        order_peers.query_closed_before_open,
        Violation.LOST,
        ExchangeSetup("no_answer", dip_after_seconds=14, has_query_lag=True),
    ),
    "no gap": (
        order_peers.query_without_gap,
        Violation.LOST,
        ExchangeSetup("no_answer", dip_after_seconds=12.9, has_query_lag=True),
    ),
    "open orders only": (order_peers.query_open_orders_only, Violation.LOST, ExchangeSetup("no_answer", FILLING_PRICE)),
    "no fencing read, deadline not enforced": (
        order_peers.query_without_fence,
        Violation.LOST,
        ExchangeSetup(
            "delayed", delay_seconds=12.9, enforce_deadline=False, has_query_lag=True, expected_verdict=NOT_PLACED
        ),
    ),
    "no fencing read, clock behind": (
        order_peers.query_without_fence,
        Violation.LOST,
        ExchangeSetup(
            "delayed", delay_seconds=10.9, clock_offset_seconds=-3, has_query_lag=True, expected_verdict=NOT_PLACED
        ),
    ),
    "by time alone": (order_peers.trust_elapsed_time, Violation.LOST, ExchangeSetup("no_answer")),
    "an intent forgotten at a crash": (
        order_peers.forget_after_crash,
        Violation.DOUBLED,
        ExchangeSetup("no_answer", FILLING_PRICE),
    ),
    "a new disk, no patience": (
        order_peers.query_early_on_new_disk,
        Violation.DOUBLED,
        ExchangeSetup("queued", FILLING_PRICE, queue_seconds=7.9, has_query_lag=True),
    ),
    "no sight": (
        order_peers.query_without_fence,
        Violation.LOST,
        ExchangeSetup("no_answer", has_query_lag=True, blind_seconds=(5, 17)),
    ),
    "no sight, no GetApiKeyInfo": (
        order_peers.query_without_fence,
        Violation.LOST,
        ExchangeSetup("no_answer", has_query_lag=True, blind_seconds=(5, 17), tells_key_info=False),
    ),
    "sight before the queries only": (
        order_peers.check_key_before_queries,
        Violation.LOST,
        ExchangeSetup("no_answer", has_query_lag=True, blind_seconds=(12.5, 17)),
    ),
    "sight after the queries, of a key that was changed": (
        order_peers.check_key_after_queries,
        Violation.LOST,
        ExchangeSetup("no_answer", has_query_lag=True, blind_seconds=(5, 17)),
    ),
    "a gateway's refusal as a reason for the next attempt": (
        order_peers.send_next_attempt_after_refusal,
        Violation.DOUBLED,
        ExchangeSetup("gateway_limit_executed"),
    ),
}
# These have their own tests below.
TESTED_SEPARATELY = {"a nonce window", "a new disk, the next attempt's id only", "again after every refusal"}
# Without GetApiKeyInfo a broker on an empty disk has no evidence, and sends nothing.
EXCHANGES = {name: exchange for name, (_, _, exchange) in TRACES.items() if exchange.tells_key_info} | {
    "deadline checked at the gateway only": ExchangeSetup("queued", deadline_checked_at="gateway", has_query_lag=True),
}
NONCE_WINDOW_EXCHANGE = ExchangeSetup("duplicated_first", FILLING_PRICE, nonce_window=1000)


def count_final_orders(simulator: Simulator) -> int:
    """Wait a minute; return how many orders were ever accepted."""
    advance_time(simulator.clock, 60)
    return sum(map(len, simulator.orders_by_client_id().values()))


def classify_outcome(verdict: str, orders: int) -> Violation | None:
    """Compare the verdict of a client with the orders at the exchange."""
    if orders > 1:
        return Violation.DOUBLED
    if verdict == PLACED:
        return None if orders else Violation.IMAGINED
    return Violation.LOST if orders else None


def test_each_model_mutant_has_a_trace() -> None:
    """Each mutant of the model that changes a rule, not just a number, is tested here."""
    assert TRACES.keys() | TESTED_SEPARATELY == {name for name in MUTANTS if not name.endswith(" s")}


@pytest.mark.parametrize(("faulty_procedure", "violation", "exchange"), TRACES.values(), ids=TRACES)
def test_faulty_client_duplicates_or_loses_its_order(
    faulty_procedure: FaultyProcedure, violation: Violation, exchange: ExchangeSetup
) -> None:
    """The client without the rule ends with two orders, or with a wrong verdict."""
    with exchange.open() as simulator, closing(NaiveClient(simulator)) as client:
        client.wait_until(0)
        simulator.faults.fire_next(exchange.fault, "AddOrder")
        verdict = faulty_procedure(client, exchange.price)
        assert classify_outcome(verdict, count_final_orders(simulator)) is violation


@contextmanager
def open_broker(simulator: Simulator) -> Iterator[KrakenBroker]:
    """Open a broker as at a start, with the journal beside the nonce file."""
    broker = KrakenBroker(
        simulator.key, simulator.secret, api_url=simulator.url, tier=PRO, market_clock=simulator.clock, bot_id=BOT_ID
    )
    try:
        broker.connect()
        yield broker
    finally:
        broker.close()
        nonce_clock.follow_wall()


def reconcile(broker: KrakenBroker, clock: MarketClock) -> None:
    """Make every query when it is due, until history is complete and no order is unknown."""
    while not broker.history_is_complete() or broker.unknown_orders():
        broker.reconcile_unknown_orders()
        advance_time(clock, broker.next_query_seconds() or 0.0)


def place_order(broker: KrakenBroker, simulator: Simulator, exchange: ExchangeSetup, cl_ord_id: str = SIGNAL) -> None:
    """Place the order whose response does not arrive or is invalid."""
    reconcile(broker, simulator.clock)
    simulator.clock.wait_until(SENT_SECONDS, threading.Event())
    simulator.faults.fire_next(exchange.fault, "AddOrder")
    with pytest.raises(OrderOutcomeUnknownError):
        broker.place_limit_order("BTC/USD", "buy", VOLUME, exchange.price, cl_ord_id=cl_ord_id)
    assert [order.cl_ord_id for order in broker.unknown_orders()] == [cl_ord_id]


def journal_verdict(broker: KrakenBroker, cl_ord_id: str = SIGNAL) -> str:
    """Return the verdict of the journal on an order."""
    intent = broker.journal.get_intent(cl_ord_id)
    if intent is not None and intent.state is OrderState.NOT_PLACED:
        return NOT_PLACED
    return PLACED if intent is not None and intent.state in ORDER_PLACED else "unknown"


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_broker_reaches_correct_verdict_on_each_trace(exchange: ExchangeSetup) -> None:
    """Under the same fault the broker reaches the true verdict on its one order."""
    with exchange.open() as simulator:
        with open_broker(simulator) as broker:
            place_order(broker, simulator, exchange)
            reconcile(broker, simulator.clock)
            verdict = journal_verdict(broker)
        assert (verdict, count_final_orders(simulator)) == (
            exchange.expected_verdict,
            int(exchange.expected_verdict == PLACED),
        )


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_restarted_broker_reaches_correct_verdict(exchange: ExchangeSetup) -> None:
    """If the broker ends before it reconciles, the next one reads the journal and reaches the true verdict."""
    with exchange.open() as simulator:
        with open_broker(simulator) as broker:
            place_order(broker, simulator, exchange)
        with open_broker(simulator) as broker:
            reconcile(broker, simulator.clock)
            verdict = journal_verdict(broker)
        assert (verdict, count_final_orders(simulator)) == (
            exchange.expected_verdict,
            int(exchange.expected_verdict == PLACED),
        )


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_same_signal_on_new_disk_places_one_order(
    exchange: ExchangeSetup, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the broker restarts on an empty disk, placing the same signal again leaves exactly one order."""
    with exchange.open() as simulator:
        with open_broker(simulator) as broker:
            place_order(broker, simulator, exchange)
        monkeypatch.setattr(broker_manager, "NONCE_FILE", _new_disk(tmp_path))
        with open_broker(simulator) as broker:
            placed = broker.place_limit_order("BTC/USD", "buy", VOLUME, exchange.price, cl_ord_id=SIGNAL)
            (txid,) = simulator.orders_by_client_id()[SIGNAL]
            assert (placed.txid, journal_verdict(broker)) == (txid, PLACED)
        assert count_final_orders(simulator) == 1


def _new_disk(tmp_path: Path) -> str:
    folder = tmp_path / "new disk"
    folder.mkdir()
    return str(folder / "kraken_nonce.txt")


def test_nonce_window_duplicates_an_order() -> None:
    """On a key with a nonce window a request that arrives twice is two orders."""
    with NONCE_WINDOW_EXCHANGE.open() as simulator, closing(NaiveClient(simulator)) as client:
        simulator.faults.fire_next(NONCE_WINDOW_EXCHANGE.fault, "AddOrder")
        assert client.send(NONCE_WINDOW_EXCHANGE.price) == ""
        assert count_final_orders(simulator) == 2


def test_broker_refuses_key_with_nonce_window() -> None:
    """The broker refuses a key with a nonce window when it connects."""
    with NONCE_WINDOW_EXCHANGE.open() as simulator, pytest.raises(KeyRuleError, match="window"), open_broker(simulator):
        pass


def test_querying_only_next_attempt_on_new_disk_duplicates_order() -> None:
    """A client that queries only the first attempt's id does not find the second attempt, and buys twice."""
    exchange = ExchangeSetup("no_answer")
    with exchange.open() as simulator, closing(NaiveClient(simulator)) as client:
        client.wait_until(0)
        simulator.faults.fire_next(exchange.fault, "AddOrder")
        client.send(exchange.price, SECOND_ATTEMPT)
        assert client.query_twice(13, 16, SIGNAL) == NOT_PLACED
        client.send(exchange.price, SIGNAL)
        assert count_final_orders(simulator) == 2


def test_a_client_that_sends_again_after_every_refusal_sends_one_signal_many_times() -> None:
    """Where Kraken refuses the price of a signal, a client that sends its next attempt each time never stops."""
    with ExchangeSetup("").open() as simulator, closing(NaiveClient(simulator)) as client:
        errors = [client.send(Decimal("40000.01"), f"trace{attempt:013}") for attempt in range(20)]
        assert all(error.startswith("EOrder:Invalid price") for error in errors)


def test_new_disk_finds_all_attempts_before_history_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an empty disk the history is complete only once the journal has the late second attempt."""
    exchange = ExchangeSetup("queued", FILLING_PRICE, queue_seconds=7.9, has_query_lag=True)
    with exchange.open() as simulator:
        with open_broker(simulator) as broker:
            place_order(broker, simulator, exchange, SECOND_ATTEMPT)
        monkeypatch.setattr(broker_manager, "NONCE_FILE", _new_disk(tmp_path))
        with open_broker(simulator) as broker:
            assert not broker.history_is_complete()
            reconcile(broker, simulator.clock)
            assert journal_verdict(broker, SECOND_ATTEMPT) == PLACED

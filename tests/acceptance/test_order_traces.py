"""The bad traces of tests/model over HTTP: each doubles or loses an order of the client it is for, and none of ours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import pytest

from bot import broker_manager
from bot.base.clock import MarketClock, ReplayClock, nonce_clock
from bot.base.errors import KeyRuleError, OrderUnknownError
from bot.broker_manager import KrakenBroker
from bot.kraken.rate_counters import PRO
from bot.orders.order_state import PLACED as ORDER_PLACED
from bot.orders.order_state import OrderState
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.acceptance import order_peers as peers
from tests.acceptance.broker_tools import YEARS_SECONDS, pass_time
from tests.acceptance.order_peers import NOT_PLACED, PLACED, SENT, SIGNAL, VOLUME, Peer, WrongClient
from tests.model.mutants import MUTANTS
from tests.model.protocol import Bad
from tests.simulator_parts import START, DrawnPrices

pytestmark = pytest.mark.usefixtures("nonce_file")

BOT_ID = "trace"
SECOND_ATTEMPT = "trace0000000000002"
# With this seed both look-ups lag behind the order of that name by more than 2.9 of at most 3 s.
LATE_SEED = 910
RESTS, FILLS = Decimal(40_000), Decimal(60_000)


@dataclass(frozen=True)
class Exchange:
    """A local Kraken with something wrong, in market seconds; `dips` is when the price fills an order that rests.

    `ends` is what is true in the end of the order of a client that keeps the rules.
    """

    fault: str
    price: Decimal = RESTS
    dips: float = 1000.0
    delay: float = 2.0
    queue: float = 2.0
    late_rows: bool = False
    enforce_deadline: bool = True
    deadline_at: str = "engine"
    clock_offset: float = 0.0
    nonce_window: int = 0
    ends: str = PLACED

    @contextmanager
    def open(self) -> Iterator[Simulator]:
        """Serve, with a clock that only moves when somebody waits on it."""
        options = SimulatorOptions(
            balances={"ZUSD": "100000"},
            seed=LATE_SEED,
            delay_seconds=self.delay,
            queue_seconds=self.queue,
            open_lag_seconds=3.0 if self.late_rows else 0.0,
            closed_lag_seconds=3.0 if self.late_rows else 0.0,
            enforce_deadline=self.enforce_deadline,
            deadline_at=self.deadline_at,
            clock_offset_seconds=self.clock_offset,
            nonce_window=self.nonce_window,
            nonce_window_repeats=bool(self.nonce_window),
        )
        dip = 100 + self.dips
        prices = DrawnPrices((0, "50000"), (dip - 0.1, "50000"), (dip, "39000"), (dip + 0.1, "50000"))
        clock = ReplayClock(START, START + YEARS_SECONDS)
        with Simulator(options, clock, prices) as simulator:
            yield simulator


# By their names in tests/model/mutants.py: the wrong client, what it comes to, and what has to happen for it.
TRACES: dict[str, tuple[WrongClient, Bad, Exchange]] = {
    "again with a fresh nonce after Invalid nonce": (
        peers.again_after_invalid_nonce,
        Bad.DOUBLED,
        Exchange("duplicated_second", FILLS),
    ),
    "Invalid nonce read as placed": (
        peers.invalid_nonce_is_placed,
        Bad.IMAGINED,
        Exchange("foreign_nonce", ends=NOT_PLACED),
    ),
    "Invalid nonce read as not placed": (peers.a_refusal_is_not_placed, Bad.LOST, Exchange("duplicated_second")),
    "a gateway's refusal read as not placed": (
        peers.a_refusal_is_not_placed,
        Bad.LOST,
        Exchange("gateway_limit_executed"),
    ),
    "look-ups at once": (peers.looks_at_once, Bad.LOST, Exchange("queued")),
    "look-ups before the deadline": (peers.looks_before_the_deadline, Bad.LOST, Exchange("queued", queue=7.9)),
    "look-ups at the deadline": (peers.looks_at_the_deadline, Bad.LOST, Exchange("queued", queue=7.9, late_rows=True)),
    "closed before open": (peers.closed_before_open, Bad.LOST, Exchange("no_answer", dips=14, late_rows=True)),
    "no gap": (peers.no_gap, Bad.LOST, Exchange("no_answer", dips=12.9, late_rows=True)),
    "open orders only": (peers.looks_at_open_orders_only, Bad.LOST, Exchange("no_answer", FILLS)),
    "no fence, deadline not enforced": (
        peers.no_fence,
        Bad.LOST,
        Exchange("delayed", delay=12.9, enforce_deadline=False, late_rows=True, ends=NOT_PLACED),
    ),
    "no fence, clock behind": (
        peers.no_fence,
        Bad.LOST,
        Exchange("delayed", delay=10.9, clock_offset=-3, late_rows=True, ends=NOT_PLACED),
    ),
    "by time alone": (peers.time_alone, Bad.LOST, Exchange("no_answer")),
    "an intent forgotten at a crash": (peers.forgets_at_a_crash, Bad.DOUBLED, Exchange("no_answer", FILLS)),
    "a new disk, no patience": (
        peers.no_patience_on_a_new_disk,
        Bad.DOUBLED,
        Exchange("queued", FILLS, queue=7.9, late_rows=True),
    ),
}
# These have tests of their own below.
ALONE = {"a nonce window", "a new disk, the next attempt's id only"}
EXCHANGES = {name: exchange for name, (_, _, exchange) in TRACES.items()} | {
    "deadline checked at the gateway only": Exchange("queued", deadline_at="gateway", late_rows=True),
}
WINDOW = Exchange("duplicated_first", FILLS, nonce_window=1000)


def orders_in_the_end(simulator: Simulator) -> int:
    """Return how many orders were ever accepted, a minute later."""
    pass_time(simulator.clock, 60)
    return sum(map(len, simulator.orders_by_client_id().values()))


def what_is_wrong(verdict: str, orders: int) -> Bad | None:
    """Compare what a client believes with what is there."""
    if orders > 1:
        return Bad.DOUBLED
    if verdict == PLACED:
        return None if orders else Bad.IMAGINED
    return Bad.LOST if orders else None


def test_every_mutant_of_the_model_has_its_trace_here() -> None:
    """Each mutant of the model that is another kind of client, and not a smaller number, is tested here."""
    assert TRACES.keys() | ALONE == {name for name in MUTANTS if not name.endswith(" s")}


@pytest.mark.parametrize(("wrong", "bad", "exchange"), TRACES.values(), ids=TRACES)
def test_the_wrong_client_doubles_or_loses_its_order(wrong: WrongClient, bad: Bad, exchange: Exchange) -> None:
    """The client without the rule ends with two orders, or believes something else than what is there."""
    with exchange.open() as simulator, closing(Peer(simulator)) as peer:
        peer.wait_until(0)
        simulator.faults.fire_next(exchange.fault, "AddOrder")
        verdict = wrong(peer, exchange.price)
        assert what_is_wrong(verdict, orders_in_the_end(simulator)) is bad


@contextmanager
def broker_on(simulator: Simulator) -> Iterator[KrakenBroker]:
    """Open a broker: what a start has, with the journal that lies beside the nonce file."""
    broker = KrakenBroker(
        simulator.key, simulator.secret, api_url=simulator.url, tier=PRO, market=simulator.clock, bot_id=BOT_ID
    )
    try:
        broker.connect()
        yield broker
    finally:
        broker.close()
        nonce_clock.follow_wall()


def settle(broker: KrakenBroker, clock: MarketClock) -> None:
    """Make every look-up when it is due, until there is nothing left to ask."""
    while not broker.knows_the_past() or broker.unknown_orders():
        broker.settle_unknown()
        pass_time(clock, broker.next_look_up_seconds() or 0.0)


def send(broker: KrakenBroker, simulator: Simulator, exchange: Exchange, name: str = SIGNAL) -> None:
    """Place the order whose answer does not come or is none."""
    settle(broker, simulator.clock)
    simulator.clock.wait_until(SENT, threading.Event())
    simulator.faults.fire_next(exchange.fault, "AddOrder")
    with pytest.raises(OrderUnknownError):
        broker.place_limit_order("BTC/USD", "buy", VOLUME, exchange.price, cl_ord_id=name)
    assert [order.cl_ord_id for order in broker.unknown_orders()] == [name]


def verdict_of(broker: KrakenBroker, name: str = SIGNAL) -> str:
    """Return what the journal says of an order."""
    intent = broker.journal.intent(name)
    if intent is not None and intent.state is OrderState.NOT_PLACED:
        return NOT_PLACED
    return PLACED if intent is not None and intent.state in ORDER_PLACED else "unknown"


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_the_broker_ends_with_the_right_verdict_where_they_do_not(exchange: Exchange) -> None:
    """The same happens to the broker, and it says of its one order what is true."""
    with exchange.open() as simulator:
        with broker_on(simulator) as broker:
            send(broker, simulator, exchange)
            settle(broker, simulator.clock)
            verdict = verdict_of(broker)
        assert (verdict, orders_in_the_end(simulator)) == (exchange.ends, int(exchange.ends == PLACED))


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_a_broker_that_dies_ends_with_the_right_verdict(exchange: Exchange) -> None:
    """The broker dies before it settles anything; the next one reads the journal and says what is true."""
    with exchange.open() as simulator:
        with broker_on(simulator) as broker:
            send(broker, simulator, exchange)
        with broker_on(simulator) as broker:
            settle(broker, simulator.clock)
            verdict = verdict_of(broker)
        assert (verdict, orders_in_the_end(simulator)) == (exchange.ends, int(exchange.ends == PLACED))


@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_on_a_new_disk_the_same_signal_is_one_order(
    exchange: Exchange, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker dies and starts on an empty disk; placing the same signal again leaves exactly one order."""
    with exchange.open() as simulator:
        with broker_on(simulator) as broker:
            send(broker, simulator, exchange)
        monkeypatch.setattr(broker_manager, "NONCE_FILE", _new_disk(tmp_path))
        with broker_on(simulator) as broker:
            placed = broker.place_limit_order("BTC/USD", "buy", VOLUME, exchange.price, cl_ord_id=SIGNAL)
            (txid,) = simulator.orders_by_client_id()[SIGNAL]
            assert (placed.txid, verdict_of(broker)) == (txid, PLACED)
        assert orders_in_the_end(simulator) == 1


def _new_disk(tmp_path: Path) -> str:
    folder = tmp_path / "new disk"
    folder.mkdir()
    return str(folder / "kraken_nonce.txt")


def test_a_nonce_window_doubles_an_order() -> None:
    """On a key with a nonce window, a packet that arrives twice is two orders."""
    with WINDOW.open() as simulator, closing(Peer(simulator)) as peer:
        simulator.faults.fire_next(WINDOW.fault, "AddOrder")
        assert peer.send(WINDOW.price) == ""
        assert orders_in_the_end(simulator) == 2


def test_the_broker_does_not_start_on_a_nonce_window() -> None:
    """The broker refuses a key with a nonce window when it connects."""
    with WINDOW.open() as simulator, pytest.raises(KeyRuleError, match="window"), broker_on(simulator):
        pass


def test_a_new_disk_that_looks_for_the_next_attempt_only_doubles_its_order() -> None:
    """Who forgot that there was a second attempt does not find it under the first one's id, and buys twice."""
    exchange = Exchange("no_answer")
    with exchange.open() as simulator, closing(Peer(simulator)) as peer:
        peer.wait_until(0)
        simulator.faults.fire_next(exchange.fault, "AddOrder")
        peer.send(exchange.price, SECOND_ATTEMPT)
        assert peer.looks(13, 16, SIGNAL) == NOT_PLACED
        peer.send(exchange.price, SIGNAL)
        assert orders_in_the_end(simulator) == 2


def test_a_new_disk_learns_of_every_attempt_before_the_past_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an empty disk the past is known only when the journal has the second attempt, however late it shows."""
    exchange = Exchange("queued", FILLS, queue=7.9, late_rows=True)
    with exchange.open() as simulator:
        with broker_on(simulator) as broker:
            send(broker, simulator, exchange, SECOND_ATTEMPT)
        monkeypatch.setattr(broker_manager, "NONCE_FILE", _new_disk(tmp_path))
        with broker_on(simulator) as broker:
            assert not broker.knows_the_past()
            settle(broker, simulator.clock)
            assert verdict_of(broker, SECOND_ATTEMPT) == PLACED

"""The outcome of a sent order: accepted, refused or unknown, and how an unknown one is reconciled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bot import broker_manager
from bot.base.errors import (
    BotError,
    KeyRuleError,
    LeaseLostError,
    NoAnswerError,
    OrderBlockedError,
    OrderOutcomeUnknownError,
    OrderRefusedError,
    RequestLockExpiredError,
    StoreUnavailableError,
)
from bot.base.event_catalog import Event
from bot.kraken import client
from bot.nonce.leader_election import LeaderElection
from bot.nonce.local_lock import Priority
from bot.nonce.shared_store import SharedStore
from bot.simulator.api import LoggedRequest
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import (
    ORDER,
    BrokerSetup,
    advance_time,
    count_waiting_calls,
    open_broker_setup,
    wait_for,
)
from tests.event_log import capture_events

pytestmark = pytest.mark.usefixtures("nonce_file")

CL_ORD_ID = "bot01abcdefghijklm"
RICH_OPTIONS = SimulatorOptions(balances={"ZUSD": "1000000", "XXBT": "100"})


@pytest.mark.parametrize("fault", ["answer_502", "reset", "half_body", "html"])
def test_placed_but_unanswered_order_is_found(fault: str) -> None:
    """An order that was executed but not answered is unknown, blocks its pair only, is not repeated, and is found
    placed."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        setup.simulator.faults.fire_next(fault, "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError) as caught:
            setup.broker.private_call("AddOrder", ORDER)
        with pytest.raises(OrderBlockedError):
            setup.broker.private_call("AddOrder", ORDER)
        setup.broker.private_call("AddOrder", ORDER | {"pair": "ETHUSD", "price": "10", "volume": "0.1"})
        (resolution,) = setup.broker.reconcile_unknown_orders()
        assert resolution.order is not None
        assert resolution.order.cl_ord_id == caught.value.cl_ord_id
        assert (setup.broker.unknown_orders(), setup.request_methods().count("AddOrder")) == ([], 2)


def reconcile_until_resolved(setup: BrokerSetup, seconds_max: int = 60) -> tuple[list[Any], list[LoggedRequest], float]:
    """Reconcile every market second; return the resolutions, the requests, and the time at which the order was sent."""
    start, before = setup.clock.now(), len(setup.requests())
    resolutions: list[Any] = []
    while not resolutions and setup.clock.now() < start + seconds_max:
        resolutions = setup.broker.reconcile_unknown_orders()
        advance_time(setup.clock, 1)
    return resolutions, setup.requests()[before:], start


def test_order_that_never_arrived_is_proved_absent_step_by_step() -> None:
    """Absence is proved by a fencing read, open orders 5 s after it and the deadline, closed orders 3 s later, and what
    the key may see."""
    with open_broker_setup() as setup:
        setup.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.private_call("AddOrder", ORDER)
        resolutions, requests, sent_seconds = reconcile_until_resolved(setup)
        fencing_read, early_closed_query, open_query, closed_query, _ = requests
        assert [request.method for request in requests] == [
            "OpenOrders",
            "ClosedOrders",
            "OpenOrders",
            "ClosedOrders",
            "GetApiKeyInfo",
        ]
        assert fencing_read.is_nonce_accepted
        assert open_query.time >= max(sent_seconds + 8, fencing_read.time, early_closed_query.time) + 5
        assert closed_query.time >= open_query.time + 3
        assert [resolution.order for resolution in resolutions] == [None]
        setup.broker.private_call("AddOrder", ORDER)


def test_margin_starts_at_a_late_fencing_read() -> None:
    """If the fencing read is only accepted after the deadline, open orders are queried 5 s after the fencing read."""
    with open_broker_setup() as setup:
        setup.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.private_call("AddOrder", ORDER)
        advance_time(setup.clock, 100)
        resolutions, requests, _ = reconcile_until_resolved(setup)
        assert requests[2].time >= requests[0].time + 5
        assert [resolution.order for resolution in resolutions] == [None]


def test_failed_query_restarts_the_proof() -> None:
    """If ClosedOrders is not answered, open orders are queried again before the order counts as absent."""
    with open_broker_setup() as setup:
        setup.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.private_call("AddOrder", ORDER)
        setup.broker.reconcile_unknown_orders()
        advance_time(setup.clock, 14)
        setup.broker.reconcile_unknown_orders()
        advance_time(setup.clock, 4)
        setup.simulator.faults.fire_next("answer_502", "ClosedOrders")
        before = len(setup.request_methods())
        with pytest.raises(NoAnswerError):
            setup.broker.reconcile_unknown_orders()
        resolutions, requests, _ = reconcile_until_resolved(setup)
        assert setup.request_methods()[before:] == [
            "ClosedOrders",
            "OpenOrders",
            "ClosedOrders",
            "GetApiKeyInfo",
        ]
        assert requests[1].time >= requests[0].time + 3
        assert [resolution.order for resolution in resolutions] == [None]


def give_key_a_query_window(setup: BrokerSetup) -> None:
    """Let the key see no order from now on, as one whose query window is over (ClosedOrders is empty then)."""
    methods = setup.simulator.api.private_endpoints.methods
    read_key_info = methods["GetApiKeyInfo"]
    methods["GetApiKeyInfo"] = lambda params, key: read_key_info(params, key) | {"queryTo": "1700000000"}
    methods["OpenOrders"] = lambda params, key: {"open": {}}
    methods["ClosedOrders"] = lambda params, key: {"closed": {}, "count": 0}


def test_an_executed_order_that_the_key_does_not_see_is_not_taken_for_not_placed() -> None:
    """An executed order that was answered 502 stays unknown, and blocks its pair, where the key has a query window."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        give_key_a_query_window(setup)
        setup.simulator.faults.fire_next("answer_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.place_market_order("BTC/USD", "buy", Decimal("0.001"), "base")
        resolutions, _, _ = reconcile_until_resolved(setup, seconds_max=600)
        assert (resolutions, setup.placed_order_count()) == ([], 1)
        with pytest.raises(OrderBlockedError):
            setup.broker.private_call("AddOrder", ORDER)


def test_connect_refuses_a_key_with_a_query_window() -> None:
    """connect() raises KeyRuleError for a key that sees its orders to a time only."""
    with open_broker_setup() as setup:
        give_key_a_query_window(setup)
        with pytest.raises(KeyRuleError, match="query window to 2023-11-14T22:13:20Z"):
            setup.broker.connect()


@pytest.mark.parametrize(("days", "events"), [(15, []), (14, [Event.KEY_EXPIRES]), (3, [Event.KEY_EXPIRES_SOON])])
def test_connect_tells_when_the_key_expires(days: int, events: list[Event]) -> None:
    """A key that is valid for fourteen days more is reported, and one that is valid for three days more is an alert."""
    with open_broker_setup() as setup:
        methods = setup.simulator.api.private_endpoints.methods
        read_key_info, until = methods["GetApiKeyInfo"], str(int(setup.clock.now()) + days * 86_400)
        methods["GetApiKeyInfo"] = lambda params, key: read_key_info(params, key) | {"validUntil": until}
        with capture_events() as event_log:
            setup.broker.connect()
        assert event_log.of(Event.KEY_EXPIRES, Event.KEY_EXPIRES_SOON).events == events
        assert len(event_log.of(Event.KEY_EXPIRES_SOON).alerts) == events.count(Event.KEY_EXPIRES_SOON)


def test_a_query_window_of_a_running_bot_is_reported_within_a_day() -> None:
    """A key that gets a query window while the bot runs is reported by the next reconciliation a day later."""
    with open_broker_setup() as setup, capture_events() as event_log:
        setup.broker.connect()
        give_key_a_query_window(setup)
        advance_time(setup.clock, 86_400)
        setup.broker.reconcile_unknown_orders()
        assert len(event_log.of(Event.KEY_FOUND_UNSUITABLE).alerts) == 1


def test_an_order_stays_unknown_while_kraken_does_not_answer() -> None:
    """While Kraken does not answer, however long, the order stays unknown and its pair blocked."""
    with open_broker_setup() as setup:
        setup.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.private_call("AddOrder", ORDER)
        setup.simulator.faults.set_rate("refuse_502", 1)
        for _ in range(100):
            with pytest.raises(NoAnswerError):
                setup.broker.reconcile_unknown_orders()
            advance_time(setup.clock, 60)
        assert len(setup.broker.unknown_orders()) == 1
        with pytest.raises(OrderBlockedError):
            setup.broker.private_call("AddOrder", ORDER)


def test_found_order_is_reported_even_if_the_next_query_fails() -> None:
    """Of two unknown orders, the one found in OpenOrders is returned as placed although ClosedOrders then fails."""
    with open_broker_setup(RICH_OPTIONS) as setup:
        setup.simulator.faults.fire_next("answer_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError) as caught:
            setup.broker.private_call("AddOrder", ORDER)
        setup.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.private_call("AddOrder", ORDER | {"pair": "ETHUSD", "price": "10", "volume": "0.1"})
        setup.simulator.faults.fire_next("answer_502", "ClosedOrders")
        with pytest.raises(NoAnswerError):
            setup.broker.reconcile_unknown_orders()
        resolutions = setup.broker.reconcile_unknown_orders()
        assert [resolution.unknown_order.cl_ord_id for resolution in resolutions if resolution.order] == [
            caught.value.cl_ord_id
        ]


def test_fencing_read_before_the_order_was_sent_does_not_count() -> None:
    """An order that waits for the lock is not unknown yet: no read before it is sent can count as its fencing read."""
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("AddOrder", ORDER)
        raised: list[BaseException] = []

        def place() -> None:
            try:
                broker.private_call("AddOrder", ORDER)
            except OrderOutcomeUnknownError as error:
                raised.append(error)

        setup.simulator.faults.fire_next("refuse_502", "AddOrder")
        placing = threading.Thread(target=place)
        with broker._request_lock.hold(Priority.READ):
            placing.start()
            wait_for(lambda: count_waiting_calls(broker))
            # An order that waits for the lock is not sent, so there is nothing to query.
            unknown_while_waiting = broker.unknown_orders()
            advance_time(setup.clock, 5)
        placing.join()
        (unknown,) = broker.unknown_orders()
        assert (unknown_while_waiting, len(raised)) == ([], 1)
        assert unknown.fence_seconds is None
        assert unknown.deadline_seconds == broker.now() + 8


def test_an_elapsed_deadline_leaves_the_order_unknown_until_it_is_proved_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An order whose deadline elapsed in flight is unknown, and then proved not placed."""
    with open_broker_setup() as setup:
        setup.broker.connect()
        monkeypatch.setattr(client, "ORDER_DEADLINE_SECONDS", -60.0)
        with pytest.raises(OrderOutcomeUnknownError, match="Deadline elapsed"):
            setup.broker.private_call("AddOrder", ORDER)
        resolutions, _, _ = reconcile_until_resolved(setup)
        assert ([resolution.order for resolution in resolutions], setup.placed_order_count()) == ([None], 0)


def test_an_interrupted_order_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while an order is in flight leaves it unknown, and it is found placed afterwards."""
    with open_broker_setup() as setup:
        broker = setup.broker
        broker.private_call("BalanceEx")
        send = broker.api._private.request

        def send_and_interrupt(*arguments: Any, **options: Any) -> Any:
            response = send(*arguments, **options)
            if b"ordertype" in arguments[3]:
                raise KeyboardInterrupt
            return response

        monkeypatch.setattr(broker.api._private, "request", send_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            broker.private_call("AddOrder", ORDER)
        assert len(broker.unknown_orders()) == 1
        (resolution,) = broker.reconcile_unknown_orders()
        assert resolution.order is not None


def expire_request_lock(store: SharedStore, _leadership: LeaderElection) -> None:
    """End the send window of the request lock."""
    store._held_lock.send_until_seconds = 0.0


def lose_lease(_store: SharedStore, leadership: LeaderElection) -> None:
    """Release the lease, so that another instance could lead."""
    leadership.release(is_reconciled=False)


def miss_lease_renewal(_store: SharedStore, leadership: LeaderElection) -> None:
    """End the lease before it could be renewed."""
    leadership._valid_until_seconds = 0.0


@pytest.mark.parametrize(
    ("expire", "error"),
    [
        (expire_request_lock, RequestLockExpiredError),
        (lose_lease, LeaseLostError),
        (miss_lease_renewal, StoreUnavailableError),
    ],
)
def test_order_delayed_past_its_lock_or_lease_is_not_sent(
    redis_url: str,
    expire: Callable[[SharedStore, LeaderElection], None],
    error: type[BotError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If the lock or the lease expires while the order is written to disk, the order is not sent and not unknown, and
    the same order is placed as soon as that is allowed."""
    monkeypatch.setattr(broker_manager, "NONCE_STORE", redis_url)
    with open_broker_setup() as setup:
        store, journal = setup.broker.shared_store, setup.broker.journal
        assert store is not None
        leadership = LeaderElection(store, 300.0)
        leadership.wait_for_leadership(threading.Event(), print)
        with monkeypatch.context() as slow_disk:
            mark_sent = journal.mark_sent

            def mark_sent_late(*arguments: Any, **options: Any) -> None:
                mark_sent(*arguments, **options)
                expire(store, leadership)

            slow_disk.setattr(journal, "mark_sent", mark_sent_late)
            with pytest.raises(error):
                setup.broker.private_call("AddOrder", ORDER | {"cl_ord_id": CL_ORD_ID})
        assert (setup.broker.unknown_orders(), setup.placed_order_count()) == ([], 0)
        leadership.wait_for_leadership(threading.Event(), print)
        setup.broker.private_call("AddOrder", ORDER | {"cl_ord_id": CL_ORD_ID})
        assert setup.placed_order_count() == 1
        leadership.release(is_reconciled=True)


def test_a_refused_order_frees_its_pair() -> None:
    """A refusal by the matching engine raises OrderRefusedError, leaves nothing unknown, and the next order is
    placed."""
    with open_broker_setup() as setup:
        with pytest.raises(OrderRefusedError, match="Insufficient funds"):
            setup.broker.private_call("AddOrder", ORDER | {"volume": "100"})
        setup.broker.private_call("AddOrder", ORDER)
        assert (setup.broker.unknown_orders(), setup.placed_order_count()) == ([], 1)


def test_cancel_of_a_closed_order_returns_false() -> None:
    """cancel_order returns True for an open order, and False for a closed one."""
    with open_broker_setup() as setup:
        txid = setup.broker.private_call("AddOrder", ORDER)["txid"][0]
        assert [setup.broker.cancel_order(txid, "BTC/USD"), setup.broker.cancel_order(txid)] == [True, False]


MALFORMED_TXIDS = [b"", b',"result":null', b',"result":{}', b',"result":{"txid":[]}', b',"result":{"txid":[null]}']


@pytest.mark.parametrize("result", [*MALFORMED_TXIDS, b',"result":{"txid":["OA","OB"]}', b',"result":{"txid":"OA"}'])
def test_malformed_order_response_leaves_the_order_unknown(result: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A response to AddOrder without exactly one txid leaves the order unknown until it is reconciled."""
    with open_broker_setup() as setup:
        handle = setup.simulator.api.handle

        def replace_response(method: str, target: str, *arguments: Any) -> tuple[int, bytes]:
            response = handle(method, target, *arguments)
            return (200, b'{"error":[]' + result + b"}") if target.endswith("AddOrder") else response

        monkeypatch.setattr(setup.simulator.api, "handle", replace_response)
        with pytest.raises(OrderOutcomeUnknownError):
            setup.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000))
        (resolution,) = setup.broker.reconcile_unknown_orders()
        assert resolution.order is not None


@pytest.mark.parametrize("result", [b"", b',"result":null', b',"result":{"count":"x"}', b',"result":[]'])
def test_malformed_cancel_response_is_no_answer(result: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A malformed response to CancelOrder raises NoAnswerError, and no other exception."""
    with open_broker_setup() as setup:
        handle = setup.simulator.api.handle

        def replace_response(method: str, target: str, *arguments: Any) -> tuple[int, bytes]:
            response = handle(method, target, *arguments)
            return (200, b'{"error":[]' + result + b"}") if target.endswith("CancelOrder") else response

        monkeypatch.setattr(setup.simulator.api, "handle", replace_response)
        txid = setup.broker.private_call("AddOrder", ORDER)["txid"][0]
        with pytest.raises(NoAnswerError):
            setup.broker.cancel_order(txid)


def test_only_own_orders_are_canceled() -> None:
    """cancel_all_orders cancels the orders of this bot's id and leaves those of others."""
    with open_broker_setup() as setup:
        setup.broker.private_call("AddOrder", ORDER)
        external_txid = setup.broker.private_call("AddOrder", ORDER | {"cl_ord_id": "somebody-else"})["txid"]
        assert setup.broker.cancel_all_orders() == 1
        assert [order.txid for order in setup.broker.get_open_orders()] == external_txid


def test_validate_only_order_is_not_an_order() -> None:
    """AddOrder with validate is repeated like a read after a refused nonce, and places no order."""
    with open_broker_setup() as setup:
        setup.simulator.faults.fire_next("spurious_nonce", "AddOrder")
        setup.broker.private_call("AddOrder", ORDER | {"validate": True})
        assert (setup.request_methods(), setup.placed_order_count()) == (["AddOrder", "AddOrder"], 0)

"""What is known of an order after it was sent: done, refused or unknown, and how an unknown one is settled."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from bot import broker_manager
from bot.base.errors import (
    BotError,
    LeaseLostError,
    NoAnswerError,
    OrderBlockedError,
    OrderRefusedError,
    OrderUnknownError,
    StoreUnavailableError,
    TurnLostError,
)
from bot.nonce.leader_election import Leadership
from bot.nonce.local_lock import Urgency
from bot.nonce.shared_store import SharedStore
from bot.simulator.api import LoggedRequest
from bot.simulator.options import SimulatorOptions
from tests.acceptance.broker_tools import ORDER, Desk, open_desk, pass_time, wait_for, waiting_calls

pytestmark = pytest.mark.usefixtures("nonce_file")

NAME = "bot01abcdefghijklm"
RICH = SimulatorOptions(balances={"ZUSD": "1000000", "XXBT": "100"})


@pytest.mark.parametrize("fault", ["answer_502", "reset", "half_body", "html"])
def test_an_order_that_was_placed_but_not_answered_is_found(fault: str) -> None:
    """An order that ran but was not answered is unknown, blocks its pair only, is not repeated, and is found placed."""
    with open_desk(RICH) as desk:
        desk.simulator.faults.fire_next(fault, "AddOrder")
        with pytest.raises(OrderUnknownError) as caught:
            desk.broker.private_call("AddOrder", ORDER)
        with pytest.raises(OrderBlockedError):
            desk.broker.private_call("AddOrder", ORDER)
        desk.broker.private_call("AddOrder", ORDER | {"pair": "ETHUSD", "price": "10", "volume": "0.1"})
        (settled,) = desk.broker.settle_unknown()
        assert settled.order is not None
        assert settled.order.cl_ord_id == caught.value.cl_ord_id
        assert (desk.broker.unknown_orders(), desk.methods().count("AddOrder")) == ([], 2)


def settle_until_known(desk: Desk, seconds_max: int = 60) -> tuple[list[Any], list[LoggedRequest], float]:
    """Ask for a settlement every market second; return what it settled, its requests, and when the order was sent."""
    start, before = desk.clock.now(), len(desk.rows())
    settled: list[Any] = []
    while not settled and desk.clock.now() < start + seconds_max:
        settled = desk.broker.settle_unknown()
        pass_time(desk.clock, 1)
    return settled, desk.rows()[before:], start


def test_an_order_that_never_arrived_is_proved_absent_in_order() -> None:
    """Absence is proved by a fence, open orders 5 s after deadline and fence, closed orders 3 s later; not before."""
    with open_desk() as desk:
        desk.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderUnknownError):
            desk.broker.private_call("AddOrder", ORDER)
        settled, rows, sent = settle_until_known(desk)
        fence, closed_early, opened, closed = rows
        assert [row.method for row in rows] == ["OpenOrders", "ClosedOrders", "OpenOrders", "ClosedOrders"]
        assert fence.accepted
        assert opened.time >= max(sent + 8, fence.time, closed_early.time) + 5
        assert closed.time >= opened.time + 3
        assert [each.order for each in settled] == [None]
        desk.broker.private_call("AddOrder", ORDER)


def test_the_margin_counts_from_a_late_fence() -> None:
    """Where the fence was only accepted after the deadline, open orders are asked 5 s after the fence."""
    with open_desk() as desk:
        desk.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderUnknownError):
            desk.broker.private_call("AddOrder", ORDER)
        pass_time(desk.clock, 100)
        settled, rows, _ = settle_until_known(desk)
        assert rows[2].time >= rows[0].time + 5
        assert [each.order for each in settled] == [None]


def test_a_failed_look_up_starts_the_pair_again() -> None:
    """When closed orders are not answered, open orders are asked again before the order is called absent."""
    with open_desk() as desk:
        desk.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderUnknownError):
            desk.broker.private_call("AddOrder", ORDER)
        desk.broker.settle_unknown()
        pass_time(desk.clock, 14)
        desk.broker.settle_unknown()
        pass_time(desk.clock, 4)
        desk.simulator.faults.fire_next("answer_502", "ClosedOrders")
        before = len(desk.rows())
        with pytest.raises(NoAnswerError):
            desk.broker.settle_unknown()
        settled, rows, _ = settle_until_known(desk)
        assert [row.method for row in desk.rows()[before:]] == ["ClosedOrders", "OpenOrders", "ClosedOrders"]
        assert rows[1].time >= rows[0].time + 3
        assert [each.order for each in settled] == [None]


def test_an_order_stays_unknown_while_kraken_does_not_answer() -> None:
    """However long Kraken does not answer, the order stays unknown and its pair blocked."""
    with open_desk() as desk:
        desk.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderUnknownError):
            desk.broker.private_call("AddOrder", ORDER)
        desk.simulator.faults.set_rate("refuse_502", 1)
        for _ in range(100):
            with pytest.raises(NoAnswerError):
                desk.broker.settle_unknown()
            pass_time(desk.clock, 60)
        assert len(desk.broker.unknown_orders()) == 1
        with pytest.raises(OrderBlockedError):
            desk.broker.private_call("AddOrder", ORDER)


def test_a_found_order_is_told_even_if_the_next_look_up_fails() -> None:
    """Of two unknown orders, the one that open orders show is told as placed although closed orders then fail."""
    with open_desk(RICH) as desk:
        desk.simulator.faults.fire_next("answer_502", "AddOrder")
        with pytest.raises(OrderUnknownError) as caught:
            desk.broker.private_call("AddOrder", ORDER)
        desk.simulator.faults.fire_next("refuse_502", "AddOrder")
        with pytest.raises(OrderUnknownError):
            desk.broker.private_call("AddOrder", ORDER | {"pair": "ETHUSD", "price": "10", "volume": "0.1"})
        desk.simulator.faults.fire_next("answer_502", "ClosedOrders")
        with pytest.raises(NoAnswerError):
            desk.broker.settle_unknown()
        found = desk.broker.settle_unknown()
        assert [each.unknown.cl_ord_id for each in found if each.order] == [caught.value.cl_ord_id]


def test_a_fence_before_the_order_left_is_none() -> None:
    """An order that waits for its turn is not unknown yet: no look-up before it leaves can count as its fence."""
    with open_desk() as desk:
        broker = desk.broker
        broker.private_call("AddOrder", ORDER)
        raised: list[BaseException] = []

        def place() -> None:
            try:
                broker.private_call("AddOrder", ORDER)
            except OrderUnknownError as error:
                raised.append(error)

        desk.simulator.faults.fire_next("refuse_502", "AddOrder")
        placing = threading.Thread(target=place)
        with broker._turns.turn(Urgency.READ):
            placing.start()
            wait_for(lambda: waiting_calls(broker))
            # An order that waits for its turn is not sent, so nothing is there to be looked up.
            waiting = broker.unknown_orders()
            pass_time(desk.clock, 5)
        placing.join()
        (unknown,) = broker.unknown_orders()
        assert (waiting, len(raised)) == ([], 1)
        assert unknown.fence_seconds is None
        assert unknown.deadline_seconds == broker.now() + 8


def test_an_elapsed_deadline_leaves_the_order_unknown_until_it_is_proved_absent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An order whose deadline elapsed on the way is unknown, and then proved not placed."""
    with open_desk() as desk:
        desk.broker.connect()
        monkeypatch.setattr(broker_manager, "DEADLINE_SECONDS", -60.0)
        with pytest.raises(OrderUnknownError, match="Deadline elapsed"):
            desk.broker.private_call("AddOrder", ORDER)
        settled, _, _ = settle_until_known(desk)
        assert ([each.order for each in settled], desk.orders_placed()) == ([None], 0)


def test_an_interrupted_order_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while an order is on its way leaves it unknown, and it is found placed afterwards."""
    with open_desk() as desk:
        broker = desk.broker
        broker.private_call("BalanceEx")
        send = broker.api.session.send

        def interrupted(*arguments: Any, **options: Any) -> Any:
            answer = send(*arguments, **options)
            if b"ordertype" in str(arguments[0].body).encode():
                raise KeyboardInterrupt
            return answer

        monkeypatch.setattr(broker.api.session, "send", interrupted)
        with pytest.raises(KeyboardInterrupt):
            broker.private_call("AddOrder", ORDER)
        assert len(broker.unknown_orders()) == 1
        (settled,) = broker.settle_unknown()
        assert settled.order is not None


def lose_the_turn(store: SharedStore, _leadership: Leadership) -> None:
    """Let all the time pass in which a request may begin."""
    store._held.begin_until_seconds = 0.0


def lose_the_lease(_store: SharedStore, leadership: Leadership) -> None:
    """Let another instance lead."""
    leadership.sign_off(settled=False)


def miss_the_renewal(_store: SharedStore, leadership: Leadership) -> None:
    """Let the lease end before it could be renewed."""
    leadership._until_seconds = 0.0


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lose_the_turn, TurnLostError),
        (lose_the_lease, LeaseLostError),
        (miss_the_renewal, StoreUnavailableError),
    ],
)
def test_an_order_held_up_until_it_may_not_leave_was_not_sent(
    redis_url: str,
    end: Callable[[SharedStore, Leadership], None],
    error: type[BotError],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the turn or the lease is over by the time that an order is on the disk, it does not leave: its fate is
    known, and the same order goes as soon as it may."""
    monkeypatch.setattr(broker_manager, "NONCE_STORE", redis_url)
    with open_desk() as desk:
        store, journal = desk.broker.shared_store, desk.broker.journal
        assert store is not None
        leadership = Leadership(store, 300.0)
        leadership.wait(threading.Event(), print)
        with monkeypatch.context() as slow_disk:
            leave = journal.leave

            def leave_late(*given: Any, **more: Any) -> None:
                leave(*given, **more)
                end(store, leadership)

            slow_disk.setattr(journal, "leave", leave_late)
            with pytest.raises(error):
                desk.broker.private_call("AddOrder", ORDER | {"cl_ord_id": NAME})
        assert (desk.broker.unknown_orders(), desk.orders_placed()) == ([], 0)
        leadership.wait(threading.Event(), print)
        desk.broker.private_call("AddOrder", ORDER | {"cl_ord_id": NAME})
        assert desk.orders_placed() == 1
        leadership.sign_off(settled=True)


def test_a_refused_order_frees_its_pair() -> None:
    """The engine's no raises OrderRefusedError, leaves nothing unknown, and the next order goes."""
    with open_desk() as desk:
        with pytest.raises(OrderRefusedError, match="Insufficient funds"):
            desk.broker.private_call("AddOrder", ORDER | {"volume": "100"})
        desk.broker.private_call("AddOrder", ORDER)
        assert (desk.broker.unknown_orders(), desk.orders_placed()) == ([], 1)


def test_a_cancel_of_what_is_gone_says_so() -> None:
    """cancel_order is True for an open order, and False for one that is gone."""
    with open_desk() as desk:
        txid = desk.broker.private_call("AddOrder", ORDER)["txid"][0]
        assert [desk.broker.cancel_order(txid, "BTC/USD"), desk.broker.cancel_order(txid)] == [True, False]


ODD_TXIDS = [b"", b',"result":null', b',"result":{}', b',"result":{"txid":[]}', b',"result":{"txid":[null]}']


@pytest.mark.parametrize("result", [*ODD_TXIDS, b',"result":{"txid":["OA","OB"]}', b',"result":{"txid":"OA"}'])
def test_an_odd_answer_to_an_order_leaves_it_unknown(result: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer to AddOrder without exactly one txid leaves the order unknown and its pair blocked."""
    with open_desk() as desk:
        handle = desk.simulator.api.handle

        def odd(method: str, target: str, *arguments: Any) -> tuple[int, bytes]:
            answer = handle(method, target, *arguments)
            return (200, b'{"error":[]' + result + b"}") if target.endswith("AddOrder") else answer

        monkeypatch.setattr(desk.simulator.api, "handle", odd)
        with pytest.raises(OrderUnknownError):
            desk.broker.place_limit_order("BTC/USD", "buy", Decimal("0.001"), Decimal(1000))
        (settled,) = desk.broker.settle_unknown()
        assert settled.order is not None


@pytest.mark.parametrize("result", [b"", b',"result":null', b',"result":{"count":"x"}', b',"result":[]'])
def test_an_odd_answer_to_a_cancel_is_no_answer(result: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer to CancelOrder that cannot be read raises NoAnswerError, and not a fault of the program."""
    with open_desk() as desk:
        handle = desk.simulator.api.handle

        def odd(method: str, target: str, *arguments: Any) -> tuple[int, bytes]:
            answer = handle(method, target, *arguments)
            return (200, b'{"error":[]' + result + b"}") if target.endswith("CancelOrder") else answer

        monkeypatch.setattr(desk.simulator.api, "handle", odd)
        txid = desk.broker.private_call("AddOrder", ORDER)["txid"][0]
        with pytest.raises(NoAnswerError):
            desk.broker.cancel_order(txid)


def test_only_own_orders_are_cancelled() -> None:
    """cancel_all_orders cancels the orders of this bot's id and leaves those of others."""
    with open_desk() as desk:
        desk.broker.private_call("AddOrder", ORDER)
        foreign = desk.broker.private_call("AddOrder", ORDER | {"cl_ord_id": "somebody-else"})["txid"]
        assert desk.broker.cancel_all_orders() == 1
        assert [order.txid for order in desk.broker.get_open_orders()] == foreign


def test_a_dry_run_is_no_order() -> None:
    """AddOrder with validate is repeated like a read after a refused nonce, and leaves no order and no block."""
    with open_desk() as desk:
        desk.simulator.faults.fire_next("spurious_nonce", "AddOrder")
        desk.broker.private_call("AddOrder", ORDER | {"validate": True})
        assert (desk.methods(), desk.orders_placed()) == (["AddOrder", "AddOrder"], 0)

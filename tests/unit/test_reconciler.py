"""When a journal is complete at start, and which orders are queried and recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bot.base.clock import ServerTime
from bot.base.errors import RequestError
from bot.base.event_catalog import Event
from bot.base.models import KeyInfo, Order, OrderStatus
from bot.orders.journal import Journal
from bot.orders.reconciler import JOURNAL_MAX_AGE_SECONDS, Reconciler
from bot.orders.reconciliation import BLIND_RETRY_SECONDS, Resolution
from tests.event_log import capture_events
from tests.journal_rows import BOT_ID, make_intent, make_open_kraken_order
from tests.trading_fakes import SteppedClock

NOW = 10_000.0
ID = f"{BOT_ID}0000000000001"
WITNESS_ID = f"{BOT_ID}0000000000002"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    """Return a journal that has every order of this bot."""
    journal = Journal(str(tmp_path / "journal.sqlite"))
    journal.set_complete_until(BOT_ID, NOW)
    return journal


SEEING_KEY = KeyInfo("bot", 1, 0, frozenset({"query-open-trades", "query-closed-trades"}), modified_seconds=NOW - 1)


class FakeAccount:
    """An account with given open orders and no closed ones, read with a key that sees them."""

    def __init__(self, open_orders: Callable[[], list[Order]]) -> None:
        self._open_orders = open_orders
        self.closed_orders: list[Order] = []
        # None: Kraken does not know GetApiKeyInfo.
        self.key_info: KeyInfo | None = SEEING_KEY
        self.calls: list[str] = []

    def get_open_orders(self) -> list[Order]:
        """Return the open orders."""
        self.calls.append("OpenOrders")
        return self._open_orders()

    def get_closed_orders(self, since_seconds: float = 0.0) -> list[Order]:
        """Return the closed orders, whenever they closed."""
        self.calls.append("ClosedOrders")
        return self.closed_orders

    def get_key_info(self) -> KeyInfo:
        """Return what the key may see."""
        self.calls.append("GetApiKeyInfo")
        if self.key_info is None:
            raise RequestError("GetApiKeyInfo", ["EGeneral:Unknown method"])
        return self.key_info

    def is_own_order(self, order: Order) -> bool:
        """Tell by the id."""
        return order.cl_ord_id.startswith(BOT_ID)


def make_reconciler(
    journal: Journal,
    clock: SteppedClock,
    open_orders: Callable[[], list[Order]] = list,
    *,
    overlap_seconds: float = 0.0,
) -> Reconciler:
    """Return the reconciler of a process that has just started; there are no closed orders."""
    return Reconciler(journal, FakeAccount(open_orders), BOT_ID, ServerTime(clock), overlap_seconds)


def seconds_until_complete(reconciler: Reconciler, clock: SteppedClock) -> float:
    """Query as soon as each query is due; return the seconds until the history is complete."""
    begin = clock.time_seconds
    while not reconciler.history_is_complete():
        clock.time_seconds = max(clock.time_seconds, reconciler.unknown.due_seconds() or 0.0)
        reconciler.reconcile()
    return clock.time_seconds - begin


@pytest.mark.parametrize(
    ("age_seconds", "known"), [(JOURNAL_MAX_AGE_SECONDS, True), (JOURNAL_MAX_AGE_SECONDS + 1, False)]
)
def test_journal_history_is_complete_for_a_minute(journal: Journal, age_seconds: float, known: bool) -> None:
    """A journal that was current a minute ago is complete; after a longer pause the history must be queried."""
    assert make_reconciler(journal, SteppedClock(NOW + age_seconds)).history_is_complete() is known


def test_order_of_another_process_is_not_taken_over_before_its_deadline(journal: Journal) -> None:
    """An order that another process sends meanwhile is taken over once its deadline has passed, and not before."""
    clock = SteppedClock(NOW)
    here = make_reconciler(journal, clock)
    assert here.unknown_orders() == []
    journal.record_intent(make_intent(ID))
    journal.mark_sent(ID, "1", NOW, NOW + 8)
    clock.time_seconds = NOW + 8
    assert here.unknown_orders() == []
    clock.time_seconds = NOW + 8.1
    assert [order.cl_ord_id for order in here.unknown_orders()] == [ID]


def test_unanswered_order_of_an_earlier_run_is_unknown_at_start(journal: Journal) -> None:
    """At start an order without an answer is unknown, whatever its deadline, because no process waits for it."""
    journal.record_intent(make_intent(ID))
    journal.mark_sent(ID, "1", NOW, NOW + 8)
    assert [order.cl_ord_id for order in make_reconciler(journal, SteppedClock(NOW)).unknown_orders()] == [ID]


def test_only_own_orders_are_recorded(journal: Journal) -> None:
    """A query that finds the unknown order and one of another sender records the first only."""
    journal.record_intent(make_intent(ID))
    journal.mark_sent(ID, "1", NOW, NOW + 8)
    found_orders = [make_open_kraken_order(ID, "OMINE"), make_open_kraken_order("other0000000000001", "OTHEIRS")]
    (resolution,) = make_reconciler(journal, SteppedClock(NOW), lambda: found_orders).reconcile()
    assert resolution.order == found_orders[0]
    assert journal.orders() == found_orders[:1]


@pytest.mark.parametrize(("clean", "seconds"), [(True, 8.0), (False, 16.0)])
def test_takeover_reconciles_even_with_a_current_journal(journal: Journal, clean: bool, seconds: float) -> None:
    """A new leader reconciles for 16 s, or for 8 s after a leader that had reconciled all its orders."""
    clock = SteppedClock(NOW)
    here = make_reconciler(journal, clock)
    assert here.history_is_complete()
    here.begin_takeover(clean, is_first_leader=False)
    assert not here.history_is_complete()
    assert here.history_wait_seconds() == seconds
    assert seconds_until_complete(here, clock) == seconds
    assert here.history_wait_seconds() == 0.0


def test_second_takeover_restarts_reconciliation(journal: Journal) -> None:
    """Queries that began in an earlier leadership of this process prove nothing about the leader in between."""
    clock = SteppedClock(NOW)
    here = make_reconciler(journal, clock)
    here.begin_takeover(is_clean=True, is_first_leader=False)
    here.reconcile()
    clock.time_seconds += 7
    here.reconcile()
    here.begin_takeover(is_clean=False, is_first_leader=False)
    assert seconds_until_complete(here, clock) == 16.0


def test_new_journal_waits_for_an_older_instance_to_end(tmp_path: Path) -> None:
    """With a new journal, where another instance may send for 120 s more, the history is complete 8 s after that."""
    clock = SteppedClock(NOW)
    here = make_reconciler(Journal(str(tmp_path / "new.sqlite")), clock, overlap_seconds=120.0)
    assert not here.history_is_complete()
    assert seconds_until_complete(here, clock) == 128.0


def test_existing_journal_skips_the_overlap_wait(journal: Journal) -> None:
    """With a journal of this bot, current or not, there is no wait for another instance."""
    clock = SteppedClock(NOW + JOURNAL_MAX_AGE_SECONDS + 1)
    assert seconds_until_complete(make_reconciler(journal, clock, overlap_seconds=120.0), clock) == 16.0


@pytest.mark.parametrize(("first", "seconds"), [(True, 128.0), (False, 16.0)])
def test_first_leader_without_journal_waits_for_other_instances(tmp_path: Path, first: bool, seconds: float) -> None:
    """If there was no leader before and there is no journal, an instance that uses no store is given time to end."""
    clock = SteppedClock(NOW)
    here = make_reconciler(Journal(str(tmp_path / "new.sqlite")), clock, overlap_seconds=120.0)
    here.begin_takeover(is_clean=False, is_first_leader=first)
    assert seconds_until_complete(here, clock) == seconds


def test_first_leader_with_journal_waits_no_longer(journal: Journal) -> None:
    """A store that lost its leader record causes no longer wait for an instance with a journal of this bot."""
    clock = SteppedClock(NOW)
    here = make_reconciler(journal, clock, overlap_seconds=120.0)
    here.begin_takeover(is_clean=False, is_first_leader=True)
    assert seconds_until_complete(here, clock) == 16.0


class SentOrder:
    """An order that was sent at NOW and not answered, and the reconciler that looks for it."""

    def __init__(self, journal: Journal, account: FakeAccount) -> None:
        journal.record_intent(make_intent(ID))
        journal.mark_sent(ID, "1", NOW, NOW + 8)
        self.clock = SteppedClock(NOW)
        self.reconciler = Reconciler(journal, account, BOT_ID, ServerTime(self.clock))
        self.resolutions: list[Resolution] = []

    def query_until(self, seconds: float) -> None:
        """Query as soon as each query is due, until this time or until the outcome is known."""
        while not self.resolutions and self.clock.time_seconds < seconds:
            self.resolutions += self.reconciler.reconcile()
            self.clock.time_seconds = max(self.clock.time_seconds, self.reconciler.unknown.due_seconds() or seconds)


BLIND_KEYS = {
    "query window to a time": replace(SEEING_KEY, query_to_seconds=NOW - 100),
    "query window from a time": replace(SEEING_KEY, query_from_seconds=NOW + 100),
    "no permission for open orders": replace(SEEING_KEY, permissions=frozenset({"query-closed-trades"})),
    "no permission for closed orders": replace(SEEING_KEY, permissions=frozenset({"query-open-trades"})),
    "nonce window": replace(SEEING_KEY, nonce_window=1),
    "changed after the order was sent": replace(SEEING_KEY, modified_seconds=NOW + 1),
    "no time of the last change": replace(SEEING_KEY, modified_seconds=None),
}


@pytest.mark.parametrize("key_info", BLIND_KEYS.values(), ids=BLIND_KEYS)
def test_an_order_that_the_key_may_not_see_stays_unknown(journal: Journal, key_info: KeyInfo) -> None:
    """An order in no list stays unknown for an hour where the key may not see it, which is reported once."""
    account = FakeAccount(list)
    account.key_info = key_info
    order = SentOrder(journal, account)
    with capture_events() as event_log:
        order.query_until(NOW + 3600)
    assert order.resolutions == []
    assert [unknown.cl_ord_id for unknown in order.reconciler.unknown_orders()] == [ID]
    assert len(event_log.of(Event.OUTCOME_NOT_PROVABLE)) == 1


def test_absence_is_proved_by_a_key_read_after_the_last_query(journal: Journal) -> None:
    """An order in no list is not placed once a GetApiKeyInfo after ClosedOrders shows that the key sees its orders."""
    account = FakeAccount(list)
    order = SentOrder(journal, account)
    order.query_until(NOW + 3600)
    assert [resolution.order for resolution in order.resolutions] == [None]
    assert account.calls == ["OpenOrders", "ClosedOrders", "OpenOrders", "ClosedOrders", "GetApiKeyInfo"]


def test_an_order_that_is_found_needs_no_evidence(journal: Journal) -> None:
    """An order that ClosedOrders shows is placed, without a GetApiKeyInfo."""
    account = FakeAccount(list)
    order = SentOrder(journal, account)
    order.query_until(NOW + 9)
    account.closed_orders = [make_closed_kraken_order(ID, NOW + 1)]
    order.query_until(NOW + 3600)
    assert [resolution.order for resolution in order.resolutions] == account.closed_orders
    assert "GetApiKeyInfo" not in account.calls


def make_closed_kraken_order(cl_ord_id: str, closed_seconds: float) -> Order:
    """Return Kraken's record of a canceled order."""
    record = make_open_kraken_order(cl_ord_id, f"O{cl_ord_id}")
    return replace(record, status=OrderStatus.CANCELED, closed_seconds=closed_seconds)


@pytest.mark.parametrize(
    ("closed_seconds", "is_in_journal", "is_in_answer", "is_proved"),
    [
        (NOW + 1, True, True, True),
        (NOW - 1, True, True, False),
        (NOW + 1, True, False, False),
        (NOW + 1, False, True, False),
    ],
    ids=["closed later", "closed before", "not in the answer", "not in the journal"],
)
def test_without_getapikeyinfo_a_known_order_is_the_evidence(
    journal: Journal, closed_seconds: float, is_in_journal: bool, is_in_answer: bool, is_proved: bool
) -> None:
    """Where Kraken does not know GetApiKeyInfo, absence is proved by an answer with an order of which the journal knows
    that it closed after the unknown one was sent, and by no other."""
    account = FakeAccount(list)
    account.key_info = None
    witness = make_closed_kraken_order(WITNESS_ID, closed_seconds)
    if is_in_journal:
        journal.record_orders([witness])
    else:
        witness = replace(witness, cl_ord_id="other0000000000001")
    if is_in_answer:
        account.closed_orders = [witness]
    order = SentOrder(journal, account)
    order.query_until(NOW + 3600)
    assert [resolution.order for resolution in order.resolutions] == [None] * is_proved


def test_a_history_that_the_key_may_not_see_stays_incomplete(journal: Journal) -> None:
    """With a key that has a query window the history stays incomplete; it becomes complete after the window is gone."""
    account = FakeAccount(list)
    account.key_info = replace(SEEING_KEY, query_to_seconds=1.0)
    clock = SteppedClock(NOW + JOURNAL_MAX_AGE_SECONDS + 1)
    here = Reconciler(journal, account, BOT_ID, ServerTime(clock))
    while clock.time_seconds < NOW + 3600:
        assert not here.history_is_complete()
        here.reconcile()
        clock.time_seconds = here.unknown.due_seconds() or 0.0
    account.key_info = replace(SEEING_KEY, modified_seconds=clock.time_seconds - 1)
    assert seconds_until_complete(here, clock) <= BLIND_RETRY_SECONDS + 16


def test_a_read_for_the_trader_serves_the_proof_too(journal: Journal) -> None:
    """With an order unknown, one read of the open orders after deadline and margin, made for another reason, is the
    proof's own: the next query that is due is ClosedOrders, 3 s later."""
    clock, open_reads = SteppedClock(NOW), 0

    def open_orders() -> list[Order]:
        nonlocal open_reads
        open_reads += 1
        return []

    reconciler = make_reconciler(journal, clock, open_orders)
    reconciler.unknown.add_intent(make_intent(cl_ord_id=ID, sent_seconds=NOW, deadline_seconds=NOW + 8))
    reconciler.reconcile()
    assert open_reads == 1
    clock.time_seconds = NOW + 13.0
    assert reconciler.get_open_orders() == []
    assert open_reads == 2
    assert reconciler.unknown.due_seconds() == NOW + 13.0 + 3.0
    clock.time_seconds = NOW + 16.0
    (resolution,) = reconciler.reconcile()
    assert (resolution.order, open_reads) == (None, 2)


def test_a_placed_order_is_found_in_a_read_for_the_trader(journal: Journal) -> None:
    """An unknown order that is among the open orders of a read for another reason is resolved as placed."""
    clock = SteppedClock(NOW)
    kraken_order = make_open_kraken_order(cl_ord_id=ID)
    reconciler = make_reconciler(journal, clock, lambda: [kraken_order])
    reconciler.unknown.add_intent(make_intent(cl_ord_id=ID, sent_seconds=NOW, deadline_seconds=NOW + 8))
    reconciler.get_open_orders()
    (resolution,) = reconciler.reconcile()
    assert resolution.order == kraken_order

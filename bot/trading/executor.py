"""Act and reconcile: send allowed orders to Kraken, and track every one of them to its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import count, islice

from bot.base.clock import MarketClock
from bot.base.errors import (
    BotError,
    KrakenError,
    OrderOutcomeUnknownError,
    OrderRefusedError,
    OrderRuleError,
    RequestError,
    TransportError,
)
from bot.base.event_catalog import Event
from bot.base.models import ZERO, Balance, OrderRequest, OrderStatus, PlacedOrder, Side, swept_asset, total_with_swept
from bot.kraken.error_table import is_pair_rule_refusal
from bot.kraken.pairs import breaks_no_rule, format_decimal, round_price, round_volume
from bot.orders.order_state import OrderState
from bot.orders.position import find_open_pairs, without_rests
from bot.trading.broker import Broker
from bot.trading.decision_log import DecisionLog
from bot.trading.exit_policy import OrderRole
from bot.trading.order_tracker import FillDelta, FillFetcher, OrderTracker
from bot.trading.risk import Controls

# How often one signal can be proved not placed and still be recognized after a restart.
MAX_ATTEMPTS = 10
LONG_HISTORY_WAIT_SECONDS = 60.0

# Final answers to an order: the signal is used up. A pair that is blocked by another order is not among them.
_FINAL_REFUSALS = (OrderRefusedError, OrderRuleError, RequestError)


@dataclass(slots=True)
class OrderCounts:
    """The number of orders by outcome in this run."""

    fills: int = 0
    placed: int = 0
    refused: int = 0
    unknown: int = 0


class Executor:
    """Places orders under the client order id of their signal, so that no signal is ever placed twice."""

    def __init__(self, broker: Broker, strategy_name: str, entry_ttl_seconds: int, decision_log: DecisionLog) -> None:
        self._broker = broker
        self._strategy_name = strategy_name
        self._entry_ttl_seconds = entry_ttl_seconds
        self._decision_log = decision_log
        self._balances: dict[str, Balance] | None = None
        self._balances_are_of_this_cycle = False
        # Kept also after an invalidation: for reports, and for no decision.
        self.last_balances: dict[str, Balance] | None = None
        # When they were read.
        self.balances_seconds = 0.0
        self._retryable_symbols: set[str] = set()
        self._recorded_external_txids: set[str] = set()
        # Orders that an exit or a stop has canceled, which is not reported, and entries whose cancel Kraken accepted.
        self._canceled_txids: set[str] = set()
        self._canceled_entries: set[str] = set()
        # The orders that may still have filled while no bot was running; None before they are read.
        self._previous_working_txids: list[str] | None = None
        self._fill_fetcher = FillFetcher(broker)
        self.order_tracker = OrderTracker(broker)
        self.counts = OrderCounts()

    def reconcile_startup(self, symbols: Iterable[str], clock: MarketClock, stop: threading.Event) -> None:
        """Wait for orders that an earlier run may have sent, unless the journal has them all; then take them over.

        `order_tracker.is_loaded` tells whether that is done. Raises BotError; then the history is read later.
        """
        if self._previous_working_txids is None:
            # Before the queries, which already update the journal.
            self._previous_working_txids = [intent.txid for intent in self._broker.journal.working_intents()]
        while not self._broker.history_is_complete():
            if not clock.is_replaying:
                seconds = self._broker.history_wait_seconds()
                self._decision_log.record_once("history wait", "", Event.HISTORY_AWAITED, wait_seconds=seconds)
                if seconds > LONG_HISTORY_WAIT_SECONDS:
                    self._decision_log.record_once("long history wait", "", Event.HISTORY_WAIT_EXPLAINED)
            self.reconcile()
            if clock.wait(self._broker.next_query_seconds() or 0.0, stop):
                return
        self.rebuild()
        for order in self.order_tracker.final_orders(self._previous_working_txids):
            self._decision_log.record_ended(order, "while the bot was away")
        self._record_positions(tuple(symbols))

    def _record_positions(self, symbols: Collection[str]) -> None:
        book = self.order_tracker.book
        for symbol, holding in sorted(book.holdings.items()):
            if symbol in symbols:
                self._decision_log.record(
                    Event.POSITION_FOUND, symbol=symbol, volume=holding.quantity, price=holding.average_price
                )
        if untraded := find_open_pairs(book, self.order_tracker.open_orders(), symbols):
            for pair in without_rests(untraded, self._broker, self.balances()):
                self._decision_log.record(Event.UNTRADED_PAIR_FOUND, **pair.event_fields())

    def record_positions_left(self) -> None:
        """Record what the bot still has in each pair, from the last records that it has read: nothing is requested."""
        tracker = self.order_tracker
        pairs = find_open_pairs(tracker.book, tracker.open_orders(), unlisted=tracker.unlisted_orders())
        for pair in without_rests(pairs, self._broker, self.last_balances):
            self._decision_log.record(Event.POSITION_LEFT, **pair.event_fields())

    def rebuild(self) -> None:
        """Read the bot's history; adopt its open orders, and record external orders once."""
        self.order_tracker.rebuild()
        self._fill_fetcher.load_missing()
        for order in self.order_tracker.open_orders():
            self._decision_log.record_open_order(Event.ORDER_ADOPTED, order)
        self._record_external_orders()

    def reconcile(self) -> set[str]:
        """Query unknown orders, track the working ones and fetch their fills.

        Return the pairs in which an order is now known not to have been placed.
        """
        self.resolve_unknown_orders()
        self.read_working_orders()
        self.fetch_fills()
        return self.pop_retryable_symbols()

    def pop_retryable_symbols(self) -> set[str]:
        """Return the pairs in which an order was proved not placed since the last call: its signal may be sent again.

        To be called when no query can fail any more: it would lose the signals.
        """
        retryable_symbols, self._retryable_symbols = self._retryable_symbols, set()
        return retryable_symbols

    def resolve_unknown_orders(self) -> None:
        """Send the query about unknown orders that is due, if one is, and take over what is known of them."""
        for resolution in self._broker.reconcile_unknown_orders():
            unknown = resolution.unknown_order
            if resolution.order is None:
                self.order_tracker.not_placed_ids.add(unknown.cl_ord_id)
                self._retryable_symbols.add(unknown.symbol)
                self._decision_log.record(
                    Event.ORDER_FOUND_NOT_PLACED, symbol=unknown.symbol, cl_ord_id=unknown.cl_ord_id
                )
            else:
                self._decision_log.record(
                    Event.ORDER_FOUND_PLACED,
                    symbol=unknown.symbol,
                    cl_ord_id=unknown.cl_ord_id,
                    txid=resolution.order.txid,
                    state=resolution.order.status,
                )
                self._count_fills(self.order_tracker.adopt(resolution.order))

    def read_working_orders(self, *, may_read: bool = True) -> None:
        """Read the records of the working orders, of all pairs at once; without `may_read` only the journal is kept."""
        self._count_fills(self.order_tracker.refresh(may_read=may_read))
        self._record_ended_unfilled()
        for vanished in self.order_tracker.pop_vanished():
            self._decision_log.record(
                Event.ORDER_VANISHED, symbol=vanished.symbol, cl_ord_id=vanished.cl_ord_id, txid=vanished.txid
            )
        self._record_external_orders()
        if self.order_tracker.journal_error:
            self._decision_log.record_once(
                "journal", "", Event.JOURNAL_WRITE_FAILED, error=self.order_tracker.journal_error
            )
        else:
            self._decision_log.record_resolved("journal", Event.JOURNAL_WRITE_RECOVERED)

    def fetch_fills(self) -> None:
        """Fetch a page of the fills that the journal lacks, if it lacks any."""
        try:
            has_fetched = self._fill_fetcher.fetch_page()
        except (KrakenError, TransportError) as problem:
            # They are for the books only, and must not keep the bot in a position.
            self._decision_log.record_once("fills", type(problem).__name__, Event.FILLS_FETCH_FAILED, error=problem)
        else:
            if has_fetched:
                self._decision_log.record_resolved("fills", Event.FILLS_FETCH_RECOVERED)

    def balances(self) -> dict[str, Balance]:
        """Return the balances after the last own fill, or later ones; request them if they are outdated."""
        if self._balances is None:
            self._balances = self.last_balances = self._broker.get_account_balance()
            self._balances_are_of_this_cycle = True
            self.balances_seconds = self._broker.now()
        return self._balances

    def balance(self, asset: str) -> Balance:
        """Return the balance of an asset; Kraken leaves out assets the account has never had."""
        return self.balances().get(asset) or Balance(asset, ZERO, ZERO)

    def last_balance(self, asset: str) -> Balance:
        """Return the last balance of an asset that was read, without a request."""
        return (self.last_balances or {}).get(asset) or Balance(asset, ZERO, ZERO)

    def swept(self, asset: str) -> Decimal:
        """Return how much of an asset auto-earn has moved: a position counts it, and an exit sells it.

        An entry never spends it.
        """
        return self.balance(swept_asset(asset)).free

    def equity(self, symbols: Iterable[str], quote: str, price: Callable[[str], Decimal]) -> Decimal:
        """Return the quote balance and the coins of the pairs, each at its price, with what auto-earn has moved."""
        balances = self.balances()
        coin_values = (total_with_swept(balances, self._broker.pair(symbol).base) * price(symbol) for symbol in symbols)
        return total_with_swept(balances, quote) + sum(coin_values, ZERO)

    def invalidate_balances(self) -> None:
        """Request the balances again the next time they are needed."""
        self._balances = None

    def begin_cycle(self) -> None:
        """Count the balances as those of an earlier cycle."""
        self._balances_are_of_this_cycle = False

    def require_fresh_balances(self) -> None:
        """Request the balances again the next time they are needed, unless that was done in this cycle: one answer
        serves all pairs."""
        if not self._balances_are_of_this_cycle:
            self.invalidate_balances()

    def has_fresh_balances(self) -> bool:
        """Tell whether the balances were read in this cycle, and are not outdated."""
        return self._balances_are_of_this_cycle and self._balances is not None

    def describe_unresolved_order(self, symbol: str) -> str:
        """Describe an order of a pair without a final outcome; empty if there is none."""
        for unknown in self._broker.unknown_orders():
            if unknown.symbol == symbol:
                age_seconds = self._broker.now() - unknown.sent_seconds
                return f"{unknown.cl_ord_id}, sent {age_seconds:.0f} s ago, was not answered"
        working = self.order_tracker.working(symbol)
        if not all(order.is_open for order in working):
            return "an accepted order is neither open nor closed yet"
        return "an exit is still open" if any(order.role is OrderRole.EXIT for order in working) else ""

    def unknown_buys(self, symbol: str | None = None) -> tuple[Decimal, Decimal]:
        """Return quantity and value of the buys with an unknown outcome: they count as filled."""
        buys = [
            order
            for order in self._broker.unknown_orders()
            if order.side is Side.BUY and symbol in {None, order.symbol}
        ]
        return sum((order.volume for order in buys), ZERO), sum((order.volume * order.price for order in buys), ZERO)

    def execute(self, orders: Sequence[OrderRequest], price: Decimal) -> bool:
        """Place orders one after the other, until one of them is refused or unknown; return whether all were placed."""
        return all(self._place(order, price) for order in orders)

    def cancel(self, symbol: str, txids: Sequence[str]) -> None:
        """Cancel orders of a pair. An order may have filled before: its record, which has to be read, says so."""
        for txid in txids:
            self._canceled_txids.add(txid)
            self._broker.cancel_order(txid, symbol)
        self.invalidate_balances()

    def apply_controls(self, controls: Controls) -> bool:
        """While entries are paused or the bot is halted, cancel its resting entries; return whether none is left."""
        if not controls.forbid_resting_entries():
            return True
        if self.order_tracker.entries_that_may_rest():
            self.cancel_entries()
            self.read_working_orders()
        return not self.order_tracker.entries_that_may_rest()

    def cancel_entries(self) -> None:
        """Cancel every resting entry of this bot, by its txid, also one whose record has not been read yet."""
        for order in self.order_tracker.entries_that_may_rest():
            try:
                was_open = self._broker.cancel_order(order.txid, order.symbol)
            except BotError as problem:
                if self._decision_log.is_new(f"cancel {order.txid}", str(problem)):
                    self._decision_log.record_open_order(Event.ORDER_CANCEL_FAILED, order, problem)
            else:
                # Only its final record says what it had executed, and where it was gone already, how it ended.
                if was_open:
                    self._canceled_entries.add(order.txid)
                    self._decision_log.record_open_order(Event.ORDER_CANCEL_ACCEPTED, order)

    def sold_by_exits(self, symbol: str, candle_seconds: int) -> Decimal:
        """Return what the exits of a candle have sold so far."""
        placed = self._placed_exits(symbol, candle_seconds)
        return sum((self.order_tracker.executed_quantity(cl_ord_id) for cl_ord_id in placed), ZERO)

    def has_unfilled_exit(self, symbol: str, candle_seconds: int) -> bool:
        """Tell whether an exit of a candle has ended without selling all of its quantity."""
        placed = self._placed_exits(symbol, candle_seconds)
        return any(self.order_tracker.has_unfilled_rest(cl_ord_id) for cl_ord_id in placed)

    def _place(self, order: OrderRequest, price: Decimal) -> bool:
        kind = order.kind
        if kind == "exit":
            # The exits before it have sold their part already, so this is the next part.
            kind = _numbered_kind(kind, len(self._placed_exits(order.symbol, order.candle_seconds)))
        elif kind == "stop":
            kind = self._next_stop_kind(order)
        elif previous_id := self._find_placed_id(order.symbol, order.candle_seconds, kind):
            self._decision_log.record_not_placed(Event.SIGNAL_ALREADY_PLACED, order, previous_id)
            return True
        return self._send_attempt(order, kind, self._new_client_order_id(order, kind), price)

    def _send_attempt(self, order: OrderRequest, kind: str, cl_ord_id: str, price: Decimal) -> bool:
        try:
            placed = self._send(order, cl_ord_id)
        except OrderOutcomeUnknownError as problem:
            self.counts.unknown += 1
            self._decision_log.record_not_placed(Event.SIGNAL_OUTCOME_UNKNOWN, order, cl_ord_id, problem)
            return False
        except _FINAL_REFUSALS as problem:
            # An order that breaks a rule was not sent.
            self.counts.refused += isinstance(problem, KrakenError)
            event = Event.STOP_REFUSED if order.kind == "stop" else Event.ORDER_REFUSED
            self._decision_log.record_not_placed(event, order, cl_ord_id, problem, self._funds_advice(order, problem))
            attempt = self._next_attempt(order, kind, cl_ord_id, problem)
            return attempt is not None and self._send_attempt(attempt[0], kind, attempt[1], price)
        self.counts.placed += 1
        self.order_tracker.add_accepted(placed)
        if order.side is Side.BUY:
            # It reserves money that another entry would count on.
            self.invalidate_balances()
        self._decision_log.record_placed(price, order, placed)
        return True

    def _next_attempt(
        self, order: OrderRequest, kind: str, refused_id: str, refusal: BotError
    ) -> tuple[OrderRequest, str] | None:
        """Return the order by the current rules of its pair, and the id of its next attempt; None where there is none.

        A signal is sent once more where its first refusal is for a rule of the pair that has changed since the order
        was rounded, and where no attempt of it was placed or is unknown. The next cycle places a refused stop again.
        """
        is_for_rules = isinstance(refusal, OrderRefusedError) and is_pair_rule_refusal(refusal.error_strings)
        pair, refused = self._broker.pair(order.symbol), self._broker.journal.get_intent(refused_id)
        if order.kind == "stop" or not is_for_rules or refused is None:
            return None
        if breaks_no_rule(pair, order.side, refused.volume, refused.price):
            return None
        # On an empty disk the bot looks for so many attempts.
        attempts = list(islice(self._client_order_ids(order.symbol, order.candle_seconds, kind), MAX_ATTEMPTS))
        intents = [self._broker.journal.get_intent(cl_ord_id) for cl_ord_id in attempts]
        refusals = sum(intent is not None and intent.state is OrderState.REFUSED for intent in intents)
        is_placed = any(self.order_tracker.was_placed(cl_ord_id) for cl_ord_id in attempts)
        is_unknown = any(unknown.symbol == order.symbol for unknown in self._broker.unknown_orders())
        used_ids = self.order_tracker.not_placed_ids | {refused_id}
        next_id = next((cl_ord_id for cl_ord_id in attempts if cl_ord_id not in used_ids), "")
        if refusals != 1 or is_placed or is_unknown or not next_id:
            return None
        price = None if order.price is None else round_price(pair, order.side, order.price)
        return replace(order, quantity=round_volume(pair, order.quantity), price=price), next_id

    def _funds_advice(self, order: OrderRequest, problem: Exception) -> str | None:
        """Name what auto-earn has moved, where Kraken refuses an order for lack of funds."""
        pair = self._broker.pair(order.symbol)
        asset = pair.base if order.side is Side.SELL else pair.quote
        swept = self.last_balance(swept_asset(asset)).total
        if not swept or "Insufficient funds" not in str(problem):
            return None
        return f"{format_decimal(swept)} {asset} are in {swept_asset(asset)} (auto-earn): move them back"

    def _placed_exits(self, symbol: str, candle_seconds: int) -> list[str]:
        placed: list[str] = []
        while cl_ord_id := self._find_placed_id(symbol, candle_seconds, _numbered_kind("exit", len(placed))):
            placed.append(cl_ord_id)
        return placed

    def _next_stop_kind(self, order: OrderRequest) -> str:
        """Return the kind of the next stop of an entry: a stop that Kraken refused is not sent again under the same
        id."""
        number = 0
        while self._is_used(self._client_order_id(order.symbol, order.candle_seconds, _numbered_kind("stop", number))):
            number += 1
        return _numbered_kind("stop", number)

    def _is_used(self, cl_ord_id: str) -> bool:
        intent = self._broker.journal.get_intent(cl_ord_id)
        return intent is not None and intent.state is not OrderState.INTENDED

    def _find_placed_id(self, symbol: str, candle_seconds: int, kind: str) -> str:
        """Return the client order id of a placed signal, by this process or an earlier one; empty if it was not
        placed."""
        for attempt, cl_ord_id in enumerate(self._client_order_ids(symbol, candle_seconds, kind)):
            if self.order_tracker.was_placed(cl_ord_id):
                return cl_ord_id
            # On an empty disk it is unknown which attempts were proved not placed.
            if attempt >= MAX_ATTEMPTS - 1 and cl_ord_id not in self.order_tracker.not_placed_ids:
                break
        return ""

    def _new_client_order_id(self, order: OrderRequest, kind: str) -> str:
        cl_ord_ids = self._client_order_ids(order.symbol, order.candle_seconds, kind)
        return next(cl_ord_id for cl_ord_id in cl_ord_ids if cl_ord_id not in self.order_tracker.not_placed_ids)

    def _client_order_ids(self, symbol: str, candle_seconds: int, kind: str) -> Iterator[str]:
        for attempt in count():
            yield self._client_order_id(symbol, candle_seconds, kind, attempt)

    def _client_order_id(self, symbol: str, candle_seconds: int, kind: str, attempt: int = 0) -> str:
        return self._broker.client_order_id(symbol, self._strategy_name, candle_seconds, kind, attempt)

    def _send(self, order: OrderRequest, cl_ord_id: str) -> PlacedOrder:
        if order.price is None:
            return self._broker.place_market_order(
                order.symbol, order.side, order.quantity, "base", cl_ord_id=cl_ord_id
            )
        if order.kind == "stop":
            return self._broker.place_stop_order(
                order.symbol, order.side, order.quantity, order.price, cl_ord_id=cl_ord_id
            )
        return self._broker.place_limit_order(
            order.symbol,
            order.side,
            order.quantity,
            order.price,
            cl_ord_id=cl_ord_id,
            expire_seconds=self._entry_ttl_seconds,
        )

    def _count_fills(self, fills: Sequence[FillDelta]) -> None:
        for fill in fills:
            self._decision_log.record_fill(fill)
        self.counts.fills += len(fills)
        self._fill_fetcher.expect(fill.order for fill in fills)
        if fills:
            self.invalidate_balances()

    def _record_ended_unfilled(self) -> None:
        for order in self.order_tracker.pop_ended_unfilled():
            if order.txid in self._canceled_entries and order.status is OrderStatus.CANCELED:
                self._decision_log.record_open_order(Event.ORDER_CANCELED, order)
            elif order.txid not in self._canceled_txids:
                self._decision_log.record_ended(order)

    def _record_external_orders(self) -> None:
        self._recorded_external_txids.intersection_update(self.order_tracker.external_orders)
        for txid, order in self.order_tracker.external_orders.items():
            if txid not in self._recorded_external_txids:
                self._recorded_external_txids.add(txid)
                self._decision_log.record_open_order(Event.EXTERNAL_ORDER_FOUND, order)


def _numbered_kind(kind: str, number: int) -> str:
    return f"{kind}{number + 1}" if number else kind

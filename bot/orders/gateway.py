"""Places and cancels orders: an order is sent once, and its outcome is accepted, refused or unknown, never guessed."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Protocol

from bot.base import metrics
from bot.base.clock import MarketClock, ServerTime
from bot.base.errors import (
    BotError,
    JournalError,
    KrakenError,
    LeaseLostError,
    MarketStatusError,
    NotSentError,
    OrderBlockedError,
    OrderOutcomeUnknownError,
    OrderRefusedError,
    OrderRuleError,
    StoppingError,
    StoreUnavailableError,
    TransportError,
)
from bot.base.event_catalog import Event
from bot.base.events import emit
from bot.base.models import ZERO, Pair, PlacedOrder, Side
from bot.kraken import error_table, new_order, responses
from bot.kraken.client import PrivateRequest
from bot.kraken.market_data import MarketData
from bot.kraken.new_order import BOT_ID_LENGTH, CLIENT_ORDER_ID_LENGTH, NewOrder
from bot.kraken.pairs import check_order, format_decimal, minimum_volume, round_volume
from bot.kraken.rate_counters import Action
from bot.kraken.rate_limiter import RateLimiter
from bot.kraken.trading_status import OrderClass
from bot.orders.journal import Journal
from bot.orders.order_state import PLACED_STATES, Intent, OrderState
from bot.orders.position import build_positions
from bot.orders.reconciler import Reconciler

# How many orders are remembered with the time when they were placed.
MAX_TRACKED_ORDERS = 200


@dataclass(frozen=True, slots=True)
class _SendRecord:
    """Writes an order to the journal when it is sent. `bot_id` is "" for an order with a generated id."""

    intent: Intent
    bot_id: str
    journal: Journal
    reconciler: Reconciler
    server_time: ServerTime

    def record_sent(self, nonce: str, deadline_seconds: float) -> None:
        """Write nonce and deadline to the journal. Raises JournalError."""
        now = self.server_time.now()
        self.journal.mark_sent(self.intent.cl_ord_id, nonce, now, deadline_seconds, bot_id=self.bot_id)
        # Unknown from before the first byte, so that nothing that happens now can lose it.
        self.reconciler.unknown.add_intent(replace(self.intent, sent_seconds=now, deadline_seconds=deadline_seconds))


class RequestSender(Protocol):
    """Sends private requests that are checked already. `KrakenBroker` provides it."""

    def send_request(self, request: PrivateRequest) -> Any:
        """Send a private request; return its `result`."""


@dataclass(frozen=True, slots=True)
class _SentOrder:
    """An order that Kraken accepted, and Kraken's result."""

    txid: str
    cl_ord_id: str
    result: dict[str, Any]


class OrderGateway:
    """Sends every order of the program: what scripts pass to `KrakenBroker.private_call` too."""

    def __init__(
        self,
        sender: RequestSender,
        market_data: MarketData,
        journal: Journal,
        reconciler: Reconciler,
        *,
        bot_id: str,
        rate_limiter: RateLimiter,
        max_order_value: Decimal | None,
        max_slippage_percent: Decimal,
        server_time: ServerTime,
        market_clock: MarketClock,
        stopping: threading.Event,
    ) -> None:
        """`market_clock` paces waits, which `stopping` ends."""
        self._sender = sender
        self._market_data = market_data
        self._journal = journal
        self._reconciler = reconciler
        self._bot_id = bot_id
        self._max_order_value = max_order_value
        self._max_slippage_percent = max_slippage_percent
        self._server_time = server_time
        self._market_clock = market_clock
        self._stopping = stopping
        self._rate_limiter = rate_limiter
        # When the last orders were placed. The rate counter takes an order that is not among them for a new one.
        self._placed_seconds: OrderedDict[str, float] = OrderedDict()
        # The pairs with an exit above the maximum that was logged.
        self._logged_symbols: set[str] = set()
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """Make new locks: a thread of the parent may hold the old ones, and is not there to release them."""
        self._pair_locks: dict[str, threading.Lock] = {}

    def place_limit_order(
        self,
        symbol: str,
        side: Side | str,
        quantity: Decimal,
        price: Decimal,
        *,
        cl_ord_id: str = "",
        expire_seconds: int | None = None,
        post_only: bool = False,
    ) -> PlacedOrder:
        """Place a limit order of `quantity` base units, which expires `expire_seconds` from now.

        Raises as `send_params`.
        """
        pair, side = self._market_data.current_pair(symbol), Side(side)
        check_order(pair, side, quantity, price)
        order = NewOrder(pair, side, "limit", quantity, price, cl_ord_id)
        if post_only:
            order = replace(order, flags=("post", *order.flags))
        if expire_seconds is not None:
            order = replace(order, time_in_force="GTD", expires=str(int(self._server_time.now()) + expire_seconds))
        return self._place(order)

    def place_market_order(
        self, symbol: str, side: Side | str, quantity: Decimal, size_type: str, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Buy or sell at once: a limit order, immediate or cancel, at most `max_slippage_percent` from the price.

        `size_type` says what `quantity` counts: "base" (coins) or "quote" (money: a buy never spends more than this).
        Raises as `place_limit_order`.
        """
        if size_type not in ("base", "quote"):
            raise OrderRuleError(f'size_type must be "base" or "quote", not {size_type!r}', "size_type")
        pair, side = self._market_data.current_pair(symbol), Side(side)
        if not isinstance(quantity, Decimal):
            raise TypeError(f"quantity must be a Decimal, not {type(quantity).__name__}: floats lose money")
        current_price = self._market_data.get_current_price(symbol)
        price = new_order.max_slippage_price(pair, side, current_price, self._max_slippage_percent)
        volume = quantity if size_type == "base" else round_volume(pair, quantity / max(price, current_price))
        check_order(pair, side, volume, price)
        return self._place(NewOrder(pair, side, "limit", volume, price, cl_ord_id, time_in_force="IOC"))

    def place_stop_order(
        self, symbol: str, side: Side | str, quantity: Decimal, stop_price: Decimal, *, cl_ord_id: str = ""
    ) -> PlacedOrder:
        """Place a stop that rests at Kraken: once the last price meets `stop_price` it becomes a market order there.

        No slippage limit bounds its price then: the bot may be down, which is what the stop is for. Raises as
        `place_limit_order`.
        """
        pair, side = self._market_data.current_pair(symbol), Side(side)
        check_order(pair, side, quantity, stop_price, is_stop=True)
        return self._place(NewOrder(pair, side, "stop-loss", quantity, stop_price, cl_ord_id))

    def send_params(self, method: str, params: Mapping[str, Any]) -> dict[str, Any]:
        """Send an AddOrder that a script gives as Kraken's parameters; return Kraken's result.

        Raises OrderRefusedError where Kraken's refusal is final, OrderOutcomeUnknownError where the outcome is not
        known (the pair is then blocked until it is), OrderBlockedError for a blocked pair, OrderRuleError for an order
        over MAX_ORDER_VALUE, and MarketStatusError, JournalError, NotSentError, CircuitOpenError, RequestLockTimeout,
        LeaseLostError, StoreUnavailableError or StoppingError where nothing was sent.
        """
        if method != "AddOrder":
            raise OrderRuleError(
                f"{method} is not offered: its outcome could not be reconciled. Use AddOrder", "method"
            )
        new_order.check_fields(params)
        pair = self._market_data.pair(str(params.get("pair")))
        order = new_order.parse_order(pair, params, str(params.get("cl_ord_id") or ""))
        return self._send(order, is_raw=True).result

    def _place(self, order: NewOrder) -> PlacedOrder:
        sent = self._send(order)
        return PlacedOrder(sent.txid, sent.cl_ord_id, order.pair.symbol, order.side, order.volume, order.price)

    def _send(self, order: NewOrder, *, is_raw: bool = False) -> _SentOrder:
        """Send an order, with a client order id of its own where it has none. `is_raw`: Kraken's parameters."""
        if order.side is Side.SELL:
            # By default Kraken cancels the order that arrives, or a stop that triggers, where it meets a resting order
            # of the same account (Kraken: AddOrder page). A sale must go through, so the buy gives way.
            order = replace(order, stptype="cancel-oldest")
        # The deadline of an order is in Kraken's time.
        self._market_data.sync_time()
        has_generated_id = not order.cl_ord_id
        if has_generated_id:
            generated = self._bot_id + secrets.token_hex(8)[: CLIENT_ORDER_ID_LENGTH - BOT_ID_LENGTH]
            order = replace(order, cl_ord_id=generated)
        elif not self._reconciler.history_is_complete():
            self._await_complete_history()
        # One order of a pair at a time, or two could pass the checks together.
        with self._pair_locks.setdefault(order.pair.symbol, threading.Lock()):
            intent = Intent(
                cl_ord_id=order.cl_ord_id,
                symbol=order.pair.symbol,
                side=order.side,
                kind=order.kind,
                volume=order.volume,
                price=order.price,
                intended_seconds=self._server_time.now(),
            )
            previous = None if has_generated_id else self._journal.get_intent(order.cl_ord_id)
            if previous is not None and previous.state is not OrderState.INTENDED:
                return _previous_result(previous)
            with _count_outcome():
                self._check_blocked(order.pair)
                self._check_status(order)
                self._check_value(order, is_raw)
                self._journal.record_intent(intent)
                self._wait_for_rate_limit(order.pair.symbol, Action.ADD)
                return self._send_once(order, intent, "" if has_generated_id else self._bot_id)

    def _send_once(self, order: NewOrder, intent: Intent, bot_id: str) -> _SentOrder:
        record = _SendRecord(intent, bot_id, self._journal, self._reconciler, self._server_time)
        try:
            result: dict[str, Any] = self._sender.send_request(PrivateRequest("AddOrder", order.to_params(), record))
            txid = responses.read_add_order_txid(result)
        except BotError as error:
            if intent.cl_ord_id not in self._reconciler.unknown:
                if isinstance(error, JournalError):
                    self._reconciler.invalidate()
                raise
            if isinstance(error, NotSentError | LeaseLostError | StoreUnavailableError):
                self._record_outcome(intent, OrderState.INTENDED)
                raise
            if isinstance(error, KrakenError) and error_table.is_final_for_order(error.error_strings):
                self._record_outcome(intent, OrderState.REFUSED, "; ".join(error.error_strings))
                self._record_rate_limit(intent.symbol, error)
                self._refresh_pair_rules(intent.symbol, error)
                raise OrderRefusedError("AddOrder", error.error_strings) from error
            self._reconciler.record_state(intent.cl_ord_id, OrderState.UNKNOWN, str(error))
            emit(
                Event.ORDER_UNKNOWN,
                cl_ord_id=intent.cl_ord_id,
                symbol=intent.symbol,
                side=intent.side,
                volume=intent.volume,
                reason=str(error).rstrip("."),
            )
            raise self._unknown_error(intent, error) from error
        self._record_outcome(intent, OrderState.OPEN, txid=txid)
        self._placed_seconds[txid] = self._server_time.now()
        if len(self._placed_seconds) > MAX_TRACKED_ORDERS:
            self._placed_seconds.popitem(last=False)
        return _SentOrder(txid, intent.cl_ord_id, result)

    def _record_outcome(self, intent: Intent, state: OrderState, reason: str = "", txid: str = "") -> None:
        self._reconciler.record_state(intent.cl_ord_id, state, reason, txid)
        self._reconciler.unknown.remove(intent.cl_ord_id)

    @staticmethod
    def _unknown_error(order: Intent, cause: BotError) -> OrderOutcomeUnknownError:
        reason = str(cause).rstrip(".")
        return OrderOutcomeUnknownError(
            f"the outcome of the order {order.cl_ord_id} ({order.side} {format_decimal(order.volume)} {order.symbol}) "
            f"is unknown: {reason}. It is not sent again; {order.symbol} gets no new order until it is reconciled",
            order.cl_ord_id,
        )

    def _check_blocked(self, pair: Pair) -> None:
        blocking_orders = self._reconciler.unknown.for_pair(pair.symbol)
        if blocking_orders:
            raise OrderBlockedError(
                f"{pair.symbol} has an order whose outcome is unknown ({blocking_orders[0].cl_ord_id}); no new order is"
                " sent for it until that is reconciled"
            )

    def _check_status(self, order: NewOrder) -> None:
        if order.kind != "limit":
            order_class = OrderClass.OTHER
        elif order.side is Side.SELL:
            order_class = OrderClass.CLOSING_SELL
        else:
            order_class = OrderClass.POST_ONLY if "post" in order.flags else OrderClass.LIMIT
        if reason := self._market_data.block_reason(order.pair.symbol, order_class):
            raise MarketStatusError(f"{reason}; the order was not sent")

    def _check_value(self, order: NewOrder, is_raw: bool) -> None:
        if self._max_order_value is None:
            return
        price, pair = order.price, order.pair
        if order.kind != "limit" or order.side is Side.SELL:
            # Only a limit on a buy bounds what the order can be worth.
            current_price = self._market_data.get_current_price(pair.symbol)
            slipped = new_order.max_slippage_price(pair, order.side, current_price, self._max_slippage_percent)
            price = max(price, current_price, slipped)
        value = price * order.volume
        excess = value - self._max_order_value
        if excess <= 0 or (not is_raw and self._is_last_part_of_exit(order, price, excess)):
            return
        raise OrderRuleError(
            f"the order is worth {format_decimal(value)} {pair.quote}, more than MAX_ORDER_VALUE "
            f"({format_decimal(self._max_order_value)}); it was not sent",
            "MAX_ORDER_VALUE",
            format_decimal(self._max_order_value),
        )

    def _is_last_part_of_exit(self, order: NewOrder, price: Decimal, excess: Decimal) -> bool:
        """Tell whether the order sells own coins, and exceeds the maximum by no more than the pair's minimum.

        Smaller parts might be below that minimum, so without this the limit would keep the bot in a position.
        """
        pair = order.pair
        if order.side is not Side.SELL or excess > minimum_volume(pair, order.price) * price:
            return False
        if order.volume > self._sellable_quantity(pair.symbol):
            return False
        if pair.symbol not in self._logged_symbols:
            self._logged_symbols.add(pair.symbol)
            emit(
                Event.EXIT_ABOVE_MAXIMUM,
                symbol=pair.symbol,
                volume=order.volume,
                cost=price * order.volume,
                quote=pair.quote,
            )
        return True

    def _sellable_quantity(self, symbol: str) -> Decimal:
        """Return the bot's own position in a pair, without what its other orders may still sell."""
        if not self._reconciler.history_is_complete():
            return ZERO
        own_orders = [order for order in self._journal.orders() if order.cl_ord_id.startswith(self._bot_id)]
        executed = {order.txid: order.executed for order in own_orders}
        in_sales = (
            intent.volume - executed.get(intent.txid, ZERO)
            for intent in self._journal.working_intents()
            if intent.symbol == symbol and intent.side is Side.SELL and intent.cl_ord_id.startswith(self._bot_id)
        )
        return build_positions(own_orders).holding(symbol).quantity - sum(in_sales, ZERO)

    def cancel(self, txid: str, symbol: str | None) -> bool:
        """Cancel one order. True: Kraken canceled it. False: it was gone already, and may have filled."""
        if symbol is not None:
            if reason := self._market_data.block_reason(symbol, OrderClass.CANCEL):
                raise MarketStatusError(f"{reason}; the cancel was not sent")
            age_seconds = self._server_time.now() - self._placed_seconds.get(txid, self._server_time.now())
            self._wait_for_rate_limit(symbol, Action.CANCEL, age_seconds)
        try:
            result = self._sender.send_request(PrivateRequest("CancelOrder", {"txid": txid}))
        except OrderRefusedError as error:
            if any("Unknown order" in string or "Invalid order" in string for string in error.error_strings):
                return False
            if symbol is not None:
                self._record_rate_limit(symbol, error)
            raise
        self._placed_seconds.pop(txid, None)
        return responses.read_cancel_count(result) > 0

    def _refresh_pair_rules(self, symbol: str, error: KrakenError) -> None:
        """Read the rules of a pair again after a refusal for one of them."""
        if error_table.is_pair_rule_refusal(error.error_strings):
            # They are read again before the next order in any case.
            with suppress(KrakenError, TransportError):
                self._market_data.pair_status(symbol)

    def _record_rate_limit(self, symbol: str, error: KrakenError) -> None:
        if any("ate limit exceeded" in string for string in error.error_strings):
            self._rate_limiter.saturate_engine(symbol, self._server_time.now())

    def _wait_for_rate_limit(self, symbol: str, action: Action, age_seconds: float = 0.0) -> None:
        while wait_seconds := self._rate_limiter.try_acquire_engine(
            symbol, action, self._server_time.now(), age_seconds
        ):
            if action is Action.CANCEL and self._stopping.is_set():
                # An order that stays open is the greater harm than a refusal.
                self._rate_limiter.spend_engine(symbol, action, self._server_time.now(), age_seconds)
                return
            if self._market_clock.wait(wait_seconds, self._stopping) and action is not Action.CANCEL:
                raise StoppingError("the program is stopping; nothing was sent")

    def _await_complete_history(self) -> None:
        """Wait until the journal is complete: an earlier run may have sent an order with the same id."""
        while not self._reconciler.history_is_complete():
            self._reconciler.advance()
            wait_seconds = (self._reconciler.unknown.due_seconds() or 0.0) - self._server_time.now()
            if wait_seconds > 0 and self._market_clock.wait(wait_seconds, self._stopping):
                raise StoppingError("the program is stopping; nothing was sent")


@contextmanager
def _count_outcome() -> Iterator[None]:
    try:
        yield
    except OrderOutcomeUnknownError:
        metrics.record_order("unknown")
        raise
    except OrderRefusedError:
        metrics.record_order("refused")
        raise
    except BotError:
        metrics.record_order("not_sent")
        raise
    metrics.record_order("accepted")


def _previous_result(intent: Intent) -> _SentOrder:
    """Return the result of an order that was sent before, in this run or an earlier one: it is not sent again."""
    if intent.state in PLACED_STATES:
        emit(Event.ORDER_ALREADY_PLACED, cl_ord_id=intent.cl_ord_id, txid=intent.txid)
        result = {"txid": [intent.txid], "descr": {"order": "placed before"}}
        return _SentOrder(intent.txid, intent.cl_ord_id, result)
    if intent.state is OrderState.REFUSED:
        raise OrderRefusedError("AddOrder", intent.reason.split("; "))
    raise OrderBlockedError(f"the order {intent.cl_ord_id} was sent before and is {intent.state}; it is not sent again")

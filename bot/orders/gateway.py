"""Placing and cancelling: an order is sent once, and its outcome is done, refused or unknown, never guessed."""

from __future__ import annotations

import logging
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from typing import Any

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
)
from bot.base.events import Event, emit
from bot.base.models import ZERO, Pair, Side
from bot.kraken import error_table, order_requests, responses
from bot.kraken.order_requests import BOT_ID_LENGTH, CLIENT_ORDER_ID_LENGTH
from bot.kraken.pairs import format_decimal
from bot.kraken.rate_counters import Action
from bot.kraken.rate_limiter import RateLimiter
from bot.kraken.trading_status import OrderClass
from bot.orders.journal import Journal
from bot.orders.order_state import PLACED_STATES, Intent, OrderState
from bot.orders.reconciler import Reconciler

log = logging.getLogger(__name__)

# Called with the nonce and the deadline (Unix seconds) of an order, before its first byte leaves.
BeforeSend = Callable[[str, float], None]

# How many orders are remembered with the moment when they were placed.
MAX_TRACKED_ORDERS = 200
_UNSUPPORTED_METHODS = ("AddOrderBatch", "AmendOrder", "EditOrder")


class OrderGateway:
    """The only place that AddOrder and CancelOrder leave from.

    `call` sends one private request; it calls what it is given as third argument with the nonce and the deadline,
    after they are drawn and before the first byte leaves. `market_price` gives the highest price of a market order now,
    `status_refusal` says why the status of exchange or pair keeps something from being sent, or "".
    """

    def __init__(
        self,
        call: Callable[[str, dict[str, Any], BeforeSend | None], Any],
        find_pair: Callable[[str], Pair],
        worst_case_price: Callable[[Pair, Side], Decimal],
        status_block_reason: Callable[[str, OrderClass], str],
        journal: Journal,
        reconciler: Reconciler,
        *,
        bot_id: str,
        rate_limiter: RateLimiter,
        max_order_value: Decimal | None,
        server_time: ServerTime,
        market_clock: MarketClock,
        stopping: threading.Event,
    ) -> None:
        self._call = call
        self._find_pair = find_pair
        self._worst_case_price = worst_case_price
        self._status_block_reason = status_block_reason
        self._journal = journal
        self._reconciler = reconciler
        self._bot_id = bot_id
        self._max_order_value = max_order_value
        self._server_time = server_time
        self._market_clock = market_clock
        self._stopping = stopping
        self._rate_limiter = rate_limiter
        # Of the last orders; an older one counts as new when it is cancelled.
        self._placed_seconds: OrderedDict[str, float] = OrderedDict()
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """A lock that a thread of the parent holds is never given back in the child."""
        self._pair_locks: dict[str, threading.Lock] = {}

    def is_order_request(self, method: str, params: dict[str, Any]) -> bool:
        """Whether a private call is an order, which must not be repeated."""
        if method in _UNSUPPORTED_METHODS:
            raise OrderRuleError(f"{method} is not offered: its outcome could not be settled. Use AddOrder", "method")
        return method == "AddOrder" and str(params.get("validate", "")).lower() not in ("true", "1")

    def send(self, params: dict[str, Any]) -> dict[str, Any]:
        """Send one AddOrder; return Kraken's result.

        Raises OrderRefusedError where Kraken's no is final, OrderUnknownError where the outcome is not known
        (the pair is then blocked until it is), OrderBlockedError for a blocked pair, OrderRuleError for an order
        over MAX_ORDER_VALUE, and MarketStatusError, JournalError, NotSentError, SilenceError, TurnTimeout,
        LeaseLostError, StoreUnavailableError or StoppingError where nothing was sent.
        """
        order_requests.check_fields(params)
        has_generated_id = not params.get("cl_ord_id")
        if has_generated_id:
            params["cl_ord_id"] = self._bot_id + secrets.token_hex(8)[: CLIENT_ORDER_ID_LENGTH - BOT_ID_LENGTH]
        else:
            self._await_complete_history()
        pair = self._find_pair(str(params.get("pair")))
        # One order of a pair at a time, or two could pass the checks together.
        with self._pair_locks.setdefault(pair.symbol, threading.Lock()):
            intent = self._build_intent(pair, params)
            previous = None if has_generated_id else self._journal.get_intent(intent.cl_ord_id)
            if previous is not None and previous.state is not OrderState.INTENDED:
                return _previous_result(previous)
            with _count_outcome():
                self._check_blocked(pair)
                self._check_status(intent, params)
                self._check_value(pair, intent)
                self._journal.record_intent(intent)
                self._wait_for_rate_limit(pair.symbol, Action.ADD)
                return self._send_once(intent, params, "" if has_generated_id else self._bot_id)

    def _send_once(self, intent: Intent, params: dict[str, Any], bot_id: str) -> dict[str, Any]:
        def before_send(nonce: str, deadline_seconds: float) -> None:
            now = self._server_time.now()
            self._journal.mark_sent(intent.cl_ord_id, nonce, now, deadline_seconds, bot_id=bot_id)
            # Unknown from before the first byte, so that whatever happens now cannot lose it.
            self._reconciler.add(replace(intent, sent_seconds=now, deadline_seconds=deadline_seconds))

        try:
            result: dict[str, Any] = self._call("AddOrder", params, before_send)
            txid = responses.read_add_order_txid(result)
        except BotError as error:
            if intent.cl_ord_id not in self._reconciler:
                if isinstance(error, JournalError):
                    self._reconciler.invalidate()
                raise
            if isinstance(error, NotSentError | LeaseLostError | StoreUnavailableError):
                self._record_outcome(intent, OrderState.INTENDED)
                raise
            if isinstance(error, KrakenError) and error_table.is_final_for_order(error.error_strings):
                self._record_outcome(intent, OrderState.REFUSED, "; ".join(error.error_strings))
                self._record_rate_limit(intent.symbol, error)
                raise OrderRefusedError("AddOrder", error.error_strings) from error
            self._reconciler.record_state(intent.cl_ord_id, OrderState.UNKNOWN, str(error))
            unknown = self._unknown_error(intent, error)
            emit(Event.UNKNOWN_OUTCOME, str(unknown))
            raise unknown from error
        self._record_outcome(intent, OrderState.OPEN, txid=txid)
        self._placed_seconds[txid] = self._server_time.now()
        if len(self._placed_seconds) > MAX_TRACKED_ORDERS:
            self._placed_seconds.popitem(last=False)
        return result

    def _record_outcome(self, intent: Intent, state: OrderState, reason: str = "", txid: str = "") -> None:
        self._reconciler.record_state(intent.cl_ord_id, state, reason, txid)
        self._reconciler.remove(intent.cl_ord_id)

    @staticmethod
    def _unknown_error(order: Intent, cause: BotError) -> OrderOutcomeUnknownError:
        reason = str(cause).rstrip(".")
        return OrderOutcomeUnknownError(
            f"the outcome of the order {order.cl_ord_id} ({order.side} {format_decimal(order.volume)} {order.symbol}) is "
            f"unknown: {reason}. It is not sent again; {order.symbol} gets no new order until it is settled",
            order.cl_ord_id,
        )

    def _build_intent(self, pair: Pair, params: dict[str, Any]) -> Intent:
        kind = str(params["ordertype"])
        return Intent(
            cl_ord_id=str(params["cl_ord_id"]),
            symbol=pair.symbol,
            side=Side(params["type"]),
            kind=kind,
            volume=Decimal(str(params["volume"])),
            price=ZERO if kind == "market" else Decimal(str(params["price"])),
            intended_seconds=self._server_time.now(),
        )

    def _check_blocked(self, pair: Pair) -> None:
        blocking_orders = self._reconciler.for_pair(pair.symbol)
        if blocking_orders:
            raise OrderBlockedError(
                f"{pair.symbol} has an order whose outcome is unknown ({blocking_orders[0].cl_ord_id}); no new order is sent "
                "for it until that is settled"
            )

    def _check_status(self, intent: Intent, params: dict[str, Any]) -> None:
        if intent.kind != "limit":
            order_class = OrderClass.OTHER
        elif intent.side is Side.SELL:
            order_class = OrderClass.CLOSING_SELL
        else:
            order_class = OrderClass.POST_ONLY if "post" in str(params.get("oflags")) else OrderClass.LIMIT
        if reason := self._status_block_reason(intent.symbol, order_class):
            raise MarketStatusError(f"{reason}; the order was not sent")

    def _check_value(self, pair: Pair, order: Intent) -> None:
        if self._max_order_value is None:
            return
        price = order.price
        if order.kind != "limit" or order.side is Side.SELL:
            # Only a limit on a buy bounds what the order can be worth.
            price = max(price, self._worst_case_price(pair, order.side))
        if price * order.volume > self._max_order_value:
            raise OrderRuleError(
                f"the order is worth {format_decimal(price * order.volume)} {pair.quote}, more than MAX_ORDER_VALUE "
                f"({format_decimal(self._max_order_value)}); it was not sent",
                "MAX_ORDER_VALUE",
                format_decimal(self._max_order_value),
            )

    def cancel(self, txid: str, symbol: str | None) -> bool:
        """Cancel one order; return False where Kraken had it no more (it may have filled)."""
        if symbol is not None:
            if reason := self._status_block_reason(symbol, OrderClass.CANCEL):
                raise MarketStatusError(f"{reason}; the cancel was not sent")
            age_seconds = self._server_time.now() - self._placed_seconds.get(txid, self._server_time.now())
            self._wait_for_rate_limit(symbol, Action.CANCEL, age_seconds)
        try:
            result = self._call("CancelOrder", {"txid": txid}, None)
        except OrderRefusedError as error:
            if any("Unknown order" in string or "Invalid order" in string for string in error.error_strings):
                return False
            if symbol is not None:
                self._record_rate_limit(symbol, error)
            raise
        self._placed_seconds.pop(txid, None)
        return responses.read_cancel_count(result) > 0

    def _record_rate_limit(self, symbol: str, error: KrakenError) -> None:
        if any("ate limit exceeded" in string for string in error.error_strings):
            self._rate_limiter.saturate_engine(symbol, self._server_time.now())

    def _wait_for_rate_limit(self, symbol: str, action: Action, age_seconds: float = 0.0) -> None:
        while wait_seconds := self._rate_limiter.try_acquire_engine(
            symbol, action, self._server_time.now(), age_seconds
        ):
            if action is Action.CANCEL and self._stopping.is_set():
                # An order that should be gone is the greater harm than a refusal.
                self._rate_limiter.spend_engine(symbol, action, self._server_time.now(), age_seconds)
                return
            if self._market_clock.wait(wait_seconds, self._stopping) and action is not Action.CANCEL:
                raise StoppingError("the program is stopping; nothing was sent")

    def _await_complete_history(self) -> None:
        """An order with a signal's name may have been sent before, by a life that this journal knows nothing of."""
        while not self._reconciler.history_is_complete():
            self._reconciler.advance()
            wait_seconds = (self._reconciler.due_seconds() or 0.0) - self._server_time.now()
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


def _previous_result(intent: Intent) -> dict[str, Any]:
    """Answer for an order that has left before, in this life or an earlier one: it is not sent again."""
    if intent.state in PLACED_STATES:
        log.warning("The order %s was placed before (%s); it is not sent again.", intent.cl_ord_id, intent.txid)
        return {"txid": [intent.txid], "descr": {"order": "placed before"}}
    if intent.state is OrderState.REFUSED:
        raise OrderRefusedError("AddOrder", [intent.reason])
    raise OrderBlockedError(f"the order {intent.cl_ord_id} was sent before and is {intent.state}; it is not sent again")

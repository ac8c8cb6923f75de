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
    OrderRefusedError,
    OrderRuleError,
    OrderUnknownError,
    StoppingError,
    StoreUnavailableError,
)
from bot.base.events import Event, tell
from bot.base.models import ZERO, Pair, Side
from bot.kraken import error_table, order_requests, responses
from bot.kraken.order_requests import BOT_ID_LENGTH, CLIENT_ORDER_ID_LENGTH
from bot.kraken.pairs import as_text
from bot.kraken.rate_counters import Action
from bot.kraken.rate_limiter import KeyBudget
from bot.kraken.trading_status import What
from bot.orders.journal import Journal
from bot.orders.order_state import PLACED, Intent, OrderState
from bot.orders.reconciler import Settlement

log = logging.getLogger(__name__)

# Called with the nonce and the deadline (Unix seconds) of an order, before its first byte leaves.
Leave = Callable[[str, float], None]

# How many orders are remembered with the moment when they were placed.
PLACED_KEPT = 200
_NOT_OFFERED = ("AddOrderBatch", "AmendOrder", "EditOrder")


class OrderDesk:
    """The only place that AddOrder and CancelOrder leave from.

    `call` sends one private request; it calls what it is given as third argument with the nonce and the deadline,
    after they are drawn and before the first byte leaves. `market_price` gives the highest price of a market order now,
    `status_refusal` says why the status of exchange or pair keeps something from being sent, or "".
    """

    def __init__(
        self,
        call: Callable[[str, dict[str, Any], Leave | None], Any],
        pair_of: Callable[[str], Pair],
        market_price: Callable[[Pair, Side], Decimal],
        status_refusal: Callable[[str, What], str],
        journal: Journal,
        settlement: Settlement,
        *,
        bot_id: str,
        budget: KeyBudget,
        max_order_value: Decimal | None,
        time: ServerTime,
        market: MarketClock,
        stopping: threading.Event,
    ) -> None:
        self._call = call
        self._pair_of = pair_of
        self._market_price = market_price
        self._status_refusal = status_refusal
        self._journal = journal
        self._settlement = settlement
        self._bot_id = bot_id
        self._max_order_value = max_order_value
        self._time = time
        self._market = market
        self._stopping = stopping
        self._budget = budget
        # Of the last orders; an older one counts as new when it is cancelled.
        self._placed_seconds: OrderedDict[str, float] = OrderedDict()
        self.after_fork_in_child()

    def after_fork_in_child(self) -> None:
        """A lock that a thread of the parent holds is never given back in the child."""
        self._pair_locks: dict[str, threading.Lock] = {}

    def takes(self, method: str, params: dict[str, Any]) -> bool:
        """Whether a private call is an order, which must not be repeated."""
        if method in _NOT_OFFERED:
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
        is_new = not params.get("cl_ord_id")
        if is_new:
            params["cl_ord_id"] = self._bot_id + secrets.token_hex(8)[: CLIENT_ORDER_ID_LENGTH - BOT_ID_LENGTH]
        else:
            self._await_the_past()
        pair = self._pair_of(str(params.get("pair")))
        # One order of a pair at a time, or two could pass the checks together.
        with self._pair_locks.setdefault(pair.symbol, threading.Lock()):
            intent = self._intent(pair, params)
            before = None if is_new else self._journal.intent(intent.cl_ord_id)
            if before is not None and before.state is not OrderState.INTENDED:
                return _placed_before(before)
            with _counted():
                self._check_blocked(pair)
                self._check_status(intent, params)
                self._check_value(pair, intent)
                self._journal.intend(intent)
                self._wait_for_engine(pair.symbol, Action.ADD)
                return self._send_once(intent, params, "" if is_new else self._bot_id)

    def _send_once(self, intent: Intent, params: dict[str, Any], bot_id: str) -> dict[str, Any]:
        def leave(nonce: str, deadline_seconds: float) -> None:
            now = self._time.now()
            self._journal.leave(intent.cl_ord_id, nonce, now, deadline_seconds, bot_id=bot_id)
            # Unknown from before the first byte, so that whatever happens now cannot lose it.
            self._settlement.add(replace(intent, sent_seconds=now, deadline_seconds=deadline_seconds))

        try:
            result: dict[str, Any] = self._call("AddOrder", params, leave)
            txid = responses.read_placed(result)
        except BotError as error:
            if intent.cl_ord_id not in self._settlement:
                if isinstance(error, JournalError):
                    self._settlement.read_again()
                raise
            if isinstance(error, NotSentError | LeaseLostError | StoreUnavailableError):
                self._note(intent, OrderState.INTENDED)
                raise
            if isinstance(error, KrakenError) and error_table.is_final_for_order(error.strings):
                self._note(intent, OrderState.REFUSED, "; ".join(error.strings))
                self._note_limit(intent.symbol, error)
                raise OrderRefusedError("AddOrder", error.strings) from error
            self._settlement.write(intent.cl_ord_id, OrderState.UNKNOWN, str(error))
            unknown = self._unknown_error(intent, error)
            tell(Event.UNKNOWN_OUTCOME, str(unknown))
            raise unknown from error
        self._note(intent, OrderState.OPEN, txid=txid)
        self._placed_seconds[txid] = self._time.now()
        if len(self._placed_seconds) > PLACED_KEPT:
            self._placed_seconds.popitem(last=False)
        return result

    def _note(self, intent: Intent, state: OrderState, reason: str = "", txid: str = "") -> None:
        self._settlement.write(intent.cl_ord_id, state, reason, txid)
        self._settlement.remove(intent.cl_ord_id)

    @staticmethod
    def _unknown_error(order: Intent, cause: BotError) -> OrderUnknownError:
        why = str(cause).rstrip(".")
        return OrderUnknownError(
            f"the outcome of the order {order.cl_ord_id} ({order.side} {as_text(order.volume)} {order.symbol}) is "
            f"unknown: {why}. It is not sent again; {order.symbol} gets no new order until it is settled",
            order.cl_ord_id,
        )

    def _intent(self, pair: Pair, params: dict[str, Any]) -> Intent:
        kind = str(params["ordertype"])
        return Intent(
            cl_ord_id=str(params["cl_ord_id"]),
            symbol=pair.symbol,
            side=Side(params["type"]),
            kind=kind,
            volume=Decimal(str(params["volume"])),
            price=ZERO if kind == "market" else Decimal(str(params["price"])),
            intended_seconds=self._time.now(),
        )

    def _check_blocked(self, pair: Pair) -> None:
        blocking = self._settlement.of_pair(pair.symbol)
        if blocking:
            raise OrderBlockedError(
                f"{pair.symbol} has an order whose outcome is unknown ({blocking[0].cl_ord_id}); no new order is sent "
                "for it until that is settled"
            )

    def _check_status(self, intent: Intent, params: dict[str, Any]) -> None:
        if intent.kind != "limit":
            what = What.OTHER
        elif intent.side is Side.SELL:
            what = What.CLOSING_SELL
        else:
            what = What.POST_ONLY if "post" in str(params.get("oflags")) else What.LIMIT
        if reason := self._status_refusal(intent.symbol, what):
            raise MarketStatusError(f"{reason}; the order was not sent")

    def _check_value(self, pair: Pair, order: Intent) -> None:
        if self._max_order_value is None:
            return
        price = order.price
        if order.kind != "limit" or order.side is Side.SELL:
            # Only a limit on a buy bounds what the order can be worth.
            price = max(price, self._market_price(pair, order.side))
        if price * order.volume > self._max_order_value:
            raise OrderRuleError(
                f"the order is worth {as_text(price * order.volume)} {pair.quote}, more than MAX_ORDER_VALUE "
                f"({as_text(self._max_order_value)}); it was not sent",
                "MAX_ORDER_VALUE",
                as_text(self._max_order_value),
            )

    def cancel(self, txid: str, symbol: str | None) -> bool:
        """Cancel one order; return False where Kraken had it no more (it may have filled)."""
        if symbol is not None:
            if reason := self._status_refusal(symbol, What.CANCEL):
                raise MarketStatusError(f"{reason}; the cancel was not sent")
            age_seconds = self._time.now() - self._placed_seconds.get(txid, self._time.now())
            self._wait_for_engine(symbol, Action.CANCEL, age_seconds)
        try:
            result = self._call("CancelOrder", {"txid": txid}, None)
        except OrderRefusedError as error:
            if any("Unknown order" in string or "Invalid order" in string for string in error.strings):
                return False
            if symbol is not None:
                self._note_limit(symbol, error)
            raise
        self._placed_seconds.pop(txid, None)
        return responses.read_cancel_count(result) > 0

    def _note_limit(self, symbol: str, error: KrakenError) -> None:
        if any("ate limit exceeded" in string for string in error.strings):
            self._budget.saturate_engine(symbol, self._time.now())

    def _wait_for_engine(self, symbol: str, action: Action, age_seconds: float = 0.0) -> None:
        while wait_seconds := self._budget.take_engine(symbol, action, self._time.now(), age_seconds):
            if action is Action.CANCEL and self._stopping.is_set():
                # An order that should be gone is the greater harm than a refusal.
                self._budget.spend_engine(symbol, action, self._time.now(), age_seconds)
                return
            if self._market.wait(wait_seconds, self._stopping) and action is not Action.CANCEL:
                raise StoppingError("the program is stopping; nothing was sent")

    def _await_the_past(self) -> None:
        """An order with a signal's name may have been sent before, by a life that this journal knows nothing of."""
        while not self._settlement.knows_the_past():
            self._settlement.advance()
            wait_seconds = (self._settlement.due_seconds() or 0.0) - self._time.now()
            if wait_seconds > 0 and self._market.wait(wait_seconds, self._stopping):
                raise StoppingError("the program is stopping; nothing was sent")


@contextmanager
def _counted() -> Iterator[None]:
    try:
        yield
    except OrderUnknownError:
        metrics.order_ended("unknown")
        raise
    except OrderRefusedError:
        metrics.order_ended("refused")
        raise
    except BotError:
        metrics.order_ended("not_sent")
        raise
    metrics.order_ended("accepted")


def _placed_before(intent: Intent) -> dict[str, Any]:
    """Answer for an order that has left before, in this life or an earlier one: it is not sent again."""
    if intent.state in PLACED:
        log.warning("The order %s was placed before (%s); it is not sent again.", intent.cl_ord_id, intent.txid)
        return {"txid": [intent.txid], "descr": {"order": "placed before"}}
    if intent.state is OrderState.REFUSED:
        raise OrderRefusedError("AddOrder", [intent.reason])
    raise OrderBlockedError(f"the order {intent.cl_ord_id} was sent before and is {intent.state}; it is not sent again")

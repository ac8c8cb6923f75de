"""Placing and cancelling: an order is sent once, and its outcome is done, refused or unknown, never guessed."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from bot.clock import MarketClock, ServerTime
from bot.errors import (
    BotError,
    KrakenError,
    NonceError,
    NotSentError,
    OrderBlockedError,
    OrderRefusedError,
    OrderRuleError,
    OrderUnknownError,
    SilenceError,
    StoppingError,
)
from bot.kraken import error_table, orders, replies
from bot.kraken.limits import Action, EngineCounter, Tier
from bot.kraken.orders import BOT_ID_LENGTH, CLIENT_ORDER_ID_LENGTH
from bot.kraken.pairs import as_text
from bot.models import ZERO, Order, Pair, Side
from bot.settling import DEADLINE_SECONDS, GAP_SECONDS, MARGIN_SECONDS, Settled, Step, UnknownOrder, UnknownOrders

log = logging.getLogger(__name__)

# After these errors no byte of the order has left.
NOTHING_SENT = (NotSentError, SilenceError, StoppingError, NonceError)

_NOT_OFFERED = ("AddOrderBatch", "AmendOrder", "EditOrder")


class OrderDesk:
    """The only place that AddOrder and CancelOrder leave from.

    `call` sends one private request, `market_price` gives the highest price of a market order now, `look_ups` find a
    `cl_ord_id` among the open and among the closed orders.
    """

    def __init__(
        self,
        call: Callable[[str, dict[str, Any]], Any],
        pair_of: Callable[[str], Pair],
        market_price: Callable[[Pair, Side], Decimal],
        look_ups: tuple[Callable[[str], Order | None], Callable[[str], Order | None]],
        *,
        bot_id: str,
        tier: Tier,
        max_order_value: Decimal | None,
        time: ServerTime,
        market: MarketClock,
        stopping: threading.Event,
    ) -> None:
        self._call = call
        self._pair_of = pair_of
        self._market_price = market_price
        self._find_open, self._find_closed = look_ups
        self._bot_id = bot_id
        self._max_order_value = max_order_value
        self._time = time
        self._market = market
        self._stopping = stopping
        self._engine = EngineCounter(tier)
        self._engine_lock = threading.Lock()
        self._order_lock = threading.Lock()
        self._placed_seconds: dict[str, float] = {}
        self._looked_up: set[str] = set()
        self._fence_seconds: float | None = None
        self.unknown = UnknownOrders()

    def after_fork_in_child(self) -> None:
        """A lock that a thread of the parent holds is never given back in the child."""
        self._engine_lock = threading.Lock()
        self._order_lock = threading.Lock()

    def takes(self, method: str, params: dict[str, Any]) -> bool:
        """Whether a private call is an order, which must not be repeated."""
        if method in _NOT_OFFERED:
            raise OrderRuleError(f"{method} is not offered: its outcome could not be settled. Use AddOrder", "method")
        return method == "AddOrder" and str(params.get("validate", "")).lower() not in ("true", "1")

    def send(self, params: dict[str, Any]) -> dict[str, Any]:
        """Send one AddOrder; return Kraken's result.

        Raises OrderRefusedError where Kraken's no is final, OrderUnknownError where the outcome is not known
        (the pair is then blocked until it is), OrderBlockedError for a blocked pair, OrderRuleError for an order
        over MAX_ORDER_VALUE, and NotSentError, SilenceError, TurnTimeout or StoppingError where nothing was sent.
        """
        orders.check_fields(params)
        is_new = not params.get("cl_ord_id")
        if is_new:
            params["cl_ord_id"] = self._bot_id + secrets.token_hex(8)[: CLIENT_ORDER_ID_LENGTH - BOT_ID_LENGTH]
        # One order at a time, or two of a blocked pair could pass the check together.
        with self._order_lock:
            pair = self._pair_of(str(params.get("pair")))
            order = self._as_unknown(pair, params)
            self._check_blocked(pair)
            self._check_value(pair, order, params["ordertype"])
            placed = None if is_new else self._placed_before(order)
            if placed is not None:
                return {"txid": [placed.txid], "descr": {"order": "placed before"}}
            self._wait_for_engine(pair.symbol, Action.ADD)
            return self._send_once(order, params)

    def _send_once(self, order: UnknownOrder, params: dict[str, Any]) -> dict[str, Any]:
        # Unknown from before the first byte, so that whatever happens now cannot lose it.
        self.unknown.add(order)
        try:
            result: dict[str, Any] = self._call("AddOrder", params)
            txid = replies.read_placed(result)
        except NOTHING_SENT:
            self.unknown.remove(order.cl_ord_id)
            raise
        except KrakenError as error:
            if error_table.is_final_for_order(error.strings):
                self.unknown.remove(order.cl_ord_id)
                self._note_limit(order.symbol, error)
                raise OrderRefusedError("AddOrder", error.strings) from error
            raise self._unknown_error(order, error) from error
        except BotError as error:
            raise self._unknown_error(order, error) from error
        finally:
            # It may have waited for its turn: deadline and fence count from the last moment it could have left.
            self.unknown.left(order.cl_ord_id, self._time.now())
        self.unknown.remove(order.cl_ord_id)
        self._placed_seconds[txid] = self._time.now()
        return result

    def _unknown_error(self, order: UnknownOrder, cause: BotError) -> OrderUnknownError:
        return OrderUnknownError(
            f"the outcome of the order {order.cl_ord_id} ({order.side} {as_text(order.volume)} {order.symbol}) is "
            f"unknown: {cause}. It is not sent again; {order.symbol} gets no new order until it is settled",
            order.cl_ord_id,
        )

    def _as_unknown(self, pair: Pair, params: dict[str, Any]) -> UnknownOrder:
        now = self._time.now()
        price = ZERO if params["ordertype"] == "market" else Decimal(str(params["price"]))
        return UnknownOrder(
            cl_ord_id=str(params["cl_ord_id"]),
            symbol=pair.symbol,
            side=Side(params["type"]),
            volume=Decimal(str(params["volume"])),
            price=price,
            sent_seconds=now,
            deadline_seconds=now + DEADLINE_SECONDS,
        )

    def _check_blocked(self, pair: Pair) -> None:
        blocking = self.unknown.of_pair(pair.symbol)
        if blocking:
            raise OrderBlockedError(
                f"{pair.symbol} has an order whose outcome is unknown ({blocking[0].cl_ord_id}); no new order is sent "
                "for it until that is settled"
            )

    def _check_value(self, pair: Pair, order: UnknownOrder, kind: str) -> None:
        if self._max_order_value is None:
            return
        price = order.price
        if kind != "limit" or order.side is Side.SELL:
            # Only a limit on a buy bounds what the order can be worth.
            price = max(price, self._market_price(pair, order.side))
        if price * order.volume > self._max_order_value:
            raise OrderRuleError(
                f"the order is worth {as_text(price * order.volume)} {pair.quote}, more than MAX_ORDER_VALUE "
                f"({as_text(self._max_order_value)}); it was not sent",
                "MAX_ORDER_VALUE",
                as_text(self._max_order_value),
            )

    def fenced(self) -> None:
        """Kraken has accepted a nonce of ours: no order of an earlier process can be accepted any more."""
        if self._fence_seconds is None:
            self._fence_seconds = self._time.now()

    def _placed_before(self, order: UnknownOrder) -> Order | None:
        """Look a pair's first order after a start up: the same signal may have placed it before a crash.

        With the same patience as a settlement (bot/settling.py): an order that was accepted just before the crash may
        be missing from Kraken's rows for some seconds.
        """
        if order.symbol in self._looked_up:
            return None
        placed = self._find_open(order.cl_ord_id)
        if placed is None and self._fence_seconds is not None:
            self._wait_until(self._fence_seconds + DEADLINE_SECONDS + MARGIN_SECONDS)
            placed = self._find_open(order.cl_ord_id)
            self._wait_until(self._time.now() + GAP_SECONDS)
        placed = placed or self._find_closed(order.cl_ord_id)
        if placed is None:
            self._looked_up.add(order.symbol)
        else:
            # The next one, say the second part of an exit, may have been placed as well.
            log.warning("The order %s was placed before (%s); it is not sent again.", order.cl_ord_id, placed.txid)
        return placed

    def _wait_until(self, when_seconds: float) -> None:
        wait_seconds = when_seconds - self._time.now()
        if wait_seconds > 0 and self._market.wait(wait_seconds, self._stopping):
            raise StoppingError("the program is stopping; nothing was sent")

    def cancel(self, txid: str, symbol: str | None) -> bool:
        """Cancel one order; return False where Kraken had it no more (it may have filled)."""
        if symbol is not None:
            age_seconds = self._time.now() - self._placed_seconds.get(txid, self._time.now())
            self._wait_for_engine(symbol, Action.CANCEL, age_seconds)
        try:
            result = self._call("CancelOrder", {"txid": txid})
        except OrderRefusedError as error:
            if any("Unknown order" in string or "Invalid order" in string for string in error.strings):
                return False
            if symbol is not None:
                self._note_limit(symbol, error)
            raise
        self._placed_seconds.pop(txid, None)
        return replies.read_cancel_count(result) > 0

    def _note_limit(self, symbol: str, error: KrakenError) -> None:
        if any("ate limit exceeded" in string for string in error.strings):
            with self._engine_lock:
                self._engine.saturate(symbol, self._time.now())

    def _wait_for_engine(self, symbol: str, action: Action, age_seconds: float = 0.0) -> None:
        while True:
            with self._engine_lock:
                now = self._time.now()
                wait_seconds = self._engine.wait_seconds(symbol, action, now, age_seconds)
                # While the program stops, an order that should be gone is the greater harm than a refusal.
                if wait_seconds <= 0 or (action is Action.CANCEL and self._stopping.is_set()):
                    self._engine.spend(symbol, action, now, age_seconds)
                    return
            if self._market.wait(wait_seconds, self._stopping) and action is not Action.CANCEL:
                raise StoppingError("the program is stopping; nothing was sent")

    def settle(
        self, open_orders: Callable[[], list[Order]], closed_orders: Callable[[float], list[Order]]
    ) -> list[Settled]:
        """Make the look-up that is due for unknown orders, if one is; return those that it settled."""
        step = self.unknown.next_step(self._time.now())
        if step is Step.WAIT:
            return []
        asked = self._time.now()
        since = min(order.sent_seconds for order in self.unknown.all()) - 60
        try:
            rows = closed_orders(since) if step is Step.CLOSED else open_orders()
            if step is Step.FENCE:
                # Not a proof yet, but found anywhere at any time is placed.
                rows = rows + closed_orders(since)
        except BotError:
            self.unknown.look_up_failed()
            raise
        return self.unknown.looked_up(step, rows, asked, self._time.now())

"""Act and settle: turn allowed orders into Kraken's, and follow every one of them to its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import count

from bot.base.errors import (
    BotError,
    KrakenError,
    OrderRefusedError,
    OrderRuleError,
    OrderUnknownError,
    RequestError,
    TransportError,
)
from bot.base.models import ZERO, Balance, PlacedOrder, Side, WantedOrder
from bot.orders.order_state import OrderState
from bot.trading.broker import Broker
from bot.trading.controls import Switches
from bot.trading.decision_log import Narrator
from bot.trading.exit_policy import Role
from bot.trading.fills import Fills
from bot.trading.order_tracker import NewFill, OwnOrders

# How often one signal can be proved not placed and still be known after a restart.
ATTEMPTS_MAX = 10

# Final answers to an order: the signal has had its chance. That another order blocks the pair is none.
_FINAL_NO = (OrderRefusedError, OrderRuleError, RequestError)


@dataclass(slots=True)
class Counts:
    """What happened to orders in this run."""

    fills: int = 0
    placed: int = 0
    refused: int = 0
    unknown: int = 0


class Executor:
    """Places orders under the identity of their signal, so that no signal is ever placed twice."""

    def __init__(self, broker: Broker, strategy_name: str, entry_lifetime_seconds: int, narrator: Narrator) -> None:
        self._broker = broker
        self._strategy_name = strategy_name
        self._entry_lifetime_seconds = entry_lifetime_seconds
        self._narrator = narrator
        self._balances: dict[str, Balance] | None = None
        # Also once they are asked for anew: for whoever looks, and for no decision.
        self.last_balances: dict[str, Balance] | None = None
        self._free_again: set[str] = set()
        self._foreign_shown: set[str] = set()
        self._cancelled: set[str] = set()
        self._fills = Fills(broker)
        self.own = OwnOrders(broker)
        self.counts = Counts()

    def rebuild(self) -> None:
        """Read the bot's history; adopt its open orders, and show those of others once."""
        self.own.rebuild()
        self._fills.load()
        for order in self.own.open_orders():
            self._narrator.open_order("own order adopted", order)
        self._show_foreign()

    def tell_ended(self, txids: Iterable[str]) -> None:
        """Tell how these orders ended, if they did, while no bot was there to tell it."""
        for order in self.own.final_rows(txids):
            self._narrator.ended(order, self._broker.pair(order.symbol).quote, " while the bot was away")

    def settle(self) -> set[str]:
        """Look unknown orders up and follow the working ones.

        Return the pairs in which an order is now known not to have been placed.
        """
        for fate in self._broker.settle_unknown():
            unknown = fate.unknown
            if fate.order is None:
                self.own.not_placed.add(unknown.cl_ord_id)
                self._free_again.add(unknown.symbol)
                self._narrator.say(f"{unknown.symbol}  settled: order {unknown.cl_ord_id} was not placed")
            else:
                text = f"order {unknown.cl_ord_id} was placed as {fate.order.txid} and is {fate.order.status}"
                self._narrator.say(f"{unknown.symbol}  settled: {text}")
                self._count_fills(self.own.adopt(fate.order))
        self.follow()
        # Given away last: a look-up that failed on the way would take the signals with it.
        free_again, self._free_again = self._free_again, set()
        return free_again

    def follow(self) -> None:
        """Ask after the working orders, and tell of their fills."""
        self._count_fills(self.own.refresh())
        self._tell_cut_short()
        self._fetch_fills()
        self._show_foreign()
        if self.own.trouble:
            self._narrator.once("journal", "", self.own.trouble)
        else:
            self._narrator.over("journal", "the journal can be written again")

    def _fetch_fills(self) -> None:
        try:
            asked = self._fills.fetch()
        except (KrakenError, TransportError) as problem:
            # They are for the books only, and must not keep the bot in a position.
            self._narrator.once("fills", type(problem).__name__, f"the fills are fetched later: {problem}")
        else:
            if asked:
                self._narrator.over("fills", "the fills can be fetched again")

    def balances(self) -> dict[str, Balance]:
        """Return the balances as they were after the last own fill, or later."""
        if self._balances is None:
            self._balances = self.last_balances = self._broker.get_account_balance()
        return self._balances

    def know_balances(self) -> None:
        """Ask for the balances if they are old."""
        self.balances()

    def balance(self, asset: str) -> Balance:
        """Return the balance of an asset; Kraken leaves out assets the account has never had."""
        return self.balances().get(asset) or Balance(asset, ZERO, ZERO)

    def forget_balances(self) -> None:
        """Ask again the next time balances are needed."""
        self._balances = None

    def unsettled(self, symbol: str) -> str:
        """Say which order of a pair has an open fate; empty if none has."""
        for unknown in self._broker.unknown_orders():
            if unknown.symbol == symbol:
                age_seconds = self._broker.now() - unknown.sent_seconds
                return f"{unknown.cl_ord_id}, sent {age_seconds:.0f} s ago, was not answered"
        working = self.own.working(symbol)
        if not all(order.is_open for order in working):
            return "an accepted order is neither open nor closed yet"
        return "an exit is still open" if any(order.role is Role.EXIT for order in working) else ""

    def unknown_buys(self, symbol: str | None = None) -> tuple[Decimal, Decimal]:
        """Return quantity and value of the buys whose fate is unknown: they count as filled."""
        buys = [one for one in self._broker.unknown_orders() if one.side is Side.BUY and symbol in {None, one.symbol}]
        return sum((one.volume for one in buys), ZERO), sum((one.volume * one.price for one in buys), ZERO)

    def execute(self, orders: Sequence[WantedOrder], price: Decimal) -> bool:
        """Place orders one after the other, until one of them is refused or unknown; return whether none was."""
        placed_all = all(self._place(order, price) for order in orders)
        if orders:
            self.follow()
        return placed_all

    def cancel(self, symbol: str, txids: Sequence[str]) -> None:
        """Cancel orders of a pair and look what became of them: one may have filled before, and its row says so."""
        for txid in txids:
            self._cancelled.add(txid)
            self._broker.cancel_order(txid, symbol)
        self.forget_balances()
        self.follow()

    def heed(self, switches: Switches) -> None:
        """While entries are stopped, none of the bot's own rests either; said once."""
        if not switches.entries_stopped():
            self._narrator.over("entries", "entries go on")
            return
        self._narrator.once("entries", "", "entries are stopped: nothing is opened until `python main.py resume`")
        if not switches.halted() and any(order.side is Side.BUY for order in self.own.open_orders()):
            self.cancel_entries()
            self.follow()

    def cancel_entries(self) -> None:
        """Cancel every resting entry of this bot, by its txid."""
        for order in self.own.open_orders():
            if order.side is Side.BUY:
                self._cancelled.add(order.txid)
                try:
                    self._broker.cancel_order(order.txid, order.symbol)
                except BotError as problem:
                    self._narrator.open_order(f"not canceled ({problem})", order)
                else:
                    self._narrator.open_order("canceled", order)

    def sold_by_exits(self, symbol: str, candle_seconds: int) -> Decimal:
        """Return what the exits of a candle have sold so far."""
        placed = self._placed_exits(symbol, candle_seconds)
        return sum((self.own.executed(cl_ord_id) for cl_ord_id in placed), ZERO)

    def _place(self, order: WantedOrder, price: Decimal) -> bool:
        kind = order.kind
        if kind == "exit":
            # What the exits before it have sold is no longer wanted, so it is the next part.
            kind = _numbered(kind, len(self._placed_exits(order.symbol, order.candle_seconds)))
        elif kind == "stop":
            kind = self._next_stop(order)
        elif placed_before := self._placed_as(order.symbol, order.candle_seconds, kind):
            self._narrator.not_placed(order, f"this signal was placed before, as {placed_before}")
            return True
        cl_ord_id = self._new_identity(order, kind)
        try:
            placed = self._send(order, cl_ord_id)
        except OrderUnknownError as problem:
            self.counts.unknown += 1
            self._narrator.not_placed(order, f"unknown, no new order for this pair until it is settled: {problem}")
            return False
        except _FINAL_NO as problem:
            self.counts.refused += 1
            self._narrator.not_placed(order, f"refused: {problem}")
            return False
        self.counts.placed += 1
        self.own.expect(placed)
        self._narrator.placed(price, order, placed)
        return True

    def _placed_exits(self, symbol: str, candle_seconds: int) -> list[str]:
        placed: list[str] = []
        while cl_ord_id := self._placed_as(symbol, candle_seconds, _numbered("exit", len(placed))):
            placed.append(cl_ord_id)
        return placed

    def _next_stop(self, order: WantedOrder) -> str:
        """Return the kind of the next stop of an entry: one that Kraken refused is not tried again under its name."""
        number = 0
        while self._is_used(self._identity(order.symbol, order.candle_seconds, _numbered("stop", number))):
            number += 1
        return _numbered("stop", number)

    def _is_used(self, cl_ord_id: str) -> bool:
        intent = self._broker.journal.intent(cl_ord_id)
        return intent is not None and intent.state is not OrderState.INTENDED

    def _placed_as(self, symbol: str, candle_seconds: int, kind: str) -> str:
        """Return the identity a signal was placed under, by this process or an earlier one; empty if it was not."""
        for attempt, identity in enumerate(self._identities(symbol, candle_seconds, kind)):
            if self.own.has(identity):
                return identity
            # On an empty disk nobody knows which were proved not placed.
            if attempt >= ATTEMPTS_MAX - 1 and identity not in self.own.not_placed:
                break
        return ""

    def _new_identity(self, order: WantedOrder, kind: str) -> str:
        identities = self._identities(order.symbol, order.candle_seconds, kind)
        return next(identity for identity in identities if identity not in self.own.not_placed)

    def _identities(self, symbol: str, candle_seconds: int, kind: str) -> Iterator[str]:
        for attempt in count():
            yield self._identity(symbol, candle_seconds, kind, attempt)

    def _identity(self, symbol: str, candle_seconds: int, kind: str, attempt: int = 0) -> str:
        return self._broker.client_order_id(symbol, self._strategy_name, candle_seconds, kind, attempt)

    def _send(self, order: WantedOrder, cl_ord_id: str) -> PlacedOrder:
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
            expire_seconds=self._entry_lifetime_seconds,
        )

    def _count_fills(self, fills: Sequence[NewFill]) -> None:
        for fill in fills:
            self._narrator.fill(fill, self._broker.pair(fill.order.symbol).quote)
        self.counts.fills += len(fills)
        self._fills.expect(fill.order for fill in fills)
        if fills:
            self.forget_balances()

    def _tell_cut_short(self) -> None:
        for order in self.own.cut_short():
            # What this bot cancels it tells itself.
            if order.txid not in self._cancelled:
                self._narrator.ended(order, self._broker.pair(order.symbol).quote)

    def _show_foreign(self) -> None:
        self._foreign_shown.intersection_update(self.own.foreign)
        for txid, order in self.own.foreign.items():
            if txid not in self._foreign_shown:
                self._foreign_shown.add(txid)
                self._narrator.open_order("an order of another sender, left alone", order)


def _numbered(kind: str, number: int) -> str:
    return f"{kind}{number + 1}" if number else kind

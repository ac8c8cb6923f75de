"""One account: its balances, the holds of its open orders, its orders and trades.

Money moves in one place, `apply_trade`, and always in whole units of the asset, so that start + trades = balances to
the last decimal. `audit` proves it.
"""

from __future__ import annotations

import base64
import hashlib
from bisect import insort
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from bot.simulator.fees import FEE_WINDOW_SECONDS

ZERO = Decimal(0)


@dataclass(slots=True)
class SimOrder:
    """An order as the exchange keeps it. `price` is the limit or trigger price, zero for market orders.

    Times are Unix seconds; `expires` and `closed` are zero when there is none. `held` is the amount of `spends` (the
    quote of a buy, the base of a sell) that is reserved. `stptype` is its self-trade prevention, "" for the default.
    """

    txid: str
    pair_id: str
    side: str
    kind: str
    price: Decimal
    volume: Decimal
    flags: tuple[str, ...]
    time_in_force: str
    spends: str
    opened: float
    expires: float = 0.0
    userref: int | None = None
    cl_ord_id: str = ""
    status: str = "pending"
    executed: Decimal = ZERO
    cost: Decimal = ZERO
    fee: Decimal = ZERO
    held: Decimal = ZERO
    closed: float = 0.0
    reason: str = ""
    misc: str = ""
    # Added to the file's format later, so a row of an order without it is as it was.
    stptype: str = field(default="", metadata={"optional": True})

    @property
    def remaining(self) -> Decimal:
        """The base volume not yet filled."""
        return self.volume - self.executed if self.executed else self.volume

    @property
    def is_buy(self) -> bool:
        """Whether the order buys the base asset."""
        return self.side == "buy"


@dataclass(frozen=True, slots=True)
class SimTrade:
    """One fill. `base_change` and `quote_change` are its changes of the two balances, fee included."""

    trade_id: str
    number: int
    order_txid: str
    pair_id: str
    side: str
    kind: str
    time: float
    price: Decimal
    volume: Decimal
    cost: Decimal
    fee: Decimal
    maker: bool
    base_asset: str
    quote_asset: str
    base_change: Decimal
    quote_change: Decimal


class Account:
    """The state of one account. Not thread-safe: the exchange's lock is around it."""

    def __init__(self, starting_balances: Mapping[str, Decimal], salt: str, issued_id_count: int = 0) -> None:
        self.starting_balances = dict(starting_balances)
        self.salt = salt
        self.issued_id_count = issued_id_count
        self.balances = dict(starting_balances)
        self.held: dict[str, Decimal] = {}
        self.orders: dict[str, SimOrder] = {}
        self.open_orders: dict[str, SimOrder] = {}
        self.closed_orders: list[SimOrder] = []
        self.trades: list[SimTrade] = []
        self.changed_orders: dict[str, SimOrder] = {}
        self.new_trades: list[SimTrade] = []
        self._fee_window_trades: deque[SimTrade] = deque()
        self._fee_window_cost = ZERO

    def restore(self, orders: Iterable[SimOrder], trades: Iterable[SimTrade]) -> None:
        """Take over the orders and trades of a saved account."""
        for trade in trades:
            self.apply_trade(trade)
        for order in sorted(orders, key=lambda kept: kept.opened):
            self.orders[order.txid] = order
            if order.status == "open":
                self.open_orders[order.txid] = order
                self.held[order.spends] = self.held.get(order.spends, ZERO) + order.held
            else:
                insort(self.closed_orders, order, key=lambda kept: kept.closed)
        self.clear_changes()

    def clear_changes(self) -> None:
        """Start a new list of changes; the last one has been saved."""
        self.changed_orders.clear()
        self.new_trades.clear()

    def new_id(self, prefix: str) -> str:
        """Return an id in Kraken's format (OQ7TEX-3F5KA-9ZPLMN), never issued before by this account."""
        self.issued_id_count += 1
        digest = hashlib.blake2b(f"{self.salt}:{self.issued_id_count}".encode(), digest_size=10).digest()
        text = base64.b32encode(digest).decode()
        return f"{prefix}{text[:5]}-{text[5:10]}-{text[10:16]}"

    def free_balance(self, asset: str) -> Decimal:
        """Return the amount that a new order may use."""
        return self.balances.get(asset, ZERO) - self.held.get(asset, ZERO)

    def open_order(self, order: SimOrder, amount: Decimal) -> None:
        """Let an order rest, with this amount held for it."""
        order.status = "open"
        self.orders[order.txid] = order
        self.open_orders[order.txid] = order
        self.set_hold(order, amount)

    def set_hold(self, order: SimOrder, amount: Decimal) -> None:
        """Change the amount that is held for an order."""
        self.held[order.spends] = self.held.get(order.spends, ZERO) - order.held + amount
        order.held = amount
        self.changed_orders[order.txid] = order

    def close_order(self, order: SimOrder, status: str, reason: str, now: float) -> None:
        """End an order for good and release its hold."""
        self.set_hold(order, ZERO)
        order.status, order.reason, order.closed = status, reason, now
        self.open_orders.pop(order.txid, None)
        self.orders[order.txid] = order
        insort(self.closed_orders, order, key=lambda kept: kept.closed)

    def record_fill(self, order: SimOrder, trade: SimTrade) -> None:
        """Add a trade to its order."""
        if order.executed:
            order.executed += trade.volume
            order.cost += trade.cost
            order.fee += trade.fee
        else:
            # The same numbers, not equal ones: most orders have one trade, and all are kept in memory.
            order.executed, order.cost, order.fee = trade.volume, trade.cost, trade.fee
        self.changed_orders[order.txid] = order
        self.new_trades.append(trade)
        self.apply_trade(trade)

    def apply_trade(self, trade: SimTrade) -> None:
        """Move the money of a trade."""
        for asset, change in ((trade.base_asset, trade.base_change), (trade.quote_asset, trade.quote_change)):
            self.balances[asset] = self.balances.get(asset, ZERO) + change
        self.trades.append(trade)
        self._fee_window_trades.append(trade)
        self._fee_window_cost += trade.cost

    def orders_by_client_id(self) -> dict[str, list[str]]:
        """Return the txids of all orders ever accepted, by client order id; one txid each if nothing was duplicated."""
        txids: dict[str, list[str]] = {}
        for order in self.orders.values():
            if order.cl_ord_id:
                txids.setdefault(order.cl_ord_id, []).append(order.txid)
        return txids

    def list_trade_ids(self, order: SimOrder) -> list[str]:
        """Return the ids of an order's trades, oldest first."""
        return [trade.trade_id for trade in self.trades if trade.order_txid == order.txid]

    def volume_30_days(self, now: float) -> Decimal:
        """Return the traded value of the last 30 days, in quote units (every quote counts as dollars here)."""
        while self._fee_window_trades and self._fee_window_trades[0].time <= now - FEE_WINDOW_SECONDS:
            self._fee_window_cost -= self._fee_window_trades.popleft().cost
        return self._fee_window_cost

    def audit(self) -> list[str]:
        """Return what does not add up, as sentences; an empty list is a consistent account."""
        expected = dict(self.starting_balances)
        executed: dict[str, Decimal] = {}
        for trade in self.trades:
            expected[trade.base_asset] = expected.get(trade.base_asset, ZERO) + trade.base_change
            expected[trade.quote_asset] = expected.get(trade.quote_asset, ZERO) + trade.quote_change
            executed[trade.order_txid] = executed.get(trade.order_txid, ZERO) + trade.volume
        held: dict[str, Decimal] = {}
        for order in self.open_orders.values():
            held[order.spends] = held.get(order.spends, ZERO) + order.held
        problems = [
            f"{asset}: the trades give {expected.get(asset, ZERO)}, the balance is {amount}"
            for asset, amount in self.balances.items()
            if amount != expected.get(asset, ZERO)
        ]
        problems += [
            f"{asset}: {amount} is held, the orders hold {held.get(asset, ZERO)}"
            for asset, amount in self.held.items()
            if amount != held.get(asset, ZERO)
        ]
        problems += [f"{asset}: less than nothing is free" for asset in self.balances if self.free_balance(asset) < 0]
        problems += [
            f"{order.txid}: executed {order.executed}, its trades give {executed.get(order.txid, ZERO)}"
            for order in self.orders.values()
            if order.executed != executed.get(order.txid, ZERO) or order.executed > order.volume
        ]
        return problems

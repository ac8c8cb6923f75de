"""The exchange: one account on one market. A state machine without I/O; the time is given with every call."""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from typing import Any

from bot.simulator.account import ZERO, Account, SimOrder
from bot.simulator.errors import Refusal, SimulatorError
from bot.simulator.faults import FAITHFUL, ExchangeBehavior
from bot.simulator.instruments import Instruments, PairRules
from bot.simulator.limits import RateLimits, SimTier, cancel_penalty
from bot.simulator.matching import MatchingEngine
from bot.simulator.orders import Params, find_pair, invalid_argument, parse_bool, parse_order
from bot.simulator.prices import PriceSource
from bot.simulator.serializers import describe_order

SYSTEM_STATUSES = ("online", "maintenance", "cancel_only", "post_only")
PAIR_STATUSES = ("online", "cancel_only", "post_only", "limit_only", "reduce_only")
DEAD_MAN_SWITCH_SECONDS_MAX = 86400


class Exchange:
    """Places, cancels and matches orders. Not thread-safe: the server's lock is around it."""

    def __init__(
        self,
        account: Account,
        instruments: Instruments,
        prices: PriceSource,
        tier: SimTier,
        now: float,
        behavior: ExchangeBehavior = FAITHFUL,
    ) -> None:
        self.account = account
        self.instruments = instruments
        self.prices = prices
        self.limits = RateLimits(tier)
        self.behavior = behavior
        self.matching = MatchingEngine(account, instruments, prices, now, behavior)
        self._status = "online"
        self._pair_statuses: dict[str, str] = {}

    @property
    def now(self) -> float:
        """The market time up to which everything has been matched."""
        return self.matching.now

    @property
    def dead_man_switch_at(self) -> float | None:
        """The time at which the dead man's switch fires, if it is armed."""
        return self.matching.dead_man_switch_at

    @property
    def server_time(self) -> float:
        """The time of the exchange's own clock."""
        return self.behavior.server_time(self.now)

    def advance(self, now: float) -> None:
        """Move along the price path to `now` and match everything on the way."""
        self.matching.advance(now)

    def status(self, now: float) -> str:
        """Return the system status: the one that was set, or the one that the prices allow."""
        return self._status if self._status != "online" else self.prices.status(now)

    def set_status(self, status: str) -> None:
        """Set the system status (Kraken: SystemStatus page)."""
        if status not in SYSTEM_STATUSES:
            raise SimulatorError(f"There is no system status {status}; there are {', '.join(SYSTEM_STATUSES)}.")
        self._status = status

    def pair_status(self, pair: PairRules) -> str:
        """Return the status of a pair."""
        return self._pair_statuses.get(pair.pair_id, "online")

    def set_pair_status(self, name: str, status: str) -> None:
        """Set the status of a pair, by any of its names (Kraken: AssetPairs page)."""
        pair = self.instruments.find(name)
        if pair is None:
            raise SimulatorError(f"There is no pair {name}.")
        if status not in PAIR_STATUSES:
            raise SimulatorError(f"There is no status {status} of a pair; there are {', '.join(PAIR_STATUSES)}.")
        self._pair_statuses[pair.pair_id] = status

    def arm_dead_man_switch(self, seconds: int) -> float | None:
        """Cancel everything after so many seconds unless armed again; 0 disarms. Return the time at which it fires."""
        if seconds > DEAD_MAN_SWITCH_SECONDS_MAX:
            raise Refusal("EGeneral:Invalid timeout argument:above max")
        self.matching.dead_man_switch_at = self.now + seconds if seconds else None
        return self.matching.dead_man_switch_at

    def add_order(self, params: Params) -> dict[str, Any]:
        """Answer AddOrder. Raises Refusal."""
        order = self.validate_order(params)
        if not parse_bool(params.get("validate", "")):
            return self.place_order(order)
        self._size_market_order(order)
        return {"descr": {"order": describe_order(order, self.pair_of(order))}}

    def validate_order(self, params: Params) -> SimOrder:
        """Check an AddOrder as the gateway does, before it reaches the engine. Raises Refusal."""
        pair = find_pair(self.instruments, params.get("pair", ""))
        if not parse_bool(params.get("validate", "")):
            # The fixed part is charged even if the order is refused (Kraken: matching-engine limits page).
            self.limits.spend_engine(pair.pair_id, 1, self.now)
        order = parse_order(pair, params, self.now)
        self.behavior.check_deadline(params, self.now)
        return order

    def place_order(self, order: SimOrder) -> dict[str, Any]:
        """Place a valid order at the engine and answer it. Raises Refusal."""
        self._size_market_order(order)
        order.txid, order.opened = self.account.new_id("O"), self.now
        self._check_status(order)
        self._check_open_order_rules(order)
        self.matching.submit(order)
        return {"descr": {"order": describe_order(order, self.pair_of(order))}, "txid": [order.txid]}

    def _size_market_order(self, order: SimOrder) -> None:
        """Turn a market order's volume in quote into one in base; check its cost."""
        if order.kind != "market":
            return
        pair = self.pair_of(order)
        ask = self.prices.price(pair, self.now) + pair.tick_size
        if "viqc" in order.flags:
            order.volume = (order.volume / ask).quantize(Decimal(1).scaleb(-pair.lot_decimals), ROUND_DOWN)
            if order.volume < pair.order_minimum:
                raise invalid_argument("volume minimum not met")
        if ask * order.volume < pair.cost_minimum:
            raise Refusal("EOrder:Cost minimum not met")

    def _check_status(self, order: SimOrder) -> None:
        status = self.status(self.now)
        if status == "maintenance":
            raise Refusal("EService:Unavailable")
        for mode in (status, self.pair_status(self.pair_of(order))):
            # Orders that reduce a position are margin orders, which this exchange does not have.
            allowed = {
                "online": True,
                "post_only": "post" in order.flags,
                "limit_only": order.kind == "limit",
            }
            if not allowed.get(mode, False):
                raise Refusal(f"EService:Market in {mode} mode")

    def _check_open_order_rules(self, order: SimOrder) -> None:
        open_orders = self.account.open_orders.values()
        self.limits.check_open_order_limit(sum(other.pair_id == order.pair_id for other in open_orders))
        if order.cl_ord_id and any(other.cl_ord_id == order.cl_ord_id for other in open_orders):
            # Kraken does not publish its string for this.
            raise Refusal("EOrder:Duplicate order")

    def cancel(self, params: Params) -> dict[str, Any]:
        """Answer CancelOrder by txid, userref or client order id. Raises Refusal when no such order is open."""
        if not params.get("txid", "") and not params.get("cl_ord_id", ""):
            raise invalid_argument("txid")
        if self.status(self.now) == "maintenance":
            raise Refusal("EService:Unavailable")
        orders = self.find_open_orders(params)
        if not orders:
            raise Refusal("EOrder:Invalid order")
        for order in orders:
            self.limits.spend_engine(order.pair_id, cancel_penalty(self.now - order.opened), self.now)
        return self._close_as_canceled(orders)

    def find_open_orders(self, params: Params) -> list[SimOrder]:
        """Return the open orders that a CancelOrder names."""
        name, client_id = params.get("txid", ""), params.get("cl_ord_id", "")
        return [
            order
            for order in self.account.open_orders.values()
            if (client_id and order.cl_ord_id == client_id)
            or (name and (order.txid == name or str(order.userref) == name))
        ]

    def cancel_all(self) -> dict[str, Any]:
        """Answer CancelAll; each order adds its penalty, but none causes a refusal."""
        if self.status(self.now) == "maintenance":
            raise Refusal("EService:Unavailable")
        orders = list(self.account.open_orders.values())
        for order in orders:
            # Without a refusal: bulk cancels go through (Kraken: matching-engine limits page).
            self.limits.engine_counter(order.pair_id).add(cancel_penalty(self.now - order.opened), self.now)
        return self._close_as_canceled(orders)

    def _close_as_canceled(self, orders: list[SimOrder]) -> dict[str, Any]:
        for order in orders:
            self.account.close_order(order, "canceled", "User requested", self.now)
        return {"count": len(orders)}

    def value_of(self, asset: str, quote: str) -> Decimal:
        """Return the value of the whole balance of an asset in `quote`, zero where no pair connects them."""
        amount = self.account.balances.get(asset, ZERO)
        if asset == quote:
            return amount
        pair = next((p for p in self.instruments.pairs if (p.base.asset_id, p.quote.asset_id) == (asset, quote)), None)
        return amount * self.prices.price(pair, self.now) if pair else ZERO

    def pair_of(self, order: SimOrder) -> PairRules:
        """Return the pair of an order."""
        return self.instruments.get(order.pair_id)

"""The exchange: one account on one market. A state machine without I/O; the time is given with every call."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal
from typing import Any

from bot.simulator.account import ZERO, Account, Order
from bot.simulator.errors import Refusal, SimulatorError
from bot.simulator.instruments import Catalogue, PairRules
from bot.simulator.limits import Limits, Tier, cancel_penalty
from bot.simulator.matching import Matching, whole
from bot.simulator.orders import OrderRequest, Params, check_deadline, find_pair, invalid, read_order, truth
from bot.simulator.prices import PriceSource
from bot.simulator.serializers import describe

STATUSES = ("online", "maintenance", "cancel_only", "post_only")
PAIR_STATUSES = ("online", "cancel_only", "post_only", "limit_only", "reduce_only")
SWITCH_MAXIMUM_SECONDS = 86400


@dataclass(frozen=True, slots=True)
class DeadlineRules:
    """Whether orders are refused after their deadline, and whether the engine looks at it again after its queue.

    `clock_offset_seconds`: how far the clock of deadlines and of Time is ahead of the market's.
    """

    enforced: bool = True
    at_engine: bool = True
    clock_offset_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Queued:
    """An order that the gateway has let through. `due`: when the engine comes to it, in market time."""

    due: float
    request: OrderRequest
    params: Params


class Exchange:
    """Places, cancels and matches orders. Not thread-safe: the server's lock is around it."""

    def __init__(
        self,
        account: Account,
        catalogue: Catalogue,
        prices: PriceSource,
        tier: Tier,
        now: float,
        portion: Callable[[Order], Decimal] = whole,
        deadlines: DeadlineRules | None = None,
    ) -> None:
        self.account = account
        self.catalogue = catalogue
        self.prices = prices
        self.limits = Limits(tier)
        self._matching = Matching(account, catalogue, prices, now, portion)
        self._deadlines = deadlines or DeadlineRules()
        self._queue: list[_Queued] = []
        self._status = "online"
        self._pair_statuses: dict[str, str] = {}

    @property
    def now(self) -> float:
        """Market time up to which everything has been matched."""
        return self._matching.now

    @property
    def switch_at(self) -> float | None:
        """When the dead man's switch fires, if it is armed."""
        return self._matching.switch_at

    @property
    def time(self) -> float:
        """What the exchange's own clock shows."""
        return self.now + self._deadlines.clock_offset_seconds

    def advance(self, now: float) -> None:
        """Move along the price path to `now`, match everything on the way and place what was queued until then."""
        while self._queue and self._queue[0].due <= now:
            queued = self._queue.pop(0)
            self._matching.advance(queued.due)
            with suppress(Refusal):
                if self._deadlines.at_engine:
                    self._check_deadline(queued.params)
                self._place(queued.request)
        self._matching.advance(now)

    def status(self, now: float) -> str:
        """Return the system status: the one that was set, or what the prices allow."""
        return self._status if self._status != "online" else self.prices.status(now)

    def set_status(self, status: str) -> None:
        """Set the system status (Kraken: SystemStatus page)."""
        if status not in STATUSES:
            raise SimulatorError(f"There is no system status {status}; there are {', '.join(STATUSES)}.")
        self._status = status

    def pair_status(self, pair: PairRules) -> str:
        """Return the status of a pair."""
        return self._pair_statuses.get(pair.pair_id, "online")

    def set_pair_status(self, name: str, status: str) -> None:
        """Set the status of a pair, by any of its names (Kraken: AssetPairs page)."""
        pair = self.catalogue.find(name)
        if pair is None:
            raise SimulatorError(f"There is no pair {name}.")
        if status not in PAIR_STATUSES:
            raise SimulatorError(f"There is no status {status} of a pair; there are {', '.join(PAIR_STATUSES)}.")
        self._pair_statuses[pair.pair_id] = status

    def arm_switch(self, seconds: int) -> float | None:
        """Cancel everything after so many seconds unless armed again; 0 disarms. Return when it fires."""
        if seconds > SWITCH_MAXIMUM_SECONDS:
            raise Refusal("EGeneral:Invalid timeout argument:above max")
        self._matching.switch_at = self.now + seconds if seconds else None
        return self._matching.switch_at

    def restore_switch(self, fires: float | None) -> None:
        """Take over the dead man's switch of a kept account."""
        self._matching.switch_at = fires

    def add_order(self, params: Params) -> dict[str, Any]:
        """Answer AddOrder. Raises Refusal."""
        request = self._pass_gateway(params)
        if not request.validate:
            return self._place(request)
        return {"descr": {"order": describe(self._order(request), request.pair)}}

    def queue_order(self, params: Params, seconds: float) -> dict[str, Any]:
        """Take in an AddOrder that the engine comes to so much later. Raises Refusal where the gateway refuses it."""
        request = self._pass_gateway(params)
        if not request.validate:
            self._queue.append(_Queued(self.now + seconds, request, params))
        return {}

    def _pass_gateway(self, params: Params) -> OrderRequest:
        pair = find_pair(self.catalogue, params.get("pair", ""))
        if not truth(params.get("validate", "")):
            # The fixed part is charged even if the order is refused (Kraken: matching-engine limits page).
            self.limits.spend_engine(pair.pair_id, 1, self.now)
        request = read_order(pair, params, self.now)
        self._check_deadline(params)
        return request

    def _check_deadline(self, params: Params) -> None:
        if self._deadlines.enforced:
            check_deadline(params, self.time)

    def _place(self, request: OrderRequest) -> dict[str, Any]:
        order = self._order(request)
        self._check_status(request)
        self._check_engine(request)
        self._matching.submit(order)
        return {"descr": {"order": describe(order, request.pair)}, "txid": [order.txid]}

    def _order(self, request: OrderRequest) -> Order:
        pair, volume = request.pair, request.volume
        if request.kind == "market":
            ask = self.prices.price(pair, self.now) + pair.tick_size
            volume = self._base_volume(request, ask) if request.in_quote else volume
            if ask * volume < pair.cost_minimum:
                raise Refusal("EOrder:Cost minimum not met")
        spends = pair.quote if request.side == "buy" else pair.base
        return Order(
            "" if request.validate else self.account.new_id("O"),
            pair.pair_id, request.side, request.kind, request.price, volume, request.flags, request.time_in_force,
            spends.asset_id, self.now, request.expires, request.userref, request.cl_ord_id,
        )  # fmt: skip

    @staticmethod
    def _base_volume(request: OrderRequest, price: Decimal) -> Decimal:
        volume = (request.volume / price).quantize(Decimal(1).scaleb(-request.pair.lot_decimals), ROUND_DOWN)
        if volume < request.pair.order_minimum:
            raise invalid("volume minimum not met")
        return volume

    def _check_status(self, request: OrderRequest) -> None:
        status = self.status(self.now)
        if status == "maintenance":
            raise Refusal("EService:Unavailable")
        for mode in (status, self.pair_status(request.pair)):
            # Orders that reduce a position are margin orders, which there are none of here.
            allowed = {
                "online": True,
                "post_only": "post" in request.flags,
                "limit_only": request.kind == "limit",
            }
            if not allowed.get(mode, False):
                raise Refusal(f"EService:Market in {mode} mode")

    def _check_engine(self, request: OrderRequest) -> None:
        on_pair = [o for o in self.account.open_orders.values() if o.pair_id == request.pair.pair_id]
        self.limits.check_open_orders(len(on_pair))
        if request.cl_ord_id and any(o.cl_ord_id == request.cl_ord_id for o in self.account.open_orders.values()):
            # Kraken does not publish its words for this.
            raise Refusal("EOrder:Duplicate order")

    def cancel(self, params: Params) -> dict[str, Any]:
        """Answer CancelOrder by txid, userref or client id. Raises Refusal when nothing of that name is open."""
        if not params.get("txid", "") and not params.get("cl_ord_id", ""):
            raise invalid("txid")
        if self.status(self.now) == "maintenance":
            raise Refusal("EService:Unavailable")
        chosen = self._named(params)
        if not chosen:
            raise Refusal("EOrder:Invalid order")
        for order in chosen:
            self.limits.spend_engine(order.pair_id, cancel_penalty(self.now - order.opened), self.now)
        return self._cancel(chosen)

    def fill_named(self, params: Params) -> None:
        """Fill the open orders that a CancelOrder names."""
        for order in self._named(params):
            self._matching.fill_now(order)

    def _named(self, params: Params) -> list[Order]:
        name, client_id = params.get("txid", ""), params.get("cl_ord_id", "")
        return [
            order
            for order in self.account.open_orders.values()
            if (client_id and order.cl_ord_id == client_id)
            or (name and (order.txid == name or str(order.userref) == name))
        ]

    def cancel_all(self) -> dict[str, Any]:
        """Answer CancelAll; each order attracts its penalty, but nothing is refused for it."""
        if self.status(self.now) == "maintenance":
            raise Refusal("EService:Unavailable")
        chosen = list(self.account.open_orders.values())
        for order in chosen:
            self.limits.charge_engine(order.pair_id, cancel_penalty(self.now - order.opened), self.now)
        return self._cancel(chosen)

    def _cancel(self, chosen: list[Order]) -> dict[str, Any]:
        for order in chosen:
            self.account.close(order, "canceled", "User requested", self.now)
        return {"count": len(chosen)}

    def value_of(self, asset: str, quote: str) -> Decimal:
        """Return the worth of the whole balance of an asset in `quote`, zero where no pair connects them."""
        amount = self.account.balances.get(asset, ZERO)
        if asset == quote:
            return amount
        pair = next((p for p in self.catalogue.pairs if (p.base.asset_id, p.quote.asset_id) == (asset, quote)), None)
        return amount * self.prices.price(pair, self.now) if pair else ZERO

    def pair_of(self, order: Order) -> PairRules:
        """Return the pair of an order."""
        return self.catalogue.get(order.pair_id)

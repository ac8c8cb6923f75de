"""The deviations from a faithful exchange: injected faults, query lag, deadlines that are not enforced.

All are off by default, and everything random comes from one seed. A client must survive all faults. Each has a name and
a rate (chance per private request); its row of FAULTS says how the request arrives, how the exchange processes it and
what happens to the answer. Two faults have no row: `error`, a given string (only by `raise_next`), and `partial_fill`
(chance per fill), which fills half of the rest.

`FaultInjector` decides which faults happen, and a `Fault` is asked at each step of its request. `QueuedOrder` and
`DelayedRequest` take effect later. `ExchangeBehavior` has the deviations that hold for the whole account.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from enum import Enum, auto
from typing import TYPE_CHECKING, Any, ClassVar

from bot.simulator.account import SimOrder
from bot.simulator.errors import Refusal, SimulatorError
from bot.simulator.keys import ApiKey
from bot.simulator.options import SimulatorOptions
from bot.simulator.orders import Params, check_deadline, parse_bool

if TYPE_CHECKING:
    from bot.simulator.api import Api

PARTIAL_FILL = "partial_fill"
ERROR = "error"
THROTTLED_SECONDS = 3


class RequestDelivery(Enum):
    """How a request reaches the exchange."""

    IMMEDIATE = auto()
    DROPPED = auto()
    DELAYED = auto()
    DUPLICATED = auto()


class ResponseMode(Enum):
    """What happens to the answer. SECOND_RESPONSE: of two answers to the same request, the second one."""

    FULL = auto()
    SECOND_RESPONSE = auto()
    CLOSE = auto()
    RESET = auto()
    TRUNCATED = auto()
    HTML = auto()
    HTTP_502 = auto()
    REDIRECT = auto()
    SLOW = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with one request: how it arrives, how it is processed, and what happens to its answer.

    `error` is a string that the sender gets in place of the answer; it may contain `{until}`, a time in the near
    future. `is_executed`: the request is executed all the same. `is_gateway_error`: the error is sent before the nonce
    is checked, and also in place of a refusal by the exchange. `methods` are the affected methods (empty: all).
    `is_planned`: for this request, not by chance.
    """

    name: str
    delivery: RequestDelivery = RequestDelivery.IMMEDIATE
    response: ResponseMode = ResponseMode.FULL
    methods: tuple[str, ...] = ()
    error: str = ""
    is_executed: bool = False
    is_gateway_error: bool = False
    is_planned: bool = False

    def before_public_call(self, api: Api) -> None:
        """Act before a public request is answered. May raise Refusal."""
        if self.error:
            raise self._refusal(api)

    def before_authentication(self, api: Api, key: str, nonce: str) -> None:
        """Act before the nonce of a private request is checked. May raise Refusal."""
        if self.is_gateway_error and not self.is_executed:
            raise self._refusal(api)

    def execute(self, api: Api, method: str, params: Params, key: ApiKey) -> Any:
        """Execute a private request whose nonce was accepted, and answer it. Raises Refusal."""
        if not self.error:
            return api.private_endpoints.execute(method, params, key)
        if self.is_executed:
            with suppress(Refusal):
                api.private_endpoints.execute(method, params, key)
        raise self._refusal(api)

    def replace_refusal(self, api: Api, refusal: Refusal) -> Refusal:
        """Return the refusal that the sender of a private request sees."""
        return self._refusal(api) if self.is_gateway_error else refusal

    def _refusal(self, api: Api) -> Refusal:
        return Refusal(self.error.replace("{until}", str(int(api.exchange.server_time) + THROTTLED_SECONDS)))


class ExternalNonceFault(Fault):
    """Another sender on the key has the same nonce accepted first."""

    __slots__ = ()

    def before_authentication(self, api: Api, key: str, nonce: str) -> None:
        """Raise the key's nonce floor to the request's nonce."""
        if key in api.keys.keys and nonce.isdigit():
            api.keys.raise_nonce_floor(key, int(nonce))


class QueuedFault(Fault):
    """The gateway accepts an order that the engine processes later."""

    __slots__ = ()

    def execute(self, api: Api, method: str, params: Params, key: ApiKey) -> Any:
        """Check the order at the gateway and queue it."""
        api.private_endpoints.authorize(method, key)
        order = api.exchange.validate_order(params)
        if not parse_bool(params.get("validate", "")):
            api.schedule(QueuedOrder(api.exchange.now + api.options.queue_seconds, order, params))
        return {}


class CancelRaceFault(Fault):
    """An order is filled the instant before its cancel arrives."""

    __slots__ = ()

    def execute(self, api: Api, method: str, params: Params, key: ApiKey) -> Any:
        """Fill the orders that the cancel names, then answer it."""
        api.private_endpoints.authorize(method, key)
        for order in api.exchange.find_open_orders(params):
            api.exchange.matching.fill_now(order)
        return api.private_endpoints.methods[method](params, key)


NO_FAULT = Fault("")
FAULTS = {
    fault.name: fault
    for fault in (
        Fault("refuse_502", RequestDelivery.DROPPED, ResponseMode.HTTP_502),
        Fault("redirect_307", RequestDelivery.DROPPED, ResponseMode.REDIRECT),
        Fault("spurious_nonce", error="EAPI:Invalid nonce", is_gateway_error=True),
        ExternalNonceFault("foreign_nonce"),
        Fault("answer_502", response=ResponseMode.HTTP_502),
        Fault("reset", response=ResponseMode.RESET),
        Fault("half_body", response=ResponseMode.TRUNCATED),
        Fault("html", response=ResponseMode.HTML),
        Fault("slow", response=ResponseMode.SLOW),
        Fault("no_answer", response=ResponseMode.CLOSE),
        Fault("delayed", RequestDelivery.DELAYED, ResponseMode.CLOSE),
        Fault("duplicated_first", RequestDelivery.DUPLICATED),
        Fault("duplicated_second", RequestDelivery.DUPLICATED, ResponseMode.SECOND_RESPONSE),
        Fault("gateway_limit", error="EAPI:Rate limit exceeded", is_gateway_error=True),
        Fault("gateway_lockout", error="EGeneral:Temporary lockout", is_gateway_error=True),
        Fault("gateway_throttled", error="EService: Throttled: {until}", is_gateway_error=True),
        Fault("gateway_limit_executed", error="EAPI:Rate limit exceeded", is_gateway_error=True, is_executed=True),
        Fault("unavailable", error="EService:Unavailable"),
        Fault("busy", error="EService:Busy"),
        Fault("timeout", error="EService:Timeout"),
        Fault("internal_error", error="EGeneral:Internal error"),
        Fault("unavailable_executed", error="EService:Unavailable", is_executed=True),
        Fault("busy_executed", error="EService:Busy", is_executed=True),
        Fault("timeout_executed", error="EService:Timeout", is_executed=True),
        Fault("internal_error_executed", error="EGeneral:Internal error", is_executed=True),
        Fault("deadline_elapsed", error="EService:Deadline elapsed", methods=("AddOrder",)),
        QueuedFault("queued", response=ResponseMode.CLOSE, methods=("AddOrder",)),
        CancelRaceFault("cancel_race", methods=("CancelOrder",)),
    )
}
FAULT_NAMES = tuple(FAULTS)


class FaultInjector:
    """Decides for each request which fault happens. `fired_counts` counts the faults by name. Thread-safe."""

    def __init__(self, rates: Mapping[str, float] | None = None, seed: int = 1) -> None:
        self.fired_counts: Counter[str] = Counter()
        self._rates: dict[str, float] = {}
        self._random = random.Random(seed)
        self._planned: list[tuple[str, Fault]] = []
        self._lock = threading.Lock()
        for name, rate in (rates or {}).items():
            self.set_rate(name, rate)

    def set_rate(self, name: str, rate: float) -> None:
        """Give a fault its chance per request, from 0 to 1. Raises SimulatorError for an unknown name."""
        if name not in FAULTS and name != PARTIAL_FILL:
            raise SimulatorError(f"There is no fault {name}; there are {', '.join((*FAULT_NAMES, PARTIAL_FILL))}.")
        if not 0.0 <= rate <= 1.0:
            raise SimulatorError(f"The rate of {name} must be from 0 to 1, not {rate}.")
        with self._lock:
            self._rates[name] = rate

    def clear(self) -> None:
        """Remove all rates and planned faults."""
        with self._lock:
            self._rates.clear()
            self._planned.clear()

    def fire_next(self, name: str, method: str, times: int = 1) -> None:
        """Apply a named fault to the next request(s) of a method, such as AddOrder."""
        if name not in FAULTS:
            raise SimulatorError(f"There is no fault {name}; there are {', '.join(FAULT_NAMES)}.")
        fault = replace(FAULTS[name], is_planned=True)
        if not _applies_to(fault, method):
            raise SimulatorError(f"The fault {name} concerns {', '.join(fault.methods)} only, not {method}.")
        with self._lock:
            self._planned += [(method, fault)] * times

    def raise_next(self, method: str, error: str, times: int = 1, executed: bool = False) -> None:
        """Answer the next request(s) of a method with an error string; `executed`: after executing it all the same."""
        with self._lock:
            self._planned += [(method, Fault(ERROR, error=error, is_executed=executed))] * times

    def next_fault(self, method: str, is_private: bool) -> Fault | None:
        """Return the fault for one request, if any. Rates concern private requests only."""
        with self._lock:
            fault = self._next_planned(method) or (self._next_random(method) if is_private else None)
            if fault is not None:
                self.fired_counts[fault.name] += 1
            return fault

    def random_latency(self, bounds_seconds: tuple[float, float]) -> float:
        """Return the latency of one request, in seconds."""
        if bounds_seconds == (0, 0):
            return 0.0
        with self._lock:
            return self._random.uniform(*bounds_seconds)

    def copy_delay(self, fault: Fault, max_seconds: float) -> float:
        """Return the delay of a request's copy in seconds: the maximum for a planned fault, otherwise a random part
        of it."""
        if fault.is_planned:
            return max_seconds
        with self._lock:
            return self._random.uniform(0.0, max_seconds)

    def fill_volume(self, order: SimOrder) -> Decimal:
        """Return how much of an order is filled at once: all of the rest, or half of it by fault."""
        rate = self._rates.get(PARTIAL_FILL, 0.0)
        if not rate:
            return order.remaining
        half = (order.remaining / 2).quantize(Decimal("0.00000001"), ROUND_DOWN)
        with self._lock:
            if self._random.random() >= rate or half < Decimal("0.0001"):
                return order.remaining
            self.fired_counts[PARTIAL_FILL] += 1
            return half

    def _next_planned(self, method: str) -> Fault | None:
        for index, (planned_method, fault) in enumerate(self._planned):
            if planned_method == method:
                del self._planned[index]
                return fault
        return None

    def _next_random(self, method: str) -> Fault | None:
        for name, rate in self._rates.items():
            fault = FAULTS.get(name)
            if fault and rate and _applies_to(fault, method) and self._random.random() < rate:
                return fault
        return None


def _applies_to(fault: Fault, method: str) -> bool:
    return not fault.methods or method in fault.methods


class ExchangeBehavior:
    """The behavior that the options describe: partial fills, query lag, and the clock and enforcement of deadlines.

    An order that closes leaves OpenOrders at once, so for a while it may be in neither query. Each order has its own
    lags, which depend on the seed and on the order's id (the client order id, if there is one) alone: they are the same
    after a restart.
    """

    def __init__(self, options: SimulatorOptions | None = None, injector: FaultInjector | None = None) -> None:
        self._options = options or SimulatorOptions()
        self._injector = injector or FaultInjector()

    def fill_volume(self, order: SimOrder) -> Decimal:
        """Return how much of an order is filled at a time: all of the rest, or half of it by fault."""
        return self._injector.fill_volume(order)

    def server_time(self, now: float) -> float:
        """Return the time of the exchange's own clock, which Time shows and deadlines are compared with."""
        return now + self._options.clock_offset_seconds

    def check_deadline(self, params: Params, now: float) -> None:
        """Raise Refusal when the order's deadline has passed or is invalid, unless deadlines are not enforced."""
        if self._options.enforce_deadline:
            check_deadline(params, self.server_time(now))

    def is_open_order_visible(self, order: SimOrder, now: float) -> bool:
        """Tell whether OpenOrders shows an open order yet."""
        return now >= order.opened + self._lag_seconds(order, "open", self._options.open_lag_seconds)

    def is_closed_order_visible(self, order: SimOrder, now: float) -> bool:
        """Tell whether ClosedOrders shows a closed order yet."""
        return now >= order.closed + self._lag_seconds(order, "closed", self._options.closed_lag_seconds)

    def _lag_seconds(self, order: SimOrder, query: str, max_seconds: float) -> float:
        if not max_seconds:
            return 0.0
        return random.Random(f"{self._options.seed} {query} {order.cl_ord_id or order.txid}").uniform(0.0, max_seconds)


FAITHFUL = ExchangeBehavior()


@dataclass(frozen=True, slots=True)
class QueuedOrder:
    """An order that the gateway has accepted. `due_at` is the market time at which the engine processes it."""

    due_at: float
    order: SimOrder
    params: Params
    # At the same time an order in the engine is ahead of a request that has yet to arrive.
    rank: ClassVar[int] = 0

    def run(self, api: Api) -> None:
        """Place the order; nobody sees a refusal."""
        with suppress(Refusal):
            if api.options.deadline_checked_at == "engine":
                api.exchange.behavior.check_deadline(self.params, api.exchange.now)
            api.exchange.place_order(self.order)


@dataclass(frozen=True, slots=True)
class DelayedRequest:
    """A copy of a request that is still in flight. `due_at` is market time."""

    due_at: float
    http_method: str
    target: str
    headers: Mapping[str, str]
    body: bytes
    rank: ClassVar[int] = 1

    def run(self, api: Api) -> None:
        """Process the copy; nobody sees its answer."""
        with suppress(Refusal):
            api.dispatch(self.http_method, self.target, self.headers, self.body, NO_FAULT)

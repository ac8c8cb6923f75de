"""Injected faults: each has a name and a rate (chance per private request), zero by default, from one seed.

The client must survive all of them. Each row of FAULTS says what the fault does to its request: how the request
arrives, which error string answers it, whether it runs, and what happens to the answer. Two faults have no row:
`error`, a given string (only by `raise_next`), and `partial_fill` (chance per fill), which fills half of the rest.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from enum import Enum, auto

from bot.simulator.account import SimOrder
from bot.simulator.errors import SimulatorError

PARTIAL_FILL = "partial_fill"
ERROR = "error"
EXTERNAL_NONCE = "foreign_nonce"
QUEUED = "queued"
CANCEL_RACE = "cancel_race"


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
    """What goes wrong with one request.

    `error` replaces the result in the answer; `is_executed`: the request runs all the same; `is_gateway_error`: the
    error is sent before the nonce is checked. `methods` are the affected methods (empty: all). `is_planned`: for this
    request, not by chance.
    """

    name: str
    delivery: RequestDelivery = RequestDelivery.IMMEDIATE
    response: ResponseMode = ResponseMode.FULL
    error: str = ""
    is_executed: bool = True
    is_gateway_error: bool = False
    methods: tuple[str, ...] = ()
    is_planned: bool = False


def _error_fault(name: str, error: str, *, is_executed: bool = False, is_gateway_error: bool = False) -> Fault:
    return Fault(name, error=error, is_executed=is_executed, is_gateway_error=is_gateway_error)


NO_FAULT = Fault("")
FAULTS = {
    fault.name: fault
    for fault in (
        Fault("refuse_502", RequestDelivery.DROPPED, ResponseMode.HTTP_502),
        Fault("redirect_307", RequestDelivery.DROPPED, ResponseMode.REDIRECT),
        _error_fault("spurious_nonce", "EAPI:Invalid nonce", is_gateway_error=True),
        Fault(EXTERNAL_NONCE),
        Fault("answer_502", response=ResponseMode.HTTP_502),
        Fault("reset", response=ResponseMode.RESET),
        Fault("half_body", response=ResponseMode.TRUNCATED),
        Fault("html", response=ResponseMode.HTML),
        Fault("slow", response=ResponseMode.SLOW),
        Fault("no_answer", response=ResponseMode.CLOSE),
        Fault("delayed", RequestDelivery.DELAYED, ResponseMode.CLOSE),
        Fault("duplicated_first", RequestDelivery.DUPLICATED),
        Fault("duplicated_second", RequestDelivery.DUPLICATED, ResponseMode.SECOND_RESPONSE),
        _error_fault("gateway_limit", "EAPI:Rate limit exceeded", is_gateway_error=True),
        _error_fault("gateway_lockout", "EGeneral:Temporary lockout", is_gateway_error=True),
        _error_fault("gateway_throttled", "EService: Throttled: {until}", is_gateway_error=True),
        _error_fault("gateway_limit_executed", "EAPI:Rate limit exceeded", is_gateway_error=True, is_executed=True),
        _error_fault("unavailable", "EService:Unavailable"),
        _error_fault("busy", "EService:Busy"),
        _error_fault("timeout", "EService:Timeout"),
        _error_fault("internal_error", "EGeneral:Internal error"),
        _error_fault("unavailable_executed", "EService:Unavailable", is_executed=True),
        _error_fault("busy_executed", "EService:Busy", is_executed=True),
        _error_fault("timeout_executed", "EService:Timeout", is_executed=True),
        _error_fault("internal_error_executed", "EGeneral:Internal error", is_executed=True),
        Fault("deadline_elapsed", error="EService:Deadline elapsed", is_executed=False, methods=("AddOrder",)),
        Fault(QUEUED, response=ResponseMode.CLOSE, methods=("AddOrder",)),
        Fault(CANCEL_RACE, methods=("CancelOrder",)),
    )
}
FAULT_NAMES = tuple(FAULTS)


class FaultInjector:
    """Decides for each request which fault happens. `fired` counts the faults by name. Thread-safe."""

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

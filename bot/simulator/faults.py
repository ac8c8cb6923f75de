"""Faults on purpose: each has a name and a rate (chance per private request), zero by default, from one seed.

Which of them the client must survive: all. What each does to the request that meets it is a row of FAULTS: how the
request arrives, what error string it is answered with, whether it runs, and what becomes of the answer. Two have no
row: `error`, a given string (only by `raise_next`), and `partial_fill` (chance per fill), which fills half of the rest.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_DOWN, Decimal
from enum import Enum, auto

from bot.simulator.account import Order
from bot.simulator.errors import SimulatorError

PARTIAL_FILL = "partial_fill"
ERROR = "error"
FOREIGN_NONCE = "foreign_nonce"
QUEUED = "queued"
CANCEL_RACE = "cancel_race"


class Arrival(Enum):
    """How a request comes to the exchange."""

    AT_ONCE = auto()
    NEVER = auto()
    LATE = auto()
    TWICE = auto()


class Answer(Enum):
    """What becomes of the answer. LAST: of two answers to the same request, the second one."""

    WHOLE = auto()
    LAST = auto()
    NOTHING = auto()
    RESET = auto()
    HALF = auto()
    HTML = auto()
    HTTP_502 = auto()
    REDIRECT = auto()
    SLOW = auto()


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to go wrong with one request.

    `string` stands in the answer in place of the result; `executed`: the request runs all the same; `gateway`: it is
    said before the nonce is looked at. `methods` it concerns (none: all). `planned`: for this request, not by chance.
    """

    name: str
    arrival: Arrival = Arrival.AT_ONCE
    answer: Answer = Answer.WHOLE
    string: str = ""
    executed: bool = True
    gateway: bool = False
    methods: tuple[str, ...] = ()
    planned: bool = False


def _refusal(name: str, string: str, *, executed: bool = False, gateway: bool = False) -> Fault:
    return Fault(name, string=string, executed=executed, gateway=gateway)


NO_FAULT = Fault("")
FAULTS = {
    fault.name: fault
    for fault in (
        Fault("refuse_502", Arrival.NEVER, Answer.HTTP_502),
        Fault("redirect_307", Arrival.NEVER, Answer.REDIRECT),
        _refusal("spurious_nonce", "EAPI:Invalid nonce", gateway=True),
        Fault(FOREIGN_NONCE),
        Fault("answer_502", answer=Answer.HTTP_502),
        Fault("reset", answer=Answer.RESET),
        Fault("half_body", answer=Answer.HALF),
        Fault("html", answer=Answer.HTML),
        Fault("slow", answer=Answer.SLOW),
        Fault("no_answer", answer=Answer.NOTHING),
        Fault("delayed", Arrival.LATE, Answer.NOTHING),
        Fault("duplicated_first", Arrival.TWICE),
        Fault("duplicated_second", Arrival.TWICE, Answer.LAST),
        _refusal("gateway_limit", "EAPI:Rate limit exceeded", gateway=True),
        _refusal("gateway_lockout", "EGeneral:Temporary lockout", gateway=True),
        _refusal("gateway_throttled", "EService: Throttled: {until}", gateway=True),
        _refusal("gateway_limit_executed", "EAPI:Rate limit exceeded", gateway=True, executed=True),
        _refusal("unavailable", "EService:Unavailable"),
        _refusal("busy", "EService:Busy"),
        _refusal("timeout", "EService:Timeout"),
        _refusal("internal_error", "EGeneral:Internal error"),
        _refusal("unavailable_executed", "EService:Unavailable", executed=True),
        _refusal("busy_executed", "EService:Busy", executed=True),
        _refusal("timeout_executed", "EService:Timeout", executed=True),
        _refusal("internal_error_executed", "EGeneral:Internal error", executed=True),
        Fault("deadline_elapsed", string="EService:Deadline elapsed", executed=False, methods=("AddOrder",)),
        Fault(QUEUED, answer=Answer.NOTHING, methods=("AddOrder",)),
        Fault(CANCEL_RACE, methods=("CancelOrder",)),
    )
}
NAMES = tuple(FAULTS)


class Faults:
    """Decides, request by request, what goes wrong. `fired` counts how often each fault did. Thread-safe."""

    def __init__(self, rates: Mapping[str, float] | None = None, seed: int = 1) -> None:
        self.fired: Counter[str] = Counter()
        self._rates: dict[str, float] = {}
        self._random = random.Random(seed)
        self._planned: list[tuple[str, Fault]] = []
        self._lock = threading.Lock()
        for name, rate in (rates or {}).items():
            self.set_rate(name, rate)

    def set_rate(self, name: str, rate: float) -> None:
        """Give a fault its chance per request, from 0 to 1. Raises SimulatorError for an unknown name."""
        if name not in FAULTS and name != PARTIAL_FILL:
            raise SimulatorError(f"There is no fault {name}; there are {', '.join((*NAMES, PARTIAL_FILL))}.")
        if not 0.0 <= rate <= 1.0:
            raise SimulatorError(f"The rate of {name} must be from 0 to 1, not {rate}.")
        with self._lock:
            self._rates[name] = rate

    def clear(self) -> None:
        """Let nothing go wrong any more."""
        with self._lock:
            self._rates.clear()
            self._planned.clear()

    def fire_next(self, name: str, method: str, times: int = 1) -> None:
        """Let a named fault happen to the next request(s) of a method, such as AddOrder."""
        if name not in FAULTS:
            raise SimulatorError(f"There is no fault {name}; there are {', '.join(NAMES)}.")
        fault = replace(FAULTS[name], planned=True)
        if not _concerns(fault, method):
            raise SimulatorError(f"The fault {name} concerns {', '.join(fault.methods)} only, not {method}.")
        with self._lock:
            self._planned += [(method, fault)] * times

    def raise_next(self, method: str, string: str, times: int = 1, executed: bool = False) -> None:
        """Answer the next request(s) of a method with an error string; `executed`: after running it all the same."""
        with self._lock:
            self._planned += [(method, Fault(ERROR, string=string, executed=executed))] * times

    def draw(self, method: str, private: bool) -> Fault | None:
        """Return the fault for one request, if any. Rates concern private requests only."""
        with self._lock:
            fault = self._next_planned(method) or (self._next_random(method) if private else None)
            if fault is not None:
                self.fired[fault.name] += 1
            return fault

    def latency(self, between: tuple[float, float]) -> float:
        """Return how long one request takes to arrive, in seconds."""
        if between == (0, 0):
            return 0.0
        with self._lock:
            return self._random.uniform(*between)

    def delay(self, fault: Fault, seconds_max: float) -> float:
        """Return after how many seconds the copy of a request arrives: the most for a planned fault, or any."""
        if fault.planned:
            return seconds_max
        with self._lock:
            return self._random.uniform(0.0, seconds_max)

    def portion(self, order: Order) -> Decimal:
        """Return how much of an order is filled at once: all of the rest, or by fault its half."""
        rate = self._rates.get(PARTIAL_FILL, 0.0)
        if not rate:
            return order.remaining
        half = (order.remaining / 2).quantize(Decimal("0.00000001"), ROUND_DOWN)
        with self._lock:
            if self._random.random() >= rate or half < Decimal("0.0001"):
                return order.remaining
            self.fired[PARTIAL_FILL] += 1
            return half

    def _next_planned(self, method: str) -> Fault | None:
        for index, (wanted, fault) in enumerate(self._planned):
            if wanted == method:
                del self._planned[index]
                return fault
        return None

    def _next_random(self, method: str) -> Fault | None:
        for name, rate in self._rates.items():
            fault = FAULTS.get(name)
            if fault and rate and _concerns(fault, method) and self._random.random() < rate:
                return fault
        return None


def _concerns(fault: Fault, method: str) -> bool:
    return not fault.methods or method in fault.methods

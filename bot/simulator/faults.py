"""Faults on purpose: each has a name and a rate (chance per private request), zero by default, from one seed.

Which of them the client must survive: all. What they mean for the request that meets them:

    refuse_502, redirect_307, spurious_nonce    it was not executed
    answer_502, reset, half_body, html, slow    it was executed, and the answer is lost or late
    foreign_nonce                               another sender on the key was faster: the nonce is refused
    error                                       answered with a given string (only by `raise_next`)
    partial_fill                                (chance per fill) only half of the rest is filled
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import ROUND_DOWN, Decimal

from bot.simulator.account import Order
from bot.simulator.errors import SimulatorError

NAMES = (
    "refuse_502",
    "redirect_307",
    "spurious_nonce",
    "foreign_nonce",
    "answer_502",
    "reset",
    "half_body",
    "html",
    "slow",
)
PARTIAL_FILL = "partial_fill"
ERROR = "error"


@dataclass(frozen=True, slots=True)
class Fault:
    """What is to go wrong with one request. For `error`: the answer, and whether the request runs first."""

    name: str
    string: str = ""
    executed: bool = False


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
        if name not in NAMES and name != PARTIAL_FILL:
            raise SimulatorError(f"There is no fault {name}; there are {', '.join((*NAMES, PARTIAL_FILL))}.")
        if not 0.0 <= rate <= 1.0:
            raise SimulatorError(f"The rate of {name} must be from 0 to 1, not {rate}.")
        self._rates[name] = rate

    def fire_next(self, name: str, method: str, times: int = 1) -> None:
        """Let a named fault happen to the next request(s) of a method, such as AddOrder."""
        if name not in NAMES:
            raise SimulatorError(f"There is no fault {name}; there are {', '.join(NAMES)}.")
        with self._lock:
            self._planned += [(method, Fault(name))] * times

    def raise_next(self, method: str, string: str, times: int = 1, executed: bool = False) -> None:
        """Answer the next request(s) of a method with an error string; `executed`: after running it all the same."""
        with self._lock:
            self._planned += [(method, Fault(ERROR, string, executed))] * times

    def draw(self, method: str, private: bool) -> Fault | None:
        """Return the fault for one request, if any. Rates concern private requests only."""
        with self._lock:
            fault = self._next_planned(method) or (self._next_random() if private else None)
            if fault is not None:
                self.fired[fault.name] += 1
            return fault

    def latency(self, between: tuple[float, float]) -> float:
        """Return how long one request takes to arrive, in seconds."""
        if between == (0, 0):
            return 0.0
        with self._lock:
            return self._random.uniform(*between)

    def portion(self, order: Order) -> Decimal:
        """Return how much of an order is filled at once: all of the rest, or by fault its half."""
        rate = self._rates.get(PARTIAL_FILL, 0.0)
        if not rate:
            return order.remaining
        with self._lock:
            hit = self._random.random() < rate
        half = (order.remaining / 2).quantize(Decimal("0.00000001"), ROUND_DOWN)
        if not hit or half < Decimal("0.0001"):
            return order.remaining
        self.fired[PARTIAL_FILL] += 1
        return half

    def _next_planned(self, method: str) -> Fault | None:
        for index, (wanted, fault) in enumerate(self._planned):
            if wanted == method:
                del self._planned[index]
                return fault
        return None

    def _next_random(self) -> Fault | None:
        for name, rate in self._rates.items():
            if rate and name != PARTIAL_FILL and self._random.random() < rate:
                return Fault(name)
        return None

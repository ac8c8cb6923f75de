"""The errors of the simulator."""

from __future__ import annotations


class SimulatorError(Exception):
    """The simulator cannot do what was requested; the sentence says what to change."""


class StateFileError(SimulatorError):
    """The file of a paper account is damaged, in use, or belongs to another price source."""


class StateFileInUseError(StateFileError):
    """Another program has the file of a paper account open."""


class PriceFileError(SimulatorError):
    """A file of recorded prices cannot be read; the sentence names the line."""


class LivePricesError(SimulatorError):
    """Kraken's public API did not answer, or not as documented."""


class Refusal(Exception):  # noqa: N818 - an answer of the exchange, not a fault of the program
    """Kraken's answer to a request that it refuses; the error array contains the string."""

    def __init__(self, error: str) -> None:
        super().__init__(error)
        self.error = error

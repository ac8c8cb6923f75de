"""A file of recorded candles, checked completely, and kept as text: as candles it needs ten times the memory.

Kraken's OHLCVT files have no header; each line is `unix,open,high,low,close,volume,trades`.
"""

from __future__ import annotations

import hashlib
import io
from array import array
from decimal import Decimal, InvalidOperation
from pathlib import Path

from bot.simulator.errors import PriceFileError
from bot.simulator.prices import SimCandle


class CandleFile:
    """The candles of a file, oldest first. `times` are their starts; `digest` identifies the file by its content.

    Raises PriceFileError with the number of the first bad line.
    """

    def __init__(self, path: Path) -> None:
        raw = _read_file(path)
        self.digest = hashlib.sha256(raw).hexdigest()
        self.times = array("q")
        self._text = raw.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        # The offset of each line, and the end of the last one.
        self._line_offsets = array("q", [0])
        for number, line in enumerate(io.BytesIO(self._text), start=1):
            self._add_line(path, number, line.decode().rstrip("\n"))
            self._line_offsets.append(self._line_offsets[-1] + len(line))
        if len(self.times) < 2:
            raise PriceFileError(f"{path} has fewer than two candles.")

    def _add_line(self, path: Path, number: int, line: str) -> None:
        candle = _parse_line(line)
        if candle is None or (self.times and candle.time <= self.times[-1]):
            problem = "is not unix,open,high,low,close,volume,trades" if candle is None else "is not in order of time"
            raise PriceFileError(f"{path}, line {number}: {line[:60]!r} {problem}.")
        self.times.append(candle.time)

    def read_candles(self, first: int, last: int) -> list[SimCandle]:
        """Return the candles from number `first` up to, and without, number `last`."""
        lines = self._text[self._line_offsets[first] : self._line_offsets[last]].decode().splitlines()
        return [candle for line in lines if (candle := _parse_line(line)) is not None]


def _read_file(path: Path) -> bytes:
    try:
        raw = path.read_bytes()
        raw.decode()
    except OSError as error:
        raise PriceFileError(f"The prices in {path} cannot be read ({error.strerror}).") from error
    except UnicodeDecodeError as error:
        raise PriceFileError(f"The prices in {path} cannot be read: it is no text file.") from error
    return raw


def _parse_line(line: str) -> SimCandle | None:
    fields = line.split(",")
    if len(fields) != 7:
        return None
    try:
        first, high, low, last, volume = (Decimal(field) for field in fields[1:6])
        candle = SimCandle(int(fields[0]), first, high, low, last, volume, int(fields[6]))
    except (ValueError, InvalidOperation):
        return None
    if not all(amount.is_finite() for amount in (first, high, low, last, volume)):
        return None
    is_consistent = low <= min(first, last) <= max(first, last) <= high
    return candle if is_consistent and low > 0 and volume >= 0 else None

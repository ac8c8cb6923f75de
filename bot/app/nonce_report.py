"""What people see of the nonces: the last one and its place, and of a shared store who has the turn and who leads."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import closing

from bot import broker_manager
from bot.base.clock import nonce_clock
from bot.base.errors import NonceStoreError, StoreUnavailableError
from bot.broker_manager import check_nonce_file
from bot.config import Settings
from bot.nonce.file_store import MICROSECONDS, NANOSECONDS, UNITS, FileStore, Unit, ceiling, store_at
from bot.nonce.open_store import open_engine
from bot.nonce.shared_store import SharedStore, far_ahead, file_of_key
from bot.nonce.store_protocol import Lease, Row

Say = Callable[[str], None]

PAPER = "the paper account has a key of its own there, which only its run knows"


def nonce_line(shared: SharedStore | None = None) -> str:
    """Return the last nonce, its lead over the clock and its place, in words: in the shared store, if there is one."""
    if shared is None:
        return file_line(store_at(broker_manager.NONCE_FILE))
    try:
        return _in_store(shared.peek() or 0, shared.place)
    except StoreUnavailableError as error:
        return str(error)


def file_line(file: FileStore) -> str:
    """Return the last nonce of a file, its lead over the clock and the file, in words."""
    stored = file.peek()
    if stored is None:
        return f"none {'that can be read' if os.path.lexists(file.path) else 'yet'} in {file.path}"
    return f"{stored}, {_lead_over_clock(stored)}, in {file.path}"


def file_of(settings: Settings) -> FileStore:
    """Return the file that has the nonces of the settings' key, or in front of a shared store their second copy."""
    unit = UNITS[settings.nonce_unit] if settings.api_key else MICROSECONDS
    return file_of_key(broker_manager.NONCE_FILE, settings.api_key, unit)


def show(settings: Settings, say: Say) -> int:
    """Write all that can be known of the nonces without drawing one; return 0.

    Raises StoreUnavailableError where the store does not answer, having written what the file has.
    """
    if not settings.nonce_store:
        say(file_line(file_of(settings)))
        return 0
    try:
        row, place = look(settings)
        if settings.api_key:
            _show_row(settings, row, place, say)
        else:
            say(f"nonce    not known: a row of {place} belongs to a key, and KRAKEN_API_KEY is not set")
        if settings.trading_mode == "paper":
            say(f"paper    {PAPER}")
    finally:
        say(f"copy     {file_line(file_of(settings))}")
    return 0


def look(settings: Settings) -> tuple[Row | None, str]:
    """Return what the shared store has of the settings' key, and the store's place. Raises StoreUnavailableError."""
    with closing(open_engine(settings.nonce_store, settings.api_key)) as engine:
        return engine.look(), engine.place


def last_nonce(settings: Settings) -> str:
    """Return the last nonce of the settings' key and its place, in words. Raises StoreUnavailableError."""
    if not settings.nonce_store:
        return nonce_line()
    row, place = look(settings)
    return _in_store(row.nonce if row else 0, place)


def leader(settings: Settings) -> str:
    """Return who leads the account in the shared store, in words, or "". Raises StoreUnavailableError."""
    row, _place = look(settings)
    return leading(row.lease) if row and row.lease.remaining_seconds else ""


def leading(lease: Lease) -> str:
    """Return who leads, or who led last, in words."""
    if not lease.generation:
        return "nobody has led yet"
    if not lease.owner:
        return f"nobody leads: generation {lease.generation} has signed off"
    if not lease.remaining_seconds:
        return f"nobody leads: the lease of {lease.owner}, generation {lease.generation}, has run out"
    return f"{lease.owner} leads, generation {lease.generation}, with {lease.remaining_seconds:.1f} s to renew it"


def check_store(settings: Settings) -> str:
    """Look whether the shared store can be used, and its second copy written; return what it has, in words.

    No nonce is drawn. Raises StoreUnavailableError, NonceAheadError or NonceStoreError.
    """
    check_nonce_file()
    row, place = look(settings)
    if settings.trading_mode == "paper":
        _check_copy(store_at(broker_manager.NONCE_FILE))
        return f"{place} answers; {PAPER}; its second copy can be written"
    last, file = row.nonce if row else 0, file_of(settings)
    if last > ceiling(file.unit):
        raise far_ahead(place, last)
    _check_copy(file, last)
    return f"{_in_store(last, place)}; its second copy can be written"


def _check_copy(file: FileStore, last: int = 0) -> None:
    file.keep(last or nonce_clock.now_us() * file.unit.ticks)
    if file.problem:
        raise NonceStoreError(f"{file.problem}. It is the second copy of the shared store's. Free it or its disk.")


def _show_row(settings: Settings, row: Row | None, place: str, say: Say) -> None:
    nonce = row.nonce if row else 0
    say(f"nonce    {_in_store(nonce, place)}")
    if _unit_of(nonce).ticks > UNITS[settings.nonce_unit].ticks:
        say(f"         With NONCE_UNIT={settings.nonce_unit} nothing can be drawn above it: set NONCE_UNIT=ns.")
    say(f"turn     {row.turn_owner if row and row.turn_owner else 'nobody'} has it")
    say(f"lead     {leading(row.lease if row else Lease())}")


def _in_store(nonce: int, place: str) -> str:
    if not nonce:
        return f"none yet in {place}"
    unit = _unit_of(nonce)
    return f"{nonce} ({unit.digits} digits, {unit.name}), {_lead_over_clock(nonce)}, in {place}"


def _lead_over_clock(nonce: int) -> str:
    ticks = _unit_of(nonce).ticks
    lead_seconds = (nonce - nonce_clock.now_us() * ticks) / (1_000_000 * ticks)
    return f"{lead_seconds:.1f} s ahead of the clock" if lead_seconds > 0 else "not ahead of the clock"


def _unit_of(nonce: int) -> Unit:
    """Return the unit that a nonce of so many digits is in, whatever the settings say."""
    return NANOSECONDS if nonce >= 10**MICROSECONDS.digits else MICROSECONDS

"""The nonces for people: the last one and its location, and for a shared store the request lock and the leader."""

from __future__ import annotations

import os
from contextlib import closing

from bot import broker_manager
from bot.base.clock import nonce_clock
from bot.base.errors import NonceStoreError, StoreUnavailableError
from bot.base.logging_setup import print_line
from bot.broker_manager import check_nonce_file
from bot.config import Settings
from bot.nonce.file_store import MICROSECONDS, NANOSECONDS, UNITS, FileStore, NonceUnit, nonce_ceiling, open_file_store
from bot.nonce.open_store import open_nonce_store
from bot.nonce.shared_store import SharedStore, file_store_for_key, nonce_ahead_error
from bot.nonce.store_protocol import KeyRecord, Lease

PAPER_KEY_NOTE = "the paper account has a key of its own there, which only its run knows"


def format_nonce_line(store: SharedStore | None = None) -> str:
    """Describe the last nonce, how far it is ahead of the clock, and its location: in the shared store, if there is
    one."""
    if store is None:
        return format_file_line(open_file_store(broker_manager.NONCE_FILE))
    try:
        return _format_store_nonce(store.peek() or 0, store.location)
    except StoreUnavailableError as error:
        return str(error)


def format_file_line(file: FileStore) -> str:
    """Describe the last nonce of a file, how far it is ahead of the clock, and the file."""
    stored = file.peek()
    if stored is None:
        return f"none {'that can be read' if os.path.lexists(file.path) else 'yet'} in {file.path}"
    return f"{stored}, {_format_ahead_of_clock(stored)}, in {file.path}"


def file_store_for_settings(settings: Settings) -> FileStore:
    """Return the file with the nonces of the settings' key, or the local replica of a shared store."""
    unit = UNITS[settings.nonce_unit] if settings.api_key else MICROSECONDS
    return file_store_for_key(broker_manager.NONCE_FILE, settings.api_key, unit)


def print_nonce_report(settings: Settings) -> int:
    """Print all that is known of the nonces without taking one; return 0.

    Raises StoreUnavailableError where the store does not answer, after printing the nonce of the file.
    """
    if not settings.nonce_store:
        print_line(format_file_line(file_store_for_settings(settings)))
        return 0
    try:
        record, location = read_key_record(settings)
        if settings.api_key:
            _print_record(settings, record, location)
        else:
            print_line(f"nonce    not known: a row of {location} belongs to a key, and KRAKEN_API_KEY is not set")
        if settings.trading_mode == "paper":
            print_line(f"paper    {PAPER_KEY_NOTE}")
    finally:
        print_line(f"replica  {format_file_line(file_store_for_settings(settings))}")
    return 0


def read_key_record(settings: Settings) -> tuple[KeyRecord | None, str]:
    """Return the record of the settings' key in the shared store, and the store's location. Raises
    StoreUnavailableError."""
    with closing(open_nonce_store(settings.nonce_store, settings.api_key)) as store:
        return store.read_record(), store.location


def format_last_nonce(settings: Settings) -> str:
    """Describe the last nonce of the settings' key and its location. Raises StoreUnavailableError."""
    if not settings.nonce_store:
        return format_nonce_line()
    record, location = read_key_record(settings)
    return _format_store_nonce(record.last_nonce if record else 0, location)


def format_leader(settings: Settings) -> str:
    """Describe who leads the account in the shared store, or return "". Raises StoreUnavailableError."""
    record, _location = read_key_record(settings)
    return format_lease(record.lease) if record and record.lease.remaining_seconds else ""


def format_lease(lease: Lease) -> str:
    """Describe who leads, or who led last."""
    if not lease.fencing_token:
        return "nobody has led yet"
    if not lease.owner:
        return f"nobody leads: the holder of fencing token {lease.fencing_token} released the lease"
    if not lease.remaining_seconds:
        return f"nobody leads: the lease of {lease.owner} with fencing token {lease.fencing_token} has expired"
    remaining_seconds = f"{lease.remaining_seconds:.1f} s"
    return f"{lease.owner} leads with fencing token {lease.fencing_token}; the lease ends in {remaining_seconds}"


def check_store(settings: Settings) -> str:
    """Check that the shared store can be used, and its local replica written; describe the store's last nonce.

    Takes no nonce. Raises StoreUnavailableError, NonceAheadError or NonceStoreError.
    """
    check_nonce_file()
    record, location = read_key_record(settings)
    if settings.trading_mode == "paper":
        _check_replica(open_file_store(broker_manager.NONCE_FILE))
        return f"{location} answers; {PAPER_KEY_NOTE}; the local replica can be written"
    last_nonce, file = record.last_nonce if record else 0, file_store_for_settings(settings)
    if last_nonce > nonce_ceiling(file.unit):
        raise nonce_ahead_error(location, last_nonce)
    _check_replica(file, last_nonce)
    return f"{_format_store_nonce(last_nonce, location)}; the local replica can be written"


def _check_replica(file: FileStore, last_nonce: int = 0) -> None:
    file.record_nonce(last_nonce or nonce_clock.now_us() * file.unit.units_per_microsecond)
    if file.problem:
        raise NonceStoreError(
            f"{file.problem}. It is the local replica of the shared store. Free the file or its disk."
        )


def _print_record(settings: Settings, record: KeyRecord | None, location: str) -> None:
    nonce = record.last_nonce if record else 0
    print_line(f"nonce    {_format_store_nonce(nonce, location)}")
    if _unit_by_digits(nonce).units_per_microsecond > UNITS[settings.nonce_unit].units_per_microsecond:
        print_line(
            f"         With NONCE_UNIT={settings.nonce_unit} no nonce above it can be issued: set NONCE_UNIT=ns."
        )
    print_line(f"lock     held by {record.lock_owner if record and record.lock_owner else 'nobody'}")
    print_line(f"leader   {format_lease(record.lease if record else Lease())}")


def _format_store_nonce(nonce: int, location: str) -> str:
    if not nonce:
        return f"none yet in {location}"
    unit = _unit_by_digits(nonce)
    return f"{nonce} ({unit.digits} digits, {unit.name}), {_format_ahead_of_clock(nonce)}, in {location}"


def _format_ahead_of_clock(nonce: int) -> str:
    units_per_microsecond = _unit_by_digits(nonce).units_per_microsecond
    ahead_seconds = (nonce - nonce_clock.now_us() * units_per_microsecond) / (1_000_000 * units_per_microsecond)
    return f"{ahead_seconds:.1f} s ahead of the clock" if ahead_seconds > 0 else "not ahead of the clock"


def _unit_by_digits(nonce: int) -> NonceUnit:
    """Return the unit of a nonce with this number of digits, whatever the settings say."""
    return NANOSECONDS if nonce >= 10**MICROSECONDS.digits else MICROSECONDS

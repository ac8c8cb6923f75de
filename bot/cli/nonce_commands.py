"""`nonce`: shows the last nonce; `migrate` moves a key's nonces to another place, `adopt` to another unit."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

from bot import broker_manager
from bot.app.instance_lock import InstanceLock
from bot.app.nonce_report import file_store_for_settings, format_lease, print_nonce_report
from bot.base import clock
from bot.base.clock import nonce_clock
from bot.base.errors import (
    BotAlreadyRunningError,
    CircuitOpenError,
    InvalidNonceError,
    LockoutError,
    NonceAheadError,
    NonceStoreError,
    SettingsError,
    StoreUnavailableError,
)
from bot.base.logging_setup import print_line
from bot.base.paths import key_file_path
from bot.base.redaction import hide
from bot.broker_manager import kraken_request_lock
from bot.config import Settings, credential_problems
from bot.kraken import error_table, nonce_recovery
from bot.kraken.breaker_file import BreakerFile
from bot.kraken.transport import KrakenAPI
from bot.nonce.file_store import NANOSECONDS, UNITS, FileStore, NonceUnit, nonce_ceiling
from bot.nonce.open_store import open_nonce_store, url_problem
from bot.nonce.shared_store import LOCK_LIFETIME_SECONDS, file_store_for_key, nonce_ahead_error, open_shared_store
from bot.nonce.store_protocol import GrantStatus, NonceRequest, NonceStore

FILE_TARGET = "file"
# How far above everything known here the nonces go on after the store was lost: another host may have led last, on a
# server's clock that was ahead, or after a nonce jump. Nonces are ahead of the clock for so long.
LOST_STORE_STEP_US = 3_600_000_000

TAKE_STORE_OUT = "setting  take NONCE_STORE out: in .env or the environment, for every program on this key"
SET_STORE = (
    "setting  set NONCE_STORE to the address that you have given: in .env or the environment, for every program on this"
    " key"
)

LOST_STORE_WARNING = """\
{location} does not answer. From now on this host alone may use the key: without the store nothing keeps two hosts from
trading at the same time. Stop the bot and every script on this key on all other hosts, for good.
Use this host if its instance led last. The nonces go on from its local replica, after {wait_seconds:.0f} s."""

ADOPT_WARNING = """\
For a key that another program has used with nonces in nanoseconds (19 digits): Kraken refuses all below.
One GetApiKeyInfo with a nonce in nanoseconds is sent to {url}, and nothing else.
If Kraken accepts it, this key works with NONCE_UNIT=ns and nothing else, for ever: there is no way back.
{common} is not touched."""
SHARED_STORE_WARNING = """The row of this key in {location} holds one nonce. From now on it is one in nanoseconds, and
every program that takes nonces in microseconds for this key there fails with NonceAheadError, whatever Kraken
answers."""
NANOSECONDS_REFUSED_MESSAGE = (
    "A nonce in nanoseconds is too low as well: the key has seen one in a finer unit, or from a clock that was wrong. "
    "The other tools' units are all lower (.NET ticks too), so no setting reaches above it: make a new API key"
)


def run_nonce_command(settings: Settings, options: argparse.Namespace) -> int:
    """Run the `nonce` command; return the exit code."""
    if options.action == "migrate":
        # An address with a password should not appear in the list of processes.
        target = sys.stdin.readline().strip() if options.to == "-" else options.to
        hide(target)
        if options.store_is_gone:
            return restore_from_replica(settings, target, options.yes)
        return migrate(settings, target)
    if options.action == "adopt":
        return adopt(settings, options.yes)
    return print_nonce_report(settings)


# Migrate


class _FileLocation:
    """A file with the nonces of a key."""

    def __init__(self, file: FileStore) -> None:
        self.name = file.path
        self._file = file

    def highest_nonce(self) -> int:
        """Return the highest nonce issued there, 0 if none."""
        stored = self._file.peek()
        if stored is None and os.path.lexists(self.name):
            raise NonceStoreError(
                f"the nonce file {self.name} cannot be read, so the last nonce issued from it is not known"
            )
        return stored or 0

    def raise_floor(self, floor: int) -> None:
        """From now on issue only nonces above `floor`."""
        self._file.record_nonce(floor)
        if self._file.problem:
            raise NonceStoreError(f"{self._file.problem}. Free the file or its disk; nothing was moved")


class _StoreLocation:
    """The record of a key in a shared store."""

    def __init__(self, store: NonceStore, replica: FileStore, unit: NonceUnit) -> None:
        self.name = store.location
        self._store, self._replica, self._unit = store, replica, unit

    def highest_nonce(self) -> int:
        # The store may have been wiped or restored since the replica was written.
        return max(self._stored_nonce(), self._replica.peek() or 0)

    def raise_floor(self, floor: int) -> None:
        if (last_nonce := self._stored_nonce()) >= floor:
            check_not_far_ahead(self.name, last_nonce, self._unit)
            return
        grant = self._store.next_nonce(NonceRequest(floor, nonce_ceiling(self._unit), self._unit.units_per_microsecond))
        if grant.status is not GrantStatus.GRANTED:
            raise nonce_ahead_error(self.name, grant.previous_nonce)

    def _stored_nonce(self) -> int:
        record = self._store.read_record()
        return record.last_nonce if record else 0


def migrate(settings: Settings, target: str) -> int:
    """Make the nonces at `target`, an address or "file", start above all nonces issued at the current location; return
    0.

    Raises SettingsError for an invalid target, BotAlreadyRunningError while a bot runs or leads, NonceAheadError,
    StoreUnavailableError or NonceStoreError; in each case the current settings still work.
    """
    if target != FILE_TARGET and (problem := url_problem(target)):
        raise SettingsError([f"--to {problem} Or it is the word {FILE_TARGET}."])
    if not settings.api_key:
        raise SettingsError(["KRAKEN_API_KEY is not set: nonces in a shared store belong to a key."])
    unit, file = UNITS[settings.nonce_unit], file_store_for_settings(settings)
    with ExitStack() as stack:
        stores: list[NonceStore] = []

        def open_location(url: str) -> _FileLocation | _StoreLocation:
            if not url:
                return _FileLocation(file)
            stores.append(stack.enter_context(closing(open_nonce_store(url, settings.api_key))))
            return _StoreLocation(stores[-1], file, unit)

        source, destination = (
            open_location(settings.nonce_store),
            open_location("" if target == FILE_TARGET else target),
        )
        if source.name == destination.name:
            raise SettingsError([f"--to names {destination.name}, where the nonces of this key are already."])
        try:
            stack.enter_context(_exclude_running_bots(settings, stores))
        except StoreUnavailableError as error:
            if target != FILE_TARGET:
                raise
            raise StoreUnavailableError(f"{error}. If it is gone for good, give --store-is-gone") from error
        floor = source.highest_nonce()
        check_not_far_ahead(source.name, floor, unit)
        if floor:
            destination.raise_floor(floor)
    _print_migration(floor, source.name, destination.name)
    print_line(TAKE_STORE_OUT if target == FILE_TARGET else SET_STORE)
    return 0


def _print_migration(floor: int, source: str, destination: str) -> None:
    if floor:
        print_line(f"floor    {floor} in {source}, which is left as it is")
        print_line(f"moved    the next nonce in {destination} is above it")
    else:
        print_line(f"floor    none: no nonce was issued yet in {source}, which is left as it is")


def check_not_far_ahead(location: str, last_nonce: int, unit: NonceUnit) -> None:
    """Raise NonceAheadError where a nonce is more than a day ahead of the clock, as one in a finer unit is."""
    if last_nonce > nonce_ceiling(unit):
        raise NonceAheadError(
            f"{location} holds {last_nonce}, more than a day ahead of the clock for NONCE_UNIT={unit.name}: nothing "
            "was moved. Check the clock, and whether this key is used with NONCE_UNIT=ns"
        )


@contextmanager
def _exclude_running_bots(settings: Settings, stores: list[NonceStore]) -> Iterator[None]:
    """Keep bots off the state folder. Raises BotAlreadyRunningError where one runs on it, or leads in one of the
    stores."""
    lock = InstanceLock(settings.state_dir)
    try:
        for store in stores:
            record = store.read_record()
            if record and record.lease.remaining_seconds:
                raise BotAlreadyRunningError(f"{format_lease(record.lease)} ({store.location}). Stop it first.")
        yield
    finally:
        lock.release()


# The way back from a store that is gone


def restore_from_replica(settings: Settings, target: str, assume_yes: bool) -> int:
    """Go on with the nonce file of this host after the shared store was lost, an hour above everything known here;
    return 0.

    Waits until no lease and no request lock of the store can be alive. Raises SettingsError where the store answers or
    nobody can be asked, BotAlreadyRunningError while a bot runs here, NonceAheadError or NonceStoreError; in each case
    nothing was changed.
    """
    if target != FILE_TARGET or not settings.nonce_store:
        raise SettingsError([f"--store-is-gone is for --to {FILE_TARGET}, with the NONCE_STORE that is gone."])
    if not settings.api_key:
        raise SettingsError(["KRAKEN_API_KEY is not set: nonces in a shared store belong to a key."])
    unit, replica = UNITS[settings.nonce_unit], _FileLocation(file_store_for_settings(settings))
    with (
        closing(open_nonce_store(settings.nonce_store, settings.api_key)) as store,
        _exclude_running_bots(settings, []),
    ):
        _check_store_is_gone(store)
        last_nonce = replica.highest_nonce()
        if not last_nonce:
            raise NonceStoreError(
                f"there is no local replica at {replica.name}, so no nonce of this key is known here. Run this on the "
                "host whose instance led last, or make a new API key"
            )
        check_not_far_ahead(replica.name, last_nonce, unit)
        wait_seconds = settings.lease_seconds + LOCK_LIFETIME_SECONDS
        print_line(LOST_STORE_WARNING.format(location=store.location, wait_seconds=wait_seconds))
        if not assume_yes and not _confirm():
            print_line("Nothing was changed.")
            return 0
        clock.sleep(wait_seconds)
        _check_store_is_gone(store)
        now = nonce_clock.now_us() * unit.units_per_microsecond
        step = LOST_STORE_STEP_US * unit.units_per_microsecond
        floor = min(max(last_nonce, now) + step, nonce_ceiling(unit))
        replica.raise_floor(floor)
    print_line(f"replica  {last_nonce} in {replica.name} was the last nonce known here")
    print_line(f"moved    the next nonce in {replica.name} is above {floor}")
    print_line(TAKE_STORE_OUT)
    return 0


def _check_store_is_gone(store: NonceStore) -> None:
    with suppress(StoreUnavailableError):
        store.read_record()
        raise SettingsError(
            [f"The nonce store {store.location} answers: leave --store-is-gone out. Nothing was changed."]
        )


# Adopt


def adopt(settings: Settings, assume_yes: bool) -> int:
    """Find out, after a confirmation, whether Kraken accepts nanoseconds of this key; print the setting for it; return
    0.

    Raises SettingsError where nobody can be asked, BotAlreadyRunningError while a bot runs or leads, InvalidNonceError
    where nanoseconds are refused too, CircuitOpenError while the key's circuit breaker is open.
    """
    if problems := credential_problems(settings.api_key, settings.api_secret):
        raise SettingsError(problems)
    with ExitStack() as stack:
        stores = []
        if settings.nonce_store:
            stores.append(stack.enter_context(closing(open_nonce_store(settings.nonce_store, settings.api_key))))
        stack.enter_context(_exclude_running_bots(settings, stores))
        breaker = BreakerFile(key_file_path(broker_manager.NONCE_FILE, settings.api_key, "silence"))
        _check_breaker_closed(breaker)
        print_line(ADOPT_WARNING.format(url=settings.api_url, common=broker_manager.NONCE_FILE))
        for store in stores:
            print_line(SHARED_STORE_WARNING.format(location=store.location))
        if not assume_yes and not _confirm():
            print_line("Nothing was sent.")
            return 0
        nonce = _send_probe(settings, breaker)
    print_line(
        f"Kraken has accepted {nonce}. Now set, in .env or the environment, for every program that uses this key:"
    )
    print_line(f"NONCE_UNIT={NANOSECONDS.name}")
    return 0


def _confirm() -> bool:
    if not sys.stdin.isatty():
        raise SettingsError(["The input is not a terminal, so there is no confirmation: give --yes. Nothing was sent."])
    try:
        return input("Go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _check_breaker_closed(breaker: BreakerFile) -> None:
    open_breaker = breaker.read()
    if open_breaker is not None and not open_breaker.is_half_open:
        seconds = open_breaker.until_seconds - clock.wall_seconds()
        raise CircuitOpenError(
            f"nothing is sent on this key for another {seconds:.0f} s: {open_breaker.reason}. Then try again",
            open_breaker.until_seconds,
        )


def _send_probe(settings: Settings, breaker: BreakerFile) -> int:
    """Send the one request; return its nonce, which stays used whatever the answer is."""
    key, nonce_file = settings.api_key, broker_manager.NONCE_FILE
    api = KrakenAPI(key, settings.api_secret, settings.api_url, settings.proxy)
    with closing(api), kraken_request_lock(api_key=key, unit=NANOSECONDS.name):
        # Not by get_kraken_nonce(), which would take the nonce from the common file too.
        if settings.nonce_store:
            nonce = open_shared_store(settings.nonce_store, key, nonce_file, NANOSECONDS).next_nonce()
        else:
            nonce = file_store_for_key(nonce_file, key, NANOSECONDS).next_nonce()
        _raise_kraken_error(api.send_private("GetApiKeyInfo", {}, nonce), breaker)
    # This request was the probe that closes the circuit breaker.
    breaker.reset()
    return nonce


def _raise_kraken_error(envelope: dict[str, Any], breaker: BreakerFile) -> None:
    error_strings = error_table.filter_errors([str(string) for string in envelope["error"]])
    if not error_strings:
        return
    error = error_table.make_error("GetApiKeyInfo", error_strings)
    if isinstance(error, InvalidNonceError):
        raise InvalidNonceError(error.method, error.error_strings, NANOSECONDS_REFUSED_MESSAGE)
    if isinstance(error, LockoutError):
        breaker.trip(nonce_recovery.MAX_OPEN_SECONDS, nonce_recovery.LOCKED_OUT)
    raise error

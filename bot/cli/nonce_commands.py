"""`nonce migrate` and `nonce adopt`: another place for a key's nonces, and another unit."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Protocol

from bot import broker_manager
from bot.app.instance_lock import InstanceLock
from bot.app.nonce_report import Say, file_of, leading
from bot.base import clock
from bot.base.errors import (
    AnotherBotError,
    InvalidNonceError,
    LockoutError,
    NonceAheadError,
    NonceStoreError,
    SettingsError,
    SilenceError,
)
from bot.base.paths import key_file
from bot.broker_manager import kraken_turn
from bot.config import Settings, credential_problems
from bot.kraken import error_table, nonce_recovery, transport
from bot.kraken.breaker_file import SilenceFile
from bot.nonce.file_store import NANOSECONDS, UNITS, FileStore, Unit, ceiling
from bot.nonce.open_store import open_engine, url_problem
from bot.nonce.shared_store import far_ahead, file_of_key, shared_store_at
from bot.nonce.store_protocol import Engine, Outcome, Wish

FILE = "file"

BURNT = """For a key that another program has used with nonces in nanoseconds (19 digits): Kraken refuses all below.
One GetApiKeyInfo with a nonce in nanoseconds is sent to {url}, and nothing else.
If Kraken accepts it, this key works with NONCE_UNIT=ns and nothing else, for ever: there is no way back.
{common} is not touched."""
ONE_ROW = """The row of this key in {place} holds one nonce. From now on it is one in nanoseconds, and
every program that draws microseconds for this key there fails with NonceAheadError, whatever Kraken answers."""
HIGHER_STILL = (
    "A nonce in nanoseconds is too low as well: the key has seen one in a finer unit, or from a clock that was wrong. "
    "The other tools' units are all lower (.NET ticks too), so no setting reaches above it: make a new API key"
)


# Moving


class _Place(Protocol):
    """Where the nonces of a key are: a file, or a row of a shared store."""

    name: str

    def highest(self) -> int:
        """Return the highest nonce drawn there, 0 if none."""

    def raise_to(self, floor: int) -> None:
        """Draw only above `floor` from now on."""


class _FilePlace:
    def __init__(self, file: FileStore) -> None:
        self.name = file.path
        self._file = file

    def highest(self) -> int:
        stored = self._file.peek()
        if stored is None and os.path.lexists(self.name):
            raise NonceStoreError(f"the nonce file {self.name} cannot be read, so nobody knows what was drawn there")
        return stored or 0

    def raise_to(self, floor: int) -> None:
        self._file.keep(floor)
        if self._file.problem:
            raise NonceStoreError(f"{self._file.problem}. Free it or its disk; nothing was moved")


class _StorePlace:
    def __init__(self, engine: Engine, copy: FileStore, unit: Unit) -> None:
        self.name = engine.place
        self._engine, self._copy, self._unit = engine, copy, unit

    def highest(self) -> int:
        # The store may have been wiped or restored since the copy was written.
        return max(self._held(), self._copy.peek() or 0)

    def raise_to(self, floor: int) -> None:
        if (last := self._held()) >= floor:
            check_not_far_ahead(self.name, last, self._unit)
            return
        drawn = self._engine.draw(Wish(floor, ceiling(self._unit), self._unit.ticks))
        if drawn.outcome is not Outcome.DRAWN:
            raise far_ahead(self.name, drawn.last)

    def _held(self) -> int:
        row = self._engine.look()
        return row.nonce if row else 0


def migrate(settings: Settings, target: str, say: Say) -> int:
    """Make the nonces at `target`, an address or "file", begin above all that were drawn where they are now; return 0.

    Raises SettingsError for a target that cannot be one, AnotherBotError while a bot runs or leads, NonceAheadError,
    StoreUnavailableError or NonceStoreError; in each case the settings that work now still do.
    """
    if target != FILE and (problem := url_problem(target)):
        raise SettingsError([f"--to {problem} Or it is the word {FILE}."])
    if not settings.api_key:
        raise SettingsError(["KRAKEN_API_KEY is not set: nonces in a shared store belong to a key."])
    unit, file = UNITS[settings.nonce_unit], file_of(settings)
    with ExitStack() as stack:
        engines: list[Engine] = []

        def place(url: str) -> _Place:
            if not url:
                return _FilePlace(file)
            engines.append(stack.enter_context(closing(open_engine(url, settings.api_key))))
            return _StorePlace(engines[-1], file, unit)

        source, new = place(settings.nonce_store), place("" if target == FILE else target)
        if source.name == new.name:
            raise SettingsError([f"--to names {new.name}, where the nonces of this key are already."])
        stack.enter_context(_no_bot(settings, engines))
        floor = source.highest()
        check_not_far_ahead(source.name, floor, unit)
        if floor:
            new.raise_to(floor)
    _say_moved(floor, source.name, new.name, say)
    setting = "take NONCE_STORE out" if target == FILE else "set NONCE_STORE to the address that you have given"
    say(f"setting  {setting}: in .env or the environment, for every program on this key")
    return 0


def _say_moved(floor: int, source: str, new: str, say: Say) -> None:
    if floor:
        say(f"floor    {floor} in {source}, which is left as it is")
        say(f"moved    the next nonce in {new} is above it")
    else:
        say(f"floor    none: no nonce was drawn yet in {source}, which is left as it is")


def check_not_far_ahead(place: str, last: int, unit: Unit) -> None:
    """Raise NonceAheadError where a nonce is more than a day ahead of the clock, as one in a finer unit is."""
    if last > ceiling(unit):
        raise NonceAheadError(
            f"{place} holds {last}, more than a day ahead of the clock for NONCE_UNIT={unit.name}: nothing was moved. "
            "Check the clock, and whether this key is used with NONCE_UNIT=ns"
        )


@contextmanager
def _no_bot(settings: Settings, engines: list[Engine]) -> Iterator[None]:
    """Keep bots from the state folder. Raises AnotherBotError where one runs on it, or leads in one of the stores."""
    lock = InstanceLock(settings.state_dir)
    try:
        for engine in engines:
            row = engine.look()
            if row and row.lease.remaining_seconds:
                raise AnotherBotError(f"{leading(row.lease)}, says {engine.place}. Stop it first.")
        yield
    finally:
        lock.release()


# Adopting


def adopt(settings: Settings, yes: bool, say: Say, ask: Callable[[str], str] = input) -> int:
    """Find out whether Kraken accepts nanoseconds of this key, having asked; say which setting that makes; return 0.

    Raises SettingsError where nobody can be asked, AnotherBotError while a bot runs or leads, InvalidNonceError where
    nanoseconds are refused too, SilenceError while the key stands by.
    """
    if problems := credential_problems(settings.api_key, settings.api_secret):
        raise SettingsError(problems)
    with ExitStack() as stack:
        engines = []
        if settings.nonce_store:
            engines.append(stack.enter_context(closing(open_engine(settings.nonce_store, settings.api_key))))
        stack.enter_context(_no_bot(settings, engines))
        silence = SilenceFile(key_file(broker_manager.NONCE_FILE, settings.api_key, "silence"))
        _check_silence(silence)
        say(BURNT.format(url=settings.api_url, common=broker_manager.NONCE_FILE))
        for engine in engines:
            say(ONE_ROW.format(place=engine.place))
        if not yes and not _agreed(ask):
            say("Nothing was sent.")
            return 0
        nonce = _ask_kraken(settings, silence)
    say(f"Kraken has accepted {nonce}. Now set, in .env or the environment, for every program that uses this key:")
    say(f"NONCE_UNIT={NANOSECONDS.name}")
    return 0


def _agreed(ask: Callable[[str], str]) -> bool:
    if not sys.stdin.isatty():
        raise SettingsError(["Nobody can be asked here, which is no terminal: give --yes. Nothing was sent."])
    try:
        return ask("Go on? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def _check_silence(silence: SilenceFile) -> None:
    found = silence.read()
    if found is not None and not found.over:
        seconds = found.until_seconds - clock.wall_seconds()
        raise SilenceError(
            f"nothing is sent on this key for another {seconds:.0f} s: {found.reason}. Then try again",
            found.until_seconds,
        )


def _ask_kraken(settings: Settings, silence: SilenceFile) -> int:
    """Send the one request; return its nonce, which stays drawn whatever the answer is."""
    key, drawn = settings.api_key, []

    def draw() -> str:
        # Not by get_kraken_nonce(), which would draw from the common file too.
        if settings.nonce_store:
            shared = shared_store_at(settings.nonce_store, key, broker_manager.NONCE_FILE, NANOSECONDS)
            drawn.append(shared.draw())
        else:
            drawn.append(file_of_key(broker_manager.NONCE_FILE, key, NANOSECONDS).draw())
        return str(drawn[0])

    api = transport.open_api(key, settings.api_secret, settings.api_url, settings.proxy)
    api._nonce = draw
    with closing(api), kraken_turn(api_key=key, unit=NANOSECONDS.name):
        _raise_refusal(transport.ask(api.query_private, "GetApiKeyInfo", {}), silence)
    # It was the probe that a silence ends with.
    silence.end()
    return drawn[0]


def _raise_refusal(envelope: dict[str, Any], silence: SilenceFile) -> None:
    strings = error_table.errors_in([str(string) for string in envelope["error"]])
    if not strings:
        return
    error = error_table.error_for("GetApiKeyInfo", strings)
    if isinstance(error, InvalidNonceError):
        raise InvalidNonceError(error.method, error.strings, HIGHER_STILL)
    if isinstance(error, LockoutError):
        silence.begin(nonce_recovery.SILENCE_SECONDS_MAX, nonce_recovery.LOCKED_OUT)
    raise error

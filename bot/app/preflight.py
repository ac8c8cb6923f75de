"""`python main.py check`: everything that a start depends on, looked at without trading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bot import broker_manager
from bot.app.instance_lock import InstanceLock, describe_owner, is_running
from bot.app.nonce_report import check_store, last_nonce, leader, nonce_line
from bot.base import clock
from bot.base.errors import BotError, NonceStoreError
from bot.base.models import common_quote
from bot.broker_manager import KrakenBroker, check_nonce_file, get_kraken_nonce
from bot.config import Settings
from bot.kraken import responses, transport
from bot.nonce.file_store import store_at


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `error` is what is wrong with it, and `text` says what to know or do.

    A `warning` does not keep the bot from running.
    """

    subject: str
    text: str
    error: BotError | None = None
    warning: bool = False

    @property
    def verdict(self) -> str:
        """One word for the beginning of a line."""
        return "PROBLEM" if self.error else "WARNING" if self.warning else "ok"


def check(settings: Settings, open_broker: Callable[[], KrakenBroker]) -> Iterator[Finding]:
    """Look at settings, state folder, clock, nonce store, pairs, key and permissions, in this order."""
    yield _attempt("settings", lambda: _settings(settings))
    yield _attempt("state", lambda: _state(settings))
    if settings.trading_mode == "paper":
        yield Finding("mode", "paper: no key and no internet are needed")
        yield _attempt("nonce", lambda: _nonce(settings))
        return
    of_clock = _clock(settings)
    yield of_clock
    # A nonce drawn by a clock that may be days ahead would stand in the way of all that follow.
    yield _attempt("nonce", lambda: last_nonce(settings) if of_clock.error else _nonce(settings))
    if not of_clock.error:
        yield _attempt("pairs", lambda: _pairs(settings, open_broker))
    yield _attempt("key", lambda: _key(settings, open_broker))


def _attempt(subject: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(subject, look())
    except BotError as error:
        return Finding(subject, str(error), error)


def _settings(settings: Settings) -> str:
    return f"{settings.trading_mode}, {', '.join(settings.pairs)} at {settings.timeframe}, strategy {settings.strategy}"


def _state(settings: Settings) -> str:
    folder = settings.state_dir
    if is_running(folder):
        return f"{folder}; {describe_owner(folder)} is running on it"
    InstanceLock(folder).release()
    return f"{folder}"


def kraken_seconds(settings: Settings) -> float:
    """Return Kraken's Time in Unix seconds. Raises a TransportError or KrakenError."""
    api = transport.open_api("", "", settings.api_url, settings.proxy)
    return responses.read_time(transport.ask(api.query_public, "Time", {}).get("result"))


def _clock(settings: Settings) -> Finding:
    try:
        kraken = kraken_seconds(settings)
    except BotError as error:
        return Finding("clock", str(error), error)
    if settings.market_speed != 1:
        return Finding("clock", "not compared: the market's time runs faster than the wall clock")
    ahead = clock.wall_seconds() - kraken
    if abs(ahead) <= clock.ServerTime.WRONG_SECONDS:
        return Finding("clock", "agrees with Kraken's")
    clock.nonce_clock.follow_kraken(kraken)
    where = "ahead of" if ahead > 0 else "behind"
    return Finding("clock", f"{abs(ahead):.0f} s {where} Kraken's: set it. Nonces follow Kraken's time", warning=True)


def _nonce(settings: Settings) -> str:
    if settings.nonce_store:
        return check_store(settings)
    # Before the draw, which would lift the file further still.
    check_nonce_file()
    get_kraken_nonce()
    problem = store_at(broker_manager.NONCE_FILE).problem
    if problem:
        raise NonceStoreError(f"{problem}. Free it or its disk, or name another STATE_DIR.")
    return nonce_line()


def _pairs(settings: Settings, open_broker: Callable[[], KrakenBroker]) -> str:
    broker = open_broker()
    try:
        pairs = [broker.pair(name) for name in settings.pairs]
        return f"{', '.join(pair.symbol for pair in pairs)}, in {common_quote(pairs)}"
    finally:
        broker.close()


def _key(settings: Settings, open_broker: Callable[[], KrakenBroker]) -> str:
    if settings.nonce_store and (who := leader(settings)):
        # Whoever does not lead is silent.
        return f"not asked: {who}"
    broker = open_broker()
    broker.connect()
    info = broker.key_info
    if info is None:
        return "works; its permissions could not be read"
    return f"works: {info.name!r}, nonce window {info.nonce_window}, may {', '.join(sorted(info.permissions))}"

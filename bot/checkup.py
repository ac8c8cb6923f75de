"""`python main.py check`: everything that a start depends on, looked at without trading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bot import broker_manager, clock
from bot.broker_manager import KrakenBroker, get_kraken_nonce
from bot.config import Settings
from bot.errors import BotError, NonceStoreError
from bot.instance import InstanceLock, describe_owner, is_running
from bot.kraken import replies, transport
from bot.nonce.file import store_at


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at; `error` is what is wrong with it, and `text` says what to know or do."""

    subject: str
    text: str
    error: BotError | None = None


def check(settings: Settings, open_broker: Callable[[], KrakenBroker]) -> Iterator[Finding]:
    """Look at settings, state folder, clock, nonce store, key and permissions, in this order."""
    yield _attempt("settings", lambda: _settings(settings))
    yield _attempt("state", lambda: _state(settings))
    if settings.trading_mode == "paper":
        yield Finding("mode", "paper: no key and no internet are needed")
        yield _attempt("nonce", _nonce)
        return
    yield _attempt("clock", lambda: _clock(settings))
    yield _attempt("nonce", _nonce)
    yield _attempt("key", lambda: _key(open_broker))


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
    return replies.read_time(transport.ask(api.query_public, "Time", {}).get("result"))


def _clock(settings: Settings) -> str:
    ahead = clock.wall_seconds() - kraken_seconds(settings)
    if abs(ahead) > clock.ServerTime.WRONG_SECONDS:
        return (
            f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} Kraken's: set it. Nonces follow Kraken's time"
        )
    return "agrees with Kraken's"


def _nonce() -> str:
    get_kraken_nonce()
    problem = store_at(broker_manager.NONCE_FILE).problem
    if problem:
        raise NonceStoreError(f"{problem}. Free it or its disk, or name another STATE_DIR.")
    return nonce_line()


def nonce_line() -> str:
    """Return the last nonce, its lead over the clock and its file, in words."""
    stored = store_at(broker_manager.NONCE_FILE).peek()
    if stored is None:
        return f"none yet in {broker_manager.NONCE_FILE}"
    lead_seconds = (stored - clock.nonce_clock.now_us()) / 1_000_000
    where = f"{lead_seconds:.1f} s ahead of the clock" if lead_seconds > 0 else "not ahead of the clock"
    return f"{stored}, {where}, in {broker_manager.NONCE_FILE}"


def _key(open_broker: Callable[[], KrakenBroker]) -> str:
    broker = open_broker()
    broker.connect()
    info = broker.key_info
    if info is None:
        return "works; its permissions could not be read"
    return f"works: {info.name!r}, nonce window {info.nonce_window}, may {', '.join(sorted(info.permissions))}"

"""`python main.py check`: everything that a start depends on, looked at without trading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bot import broker_manager, clock
from bot.broker_manager import KrakenBroker, get_kraken_nonce
from bot.config import Settings
from bot.errors import BotError, SettingsError
from bot.instance import describe_owner, is_running
from bot.kraken import replies, transport
from bot.nonce.file import store_at
from bot.strategies import STRATEGIES


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
    check_strategy(settings)
    return f"{settings.trading_mode}, {', '.join(settings.pairs)} at {settings.timeframe}, strategy {settings.strategy}"


def check_strategy(settings: Settings) -> None:
    """Raise SettingsError where the strategy is not one of ours."""
    if settings.strategy not in STRATEGIES:
        raise SettingsError([f"STRATEGY is {settings.strategy!r}; it can be {', '.join(STRATEGIES)}."])


def _state(settings: Settings) -> str:
    running = is_running(settings.state_dir)
    return f"{settings.state_dir}" + (f"; {describe_owner(settings.state_dir)} is running on it" if running else "")


def _clock(settings: Settings) -> str:
    api = transport.open_api("", "", settings.api_url, settings.proxy)
    envelope = transport.ask(api.query_public, "Time", {})
    ahead = clock.wall_seconds() - replies.read_time(envelope.get("result"))
    if abs(ahead) > clock.ServerTime.WRONG_SECONDS:
        return f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} Kraken's: set it. Nonces follow Kraken's time"
    return "agrees with Kraken's"


def _nonce() -> str:
    get_kraken_nonce()
    problem = store_at(broker_manager.NONCE_FILE).problem
    return problem or nonce_line()


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

"""`python main.py check`: checks everything that a start depends on, without trading."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bot import broker_manager
from bot.app.instance_lock import InstanceLock, describe_owner, is_running
from bot.app.nonce_report import check_store, format_last_nonce, format_leader, format_nonce_line
from bot.app.venue import fetch_kraken_time, live_clock, open_live_broker
from bot.base import clock
from bot.base.errors import BotError, NonceStoreError
from bot.base.models import common_quote
from bot.base.timeframes import TIMEFRAMES, parse_timeframe
from bot.broker_manager import KrakenBroker, check_nonce_file, get_kraken_nonce
from bot.config import Settings
from bot.kraken.key_rules import EXPIRY_WARNING_DAYS, days_until_expiry, describe_limits
from bot.nonce.file_store import open_file_store
from bot.trading.read_budget import max_pairs


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; `error` is the problem, and `text` says what to know or do.

    A `warning` does not keep the bot from running.
    """

    subject: str
    text: str
    error: BotError | None = None
    is_warning: bool = False

    @property
    def label(self) -> str:
        """The first word of the line."""
        return "PROBLEM" if self.error else "WARNING" if self.is_warning else "ok"


def run_checks(settings: Settings) -> Iterator[CheckResult]:
    """Check settings, state folder, clock, nonce store, pairs, key and permissions, in this order."""
    yield _run_check("settings", lambda: _describe_settings(settings))
    if tier_problem := describe_tier_problem(settings):
        yield CheckResult("tier", tier_problem, is_warning=True)
    yield _run_check("state", lambda: _check_state_folder(settings))
    if settings.trading_mode == "paper":
        yield CheckResult("mode", "paper: no key and no internet are needed")
        yield _run_check("nonce", lambda: _check_nonce(settings))
        return
    clock_result = _check_clock(settings)
    yield clock_result
    # A nonce from a clock that may be days ahead would block all that follow.
    yield _run_check("nonce", lambda: format_last_nonce(settings) if clock_result.error else _check_nonce(settings))
    if not clock_result.error:
        yield _run_check("pairs", lambda: _check_pairs(settings))
    yield _check_key(settings)


def _run_check(subject: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(subject, check())
    except BotError as error:
        return CheckResult(subject, str(error), error)


def _describe_settings(settings: Settings) -> str:
    return f"{settings.trading_mode}, {', '.join(settings.pairs)} at {settings.timeframe}, strategy {settings.strategy}"


def describe_tier_problem(settings: Settings) -> str:
    """Say that PAIRS and TIMEFRAME ask for more requests than KRAKEN_TIER allows, with the way out; "" otherwise."""
    count = len(settings.pairs)
    timeframe = settings.timeframe
    allowed = {
        name: max_pairs(settings.tier, parse_timeframe(name), settings.dead_man_switch_seconds) for name in TIMEFRAMES
    }
    if count <= allowed[timeframe]:
        return ""
    longer = next((name for name in TIMEFRAMES if allowed[name] >= count), "")
    switch = (
        f" with DEAD_MAN_SWITCH_SECONDS={settings.dead_man_switch_seconds}" if settings.dead_man_switch_seconds else ""
    )
    return (
        f"at {timeframe} KRAKEN_TIER={settings.tier.name}{switch} has room for {allowed[timeframe]} of {count} pairs: "
        "orders may wait. Take fewer" + (f", or TIMEFRAME={longer}" if longer else "")
    )


def _check_state_folder(settings: Settings) -> str:
    folder = settings.state_dir
    if is_running(folder):
        return f"{folder}; {describe_owner(folder)} is running on it"
    InstanceLock(folder).release()
    return f"{folder}"


def _check_clock(settings: Settings) -> CheckResult:
    try:
        kraken_time_seconds = fetch_kraken_time(settings)
    except BotError as error:
        return CheckResult("clock", str(error), error)
    if settings.market_speed != 1:
        return CheckResult("clock", "not compared: the market's time runs faster than the wall clock")
    ahead_seconds = clock.wall_seconds() - kraken_time_seconds
    if abs(ahead_seconds) <= clock.ServerTime.CORRECTION_THRESHOLD_SECONDS:
        return CheckResult("clock", "agrees with Kraken's")
    clock.nonce_clock.follow_kraken(kraken_time_seconds)
    direction = "ahead of" if ahead_seconds > 0 else "behind"
    return CheckResult(
        "clock",
        f"{abs(ahead_seconds):.0f} s {direction} Kraken's: set it. Nonces follow Kraken's time",
        is_warning=True,
    )


def _check_nonce(settings: Settings) -> str:
    if settings.nonce_store:
        return check_store(settings)
    # Before a nonce is taken, which would raise the file further.
    check_nonce_file()
    get_kraken_nonce()
    problem = open_file_store(broker_manager.NONCE_FILE).problem
    if problem:
        raise NonceStoreError(f"{problem}. Free the file or its disk, or name another STATE_DIR.")
    return format_nonce_line()


def _open_broker(settings: Settings) -> KrakenBroker:
    return open_live_broker(settings, live_clock(settings))


def _check_pairs(settings: Settings) -> str:
    broker = _open_broker(settings)
    try:
        pairs = [broker.pair(name) for name in settings.pairs]
        return f"{', '.join(pair.symbol for pair in pairs)}, in {common_quote(pairs)}"
    finally:
        broker.close()


def _check_key(settings: Settings) -> CheckResult:
    try:
        if settings.nonce_store and (leader_text := format_leader(settings)):
            # An instance that does not lead sends no private request.
            return CheckResult("key", f"not checked: {leader_text}")
        broker = _open_broker(settings)
        broker.connect()
    except BotError as error:
        return CheckResult("key", str(error), error)
    info = broker.key_info
    if info is None:
        return CheckResult("key", "works; its permissions could not be read")
    days = days_until_expiry(info, broker.now())
    facts = [
        f"works: {info.name!r}",
        f"nonce window {info.nonce_window}",
        *describe_limits(info),
        f"may {', '.join(sorted(info.permissions))}",
    ]
    return CheckResult("key", ", ".join(facts), is_warning=days is not None and days <= EXPIRY_WARNING_DAYS)

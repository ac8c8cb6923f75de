"""`python main.py check`: checks everything that a start depends on, without trading."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from decimal import Context, Decimal

from bot import broker_manager
from bot.app.instance_lock import InstanceLock, describe_owner, is_running
from bot.app.nonce_report import check_store, format_last_nonce, format_leader, format_nonce_line
from bot.app.reports import find_journal
from bot.app.session import describe_tier_problem
from bot.app.venue import fetch_kraken_clocks, live_clock, open_live_broker, preview_paper
from bot.base import clock
from bot.base.errors import BotError, NonceStoreError, SettingsError
from bot.base.event_catalog import Event
from bot.base.events import render
from bot.base.models import ZERO, Balance, Order, Pair, common_quote
from bot.base.paths import journal_file_path
from bot.base.timeframes import parse_timeframe
from bot.broker_manager import KrakenBroker, check_nonce_file, get_kraken_nonce
from bot.config import Settings
from bot.kraken.key_rules import EXPIRY_WARNING_DAYS, days_until_expiry, describe_limits
from bot.kraken.pairs import format_decimal
from bot.nonce.file_store import open_file_store
from bot.orders.journal import Journal
from bot.orders.position import OpenPair, build_positions, find_open_pairs, without_rests
from bot.simulator.errors import SimulatorError
from bot.simulator.instruments import known_instruments
from bot.simulator.paper import paper_account_paths
from bot.simulator.storage import read_balances

# Three digits of a share are enough.
_PERCENT_CONTEXT = Context(prec=3)


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of one check; `error` is the problem, and `text` says what to know or do.

    A warning does not keep the bot from running; a note is neither.
    """

    subject: str
    text: str
    error: BotError | SimulatorError | None = None
    is_warning: bool = False
    is_note: bool = False

    @property
    def label(self) -> str:
        """The first word of the line."""
        return "PROBLEM" if self.error else "WARNING" if self.is_warning else "note" if self.is_note else "ok"


@dataclass(frozen=True, slots=True)
class _PricedPair:
    """A pair's minima, and its price; None where that could not be read."""

    symbol: str
    base: str
    quote: str
    order_minimum: Decimal
    cost_minimum: Decimal
    price: Decimal | None


@dataclass(slots=True)
class _Account:
    """What the checks have found: the pairs, and the free balance of their quote; empty and None where unknown."""

    pairs: list[_PricedPair] = field(default_factory=list)
    free_balance: Decimal | None = None


def run_checks(settings: Settings) -> Iterator[CheckResult]:
    """Check settings, state folder, clock, nonce store, pairs, sizes, key and permissions, in this order."""
    account = _Account()
    yield _run_check("settings", lambda: _describe_settings(settings))
    if tier_problem := describe_tier_problem(settings):
        yield CheckResult("tier", tier_problem, is_warning=True)
    yield _run_check("state", lambda: _check_state_folder(settings))
    if settings.trading_mode == "paper":
        yield _run_check("mode", lambda: _check_paper(settings, account))
        yield from _check_sizes(settings, account)
        yield _run_check("nonce", lambda: _check_nonce(settings))
        yield from _check_paper_accounts(settings)
        return
    clock_result = _check_clock(settings)
    yield clock_result
    # A nonce from a clock that may be days ahead would block all that follow.
    yield _run_check("nonce", lambda: format_last_nonce(settings) if clock_result.error else _check_nonce(settings))
    if not clock_result.error:
        yield _run_check("pairs", lambda: _check_pairs(settings, account))
    # The balance comes with the key.
    account_results = _check_account(settings, account)
    if account.pairs:
        yield CheckResult("sizes", _format_sizes(settings, account), is_note=True)
    yield from _check_sizes(settings, account)
    yield from account_results


def _run_check(subject: str, check: Callable[[], str]) -> CheckResult:
    try:
        return CheckResult(subject, check())
    except (BotError, SimulatorError) as error:
        return CheckResult(subject, str(error), error)


def _describe_settings(settings: Settings) -> str:
    return f"{settings.trading_mode}, {', '.join(settings.pairs)} at {settings.timeframe}, strategy {settings.strategy}"


def _check_state_folder(settings: Settings) -> str:
    folder = settings.state_dir
    if is_running(folder):
        return f"{folder}; {describe_owner(folder)} is running on it"
    InstanceLock(folder).release()
    if settings.trading_mode != "paper":
        _check_journal(settings)
    return f"{folder}"


def _check_journal(settings: Settings) -> None:
    """Read the journal, where there is one. Raises JournalError, or JournalVersionError."""
    journal = Journal(journal_file_path(broker_manager.NONCE_FILE, settings.api_key))
    if os.path.exists(journal.path):
        journal.unresolved_intents()
        journal.close()


def _check_clock(settings: Settings) -> CheckResult:
    try:
        kraken_time_seconds, date_seconds = fetch_kraken_clocks(settings)
    except BotError as error:
        return CheckResult("clock", str(error), error)
    if settings.market_speed != 1:
        return CheckResult("clock", "not compared: the market's time runs faster than the wall clock")
    wall_seconds = clock.wall_seconds()
    ahead_seconds = wall_seconds - kraken_time_seconds
    if abs(ahead_seconds) <= clock.ServerTime.CORRECTION_THRESHOLD_SECONDS:
        return CheckResult("clock", "agrees with Kraken's")
    direction = "ahead of" if ahead_seconds > 0 else "behind"
    difference = f"{abs(ahead_seconds):.0f} s {direction} Kraken's"
    if clock.judge_kraken_time(kraken_time_seconds, date_seconds, wall_seconds, wall_seconds) != kraken_time_seconds:
        # A nonce from a time that is too high could not be taken back.
        text = f"{difference} Time, which no other clock confirms: nonces follow this clock. Check it, and try again"
        return CheckResult("clock", text, is_warning=True)
    clock.nonce_clock.follow_kraken(kraken_time_seconds)
    return CheckResult("clock", f"{difference}: set it. Nonces follow Kraken's time", is_warning=True)


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


def _check_paper(settings: Settings, account: _Account) -> str:
    preview = preview_paper(settings)
    pairs = [
        _PricedPair(
            pair.symbol,
            pair.symbol.partition("/")[0],
            pair.symbol.partition("/")[2],
            pair.order_minimum,
            pair.cost_minimum,
            price,
        )
        for pair, price in preview.pairs
    ]
    common_quote(pairs)
    account.pairs, account.free_balance = pairs, preview.free_balance
    return f"paper, no key is needed; {_format_sizes(settings, account)}"


def _check_pairs(settings: Settings, account: _Account) -> str:
    broker = _open_broker(settings)
    try:
        pairs = [broker.pair(name) for name in settings.pairs]
        quote = common_quote(pairs)
        account.pairs = [
            _PricedPair(pair.symbol, pair.base, quote, pair.order_minimum, pair.cost_minimum, _read_price(broker, pair))
            for pair in pairs
        ]
        return f"{', '.join(pair.symbol for pair in pairs)}, in {quote}"
    finally:
        broker.close()


def _read_price(broker: KrakenBroker, pair: Pair) -> Decimal | None:
    try:
        return broker.get_current_price(pair.symbol)
    except BotError:
        return None


def _format_sizes(settings: Settings, account: _Account) -> str:
    """Return every size with its unit and its share of the balance."""
    quote, free = account.pairs[0].quote, account.free_balance
    sizes = []
    for name, size in settings.sizes().items():
        share = f" ({format_decimal(_PERCENT_CONTEXT.divide(size * 100, free))} %)" if free else ""
        sizes.append(f"{name} {format_decimal(size)}{share}")
    balance = f"of {format_decimal(free)} {quote} free" if free is not None else f"in {quote}, of an unknown balance"
    return f"{balance}: {', '.join(sizes)}"


def _check_sizes(settings: Settings, account: _Account) -> Iterator[CheckResult]:
    """Yield what is wrong with the sizes."""
    if not account.pairs:
        return
    quote = account.pairs[0].quote
    try:
        settings.check_sizes(quote)
    except SettingsError as error:
        yield CheckResult("sizes", str(error), error)
        return
    order_value = f"ORDER_VALUE is {format_decimal(settings.order_value)} {quote}"
    for pair in account.pairs:
        minimum_cost = max(pair.cost_minimum, pair.order_minimum * (pair.price or ZERO))
        if settings.order_value < minimum_cost:
            text = f"below the minimum of {pair.symbol}: {format_decimal(pair.order_minimum)} {pair.base}, and"
            text = f"{order_value}, {text} {format_decimal(pair.cost_minimum)} {quote}; its entries would be refused"
            yield CheckResult("sizes", text, is_warning=True)
    if settings.order_value > settings.max_position_value:
        text = f"{order_value}, above MAX_POSITION_VALUE ({format_decimal(settings.max_position_value)})"
        yield CheckResult("sizes", f"{text}; every entry would be refused", is_warning=True)
    if account.free_balance is not None and settings.order_value > account.free_balance:
        text = f"{order_value}, and {format_decimal(account.free_balance)} are free"
        yield CheckResult("sizes", f"{text}: an entry gets no more than that", is_warning=True)


def _check_account(settings: Settings, account: _Account) -> list[CheckResult]:
    """Check the key, and what the bot has in pairs that PAIRS does not name; take over the free balance."""
    try:
        if settings.nonce_store and (leader_text := format_leader(settings)):
            # An instance that does not lead sends no private request.
            return [CheckResult("key", f"not checked: {leader_text}")]
        with contextlib.closing(_open_broker(settings)) as broker:
            return [_check_key(broker, account), *_check_untraded_pairs(settings, broker)]
    except BotError as error:
        return [CheckResult("key", str(error), error)]


def _check_key(broker: KrakenBroker, account: _Account) -> CheckResult:
    balances = broker.connect()
    if account.pairs:
        quote = account.pairs[0].quote
        account.free_balance = (balances.get(quote) or Balance(quote, ZERO, ZERO)).free
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


def _check_untraded_pairs(settings: Settings, broker: KrakenBroker) -> Iterator[CheckResult]:
    """Tell of what the bot has in pairs that PAIRS does not name. Asks Kraken only where the journal has any."""
    path = find_journal(broker_manager.NONCE_FILE, settings.api_key, is_paper=False)
    if path is None:
        return
    try:
        symbols = [broker.pair(name).symbol for name in settings.pairs]
        with contextlib.closing(Journal(str(path))) as journal:
            orders = list(filter(broker.is_own_order, journal.orders()))
        book = build_positions(orders)
        if not find_open_pairs(book, filter(_is_open, orders), symbols):
            return
        untraded = find_open_pairs(book, filter(broker.is_own_order, broker.get_open_orders()), symbols)
        pairs = without_rests(untraded, broker, broker.get_account_balance())
    except BotError as error:
        yield CheckResult("positions", str(error), error)
        return
    yield from map(_untraded_result, pairs)


def _check_paper_accounts(settings: Settings) -> Iterator[CheckResult]:
    """Tell of a paper account without the quote currency of PAIRS, and of what it has in other pairs."""
    timeframe_seconds = parse_timeframe(settings.timeframe)
    try:
        instruments = known_instruments(settings.pairs)
        accounts = paper_account_paths(settings.pairs, settings.price_source, timeframe_seconds, settings.state_dir)
        balances = [one for one in map(read_balances, accounts) if one]
    except SimulatorError:
        # A pair without built-in rules, or an account that a bot has open, which says it itself.
        return
    quote = instruments.pairs[0].quote
    if balances and not any(one.get(quote.asset_id) for one in balances):
        text = render(Event.PAPER_QUOTE_MISSING, {"quote": quote.altname})
        yield CheckResult("account", text, is_warning=True)
    path = find_journal(broker_manager.NONCE_FILE, settings.api_key, is_paper=True)
    if path is not None:
        with contextlib.closing(Journal(str(path))) as journal:
            orders = journal.orders()
        symbols = [pair.symbol for pair in instruments.pairs]
        yield from map(_untraded_result, find_open_pairs(build_positions(orders), filter(_is_open, orders), symbols))


def _is_open(order: Order) -> bool:
    return order.is_open


def _untraded_result(pair: OpenPair) -> CheckResult:
    return CheckResult("positions", render(Event.UNTRADED_PAIR_FOUND, pair.event_fields()), is_warning=True)

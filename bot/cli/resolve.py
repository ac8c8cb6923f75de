"""`orders resolve`: writes the outcome of an order into the journal that a person has found out at Kraken."""

from __future__ import annotations

import argparse
import contextlib
import re
from dataclasses import replace

from bot.app.instance_lock import InstanceLock
from bot.app.reports import find_journal
from bot.app.venue import live_clock, open_live_broker
from bot.base.clock import wall_seconds
from bot.base.errors import SettingsError
from bot.base.logging_setup import print_line
from bot.base.models import OrderStatus
from bot.broker_manager import NONCE_FILE
from bot.config import Settings
from bot.kraken.new_order import derive_bot_id
from bot.orders.journal import Journal
from bot.orders.order_state import UNRESOLVED_STATES, WORKING_STATES, Intent, OrderState

# Stands for all orders of an earlier run, in place of a client order id.
HISTORY = "history"
# By then Kraken has processed the order, or its deadline is over.
MIN_AGE_SECONDS = 120.0
REASON = "resolved by hand"

_TXID = re.compile(r"[A-Z0-9]+(-[A-Z0-9]+)*")


def resolve_order(settings: Settings, options: argparse.Namespace) -> int:
    """Write the outcome into the journal; return 0. Raises SettingsError where it must not be written, and
    BotAlreadyRunningError while a bot runs on the state folder: it would go by what it knows."""
    path = find_journal(NONCE_FILE, settings.api_key, settings.trading_mode == "paper")
    if path is None:
        raise SettingsError([f"There is no journal in {settings.state_dir}: nothing to resolve."])
    with contextlib.ExitStack() as stack:
        stack.callback(InstanceLock(settings.state_dir).release)
        journal = stack.enter_context(contextlib.closing(Journal(str(path))))
        if options.cl_ord_id == HISTORY:
            print_line(_resolve_history(settings, journal, options.placed))
        else:
            print_line(_resolve_order(settings, journal, options.cl_ord_id, options.placed))
    return 0


def _resolve_history(settings: Settings, journal: Journal, txid: str | None) -> str:
    if txid or not settings.api_key:
        raise SettingsError([f"For {HISTORY} the answer is --not-placed, and KRAKEN_API_KEY has to be set."])
    journal.set_complete_until(settings.bot_id or derive_bot_id(settings.api_key), wall_seconds())
    return f"{journal.path} counts as complete. Start the bot within a minute."


def _resolve_order(settings: Settings, journal: Journal, cl_ord_id: str, txid: str | None) -> str:
    intent = journal.get_intent(cl_ord_id)
    if intent is None:
        raise SettingsError([f"{journal.path} has no order {cl_ord_id}: `python main.py orders --open` lists them."])
    is_vanished = intent.state in WORKING_STATES and txid is None
    if intent.state not in UNRESOLVED_STATES and not is_vanished:
        raise SettingsError([f"The order {cl_ord_id} is {intent.state}: there is nothing to resolve."])
    age_seconds = wall_seconds() - intent.sent_seconds
    if age_seconds < MIN_AGE_SECONDS:
        raise SettingsError(
            [f"The order {cl_ord_id} was sent {age_seconds:.0f} s ago: wait until {MIN_AGE_SECONDS:.0f} s are over."]
        )
    if is_vanished:
        _check_vanished(settings, intent.txid)
        _end_vanished_order(journal, intent)
        return f"The order {cl_ord_id} counts as ended, with what it had executed when it was last seen."
    if txid is None:
        journal.set_state(cl_ord_id, OrderState.NOT_PLACED, REASON)
        return f"The order {cl_ord_id} counts as not placed."
    _check_txid(journal.intents(), txid)
    journal.set_state(cl_ord_id, OrderState.OPEN, REASON, txid)
    return f"The order {cl_ord_id} counts as placed: the next run follows {txid}."


def _check_vanished(settings: Settings, txid: str) -> None:
    """Raise SettingsError for an order that Kraken knows: the bot would go on without it."""
    order = None
    if settings.trading_mode != "paper":
        with contextlib.closing(open_live_broker(settings, live_clock(settings))) as broker:
            broker.connect()
            order = broker.query_order(txid)
        if order is None:
            return
    raise SettingsError([f"Kraken has the order {txid}: cancel it there, or let the bot follow it."])


def _end_vanished_order(journal: Journal, intent: Intent) -> None:
    record = next((order for order in journal.orders() if order.txid == intent.txid), None)
    if record is None:
        journal.set_state(intent.cl_ord_id, OrderState.CANCELED, REASON)
        return
    ended = replace(record, status=OrderStatus.CANCELED, closed_seconds=wall_seconds(), reason=REASON)
    journal.record_orders([ended])


def _check_txid(intents: list[Intent], txid: str) -> None:
    if not _TXID.fullmatch(txid):
        raise SettingsError([f"--placed takes Kraken's transaction id, such as OQ7TEX-3F5KA-9ZPLMN, not {txid!r}."])
    other = next((intent for intent in intents if intent.txid == txid), None)
    if other is not None:
        raise SettingsError([f"{txid} is the order {other.cl_ord_id} of this journal, and no other one."])

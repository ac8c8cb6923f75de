"""The catalogue of events: everything that the bot logs, one entry for each event.

An entry has a name, a level, a message template and, if people are alerted, the kind of the alert. The log has the name
in lower case: `order_filled`. Each placeholder is a field of `FIELDS`. A part of a template in [brackets] is left out
when one of its fields is missing or None. To add an event, add an entry; to add a field, add a line to `FIELDS`.
"""

from __future__ import annotations

from enum import Enum, StrEnum, unique
from logging import ERROR, INFO, WARNING


class Alert(StrEnum):
    """The kinds of alerts, as the webhook receives them."""

    # Kraken has refused a nonce.
    REFUSED_NONCE = "refused_nonce"
    # Another program is using the key.
    EXTERNAL_SENDER = "external_sender"
    # The circuit breaker of the key opens, after refusals or a lockout.
    CIRCUIT_BREAKER = "circuit_breaker"
    # It is unknown whether an order was placed.
    UNKNOWN_OUTCOME = "unknown_outcome"
    # The bot is halted (the kill switch is on), or the halt is lifted.
    HALTED = "halted"
    # This instance leads the account, or no longer leads it.
    LEADER_CHANGE = "leader_change"
    # The bot's position and the account's balance of the coin disagree, or agree again.
    BALANCE_DISAGREES = "balance_disagrees"
    DAILY_SUMMARY = "daily_summary"
    # Entries are paused, or no longer.
    ENTRIES_PAUSED = "entries_paused"
    # A position is not protected, or not looked after, for the reason in the text.
    POSITION = "position"
    # The API key expires, or was changed so that it may not be used.
    API_KEY = "api_key"
    # A strategy has raised an exception, and decides nothing more for a pair.
    STRATEGY_FAILED = "strategy_failed"
    # A service does not trade, for the reason in the text.
    TRADING_INTERRUPTED = "trading_interrupted"


# The meaning of each field. In JSON, decimals are text, so that no digit is lost, and times are RFC 3339 text in UTC.
FIELDS: dict[str, str] = {
    "addresses": "network addresses",
    "advice": "what a person should do",
    "ahead_seconds": "how far the clock of this machine is ahead of Kraken's, if it is",
    "asset": "name of an asset",
    "balance": "balance of an asset in the account",
    "balances": "balances of the account, by asset",
    "banner": "the trading mode, and whether real money is at stake",
    "behind_seconds": "how far the clock of this machine is behind Kraken's, if it is",
    "best_price": "best price in the order book, in quote currency",
    "bot_id": "prefix of the client order ids of this bot",
    "candle_time": "start of a candle",
    "circumstance": "when it happened, if not now",
    "cl_ord_id": "client order id",
    "close": "close of the last closed candle, in quote currency",
    "content": "first bytes of a damaged file, or a candle as Kraken sent it",
    "cost": "value of the executed volume, in quote currency",
    "count": "number of alerts, or of orders that have been read",
    "damaged_path": "new path of a damaged file",
    "equity_end": "equity at the end of the run, in quote currency",
    "equity_start": "equity at the start of the run, in quote currency",
    "equity_time": "time of the last known equity, if it was not read at the end",
    "error": "what went wrong",
    "executed": "executed volume of an order, in base currency",
    "fee": "fee, in quote currency",
    "fencing_token": "number of the lease; each new leader gets a higher one",
    "fills": "number of fills in the run",
    "floor": "the next nonce is above this one",
    "grace_seconds": "time that the call in flight still has",
    "holdings": "positions of the bot, in base currency, by pair",
    "kind": "purpose of an order: entry, exit or stop",
    "last_equity": "the last known equity, in quote currency, if it was not read at the end",
    "location": "the shared nonce store",
    "market_time": "time of the market; in a replay, a time in the past",
    "method": "method of Kraken's API",
    "mode": "the trading mode: paper, live or halt",
    "nonce": "a nonce, as text: it may have more digits than a JSON number holds",
    "nonce_state": "the last nonce, its distance from the clock, and its file or store",
    "open_orders": "number of open orders of the bot",
    "orders": "open orders of the bot, as text",
    "orders_placed": "number of orders of the run that Kraken has accepted",
    "orders_refused": "number of orders of the run that Kraken has refused",
    "orders_unknown": "number of orders of the run with an unknown outcome",
    "owner": "the process that leads, or has led",
    "pairs": "the traded pairs",
    "path": "the file or folder",
    "peer": "network address of a client",
    "price": "limit or trigger price of an order, or average price of the executed volume, in quote currency",
    "price_source": "source of the prices",
    "prices": "current prices, in quote currency, by pair",
    "quote": "the quote currency",
    "realised": "realised P&L of the run, in quote currency",
    "reason": "the reason, as a sentence",
    "reconciled": "true if the outcome of every order is known",
    "refused_nonces": "number of nonces of this process that Kraken has refused",
    "replay": "true if the market is in the past: a recorded one, or the warm-up of a paper account",
    "reported_nonce": "the last nonce that Kraken reports, as text",
    "reported_unit": "the unit that a nonce with as many digits is in",
    "retry_seconds": "time until the next attempt",
    "rule": "the risk rule that refuses an order",
    "rules": "what Kraken demands of an order of the pair",
    "setting": "name of a setting",
    "side": "buy or sell",
    "signal": "the signal that ends the program",
    "source": "the exchange, a pair, or a part of the program",
    "state": "state of an order",
    "status": "Kraken's word for a trading status",
    "strategy": "the strategy",
    "summary": "the figures of the day, as text",
    "symbol": "the pair",
    "table": "the table of the journal",
    "thread": "the thread",
    "timeframe": "duration of a candle",
    "timeout_seconds": "time-out of the dead man's switch",
    "total": "number of orders in all",
    "txid": "transaction id of an order at Kraken",
    "unit": "unit of a nonce: us or ns",
    "until": "when it ends",
    "url": "address of the dashboard",
    "volume": "size of an order, a fill or a position, in base currency",
    "wait_seconds": "time during which no order, or no request, is sent",
    "worst_price": "worst price at which a market order may fill, in quote currency",
}


def _info(template: str, alert: Alert | None = None) -> tuple[int, str, Alert | None]:
    return INFO, template, alert


def _warning(template: str, alert: Alert | None = None) -> tuple[int, str, Alert | None]:
    return WARNING, template, alert


def _error(template: str, alert: Alert | None = None) -> tuple[int, str, Alert | None]:
    return ERROR, template, alert


@unique
class Event(Enum):
    """The events: each with its level, its message template and, if people are alerted, the kind of the alert."""

    # The run: its start, its end, and what keeps it from trading.
    RUN_STARTED = _info("{banner}")
    DASHBOARD_STARTED = _info("Dashboard: {url}")
    NONCE_READ = _info("Nonce: {nonce_state}")
    ACCOUNT_READ = _info("Account: {balances}; bot id {bot_id}")
    TRADING_STARTED = _info("Trading {pairs} at {timeframe} with {strategy}; prices: {price_source}")
    TIER_EXCEEDED = _warning("{reason}.")
    START_RETRIED = _warning("Waiting: the account is read again in {retry_seconds:.0f} s: {error}")
    STANDBY_ENTERED = _info("Standby: {reason}")
    LEADERSHIP_ACQUIRED = _info(
        "{owner} leads with fencing token {fencing_token} in {location}", alert=Alert.LEADER_CHANGE
    )
    LEADERSHIP_LOST = _warning("{owner} no longer leads: {reason}", alert=Alert.LEADER_CHANGE)
    LEADERSHIP_RELEASED = _info("The lease with fencing token {fencing_token} is released: {reason}")
    TRADING_INTERRUPTED = _warning("Waiting: {error}", alert=Alert.TRADING_INTERRUPTED)
    RETRY_SCHEDULED = _info("The next attempt is in {retry_seconds:.0f} s.")
    TRADING_STALLED = _warning("Trading is disturbed for a minute: {reason}", alert=Alert.TRADING_INTERRUPTED)
    TRADING_RESUMED = _info("Trading is undisturbed again.", alert=Alert.TRADING_INTERRUPTED)
    DAY_SUMMARIZED = _info("{summary}", alert=Alert.DAILY_SUMMARY)
    DAY_SUMMARY_FAILED = _warning("The day could not be summed up: {error}", alert=Alert.DAILY_SUMMARY)
    SHUTDOWN_STARTED = _info("{signal}: stopping; the call in flight has {grace_seconds:g} s.")
    REQUEST_ABANDONED = _warning("A request is still unanswered; the program ends without waiting for it.")
    ORDER_ABANDONED = _warning(
        "{symbol}  unknown: {side} {volume} ({cl_ord_id}), never sent again;"
        " the next start finds it at Kraken if it was placed"
    )
    RUN_ABANDONED = _warning(
        "Ended: {signal}, with a request unanswered; the account was not read again; refused nonces: {refused_nonces}"
    )
    RUN_ENDED = _info("Ended: {reason}.")
    RUN_SUMMARIZED = _info(
        "Equity {equity_start:.2f} -> {equity_end:.2f} {quote}[ (last known {last_equity:.2f} at {equity_time})];"
        " realised {realised:.2f} {quote};"
        " orders: {orders_placed} placed, {orders_refused} refused by Kraken, {orders_unknown} unknown; fills {fills};"
        " refused nonces: {refused_nonces}"
    )
    RUN_FAILED = _error("Stopped: {error}")

    # The trading cycle.
    WARM_UP_STARTED = _info("Warm-up: recent candles are replayed first; these lines have earlier market times.")
    WARM_UP_ENDED = _info("The warm-up is over: trading continues at current prices.")
    HISTORY_AWAITED = _info(
        "An earlier run may have sent orders that this journal does not have: no order is sent for at least another"
        " {wait_seconds:.0f} s, on a busy account until its history has been read."
    )
    HISTORY_PROGRESS = _info(
        "The order history: {count} of {total} orders have been read; the rest takes about {wait_seconds:.0f} s."
    )
    HISTORY_WAIT_EXPLAINED = _info(
        "STATE_DIR has no journal of this key, so another instance may still trade. If there is none,"
        " SKIP_OVERLAP_WAIT=1 skips this wait."
    )
    HISTORY_READ = _info("The order history has been read.")
    HISTORY_READ_FAILED = _warning("The order history could not be read, so no position is opened: {error}")
    PAIR_RULES_CHANGED = _info("{symbol}  Kraken has changed what it demands of orders: {rules}")
    PAIR_RULES_NOT_READ = _warning("{symbol}  the rules of the pair could not be read; the last ones apply: {error}")
    POSITION_FOUND = _info("{symbol}  holding {volume} at {price:.8g}")
    UNTRADED_PAIR_FOUND = _warning(
        "{symbol}  not in PAIRS, so left alone:[ {volume} held at {price:.8g};] orders: {orders}. Put it back, or sell"
        " by hand.",
        alert=Alert.POSITION,
    )
    POSITION_LEFT = _warning(
        "{symbol}  left at Kraken, as last read:[ {volume} held at {price:.8g};] orders: {orders}", alert=Alert.POSITION
    )
    PAPER_QUOTE_MISSING = _warning(
        "The paper account has no {quote}, so nothing can be bought: `python main.py paper reset` begins a new account."
    )
    CYCLE_FAILED = _warning("Waiting: {error}")
    CYCLE_RECOVERED = _info("Trading continues.")
    PAIR_FAILED = _warning("{symbol}  waiting, while the other pairs go on: {error}")
    PAIR_RECOVERED = _info("{symbol}  trading continues.")
    STRATEGY_FAILED = _error(
        "{symbol}  the strategy {strategy} failed on the candle of {candle_time}: {error}. It decides nothing more for"
        " this pair until a restart; stops, fills and reconciliation go on.",
        alert=Alert.STRATEGY_FAILED,
    )
    CANDLE_LEFT_OUT = _warning("{symbol}  a candle of Kraken's cannot be used and is left out: {content}")
    MARKET_STATUS_RESTRICTED = _warning("Trading is restricted: {reason}")
    MARKET_STATUS_RESTORED = _info("Trading continues: the status of {source} is online again.")
    STATUS_REPORTED = _info("Watching {prices}; holding {holdings}; open orders: {open_orders}")
    FINAL_ACCOUNT_NOT_READ = _info("The account is not read again: Kraken's rate limit has no room for that now.")
    FINAL_ACCOUNT_READ_FAILED = _warning("The account could not be read at the end: {error}")
    TRADER_FAILED = _error("The trader stopped on an error in the program.")

    # What holds trading back from outside.
    BOT_HALTED = _warning(
        "Halted: resting entries are canceled, and no order is sent but a missing stop. `python main.py resume --halt`"
        " lifts the halt.",
        alert=Alert.HALTED,
    )
    HALT_LIFTED = _info("The halt is lifted.", alert=Alert.HALTED)
    ENTRIES_PAUSED = _warning(
        "Entries are paused: resting ones are canceled, and none is sent; exits and stops go on. `python main.py"
        " resume` ends the pause.",
        alert=Alert.ENTRIES_PAUSED,
    )
    ENTRIES_RESUMED = _info("Entries are no longer paused.", alert=Alert.ENTRIES_PAUSED)
    STOP_BEYOND_TRIGGER = _error(
        "{symbol}  halted, and {volume} have no stop: the price of {close} is already beyond its trigger of {price}, so"
        " a stop would sell at once",
        alert=Alert.POSITION,
    )
    DEAD_MAN_SWITCH_ARMED = _info(
        "The dead man's switch is armed: if it is not renewed for {timeout_seconds} s, Kraken cancels all orders of the"
        " account."
    )
    DEAD_MAN_SWITCH_DISARMED = _info("The dead man's switch is off: {reason}")
    DEAD_MAN_SWITCH_DISARM_FAILED = _error(
        "The dead man's switch could not be disarmed ({error}): Kraken may cancel every order of the account within"
        " {timeout_seconds} s."
    )

    # Decisions, and the bot's own orders.
    HOLD_DECIDED = _info("{symbol} {close}  nothing to do: no signal")
    ORDER_REFUSED_BY_RISK = _warning("{symbol} {close}  {kind} refused ({rule}): {reason}")
    STOP_REFUSED_BY_RISK = _error("{symbol} {close}  {kind} refused ({rule}), so no stop is placed: {reason}")
    SIGNAL_ALREADY_PLACED = _info("{symbol}  {kind} {side} {volume}: this signal was placed before, as {cl_ord_id}")
    ORDER_PLACED = _info(
        "{symbol} {close}  {kind}: {side} {volume}[ at {price}][ at worst {worst_price}] accepted as {txid}: {reason}"
    )
    ORDER_REFUSED = _warning("{symbol}  {kind} {side} {volume}: refused: {error}[; {advice}]")
    STOP_REFUSED = _error("{symbol}  {kind} {side} {volume}: refused, so no stop is placed: {error}[; {advice}]")
    SIGNAL_OUTCOME_UNKNOWN = _warning(
        "{symbol}  {kind} {side} {volume}: unknown, no new order for this pair until its outcome is known"
    )
    ORDER_FOUND_PLACED = _info("{symbol}  reconciled: order {cl_ord_id} was placed as {txid} and is {state}")
    ORDER_FOUND_NOT_PLACED = _info("{symbol}  reconciled: order {cl_ord_id} was not placed")
    ORDER_FILLED = _info("{symbol} {price}  filled: {side} {volume} for {cost:.2f} {quote}, fee {fee:.2f} ({txid})")
    ORDER_ENDED = _info(
        "{symbol} {price}  {state}[ {circumstance}]: {side} {executed} of {volume}"
        "[ for {cost:.2f} {quote}, fee {fee:.2f}] ({txid})"
    )
    ORDER_ADOPTED = _info("{symbol}  own order adopted: {side} {volume} at {price} ({txid})")
    ORDER_VANISHED = _warning(
        "{symbol}  Kraken accepted the order {cl_ord_id} as {txid} and no longer knows it; the pair gets no new order."
        " Look for it on kraken.com, stop the bot, and use `python main.py orders resolve`.",
        alert=Alert.UNKNOWN_OUTCOME,
    )
    ORDER_CANCEL_ACCEPTED = _info("{symbol}  cancel accepted: {side} {volume} at {price} ({txid})")
    ORDER_CANCELED = _info("{symbol}  canceled: {side} {volume} at {price} ({txid})")
    ORDER_CANCEL_FAILED = _warning("{symbol}  not canceled ({error}): {side} {volume} at {price} ({txid})")
    EXTERNAL_ORDER_FOUND = _info(
        "{symbol}  an order of another sender, left alone: {side} {volume} at {price} ({txid})"
    )
    EXIT_UNFILLED = _warning(
        "{symbol}  the exit of {volume} finds no buyer within MAX_SLIPPAGE_PERCENT, and is repeated until it does[; the"
        " best bid is {best_price}]"
    )
    EXIT_DELAYED = _info("{symbol}  the exit waits: {reason}")
    BALANCE_DISAGREES = _warning(
        "{symbol}  the bot holds {volume}, the account has {balance} {asset}: {reason}", alert=Alert.BALANCE_DISAGREES
    )
    BALANCE_AGREES = _info("{symbol}  the account has what the bot holds again.", alert=Alert.BALANCE_DISAGREES)
    FILLS_FETCH_FAILED = _warning("The fills are fetched later: {error}")
    FILLS_FETCH_RECOVERED = _info("The fills can be fetched again.")

    # Orders on their way to Kraken.
    EXIT_ABOVE_MAXIMUM = _warning(
        "{symbol}  a sale of {volume} of the own position, worth {cost:.2f} {quote}, exceeds MAX_ORDER_VALUE: smaller"
        " parts would be below the pair's minimum."
    )
    ORDER_ALREADY_PLACED = _warning("The order {cl_ord_id} was placed before ({txid}); it is not sent again.")
    ORDER_UNKNOWN = _warning(
        "The outcome of the order {cl_ord_id} ({side} {volume} {symbol}) is unknown: {reason}. It is not sent again;"
        " {symbol} gets no new order until it is reconciled.",
        alert=Alert.UNKNOWN_OUTCOME,
    )
    UNKNOWN_ORDER_FOUND = _warning(
        "An earlier run, or another process, has left the order {cl_ord_id} ({side} {volume} {symbol}) unresolved;"
        " it is queried at Kraken.",
        alert=Alert.UNKNOWN_OUTCOME,
    )
    OUTCOME_NOT_PROVABLE = _warning(
        "Kraken's lists do not show the order {cl_ord_id} ({side} {volume} {symbol}), which proves nothing: {reason}."
        " Look for it on kraken.com, stop the bot, and use `python main.py orders resolve`.",
        alert=Alert.UNKNOWN_OUTCOME,
    )
    HISTORY_NOT_PROVABLE = _warning(
        "Kraken's lists may lack orders that this journal does not have: {reason}. No order is sent. If none is"
        " missing, stop the bot, and use `python main.py orders resolve history --not-placed`.",
        alert=Alert.UNKNOWN_OUTCOME,
    )
    ORDER_STATE_NOT_SAVED = _error(
        "The order {cl_ord_id} is {state}, which could not be written to the journal: {error}"
    )
    FOUND_ORDERS_NOT_SAVED = _error(
        "Orders that were found could not be written to the journal; they will be queried again: {error}"
    )

    # The key, its nonces and its limits.
    KEY_NOT_CHECKED = _warning("The key could not be checked ({error}): its permissions and nonce window are unknown.")
    KEY_EXPIRES = _warning("The API key is valid until {until}: make a new one before.")
    KEY_EXPIRES_SOON = _error(
        "The API key is valid until {until}; after that nothing can be sold or canceled with it: make a new one now.",
        alert=Alert.API_KEY,
    )
    KEY_LIMITED_TO_ADDRESSES = _info("Kraken accepts the API key from these addresses only: {addresses}")
    KEY_FOUND_UNSUITABLE = _error("{error}", alert=Alert.API_KEY)
    CLOCK_FOUND_WRONG = _warning(
        "The clock of this machine is[ {ahead_seconds:.0f} s ahead of][ {behind_seconds:.0f} s behind] Kraken's: nonces"
        " follow Kraken's time. Set the clock."
    )
    KRAKEN_TIME_NOT_FOLLOWED = _warning(
        "Kraken's Time is[ {ahead_seconds:.0f} s behind][ {behind_seconds:.0f} s ahead of] the clock of this machine,"
        " and {reason}: it was not followed."
    )
    NONCE_REFUSED = _warning(
        "Kraken refused nonce {nonce} ({unit}) of {method} (refusal {refused_nonces}).", alert=Alert.REFUSED_NONCE
    )
    EXTERNAL_SENDER_DETECTED = _warning("{advice}.", alert=Alert.EXTERNAL_SENDER)
    EXTERNAL_NONCE_REPORTED = _warning(
        "Kraken reports nonce {reported_nonce}[ ({reported_unit})], above our {nonce}: another sender is on this key.",
        alert=Alert.EXTERNAL_SENDER,
    )
    CIRCUIT_BREAKER_OPENED = _warning(
        "Nothing is sent on this key for {wait_seconds:.0f} s: {reason}.[ {advice}.]", alert=Alert.CIRCUIT_BREAKER
    )
    CIRCUIT_BREAKER_CLOSED = _warning("The probe was accepted; the circuit breaker is closed ({reason}).")
    CIRCUIT_BREAKER_NOT_SAVED = _error(
        "The open circuit breaker cannot be kept in {path} ({error}): this process alone sends nothing."
    )
    CIRCUIT_BREAKER_NOT_REMOVED = _error(
        "The circuit breaker is closed, but {path} cannot be removed ({error}): remove it."
    )
    RATE_LIMIT_REACHED = _warning("Nothing is sent on this key for {wait_seconds:.0f} s: {reason}")
    REQUEST_LOCK_SKIPPED = _warning("{method} goes without the key's request lock, which another sender is holding.")
    REQUEST_LOCK_UNUSABLE = _error(
        "The lock file {path} cannot be used ({error}): requests are put in order within this process only."
    )
    REQUEST_LOCK_RECOVERED = _info("The lock file {path} can be used again.")
    REQUEST_LOCK_WAIT_FAILED = _error("Cannot wait for the lock file {path}: {error}.")
    NONCE_FILE_DAMAGED = _warning("The nonce file {path} is damaged ({content}): starting from the clock.")
    NONCE_FILE_WENT_BACK = _warning("The nonce file {path} went back to {nonce}; the next nonce is above {floor}.")
    NONCE_FILE_UNWRITABLE = _error(
        "The nonce file {path} cannot be written ({error}). Nonces up to the clock are still issued; each of them tries"
        " the file again."
    )
    NONCE_FILE_RECOVERED = _info("The nonce file {path} can be written again.")
    NONCE_STORE_UNAVAILABLE = _error("No private request is sent until the nonce store is back: {error}.")
    NONCE_STORE_RECOVERED = _info("The nonce store {location} is back.")
    NONCE_STORE_WENT_BACK = _warning(
        "The nonce store {location} went back to {nonce} (wiped, restored, failed over?); the next nonce is above"
        " {floor}."
    )
    NONCE_STORE_BEHIND = _warning(
        "The nonce store {location} holds {nonce}, below this folder's nonce file (a new or restored store, or the file"
        " was written for another key): the next nonce is above the file's."
    )

    # Files, the journal, and the program itself.
    JOURNAL_REPLACED = _warning(
        "The journal {path} was deleted or replaced while it was in use: its rows are written again."
    )
    JOURNAL_TABLE_UNREADABLE = _warning("The table {table} of the journal cannot be read any more ({error}).")
    JOURNAL_DAMAGED = _warning(
        "The journal {path} is damaged ({error}): moved to {damaged_path}. A new one is built from Kraken's records of"
        " this bot's orders."
    )
    JOURNAL_WRITE_FAILED = _warning("Orders are not written to the journal: {error}")
    JOURNAL_WRITE_RECOVERED = _info("The journal can be written again.")
    SHARED_FILE_DAMAGED = _warning("The file {path} is damaged ({content}): this process continues with what it knows.")
    SHARED_FILE_UNUSABLE = _warning("The file {path} cannot be used ({error}): each process counts for itself.")
    SHARED_FILE_RECOVERED = _info("The file {path} can be used again.")
    STATE_FOLDER_UNWRITABLE = _warning("Nothing can be written in {path} ({error}): no new order is sent until it can.")
    INSTANCE_FILE_UNWRITABLE = _warning("{path} could not be written ({error}).")
    NOTIFICATION_FAILED = _warning("The address in {setting}: {reason}.")
    NOTIFICATION_RECOVERED = _info("The address in {setting} answers again.")
    ALERTS_DROPPED = _warning("Not sent to the address in {setting}: {count} alerts.")
    LOGIN_ATTEMPTS_LIMITED = _warning(
        "Dashboard: too many wrong tokens, the last from {peer}; the right one is still accepted."
    )
    PROGRAM_FAILED = _error("A fault in the program has ended it.")
    THREAD_FAILED = _error("A fault in the program has ended its thread {thread}.")
    EXCEPTION_IGNORED = _error("{reason} {source}")

    def __init__(self, level: int, template: str, alert: Alert | None) -> None:
        self.level = level
        self.template = template
        self.alert = alert

    @property
    def key(self) -> str:
        """The name of the event in the log."""
        return self.name.lower()

"""`python main.py status`: the dashboard of the running bot, for a terminal."""

from __future__ import annotations

import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from decimal import Decimal
from textwrap import fill
from typing import Any

from bot.app.instance_lock import describe_owner, is_running, read_instance_file
from bot.base.clock import sleep
from bot.base.errors import BotNotRunningError
from bot.config import Settings
from bot.dashboard.formatting import format_duration

TIMEOUT_SECONDS = 5.0
WATCH_INTERVAL_SECONDS = 2.0
WIDTH = 100
_HINTS = {401: ": its STATUS_TOKEN is not the one set here", 403: ": it has no STATUS_TOKEN, so its page is closed"}
_CLEAR_SCREEN = "\x1b[H\x1b[2J"

PrintLine = Callable[[str], None]


def print_status(settings: Settings, *, as_json: bool, watch: bool, print_line: PrintLine) -> int:
    """Print the status of the running bot, repeatedly with `watch`; return 0. Raises BotNotRunningError."""
    while True:
        status = fetch_status(settings)
        text = json.dumps(status, indent=1) if as_json else format_summary(status)
        if watch and not as_json:
            # Not through print_line, which would escape the cursor movement.
            sys.stdout.write(_CLEAR_SCREEN)
        print_line(text)
        if not watch:
            return 0
        sleep(WATCH_INTERVAL_SECONDS)


def fetch_status(settings: Settings) -> dict[str, Any]:
    """Return the status of the bot on the settings' state folder. Raises BotNotRunningError where none runs or
    answers."""
    folder, instance = settings.state_dir, read_instance_file(settings.state_dir)
    if "status_url" not in instance:
        # Not checked first: the check takes the folder's lock for a moment, which a starting bot may need.
        problem = f"{describe_owner(folder)} is running on {folder} without a page, so it tells nothing"
        raise BotNotRunningError(problem if is_running(folder) else f"no bot is running on {folder}")
    if settings.status_token and not is_running(folder):
        # Whoever has a dead bot's port now would get the token.
        raise BotNotRunningError(f"no bot is running on {folder}: the last one was killed")
    status = _request_status(str(instance["status_url"]), settings)
    if not isinstance(status, dict) or status.get("pid") != instance.get("pid"):
        raise BotNotRunningError(f"no bot is running on {folder}: the last one was killed, and another has its port")
    return status


def _request_status(url: str, settings: Settings) -> dict[str, Any]:
    if not url.startswith("http://127.0.0.1:"):
        raise BotNotRunningError(f"the bot on {settings.state_dir} has its page at {url}, which is not on this machine")
    request = urllib.request.Request(f"{url}/api/status")  # noqa: S310 - its scheme was checked
    if settings.status_token:
        request.add_header("Authorization", f"Bearer {str.__str__(settings.status_token)}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    owner = describe_owner(settings.state_dir)
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as response:
            status: dict[str, Any] = json.load(response)
            return status
    except urllib.error.HTTPError as error:
        error.close()
        hint = _HINTS.get(error.code, "")
        raise BotNotRunningError(f"{owner} answered with {error.code} at {url}{hint}") from None
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise BotNotRunningError(
            f"no bot answers at {url}, where the last one on {settings.state_dir} was: {error}"
        ) from None


def format_summary(status: dict[str, Any]) -> str:
    """Return the most important fields, one line each."""
    nonce, account = status["nonce"], status["account"] or {}
    # As on the page: an unknown value is not "none".
    is_known = status["account"] is not None and "journal_problem" not in status
    age_seconds = status["last_cycle_age_seconds"]
    last_cycle_age = "none yet" if age_seconds is None else f"{format_duration(age_seconds)} ago"
    realised_loss = _format_money(account.get("realised_loss_today"))
    circuit_breaker = f"{_format_known(nonce['circuit_breaker'])}{_format_reason(nonce['circuit_breaker_reason'])}"
    pnl = f"realised P&L {_format_money(account.get('realised_pnl'))}, realised loss today {realised_loss}"
    order_counts = f"{len(status['open_orders'])} open, {len(status['unknown_orders'])} unknown"
    lines = [
        f"mode     {status['mode'].upper()}, {status['state']}{_format_reason(status['reason'])}",
        f"up       {format_duration(status['uptime_seconds'])}; last cycle {last_cycle_age}",
        f"entries  {status['entries']}",
        f"account  {_format_money(account.get('equity'))} {account.get('quote', '')}".rstrip(),
        f"         {pnl}",
        *(line for pair in status["pairs"] for line in _format_pair(pair)),
        f"orders   {order_counts if is_known else 'not known'}",
        *(f"         unknown: {_format_order(row)}" for row in status["unknown_orders"]),
        *(f"         open: {_format_order(row)}" for row in status["open_orders"]),
        f"nonce    {_format_known(nonce['last'])} ({nonce['unit']}), in {nonce['location']}",
        f"         {nonce['issued']} issued, {nonce['refused']} refused, {nonce['refused_today']} of them today",
        f"         circuit breaker {circuit_breaker}",
        f"lease    {status['lease']['role']}{_format_reason(status['lease']['leader'] or '')}",
    ]
    return "\n".join(
        fill(line, WIDTH, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False) for line in lines
    )


def _format_pair(pair: dict[str, Any]) -> list[str]:
    line = f"pair     {pair['symbol']} {_format_known(pair['price'])}, holding {_format_known(pair['quantity'])}"
    return [line, *([f"         {pair['balance_problem']}"] if "balance_problem" in pair else [])]


def _format_order(row: dict[str, Any]) -> str:
    age = "" if row["unknown_seconds"] is None else f", for {format_duration(row['unknown_seconds'])}"
    return f"{row['pair']} {row['side']} {row['volume']} at {row['price']} ({row['cl_ord_id']}){age}"


def _format_money(value: str | None) -> str:
    return "unknown" if value is None else f"{Decimal(value):.2f}"


def _format_known(value: str | None) -> str:
    return "unknown" if value is None else value


def _format_reason(reason: str) -> str:
    return f": {reason}" if reason else ""

"""`python main.py status`: the same as the page, from the running bot, for a terminal."""

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

from bot.app.instance_lock import describe_owner, is_running, read_note
from bot.base.clock import sleep
from bot.base.errors import NoBotError
from bot.config import Settings

TIMEOUT_SECONDS = 5.0
WATCH_SECONDS = 2.0
WIDTH = 100
_HINTS = {401: ": its STATUS_TOKEN is not the one set here", 403: ": it has no STATUS_TOKEN, so its page is closed"}
_CLEAR = "\x1b[H\x1b[2J"

Say = Callable[[str], None]


def show(settings: Settings, *, as_json: bool, watch: bool, say: Say) -> int:
    """Write what the running bot tells, again and again with `watch`; return 0. Raises NoBotError."""
    while True:
        status = ask(settings)
        text = json.dumps(status, indent=1) if as_json else summary(status)
        if watch and not as_json:
            # Not said: what is said moves no cursor.
            sys.stdout.write(_CLEAR)
        say(text)
        if not watch:
            return 0
        sleep(WATCH_SECONDS)


def ask(settings: Settings) -> dict[str, Any]:
    """Return what the bot on the settings' state folder tells. Raises NoBotError where none runs or answers."""
    folder, note = settings.state_dir, read_note(settings.state_dir)
    if "status_url" not in note:
        # Not asked first: to ask takes the folder's lock for a moment, which a bot that starts may want.
        running = f"{describe_owner(folder)} is running on {folder} without a page, so it tells nothing"
        raise NoBotError(running if is_running(folder) else f"no bot is running on {folder}")
    if settings.status_token and not is_running(folder):
        # Whoever has a dead bot's port now would be given the token.
        raise NoBotError(f"no bot is running on {folder}: the last one was killed")
    status = _get(str(note["status_url"]), settings)
    if not isinstance(status, dict) or status.get("pid") != note.get("pid"):
        raise NoBotError(f"no bot is running on {folder}: the last one was killed, and another has its port")
    return status


def _get(url: str, settings: Settings) -> dict[str, Any]:
    if not url.startswith("http://127.0.0.1:"):
        raise NoBotError(f"the bot on {settings.state_dir} has its page at {url}, which is not on this machine")
    request = urllib.request.Request(f"{url}/api/status")  # noqa: S310 - its beginning was looked at
    if settings.status_token:
        request.add_header("Authorization", f"Bearer {str.__str__(settings.status_token)}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    owner = describe_owner(settings.state_dir)
    try:
        with opener.open(request, timeout=TIMEOUT_SECONDS) as answer:
            status: dict[str, Any] = json.load(answer)
            return status
    except urllib.error.HTTPError as error:
        error.close()
        hint = _HINTS.get(error.code, "")
        raise NoBotError(f"{owner} answered with {error.code} at {url}{hint}") from None
    except (OSError, ValueError, RecursionError, http.client.HTTPException) as error:
        raise NoBotError(f"no bot answers at {url}, where the last one on {settings.state_dir} was: {error}") from None


def summary(status: dict[str, Any]) -> str:
    """Return the most important of it, a line each."""
    nonce, account = status["nonce"], status["account"] or {}
    # As on the page: what nobody has looked for is not "none".
    looked = status["account"] is not None and "journal_problem" not in status
    counts = f"{len(status['open_orders'])} open, {len(status['unknown_orders'])} unknown"
    lines = [
        f"mode     {status['mode'].upper()}, {status['state']}{_because(status['reason'])}",
        f"up       {_span(status['uptime_seconds'])}; last tick {_age(status['last_tick_seconds'])}",
        f"entries  {status['entries']}",
        f"account  {_money(account.get('equity'))} {account.get('quote', '')}".rstrip(),
        f"         realised {_money(account.get('realised'))}, lost today {_money(account.get('day_loss'))}",
        *(_pair(pair) for pair in status["pairs"]),
        f"orders   {counts if looked else 'not known'}",
        *(f"         unknown: {_order(row)}" for row in status["unknown_orders"]),
        *(f"         open: {_order(row)}" for row in status["open_orders"]),
        f"nonce    {_known(nonce['last'])} ({nonce['unit']}), in {nonce['place']}",
        f"         {nonce['issued']} issued, {nonce['refused']} refused, {nonce['refused_today']} of them today",
        f"breaker  {_known(nonce['breaker'])}{_because(nonce['breaker_reason'])}",
        f"lease    {status['lease']['role']}{_because(status['lease']['leader'] or '')}",
    ]
    return "\n".join(
        fill(line, WIDTH, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False) for line in lines
    )


def _pair(pair: dict[str, Any]) -> str:
    return f"pair     {pair['symbol']} {_known(pair['price'])}, holding {_known(pair['quantity'])}"


def _order(row: dict[str, Any]) -> str:
    age = "" if row["unknown_seconds"] is None else f", for {_span(row['unknown_seconds'])}"
    return f"{row['pair']} {row['side']} {row['volume']} at {row['price']} ({row['cl_ord_id']}){age}"


def _money(value: str | None) -> str:
    return "unknown" if value is None else f"{Decimal(value):.2f}"


def _known(value: str | None) -> str:
    return "unknown" if value is None else value


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""


def _age(seconds: float | None) -> str:
    return "none yet" if seconds is None else f"{seconds:.0f} s ago"


def _span(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"

"""Renders the page from the status that programs read: on the server, so it needs no script.

No part of the status is trusted: an order's text and a log line may contain anything, and all of it is escaped. Pages
have no inline script and no inline style, so the strictest content security policy holds for them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bot.dashboard import charts, formatting

STATIC = Path(__file__).with_name("static")

_MODE_LABELS = {
    "paper": ("PAPER", "No real money: the exchange is a local one."),
    "live": ("LIVE", "Real money at Kraken."),
    "halt": ("HALTED", "It only watches: no order is sent."),
}


# A template is compiled when it is first rendered: compiling takes a tenth of the program's start.
_environment = Environment(
    loader=FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    undefined=StrictUndefined,
    auto_reload=False,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters |= {
    "money": formatting.format_money,
    "number": formatting.format_number,
    "or_unknown": formatting.format_known,
    "timestamp": formatting.format_timestamp,
    "duration": formatting.format_duration,
}
_environment.tests["zero"] = formatting.is_zero
_environment.globals |= {"equity_chart": charts.equity_chart, "candle_chart": charts.candle_chart}


def render_page(status: Mapping[str, Any], *, csrf: str) -> str:
    """Return the whole document. `csrf` is for the form that pauses entries."""
    live_html = Markup(render_live(status))  # nosec B704 # noqa: S704 - rendered by a template
    return _environment.get_template("page.html").render(status=status, live=live_html, title=_title(status), csrf=csrf)


def render_live(status: Mapping[str, Any]) -> str:
    """Return the part that changes: the content of `<main>`."""
    label, description = _MODE_LABELS[status["mode"]]
    return _environment.get_template("live.html").render(
        status=status,
        title=_title(status),
        label=label,
        description=description,
        account=status["account"] or dict.fromkeys(("quote", "equity", "realised_pnl", "realised_loss_today")),
    )


def render_login_page(problem: str) -> str:
    """Return the form that asks for the token. `problem`: why the last attempt failed, or nothing."""
    return _environment.get_template("login.html").render(problem=problem)


def _title(status: Mapping[str, Any]) -> str:
    account = status["account"]
    label = _MODE_LABELS[status["mode"]][0]
    if account is None or account["equity"] is None:
        return f"{label}, equity unknown"
    return f"{label} {formatting.format_rounded(account['equity'], 3)} {account['quote']}"

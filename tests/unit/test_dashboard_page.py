"""The rendered page: its text, how it marks unknown values, and the escaping of everything in the status."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from bot.dashboard import formatting, page
from tests.unit.dashboard_samples import fill_row, full_status, order_row, starting_status

HOSTILE = "</title></script><script>alert(1)</script>\"' onload='alert(2)' style=\"x\"&amp;\u2028\x00{{7*7}}-->"
# The page reads these as numbers or times, or compares them with a few fixed values.
PARSED_KEYS = frozenset(
    "mode entries circuit_breaker side time time_seconds equity realised_pnl realised_loss_today price quantity"
    " average_entry volume executed average fee cost total free order_value max_order_value max_position_value"
    " max_daily_loss max_slippage_percent stop_loss_percent circuit_breaker_until candles equity_curve".split()
)


class ParsedPage(HTMLParser):
    """Collects the elements of a document with their attribute names, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Record an element."""
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        """Record a text."""
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.texts).split())


def replace_texts(value: Any, text: str, name: str = "") -> Any:
    """Return a status with `text` in place of each text that is only displayed."""
    if isinstance(value, dict):
        return {key: replace_texts(child, text, key) for key, child in value.items()}
    if isinstance(value, list):
        return value if name in PARSED_KEYS else [replace_texts(child, text, name) for child in value]
    return text if isinstance(value, str) and name not in PARSED_KEYS else value


def failing_status(**changes: Any) -> dict[str, Any]:
    """Return the status of a live leader with an unknown order and an open circuit breaker."""
    nonce = full_status()["nonce"] | {
        "circuit_breaker": "open",
        "circuit_breaker_reason": "three refused",
        "circuit_breaker_until": None,
    }
    return full_status(
        mode="live",
        state="waiting",
        reason="Kraken does not answer",
        unknown_orders=[order_row(state="unknown", txid="", unknown_seconds=75, reason="no answer")],
        nonce=nonce,
        lease={"role": "leader", "leader": "host:17", "fencing_token": 4},
        journal_problem="the journal cannot be read",
    ) | dict(changes)


def test_status_text_is_escaped() -> None:
    """Whatever the texts contain, the document has the same elements and attributes."""
    documents = [
        ParsedPage(page.render_page(replace_texts(failing_status(), text), csrf=text)) for text in ("plain", HOSTILE)
    ]
    assert Counter(documents[0].elements) == Counter(documents[1].elements)
    assert sum("alert(1)" in text for text in documents[1].texts) > 200


def test_login_problem_is_escaped() -> None:
    """A problem above the login form is escaped."""
    assert ParsedPage(page.render_login_page(HOSTILE)).elements == ParsedPage(page.render_login_page("plain")).elements


@pytest.mark.parametrize("make", [full_status, starting_status, failing_status], ids=["full", "starting", "failing"])
def test_page_has_no_inline_script_or_style(make: Callable[..., dict[str, Any]]) -> None:
    """No element has an inline script or style; both are files of the server, and no link leaves it."""
    for document in (page.render_page(make(), csrf="x"), page.render_login_page("wrong")):
        parsed = ParsedPage(document)
        assert not [
            attribute for attribute in parsed.attributes if attribute[1] == "style" or attribute[1].startswith("on")
        ]
        assert not {"style", "iframe", "base", "object"} & {tag for tag, _ in parsed.elements}
        assert all("src" in names for tag, names in parsed.elements if tag == "script")
        targets = {value for _, name, value in parsed.attributes if name in {"src", "href", "action"}}
        assert targets <= {"/static/page.css", "/static/page.js", "/static/icon.svg", "/stop", "/login"}


def test_unknown_values_are_shown_as_unknown() -> None:
    """Just after the start the page shows "unknown" for each unknown value, and 0 only for counters."""
    page_text = ParsedPage(page.render_page(starting_status(), csrf="x")).text
    names = ("Account", "Realised P&L", "Realised loss today", "Nonces", "Ahead of the clock", "Location")
    for name in (*names, "Balances", "Open orders", "Last fills"):
        assert f"{name} unknown" in page_text
    assert re.findall(r"(\w+) 0\b(?!\.\d)", page_text) == ["Issued", "Refused", "today"]
    assert "PAPER, equity unknown" in page_text


@pytest.mark.parametrize(
    ("mode", "entries", "expected"),
    [
        ("paper", "open", "PAPER"),
        ("live", "open", "LIVE"),
        ("halt", "halted", "HALTED"),
        ("live", "halted", "LIVE HALTED"),
    ],
)
def test_the_mode_is_the_heading(mode: str, entries: str, expected: str) -> None:
    """The only h1 shows PAPER, LIVE or HALTED; for a halted live bot it shows both."""
    (heading,) = re.findall(r"<h1>(.*)</h1>", page.render_page(full_status(mode=mode, entries=entries), csrf="x"))
    assert re.sub("<.*?>", "", heading) == expected


def test_title_has_mode_and_equity() -> None:
    """The document title is mode, equity and quote; the live part contains it too."""
    assert "<title>PAPER 10,012.35 USD</title>" in page.render_page(full_status(), csrf="x")
    assert 'data-title="LIVE 10,012.35 USD"' in page.render_live(full_status(mode="live"))


def test_page_contains_the_live_part() -> None:
    """The page contains exactly the live part that is sent later."""
    assert f'<main id="live">{page.render_live(failing_status())}</main>' in page.render_page(
        failing_status(), csrf="x"
    )


def test_unknown_order_is_shown_with_age_and_id() -> None:
    """An unknown order has its own section with age, id and reason; without one there is no such section."""
    page_text = ParsedPage(page.render_live(failing_status())).text
    assert "Unknown orders: 1" in page_text
    assert "unknown for 1 min 15 s" in page_text
    assert "kb-7d31f2aa90" in page_text
    assert "no answer" in page_text
    assert "Unknown orders" not in page.render_live(full_status())


def test_nonce_section_shows_every_nonce_value() -> None:
    """The nonce section shows last nonce, unit, offset to the clock, location, counts, wait and breaker, and why and
    until when the breaker is open."""
    section = ParsedPage(page.render_live(failing_status())).text.partition("Nonces")[2].partition("Open orders")[0]
    assert section.split() == (
        "1795414800123456 Unit microseconds Ahead of the clock no Location /state/kraken_nonce.txt Issued 4711"
        " Refused 2 Refused today 0 Request lock wait 1.2 ms Circuit breaker open Reason three refused"
        " Until (UTC) unknown".split()
    )


def test_nonce_ahead_of_the_clock_is_shown() -> None:
    """A last nonce ahead of the clock is shown with the difference."""
    nonce = full_status()["nonce"] | {"ahead_seconds": 12.6}
    assert "Ahead of the clock 12 s" in ParsedPage(page.render_live(full_status(nonce=nonce))).text


def test_reason_and_leader_are_shown() -> None:
    """State, reason, leader, fencing token and an unreadable journal are shown."""
    page_text = ParsedPage(page.render_live(failing_status())).text
    for expected in ("waiting", "Kraken does not answer", "host:17", "Fencing token 4", "the journal cannot be read"):
        assert expected in page_text


def test_orders_are_unknown_where_the_journal_cannot_be_read() -> None:
    """With a readable journal, empty lists mean no open orders and no fills; without one both are unknown."""
    for problem, expected in (({}, "None."), ({"journal_problem": "broken"}, "unknown")):
        page_text = ParsedPage(page.render_live(full_status(open_orders=[], fills=[], **problem))).text
        assert f"Open orders {expected} Last fills {expected}" in page_text


def test_rows_beyond_four_are_collapsed() -> None:
    """Of twenty fills four are visible and sixteen are in a details element with an id, in order."""
    rows = [fill_row(volume=f"{number}") for number in range(1, 21)]
    text = page.render_live(full_status(fills=rows, refusals=[]))
    before, _, after = text.partition('<details id="more-fills">')
    numbers = re.compile(r'<td class="n"><data value="(\d+)"')
    assert numbers.findall(before.partition("Last fills")[2]) == ["1", "2", "3", "4"]
    assert numbers.findall(after.partition("</details>")[0]) == [str(number) for number in range(5, 21)]
    assert "16 more" in after


def test_stop_form_requires_confirmation() -> None:
    """The form posts to /stop with its csrf token, requires a check mark, and names the command that reverts it."""
    form = re.search(r"<form.*?</form>", page.render_page(full_status(), csrf="given&taken"), re.DOTALL)
    assert form
    assert 'method="post" action="/stop"' in form[0]
    assert '<input type="hidden" name="csrf" value="given&amp;taken">' in form[0]
    assert '<input type="checkbox" name="confirm" value="stop" required>' in form[0]
    assert "python main.py resume" in form[0]


def test_order_without_price_is_shown_as_market() -> None:
    """A price of zero means a market order."""
    assert "market" in ParsedPage(page.render_live(full_status(open_orders=[order_row(price="0.00000")]))).text


@pytest.mark.parametrize(
    ("exact", "expected"),
    [
        ("10012.34567", "10,012.35"),
        ("5", "5.00"),
        ("-20.454", "-20.45"),
        ("0.0041234", "0.00412"),
        ("0", "0.00"),
        ("0E-8", "0.00"),
        ("1234567.891", "1,234,567.89"),
    ],
)
def test_money_is_rounded_with_exact_title(exact: str, expected: str) -> None:
    """Money has two decimals, or three digits below one, and its title is the exact text."""
    assert formatting.format_money(exact) == f'<data value="{exact}" title="{exact}">{expected}</data>'


@pytest.mark.parametrize(
    ("exact", "expected"),
    [
        ("64321.156", "64,321.16"),
        ("1.08431", "1.08431"),
        ("1.0843100", "1.08431"),
        ("0.00388000", "0.00388"),
        ("0.0000123456789", "0.0000123457"),
        ("12.3456789", "12.3457"),
    ],
)
def test_numbers_have_six_digits(exact: str, expected: str) -> None:
    """Prices and volumes have two decimals or six digits, whichever is more, without trailing zeros after that."""
    assert f">{expected}<" in formatting.format_number(exact)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0, "0 s"),
        (0.0012, "1.2 ms"),
        (0.8, "800 ms"),
        (3.4, "3.4 s"),
        (42, "42 s"),
        (75.9, "1 min 15 s"),
        (3600, "1 h"),
        (93784, "1 d 2 h"),
    ],
)
def test_durations_have_two_units(seconds: float, expected: str) -> None:
    """A duration is shown in its two largest units."""
    assert formatting.format_duration(seconds) == expected


def test_timestamps_are_in_utc() -> None:
    """A time is shown as day, month and time of day in UTC, and is machine-readable."""
    assert (
        formatting.format_timestamp("2026-11-23T06:20:05Z")
        == '<time datetime="2026-11-23T06:20:05Z">23 Nov 06:20:05</time>'
    )


def test_style_and_script_are_small() -> None:
    """The style sheet is smaller than 10 KB and the script smaller than 3 KB."""
    assert (page.STATIC / "page.css").stat().st_size < 10_000
    assert (page.STATIC / "page.js").stat().st_size < 3_000

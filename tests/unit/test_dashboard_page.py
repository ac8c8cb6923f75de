"""The page as text: what it says, what it never says, and that nothing of the status gets out of its place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from bot.dashboard import formatting, page
from tests.unit.dashboard_samples import begun, fill_row, full, order_row

HOSTILE = "</title></script><script>alert(1)</script>\"' onload='alert(2)' style=\"x\"&amp;\u2028\x00{{7*7}}-->"
# Read as numbers or times, or chosen from a few words, by the page itself.
READ = frozenset(
    "mode entries breaker side time time_seconds equity realised day_loss price quantity average_price volume executed"
    " average fee cost total free order_value max_order_value max_position_value max_daily_loss"
    " market_collar_percent stop_percent breaker_until candles equity_curve".split()
)


class Seen(HTMLParser):
    """Collects a document's elements with the names of their attributes, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[str, ...]]] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep an element."""
        self.elements.append((tag, tuple(name for name, _ in attrs)))
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        """Keep a text."""
        self.texts.append(data)

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.texts).split())


def replaced(value: Any, text: str, name: str = "") -> Any:
    """Return a status with `text` in place of each text that is not read."""
    if isinstance(value, dict):
        return {key: replaced(one, text, key) for key, one in value.items()}
    if isinstance(value, list):
        return value if name in READ else [replaced(one, text, name) for one in value]
    return text if isinstance(value, str) and name not in READ else value


def troubled(**changes: Any) -> dict[str, Any]:
    """Return the status of a live leader with an unknown order and an open breaker."""
    nonce = full()["nonce"] | {"breaker": "open", "breaker_reason": "three refused", "breaker_until": None}
    return full(
        mode="live",
        state="waiting",
        reason="Kraken does not answer",
        unknown_orders=[order_row(state="unknown", txid="", unknown_seconds=75, reason="no answer")],
        nonce=nonce,
        lease={"role": "leader", "leader": "host:17", "generation": 4},
        journal_problem="the journal cannot be read",
    ) | dict(changes)


def test_nothing_of_the_status_gets_out_of_its_place() -> None:
    """Whatever its texts hold, the document has the same elements with the same attributes."""
    documents = [Seen(page.page(replaced(troubled(), text), csrf=text)) for text in ("plain", HOSTILE)]
    assert Counter(documents[0].elements) == Counter(documents[1].elements)
    assert sum("alert(1)" in text for text in documents[1].texts) > 200


def test_nothing_of_a_problem_gets_out_of_the_login_form() -> None:
    """What is said over the login form is text."""
    assert Seen(page.login_page(HOSTILE)).elements == Seen(page.login_page("plain")).elements


@pytest.mark.parametrize("make", [full, begun, troubled], ids=["full", "begun", "troubled"])
def test_no_script_and_no_style_stands_in_the_page(make: Callable[..., dict[str, Any]]) -> None:
    """No element carries script or style; these are files of the server, and nothing leads off it."""
    for document in (page.page(make(), csrf="x"), page.login_page("wrong")):
        seen = Seen(document)
        assert not [one for one in seen.attributes if one[1] == "style" or one[1].startswith("on")]
        assert not {"style", "iframe", "base", "object"} & {tag for tag, _ in seen.elements}
        assert all("src" in names for tag, names in seen.elements if tag == "script")
        led = {value for _, name, value in seen.attributes if name in {"src", "href", "action"}}
        assert led <= {"/static/page.css", "/static/page.js", "/static/icon.svg", "/stop", "/login"}


def test_what_is_not_known_is_called_so() -> None:
    """Just begun, the page says "unknown" for each value that nobody knows yet, and 0 for none but what was counted."""
    seen = Seen(page.page(begun(), csrf="x")).text
    values = ("Account", "Earned", "Lost today", "Nonce corner", "Ahead of the clock", "Kept in")
    for name in (*values, "Balances", "Open orders", "Last fills"):
        assert f"{name} unknown" in seen
    assert re.findall(r"(\w+) 0\b(?!\.\d)", seen) == ["Issued", "Refused", "today"]
    assert "PAPER, equity unknown" in seen


@pytest.mark.parametrize(
    ("mode", "entries", "word"),
    [
        ("paper", "open", "PAPER"),
        ("live", "open", "LIVE"),
        ("halt", "halted", "HALTED"),
        ("live", "halted", "LIVE HALTED"),
    ],
)
def test_the_mode_is_the_heading(mode: str, entries: str, word: str) -> None:
    """The one first heading says PAPER, LIVE or HALTED, and of a halted bot both."""
    (heading,) = re.findall(r"<h1>(.*)</h1>", page.page(full(mode=mode, entries=entries), csrf="x"))
    assert re.sub("<.*?>", "", heading) == word


def test_the_title_tells_mode_and_equity() -> None:
    """The title of the document is mode, equity and quote; the live part brings it along."""
    assert "<title>PAPER 10,012.35 USD</title>" in page.page(full(), csrf="x")
    assert 'data-title="LIVE 10,012.35 USD"' in page.live(full(mode="live"))


def test_the_page_holds_the_live_part() -> None:
    """What is sent later takes the place of the very same text."""
    assert f'<main id="live">{page.live(troubled())}</main>' in page.page(troubled(), csrf="x")


def test_an_unknown_order_is_shown_with_its_age_and_its_id() -> None:
    """An unknown order stands under a heading of its own with age, id and reason; without one there is none."""
    seen = Seen(page.live(troubled())).text
    assert "Unknown orders: 1" in seen
    assert "unknown for 1 min 15 s" in seen
    assert "kb-7d31f2aa90" in seen
    assert "no answer" in seen
    assert "Unknown orders" not in page.live(full())


def test_the_nonce_corner_says_all_of_the_nonces() -> None:
    """Last nonce, unit, lead, place, counts, wait and breaker are in the corner, and why and until when it is open."""
    corner = Seen(page.live(troubled())).text.partition("Nonce corner")[2].partition("Open orders")[0]
    assert corner.split() == (
        "1795414800123456 Unit microseconds Ahead of the clock no Kept in /state/kraken_nonce.txt Issued 4711"
        " Refused 2 Refused today 0 Wait for the turn 1.2 ms Breaker open Why three refused Until (UTC) unknown".split()
    )


def test_a_lead_over_the_clock_is_told() -> None:
    """A last nonce ahead of the clock is told with its lead."""
    nonce = full()["nonce"] | {"lead_seconds": 12.6}
    assert "Ahead of the clock 12 s" in Seen(page.live(full(nonce=nonce))).text


def test_why_it_does_not_trade_and_who_leads_is_said() -> None:
    """State, reason, leader, generation and a journal that cannot be read are in the page."""
    seen = Seen(page.live(troubled())).text
    for words_seen in ("waiting", "Kraken does not answer", "host:17", "Generation 4", "the journal cannot be read"):
        assert words_seen in seen


def test_where_the_journal_cannot_be_read_orders_are_not_called_none() -> None:
    """With a journal read there are no open orders and no fills; without one, nobody knows."""
    for problem, word in (({}, "None."), ({"journal_problem": "broken"}, "unknown")):
        seen = Seen(page.live(full(open_orders=[], fills=[], **problem))).text
        assert f"Open orders {word} Last fills {word}" in seen


def test_rows_beyond_the_first_four_are_at_a_touch() -> None:
    """Of twenty fills four stand open and sixteen in details with a name, in their order."""
    rows = [fill_row(volume=f"{number}") for number in range(1, 21)]
    text = page.live(full(fills=rows, refusals=[]))
    before, _, after = text.partition('<details id="more-fills">')
    numbers = re.compile(r'<td class="n"><data value="(\d+)"')
    assert numbers.findall(before.partition("Last fills")[2]) == ["1", "2", "3", "4"]
    assert numbers.findall(after.partition("</details>")[0]) == [str(number) for number in range(5, 21)]
    assert "16 more" in after


def test_the_form_that_stops_asks_for_confirmation() -> None:
    """The form posts to /stop what it was given, takes a mark that is needed, and names what undoes it."""
    form = re.search(r"<form.*?</form>", page.page(full(), csrf="given&taken"), re.DOTALL)
    assert form
    assert 'method="post" action="/stop"' in form[0]
    assert '<input type="hidden" name="csrf" value="given&amp;taken">' in form[0]
    assert '<input type="checkbox" name="confirm" value="stop" required>' in form[0]
    assert "python main.py resume" in form[0]


def test_an_order_without_a_price_is_at_market() -> None:
    """A price of zero is no price: the order is at market."""
    assert "market" in Seen(page.live(full(open_orders=[order_row(price="0.00000")]))).text


@pytest.mark.parametrize(
    ("exact", "shown"),
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
def test_money_is_rounded_and_exact_at_a_touch(exact: str, shown: str) -> None:
    """Money has two decimals, below one three digits, and its title is the exact text."""
    assert formatting.money(exact) == f'<data value="{exact}" title="{exact}">{shown}</data>'


@pytest.mark.parametrize(
    ("exact", "shown"),
    [
        ("64321.156", "64,321.16"),
        ("1.08431", "1.08431"),
        ("1.0843100", "1.08431"),
        ("0.00388000", "0.00388"),
        ("0.0000123456789", "0.0000123457"),
        ("12.3456789", "12.3457"),
    ],
)
def test_prices_and_volumes_have_six_digits(exact: str, shown: str) -> None:
    """Prices and volumes have two decimals or six digits, whichever is more, and no zeros after the second decimal."""
    assert f">{shown}<" in formatting.number(exact)


@pytest.mark.parametrize(
    ("seconds", "shown"),
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
def test_spans_have_two_units(seconds: float, shown: str) -> None:
    """A span is told in its two largest units."""
    assert formatting.span(seconds) == shown


def test_times_are_in_utc() -> None:
    """A time is told as day, month and time of day, in UTC, and machine-readable."""
    assert formatting.moment("2026-11-23T06:20:05Z") == '<time datetime="2026-11-23T06:20:05Z">23 Nov 06:20:05</time>'


def test_style_and_script_are_small() -> None:
    """The style sheet has less than 10 KB and the script less than 3 KB."""
    assert (page.STATIC / "page.css").stat().st_size < 10_000
    assert (page.STATIC / "page.js").stat().st_size < 3_000

"""A value that is known to be secret is hidden however it is written, and of an address what must not be seen."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from functools import partial
from urllib.parse import quote, quote_plus, urlencode

import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from bot.base.redaction import HIDDEN, Redaction
from bot.config import Secret
from tests.fake_secrets import BOT_TOKEN, KEY, check_nothing_of, closed_port

SECRET_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zs")), min_size=12, max_size=40).filter(
    lambda text: "://" not in text and text == text.strip()
)
# Neither is in any secret, nor part of a word.
AROUND = st.text("\u2190\u2191 ", max_size=10)


def b64(text: str) -> str:
    """Return a text in Base64."""
    return base64.b64encode(text.encode()).decode()


WRITTEN: list[Callable[[str], str]] = [
    str,
    quote,
    partial(quote, safe=""),
    quote_plus,
    lambda text: re.sub("%..", lambda match: match[0].lower(), quote(text, safe="")),
    lambda text: quote(quote(text, safe=""), safe=""),
    lambda text: repr(text)[1:-1],
    lambda text: repr(text.encode())[2:-1],
    lambda text: repr(repr(text)[1:-1])[1:-1],
    lambda text: json.dumps(text)[1:-1],
    lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    lambda text: json.dumps(json.dumps(text)[1:-1])[1:-1],
    lambda text: urlencode({"q": text})[2:],
    b64,
    lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
]


@given(secret=SECRET_TEXTS, before=AROUND, after=AROUND, way=st.sampled_from(WRITTEN))
def test_a_known_value_is_hidden_however_it_is_written(
    secret: str, before: str, after: str, way: Callable[[str], str]
) -> None:
    """A known value goes, and nothing around it, as it is, percent-encoded, escaped once or twice, and in Base64."""
    redaction = Redaction()
    redaction.hide(secret)
    assert redaction.redact(f"{before}{way(secret)}{after}") == f"{before}{HIDDEN}{after}"


@given(secret=SECRET_TEXTS, before=st.binary(max_size=7), after=st.binary(max_size=7))
@example("\u00ff\u00fe\u00ff>>>???", b"\xff", b"\xff")
def test_a_known_value_is_hidden_within_base64(secret: str, before: bytes, after: bytes) -> None:
    """A Base64, for addresses too, that has a known value in it goes whole, wherever in a group the value begins."""
    redaction = Redaction()
    redaction.hide(secret)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + secret.encode() + after).decode()
        assert redaction.redact(f"sent {encoded}.") == f"sent {HIDDEN}."


def test_a_known_value_goes_even_out_of_a_longer_word() -> None:
    """A long known value is hidden amid letters; a short one is a word, and leaves longer words whole."""
    redaction = Redaction()
    redaction.hide(KEY, "postgres", "")
    assert redaction.redact(f"x{KEY}x") == f"x{HIDDEN}x"
    text = "postgresql://mypostgres:postgres@db %3Apostgres%40"
    assert redaction.redact(text) == f"postgresql://{HIDDEN}@db %3A{HIDDEN}%40"
    assert redaction.redact("postgresql, mypostgres, postgres") == f"postgresql, mypostgres, {HIDDEN}"


def test_a_text_that_does_not_print_itself_is_known_by_its_content() -> None:
    """Hiding a Secret hides what it holds."""
    redaction = Redaction()
    redaction.hide(Secret("correct horse battery"))
    assert redaction.redact("a correct horse battery staple") == f"a {HIDDEN} staple"


@pytest.mark.parametrize(
    "address",
    ["rediss://bot:{}@db.example:6379/0", "postgresql://{}@db.example/bots", "http://bot:{}@proxy.example:3128"],
)
def test_of_an_address_the_password_is_hidden(address: str) -> None:
    """Of an address with a password neither the whole is shown, nor the password where it stands alone, decoded too."""
    password = "s3cret/p@ss:w0rd"
    redaction = Redaction()
    redaction.hide(address.format(quote(password, safe="")))
    text = (
        f"{address.format(quote(password, safe=''))} {address.format(password)} {password} {quote(password, safe='')}"
    )
    shown = redaction.redact(text)
    check_nothing_of(password, shown)
    check_nothing_of(quote(password, safe=""), shown)


def test_an_address_that_has_nothing_to_hide_is_shown() -> None:
    """The address of a store, or of a proxy, without a password stays as it is."""
    redaction = Redaction()
    addresses = ["redis://127.0.0.1:6379/0", "http://127.0.0.1:3128", "https://proxy.example/"]
    redaction.hide(*addresses)
    assert [redaction.redact(address) for address in addresses] == addresses


@pytest.mark.parametrize(
    "path",
    [f"/bot{BOT_TOKEN}/sendMessage", "/api/webhooks/1234567890/aBcDeFgHiJkLmNoPqRsT", "/in?t=a1b2c3d4e5f6g7h8i9"],
)
def test_of_a_webhook_no_error_tells_the_address(path: str) -> None:
    """What requests says of a webhook that cannot be reached has no part of its path."""
    address = f"http://127.0.0.1:{closed_port()}{path}"
    redaction = Redaction()
    redaction.hide(address)
    with requests.Session() as session:
        session.trust_env = False
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(address)
    for text in (repr(caught.value), f"POST {address} failed", f"GET {path} HTTP/1.1"):
        shown = redaction.redact(text)
        check_nothing_of(path.removeprefix("/api/webhooks/"), shown.replace("/sendMessage", ""))
        assert HIDDEN in shown

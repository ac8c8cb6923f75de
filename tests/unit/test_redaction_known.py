"""A registered secret is redacted in every encoding, and so are the secret parts of a URL."""

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

from bot.base.redaction import HIDDEN, Redactor
from bot.config import Secret
from tests.fake_secrets import BOT_TOKEN, KEY, assert_no_part_of, unused_port

SECRET_TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zs")), min_size=12, max_size=40).filter(
    lambda text: "://" not in text and text == text.strip()
)
# Neither is in any secret, nor part of a word.
SURROUNDING_TEXT = st.text("\u2190\u2191 ", max_size=10)


def base64_text(text: str) -> str:
    """Return a text in Base64."""
    return base64.b64encode(text.encode()).decode()


ENCODERS: list[Callable[[str], str]] = [
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
    base64_text,
    lambda text: base64.urlsafe_b64encode(text.encode()).decode(),
]


@given(secret=SECRET_TEXTS, before=SURROUNDING_TEXT, after=SURROUNDING_TEXT, encode=st.sampled_from(ENCODERS))
def test_known_secret_is_redacted_in_every_encoding(
    secret: str, before: str, after: str, encode: Callable[[str], str]
) -> None:
    """A registered value, and nothing around it, is redacted: plain, percent-encoded, escaped once or twice, and in
    Base64."""
    redaction = Redactor()
    redaction.hide(secret)
    assert redaction.redact(f"{before}{encode(secret)}{after}") == f"{before}{HIDDEN}{after}"


@given(secret=SECRET_TEXTS, before=st.binary(max_size=7), after=st.binary(max_size=7))
@example("\u00ff\u00fe\u00ff>>>???", b"\xff", b"\xff")
def test_known_secret_is_redacted_inside_base64(secret: str, before: bytes, after: bytes) -> None:
    """A Base64 text (standard or URL-safe) that contains a registered value is redacted completely, at any offset."""
    redaction = Redactor()
    redaction.hide(secret)
    for encode in (base64.b64encode, base64.urlsafe_b64encode):
        encoded = encode(before + secret.encode() + after).decode()
        assert redaction.redact(f"sent {encoded}.") == f"sent {HIDDEN}."


def test_known_secret_is_redacted_inside_a_longer_word() -> None:
    """A long registered value is redacted inside a word; a short one only as a separate word."""
    redaction = Redactor()
    redaction.hide(KEY, "postgres", "")
    assert redaction.redact(f"x{KEY}x") == f"x{HIDDEN}x"
    text = "postgresql://mypostgres:postgres@db %3Apostgres%40"
    assert redaction.redact(text) == f"postgresql://{HIDDEN}@db %3A{HIDDEN}%40"
    assert redaction.redact("postgresql, mypostgres, postgres") == f"postgresql, mypostgres, {HIDDEN}"


def test_secret_object_is_redacted_by_its_content() -> None:
    """Hiding a Secret redacts its value."""
    redaction = Redactor()
    redaction.hide(Secret("correct horse battery"))
    assert redaction.redact("a correct horse battery staple") == f"a {HIDDEN} staple"


@pytest.mark.parametrize(
    "address",
    ["rediss://bot:{}@db.example:6379/0", "postgresql://{}@db.example/bots", "http://bot:{}@proxy.example:3128"],
)
def test_password_of_a_url_is_redacted(address: str) -> None:
    """For a URL with a password, both the complete URL and the password alone, also decoded, are redacted."""
    password = "s3cret/p@ss:w0rd"
    redaction = Redactor()
    redaction.hide(address.format(quote(password, safe="")))
    text = (
        f"{address.format(quote(password, safe=''))} {address.format(password)} {password} {quote(password, safe='')}"
    )
    redacted = redaction.redact(text)
    assert_no_part_of(password, redacted)
    assert_no_part_of(quote(password, safe=""), redacted)


def test_url_without_password_is_unchanged() -> None:
    """A store or proxy URL without a password stays unchanged."""
    redaction = Redactor()
    addresses = ["redis://127.0.0.1:6379/0", "http://127.0.0.1:3128", "https://proxy.example/"]
    redaction.hide(*addresses)
    assert [redaction.redact(address) for address in addresses] == addresses


@pytest.mark.parametrize(
    "path",
    [f"/bot{BOT_TOKEN}/sendMessage", "/api/webhooks/1234567890/aBcDeFgHiJkLmNoPqRsT", "/in?t=a1b2c3d4e5f6g7h8i9"],
)
def test_webhook_path_is_redacted_in_errors(path: str) -> None:
    """The error of requests for an unreachable webhook contains no part of its path."""
    address = f"http://127.0.0.1:{unused_port()}{path}"
    redaction = Redactor()
    redaction.hide(address)
    with requests.Session() as session:
        session.trust_env = False
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(address)
    for text in (repr(caught.value), f"POST {address} failed", f"GET {path} HTTP/1.1"):
        redacted = redaction.redact(text)
        assert_no_part_of(path.removeprefix("/api/webhooks/"), redacted.replace("/sendMessage", ""))
        assert HIDDEN in redacted

"""Nothing secret gets through, in whatever it is wrapped; and nothing else is lost."""

from __future__ import annotations

import ast
import base64
import http.client
import json
import random
import socket
import traceback
from collections.abc import Callable
from functools import partial
from urllib.parse import quote, quote_plus, urlencode

import krakenex
import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from bot.kraken.transport import open_api
from bot.redaction import HIDDEN, Redaction
from bot.setting_rules import Secret
from tests.conftest import ROOT

SEED = 20260105
PIECE = 6


def base64_of(count: int, seed: int) -> str:
    """Return random bytes as Kraken writes its keys."""
    return base64.b64encode(random.Random(SEED + seed).randbytes(count)).decode()


# As Kraken makes them: 56 characters, 88, and a signature of 88.
KEYS = [base64_of(42, number) for number in range(50)]
SECRETS = [base64_of(64, number) for number in range(50)]
KEY, SECRET = KEYS[0], SECRETS[0]
BOT_TOKEN = "110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw1"  # as Telegram's documentation has one


def check_nothing_of(secret: str, text: str) -> None:
    """Fail where a piece of the secret is in the text."""
    pieces = {secret[start : start + PIECE] for start in range(len(secret) - PIECE + 1)}
    assert [piece for piece in pieces if piece in text] == [], text


# What is known

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
    lambda text: quote(text, safe="").lower() if text.islower() else quote(quote(text, safe=""), safe=""),
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
def test_a_known_value_is_hidden_within_base64(secret: str, before: bytes, after: bytes) -> None:
    """A Base64 that has a known value somewhere in it goes whole, wherever in its groups the value begins."""
    redaction = Redaction()
    redaction.hide(secret)
    encoded = base64.b64encode(before + secret.encode() + after).decode()
    assert redaction.redact(f"sent {encoded}.") == f"sent {HIDDEN}."


def test_a_known_value_goes_even_out_of_a_longer_word() -> None:
    """A long known value is hidden amid letters; a short one is a word, and leaves longer words whole."""
    redaction = Redaction()
    redaction.hide(KEY, "postgres", "")
    assert redaction.redact(f"x{KEY}x") == f"x{HIDDEN}x"
    assert redaction.redact("postgresql at postgres:5432") == f"postgresql at {HIDDEN}:5432"


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
def test_of_a_webhook_no_error_tells_the_address(path: str, closed_port: int) -> None:
    """What requests says of a webhook that cannot be reached has no part of its path."""
    address = f"http://127.0.0.1:{closed_port}{path}"
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


@pytest.fixture
def closed_port() -> int:
    """Return a port of this machine on which nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


# What looks like a secret

NAMES = "API-Key API-Sign api-key api_key apikey X-Auth-Token x-api-key STATUS_TOKEN accessToken".split()
HEADERS: list[Callable[[str, str], str]] = [
    "{}: {}".format,
    "{}:{}".format,
    "sent {}: {}, then waited".format,
    "GET / HTTP/1.1\r\nHost: a.example\r\n{}: {}\r\nAccept: */*\r\n\r\n".format,
    lambda name, value: repr(f"GET / HTTP/1.1\r\n{name}: {value}\r\nAccept: */*\r\n".encode()),
    lambda name, value: repr({name: value, "other": "1"}),
    lambda name, value: repr({name.encode(): value.encode()}),
    lambda name, value: repr([(name, value), ("other", "1")]),
    lambda name, value: repr([(name.lower().encode(), value.encode())]),
    lambda name, value: repr({name: ["1", value]}),
    lambda name, value: json.dumps({name: value}),
    lambda name, value: json.dumps({name: value}, indent=1),
    lambda name, value: json.dumps({"body": json.dumps({name: value})}),
    lambda name, value: repr(json.dumps({"body": repr({name: value})})),
    lambda name, value: f"curl -H '{name}: {value}' https://a.example/",
    lambda name, value: repr(requests.structures.CaseInsensitiveDict({name: value})),
    lambda name, value: f"{name}={value}&pair=XBTUSD",
    lambda name, value: f"https://a.example/?since=1&{name}={value}&pair=XBTUSD",
    lambda name, value: quote(f"?{name}={value}&pair=XBTUSD", safe=""),
    lambda name, value: f"Settings({name}={value!r}, pairs=1)",
    lambda name, value: f"export {name}={value}; make run",
]
VALUES = ["hunter2hunter2", "tok_4f9aAb_c-d.e~f", KEY, quote(SECRET, safe="")]


@pytest.mark.parametrize("value", VALUES)
@pytest.mark.parametrize("name", [*NAMES, "password", "token", "secret", "otp", "Authorization", "Cookie"])
def test_what_is_named_like_a_secret_is_hidden(name: str, value: str) -> None:
    """In headers, tuples, dicts, JSON, reprs of them, addresses and forms, nobody sees the value of such a name."""
    for write in HEADERS:
        check_nothing_of(value, Redaction().redact(write(name, value)))


@pytest.mark.parametrize("name", ["key", "sign", "signature", "pwd", "pass"])
def test_short_names_count_before_an_equals_sign_and_in_quotes(name: str) -> None:
    """What is a word of any sentence names a secret in a form, in a dict and in JSON, and in a sentence none."""
    for text in (f"a=1&{name}=hunter2hunter2", repr({name: "hunter2hunter2"}), json.dumps({name: "hunter2hunter2"})):
        check_nothing_of("hunter2hunter2", Redaction().redact(text))
    sentence = f"ok       {name}: may query and trade"
    assert Redaction().redact(sentence) == sentence


@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer {}",
        "{{'Authorization': 'Basic {}'}}",
        "Authorization: Token {}",
        "Bearer {} was refused",
        "Cookie: theme=dark; session={}; lang=en",
        "Set-Cookie: session={}; HttpOnly; SameSite=Strict",
        "{{'set-cookie': ['theme=dark', 'session={}']}}",
        "redis://:{}@db.example:6379/0 is away",
        "postgresql://bot:{}@one.example:5432,two.example:5432/bots",
        "could not connect to 'amqps://bot:{}@db.example'",
        "https://{}@errors.example/1",
    ],
)
def test_credentials_are_hidden_where_they_usually_stand(text: str) -> None:
    """Authorization and cookies, and user and password in an address of any scheme, are hidden."""
    value = "hunter2hunter2"
    check_nothing_of(value, Redaction().redact(text.format(value)))


@pytest.mark.parametrize("password", ["p@ss/w0rd", "pass/w@rd?x", "p:ss#w@rd"])
def test_a_password_that_breaks_its_address_is_hidden(password: str) -> None:
    """A password with characters that end a host early is hidden up to the last at sign."""
    shown = Redaction().redact(f"NONCE_STORE is redis://bot:{password}@db.example:6379/0")
    assert shown == f"NONCE_STORE is redis://{HIDDEN}@db.example:6379/0"


def test_a_telegram_token_is_hidden() -> None:
    """The token of a Telegram bot is hidden in the path of its API, and alone."""
    for text in (f"https://api.telegram.org/bot{BOT_TOKEN}/sendMessage", f"the token is {BOT_TOKEN}."):
        check_nothing_of(BOT_TOKEN.partition(":")[2], Redaction().redact(text))


@pytest.mark.parametrize("wrap", [str, repr, partial(quote, safe=""), "signed {}, sent".format, "a={}&b=1".format])
def test_keys_and_signatures_are_hidden_by_their_shape(wrap: Callable[[str], str]) -> None:
    """What has the shape of one of Kraken's keys or signatures is hidden though nobody knows it."""
    for text in (*KEYS, *SECRETS):
        check_nothing_of(text, Redaction().redact(wrap(text)))


# Real failures


def texts_of(error: BaseException, api: krakenex.API) -> list[str]:
    """Return what could be written of a failed call, by us or by any library."""
    assert isinstance(error, requests.RequestException)
    request = error.request
    assert isinstance(request, requests.PreparedRequest)
    trace = traceback.TracebackException.from_exception(error, capture_locals=True)
    return [
        repr(error),
        "".join(traceback.format_exception(error)),
        "".join(trace.format()),
        repr(api),
        repr(vars(api)),
        repr(vars(request)),
        repr(list(request.headers.items())),
        str(request.body),
    ]


@pytest.mark.parametrize("known", [True, False])
def test_a_failed_call_shows_no_key_and_no_signature(
    known: bool, closed_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of a call that failed for real, errors, traces with every variable, reprs and wire logs show no key, secret,
    signature or one-time password, though none of them is known."""
    api = open_api(KEY, SECRET, f"http://127.0.0.1:{closed_port}")
    redaction = Redaction()
    if known:
        redaction.hide(KEY, SECRET)
    with pytest.raises(requests.ConnectionError) as caught:
        api.query_private("Balance", {"otp": "91827364"})
    assert caught.value.request is not None
    signature = caught.value.request.headers["API-Sign"]
    texts = [*texts_of(caught.value, api), wire_log(dict(caught.value.request.headers), capsys)]
    assert sum(signature in text for text in texts) >= 4
    for text in texts:
        shown = redaction.redact(text)
        for secret in (KEY, SECRET, signature, "91827364"):
            check_nothing_of(secret, shown)


def wire_log(headers: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what http.client prints of a request with these headers, to a server that hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.getsockname()[1])
        connection.set_debuglevel(1)
        connection.request("POST", "/0/private/Balance", headers=headers)
        connection.close()
    return capsys.readouterr().out


# What has to stay

STAYS = [
    "OABCDE-FGHIJ-KLMNOP bought 0.00115606 BTC/USD at 86500.1 for 100.00",
    "own order adopted: alpha-3f9a0b1c2d4e5f60 (cl_ord_id 550e8400-e29b-41d4-a716-446655440000)",
    "cl_ord_id=7a1b2c3d4e5f60718a txid=TXID12-ABCDE-FGHIJK price=86500.1 volume=0.5 nonce=1767225600123456",
    "1763878800:550e8400-e29b-41d4-a716-446655440000",
    "refused nonces: 0, last nonce 1767225600123456789, lead 12 us",
    "/var/lib/kraken-bot/kraken_nonce.0a1b2c3d.lock cannot be used (Permission denied)",
    "/Volumes/Max/Documents/Bots/Kraken2/State/Live/Main/Journal/Copy3/x",
    "/srv/tradingbots/kraken/production/accounts/main2/state/Journal/Data",
    "/Volumes/TradingBots/KrakenTradingBot2026/StateFolder/JournalOfTheBot",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 at commit f1c8b93d0a",
    "The nonce store redis://127.0.0.1:6379/0 is back, postgresql://bot@db.example:5432/bots too",
    "https://a.example:8080/path@v1 and mail to bot@example.org",
    "2026-11-23T06:20:00Z  BTC/USD 86500.1  nothing to do: no signal; keys: 3, tokens 5, design=2",
    "Take the permission away, or set ALLOW_WITHDRAW_KEY=1; KRAKEN_API_SECRET is empty",
]


@pytest.mark.parametrize("line", STAYS)
def test_what_is_no_secret_stays(line: str) -> None:
    """Orders, their ids, nonces, prices, paths, digests, addresses and sentences about keys stay as they are."""
    assert Redaction().redact(line) == line


def test_no_sentence_of_the_program_is_touched() -> None:
    """Every sentence in the program's text stays, but for an example of an address with a password in it."""
    touched = []
    for path in [ROOT / "main.py", *(ROOT / "bot").rglob("*.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        touched += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in prose
            if node.value.count(" ") > 1 and "user:password@" not in node.value
            if Redaction().redact(node.value) != node.value
        ]
    assert touched == []


# What it costs

# Read once for each character, a line of this length takes minutes.
LONG = 200_000
NASTY = {
    "one word": "x",
    "addresses": "://a",
    "at signs": "://a:b@",
    "names": "token=",
    "names in quotes": "'token':",
    "open quotes": "token: '",
    "escaped quotes": "'token': \\\\'",
    "cookies": "cookie: a\\",
    "headers": "x-",
    "blanks": "token ",
    "percent": "%2B",
    "digits": "1234567890:",
    "backslashes": "\\",
    "backslashes after a name": "token\\\\\\\\\\\\",
    "nearly keys": "Aa0" * 18 + " ",
    "keys": SECRET,
    "known": KEY,
    "known in Base64": b64("xy" + KEY * 3),
    "bearer": "bearer ",
    "brackets": "'token': ['",
}
LINES = {name: unit * (LONG // len(unit)) for name, unit in NASTY.items()}
LINES["a megabyte of all"] = "".join(line[: LONG // 4] for line in LINES.values())


@pytest.mark.timeout(20)
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_a_long_line_is_read_once(line: str) -> None:
    """A long line that is made to mislead, up to a megabyte, is read to its end, and no key is left in it."""
    redaction = Redaction()
    redaction.hide(KEY)
    shown = redaction.redact(f"token {line}")
    assert KEY not in shown
    assert SECRET not in shown


@given(st.text(st.characters(), max_size=200))
def test_no_text_is_too_odd(text: str) -> None:
    """Any text is read without an error, half a pair of surrogates too, and may be a secret."""
    redaction = Redaction()
    redaction.hide(text, f"redis://{text}", f"https://{text}")
    assert isinstance(redaction.redact(text), str)

"""Text that looks like a secret is redacted in any format, and other text stays unchanged."""

from __future__ import annotations

import ast
import base64
import http.client
import json
import socket
import traceback
from collections.abc import Callable
from contextlib import closing
from functools import partial
from urllib.parse import quote

import krakenex
import pytest
import requests
from hypothesis import example, given
from hypothesis import strategies as st

from bot.base.errors import TransportError
from bot.base.redaction import HIDDEN, Redactor
from bot.kraken.transport import KrakenAPI
from tests.conftest import ROOT
from tests.fake_secrets import BOT_TOKEN, KEY, KEYS, SECRET, SECRETS, assert_no_part_of, unused_port
from tests.http_server import HttpServer

# Text that looks like a secret

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
def test_value_with_a_secret_name_is_redacted(name: str, value: str) -> None:
    """In headers, tuples, dicts, JSON, their reprs, URLs and forms, the value after a secret name is redacted."""
    for write in HEADERS:
        assert_no_part_of(value, Redactor().redact(write(name, value)))


@pytest.mark.parametrize("name", ["key", "sign", "signature", "pwd", "pass"])
def test_common_words_name_a_secret_only_before_equals_or_in_quotes(name: str) -> None:
    """A common word names a secret in a form, in a dict and in JSON, but not in a sentence."""
    for text in (f"a=1&{name}=hunter2hunter2", repr({name: "hunter2hunter2"}), json.dumps({name: "hunter2hunter2"})):
        assert_no_part_of("hunter2hunter2", Redactor().redact(text))
    sentence = f"ok       {name}: may query and trade"
    assert Redactor().redact(sentence) == sentence


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
def test_credentials_in_headers_and_urls_are_redacted(text: str) -> None:
    """Authorization and cookies, and user and password in a URL of any scheme, are redacted."""
    value = "hunter2hunter2"
    assert_no_part_of(value, Redactor().redact(text.format(value)))


@pytest.mark.parametrize("password", ["p@ss/w0rd", "pass/w@rd?x", "p:ss#w@rd"])
def test_unencoded_password_in_url_is_redacted(password: str) -> None:
    """A password with characters that normally end a host is redacted up to the last at sign."""
    redacted = Redactor().redact(f"NONCE_STORE is redis://bot:{password}@db.example:6379/0")
    assert redacted == f"NONCE_STORE is redis://{HIDDEN}@db.example:6379/0"


def test_telegram_token_is_redacted() -> None:
    """The token of a Telegram bot is redacted, in text and, at any length, in the path of its API."""
    long_token = f"{BOT_TOKEN}xyz-{BOT_TOKEN[-9:]}"
    api = "https://api.telegram.org/bot"
    for text in (
        f"the token is {BOT_TOKEN}.",
        f"{api}{BOT_TOKEN}/getMe",
        f"{api}{long_token}/getMe",
        quote(api + long_token),
    ):
        assert_no_part_of(long_token.partition(":")[2], Redactor().redact(text))


@pytest.mark.parametrize("wrap", [str, repr, partial(quote, safe=""), "signed {}, sent".format, "a={}&b=1".format])
def test_unknown_keys_and_signatures_are_redacted(wrap: Callable[[str], str]) -> None:
    """Text in the form of a Kraken key or signature is redacted although it was never registered."""
    for text in (*KEYS, *SECRETS):
        assert_no_part_of(text, Redactor().redact(wrap(text)))


# Real failures


def texts_of(error: BaseException, api: krakenex.API) -> list[str]:
    """Return everything that this program or a library could log of a failed call."""
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


@pytest.mark.parametrize("is_known", [True, False])
def test_failed_call_shows_no_key_or_signature(is_known: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """Errors, tracebacks with all variables, reprs and wire logs of a call that really failed contain no key, secret,
    signature or one-time password, though none of them is registered."""
    api = krakenex.API(KEY, SECRET)
    api.uri = f"http://127.0.0.1:{unused_port()}"
    redaction = Redactor()
    if is_known:
        redaction.hide(KEY, SECRET)
    with pytest.raises(requests.ConnectionError) as caught:
        api.query_private("Balance", {"otp": "91827364"})
    assert caught.value.request is not None
    signature = caught.value.request.headers["API-Sign"]
    texts = [*texts_of(caught.value, api), wire_log(dict(caught.value.request.headers), capsys)]
    assert sum(signature in text for text in texts) >= 4
    for text in texts:
        redacted = redaction.redact(text)
        for secret in (KEY, SECRET, signature, "91827364"):
            assert_no_part_of(secret, redacted)


@pytest.mark.parametrize("answer", [None, b"HTTP/1.1 502 Bad Gateway\r\n\r\n", b"{}"], ids=["unsent", "502", "no HTTP"])
def test_failed_call_of_the_bot_shows_no_key_or_signature(answer: bytes | None) -> None:
    """Errors and tracebacks with all variables of a call of the bot that was not sent, or not answered, contain no key,
    secret, signature or one-time password, though none of them is registered."""
    with HttpServer(answer or b"", closes=True) as server:
        url = f"http://127.0.0.1:{unused_port()}" if answer is None else server.url
        with closing(KrakenAPI(KEY, SECRET, url)) as api:
            api._nonce = lambda: 1
            with pytest.raises(TransportError) as caught:
                api.query_private("Balance", {"otp": "91827364"})
    signature = api._sign({"otp": "91827364", "nonce": 1}, "/0/private/Balance")
    trace = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    texts = ["".join(traceback.format_exception(caught.value)), "".join(trace.format()), repr(vars(api))]
    assert signature in texts[1]
    for text in texts:
        for secret in (KEY, SECRET, signature, "91827364"):
            assert_no_part_of(secret, Redactor().redact(text))


def wire_log(headers: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return what http.client prints for a request with these headers to a server that closes the connection."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.getsockname()[1])
        connection.set_debuglevel(1)
        connection.request("POST", "/0/private/Balance", headers=headers)
        connection.close()
    return capsys.readouterr().out


# Text that must stay

UNCHANGED_LINES = [
    "OABCDE-FGHIJ-KLMNOP bought 0.00115606 BTC/USD at 86500.1 for 100.00",
    "own order adopted: alpha-3f9a0b1c2d4e5f60 (cl_ord_id 550e8400-e29b-41d4-a716-446655440000)",
    "cl_ord_id=7a1b2c3d4e5f60718a txid=TXID12-ABCDE-FGHIJK price=86500.1 volume=0.5 nonce=1767225600123456",
    "1763878800:550e8400-e29b-41d4-a716-446655440000",
    "refused nonces: 0, last nonce 1767225600123456789, lead 12 us",
    "/var/lib/kraken-bot/kraken_nonce.0a1b2c3d.lock cannot be used (Permission denied)",
    "/Volumes/Max/Documents/Bots/Kraken2/State/Live/Main/Journal/Copy3/x",
    "/srv/tradingbots/kraken/production/accounts/main2/state/Journal/Data",
    "/Volumes/Max/MyBotOnDisk/KrBotV2/TheOneBot/LiveRun2/StDir/Jnl01/MyRunA/x",
    "%2FVolumes%2FMax%2FDocuments%2FBots%2FKraken2%2FState%2FLive%2FMain%2FJournal%2FCopy3%2Fx",
    "/Volumes/TradingBots/KrakenTradingBot2026/StateFolder/JournalOfTheBot",
    "sha256 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 at commit f1c8b93d0a",
    "The nonce store redis://127.0.0.1:6379/0 is back, postgresql://bot@db.example:5432/bots too",
    "https://a.example:8080/path@v1 and mail to bot@example.org",
    "2026-11-23T06:20:00Z  BTC/USD 86500.1  nothing to do: no signal; keys: 3, tokens 5, design=2",
    "Take the permission away, or set ALLOW_WITHDRAW_KEY=1; KRAKEN_API_SECRET is empty",
    '{"leader": "host:17", "fencing_token": 4} fencing_token=4, fencing token: 4',
]


@pytest.mark.parametrize("line", UNCHANGED_LINES)
def test_text_without_secrets_is_unchanged(line: str) -> None:
    """Orders, their ids, nonces, prices, paths, digests, addresses and sentences about keys stay unchanged."""
    assert Redactor().redact(line) == line


def test_program_messages_are_unchanged() -> None:
    """Every sentence in the program's source stays unchanged."""
    changed = []
    for path in [ROOT / "main.py", *(ROOT / "bot").rglob("*.py")]:
        tree = ast.parse(path.read_text("utf-8"))
        docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        changed += [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings
            if node.value.count(" ") > 1
            if Redactor().redact(node.value) != node.value
        ]
    assert changed == []


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("API-Key: abcdef, order O123", "API-Key: [hidden], order O123"),
        (r"b'Cookie: a=b; c=d\r\nHost: a.example\r\n'", r"b'Cookie: [hidden]\r\nHost: a.example\r\n'"),
        ("nonce=1767225600123456&otp=918273&pair=XBTUSD", "nonce=1767225600123456&otp=[hidden]&pair=XBTUSD"),
        ("{'token': 'abc', 'txid': 'O123'}", "{'token': '[hidden]', 'txid': 'O123'}"),
        ('"{\\"token\\": \\"abc\\", \\"txid\\": 1}"', '"{\\"token\\": \\"[hidden]\\", \\"txid\\": 1}"'),
        ("[('cookie', ['a=b', 'c=d']), ('x', 1)]", "[('cookie', ['[hidden]']), ('x', 1)]"),
        ("GET redis://a:b@db.example:6379/0 failed", "GET redis://[hidden]@db.example:6379/0 failed"),
        ("Authorization: Bearer abc was refused", "Authorization: [hidden] was refused"),
    ],
)
def test_text_beside_a_secret_is_unchanged(line: str, expected: str) -> None:
    """The rest of a line with a secret stays: other fields and headers, the host of a URL, the sentence."""
    assert Redactor().redact(line) == expected


# Run time

# With one scan per character, a line of this length takes minutes.
LINE_LENGTH = 200_000
ADVERSARIAL_UNITS = {
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
    "known in Base64": base64.b64encode(b"xy" + KEY.encode() * 3).decode(),
    "bearer": "bearer ",
    "brackets": "'token': ['",
}
LINES = {name: unit * (LINE_LENGTH // len(unit)) for name, unit in ADVERSARIAL_UNITS.items()}
LINES["a megabyte of all"] = "".join(line[: LINE_LENGTH // 4] for line in LINES.values())


@pytest.mark.timeout(20)
@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_long_line_takes_linear_time(line: str) -> None:
    """A misleading line of up to a megabyte is processed completely, and no key remains in it."""
    redaction = Redactor()
    redaction.hide(KEY)
    redacted = redaction.redact(f"token {line}")
    assert KEY not in redacted
    assert SECRET not in redacted


@given(st.text(st.characters(), max_size=200))
@example("\ud800 half a pair")
def test_any_text_can_be_redacted(text: str) -> None:
    """Any text, including lone surrogates, can be processed and can be a secret."""
    redaction = Redactor()
    redaction.hide(text, f"redis://{text}", f"https://{text}")
    assert isinstance(redaction.redact(text), str)

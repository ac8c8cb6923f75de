"""What must never be seen: values that are known to be secret, and what looks like a secret by its shape.

Two sieves, because each has holes. A known value is found wherever it stands, also percent-encoded, escaped or in
Base64, but somebody must have named it. A shape is found in what nobody has named: a header of a library's error, an
address out of a stranger's answer.

Each step reads a text once, from left to right, so that a long line costs what its length costs.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from itertools import pairwise
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "[hidden]"

# A shorter text is a word like any other: `postgres` as a password must not tear `postgresql` apart.
_WORD_LENGTH = 12
# So much of a Base64 means one text and no other.
_CORE_LENGTH = 8
# Part of a webhook's address that is long enough to be a token, and no word of a path.
_TOKEN_LENGTH = 16
# What is called a key may be a number or a switch.
_VALUE_LENGTH = 4
# Kraken's public keys have 56 characters of Base64, private keys and signatures 88.
_KEY_LENGTH = 56


class Redaction:
    """The known values, and the way of a text through both sieves."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._spellings: tuple[str, ...] = ()
        self._words: tuple[re.Pattern[str], ...] = ()
        self._in_base64: tuple[str, ...] = ()

    def hide(self, *secrets: str) -> None:
        """Never show these values again. Of an address it is the password, and what a webhook is called by.

        An address without either is none of these, and stays visible. Empty values are passed over.
        """
        for secret in secrets:
            # Not `str()`: a text that does not print itself says "[hidden]" there.
            self._secrets.update(_parts(str.__str__(secret)))
        self._secrets -= {"", HIDDEN}
        known = sorted(self._secrets)
        spellings = {spelling for secret in known for spelling in _spellings(secret)}
        # The longest first, because one may be part of another.
        longest = sorted(spellings, key=lambda text: (-len(text), text))
        self._spellings = tuple(text for text in longest if len(text) >= _WORD_LENGTH)
        self._words = tuple(_as_word(text) for text in longest if len(text) < _WORD_LENGTH)
        self._in_base64 = tuple({core for secret in known for core in _base64_cores(secret)})

    def redact(self, text: str) -> str:
        """Return the text without what must not be seen."""
        for spelling in self._spellings:
            if spelling in text:
                text = text.replace(spelling, HIDDEN)
        for word in self._words:
            text = word.sub(HIDDEN, text)
        for core in self._in_base64:
            if core in text:
                text = _without_base64(text, core)
        return _without_shapes(text)


def _parts(secret: str) -> list[str]:
    """Return what of a value is secret: itself, or of an address what must not be seen."""
    scheme, address, rest = secret.partition("://")
    if not address:
        return [secret, secret.strip()]
    # The last one: an at sign in a password that is not encoded is refused elsewhere, and must not be shown here.
    user, at, place = rest.rpartition("@")
    password = user.partition(":")[2]
    users = [secret, user, unquote(user), password, unquote(password)] if at else []
    if not scheme.lower().startswith("http"):
        return users
    called_by = place[len(re.split("[/?#]", place, maxsplit=1)[0]) :]
    # What follows the host is all that an error of urllib3 tells of an address.
    tokens = [token for token in (called_by, *re.split("[/?&=#:]", called_by)) if len(token) >= _TOKEN_LENGTH]
    return [*users, *tokens, secret] if called_by.strip("/") else users


def _spellings(secret: str) -> set[str]:
    """Return how a text may be written: as it is, percent-encoded, escaped, and each of these once more."""
    found = {secret}
    for _round in range(2):
        found |= {spelling for text in found for spelling in _escaped(text)}
    with_bytes = _decoded(secret)
    return found | ({repr(with_bytes)[2:-1], with_bytes.hex()} if with_bytes else set())


def _escaped(text: str) -> list[str]:
    encoded = text.encode("utf-8", "surrogatepass")
    percent = [quote(encoded), quote(encoded, safe=""), quote_plus(encoded)]
    lower = [re.sub("%..", lambda match: match[0].lower(), spelling) for spelling in percent]
    # A quote that the text itself has may stand there with a backslash or without.
    escaped = [repr(text)[1:-1], ascii(text)[1:-1], repr(encoded)[2:-1], json.dumps(text)[1:-1]]
    return [*percent, *lower, *escaped, json.dumps(text, ensure_ascii=False)[1:-1], text.replace("'", "\\'")]


def _decoded(secret: str) -> bytes:
    """Return the bytes of a text that is Base64, as a private key is; no bytes where it is none."""
    try:
        decoded = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return decoded if len(decoded) >= _WORD_LENGTH else b""


def _as_word(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])){re.escape(text)}(?![A-Za-z0-9])")


def _base64_cores(secret: str) -> set[str]:
    """Return what every Base64 has in common that has the text in it, at any of the three places in a group."""
    encoded = secret.encode("utf-8", "surrogatepass")
    cores = set()
    for before in range(3):
        text = base64.b64encode(bytes(before) + encoded).decode()
        # The first and last characters hold bits of what stands before and after.
        whole = text[-(-before * 8 // 6) : (before + len(encoded)) * 8 // 6]
        cores |= {whole, whole.replace("+", "-").replace("/", "_")}
    return {core for core in cores if len(core) >= _CORE_LENGTH}


_BASE64_REST = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_BASE64_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"


def _without_base64(text: str, core: str) -> str:
    pieces = []
    done = 0
    while (found := text.find(core, done)) >= 0:
        # The characters around hold the secret's first and last bits.
        pieces += [text[done:found].rstrip(_BASE64_CHARACTERS), HIDDEN]
        rest = _BASE64_REST.match(text, found)
        done = rest.end() if rest else found + len(core)
    return "".join([*pieces, text[done:]])


# A name, and what stands between it and its value. Names that are words of any sentence count before `=` alone, or in
# quotes: "key: may trade" is prose.
_NAME = re.compile(
    r"""
    (?: (?<![a-z]) | (?<=\\[nrt]) | (?<=%[0-9a-f][0-9a-f])
      | (?<=api) | (?<=auth) | (?<=access) | (?<=refresh) | (?<=client) )
    (?: (?P<whole_line> cookie | authorization )
      | x-(?:[a-z0-9]{1,20}-){0,4}(?:auth|apikey|key|sign|signature|secret|token)
      | api[-_ ]?(?:key|sign) | secret | token | password | passwd | passphrase | otp
      | (?P<word> key | sign | signature | pwd | pass | auth ) )
    (?P<quoted> \\*+["'] )?
    [ \t]*+ (?P<between> => | ==? | [:,] | %3[AD] ) [ \t]*+
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_NAMED = ("key", "sign", "secret", "token", "pass", "pwd", "otp", "auth", "cookie")
_OPENING = re.compile(r"""(?P<bracket>[\[({])?[ \t]*+[bBuU]?(?P<quote>\\*+["'])""")
# In a list of values, what stands between two of them.
_MORE = re.compile(r"""\\*+["'],[ \t]*+[bBuU]?(?P<quote>\\*+["'])""")
_PLAIN_QUOTED = {mark: re.compile(rf"[^{mark}\\]*+(?:\\.[^{mark}\\]*+)*+", re.DOTALL) for mark in "'\""}
_PLAIN = re.compile(r"""(?:(?:basic|bearer|digest|token|bot)[ \t]+)?[^\s,;&'"\\]*+""", re.IGNORECASE)
_LINE = re.compile(r"""[^\r\n\\]*+(?:\\(?![rn])[^\r\n\\]*+)*+""")


def _without_named(text: str) -> str:
    """Hide the values of headers, parameters and fields that are named like a secret, however they are written."""
    pieces = []
    done = 0
    for match in _NAME.finditer(text):
        if match.start() < done or (match["word"] and not match["quoted"] and match["between"] in (":", ",")):
            continue
        opening = _OPENING.match(text, match.end())
        if match["between"] == "," and not (match["quoted"] and opening):
            continue
        start = opening.end() if opening else match.end()
        end = _value_end(text, start, opening["quote"] if opening else "", match)
        while opening and opening["bracket"] and (more := _MORE.match(text, end)):
            end = _value_end(text, more.end(), more["quote"], match)
        # A setting may end in KEY and be 0 or 1.
        is_switch = match["word"] and not opening and end - start < _VALUE_LENGTH
        if end > start and not is_switch:
            pieces += [text[done:start], HIDDEN]
            done = end
    return "".join([*pieces, text[done:]])


def _value_end(text: str, start: int, mark: str, name: re.Match[str]) -> int:
    if len(mark) > 1:
        # Quotes within quotes: what opened the value with backslashes closes it with as many.
        closing = text.find(mark, start)
        return closing if closing >= 0 else len(text)
    in_line = name["whole_line"] and name["whole_line"].lower() == "cookie" and not name["quoted"]
    reach = _PLAIN_QUOTED[mark] if mark else _LINE if in_line else _PLAIN
    value = reach.match(text, start)
    return value.end() if value else start


_ADDRESS = re.compile(r"""://([^\s'"<>]*+)""")


def _without_user(match: re.Match[str]) -> str:
    """Hide user and password of an address, and all up to its last at sign where the password is not encoded."""
    before, at, rest = match[1].rpartition("@")
    user, has_user, host = re.split("[/?#]", match[1], maxsplit=1)[0].rpartition("@")
    if has_user:
        # A name alone may be a token, where it is the web that is asked.
        is_web = match.string[max(0, match.start() - 5) : match.start()].lower().endswith(("http", "https"))
        is_secret = ":" in user or (is_web and user != "")
    else:
        # A path may have an at sign as well.
        is_secret = at != "" and not (host.partition(":")[2] or "0").isdigit()
    return f"://{HIDDEN}@{rest}" if before and is_secret else match[0]


# Telegram: bot<number>:<35 characters>; its Bot API has them in the path.
_BOT_TOKEN = re.compile(r"bot[0-9]{5,20}(?::|%3[Aa])[\w-]{20,}|(?<![0-9])[0-9]{6,12}:[\w-]{35}(?![\w-])", re.ASCII)
_BEARER = re.compile(r"(?<![A-Za-z])Bearer[ \t]+[\w.~+/-]{8,}=*", re.IGNORECASE | re.ASCII)
_LONG_RUN = re.compile(rf"[A-Za-z0-9+/%]{{{_KEY_LENGTH},}}={{0,2}}")


def _without_key(match: re.Match[str]) -> str:
    return HIDDEN if _looks_random(unquote(match[0])) else match[0]


def _looks_random(run: str) -> bool:
    """Whether so long a text can only be Base64: digests in hexadecimal, long numbers and paths of files are not."""
    kinds = ["A" if one.isupper() else "a" if one.islower() else "0" if one.isdigit() else "+" for one in run]
    if not {"A", "a", "0"} <= set(kinds) or run.count("/") * 10 >= len(run):
        return False
    # Random characters are mostly of another kind than the one before, those of words and years mostly are not: of
    # 1000 keys one is taken for a path.
    words = [kind for kind, one in zip(kinds, run, strict=True) if one != "/"]
    return sum(before != after for before, after in pairwise(words)) * 100 > len(run) * 40


def _without_shapes(text: str) -> str:
    if "://" in text:
        text = _ADDRESS.sub(_without_user, text)
    lower = text.lower()
    if any(name in lower for name in _NAMED):
        text = _without_named(text)
    if "bearer" in lower:
        text = _BEARER.sub(f"Bearer {HIDDEN}", text)
    if len(text) >= _KEY_LENGTH:
        text = _LONG_RUN.sub(_without_key, text)
    return _BOT_TOKEN.sub(HIDDEN, text) if ":" in text or "%3" in text else text


_all = Redaction()
hide = _all.hide
redact = _all.redact

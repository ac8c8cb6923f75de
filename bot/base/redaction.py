"""Redaction of secrets: known values, and text that looks like a secret.

Two filters, because each has gaps. The first finds a known value everywhere, also percent-encoded, escaped or in
Base64, but the value must have been registered. The second finds the form of a secret in text that nobody has
registered: a header in a library's error, an address in another server's response.

Each step reads a text once, from left to right, so the cost of a line grows with its length only.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from itertools import pairwise
from urllib.parse import quote, quote_plus, unquote

HIDDEN = "[hidden]"

# A shorter text is treated as a word: `postgres` as a password must not tear `postgresql` apart.
_LITERAL_LENGTH_MIN = 12
# A Base64 fragment of this length identifies one text.
_BASE64_FRAGMENT_LENGTH_MIN = 8
# The part of a webhook's address that is long enough to be a token, and not a word of a path.
_TOKEN_LENGTH_MIN = 16
# A value named key may be a number or a switch.
_VALUE_LENGTH_MIN = 4
# Kraken's public keys have 56 characters of Base64, private keys and signatures 88.
_KEY_LENGTH_MIN = 56


class Redactor:
    """The known values, and both filters."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._literals: tuple[str, ...] = ()
        self._word_patterns: tuple[re.Pattern[str], ...] = ()
        self._base64_fragments: tuple[str, ...] = ()

    def hide(self, *secrets: str) -> None:
        """Redact these values from now on. Of an address, redact the password and the token of a webhook.

        An address without either has no secret and stays visible. Empty values are ignored.
        """
        for secret in secrets:
            # Not `str()`: a Secret renders itself as "[hidden]" there.
            self._secrets.update(_secret_parts(str.__str__(secret)))
        self._secrets -= {"", HIDDEN}
        secrets_in_order = sorted(self._secrets)
        encodings = {encoding for secret in secrets_in_order for encoding in _encodings(secret)}
        # The longest first, because one encoding may be part of another.
        by_length = sorted(encodings, key=lambda text: (-len(text), text))
        self._literals = tuple(text for text in by_length if len(text) >= _LITERAL_LENGTH_MIN)
        self._word_patterns = tuple(_word_pattern(text) for text in by_length if len(text) < _LITERAL_LENGTH_MIN)
        self._base64_fragments = tuple(
            {fragment for secret in secrets_in_order for fragment in _base64_fragments(secret)}
        )

    def redact(self, text: str) -> str:
        """Return the text without secrets."""
        for literal in self._literals:
            if literal in text:
                text = text.replace(literal, HIDDEN)
        for pattern in self._word_patterns:
            text = pattern.sub(HIDDEN, text)
        for fragment in self._base64_fragments:
            if fragment in text:
                text = _redact_base64(text, fragment)
        return _redact_patterns(text)


def _secret_parts(secret: str) -> list[str]:
    """Return the secret parts of a value: the value itself, or the parts of an address that must not be shown."""
    scheme, address, rest = secret.partition("://")
    if not address:
        return [secret, secret.strip()]
    # The last at sign: one in a password that is not encoded is refused elsewhere, and must not be shown here.
    user, at, host_and_path = rest.rpartition("@")
    password = user.partition(":")[2]
    userinfo_parts = [secret, user, unquote(user), password, unquote(password)] if at else []
    if not scheme.lower().startswith("http"):
        return userinfo_parts
    path = host_and_path[len(re.split("[/?#]", host_and_path, maxsplit=1)[0]) :]
    # An error of urllib3 shows only what follows the host.
    tokens = [token for token in (path, *re.split("[/?&=#:]", path)) if len(token) >= _TOKEN_LENGTH_MIN]
    return [*userinfo_parts, *tokens, secret] if path.strip("/") else userinfo_parts


def _encodings(secret: str) -> set[str]:
    """Return the encodings of a text: plain, percent-encoded, escaped, and each of these once more."""
    encodings = {secret}
    for _round in range(2):
        encodings |= {encoding for text in encodings for encoding in _escapes(text)}
    decoded = _decode_base64(secret)
    return encodings | ({repr(decoded)[2:-1], decoded.hex()} if decoded else set())


def _escapes(text: str) -> list[str]:
    encoded = text.encode("utf-8", "surrogatepass")
    percent = [quote(encoded), quote(encoded, safe=""), quote_plus(encoded)]
    lower = [re.sub("%..", lambda match: match[0].lower(), spelling) for spelling in percent]
    # A quote in the text itself may be escaped with a backslash or not.
    escaped = [repr(text)[1:-1], ascii(text)[1:-1], repr(encoded)[2:-1], json.dumps(text)[1:-1]]
    return [*percent, *lower, *escaped, json.dumps(text, ensure_ascii=False)[1:-1], text.replace("'", "\\'")]


def _decode_base64(secret: str) -> bytes:
    """Return the decoded bytes of a Base64 text, such as a private key; no bytes for other texts."""
    try:
        decoded = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        return b""
    return decoded if len(decoded) >= _LITERAL_LENGTH_MIN else b""


def _word_pattern(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])){re.escape(text)}(?![A-Za-z0-9])")


def _base64_fragments(secret: str) -> set[str]:
    """Return the fragments that every Base64 encoding with the text inside has in common, for each of the three
    offsets."""
    encoded = secret.encode("utf-8", "surrogatepass")
    fragments = set()
    for offset in range(3):
        text = base64.b64encode(bytes(offset) + encoded).decode()
        # The first and last characters hold bits of the surrounding text.
        fragment = text[-(-offset * 8 // 6) : (offset + len(encoded)) * 8 // 6]
        fragments |= {fragment, fragment.replace("+", "-").replace("/", "_")}
    return {fragment_text for fragment_text in fragments if len(fragment_text) >= _BASE64_FRAGMENT_LENGTH_MIN}


_BASE64_RUN = re.compile(r"[A-Za-z0-9+/_-]*={0,2}")
_BASE64_CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/_-"


def _redact_base64(text: str, fragment: str) -> str:
    pieces = []
    position = 0
    while (start := text.find(fragment, position)) >= 0:
        # The surrounding characters hold the secret's first and last bits.
        pieces += [text[position:start].rstrip(_BASE64_CHARACTERS), HIDDEN]
        rest = _BASE64_RUN.match(text, start)
        position = rest.end() if rest else start + len(fragment)
    return "".join([*pieces, text[position:]])


# A name, and the separator between it and its value. Common words count as names only before `=`, or in quotes: "key:
# may trade" is prose.
# A fencing token is a number and no secret.
_SECRET_NAME = re.compile(
    r"""
    (?: (?<![a-z]) | (?<=\\[nrt]) | (?<=%[0-9a-f][0-9a-f])
      | (?<=api) | (?<=auth) | (?<=access) | (?<=refresh) | (?<=client) )
    (?: (?P<whole_line> cookie | authorization )
      | x-(?:[a-z0-9]{1,20}-){0,4}(?:auth|apikey|key|sign|signature|secret|token)
      | api[-_ ]?(?:key|sign) | secret | (?<!fencing[-_ ])token | password | passwd | passphrase | otp
      | (?P<word> key | sign | signature | pwd | pass | auth ) )
    (?P<quoted> \\*+["'] )?
    [ \t]*+ (?P<between> => | ==? | [:,] | %3[AD] ) [ \t]*+
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII,
)
_SECRET_NAME_PARTS = ("key", "sign", "secret", "token", "pass", "pwd", "otp", "auth", "cookie")
_VALUE_START = re.compile(r"""(?P<bracket>[\[({])?[ \t]*+[bBuU]?(?P<quote>\\*+["'])""")
# In a list of values, the separator between two of them.
_LIST_SEPARATOR = re.compile(r"""\\*+["'],[ \t]*+[bBuU]?(?P<quote>\\*+["'])""")
_QUOTED_VALUE = {mark: re.compile(rf"[^{mark}\\]*+(?:\\.[^{mark}\\]*+)*+", re.DOTALL) for mark in "'\""}
_BARE_VALUE = re.compile(r"""(?:(?:basic|bearer|digest|token|bot)[ \t]+)?[^\s,;&'"\\]*+""", re.IGNORECASE)
_LINE_VALUE = re.compile(r"""[^\r\n\\]*+(?:\\(?![rn])[^\r\n\\]*+)*+""")


def _redact_named_values(text: str) -> str:
    """Redact the values of headers, parameters and fields that are named like a secret, in every notation."""
    pieces = []
    position = 0
    for match in _SECRET_NAME.finditer(text):
        if match.start() < position or (match["word"] and not match["quoted"] and match["between"] in (":", ",")):
            continue
        opening = _VALUE_START.match(text, match.end())
        if match["between"] == "," and not (match["quoted"] and opening):
            continue
        start = opening.end() if opening else match.end()
        end = _value_end(text, start, opening["quote"] if opening else "", match)
        while opening and opening["bracket"] and (next_value := _LIST_SEPARATOR.match(text, end)):
            end = _value_end(text, next_value.end(), next_value["quote"], match)
        # A setting may end in KEY and be 0 or 1.
        is_switch = match["word"] and not opening and end - start < _VALUE_LENGTH_MIN
        if end > start and not is_switch:
            pieces += [text[position:start], HIDDEN]
            position = end
    return "".join([*pieces, text[position:]])


def _value_end(text: str, start: int, quote_mark: str, name: re.Match[str]) -> int:
    if len(quote_mark) > 1:
        # Quotes within quotes: the closing quote has as many backslashes as the opening one.
        closing = text.find(quote_mark, start)
        return closing if closing >= 0 else len(text)
    is_cookie_line = name["whole_line"] and name["whole_line"].lower() == "cookie" and not name["quoted"]
    pattern = _QUOTED_VALUE[quote_mark] if quote_mark else _LINE_VALUE if is_cookie_line else _BARE_VALUE
    value = pattern.match(text, start)
    return value.end() if value else start


_ADDRESS = re.compile(r"""://([^\s'"<>]*+)""")


def _redact_userinfo(match: re.Match[str]) -> str:
    """Redact user and password of an address, up to its last at sign where the password is not encoded."""
    before, at, after_userinfo = match[1].rpartition("@")
    user, has_user, host = re.split("[/?#]", match[1], maxsplit=1)[0].rpartition("@")
    if has_user:
        # A user name alone may be a token in a web address.
        is_web = match.string[max(0, match.start() - 5) : match.start()].lower().endswith(("http", "https"))
        is_secret = ":" in user or (is_web and user != "")
    else:
        # A path may have an at sign as well.
        is_secret = at != "" and not (host.partition(":")[2] or "0").isdigit()
    return f"://{HIDDEN}@{after_userinfo}" if before and is_secret else match[0]


# Telegram: bot<number>:<35 characters>; its Bot API has them in the path.
_BOT_TOKEN = re.compile(r"bot[0-9]{5,20}(?::|%3[Aa])[\w-]{20,}|(?<![0-9])[0-9]{6,12}:[\w-]{35}(?![\w-])", re.ASCII)
_BEARER = re.compile(r"(?<![A-Za-z])Bearer[ \t]+[\w.~+/-]{8,}=*", re.IGNORECASE | re.ASCII)
_BASE64_LIKE = re.compile(rf"[A-Za-z0-9+/%]{{{_KEY_LENGTH_MIN},}}={{0,2}}")


def _redact_key(match: re.Match[str]) -> str:
    return HIDDEN if _looks_random(unquote(match[0])) else match[0]


def _looks_random(text: str) -> bool:
    """Tell whether so long a text can only be Base64: hexadecimal digests, long numbers and file paths are not."""
    character_kinds = [
        "A" if character.isupper() else "a" if character.islower() else "0" if character.isdigit() else "+"
        for character in text
    ]
    if not {"A", "a", "0"} <= set(character_kinds) or text.count("/") * 10 >= len(text):
        return False
    # In random text most characters differ in kind from the one before, in words and years most do not: one of 1000
    # keys is taken for a path.
    kinds_without_slash = [kind for kind, character in zip(character_kinds, text, strict=True) if character != "/"]
    return sum(before != after for before, after in pairwise(kinds_without_slash)) * 100 > len(text) * 40


def _redact_patterns(text: str) -> str:
    if "://" in text:
        text = _ADDRESS.sub(_redact_userinfo, text)
    lower = text.lower()
    if any(name in lower for name in _SECRET_NAME_PARTS):
        text = _redact_named_values(text)
    if "bearer" in lower:
        text = _BEARER.sub(f"Bearer {HIDDEN}", text)
    if len(text) >= _KEY_LENGTH_MIN:
        text = _BASE64_LIKE.sub(_redact_key, text)
    return _BOT_TOKEN.sub(HIDDEN, text) if ":" in text or "%3" in text else text


_redactor = Redactor()
hide = _redactor.hide
redact = _redactor.redact

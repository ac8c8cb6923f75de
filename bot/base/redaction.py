"""Redaction of secrets: known values, and text that looks like a secret.

Two filters, because each has gaps. The first finds a known value everywhere, also percent-encoded, escaped or in
Base64, but the value must have been registered. The second finds the form of a secret in text that nobody has
registered: a header in a library's error, an address in another server's response.

Each step reads a text once, from left to right, so the cost of a line grows with its length only.
"""

from __future__ import annotations

import base64
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


class Redactor:
    """The known values, and both filters."""

    def __init__(self) -> None:
        self._secrets: set[str] = set()
        self._encodings: list[str] = []
        self._base64_fragments: set[str] = set()

    def hide(self, *secrets: str) -> None:
        """Redact these values from now on. Of an address, redact the password and the token of a webhook.

        An address without either has no secret and stays visible. Empty values are ignored.
        """
        for secret in secrets:
            # Not `str()`: a Secret renders itself as "[hidden]" there.
            self._secrets.update(_secret_parts(str.__str__(secret)))
        self._secrets -= {"", HIDDEN}
        encodings = {encoding for secret in self._secrets for encoding in _encodings(secret)}
        # The longest first, because one encoding may be part of another.
        self._encodings = sorted(encodings, key=lambda text: (-len(text), text))
        self._base64_fragments = {fragment for secret in self._secrets for fragment in _base64_fragments(secret)}

    def redact(self, text: str) -> str:
        """Return the text without secrets."""
        for encoding in self._encodings:
            if encoding in text:
                text = re.sub(_pattern(encoding), HIDDEN, text)
        if self._has_known_base64(text):
            # The characters around a fragment hold the first and last bits of the secret.
            text = _BASE64_RUN.sub(lambda run: HIDDEN if self._has_known_base64(run[0]) else run[0], text)
        return _redact_patterns(text)

    def _has_known_base64(self, text: str) -> bool:
        return any(fragment in text for fragment in self._base64_fragments)


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
    return encodings


def _escapes(text: str) -> list[str]:
    encoded = text.encode("utf-8", "surrogatepass")
    percent = [quote(encoded), quote(encoded, safe=""), quote_plus(encoded)]
    lower = [re.sub("%..", lambda match: match[0].lower(), spelling) for spelling in percent]
    # A quote in the text itself may be escaped with a backslash or not.
    escaped = [repr(text)[1:-1], ascii(text)[1:-1], repr(encoded)[2:-1], json.dumps(text)[1:-1]]
    return [*percent, *lower, *escaped, json.dumps(text, ensure_ascii=False)[1:-1], text.replace("'", "\\'")]


def _pattern(encoding: str) -> str:
    if len(encoding) >= _LITERAL_LENGTH_MIN:
        return re.escape(encoding)
    return rf"(?:(?<![A-Za-z0-9])|(?<=%[0-9A-Fa-f][0-9A-Fa-f])){re.escape(encoding)}(?![A-Za-z0-9])"


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


_BASE64_RUN = re.compile(rf"[A-Za-z0-9+/_-]{{{_BASE64_FRAGMENT_LENGTH_MIN},}}={{0,2}}")

_QUOTE = r"""\\*+["']"""
_SCHEME = r"(?: basic | bearer | digest | token | bot ) [ \t]++"
_BARE = r"""[^\s,;&'"\\]"""
# A name like that of a secret, a separator, and the value, in every notation. Common words count as names only before
# `=`, or in quotes: "key: may trade" is prose. A setting may end in KEY and be 0 or 1. A fencing token is no secret.
_NAMED_VALUE = re.compile(
    rf"""
    (?P<name>
        (?: (?<![a-z]) | (?<=\\[nrt]) | (?<=%[0-9a-f][0-9a-f])
          | (?<=api) | (?<=auth) | (?<=access) | (?<=refresh) | (?<=client) )
        (?: (?P<line> cookie (?!{_QUOTE}) ) | cookie | authorization
          | x-(?:[a-z0-9]{{1,20}}-){{0,4}}(?:auth|apikey|key|sign|signature|secret|token)
          | api[-_ ]?(?:key|sign) | secret | (?<!fencing[-_ ])token | password | passwd | passphrase | otp
          | (?P<word> key | sign | signature | pwd | pass | auth ) )
        (?P<quoted> {_QUOTE} )?
        [ \t]*+ (?: = [=>]?+ | %3[AD] | (?(quoted) : | (?(word) (?!) | : ) ) | (?(quoted) (?P<pair>,) | (?!) ) ) [ \t]*+
    )
    (?: (?P<opening> (?P<bracket> [\[({{] )? [ \t]*+ [bu]? )
        # The closing quote has as many backslashes as the opening one. In brackets, all values of a list.
        (?: (?P<quote> {_QUOTE} ) (?(bracket) | (?!(?P=quote)) )
            (?: (?!(?P=quote)) (?: \\. | [^\\] ) )*+ (?P=quote)?+
            (?(bracket) (?: , [ \t]*+ [bu]? (?={_QUOTE}) )?+ )
        )++
      | (?(pair) (?!) ) (?! [bu]{_QUOTE} )
        (?(line) (?: [^\r\n\\] | \\(?![rn]) )++
          | (?= {_SCHEME} | (?(word) {_BARE}{{4}} | {_BARE} ) ) (?: {_SCHEME} )?+ {_BARE}*+ ) )
    """,
    re.VERBOSE | re.IGNORECASE | re.ASCII | re.DOTALL,
)

_ADDRESS = re.compile(r"""(?P<web>https?)?://(?P<rest>[^\s'"<>]*+)""", re.IGNORECASE)
# In a password that is not encoded, only what follows the last at sign is the host; but a path may have one as well.
_PASSWORD = re.compile(r"[^/?#:]*:(?!\d*(?:[/?#]|$)).*@")
# A user name alone may be a token in a web address.
_WEB_USER = re.compile("[^/?#]+@")


def _redact_userinfo(match: re.Match[str]) -> str:
    has_secret = _PASSWORD.match(match["rest"]) or (match["web"] and _WEB_USER.match(match["rest"]))
    return f"{match['web'] or ''}://{HIDDEN}@{match['rest'].rpartition('@')[2]}" if has_secret else match[0]


# Telegram: bot<number>:<35 characters>; its Bot API has them in the path.
_BOT_TOKEN = re.compile(r"bot[0-9]{5,20}(?::|%3[Aa])[\w-]{20,}|(?<![0-9])[0-9]{6,12}:[\w-]{35}(?![\w-])", re.ASCII)
_BEARER = re.compile(r"(?<![A-Za-z])Bearer[ \t]+[\w.~+/-]{8,}=*", re.IGNORECASE | re.ASCII)
# Kraken's public keys have 56 characters of Base64, private keys and signatures 88.
_KEY = re.compile("[A-Za-z0-9+/%]{56,}={0,2}")


def _redact_key(match: re.Match[str]) -> str:
    """Redact so long a text if it can only be Base64: hexadecimal digests, long numbers and file paths are not."""
    text = unquote(match[0])
    kinds = [
        "A" if one.isupper() else "a" if one.islower() else "0" if one.isdigit() else "+" for one in text if one != "/"
    ]
    is_path = text.count("/") * 10 >= len(text)
    # In random text most characters differ in kind from the one before, in words and years most do not: one of 1000
    # keys is taken for a path.
    is_random = sum(before != after for before, after in pairwise(kinds)) * 100 > len(text) * 40
    return HIDDEN if {"A", "a", "0"} <= set(kinds) and is_random and not is_path else match[0]


def _redact_patterns(text: str) -> str:
    text = _ADDRESS.sub(_redact_userinfo, text)
    text = _NAMED_VALUE.sub(rf"\g<name>\g<opening>\g<quote>{HIDDEN}\g<quote>", text)
    text = _BEARER.sub(f"Bearer {HIDDEN}", text)
    text = _KEY.sub(_redact_key, text)
    return _BOT_TOKEN.sub(HIDDEN, text)


_redactor = Redactor()
hide = _redactor.hide
redact = _redactor.redact

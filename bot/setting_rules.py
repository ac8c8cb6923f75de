"""What the values of settings have to look like; and a text that does not print itself."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import os
import re
import urllib.parse

# Where containers are given their secrets, readable for everybody in them: by Docker and Podman, and by Render.
_MOUNTED = ("/run/secrets/", "/etc/secrets/")


class Secret(str):
    """A text that does not print itself."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "Secret('[hidden]')" if self else "Secret('')"

    def __str__(self) -> str:
        return "[hidden]" if self else ""

    def __format__(self, format_spec: str) -> str:
        return format(str(self), format_spec)


def read_secret(path: str) -> tuple[Secret, str]:
    """Return what a file holds but for blanks around it, or "" and what is wrong with the file.

    Its group may read it: with an fsGroup Kubernetes makes a secret of defaultMode 0400 readable for the group.
    """
    try:
        with open(path, encoding="ascii") as stream:
            if not os.fstat(stream.fileno()).st_mode & 0o007 or os.path.realpath(path).startswith(_MOUNTED):
                return Secret(stream.read().strip()), ""
    except (OSError, ValueError) as error:
        # The path is not shown: it may be the secret itself, put in the wrong line.
        return Secret(""), f"a file that cannot be read ({error.__class__.__name__})."
    return Secret(""), f"{path}, which every user of this machine can read: chmod o= {path}"


def credential_problems(key: str, secret: str) -> list[str]:
    """Return what is wrong with the form of a key and secret, without printing either."""
    problems = []
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        problems.append("KRAKEN_API_KEY is empty or has characters that no key has; copy it again.")
    try:
        usable = len(base64.b64decode(secret, validate=True)) > 0
    except (binascii.Error, ValueError):
        usable = False
    if not usable:
        problems.append("KRAKEN_API_SECRET is empty or not Base64, as Kraken's private keys are; copy it again.")
    return problems


def url_problems(name: str, url: str) -> list[str]:
    """Return what is wrong with an API address: https only, or http on loopback."""
    if "@" in url:
        return [f"{name} has a user name or password in it; it must look like https://api.kraken.com."]
    try:
        parts = urllib.parse.urlsplit(url)
        plain = parts.path in ("", "/") and not (parts.query or parts.fragment) and parts.port != 0
    except ValueError:
        return [f"{name} is {url!r}, which is not an address."]
    if parts.scheme not in ("http", "https") or not is_host(parts.hostname) or not plain:
        return [f"{name} is {url!r}; it must look like https://api.kraken.com."]
    if parts.scheme == "http" and not is_loopback(url):
        return [f"{name} is {url!r}; without https only this machine itself (127.0.0.1) may be named."]
    return []


def is_host(host: str | None) -> bool:
    """Whether a text has the characters of a host's name or address."""
    return re.fullmatch(r"[A-Za-z0-9._:-]+", host or "") is not None


def is_loopback(url: str) -> bool:
    """Whether an address names this machine itself."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False

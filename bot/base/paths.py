"""The paths of a key's files: beside the nonce file, named by a hash that does not reveal the key."""

from __future__ import annotations

import hashlib
import os


def key_hash(api_key: str, digits: int = 8) -> str:
    """Return hexadecimal digits that identify a key in the names of files and in the records of a shared store."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:digits]


def key_file_path(nonce_file: str | os.PathLike[str], api_key: str, suffix: str) -> str:
    """Return the path of a key's own file, such as `kraken_nonce.0a1b2c3d.lock`."""
    folder = os.path.dirname(os.path.abspath(nonce_file))
    return os.path.join(folder, f"kraken_nonce.{key_hash(api_key)}.{suffix}")


def journal_file_path(nonce_file: str | os.PathLike[str], api_key: str) -> str:
    """Return the path of a key's journal, such as `journal.0a1b2c3d.sqlite`, beside the nonce file."""
    folder = os.path.dirname(os.path.abspath(nonce_file))
    return os.path.join(folder, f"journal.{key_hash(api_key)}.sqlite")

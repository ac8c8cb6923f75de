"""Files and folders of the state: private to their owner, whatever the umask, and never a link to another file.

A symbolic link instead of a state file is refused and left alone: its target may belong to another user.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

_MODE = 0o600


def make_folder(path: str) -> None:
    """Create a folder and its missing parents."""
    if os.path.isdir(path):
        return
    if (parent := os.path.dirname(path)) != path:
        make_folder(parent)
    # Any other file of this name causes an error when a file in the folder is opened.
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def open_file(path: str, flags: int) -> int:
    """Return a descriptor. Raises OSError; never blocks, whatever lies there in place of a file.

    With O_CREAT it also removes the access of others to an existing file: everybody who can open a lock file can hold
    the lock.
    """
    try:
        descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, _MODE)
    except OSError:
        refuse_link(path)
        raise
    if flags & os.O_CREAT and _is_too_open(os.fstat(descriptor)):
        with contextlib.suppress(OSError):
            os.fchmod(descriptor, _MODE)
    return descriptor


def prepare_file(path: str) -> None:
    """Prepare a file for a library that opens it by its path.

    A link that is placed there between the check and the opening would be followed: only a user who may write there can
    do that.
    """
    # Where the file cannot be created or changed, the library reports why. An existing file is not opened: closing it
    # again would end the locks that SQLite holds on it in this process (SQLite, "How To Corrupt", 2.2).
    with contextlib.suppress(OSError):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
        except FileExistsError:
            status = os.lstat(path)
            if _is_too_open(status):
                # A read-only file stays read-only.
                os.chmod(path, stat.S_IMODE(status.st_mode) & 0o700)


def _is_too_open(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o077) and status.st_uid == os.geteuid()


def refuse_link(path: str) -> None:
    """Raise OSError where the path names a symbolic link."""
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "it is a symbolic link")

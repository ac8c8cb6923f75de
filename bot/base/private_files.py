"""Files and folders of the state: for their owner alone, whatever the umask says, and never a link to another file.

A link in the place of a state file is refused and left alone: what it leads to is somebody else's.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

_MODE = 0o600


def make_folder(path: str) -> None:
    """Make a folder, and those above it that are missing."""
    if os.path.isdir(path):
        return
    if (parent := os.path.dirname(path)) != path:
        make_folder(parent)
    # Whatever else has this name is met where a file in it is opened.
    with contextlib.suppress(FileExistsError):
        os.mkdir(path, 0o700)


def open_file(path: str, flags: int) -> int:
    """Return a descriptor. Raises OSError; it never waits, whatever lies there in place of a file.

    One that may make the file also closes it to others where it was there already: who can open a lock can hold it.
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
    """Make a file ready for a library that opens it by its path.

    A link that is put there between a look and the opening would be followed: only who may write there can do that.
    """
    # Where it cannot be made or changed, the library says why. Not opened where it is there already: to close it again
    # would end the locks that SQLite holds on it in this process (SQLite, "How To Corrupt", 2.2).
    with contextlib.suppress(OSError):
        try:
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
        except FileExistsError:
            status = os.lstat(path)
            if _is_too_open(status):
                # One that was made read-only stays so.
                os.chmod(path, stat.S_IMODE(status.st_mode) & 0o700)


def _is_too_open(status: os.stat_result) -> bool:
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o077) and status.st_uid == os.geteuid()


def refuse_link(path: str) -> None:
    """Raise OSError where the path names a symbolic link."""
    if os.path.islink(path):
        raise OSError(errno.ELOOP, "it is a symbolic link")

"""One running bot per state folder: locking it, publishing its instance file, and detecting a lost folder."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from bot.app.instance_lock import InstanceLock, describe_owner, is_running, read_instance_file
from bot.base.errors import BotAlreadyRunningError, SettingsError, StateLostError


def test_folder_that_cannot_be_locked_is_unchanged(tmp_path: Path) -> None:
    """If the instance file cannot be written, nothing of it remains in the folder."""
    (tmp_path / "bot.json").mkdir()
    with pytest.raises(SettingsError, match="nothing can be written"):
        InstanceLock(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["bot.json"]


@pytest.mark.parametrize("error_number", [errno.ENOSPC, errno.EROFS])
def test_full_disk_is_accepted_where_a_journal_exists(
    error_number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, a folder without a journal is refused and one with a journal is locked."""

    def raise_os_error(*_: object, **_where: object) -> None:
        raise OSError(error_number, os.strerror(error_number))

    monkeypatch.setattr(os, "replace", raise_os_error)
    with pytest.raises(SettingsError, match="nothing can be written"):
        InstanceLock(tmp_path)
    (tmp_path / "journal.0a1b2c3d.sqlite").touch()
    lock = InstanceLock(tmp_path)
    assert is_running(tmp_path)
    lock.release()


def test_refused_instance_can_retry(tmp_path: Path) -> None:
    """The second instance is refused with the process and host of the first, and may lock the folder once that has
    ended."""
    first = InstanceLock(tmp_path)
    for _attempt in range(2):
        with pytest.raises(BotAlreadyRunningError, match=f"process {os.getpid()} on {socket.gethostname()}"):
            InstanceLock(tmp_path)
    first.release()
    InstanceLock(tmp_path).release()


def test_refused_lock_leaks_no_descriptor(tmp_path: Path) -> None:
    """Repeated refusals do not open more files."""
    lock = InstanceLock(tmp_path)

    def count_descriptors_after_refusal() -> int:
        with pytest.raises(BotAlreadyRunningError):
            InstanceLock(tmp_path)
        return len(os.listdir("/dev/fd"))

    assert count_descriptors_after_refusal() == count_descriptors_after_refusal()
    lock.release()


def test_instance_file_has_the_last_published_fields(tmp_path: Path) -> None:
    """The instance file has pid, host and the last published fields, is readable by its owner only, and is removed at
    the end."""
    lock = InstanceLock(tmp_path)
    own_fields = {"pid": os.getpid(), "host": socket.gethostname()}
    assert read_instance_file(tmp_path) == own_fields
    lock.publish(status_url="http://127.0.0.1:8080", role="alone")
    lock.publish(status_url="http://127.0.0.1:8081")
    assert read_instance_file(tmp_path) == {**own_fields, "status_url": "http://127.0.0.1:8081"}
    assert [(path.name, stat.S_IMODE(path.stat().st_mode)) for path in tmp_path.iterdir()] == [("bot.json", 0o600)]
    lock.release()
    assert list(tmp_path.iterdir()) == []
    assert read_instance_file(tmp_path) == {}


@pytest.mark.parametrize(
    "text", ["", "[]", "nonsense", '{"pid": 1e999, "host": 1}', '{"pid": {}}', "[" * 60_000, "\xff"]
)
def test_damaged_instance_file_is_ignored(text: str, tmp_path: Path) -> None:
    """Whatever the instance file contains, the message names the owner without the unreadable parts."""
    (tmp_path / "bot.json").write_text(text, encoding="latin-1")
    assert describe_owner(tmp_path) == "Another bot"


def test_unwritable_instance_file_is_logged_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a full disk the instance file stays unchanged, which is logged."""
    lock = InstanceLock(tmp_path)

    def raise_os_error(*_: object, **_where: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", raise_os_error)
        lock.publish(status_url="http://127.0.0.1:8080")
    assert "bot.json could not be written" in caplog.text
    assert set(read_instance_file(tmp_path)) == {"pid", "host"}
    lock.release()


def _move_away(folder: Path) -> None:
    folder.rename(folder.with_name("away"))


def _replace(folder: Path) -> None:
    _move_away(folder)
    folder.mkdir()


def _copy(folder: Path) -> None:
    _move_away(folder)
    shutil.copytree(folder.with_name("away"), folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder)


def _put_file_instead(folder: Path) -> None:
    _move_away(folder)
    folder.touch()


@pytest.mark.parametrize("lose", [_move_away, _replace, _copy, _remove, _put_file_instead])
def test_lost_folder_is_detected(lose: Callable[[Path], None], tmp_path: Path) -> None:
    """If the path no longer names the locked folder, the check reports it."""
    folder = tmp_path / "state"
    lock = InstanceLock(folder)
    lock.check()
    lose(folder)
    with pytest.raises(StateLostError, match="moved, replaced or removed"):
        lock.check()
    lock.release()


def test_restored_folder_is_not_lost(tmp_path: Path) -> None:
    """The same folder under the same path passes the check, also through a symlink."""
    folder = tmp_path / "state"
    lock = InstanceLock(folder)
    folder.rename(tmp_path / "away")
    folder.symlink_to("away")
    lock.check()
    folder.unlink()
    (tmp_path / "away").rename(folder)
    lock.check()
    lock.release()


def test_instance_with_lost_folder_does_not_touch_the_new_one(tmp_path: Path) -> None:
    """Updates and removal of the instance file apply to the locked folder, wherever it is, and not to another bot's."""
    folder = tmp_path / "state"
    first = InstanceLock(folder)
    folder.rename(tmp_path / "away")
    second = InstanceLock(folder)
    second.publish(status_url="second")
    first.publish(status_url="first")
    assert read_instance_file(folder)["status_url"] == "second"
    assert read_instance_file(tmp_path / "away")["status_url"] == "first"
    first.release()
    assert read_instance_file(folder)["status_url"] == "second"
    second.release()


@pytest.mark.parametrize("mode", [0o700, 0o755, 0o775, 0o2775])
def test_group_writable_folder_is_accepted(mode: int, tmp_path: Path) -> None:
    """A folder that the owner's group can write is accepted, because Kubernetes volumes are."""
    tmp_path.chmod(mode)
    InstanceLock(tmp_path).release()


@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o702])
def test_world_writable_folder_is_refused(mode: int, tmp_path: Path) -> None:
    """A folder that every user can write is refused, sticky or not, and is not locked."""
    tmp_path.chmod(mode)
    with pytest.raises(SettingsError, match="chmod o-w"):
        InstanceLock(tmp_path)
    assert not is_running(tmp_path)
    tmp_path.chmod(0o700)
    InstanceLock(tmp_path).release()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    """A folder of a user other than the bot's own or root is refused."""
    os.chown(tmp_path, 12345, -1)
    with pytest.raises(SettingsError, match=r"another user \(number 12345\)"):
        InstanceLock(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_owned_group_writable_folder_is_accepted(tmp_path: Path) -> None:
    """A folder of root that the bot's group can write, as Kubernetes creates for an fsGroup, is accepted."""
    folder = tmp_path / "volume"
    folder.mkdir()
    os.chown(folder, 0, 12346)
    folder.chmod(0o2775)
    child = os.fork()
    if child == 0:
        try:
            # Through the working directory, because that user cannot access the folders above it.
            os.chdir(folder)
            os.setgid(12346)
            os.setuid(12345)
            InstanceLock(Path()).release()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0

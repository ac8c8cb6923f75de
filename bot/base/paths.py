"""Where the state is: the folders, and the files of a key, named by a hash that does not reveal the key.

Without a setting the nonce files are in `bot/`, and all other state is in `state/` beside it, so that a command which
removes state cannot remove code.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
import shlex
from pathlib import Path

from bot.base.errors import SettingsError

PROJECT_ROOT = Path(__file__).resolve().parent.parent.parent

# What former versions kept in bot/ beside the nonce files.
_FORMER_STATE = ("halt", "entries_stopped", "journal.*.sqlite*", "paper_*.db*")
# Where Python installs packages: a reinstallation removes what is there.
_PACKAGE_FOLDERS = ("site-packages", "dist-packages")


def code_folder() -> Path:
    """Return `bot/`: the folder of the program's code, and of the nonce files unless a setting names another."""
    return PROJECT_ROOT / "bot"


def default_state_folder() -> Path:
    """Return `state/` beside main.py: the folder of all other state unless a setting names another."""
    return PROJECT_ROOT / "state"


def state_folder_for(nonce_folder: str | os.PathLike[str]) -> Path:
    """Return the folder of all state but the nonce files: their own, and `state/` where they are in `bot/`.

    Raises SettingsError as `refuse_package_folder` does.
    """
    refuse_package_folder(nonce_folder)
    return default_state_folder() if _is_code_folder(nonce_folder) else Path(nonce_folder)


def refuse_package_folder(nonce_folder: str | os.PathLike[str]) -> None:
    """Raise SettingsError where nonce files would be in `bot/` and this copy of the program is an installed package."""
    if PROJECT_ROOT.name in _PACKAGE_FOLDERS and _is_code_folder(nonce_folder):
        problem = (
            f"STATE_DIR is not set, and this copy of the program is installed in {PROJECT_ROOT}, where other "
            "programs have other copies, and a new version replaces it. Set STATE_DIR to the bot's state folder."
        )
        raise SettingsError([problem])


def _is_code_folder(folder: str | os.PathLike[str]) -> bool:
    return os.path.realpath(folder) == os.path.realpath(code_folder())


def control_file_exists(state_folder: Path, name: str) -> bool:
    """Tell whether a control file such as `halt` is in the state folder, or in `bot/`, where former versions had it."""
    return any((folder / name).exists() for folder in (state_folder, *former_folders(state_folder)))


def former_folders(state_folder: Path) -> list[Path]:
    """Return where former versions kept what is now in this state folder: `bot/`, or nowhere else."""
    return [code_folder()] if state_folder == default_state_folder() else []


def refuse_former_state(state_folder: Path) -> None:
    """Raise SettingsError where state is still in `bot/`, with the commands that move it."""
    for folder in former_folders(state_folder):
        _refuse_files(folder, state_folder, _FORMER_STATE)


def _refuse_files(former: Path, state_folder: Path, patterns: tuple[str, ...]) -> None:
    names = sorted(name for pattern in patterns for name in glob.glob(pattern, root_dir=former))
    if not names:
        return
    # The file in the state folder is the newer one, and SQLite must not find an older log beside it.
    duplicates = [name for name in names if os.path.lexists(state_folder / re.sub("-(wal|shm)$", "", name))]
    moves = [
        (state_folder, [name for name in names if name not in duplicates]),
        (state_folder / "former", duplicates),
    ]
    commands = [
        f"mkdir -p -m 700 {shlex.quote(str(target))} && mv "
        + " ".join(shlex.quote(str(path)) for path in [*(former / name for name in moved), target])
        for target, moved in moves
        if moved
    ]
    raise SettingsError(
        [
            f"State of a former version is in {former}: {', '.join(names)}. It belongs in {state_folder}. Stop a bot "
            "that still runs on it, then type:\n" + "\n".join(commands)
        ]
    )


def key_hash(api_key: str, digits: int = 8) -> str:
    """Return hexadecimal digits that identify a key in the names of files and in the records of a shared store."""
    return hashlib.sha256(api_key.encode()).hexdigest()[:digits]


def key_file_path(nonce_file: str | os.PathLike[str], api_key: str, suffix: str) -> str:
    """Return the path of a key's own file beside the nonce file, such as `kraken_nonce.0a1b2c3d.lock`."""
    folder = os.path.dirname(os.path.abspath(nonce_file))
    return os.path.join(folder, f"kraken_nonce.{key_hash(api_key)}.{suffix}")


def journal_file_path(nonce_file: str | os.PathLike[str], api_key: str) -> str:
    """Return the path of a key's journal, such as `journal.0a1b2c3d.sqlite`, in the state folder of a nonce file.

    Raises SettingsError where the journal is still in `bot/`, and as `state_folder_for` does.
    """
    folder = state_folder_for(os.path.dirname(os.path.abspath(nonce_file)))
    name = f"journal.{key_hash(api_key)}.sqlite"
    for former in former_folders(folder):
        _refuse_files(former, folder, (f"{name}*",))
    return str(folder / name)

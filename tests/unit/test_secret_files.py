"""Secrets from files: which files are read, and which are refused."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from bot import config
from bot.base.errors import SettingsError

KEY = "an/api+key=="
SECRET = base64.b64encode(b"the secret of a key").decode()
LIVE = {"TRADING_MODE": "live", "KRAKEN_API_KEY": KEY, "KRAKEN_API_SECRET": SECRET}


def problems_of(values: dict[str, str]) -> list[str]:
    """Return the problems of these settings."""
    with pytest.raises(SettingsError) as caught:
        config.load_settings(values)
    return caught.value.problems


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o440])
def test_a_secret_can_come_from_a_file(mode: int, tmp_path: Path) -> None:
    """KRAKEN_API_KEY_FILE and KRAKEN_API_SECRET_FILE name files, whose final line break is ignored."""
    for name, text in (("key", KEY), ("secret", SECRET)):
        (tmp_path / name).write_text(f"{text}\n")
        (tmp_path / name).chmod(mode)
    files = {"KRAKEN_API_KEY_FILE": str(tmp_path / "key"), "KRAKEN_API_SECRET_FILE": str(tmp_path / "secret")}
    settings = config.load_settings({"TRADING_MODE": "live", **files})
    assert (settings.api_key == KEY, settings.api_secret == SECRET) == (True, True)


@pytest.mark.parametrize("mode", [0o644, 0o444, 0o602])
@pytest.mark.parametrize("name", ["KRAKEN_API_KEY", "KRAKEN_API_SECRET", "STATUS_TOKEN"])
def test_world_readable_secret_file_is_refused(name: str, mode: int, tmp_path: Path) -> None:
    """A secret file that every user can read is a problem that names the command to restrict it."""
    path = tmp_path / "secret"
    path.write_text(SECRET)
    path.chmod(mode)
    assert f"{name}_FILE names {path}, which every user of this machine can read: chmod o= {path}" in problems_of(
        {f"{name}_FILE": str(path)}
    )


def test_mounted_container_secret_may_be_world_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files below the secret mounts of containers are accepted though every user can read them, also through symlinks
    as Kubernetes creates them; a symlink to a file outside is not."""
    mounted = tmp_path / "run" / "secrets"
    (mounted / "..data").mkdir(parents=True)
    (mounted / "..data" / "token").write_text(SECRET)
    (mounted / "..data" / "token").chmod(0o444)
    (mounted / "token").symlink_to("..data/token")
    monkeypatch.setattr(config, "_SECRET_MOUNTS", (f"{mounted}/",))
    assert config.load_settings({"STATUS_TOKEN_FILE": str(mounted / "token")}).status_token == SECRET
    (tmp_path / "elsewhere").write_text(SECRET)
    (mounted / "link").symlink_to(tmp_path / "elsewhere")
    assert "chmod" in problems_of({"STATUS_TOKEN_FILE": str(mounted / "link")})[0]


def test_secret_given_twice_is_reported() -> None:
    """A secret given directly and as a file is a problem."""
    assert "both set" in problems_of({**LIVE, "KRAKEN_API_KEY_FILE": "/some/file"})[0]


def test_secret_given_as_file_name_is_not_printed() -> None:
    """If KRAKEN_API_SECRET_FILE contains the secret itself, the problem names the setting and not the secret."""
    values = {"TRADING_MODE": "live", "KRAKEN_API_KEY": KEY, "KRAKEN_API_SECRET_FILE": SECRET}
    report = "\n".join(problems_of(values))
    assert "KRAKEN_API_SECRET_FILE" in report
    assert SECRET not in report

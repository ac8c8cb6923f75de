"""Settings of the dashboard and of the alerts: valid values, and the messages for invalid ones."""

from __future__ import annotations

import pytest

from bot.base.errors import SettingsError
from bot.config import Secret, load_settings


def problem_of(**values: str) -> str:
    """Return the only problem of these settings."""
    with pytest.raises(SettingsError) as caught:
        load_settings(values)
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(("values", "port"), [({}, None), ({"PORT": "0"}, 0), ({"PORT": "10000"}, 10_000)])
def test_unset_port_differs_from_port_zero(values: dict[str, str], port: int | None) -> None:
    """PORT is a number, 0 for no dashboard, or None if it is unset."""
    assert load_settings(values).port == port


@pytest.mark.parametrize("port", ["-1", "65536", "http", "80.5", "080808"])
def test_invalid_port_is_refused(port: str) -> None:
    """An invalid port is refused with the valid range."""
    assert problem_of(PORT=port) == f"PORT is {port!r}; it must be a number from 1 to 65535, or 0 for no page."


@pytest.mark.parametrize("token", ["short", "fifteen-letters", "a token with spaces", "t\u00f6ken-of-many-letters"])
def test_weak_token_is_refused_without_printing_it(token: str) -> None:
    """A token that is too short, or that a header cannot carry, is refused and not printed."""
    problem = problem_of(STATUS_TOKEN=token)
    assert problem.startswith("STATUS_TOKEN must have at least 16 letters")
    assert token not in problem


@pytest.mark.parametrize("name", ["ALERT_WEBHOOK_URL", "HEARTBEAT_URL"])
@pytest.mark.parametrize("url", ["http://hooks.example/T0KEN", "ftp://hooks.example/T0KEN", "T0KEN", "https:///T0KEN"])
def test_insecure_url_is_refused_without_printing_it(name: str, url: str) -> None:
    """A URL without https or without a host is refused and not printed."""
    problem = problem_of(**{name: url})
    assert problem == f"{name} must be an address that begins with https://."


def test_telegram_url_requires_chat_id() -> None:
    """A Telegram URL without a chat id is refused at the start, because Telegram would refuse every alert."""
    address = "https://api.telegram.org/bot1:T0KEN/sendMessage"
    assert "chat_id" in problem_of(ALERT_WEBHOOK_URL=address)
    assert load_settings({"ALERT_WEBHOOK_URL": f"{address}?chat_id=7"}).alert_webhook_url


def test_secrets_lists_every_secret_setting() -> None:
    """The values of all secret settings are passed to the redaction."""
    values = {"STATUS_TOKEN": "a-token-of-the-page", "HEARTBEAT_URL": "https://beat.example/T0KEN"}
    settings = load_settings({**values, "KRAKEN_API_KEY": "c29tZWtleQ=="})
    assert sorted(settings.secrets()) == sorted([*values.values(), "c29tZWtleQ=="])
    assert all(type(value) is str for value in settings.secrets())
    assert isinstance(settings.status_token, Secret)

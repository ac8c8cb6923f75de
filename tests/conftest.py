"""Common ground of all tests: no settings of the person who runs them, no network except loopback, fixed seeds."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

if TYPE_CHECKING:
    from tests.event_log import EventLog

# By name: child processes import this file too, and need no servers.
pytest_plugins = ["tests.server_fixtures"]

ROOT = Path(__file__).resolve().parents[1]

OUR_VARIABLES = tuple(
    "ALERT_ ALLOW_ BOT_ID CANCEL_ COOLDOWN_ DEAD_MAN_ ENTRY_ HEARTBEAT_ KRAKEN_ LEASE_ LOG_ LOSS_ MARKET_ MAX_ NONCE_"
    " ORDER_ PAIRS PORT PRICES PRICE_SOURCE RAILWAY_ RENDER SINGLE_ SKIP_ STATE_DIR STATUS_TOKEN STOP_ STRATEGY"
    " TIMEFRAME TRADING_MODE".split()
)

# Before any module of the bot is imported: some settings are read on import.
for _name in [name for name in os.environ if name.startswith(OUR_VARIABLES)]:
    del os.environ[_name]
# The environment overrides a .env beside main.py: whatever it contains, no program that a test starts trades for real.
os.environ["TRADING_MODE"] = "paper"
# No page, and text output, in every program that a test starts without other settings.
os.environ |= {"PORT": "0", "LOG_FORMAT": "text"}

# The same examples on every run, so that a failure can be reproduced by running again.
hypothesis.settings.register_profile("short", derandomize=True, deadline=None, print_blob=True)
hypothesis.settings.register_profile("full", derandomize=True, deadline=None, print_blob=True, max_examples=2000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--full`."""
    parser.addoption("--full", action="store_true", help="run what has two sizes at its full size (make soak)")


def pytest_configure(config: pytest.Config) -> None:
    """Choose the number of Hypothesis examples."""
    hypothesis.settings.load_profile("full" if config.getoption("--full") else "short")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Count a test that has two sizes among the soak tests when the full size is requested."""
    for item in items:
        if config.getoption("--full") and "full_size" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.soak)


@pytest.fixture(scope="session")
def full_size(pytestconfig: pytest.Config) -> bool:
    """Whether to run at full size; a test with this fixture runs in both `make test` and `make soak`."""
    return bool(pytestconfig.getoption("--full"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference material beside the repository; where there is none, skip."""
    folder = ROOT.parent / "shared"
    if not (folder / "kraken-facts.md").is_file():
        pytest.skip("no folder of reference material beside this repository")
    return folder


@pytest.fixture
def nonce_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let `bot.broker_manager.NONCE_FILE` name a new file of this test's own."""
    import bot.broker_manager  # not at the top: tests of the packages below it run without it

    path = tmp_path / "kraken_nonce.txt"
    kind = type(bot.broker_manager.NONCE_FILE)
    monkeypatch.setattr(bot.broker_manager, "NONCE_FILE", kind(path))
    return path


@pytest.fixture(scope="session", autouse=True)
def strict_events() -> Iterator[None]:
    """Let an event that lacks a field, or has one that nobody has documented, be an error here."""
    from bot.base import events  # not at the top: child processes import this file, and begin with modules of their own

    def fail(mistake: str) -> None:
        raise AssertionError(mistake)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "_report_mistake", fail)
        yield


@pytest.fixture
def event_log() -> Iterator[EventLog]:
    """Return the events that are emitted from now on."""
    from tests.event_log import capture_events  # not at the top, as above

    with capture_events() as log:
        yield log


class OutsideError(AssertionError):
    """A test tried to reach something beyond this machine."""


def is_loopback(host: object) -> bool:
    """Tell whether `host`, a name or an address in a socket's notation, is this machine."""
    if host is None:
        return True
    name = host.decode() if isinstance(host, bytes) else str(host)
    if name in {"", "localhost"}:
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _refuse_outside(host: object) -> None:
    if not is_loopback(host):
        raise OutsideError(f"tests talk to loopback only, and this one tried {host!r}")


@pytest.fixture(scope="session", autouse=True)
def loopback_only() -> Iterator[None]:
    """Refuse, in this process, every connection and look-up that leads off this machine."""
    connect, connect_ex, getaddrinfo = socket.socket.connect, socket.socket.connect_ex, socket.getaddrinfo

    def guarded_connect(self: socket.socket, address: Any) -> None:
        _check_address(self, address)
        connect(self, address)

    def guarded_connect_ex(self: socket.socket, address: Any) -> int:
        _check_address(self, address)
        return connect_ex(self, address)

    def guarded_getaddrinfo(host: Any, *args: Any, **kwargs: Any) -> Any:
        _refuse_outside(host)
        return getaddrinfo(host, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded_connect)
        patch.setattr(socket.socket, "connect_ex", guarded_connect_ex)
        patch.setattr(socket, "getaddrinfo", guarded_getaddrinfo)
        yield


def _check_address(sock: socket.socket, address: Any) -> None:
    if sock.family in {socket.AF_INET, socket.AF_INET6}:
        _refuse_outside(address[0])

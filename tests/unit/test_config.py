"""Settings: all problems at once and by name, the right `.env`, and secrets that are never printed."""

from __future__ import annotations

import base64
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from bot import config
from bot.base import paths
from bot.base.errors import SettingsError
from bot.base.redaction import Redactor
from bot.kraken.rate_counters import STARTER
from bot.nonce.open_store import open_nonce_store

KEY = "an/api+key=="
SECRET = base64.b64encode(b"the secret of a key").decode()
LIVE = {"TRADING_MODE": "live", "KRAKEN_API_KEY": KEY, "KRAKEN_API_SECRET": SECRET}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of this test the one that contains main.py."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setattr(paths, "PROJECT_ROOT", folder)
    for name in (*config.DEFAULTS, "RAILWAY_VOLUME_MOUNT_PATH"):
        monkeypatch.delenv(name, raising=False)
    return folder


def problems_of(values: dict[str, str]) -> list[str]:
    """Return the problems of these settings."""
    with pytest.raises(SettingsError) as caught:
        config.load_settings(values)
    return caught.value.problems


def test_defaults_are_paper_trading() -> None:
    """Without any setting the mode is paper, BTC/USD, at most 250 an order, on the starter tier."""
    settings = config.load_settings({})
    assert (settings.trading_mode, settings.pairs, settings.tier) == ("paper", ("BTC/USD",), STARTER)
    assert (settings.order_value, settings.max_order_value) == (Decimal(100), Decimal(250))
    assert (settings.allow_withdraw_key, settings.cancel_entries_on_stop) == (False, True)


INVALID_VALUES = {
    "TRADING_MODE": "real",
    "KRAKEN_API_URL": "http://api.kraken.com",
    "KRAKEN_PROXY": "no address",
    "KRAKEN_TIER": "gold",
    "NONCE_UNIT": "ms",
    "NONCE_STORE": "sqlite:///nonces",
    "LEASE_SECONDS": "2.9",
    "SKIP_OVERLAP_WAIT": "maybe",
    "PRICE_SOURCE": "replay:/no/such/file.csv",
    "MARKET_SPEED": "fast",
    "PAIRS": ",",
    "TIMEFRAME": "7m",
    "ORDER_VALUE": "1e3",
    "MAX_ORDER_VALUE": "-1",
    "MAX_POSITION_VALUE": "NaN",
    "MAX_DAILY_LOSS": "0",
    "COOLDOWN_SECONDS": "-5",
    "MAX_SLIPPAGE_PERCENT": "50",
    "STOP_LOSS_PERCENT": "100",
    "ENTRY_TTL_SECONDS": "1 hour",
    "CANCEL_ENTRIES_ON_STOP": "maybe",
    "DEAD_MAN_SWITCH_SECONDS": "29",
    "ALLOW_WITHDRAW_KEY": "2",
    "BOT_ID": "toolong",
}


@pytest.mark.parametrize("name", INVALID_VALUES)
def test_invalid_value_is_reported_by_setting_name(name: str) -> None:
    """An invalid value gives a problem that begins with the name of the setting."""
    assert any(problem.startswith(name) for problem in problems_of({name: INVALID_VALUES[name]}))


def test_all_problems_are_reported_together() -> None:
    """If every setting is invalid, one SettingsError names each of them."""
    report = "\n".join(problems_of(INVALID_VALUES))
    assert [name for name in INVALID_VALUES if name not in report] == []


@pytest.mark.parametrize(
    ("text", "allowed"), [("0", True), ("29", False), ("30", True), ("86400", True), ("86401", False)]
)
def test_dead_man_switch_is_off_or_within_kraken_limits(text: str, allowed: bool) -> None:
    """DEAD_MAN_SWITCH_SECONDS is 0, or from 30 to 86400."""
    if allowed:
        assert config.load_settings({"DEAD_MAN_SWITCH_SECONDS": text}).dead_man_switch_seconds == int(text)
    else:
        assert "must be from 30 to 86400" in problems_of({"DEAD_MAN_SWITCH_SECONDS": text})[0]


def test_unknown_strategy_is_reported() -> None:
    """A strategy that does not exist is a problem that lists the available ones."""
    with pytest.raises(SettingsError, match="STRATEGY is 'luck'; it can be moving_average"):
        config.load_settings({"STRATEGY": "luck"}, ["moving_average"])


def test_stop_loss_with_dead_man_switch_is_reported() -> None:
    """STOP_LOSS_PERCENT together with DEAD_MAN_SWITCH_SECONDS is one problem that names both; each alone is valid."""
    both = {"STOP_LOSS_PERCENT": "5", "DEAD_MAN_SWITCH_SECONDS": "60"}
    (problem,) = problems_of(both)
    assert all(name in problem for name in both)
    for name, value in both.items():
        config.load_settings({name: value})


def test_order_value_above_maximum_is_reported() -> None:
    """ORDER_VALUE above MAX_ORDER_VALUE is a problem."""
    assert "above MAX_ORDER_VALUE" in problems_of({"ORDER_VALUE": "300"})[0]


@pytest.mark.parametrize("quote", ["USD", "EUR", "JPY", "USDT", "USDC"])
def test_default_sizes_hold_for_money(quote: str) -> None:
    """No size has to be set where the quote currency is fiat money or a stablecoin."""
    config.load_settings({}).check_sizes(quote)


@pytest.mark.parametrize("quote", ["BTC", "ETH", "SOL"])
def test_default_sizes_do_not_hold_elsewhere(quote: str) -> None:
    """For another quote currency exactly the sizes that are not set are named; with all four set, there is none."""
    sizes = dict.fromkeys(("MAX_ORDER_VALUE", "MAX_POSITION_VALUE", "MAX_DAILY_LOSS"), "200")
    sizes["ORDER_VALUE"] = "0.000001"
    for name in sizes:
        values = {other: value for other, value in sizes.items() if other != name}
        with pytest.raises(SettingsError, match=rf"priced in {quote}.* set {name}\.$"):
            config.load_settings(values).check_sizes(quote)
    config.load_settings(sizes).check_sizes(quote)


@pytest.mark.parametrize("mode", ["live", "halt"])
@pytest.mark.parametrize("missing", ["KRAKEN_API_KEY", "KRAKEN_API_SECRET"])
def test_live_mode_requires_key_and_secret(mode: str, missing: str) -> None:
    """live and halt without the key or the secret report which one is missing."""
    values = {name: value for name, value in {**LIVE, "TRADING_MODE": mode}.items() if name != missing}
    (problem,) = problems_of(values)
    assert f"needs {missing}. Put them into .env" in problem
    assert Redactor().redact(problem) == problem


def test_live_mode_accepts_key_and_secret() -> None:
    """live with key and secret returns both unchanged."""
    settings = config.load_settings(LIVE)
    assert settings.api_key == KEY
    assert settings.api_secret == SECRET


def test_invalid_base64_secret_is_reported_without_printing_it() -> None:
    """An invalid secret is a problem, and the problem does not contain the secret."""
    report = "\n".join(problems_of({**LIVE, "KRAKEN_API_SECRET": "hunter2!"}))
    assert "KRAKEN_API_SECRET" in report
    assert "hunter2" not in report


def test_secrets_do_not_print() -> None:
    """Neither the settings nor a secret in a formatted string shows the key or the secret."""
    settings = config.load_settings(LIVE)
    text = f"{settings} {settings!r} {settings.api_key} {settings.api_secret!s} " + f"{settings.api_secret:>40}"
    text += "%s %r" % (settings.api_key, settings.api_secret)  # noqa: UP031 - as logging does
    assert KEY not in text
    assert SECRET not in text


def test_only_the_dotenv_beside_main_is_read(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Settings come from the .env beside main.py, whatever the working directory and its .env are."""
    (home / ".env").write_text("PAIRS=ETH/USD\n")
    (tmp_path / ".env").write_text("PAIRS=SOL/USD\nTIMEFRAME=1d\n")
    monkeypatch.chdir(tmp_path)
    settings = config.load_settings()
    assert (settings.pairs, settings.timeframe) == (("ETH/USD",), "1h")


def test_environment_overrides_dotenv(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment variable overrides the .env; an empty variable counts as unset."""
    (home / ".env").write_text("PAIRS=ETH/USD\nTIMEFRAME=4h\n")
    monkeypatch.setenv("PAIRS", "SOL/USD")
    monkeypatch.setenv("STRATEGY", "  ")
    settings = config.load_settings()
    assert (settings.pairs, settings.timeframe, settings.strategy) == (("SOL/USD",), "4h", "moving_average")


def test_misspelled_setting_is_reported(home: Path) -> None:
    """A name in .env that is similar to a setting is a problem that names the setting."""
    (home / ".env").write_text("MAX_ORDER_VALU=10\n")
    with pytest.raises(SettingsError, match="Did you mean MAX_ORDER_VALUE"):
        config.load_settings()


FORMER_NAMES = {
    "ENTRY_LIFETIME_SECONDS": "ENTRY_TTL_SECONDS",
    "LOSS_PAUSE_SECONDS": "COOLDOWN_SECONDS",
    "MARKET_COLLAR_PERCENT": "MAX_SLIPPAGE_PERCENT",
    "PRICES": "PRICE_SOURCE",
    "SINGLE_INSTANCE": "SKIP_OVERLAP_WAIT",
    "STOP_PERCENT": "STOP_LOSS_PERCENT",
}


@pytest.mark.parametrize("source", [".env", "the environment"])
@pytest.mark.parametrize("former", FORMER_NAMES)
def test_former_setting_name_is_refused(former: str, source: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting under its former name is one problem that names the source and the new name; an empty one is none."""
    for value in ("", "1"):
        if source == ".env":
            (home / ".env").write_text(f"{former}={value}\n")
        else:
            monkeypatch.setenv(former, value)
        if not value:
            config.load_settings()
    with pytest.raises(SettingsError) as caught:
        config.load_settings()
    assert caught.value.problems == [f"{former} in {source} is now called {FORMER_NAMES[former]}; use the new name."]


def test_former_setting_names_are_reported_with_all_other_problems(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Former names of both sources, a slip and a wrong value are reported together."""
    (home / ".env").write_text("".join(f"{name}=1\n" for name in FORMER_NAMES) + "MAX_ORDER_VALU=10\n")
    for name in FORMER_NAMES:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("TIMEFRAME", "7m")
    with pytest.raises(SettingsError) as caught:
        config.load_settings()
    named = [problem.partition(" is ")[0] for problem in caught.value.problems]
    sources = (".env", "the environment")
    expected = [f"{name} in {source}" for source in sources for name in FORMER_NAMES]
    assert sorted(named) == sorted(
        [*expected, "Unknown setting MAX_ORDER_VALU in .env. Did you mean MAX_ORDER_VALUE?", "TIMEFRAME"]
    )


def test_every_former_setting_name_has_a_setting() -> None:
    """The former names are those that the program refuses; none is a setting, and each leads to one."""
    assert config.RENAMED_SETTINGS == FORMER_NAMES
    assert not FORMER_NAMES.keys() & config.DEFAULTS.keys()
    assert set(FORMER_NAMES.values()) <= config.DEFAULTS.keys()


@pytest.mark.parametrize(
    "line", ["MAX_ORDER_VALUE: 50", "MAX_ORDER_VALUE 50", "MAX_ORDER_VALUE", 'MAX_ORDER_VALUE="50']
)
def test_unparsable_dotenv_line_is_reported(home: Path, line: str) -> None:
    """An unparsable line of .env is a problem with its line number, so no limit silently stays at its default."""
    (home / ".env").write_text(f"# sizes\n\nORDER_VALUE=20\n\n{line}\n")
    with pytest.raises(SettingsError, match=r"Line 5 of \.env cannot be read"):
        config.load_settings()


def test_a_dotenv_with_a_byte_order_mark_is_read(home: Path) -> None:
    """A byte order mark does not hide the first setting."""
    (home / ".env").write_bytes(b"\xef\xbb\xbfPAIRS=ETH/USD\n")
    assert config.load_settings().pairs == ("ETH/USD",)


def test_an_unreadable_dotenv_is_a_problem_and_not_a_crash_on_import(home: Path) -> None:
    """A .env that is not UTF-8 is a SettingsError in load_settings, and the nonce file is still found."""
    (home / ".env").write_bytes(b"PAIRS=\xff\xfe\n")
    assert config.default_nonce_file() == str(home / "bot" / "kraken_nonce.txt")
    with pytest.raises(SettingsError, match="cannot be read"):
        config.load_settings()


@pytest.mark.parametrize(
    ("values", "folder"),
    [
        ({}, "home/state"),
        ({"STATE_DIR": "given"}, "home/given"),
        ({"STATE_DIR": "bot"}, "home/state"),
        ({"RAILWAY_VOLUME_MOUNT_PATH": "/volume"}, "/volume"),
        ({"STATE_DIR": "/given", "RAILWAY_VOLUME_MOUNT_PATH": "/volume"}, "/given"),
    ],
)
def test_state_folder_location(values: dict[str, str], folder: str, home: Path) -> None:
    """The state is in STATE_DIR (relative to main.py), else on a mounted volume, else in state/, and never in bot/."""
    assert config.state_folder(values) == home.parent / folder


def test_the_nonce_file_is_in_the_state_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script in another folder uses the nonce file of the running bot."""
    monkeypatch.chdir("/")
    (home / ".env").write_text("STATE_DIR=somewhere\n")
    assert config.default_nonce_file() == str(home / "somewhere" / "kraken_nonce.txt")


@pytest.mark.parametrize(
    "url",
    [
        "https://api.kraken.com",
        "https://api.kraken.com/",
        "https://api.kraken.com:443",
        "HTTPS://API.KRAKEN.COM",
        "http://127.0.0.1:8000",
        "http://localhost:1",
        "http://[::1]:8000",
        "http://127.8.9.10",
    ],
)
def test_api_url_is_accepted(url: str) -> None:
    """https to any host and http to this machine are allowed."""
    assert config.url_problems("URL", url) == []


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.kraken.com",
        "ftp://api.kraken.com",
        "http://api.kraken.com",
        "http://10.0.0.1",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://[::2]",
        "https://",
        "https://user:hunter2@api.kraken.com",
        "https://:hunter2@api.kraken.com",
        "https://api.kraken.com/0/private",
        "https://api.kraken.com?x=1",
        "https://api.kraken.com#x",
        "https://api.kraken.com:0",
        "https://api.kraken.com:99999",
        "https://api.kraken.com:port",
        "https://api.kra ken.com",
        "https://[broken",
    ],
)
def test_api_url_is_refused(url: str) -> None:
    """Any other URL is one problem, which names the setting and shows no password."""
    (problem,) = config.url_problems("KRAKEN_API_URL", url)
    assert problem.startswith("KRAKEN_API_URL")
    assert "hunter2" not in problem


STORE_URLS = [
    "redis://127.0.0.1",
    "redis://127.0.0.1:6379/2",
    "rediss://user:hunter2@store.example:6379/0?ssl_ca_certs=/some/ca.pem",
    "redis://:se%3Acret%2Fpa%40ss%25@127.0.0.1:6379/0",
    "redis://[::1]:6379/0",
    "postgresql://bot@127.0.0.1/bot",
    "postgres://bot:se%3Acret%2Fpa%40ss%25@127.0.0.1:5432/bot?sslmode=require",
    "postgresql://bot:hunter2@one:5432,two:5433/bot?target_session_attrs=read-write",
]


@pytest.mark.parametrize("url", STORE_URLS)
def test_store_url_is_accepted(url: str) -> None:
    """A Redis or PostgreSQL URL is accepted in NONCE_STORE, is not printed, and works with its driver."""
    settings = config.load_settings({"NONCE_STORE": url})
    assert settings.nonce_store == url
    assert url not in f"{settings} {settings!r} {settings.nonce_store}"
    with closing(open_nonce_store(settings.nonce_store, KEY)) as store:
        assert "se%3A" not in store.location
        assert "hunter2" not in store.location


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "127.0.0.1:6379",
        "file",
        "http://127.0.0.1:6379",
        "mysql://bot:hunter2@127.0.0.1/bot",
        "redis+hunter2://127.0.0.1",
        "redis:127.0.0.1",
        "redis://",
        "redis:///0",
        "redis://:hunter2@",
        "redis://:6379",
        "postgresql:///bot?host=/var/run",
        "redis://127.0.0.1:0",
        "redis://127.0.0.1:65536",
        "redis://127.0.0.1:hunter2",
        "redis://127.0.0.1:-1",
        "redis://one:6379,two:6379/0",
        "postgresql://one:5432,two:65536/bot",
        "postgresql://one:5432,two:hunter2/bot",
        "Redis://127.0.0.1",
        "POSTGRESQL://127.0.0.1/bot",
        "redis://[::1:6379",
        "redis://no host:6379",
        "redis://bot:hunter2%@127.0.0.1",
        "redis://bot:hunter2%zz@127.0.0.1",
        "postgresql://bot:hunter2%4@127.0.0.1/bot",
        "redis://bot:12/hunter2@127.0.0.1:6379/0",
        "redis://bot:12?hunter2@127.0.0.1:6379/0",
        "redis://bot:12#hunter2@127.0.0.1:6379/0",
        "postgresql://bot:12/hunter2@127.0.0.1/bot",
    ],
)
def test_store_url_is_refused(url: str) -> None:
    """Any other NONCE_STORE is one problem that begins with the name, describes the expected form, and contains nothing
    of the value, which may be a password."""
    (problem,) = problems_of({"NONCE_STORE": url})
    assert problem.startswith("NONCE_STORE must look like redis://host:6379/0, rediss://... or postgresql://")
    assert "hunter2" not in problem


@pytest.mark.parametrize(
    "url",
    ["redis://u:hunter2@127.0.0.1/hunter2", "redis://127.0.0.1/0?hunter2=1", "postgresql://127.0.0.1/bot?hunter2=1"],
)
def test_store_url_refused_by_driver_is_settings_error(url: str) -> None:
    """A URL that the driver rejects is a SettingsError without anything of the value."""
    with pytest.raises(SettingsError, match="cannot be used") as caught:
        open_nonce_store(url, KEY)
    assert "hunter2" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(("text", "allowed"), [("2.9", False), ("3", True), ("300", True), ("300.1", False)])
def test_lease_seconds_range(text: str, allowed: bool) -> None:
    """LEASE_SECONDS is between 3 and 300; the default is 10."""
    assert config.load_settings({}).lease_seconds == 10
    if allowed:
        assert config.load_settings({"LEASE_SECONDS": text}).lease_seconds == float(text)
    else:
        assert "must be from 3 to 300" in problems_of({"LEASE_SECONDS": text})[0]


def test_skip_overlap_wait_is_a_boolean() -> None:
    """SKIP_OVERLAP_WAIT is off by default and on with 1."""
    assert not config.load_settings({}).skip_overlap_wait
    assert config.load_settings({"SKIP_OVERLAP_WAIT": "1"}).skip_overlap_wait


def test_scripts_use_the_configured_store(home: Path) -> None:
    """Scripts use the nonce store of the .env beside main.py, and its URL is not printed."""
    assert config.default_nonce_store() == ""
    (home / ".env").write_text(f"NONCE_STORE={STORE_URLS[2]}\n")
    assert config.default_nonce_store() == STORE_URLS[2]
    assert "hunter2" not in f"{config.default_nonce_store()!r}{config.default_nonce_store()}"


@pytest.mark.parametrize("proxy", ["http://127.0.0.1:3128", "http://proxy.example", "http://user:word@proxy:1"])
def test_proxy_url_is_accepted(proxy: str) -> None:
    """A proxy is an http URL, with or without credentials."""
    assert config.load_settings({"KRAKEN_PROXY": proxy}).proxy == proxy


@pytest.mark.parametrize("proxy", ["https://proxy.example:8080", "https://user:word@proxy:1", "socks5://proxy:1080"])
def test_proxy_url_with_another_scheme_is_refused(proxy: str) -> None:
    """A proxy by https or SOCKS is one problem, which shows what is allowed and nothing of the value."""
    (problem,) = problems_of({"KRAKEN_PROXY": proxy})
    assert "http://proxy.example:3128" in problem
    assert "word" not in problem

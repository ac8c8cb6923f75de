"""Settings: the only reader of the environment.

The environment comes first, then the `.env` beside main.py, never one in the working directory, so that a
script in another folder shares the nonces of the running bot. docs/configuration.md describes each setting.
"""

from __future__ import annotations

import base64
import binascii
import difflib
import ipaddress
import os
import re
import urllib.parse
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from decimal import Decimal
from pathlib import Path

from dotenv.parser import Binding, parse_stream

from bot.base import paths
from bot.base.errors import SettingsError
from bot.base.timeframes import TIMEFRAMES
from bot.kraken.rate_counters import TIERS, Tier
from bot.nonce.file_store import UNITS
from bot.nonce.open_store import url_problem

# Where containers get their secrets, readable for everybody in them: by Docker and Podman, and by Render.
_SECRET_MOUNTS = ("/run/secrets/", "/etc/secrets/")


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
            if not os.fstat(stream.fileno()).st_mode & 0o007 or os.path.realpath(path).startswith(_SECRET_MOUNTS):
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
        is_usable = len(base64.b64decode(secret, validate=True)) > 0
    except (binascii.Error, ValueError):
        is_usable = False
    if not is_usable:
        problems.append("KRAKEN_API_SECRET is empty or not Base64, as Kraken's private keys are; copy it again.")
    return problems


def url_problems(name: str, url: str) -> list[str]:
    """Return what is wrong with an API address: https only, or http on loopback."""
    if "@" in url:
        return [f"{name} has a user name or password in it; it must look like https://api.kraken.com."]
    try:
        parts = urllib.parse.urlsplit(url)
        is_base_url = parts.path in ("", "/") and not (parts.query or parts.fragment) and parts.port != 0
    except ValueError:
        return [f"{name} is {url!r}, which is not an address."]
    if parts.scheme not in ("http", "https") or not is_host(parts.hostname) or not is_base_url:
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


TRADING_MODES = ("paper", "live", "halt")
LOG_FORMATS = ("auto", "text", "json")
# So many characters at least, so that a token cannot be guessed.
STATUS_TOKEN_LENGTH_MIN = 16


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, checked. Values of money are in the quote currency of the pair."""

    trading_mode: str
    api_key: Secret
    api_secret: Secret
    api_url: str
    proxy: Secret
    state_dir: Path
    nonce_unit: str
    nonce_store: Secret
    lease_seconds: float
    skip_overlap_wait: bool
    price_source: str
    market_speed: float
    pairs: tuple[str, ...]
    timeframe: str
    strategy: str
    order_value: Decimal
    max_order_value: Decimal
    max_position_value: Decimal
    max_daily_loss: Decimal
    cooldown_seconds: float
    max_slippage_percent: Decimal
    stop_loss_percent: Decimal
    entry_ttl_seconds: int
    cancel_entries_on_stop: bool
    dead_man_switch_seconds: int
    allow_withdraw_key: bool
    bot_id: str
    tier: Tier
    # None: not set; 0: no page.
    port: int | None
    status_token: Secret
    log_format: str
    alert_webhook_url: Secret
    heartbeat_url: Secret

    def secrets(self) -> list[str]:
        """Return the contents of all that must never be shown."""
        values = (getattr(self, field.name) for field in fields(self))
        return [str.__str__(value) for value in values if isinstance(value, Secret) and value]


DEFAULTS: dict[str, str] = {
    "TRADING_MODE": "paper",
    "KRAKEN_API_KEY": "",
    "KRAKEN_API_KEY_FILE": "",
    "KRAKEN_API_SECRET": "",
    "KRAKEN_API_SECRET_FILE": "",
    "KRAKEN_API_URL": "https://api.kraken.com",
    "KRAKEN_PROXY": "",
    "KRAKEN_TIER": "starter",
    "STATE_DIR": "",
    "NONCE_UNIT": "us",
    "NONCE_STORE": "",
    "LEASE_SECONDS": "10",
    "SKIP_OVERLAP_WAIT": "0",
    "PRICE_SOURCE": "auto",
    "MARKET_SPEED": "1",
    "PAIRS": "BTC/USD",
    "TIMEFRAME": "1h",
    "STRATEGY": "moving_average",
    "ORDER_VALUE": "100",
    "MAX_ORDER_VALUE": "250",
    "MAX_POSITION_VALUE": "500",
    "MAX_DAILY_LOSS": "50",
    "COOLDOWN_SECONDS": "3600",
    "MAX_SLIPPAGE_PERCENT": "1",
    "STOP_LOSS_PERCENT": "0",
    "ENTRY_TTL_SECONDS": "0",
    "CANCEL_ENTRIES_ON_STOP": "1",
    "DEAD_MAN_SWITCH_SECONDS": "0",
    "ALLOW_WITHDRAW_KEY": "0",
    "BOT_ID": "",
    "PORT": "",
    "STATUS_TOKEN": "",
    "STATUS_TOKEN_FILE": "",
    "LOG_FORMAT": "auto",
    "ALERT_WEBHOOK_URL": "",
    "HEARTBEAT_URL": "",
}

# Old names of settings and the new ones. An old name is refused: a limit under a name that nothing reads would have
# its default without notice.
RENAMED_SETTINGS: dict[str, str] = {
    "ENTRY_LIFETIME_SECONDS": "ENTRY_TTL_SECONDS",
    "LOSS_PAUSE_SECONDS": "COOLDOWN_SECONDS",
    "MARKET_COLLAR_PERCENT": "MAX_SLIPPAGE_PERCENT",
    "PRICES": "PRICE_SOURCE",
    "SINGLE_INSTANCE": "SKIP_OVERLAP_WAIT",
    "STOP_PERCENT": "STOP_LOSS_PERCENT",
}


def read_environment() -> dict[str, str]:
    """Return our variables: the environment, then the `.env` beside main.py; empty ones count as not given."""
    environment = {**_read_dotenv(), **os.environ}
    names = (*DEFAULTS, "RAILWAY_VOLUME_MOUNT_PATH")
    return {name: environment[name].strip() for name in names if environment.get(name, "").strip()}


def _read_dotenv() -> dict[str, str]:
    return {line.key: line.value or "" for line in _parse_dotenv() if line.key}


def _parse_dotenv() -> list[Binding]:
    path = paths.PROJECT_ROOT / ".env"
    if not path.is_file():
        return []
    try:
        # The byte order mark that some editors put first is no part of the first name.
        with path.open(encoding="utf-8-sig") as stream:
            return list(parse_stream(stream))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path} cannot be read: {error}"]) from error


def nonce_folder(values: Mapping[str, str]) -> Path:
    """Return the folder of the nonce files: STATE_DIR, else a mounted Railway volume, else bot/."""
    configured = values.get("STATE_DIR") or values.get("RAILWAY_VOLUME_MOUNT_PATH")
    return (paths.PROJECT_ROOT / Path(configured).expanduser()).resolve() if configured else paths.code_folder()


def state_folder(values: Mapping[str, str]) -> Path:
    """Return the folder of all other state: STATE_DIR, else a mounted Railway volume, else state/ beside main.py.

    Raises SettingsError in an installed package without either.
    """
    return paths.state_folder_for(nonce_folder(values))


def default_nonce_file() -> str:
    """Return where the nonce file is: `kraken_nonce.txt` in its folder."""
    return str(nonce_folder(_environment_on_import()) / "kraken_nonce.txt")


def default_nonce_store() -> Secret:
    """Return NONCE_STORE, the address of the store that hosts share; "" for the file alone."""
    return Secret(_environment_on_import().get("NONCE_STORE", ""))


def default_api_key() -> Secret:
    """Return the key of the settings, for scripts that share it. Raises SettingsError where there is none."""
    problems: list[str] = []
    key = _SettingsParser(read_environment(), problems, ()).secret("KRAKEN_API_KEY")
    if not key:
        raise SettingsError(
            [*problems, "KRAKEN_API_KEY is not set, and request locks and shared nonces belong to a key."]
        )
    return key


def _environment_on_import() -> dict[str, str]:
    try:
        return read_environment()
    except SettingsError:
        # Called on import, where an error could not be reported; `load_settings` reports it.
        return dict(os.environ)


def load_settings(values: Mapping[str, str] | None = None, strategies: Iterable[str] = ()) -> Settings:
    """Return the settings, or raise SettingsError with every problem at once.

    `values` stands in for the environment. `strategies` are the names that STRATEGY can be (none: any).
    """
    environment = read_environment() if values is None else values
    problems = _renamed_problems(os.environ if values is None else values, "the environment")
    if values is None:
        problems = _dotenv_problems() + problems
    return _SettingsParser(environment, problems, tuple(strategies)).parse()


def _renamed_problems(values: Mapping[str, str], source: str) -> list[str]:
    return [
        f"{former} in {source} is now called {name}; use the new name."
        for former, name in RENAMED_SETTINGS.items()
        if values.get(former, "").strip()
    ]


def _dotenv_problems() -> list[str]:
    # Not shown: the line may hold a secret. The blank lines before it are counted to it.
    problems = [
        f"Line {line.original.line + line.original.string.rstrip().count(chr(10))} of .env cannot be read; "
        "it must look like NAME=value."
        for line in _parse_dotenv()
        if line.error or (line.key in DEFAULTS and line.value is None)
    ]
    values = _read_dotenv()
    problems += _renamed_problems(values, ".env")
    for name in values:
        matches = difflib.get_close_matches(name, DEFAULTS, n=1, cutoff=0.85)
        if matches and name not in DEFAULTS and name not in RENAMED_SETTINGS:
            problems.append(f"Unknown setting {name} in .env. Did you mean {matches[0]}?")
    return problems


class _SettingsParser:
    """Parses values one by one and collects their problems."""

    def __init__(self, values: Mapping[str, str], problems: list[str], strategies: tuple[str, ...]) -> None:
        self._values = values
        self._problems = problems
        self._strategies = strategies

    def parse(self) -> Settings:
        mode = self._choice("TRADING_MODE", TRADING_MODES)
        key, secret = self.secret("KRAKEN_API_KEY"), self.secret("KRAKEN_API_SECRET")
        if mode != "paper":
            self._check_credentials(key, secret)
        url = self._text("KRAKEN_API_URL")
        self._problems += url_problems("KRAKEN_API_URL", url)
        settings = Settings(
            trading_mode=mode,
            api_key=key,
            api_secret=secret,
            api_url=url,
            proxy=self._proxy(),
            state_dir=self._state_dir(),
            nonce_unit=self._choice("NONCE_UNIT", UNITS),
            nonce_store=self._nonce_store(),
            lease_seconds=float(self._decimal("LEASE_SECONDS", Decimal(3), Decimal(300))),
            skip_overlap_wait=self._bool("SKIP_OVERLAP_WAIT"),
            price_source=self._price_source(),
            market_speed=float(self._decimal("MARKET_SPEED", Decimal("0.001"), Decimal(100_000))),
            pairs=self._pairs(),
            timeframe=self._choice("TIMEFRAME", TIMEFRAMES),
            strategy=self._choice("STRATEGY", self._strategies or (self._text("STRATEGY").lower(),)),
            order_value=self._decimal("ORDER_VALUE"),
            max_order_value=self._decimal("MAX_ORDER_VALUE"),
            max_position_value=self._decimal("MAX_POSITION_VALUE"),
            max_daily_loss=self._decimal("MAX_DAILY_LOSS"),
            cooldown_seconds=float(self._decimal("COOLDOWN_SECONDS", Decimal(0))),
            max_slippage_percent=self._decimal("MAX_SLIPPAGE_PERCENT", Decimal("0.01"), Decimal(20)),
            stop_loss_percent=self._decimal("STOP_LOSS_PERCENT", Decimal(0), Decimal(90)),
            entry_ttl_seconds=int(self._decimal("ENTRY_TTL_SECONDS", Decimal(0), Decimal(2_592_000))),
            cancel_entries_on_stop=self._bool("CANCEL_ENTRIES_ON_STOP"),
            dead_man_switch_seconds=self._dead_man_switch_seconds(),
            allow_withdraw_key=self._bool("ALLOW_WITHDRAW_KEY"),
            bot_id=self._bot_id(),
            tier=TIERS[self._choice("KRAKEN_TIER", TIERS)],
            port=self._port(),
            status_token=self._status_token(),
            log_format=self._choice("LOG_FORMAT", LOG_FORMATS),
            alert_webhook_url=self._webhook_url("ALERT_WEBHOOK_URL"),
            heartbeat_url=self._webhook_url("HEARTBEAT_URL"),
        )
        self._check_values(settings)
        if self._problems:
            raise SettingsError(self._problems)
        return settings

    def _text(self, name: str) -> str:
        return self._values.get(name) or DEFAULTS[name]

    def _choice(self, name: str, allowed: Mapping[str, object] | tuple[str, ...]) -> str:
        value = self._text(name).lower()
        if value not in allowed:
            self._problems.append(f"{name} is {value!r}; it can be {', '.join(allowed)}.")
            return DEFAULTS[name]
        return value

    def _decimal(
        self, name: str, minimum: Decimal = Decimal("0.01"), maximum: Decimal = Decimal(1_000_000_000)
    ) -> Decimal:
        text = self._text(name)
        if not re.fullmatch(r"-?\d+(\.\d+)?", text):
            self._problems.append(f"{name} is {text!r}; it must be a plain number such as {DEFAULTS[name]}.")
            return Decimal(DEFAULTS[name])
        value = Decimal(text)
        if not minimum <= value <= maximum:
            self._problems.append(f"{name} is {text}; it must be from {minimum} to {maximum}.")
        return value

    def _bool(self, name: str) -> bool:
        value = self._text(name).lower()
        if value not in ("0", "1", "no", "yes", "false", "true", "off", "on"):
            self._problems.append(f"{name} is {value!r}; it can be 0 or 1.")
        return value in ("1", "yes", "true", "on")

    def secret(self, name: str) -> Secret:
        """Read a secret, from its variable or from the file that NAME_FILE names."""
        direct, path = self._text(name), self._text(f"{name}_FILE")
        if direct and path:
            self._problems.append(f"{name} and {name}_FILE are both set; keep one of them.")
        if direct or not path:
            return Secret(direct)
        value, problem = read_secret(path)
        if problem:
            self._problems.append(f"{name}_FILE names {problem}")
        return value

    def _check_credentials(self, key: Secret, secret: Secret) -> None:
        missing = [name for name, value in (("KRAKEN_API_KEY", key), ("KRAKEN_API_SECRET", secret)) if not value]
        if missing:
            self._problems.append(
                f"TRADING_MODE={self._text('TRADING_MODE')} needs {' and '.join(missing)}. Put them into .env beside "
                "main.py, or leave TRADING_MODE out to trade on paper."
            )
        else:
            self._problems += credential_problems(key, secret)

    def _proxy(self) -> Secret:
        text = self._text("KRAKEN_PROXY")
        try:
            parts = urllib.parse.urlsplit(text)
            is_usable = parts.scheme in ("http", "https") and is_host(parts.hostname) and parts.port != 0
        except ValueError:
            is_usable = False
        if text and not is_usable:
            # Not shown: it may hold a password.
            self._problems.append("KRAKEN_PROXY must look like http://proxy.example:3128.")
        return Secret(text)

    def _nonce_store(self) -> Secret:
        text = self._text("NONCE_STORE")
        if text and (problem := url_problem(text)):
            self._problems.append(f"NONCE_STORE {problem}")
        return Secret(text)

    def _state_dir(self) -> Path:
        try:
            return state_folder(self._values)
        except SettingsError as error:
            self._problems += error.problems
            return paths.default_state_folder()

    def _price_source(self) -> str:
        value = self._text("PRICE_SOURCE")
        if value.lower() in ("auto", "live", "synthetic"):
            return value.lower()
        if not value.startswith("replay:"):
            self._problems.append(f"PRICE_SOURCE is {value!r}; it can be auto, live, synthetic or replay:FILE.")
            return value
        path = Path(value.removeprefix("replay:")).expanduser().resolve()
        if not path.is_file():
            self._problems.append(f"PRICE_SOURCE names {path}, where there is no file.")
        return f"replay:{path}"

    def _pairs(self) -> tuple[str, ...]:
        pairs = tuple(dict.fromkeys(part.strip().upper() for part in self._text("PAIRS").split(",") if part.strip()))
        if not pairs:
            self._problems.append("PAIRS is empty; name at least one pair, such as BTC/USD.")
        return pairs

    def _dead_man_switch_seconds(self) -> int:
        name = "DEAD_MAN_SWITCH_SECONDS"
        # Off, or what Kraken takes (CancelAllOrdersAfter page) and what a slow answer or two do not use up.
        minimum = Decimal(0) if self._text(name) == "0" else Decimal(30)
        return int(self._decimal(name, minimum, Decimal(86_400)))

    def _bot_id(self) -> str:
        value = self._text("BOT_ID")
        if value and not re.fullmatch(r"[A-Za-z0-9]{5}", value):
            self._problems.append(f"BOT_ID is {value!r}; it must be five letters or digits.")
        return value

    def _port(self) -> int | None:
        text = self._text("PORT")
        if not text:
            return None
        if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
            self._problems.append(f"PORT is {text!r}; it must be a number from 1 to 65535, or 0 for no page.")
            return None
        return int(text)

    def _status_token(self) -> Secret:
        token = self.secret("STATUS_TOKEN")
        if token and (
            len(token) < STATUS_TOKEN_LENGTH_MIN or not token.isascii() or not token.isprintable() or " " in token
        ):
            self._problems.append(
                f"STATUS_TOKEN must have at least {STATUS_TOKEN_LENGTH_MIN} letters, digits and signs, and no space, "
                "such as `openssl rand -hex 16` makes."
            )
        return token

    def _webhook_url(self, name: str) -> Secret:
        text = self._text(name)
        try:
            parts = urllib.parse.urlsplit(text)
            is_usable = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(text))
            is_usable = is_usable and is_host(parts.hostname) and parts.port != 0
        except ValueError:
            is_usable = False
        if text and not is_usable:
            # Not shown: it may hold a token.
            self._problems.append(f"{name} must be an address that begins with https://.")
        if text.startswith("https://api.telegram.org/") and "chat_id=" not in text:
            self._problems.append(f"{name} is Telegram's and names no chat; it must end with /sendMessage?chat_id=...")
        return Secret(text)

    def _check_values(self, settings: Settings) -> None:
        if settings.order_value > settings.max_order_value:
            self._problems.append(
                f"ORDER_VALUE ({settings.order_value}) is above MAX_ORDER_VALUE ({settings.max_order_value})."
            )
        if settings.stop_loss_percent and settings.dead_man_switch_seconds:
            self._problems.append(
                "STOP_LOSS_PERCENT and DEAD_MAN_SWITCH_SECONDS are both set, but the switch cancels stops. Keep one."
            )
        if settings.trading_mode != "paper" and settings.market_speed != 1 and not is_loopback(settings.api_url):
            self._problems.append("MARKET_SPEED is for paper trading, and for a simulator on this machine.")

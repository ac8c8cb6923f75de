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
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from dotenv.parser import Binding, parse_stream

from bot.base import paths
from bot.base.errors import SettingsError
from bot.base.timeframes import TIMEFRAMES
from bot.kraken.pairs import FIAT_ASSETS, STABLE_ASSETS
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


class _SettingsParser:
    """Parses values one by one and collects their problems."""

    def __init__(self, values: Mapping[str, str], problems: list[str], strategies: tuple[str, ...]) -> None:
        self._values = values
        self._problems = problems
        self._strategies = strategies

    def parse(self) -> Settings:
        values = {one.name: one.metadata["parse"](self) for one in fields(Settings) if one.metadata}
        settings = Settings(**values, default_sizes=tuple(name for name in SIZE_NAMES if not self._values.get(name)))
        self._check_values(settings)
        if self._problems:
            raise SettingsError(self._problems)
        return settings

    def text(self, name: str) -> str:
        return self._values.get(name) or DEFAULTS[name]

    def choice(self, name: str, allowed: Mapping[str, object] | tuple[str, ...]) -> str:
        value = self.text(name).lower()
        if value not in allowed:
            self._problems.append(f"{name} is {value!r}; it can be {', '.join(allowed)}.")
            return DEFAULTS[name]
        return value

    def tier(self, name: str) -> Tier:
        return TIERS[self.choice(name, TIERS)]

    def strategy(self, name: str) -> str:
        return self.choice(name, self._strategies or (self.text(name).lower(),))

    def decimal(self, name: str, minimum: str = "0.01", maximum: str = "1000000000") -> Decimal:
        text = self.text(name)
        if not re.fullmatch(r"-?\d+(\.\d+)?", text):
            self._problems.append(f"{name} is {text!r}; it must be a plain number such as {DEFAULTS[name]}.")
            return Decimal(DEFAULTS[name])
        value = Decimal(text)
        if not Decimal(minimum) <= value <= Decimal(maximum):
            self._problems.append(f"{name} is {text}; it must be from {minimum} to {maximum}.")
        return value

    def size(self, name: str) -> Decimal:
        # A millionth of a bitcoin is less than any minimum of Kraken.
        return self.decimal(name, "0.000001")

    def seconds(self, name: str, minimum: str, maximum: str = "1000000000") -> float:
        return float(self.decimal(name, minimum, maximum))

    def speed(self, name: str) -> float:
        return float(self.decimal(name, "0.001", "100000"))

    def integer(self, name: str, minimum: str, maximum: str) -> int:
        return int(self.decimal(name, minimum, maximum))

    def boolean(self, name: str) -> bool:
        value = self.text(name).lower()
        if value not in ("0", "1", "no", "yes", "false", "true", "off", "on"):
            self._problems.append(f"{name} is {value!r}; it can be 0 or 1.")
        return value in ("1", "yes", "true", "on")

    def secret(self, name: str) -> Secret:
        """Read a secret, from its variable or from the file that NAME_FILE names."""
        direct, path = self.text(name), self.text(f"{name}_FILE")
        if direct and path:
            self._problems.append(f"{name} and {name}_FILE are both set; keep one of them.")
        if direct or not path:
            return Secret(direct)
        value, problem = read_secret(path)
        if problem:
            self._problems.append(f"{name}_FILE names {problem}")
        return value

    def status_token(self, name: str) -> Secret:
        token = self.secret(name)
        if token and (
            len(token) < STATUS_TOKEN_LENGTH_MIN or not token.isascii() or not token.isprintable() or " " in token
        ):
            self._problems.append(
                f"{name} must have at least {STATUS_TOKEN_LENGTH_MIN} letters, digits and signs, and no space, "
                "such as `openssl rand -hex 16` makes."
            )
        return token

    def api_url(self, name: str) -> str:
        url = self.text(name)
        self._problems += url_problems(name, url)
        return url

    def proxy(self, name: str) -> Secret:
        text = self.text(name)
        try:
            parts = urllib.parse.urlsplit(text)
            is_usable = parts.scheme == "http" and is_host(parts.hostname) and parts.port != 0
        except ValueError:
            is_usable = False
        if text and not is_usable:
            # Not shown: it may hold a password.
            self._problems.append(
                f"{name} must look like http://proxy.example:3128; the connection to a proxy cannot be encrypted."
            )
        return Secret(text)

    def nonce_store(self, name: str) -> Secret:
        text = self.text(name)
        if text and (problem := url_problem(text)):
            self._problems.append(f"{name} {problem}")
        return Secret(text)

    def state_dir(self, _name: str) -> Path:
        try:
            return state_folder(self._values)
        except SettingsError as error:
            self._problems += error.problems
            return paths.default_state_folder()

    def price_source(self, name: str) -> str:
        value = self.text(name)
        if value.lower() in ("auto", "live", "synthetic"):
            return value.lower()
        if not value.startswith("replay:"):
            self._problems.append(f"{name} is {value!r}; it can be auto, live, synthetic or replay:FILE.")
            return value
        path = Path(value.removeprefix("replay:")).expanduser().resolve()
        if not path.is_file():
            self._problems.append(f"{name} names {path}, where there is no file.")
        return f"replay:{path}"

    def pairs(self, name: str) -> tuple[str, ...]:
        pairs = tuple(dict.fromkeys(part.strip().upper() for part in self.text(name).split(",") if part.strip()))
        if not pairs:
            self._problems.append(f"{name} is empty; name at least one pair, such as BTC/USD.")
        return pairs

    def dead_man_switch_seconds(self, name: str) -> int:
        # Off, or what Kraken takes (CancelAllOrdersAfter page) and what a slow answer or two do not use up.
        return self.integer(name, "0" if self.text(name) == "0" else "30", "86400")

    def bot_id(self, name: str) -> str:
        value = self.text(name)
        if value and not re.fullmatch(r"[A-Za-z0-9]{5}", value):
            self._problems.append(f"{name} is {value!r}; it must be five letters or digits.")
        return value

    def port(self, name: str) -> int | None:
        text = self.text(name)
        if not text:
            return None
        if not re.fullmatch(r"\d{1,5}", text) or int(text) > 65535:
            self._problems.append(f"{name} is {text!r}; it must be a number from 1 to 65535, or 0 for no page.")
            return None
        return int(text)

    def webhook_url(self, name: str) -> Secret:
        text = self.text(name)
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
        if settings.trading_mode != "paper":
            self._check_credentials(settings)
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

    def _check_credentials(self, settings: Settings) -> None:
        credentials = {"KRAKEN_API_KEY": settings.api_key, "KRAKEN_API_SECRET": settings.api_secret}
        missing = [name for name, value in credentials.items() if not value]
        if missing:
            self._problems.append(
                f"TRADING_MODE={self.text('TRADING_MODE')} needs {' and '.join(missing)}. Put them into .env beside "
                "main.py, or leave TRADING_MODE out to trade on paper."
            )
        else:
            self._problems += credential_problems(settings.api_key, settings.api_secret)


P = ParamSpec("P")
T = TypeVar("T")


def _setting(
    name: str,
    default: str,
    parse: Callable[Concatenate[_SettingsParser, str, P], T],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """Declare a setting: its variable, its default as text, and the parser's method with its arguments."""

    def parse_setting(parser: _SettingsParser) -> T:
        return parse(parser, name, *args, **kwargs)

    declared: T = field(metadata={"name": name, "default": default, "parse": parse_setting})
    return declared


SIZE_NAMES = ("ORDER_VALUE", "MAX_ORDER_VALUE", "MAX_POSITION_VALUE", "MAX_DAILY_LOSS")


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting, checked. Values of money are in the quote currency of the pair."""

    trading_mode: str = _setting("TRADING_MODE", "paper", _SettingsParser.choice, TRADING_MODES)
    api_key: Secret = _setting("KRAKEN_API_KEY", "", _SettingsParser.secret)
    api_secret: Secret = _setting("KRAKEN_API_SECRET", "", _SettingsParser.secret)
    api_url: str = _setting("KRAKEN_API_URL", "https://api.kraken.com", _SettingsParser.api_url)
    proxy: Secret = _setting("KRAKEN_PROXY", "", _SettingsParser.proxy)
    state_dir: Path = _setting("STATE_DIR", "", _SettingsParser.state_dir)
    nonce_unit: str = _setting("NONCE_UNIT", "us", _SettingsParser.choice, UNITS)
    nonce_store: Secret = _setting("NONCE_STORE", "", _SettingsParser.nonce_store)
    lease_seconds: float = _setting("LEASE_SECONDS", "10", _SettingsParser.seconds, "3", "300")
    skip_overlap_wait: bool = _setting("SKIP_OVERLAP_WAIT", "0", _SettingsParser.boolean)
    price_source: str = _setting("PRICE_SOURCE", "auto", _SettingsParser.price_source)
    market_speed: float = _setting("MARKET_SPEED", "1", _SettingsParser.speed)
    pairs: tuple[str, ...] = _setting("PAIRS", "BTC/USD", _SettingsParser.pairs)
    timeframe: str = _setting("TIMEFRAME", "1h", _SettingsParser.choice, TIMEFRAMES)
    strategy: str = _setting("STRATEGY", "moving_average", _SettingsParser.strategy)
    order_value: Decimal = _setting("ORDER_VALUE", "100", _SettingsParser.size)
    max_order_value: Decimal = _setting("MAX_ORDER_VALUE", "250", _SettingsParser.size)
    max_position_value: Decimal = _setting("MAX_POSITION_VALUE", "500", _SettingsParser.size)
    max_daily_loss: Decimal = _setting("MAX_DAILY_LOSS", "50", _SettingsParser.size)
    cooldown_seconds: float = _setting("COOLDOWN_SECONDS", "3600", _SettingsParser.seconds, "0")
    max_slippage_percent: Decimal = _setting("MAX_SLIPPAGE_PERCENT", "1", _SettingsParser.decimal, "0.01", "20")
    stop_loss_percent: Decimal = _setting("STOP_LOSS_PERCENT", "0", _SettingsParser.decimal, "0", "90")
    entry_ttl_seconds: int = _setting("ENTRY_TTL_SECONDS", "0", _SettingsParser.integer, "0", "2592000")
    cancel_entries_on_stop: bool = _setting("CANCEL_ENTRIES_ON_STOP", "1", _SettingsParser.boolean)
    dead_man_switch_seconds: int = _setting("DEAD_MAN_SWITCH_SECONDS", "0", _SettingsParser.dead_man_switch_seconds)
    allow_withdraw_key: bool = _setting("ALLOW_WITHDRAW_KEY", "0", _SettingsParser.boolean)
    bot_id: str = _setting("BOT_ID", "", _SettingsParser.bot_id)
    tier: Tier = _setting("KRAKEN_TIER", "starter", _SettingsParser.tier)
    # None: not set; 0: no page.
    port: int | None = _setting("PORT", "", _SettingsParser.port)
    status_token: Secret = _setting("STATUS_TOKEN", "", _SettingsParser.status_token)
    log_format: str = _setting("LOG_FORMAT", "auto", _SettingsParser.choice, LOG_FORMATS)
    alert_webhook_url: Secret = _setting("ALERT_WEBHOOK_URL", "", _SettingsParser.webhook_url)
    heartbeat_url: Secret = _setting("HEARTBEAT_URL", "", _SettingsParser.webhook_url)

    # The sizes that are not set.
    default_sizes: tuple[str, ...] = field(default=(), compare=False)

    def sizes(self) -> dict[str, Decimal]:
        """Return every size by its name, in the quote currency."""
        sizes = (self.order_value, self.max_order_value, self.max_position_value, self.max_daily_loss)
        return dict(zip(SIZE_NAMES, sizes, strict=True))

    def check_sizes(self, quote: str) -> None:
        """Raise SettingsError where a size has its default and the quote currency is not money: 100 are not 100 BTC."""
        if quote in FIAT_ASSETS | STABLE_ASSETS or not self.default_sizes:
            return
        names = ", ".join(self.default_sizes)
        raise SettingsError([f"PAIRS is priced in {quote}, for which the defaults are no sensible sizes: set {names}."])

    def secrets(self) -> list[str]:
        """Return the contents of all that must never be shown."""
        values = (getattr(self, one.name) for one in fields(self))
        return [str.__str__(value) for value in values if isinstance(value, Secret) and value]


# The default of each variable, as text.
DEFAULTS: dict[str, str] = {one.metadata["name"]: one.metadata["default"] for one in fields(Settings) if one.metadata}
# A secret can come from a file.
DEFAULTS |= {f"{name}_FILE": "" for name in ("KRAKEN_API_KEY", "KRAKEN_API_SECRET", "STATUS_TOKEN")}

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

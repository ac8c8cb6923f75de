"""Each code rule finds its violations and accepts valid code."""

from __future__ import annotations

import os
import socket

import pytest

from bot import config
from tests import code_rules, money_rules, tree_rules
from tests.code_rules import Rule, Source
from tests.conftest import OUR_VARIABLES, OutsideError, is_loopback

VIOLATIONS: list[tuple[Rule, str]] = [
    (code_rules.import_inside_function, "def f():\n    if x:\n        import json"),
    (code_rules.import_inside_function, "class A:\n    def f(self):\n        from json import loads"),
    (code_rules.relative_import, "from . import models"),
    (code_rules.global_statement, "def f():\n    global x"),
    (code_rules.environment, "import os\nos.environ['PORT']"),
    (code_rules.environment, "import os\nport = os.getenv('PORT')"),
    (code_rules.environment, "from os import environ"),
    (code_rules.environment, "from dotenv import load_dotenv"),
    (code_rules.clock, "import time"),
    (code_rules.clock, "from time import monotonic"),
    (code_rules.clock, "from datetime import datetime, UTC\ndatetime.now(UTC)"),
    (code_rules.clock, "import datetime\ndatetime.datetime.utcnow()"),
    (code_rules.clock, "from datetime import date\ndate.today()"),
    (code_rules.broad_except, "try:\n    f()\nexcept Exception:\n    pass"),
    (code_rules.broad_except, "try:\n    f()\nexcept:\n    pass"),
    (code_rules.broad_except, "try:\n    f()\nexcept (OSError, BaseException) as error:\n    raise X from error"),
    (code_rules.broad_except, "import contextlib\nwith contextlib.suppress(Exception):\n    f()"),
    (code_rules.unsafe, "import pickle"),
    (code_rules.unsafe, "from marshal import loads"),
    (code_rules.unsafe, "import subprocess"),
    (code_rules.unsafe, "x = eval(text)"),
    (code_rules.unsafe, "exec(text)"),
    (code_rules.unsafe, "run = eval"),
    (code_rules.unsafe, "import os\nos.system('ls')"),
    (code_rules.unsafe, "from os import execv"),
    (code_rules.unsafe, "import yaml\nyaml.load(stream)"),
    (code_rules.unsafe, "from tempfile import mktemp"),
    (code_rules.unsafe, "run('ls', shell=True)"),
    (code_rules.docstrings, "x = 1"),
    (code_rules.docstrings, '"""M."""\ndef f(): pass'),
    (code_rules.docstrings, '"""M."""\nclass A: pass'),
    (code_rules.docstrings, '"""M."""\nclass A:\n    """A."""\n    def f(self): pass'),
    (code_rules.test_docstrings, "def test_x(): pass"),
    (money_rules.float_money, "def f(limit_price: float): pass"),
    (money_rules.float_money, "class Order:\n    volume: float | None = None"),
    (money_rules.float_money, "def free_balance(self) -> dict[str, float]: pass"),
    (money_rules.float_money, "fee = 0.004"),
    (money_rules.float_money, "x = order.price * 1.01"),
    (money_rules.float_money, "if -0.5 < self.equity: pass"),
    (money_rules.float_money, "place(quantity=0.1)"),
    (money_rules.float_money, "x = Decimal(0.1)"),
    (money_rules.float_money, "price = float(row['c'])"),
    (money_rules.float_money, "price = float(time_value)"),
    (money_rules.float_money, "x = float(text)"),
]
VALID: list[tuple[Rule, str]] = [
    (code_rules.import_inside_function, "if TYPE_CHECKING:\n    import json"),
    (code_rules.environment, "import os\nos.path.join(environ)"),
    (
        code_rules.clock,
        "from bot.base.clock import MarketClock\nMarketClock().now()\nfrom datetime import datetime, UTC",
    ),
    (code_rules.broad_except, "try:\n    f()\nexcept BaseException:\n    keep()\n    raise"),
    (code_rules.broad_except, "try:\n    f()\nexcept ValueError:\n    pass"),
    (code_rules.unsafe, "import re\nre.compile('x')\nconnection.execute('x')\nyaml.safe_load(stream)"),
    (code_rules.docstrings, '"""M."""\ndef _f(): pass\nclass _A:\n    def f(self): pass'),
    (code_rules.docstrings, '"""M."""\ndef f():\n    """F."""\n    def g(): pass'),
    (code_rules.test_docstrings, 'def test_x():\n    """X."""\ndef helper(): pass'),
    (money_rules.float_money, "def f(price: Decimal, timeout_seconds: float = 0.5, open_seconds: float = 1.0): pass"),
    (money_rules.float_money, "wait_seconds = 0.1 * 2\nx = Decimal('0.1') * price"),
    (money_rules.float_money, "Order(opened_seconds=float(row['opentm']), price=Decimal(row['price']))"),
    (money_rules.float_money, "OpenBreaker(float(row['until_seconds']))\nNEVER = float('inf')"),
]


@pytest.mark.parametrize(("rule", "text"), VIOLATIONS)
def test_rule_finds_its_violation(rule: Rule, text: str) -> None:
    """A small violation of the rule is found."""
    assert rule(Source("bot.example", text)) != []


@pytest.mark.parametrize(("rule", "text"), VALID)
def test_rule_accepts_valid_code(rule: Rule, text: str) -> None:
    """Valid code close to the rule is accepted."""
    assert rule(Source("bot.example", text)) == []


@pytest.mark.parametrize(
    ("rule", "name", "neighbour", "text"),
    [
        (code_rules.environment, "bot.config", "bot.config_check", "import os\nos.environ"),
        (code_rules.clock, "bot.base.clock", "bot.simulator.clock", "import time"),
        (
            code_rules.broad_except,
            "bot.trading.trader",
            "bot.trading.risk",
            "try:\n    f()\nexcept Exception:\n    stop()",
        ),
        (
            code_rules.broad_except,
            "bot.base.events",
            "bot.base.errors",
            "try:\n    f()\nexcept Exception:\n    stop()",
        ),
        (
            code_rules.import_inside_function,
            "bot.dashboard.listener",
            "bot.cli.run",
            "def f():\n    import uvicorn",
        ),
        (money_rules.float_money, "bot.simulator.prices_synthetic", "bot.simulator.market", "price = 0.1"),
    ],
)
def test_rule_has_one_exempt_module(rule: Rule, name: str, neighbour: str, text: str) -> None:
    """The exempt module may do what the rule forbids, and its neighbour may not."""
    assert rule(Source(name, text)) == []
    assert rule(Source(neighbour, text)) != []


def test_main_may_import_the_command_line_only() -> None:
    """An import of another package is found in main.py; one of the command line is not, nor any in another module."""
    text = "import sys\nfrom bot.cli.start import start\nfrom bot import client\nfrom bot.app.session import HALT"
    assert code_rules.main_imports(Source("main", text)) == ["main:3: bot.client", "main:4: bot.app.session.HALT"]
    assert code_rules.main_imports(Source("bot.cli.run", text)) == []


def test_only_one_broad_except_is_allowed() -> None:
    """The second broad except in the trader is found."""
    one = "try:\n    f()\nexcept Exception:\n    stop()\n"
    assert code_rules.broad_except(Source("bot.trading.trader", one * 2)) == ["bot.trading.trader:7: broad except"]


def test_unused_module_is_found() -> None:
    """A module that nothing imports is found; an imported module, a package and an entry point are not."""
    names = ("main", "bot", "bot.used", "bot.unused", "bot.sim", "bot.sim.__main__")
    sources = [Source(name, "from bot import used" if name == "main" else "") for name in names]
    assert tree_rules.dead_modules(sources) == ["nothing imports bot.unused"]


def test_unexpected_top_level_file_is_found() -> None:
    """A path outside the fixed top level is found, and a path within it is not."""
    assert tree_rules.top_level(["bot/base/clock.py", "notes.md", "FIXED/x"]) == ["FIXED", "notes.md"]


@pytest.mark.parametrize(
    "line",
    [
        "done " + chr(0x2705),
        "done " + chr(0x2713),
        "go " + chr(0x1F680),
        "see /ro" + "ot/x",
        '"/wo' + 'rk/shared"',
        "https://py" + "pi.org/simple",
        "--index" + "-url",
        "# TO" + "DO later",
    ],
)
def test_text_problem_is_found(line: str) -> None:
    """A line with a picture, a machine's path, a registry's address or postponed work is found."""
    assert len(tree_rules.text_problems("x.md", line)) == 1


@pytest.mark.parametrize(
    "line", ["1 -> 2, 5 € or 5 µs", "api.kraken.com/0/private", "XXBTZUSD", "https://a.io/wo" + "rk/"]
)
def test_plain_text_passes(line: str) -> None:
    """Currency and unit signs, addresses and Kraken's names are not found."""
    assert tree_rules.text_problems("x.md", line) == []


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        *((host, True) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost", b"localhost", None)),
        *((host, False) for host in ("203.0.113.1", "10.0.0.1", "::2", "api.kraken.com")),
    ],
)
def test_loopback_hosts_are_recognised(host: object, loopback: bool) -> None:
    """Only this machine's own addresses and names count as loopback."""
    assert is_loopback(host) is loopback


def test_a_connection_to_the_outside_is_refused() -> None:
    """In a test, connecting to an address beyond this machine raises before a packet leaves."""
    with socket.socket() as sock, pytest.raises(OutsideError, match=r"203\.0\.113\.1"):
        sock.connect(("203.0.113.1", 443))
    with socket.socket() as sock, pytest.raises(OutsideError, match=r"203\.0\.113\.1"):
        sock.connect_ex(("203.0.113.1", 443))


def test_dns_lookup_of_an_outside_name_is_refused() -> None:
    """In a test, asking for the address of a name beyond this machine raises."""
    with pytest.raises(OutsideError, match=r"api\.kraken\.com"):
        socket.create_connection(("api.kraken.com", 443))


def test_a_connection_to_loopback_is_let_through() -> None:
    """In a test, a server on loopback can be reached by name."""
    server = socket.create_server(("127.0.0.1", 0))
    with server, socket.create_connection(("localhost", server.getsockname()[1])) as client:
        assert client.getpeername() == server.getsockname()


def test_no_setting_of_the_user_reaches_the_tests() -> None:
    """Of all settings of the bot, the tests' environment has the paper mode, no page, and text output only."""
    ours = {name: value for name, value in os.environ.items() if name.startswith(OUR_VARIABLES)}
    assert ours == {"TRADING_MODE": "paper", "PORT": "0", "LOG_FORMAT": "text"}


def test_every_setting_is_kept_from_the_tests() -> None:
    """The tests remove every setting of the program from the environment."""
    names = (*config.DEFAULTS, *config.RENAMED_SETTINGS)
    assert [name for name in names if not name.startswith(OUR_VARIABLES)] == []

"""The state file: it survives SIGKILL, and damage is one clear error."""

from __future__ import annotations

import random
import signal
import socket
import sqlite3
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import requests

from bot.simulator.errors import SimulatorError, StateFileError
from bot.simulator.keys import sign
from bot.simulator.options import SimulatorOptions
from bot.simulator.server import Simulator
from tests.child_process import Child
from tests.simulator_parts import KrakenexClient

MARKET_ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "market", "volume": "0.001"}
RESTING_ORDER = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "price": "1000", "volume": "0.001"}


def options(path: Path) -> SimulatorOptions:
    """Return options with a state file."""
    return SimulatorOptions(state_path=path)


def create_account(path: Path) -> None:
    """Create an account with a trade and an open order, and close it."""
    with Simulator(options(path)) as simulator:
        client = KrakenexClient(simulator)
        for order in (MARKET_ORDER, RESTING_ORDER):
            assert client.private("AddOrder", **order)["error"] == []
        client.close()


class SimulatorProcess:
    """`python -m bot.simulator` in a child process, and signed requests to it."""

    def __init__(self, child: Child) -> None:
        first = child.read_line()
        assert first.startswith("Kraken simulator on http://127.0.0.1:")
        self.url = first.rpartition(" ")[2]
        self.key, self.secret = child.read_line().split()[1], child.read_line().split()[1]

    def _request(self, nonce: int, method: str, params: str) -> tuple[str, str, dict[str, str]]:
        path, body = f"/0/private/{method}", f"nonce={nonce}{params}"
        signature = sign(self.secret, path, str(nonce), body)
        kind = "application/x-www-form-urlencoded"
        return path, body, {"API-Key": self.key, "API-Sign": signature, "Content-Type": kind}

    def call(self, nonce: int, method: str, params: str = "") -> Any:
        """Send one private request and return the response."""
        path, body, headers = self._request(nonce, method, params)
        with requests.Session() as session:
            session.trust_env = False
            return session.post(self.url + path, body, headers=headers, timeout=10).json()

    def send_only(self, nonce: int, method: str, params: str) -> socket.socket:
        """Send one private request and do not wait for the response."""
        path, body, headers = self._request(nonce, method, params)
        lines = [f"POST {path} HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        connection = socket.create_connection(("127.0.0.1", int(self.url.rpartition(":")[2])), 10)
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n" + body).encode())
        return connection


def test_an_account_survives_sigkill_at_any_moment(tmp_path: Path, full_size: bool) -> None:
    """Killed repeatedly with a request in flight: every answered request is stored, and the account is consistent."""
    path, chooser = tmp_path / "account.db", random.Random(7)
    order = "&pair=XBTUSD&type=buy&ordertype=market&volume=0.0001"
    nonce, placed, keys, rounds = 0, list[str](), set(), 40 if full_size else 6
    for number in range(rounds):
        with Child("bot.simulator", "--port", "0", "--state", path, "--tier", "unlimited") as child:
            program = SimulatorProcess(child)
            keys.add((program.key, program.secret))
            if placed:
                assert program.call(nonce - 1, "Balance") == {"error": ["EAPI:Invalid nonce"]}, f"round {number}"
            for _ in range(chooser.randint(1, 5)):
                nonce += 1
                answer = program.call(nonce, "AddOrder", order)
                assert answer["error"] == [], f"round {number}"
                placed += answer["result"]["txid"]
            nonce += 1
            connection = program.send_only(nonce, "AddOrder", order)
            child.kill()
            connection.close()
    with Simulator(options(path)) as simulator:
        state, orders = simulator.api.state(), simulator.exchange.account.orders
    assert [txid for txid in placed if txid not in orders] == []
    assert state["problems"] == []
    assert len(placed) <= state["trades"] <= len(placed) + rounds
    assert len(keys) == 1


def test_a_new_account_is_saved_before_the_first_request(tmp_path: Path) -> None:
    """Killed as soon as it has printed its key, the program prints the same key in its next run."""
    keys = []
    for _ in range(2):
        with Child("bot.simulator", "--port", "0", "--state", tmp_path / "account.db") as child:
            program = SimulatorProcess(child)
            keys.append((program.key, program.secret))
            child.kill()
    assert keys[0] == keys[1]


def test_a_saved_account_resumes_unchanged(tmp_path: Path) -> None:
    """Balances, open order, key and nonce floor are the same in the next run, and the account is not new."""
    path = tmp_path / "account.db"
    seen = []
    for _ in range(2):
        with Simulator(options(path)) as simulator:
            if simulator.is_new:
                client = KrakenexClient(simulator)
                for order in (MARKET_ORDER, RESTING_ORDER):
                    client.private("AddOrder", **order)
                client.close()
            state = simulator.api.state()
            seen.append((simulator.key, simulator.secret, state["floors"], state["balances"], state["open_orders"]))
    assert seen[0] == seen[1]
    assert seen[0][2] == {seen[0][0]: "2"}
    assert seen[0][4] == 1


def test_the_state_file_is_for_its_owner_only(tmp_path: Path) -> None:
    """The file contains the secret, so its mode is 0600."""
    path = tmp_path / "account.db"
    create_account(path)
    assert path.stat().st_mode & 0o777 == 0o600


def overwrite(path: Path) -> None:
    """Replace the content of the file."""
    path.write_bytes(b"this is no account" * 100)


def zero_second_half(path: Path) -> None:
    """Fill the second half with zeros."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2] + bytes(len(content) - len(content) // 2))


def truncate(path: Path) -> None:
    """Remove the second half."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def execute_sql(path: Path, *commands: str) -> None:
    """Change records directly in the database."""
    database = sqlite3.connect(path)
    with database:
        for command in commands:
            database.execute(command)
    database.close()


@pytest.mark.parametrize("damage", [overwrite, zero_second_half, truncate], ids=lambda damage: damage.__name__)
def test_a_damaged_state_file_is_refused(tmp_path: Path, damage: object) -> None:
    """For any damaged bytes: the error names the path and the remedy, and the file stays unchanged."""
    path = tmp_path / "account.db"
    create_account(path)
    assert callable(damage)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StateFileError, match=r"account\.db is damaged .*Move the file away to begin a new account"):
        Simulator(options(path))
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("command", "problem"),
    [
        ("DELETE FROM trades", "does not add up"),
        ("DELETE FROM facts", "is damaged"),
        ("DELETE FROM facts WHERE name = 'salt'", "is damaged"),
        ("UPDATE orders SET body = '{}'", "is damaged"),
        ("UPDATE orders SET body = 'x'", "is damaged"),
        ("UPDATE trades SET body = json_set(body, '$.price', 1.5)", "is damaged"),
        ("UPDATE orders SET body = json_set(body, '$.executed', '0')", "does not add up"),
        ("UPDATE facts SET value = '99' WHERE name = 'format'", "has format 99"),
        ("UPDATE facts SET value = 'live prices' WHERE name = 'world'", "lives with live prices, not with synthetic"),
    ],
)
def test_invalid_records_are_refused(tmp_path: Path, command: str, problem: str) -> None:
    """A well-formed database with invalid records is refused, and no new account is created."""
    path = tmp_path / "account.db"
    create_account(path)
    execute_sql(path, command)
    with pytest.raises(StateFileError, match=problem):
        Simulator(options(path))


def test_a_file_in_use_is_refused(tmp_path: Path) -> None:
    """A second simulator on the same account is refused because the file is in use."""
    path = tmp_path / "account.db"
    with Simulator(options(path)), pytest.raises(StateFileError, match="in use by another program"):
        Simulator(options(path))


def test_a_path_that_cannot_be_a_file_is_refused(tmp_path: Path) -> None:
    """A folder at that path, or a file where a folder should be, is one clear error."""
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "account.db"):
        with pytest.raises(StateFileError, match="cannot be opened"):
            Simulator(options(path))


def test_a_failed_write_stops_the_exchange(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """If the file can no longer be written, every request is refused, and the log says why, once."""
    path = tmp_path / "account.db"
    with Simulator(options(path)) as simulator:
        client = KrakenexClient(simulator)
        storage = simulator._storage
        assert storage is not None
        storage._db.execute("PRAGMA query_only = ON")
        answers = [client.private("AddOrder", **MARKET_ORDER), client.public("Time")]
        failure = simulator.api.state()["failure"]
        client.close()
    assert answers == [{"error": ["EService:Unavailable"]}] * 2
    assert "cannot be used" in failure
    assert [record.getMessage() for record in caplog.records if failure in record.getMessage()] == [
        f"The local Kraken stands still until it is started again: {failure}"
    ]
    with Simulator(options(path)) as simulator:
        assert simulator.exchange.account.balances == {"ZUSD": Decimal(10000)}


def test_invalid_options_are_refused() -> None:
    """An unknown pair, tier, fault or balance is refused before anything is opened."""
    wrong = [
        SimulatorOptions(pairs=("BTC/XYZ",)),
        SimulatorOptions(pairs=()),
        SimulatorOptions(tier="gold"),
        SimulatorOptions(fault_rates={"bad_luck": 0.5}),
        SimulatorOptions(fault_rates={"reset": 2}),
        SimulatorOptions(balances={"ZUSD": "much"}),
        SimulatorOptions(key="key", secret="no Base64"),
    ]
    for one in wrong:
        with pytest.raises(SimulatorError):
            Simulator(one)


def test_an_unusable_port_is_refused() -> None:
    """A port that does not exist and one that is in use are refused by number."""
    with Simulator() as running:
        for port in (99_999, int(running.url.rpartition(":")[2])):
            with (
                pytest.raises(SimulatorError, match=f"Port {port} cannot be used"),
                Simulator(SimulatorOptions(port=port)),
            ):
                pass


def test_sigterm_exits_0_and_an_invalid_option_exits_2() -> None:
    """SIGTERM: exit 0. An invalid pair: exit 2 and one line on standard error."""
    with Child("bot.simulator", "--port", "0") as child:
        assert child.read_line().startswith("Kraken simulator on http://127.0.0.1:")
        child.signal(signal.SIGTERM)
        assert len(child.read_to_end()) == 2
    ended = subprocess.run(
        [sys.executable, "-m", "bot.simulator", "--pairs", "BTC/XYZ"], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, len(ended.stderr.splitlines())) == (2, "", 1)

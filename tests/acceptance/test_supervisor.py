"""`python main.py` as a service: running and healthy but without requests while something is wrong, trading after."""

from __future__ import annotations

import http.client
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from bot.simulator.options import SimulatorOptions
from tests.acceptance.local_kraken import FILLING, RESTING, SPEED, LocalKraken, local_kraken
from tests.acceptance.nonce_tools import raise_nonce_floor
from tests.acceptance.processes import BotProcess, run, running
from tests.server_processes import free_port

WAITING = r"^Waiting: "


class DashboardClient:
    """A client of the dashboard of a bot, found by the URL that the bot prints."""

    def __init__(self, bot: BotProcess) -> None:
        match = re.search(r"http://127\.0\.0\.1:(\d+)", bot.wait_for("^Dashboard: ")[0])
        assert match, bot.text
        self.port = int(match[1])

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the body of a response."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read().decode()
        connection.close()
        return response.status, body

    def snapshot(self) -> dict[str, Any]:
        """Return the status of /api/status."""
        status, body = self.get("/api/status")
        assert status == 200, body
        snapshot: dict[str, Any] = json.loads(body)
        return snapshot


@contextmanager
def running_service(settings: dict[str, str], until: str) -> Iterator[tuple[BotProcess, DashboardClient]]:
    """Run a service and continue once it has printed a line that matches `until`."""
    with running("run", "--forever", settings={**settings, "PORT": ""}, until=until) as bot:
        yield bot, DashboardClient(bot)


def refuse_key(kraken: LocalKraken) -> dict[str, str]:
    """Let Kraken not know the key."""
    return kraken.settings(KRAKEN_API_KEY="d3Jvbmc=")


def raise_key_floor(kraken: LocalKraken) -> dict[str, str]:
    """Raise the nonce floor of the key to nanoseconds."""
    raise_nonce_floor(kraken, time.time_ns())
    return kraken.settings()


def lock_key_out(kraken: LocalKraken) -> dict[str, str]:
    """Let Kraken answer with a lockout."""
    kraken.simulator.faults.raise_next("GetApiKeyInfo", "EGeneral:Temporary lockout")
    return kraken.settings()


def use_unreachable_store(kraken: LocalKraken) -> dict[str, str]:
    """Name a store where nothing listens."""
    return kraken.settings(NONCE_STORE="redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("set_up_failure", "message", "breaker"),
    [
        (refuse_key, "EAPI:Invalid key", "closed"),
        (raise_key_floor, "the key has already seen a higher one", "open"),
        (lock_key_out, "EGeneral:Temporary lockout", "open"),
        (use_unreachable_store, "127.0.0.1:1", "closed"),
    ],
)
def test_a_waiting_service_is_healthy_and_sends_nothing(
    state: Path, set_up_failure: Callable[[LocalKraken], dict[str, str]], message: str, breaker: str
) -> None:
    """With a wrong key, a higher nonce floor, a lockout or an unreachable store a service is healthy, not ready,
    reports why and how long it waits and its circuit breaker, and sends nothing meanwhile; stopped, it ends with 0."""
    with local_kraken(state) as kraken, running_service(set_up_failure(kraken), WAITING) as (bot, dashboard):
        waiting_line = bot.wait_for(WAITING)[0]
        assert message in waiting_line
        bot.wait_for(r"^The next attempt is in \d+ s\.$")
        request_count = len(kraken.request_methods)
        assert dashboard.get("/healthz")[0] == 200
        assert dashboard.get("/readyz") == (503, "waiting\n")
        assert "waiting" in run("status", settings={"STATE_DIR": str(state)}).text
        snapshot = dashboard.snapshot()
        assert (snapshot["state"], snapshot["ready"]) == ("waiting", False)
        assert message in snapshot["reason"]
        assert snapshot["nonce"]["circuit_breaker"] == breaker
        assert message in dashboard.get("/")[1]
        assert len(kraken.request_methods) == request_count
        assert bot.stop() == 0


def test_a_quoted_response_is_shown_without_secrets_or_control_characters(state: Path) -> None:
    """If a response of Kraken quotes key and secret, or has control characters or line breaks, neither dashboard nor
    output contains any of them; a long response is truncated."""
    with local_kraken(state) as kraken:
        quoted = f"EAPI:Invalid key {kraken.simulator.key} {kraken.simulator.secret} \x1b[2J\x9b1m\u202e\r\nforged "
        kraken.simulator.faults.raise_next("GetApiKeyInfo", quoted + "x" * 100_000)
        with running_service(kraken.settings(), "The next attempt") as (bot, dashboard):
            shown = dashboard.get("/api/status")[1] + dashboard.get("/")[1]
            assert "EAPI:Invalid key" in dashboard.snapshot()["reason"]
            for secret in (kraken.simulator.key, kraken.simulator.secret):
                assert secret not in shown
            assert all(character.isprintable() for character in bot.text.replace("\n", ""))
            assert not any(line.startswith("forged") for line in bot.lines)
            assert max(map(len, bot.lines)) < 2000
            assert bot.stop() == 0


def test_an_order_with_an_unknown_outcome_is_reported_while_the_service_waits(state: Path) -> None:
    """A service whose key is refused reports the unresolved order of an earlier run."""
    with local_kraken(state, RESTING, speed=10) as kraken:
        kraken.simulator.faults.fire_next("answer_502", "AddOrder")
        with running(settings=kraken.settings(), until=": unknown, ") as first_run:
            first_run.kill()
        kraken.simulator.faults.raise_next("GetApiKeyInfo", "EAPI:Invalid key")
        with running_service(kraken.settings(), WAITING) as (bot, dashboard):
            snapshot = dashboard.snapshot()
            assert snapshot["state"] == "waiting"
            assert [order["cl_ord_id"] for order in snapshot["unknown_orders"]] == [kraken.orders[0].cl_ord_id]
            assert bot.stop() == 0


def test_a_service_trades_once_kraken_is_reachable(state: Path) -> None:
    """A service that starts while Kraken is unreachable waits, and trades once Kraken is reachable; no nonce is
    refused."""
    port = free_port()
    options = SimulatorOptions(tier="pro", port=port, key="c29tZWtleQ==", secret="c29tZXNlY3JldA==")
    settings = {
        "TRADING_MODE": "live",
        "KRAKEN_API_URL": f"http://127.0.0.1:{port}",
        "KRAKEN_API_KEY": options.key,
        "KRAKEN_API_SECRET": options.secret,
        "STATE_DIR": str(state),
        "SKIP_OVERLAP_WAIT": "1",
        "MARKET_SPEED": f"{SPEED:g}",
    }
    with (
        running_service(settings, WAITING) as (bot, dashboard),
        local_kraken(state, FILLING, options=options) as kraken,
    ):
        bot.wait_for("accepted as")
        assert dashboard.get("/readyz")[1] == "trading\n"
        assert kraken.request_methods.count("AddOrder") == 1
        assert bot.stop() == 0
        assert kraken.refused_nonces == 0


def test_a_second_service_on_the_state_folder_is_standby_and_takes_over(state: Path) -> None:
    """A second service on a state folder is a healthy standby and reports that role; it takes over when the first has
    ended."""
    with local_kraken(state) as kraken, running_service(kraken.settings(), "^Account: ") as (first, _):
        with running_service(kraken.settings(), "^Standby: ") as (second, dashboard):
            assert f"process {first.pid} " in dashboard.snapshot()["reason"]
            assert dashboard.get("/healthz")[0] == 200
            assert dashboard.get("/readyz") == (503, "standby\n")
            assert dashboard.snapshot()["lease"]["role"] == "standby"
            assert "\nkraken_bot_leader 0.0\n" in dashboard.get("/metrics")[1]
            assert not any("account" in line for line in second.lines)
            assert first.stop() == 0
            second.wait_for("^Account: ")
            assert second.stop() == 0
        assert kraken.refused_nonces == 0


def test_a_wrong_setting_ends_the_service(state: Path) -> None:
    """A service with wrong settings ends with exit code 2."""
    with local_kraken(state) as kraken:
        run("run", "--forever", settings=kraken.settings(PAIRS="NO/PAIR", PORT=""), exit_code=2)


def test_a_port_in_use_is_named(state: Path) -> None:
    """If the port that PORT names is in use, the start ends with exit code 2 and one sentence that says so."""
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
        bot = run(settings={"STATE_DIR": str(state), "PORT": str(port)}, exit_code=2)
    assert [line for line in bot.lines if line.startswith("Stopped: ")] == [
        f"Stopped: PORT is {port}, which cannot be used: Address already in use. Free it or name another."
    ]


def test_status_reports_what_the_dashboard_reports(state: Path) -> None:
    """`status`, as text or with --json, reports what the running bot's dashboard reports; before the bot starts and
    after it is killed it ends with exit code 8."""
    settings = {"STATE_DIR": str(state)}
    assert f"no bot is running on {state}" in run("status", settings=settings, exit_code=8).text
    with local_kraken(state) as kraken, running_service(kraken.settings(), "^Account: ") as (bot, dashboard):
        bot.wait_for("Watching|nothing to do")
        status_text = run("status", settings=settings).text
        snapshot, status_json = dashboard.snapshot(), json.loads(run("status", "--json", settings=settings).text)
        assert snapshot["nonce"]["location"] in status_text
        assert "LIVE, trading" in status_text
        assert status_json.keys() == snapshot.keys()
        assert status_json["limits"] == snapshot["limits"]
        bot.kill()
        assert (
            f"no bot answers at http://127.0.0.1:{dashboard.port}" in run("status", settings=settings, exit_code=8).text
        )


def test_status_sends_the_token_only_to_its_own_bot(state: Path) -> None:
    """If the bot is dead and another server listens at its address, `status` ends with exit code 8 and does not send
    the token."""
    with socket.create_server(("127.0.0.1", 0)) as other_server:
        write_stale_lock(state, f"http://127.0.0.1:{other_server.getsockname()[1]}")
        settings = {"STATE_DIR": str(state), "STATUS_TOKEN": "a-token-of-this-test"}
        run("status", settings=settings, exit_code=8)
        other_server.setblocking(False)
        with pytest.raises(BlockingIOError):
            other_server.accept()


def test_status_rejects_invalid_responses(state: Path) -> None:
    """If another server answers at the address, `status` ends with exit code 8."""
    for response_body in (b"[1]", b"[" * 100_000):
        with socket.create_server(("127.0.0.1", 0)) as other_server:
            write_stale_lock(state, f"http://127.0.0.1:{other_server.getsockname()[1]}")
            answering = threading.Thread(target=answer_once, args=(other_server, response_body))
            answering.start()
            run("status", settings={"STATE_DIR": str(state)}, exit_code=8)
            answering.join()


def write_stale_lock(state: Path, address: str) -> None:
    """Write the instance file of a killed bot."""
    state.mkdir(exist_ok=True)
    (state / "bot.json").write_text(json.dumps({"pid": 1, "host": "host", "status_url": address}))


def answer_once(server: socket.socket, body: bytes) -> None:
    """Answer one request with this body."""
    connection, _ = server.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)


def test_status_reports_a_disabled_dashboard(state: Path) -> None:
    """With PORT=0 there is no dashboard, and `status` says so."""
    settings = {"STATE_DIR": str(state), "PORT": "0"}
    with running(settings=settings, until="^Account: ") as bot:
        assert not any(line.startswith("page ") for line in bot.lines)
        assert "without a page" in run("status", settings=settings, exit_code=8).text
        assert bot.stop() == 0


def test_status_reports_a_missing_status_token(state: Path) -> None:
    """If PORT is set without STATUS_TOKEN, `status` reports a missing token, not a wrong one."""
    with socket.create_server(("", 0)) as listener:
        port = listener.getsockname()[1]
    settings = {"STATE_DIR": str(state), "PORT": str(port)}
    with running(settings=settings, until="^Account: ") as bot:
        assert "it has no STATUS_TOKEN" in run("status", settings=settings, exit_code=8).text
        assert bot.stop() == 0


def post_pause_entries(dashboard: DashboardClient, confirm: str = "stop") -> int:
    """Submit the dashboard's form to pause entries; return the status of the response."""
    csrf = re.search(r'name="csrf" value="([^"]+)"', dashboard.get("/")[1])
    assert csrf
    connection = http.client.HTTPConnection("127.0.0.1", dashboard.port, timeout=10)
    form = urlencode({"csrf": csrf[1], "confirm": confirm})
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{dashboard.port}"}
    connection.request("POST", "/stop", form, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_dashboard_pauses_entries_until_resume(state: Path) -> None:
    """Entries paused on the dashboard stay paused after a restart, and a resting one is canceled; `resume` ends the
    pause. Without the confirmation nothing happens."""
    # Short candles: the bot runs a cycle after each, and not only every ten seconds.
    closes = (*RESTING, *(RESTING[-1:] * 300))
    with local_kraken(state, closes, candle_seconds=60, timeframe="1m") as kraken:
        with running_service(kraken.settings(ENTRY_TTL_SECONDS="86400"), "accepted as") as (bot, dashboard):
            assert post_pause_entries(dashboard, confirm="") == 400
            assert dashboard.snapshot()["entries"] == "open"
            assert post_pause_entries(dashboard) == 303
            bot.wait_for("Entries are paused")
            bot.wait_for("canceled: buy")
            assert dashboard.snapshot()["entries"] == "paused"
            assert kraken.open_orders() == []
            assert bot.stop() == 0
        with running_service(kraken.settings(), "Entries are paused") as (bot, dashboard):
            assert dashboard.snapshot()["entries"] == "paused"
            assert run("resume", settings=kraken.settings()).lines == ["Entries are no longer paused."]
            bot.wait_for("Entries are no longer paused")
            assert bot.stop() == 0
        assert run("resume", settings=kraken.settings()).lines == [f"Entries were not paused in {state}."]
        assert kraken.request_methods.count("AddOrder") == 1

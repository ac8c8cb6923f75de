"""`python main.py` as a service: up, healthy and silent as long as something is wrong, and trading once it is not."""

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
from tests.acceptance.nonce_tools import burn
from tests.acceptance.processes import Bot, run, running
from tests.server_processes import free_port

WAITING = r"^waiting  "


class Page:
    """The page of a bot on this machine, by what it says of it."""

    def __init__(self, bot: Bot) -> None:
        found = re.search(r"http://127\.0\.0\.1:(\d+)", bot.wait_for("^page ")[0])
        assert found, bot.text
        self.port = int(found[1])

    def get(self, path: str) -> tuple[int, str]:
        """Return the status and the body of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        body = answer.read().decode()
        connection.close()
        return answer.status, body

    def facts(self) -> dict[str, Any]:
        """Return what it tells to programs."""
        status, body = self.get("/api/status")
        assert status == 200, body
        facts: dict[str, Any] = json.loads(body)
        return facts


@contextmanager
def staying(settings: dict[str, str], until: str) -> Iterator[tuple[Bot, Page]]:
    """Run a service and go on when it has said a line that matches."""
    with running("run", "--stay", settings={**settings, "PORT": ""}, until=until) as bot:
        yield bot, Page(bot)


def refuses_the_key(kraken: LocalKraken) -> dict[str, str]:
    """Let Kraken not know the key."""
    return kraken.settings(KRAKEN_API_KEY="d3Jvbmc=")


def burns_the_key(kraken: LocalKraken) -> dict[str, str]:
    """Let the key have seen a nonce in nanoseconds."""
    burn(kraken, time.time_ns())
    return kraken.settings()


def locks_the_key_out(kraken: LocalKraken) -> dict[str, str]:
    """Let Kraken answer with a lockout."""
    kraken.simulator.faults.raise_next("GetApiKeyInfo", "EGeneral:Temporary lockout")
    return kraken.settings()


def has_no_store(kraken: LocalKraken) -> dict[str, str]:
    """Name a store where nothing listens."""
    return kraken.settings(NONCE_STORE="redis://127.0.0.1:1/0")


@pytest.mark.parametrize(
    ("trouble", "words", "breaker"),
    [
        (refuses_the_key, "EAPI:Invalid key", "closed"),
        (burns_the_key, "the key has already seen a higher one", "open"),
        (locks_the_key_out, "EGeneral:Temporary lockout", "open"),
        (has_no_store, "127.0.0.1:1", "closed"),
    ],
)
def test_it_stays_up_healthy_and_silent(
    state: Path, trouble: Callable[[LocalKraken], dict[str, str]], words: str, breaker: str
) -> None:
    """With a wrong key, a burnt key, a lockout or its store away a service is healthy, not ready, tells why and how
    long it waits and whether its key is silent, and sends nothing in between; stopped, it ends with 0."""
    with local_kraken(state) as kraken, staying(trouble(kraken), WAITING) as (bot, page):
        said = bot.wait_for(WAITING)[0]
        assert words in said
        bot.wait_for(r"^ +It is tried again in \d+ s\.$")
        sent = len(kraken.methods)
        assert page.get("/healthz")[0] == 200
        assert page.get("/readyz") == (503, "waiting\n")
        assert "waiting" in run("status", settings={"STATE_DIR": str(state)}).text
        facts = page.facts()
        assert (facts["state"], facts["ready"]) == ("waiting", False)
        assert words in facts["reason"]
        assert facts["nonce"]["breaker"] == breaker
        assert words in page.get("/")[1]
        assert len(kraken.methods) == sent
        assert bot.stop() == 0


def test_what_an_answer_quotes_is_shown_without_what_is_secret_or_unreadable(state: Path) -> None:
    """Where an answer of Kraken's quotes key and secret, has signs that move a terminal's cursor, or lines of its own,
    neither the page nor a terminal has any of it; and a long one is cut."""
    with local_kraken(state) as kraken:
        quoted = f"EAPI:Invalid key {kraken.simulator.key} {kraken.simulator.secret} \x1b[2J\x9b1m\u202e\r\nforged "
        kraken.simulator.faults.raise_next("GetApiKeyInfo", quoted + "x" * 100_000)
        with staying(kraken.settings(), "It is tried again") as (bot, page):
            shown = page.get("/api/status")[1] + page.get("/")[1]
            assert "EAPI:Invalid key" in page.facts()["reason"]
            for secret in (kraken.simulator.key, kraken.simulator.secret):
                assert secret not in shown
            assert all(one.isprintable() for one in bot.text.replace("\n", ""))
            assert not any(line.startswith("forged") for line in bot.lines)
            assert max(map(len, bot.lines)) < 2000
            assert bot.stop() == 0


def test_an_order_of_unknown_fate_is_told_while_it_waits(state: Path) -> None:
    """A service whose key is refused tells of the order that an earlier run has left unsettled."""
    with local_kraken(state, RESTING, speed=10) as kraken:
        kraken.simulator.faults.fire_next("answer_502", "AddOrder")
        with running(settings=kraken.settings(), until=": unknown, ") as killed:
            killed.kill()
        kraken.simulator.faults.raise_next("GetApiKeyInfo", "EAPI:Invalid key")
        with staying(kraken.settings(), WAITING) as (bot, page):
            facts = page.facts()
            assert facts["state"] == "waiting"
            assert [row["cl_ord_id"] for row in facts["unknown_orders"]] == [kraken.orders[0].cl_ord_id]
            assert bot.stop() == 0


def test_it_trades_once_kraken_can_be_reached(state: Path) -> None:
    """A service that is started while Kraken is away waits, and trades once Kraken is there; nothing is refused."""
    port = free_port()
    options = SimulatorOptions(tier="pro", port=port, key="c29tZWtleQ==", secret="c29tZXNlY3JldA==")
    settings = {
        "TRADING_MODE": "live",
        "KRAKEN_API_URL": f"http://127.0.0.1:{port}",
        "KRAKEN_API_KEY": options.key,
        "KRAKEN_API_SECRET": options.secret,
        "STATE_DIR": str(state),
        "SINGLE_INSTANCE": "1",
        "MARKET_SPEED": f"{SPEED:g}",
    }
    with staying(settings, WAITING) as (bot, page), local_kraken(state, FILLING, options=options) as kraken:
        bot.wait_for("accepted as")
        assert page.get("/readyz")[1] == "trading\n"
        assert kraken.methods.count("AddOrder") == 1
        assert bot.stop() == 0
        assert kraken.refused_nonces == 0


def test_a_second_one_on_the_folder_stands_by_and_takes_over(state: Path) -> None:
    """A second service on a state folder is a healthy, silent standby, and says so of its role; when the first has
    ended it trades."""
    with local_kraken(state) as kraken, staying(kraken.settings(), "^account ") as (first, _):
        with staying(kraken.settings(), "^standby ") as (second, page):
            assert f"process {first.pid} " in page.facts()["reason"]
            assert page.get("/healthz")[0] == 200
            assert page.get("/readyz") == (503, "standby\n")
            assert page.facts()["lease"]["role"] == "standby"
            assert "\nkraken_bot_leader 0.0\n" in page.get("/metrics")[1]
            assert not any("account" in line for line in second.lines)
            assert first.stop() == 0
            second.wait_for("^account ")
            assert second.stop() == 0
        assert kraken.refused_nonces == 0


def test_a_wrong_setting_ends_it(state: Path) -> None:
    """A service whose settings are wrong ends with exit code 2, as it does in a terminal."""
    with local_kraken(state) as kraken:
        run("run", "--stay", settings=kraken.settings(PAIRS="NO/PAIR", PORT=""), code=2)


def test_a_port_that_is_taken_is_named(state: Path) -> None:
    """Where another program has the port that PORT names, the start ends with 2 and one sentence that says so."""
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        bot = run(settings={"STATE_DIR": str(state), "PORT": str(port)}, code=2)
    assert [line for line in bot.lines if line.startswith("Stopped: ")] == [
        f"Stopped: PORT is {port}, which cannot be used: Address already in use. Free it or name another."
    ]


def test_status_tells_what_the_page_tells(state: Path) -> None:
    """`status` tells a person, and with --json a program, what the running bot's page tells; before the bot was there
    and once it is killed it ends with exit code 8."""
    settings = {"STATE_DIR": str(state)}
    assert f"no bot is running on {state}" in run("status", settings=settings, code=8).text
    with local_kraken(state) as kraken, staying(kraken.settings(), "^account ") as (bot, page):
        bot.wait_for("watching|nothing to do")
        told = run("status", settings=settings).text
        facts, listed = page.facts(), json.loads(run("status", "--json", settings=settings).text)
        assert facts["nonce"]["place"] in told
        assert "LIVE, trading" in told
        assert listed.keys() == facts.keys()
        assert listed["limits"] == facts["limits"]
        bot.kill()
        assert f"no bot answers at http://127.0.0.1:{page.port}" in run("status", settings=settings, code=8).text


def test_status_shows_the_token_to_its_own_bot_alone(state: Path) -> None:
    """Where the bot is dead and somebody else listens at the address that it left behind, `status` ends with exit code
    8 and shows nobody the token."""
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        leave_note(state, f"http://127.0.0.1:{somebody.getsockname()[1]}")
        settings = {"STATE_DIR": str(state), "STATUS_TOKEN": "a-token-of-this-test"}
        run("status", settings=settings, code=8)
        somebody.setblocking(False)
        with pytest.raises(BlockingIOError):
            somebody.accept()


def test_status_takes_no_nonsense(state: Path) -> None:
    """Where what answers at the address is no bot, `status` ends with exit code 8 and a sentence."""
    for nonsense in (b"[1]", b"[" * 100_000):
        with socket.create_server(("127.0.0.1", 0)) as somebody:
            leave_note(state, f"http://127.0.0.1:{somebody.getsockname()[1]}")
            answering = threading.Thread(target=answer_once, args=(somebody, nonsense))
            answering.start()
            run("status", settings={"STATE_DIR": str(state)}, code=8)
            answering.join()


def leave_note(state: Path, address: str) -> None:
    """Leave what a killed bot leaves."""
    state.mkdir(exist_ok=True)
    (state / "bot.json").write_text(json.dumps({"pid": 1, "host": "host", "status_url": address}))


def answer_once(server: socket.socket, body: bytes) -> None:
    """Answer one request with this."""
    link, _ = server.accept()
    with link:
        link.recv(4096)
        link.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + body)


def test_without_a_page_status_says_so(state: Path) -> None:
    """With PORT=0 there is no page, and `status` says that the bot tells nothing."""
    settings = {"STATE_DIR": str(state), "PORT": "0"}
    with running(settings=settings, until="^account ") as bot:
        assert not any(line.startswith("page ") for line in bot.lines)
        assert "without a page" in run("status", settings=settings, code=8).text
        assert bot.stop() == 0


def test_status_says_that_a_page_is_closed(state: Path) -> None:
    """Where PORT is given without STATUS_TOKEN, `status` says that the token is missing, and not that it is wrong."""
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
    settings = {"STATE_DIR": str(state), "PORT": str(port)}
    with running(settings=settings, until="^account ") as bot:
        assert "it has no STATUS_TOKEN" in run("status", settings=settings, code=8).text
        assert bot.stop() == 0


def stop_entries(page: Page, confirm: str = "stop") -> int:
    """Send the form of the page; return the status of the answer."""
    csrf = re.search(r'name="csrf" value="([^"]+)"', page.get("/")[1])
    assert csrf
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=10)
    form = urlencode({"csrf": csrf[1], "confirm": confirm})
    headers = {"Content-Type": "application/x-www-form-urlencoded", "Origin": f"http://127.0.0.1:{page.port}"}
    connection.request("POST", "/stop", form, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_pages_stop_ends_entries_until_resume(state: Path) -> None:
    """Entries that are stopped from the page stay stopped across a restart, and the one that rested is cancelled;
    `resume` lets them go on. Without the confirmation nothing happens."""
    # Short candles: after each the bot looks at what it is told, and not only every ten seconds.
    closes = (*RESTING, *(RESTING[-1:] * 300))
    with local_kraken(state, closes, seconds=60, timeframe="1m") as kraken:
        with staying(kraken.settings(ENTRY_LIFETIME_SECONDS="86400"), "accepted as") as (bot, page):
            assert stop_entries(page, confirm="") == 400
            assert page.facts()["entries"] == "open"
            assert stop_entries(page) == 303
            bot.wait_for("entries are stopped")
            bot.wait_for("canceled: buy")
            assert page.facts()["entries"] == "stopped"
            assert kraken.open_orders() == []
            assert bot.stop() == 0
        with staying(kraken.settings(), "entries are stopped") as (bot, page):
            assert page.facts()["entries"] == "stopped"
            assert run("resume", settings=kraken.settings()).lines == ["Entries go on."]
            bot.wait_for("entries go on")
            assert bot.stop() == 0
        assert run("resume", settings=kraken.settings()).lines == [f"Entries were not stopped in {state}."]
        assert kraken.methods.count("AddOrder") == 1

"""Who comes in at the gate before the status page, over real HTTP."""

from __future__ import annotations

import json
import logging
import tracemalloc

import pytest

from bot.dashboard.auth import Access, WrongTokens
from tests.dashboard_tools import COOKIE, TOKEN, Client, World, csrf_of, forged, wrong_tokens

CLOSED_PATHS = [
    "/",
    "/metrics",
    "/api/status",
    "/events",
    "/nothing",
    "/staticfile",
    "/healthz/",
    "/login/",
    "//healthz",
]


class TestLoopback:
    """Bound to loopback."""

    @pytest.mark.parametrize("path", ["/", "/metrics", "/api/status", "/nothing", "/healthz"])
    def test_open(self, local: World, client: Client, path: str) -> None:
        """Whoever is on this machine sees everything."""
        assert client.get(path).status == 200
        assert local.passed == [path]

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.8.9.10", "[::1]:8080", "[::1]"]
    )
    def test_its_names(self, local: World, client: Client, host: str) -> None:
        """It answers to the names of this machine."""
        assert client.get("/", Host=host).status == 200

    @pytest.mark.parametrize(
        "host",
        [
            "kraken.example",
            "127.0.0.1.kraken.example",
            "localhost.kraken.example:8080",
            "localhost@kraken.example",
            "10.0.0.1",
            "0.0.0.0",  # noqa: S104
            "[::2]",
            "[::1",
            "127.0.0.1:x@kraken.example",
            "2130706434",
            "",
        ],
    )
    def test_other_names(self, local: World, client: Client, host: str) -> None:
        """To a name that only leads here by somebody's DNS it does not answer, health included."""
        assert [client.get(path, Host=host).status for path in ("/", "/healthz", "/static/a")] == [421, 421, 421]
        assert local.passed == []

    def test_no_login(self, local: World, client: Client) -> None:
        """There is nothing to log in to."""
        assert client.get("/login").headers["location"] == "/"

    def test_stop_needs_its_own_page(self, local: World, client: Client) -> None:
        """A page of somebody else, open in the same browser, cannot stop entries."""
        form = {"csrf": csrf_of(client.get("/")), "confirm": "stop"}
        assert client.post("/stop", form, Sec_Fetch_Site="cross-site").status == 403
        assert client.post("/stop", {"csrf": "guess", "confirm": "stop"}).status == 403
        assert client.post("/stop", {"confirm": "stop"}).status == 403
        assert local.passed == ["/"]
        assert json.loads(client.post("/stop", form).text)["form"] == {"confirm": "stop"}

    def test_a_form_of_another_run(self, local: World, client: Client) -> None:
        """A page of a run before this one cannot stop entries."""
        old = csrf_of(client.get("/"))
        local.restart()
        assert client.post("/stop", {"csrf": old}).status == 403


class TestPublic:
    """Reachable from outside."""

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/static/page.css"])
    def test_open(self, world: World, client: Client, path: str) -> None:
        """Health and static files need no token."""
        assert client.get(path).status == 200

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("path", CLOSED_PATHS)
    def test_closed(self, world: World, client: Client, method: str, path: str) -> None:
        """Nothing else passes without a token, and what exists is not told."""
        answer = client.ask(method, path)
        assert (answer.status, answer.headers["location"]) == ((303, "/login") if path == "/" else (401, None))
        assert world.passed == []

    def test_stop_is_closed(self, world: World, client: Client) -> None:
        """Nobody stops entries without a token."""
        assert client.post("/stop", {"csrf": "", "confirm": "stop"}).status == 401
        assert world.passed == []

    def test_any_host(self, world: World, client: Client) -> None:
        """The platform's health check comes by a name of its own."""
        assert client.get("/healthz", Host="healthcheck.railway.app").status == 200

    @pytest.mark.parametrize("path", [*CLOSED_PATHS, "/login", "/static/page.css"])
    def test_no_token_set(self, world: World, client: Client, path: str) -> None:
        """Without a token to ask for, the page is closed, and says what to set."""
        world.token = ""
        world.restart()
        for shown in ({}, {"Authorization": "Bearer "}, {"Cookie": f"{COOKIE}={forged('', world)}"}):
            answer = client.get(path, **shown)
            assert answer.status == 403
            assert "Set STATUS_TOKEN." in answer.text
        assert client.log_in("").status == 403
        assert world.passed == []
        assert client.get("/healthz").status == client.get("/readyz").status == 200

    def test_no_token_lets_nobody_in(self) -> None:
        """Without a token, nobody comes in by an empty one, by a session made with it, or by a form without csrf."""
        access = Access("", is_public=True, now=lambda: 0.0, wall=lambda: 0.0)
        assert not access.log_in("peer", "").is_in
        assert not access.admit("peer", token="", cookie=None).is_in
        assert not access.admit("peer", token=None, cookie=access.new_cookie()).is_in
        assert not access.csrf_ok(None, "")

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
    def test_the_token(self, world: World, client: Client, scheme: str) -> None:
        """The token in the header opens everything."""
        assert client.get("/api/status", Authorization=f"{scheme} {TOKEN}").status == 200

    @pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"{TOKEN} {TOKEN}", "\xe9\xff"])
    def test_not_the_token(self, world: World, client: Client, token: str) -> None:
        """Anything else in the header opens nothing."""
        assert client.get("/api/status", Authorization=f"Bearer {token}").status == 401
        assert world.passed == []

    def test_not_by_address(self, world: World, client: Client) -> None:
        """A token in the address or as a password is not looked at."""
        assert client.get(f"/api/status?token={TOKEN}&access_token={TOKEN}").status == 401
        assert client.get("/api/status", Authorization=f"Basic {TOKEN}").status == 401


class TestSessions:
    """The login form and its cookie."""

    def test_login(self, world: World, client: Client) -> None:
        """The token in the form gives a session, which opens everything."""
        answer = client.log_in(f" {TOKEN}\n")
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert client.get("/api/status", Cookie=answer.cookie).status == 200

    def test_the_cookie(self, world: World, client: Client) -> None:
        """The cookie is kept from scripts and from other sites' requests, and lasts 30 days."""
        attributes = {part.strip().lower() for part in str(client.log_in().headers["set-cookie"]).split(";")[1:]}
        assert attributes == {"httponly", "samesite=strict", "path=/", "max-age=2592000"}

    @pytest.mark.parametrize("proto", ["https", "HTTPS", "https,http"])
    def test_secure(self, world: World, client: Client, proto: str) -> None:
        """Where the browser came by https, the cookie never leaves by http."""
        assert "Secure" in str(client.log_in(X_Forwarded_Proto=proto).headers["set-cookie"])

    def test_wrong_token(self, world: World, client: Client) -> None:
        """A wrong token shows the form again and gives nothing."""
        answer = client.log_in("wrong")
        assert (answer.status, answer.headers["set-cookie"]) == (401, None)
        assert "This is not the token." in answer.text
        assert world.passed == []

    def test_restart(self, world: World, client: Client) -> None:
        """A session outlives a restart."""
        cookie = client.log_in().cookie
        world.restart()
        assert client.get("/", Cookie=cookie).status == 200

    def test_another_token(self, world: World, client: Client) -> None:
        """A new token ends all sessions."""
        cookie = client.log_in().cookie
        world.token = TOKEN + "2"
        world.restart()
        answer = client.get("/api/status", Cookie=cookie)
        assert answer.status == 401
        assert answer.cookie == f'{COOKIE}=""'

    @pytest.mark.parametrize("later", [30 * 86_400, -301])
    def test_lifetime(self, world: World, client: Client, later: float) -> None:
        """A session ends after 30 days, one that is known too, and one from the future is none."""
        cookie = client.log_in().cookie
        assert client.get("/", Cookie=cookie).status == 200
        world.wall += later
        assert client.get("/", Cookie=cookie).status == 303
        world.restart()
        assert client.get("/", Cookie=cookie).status == 303
        world.wall += 1 if later < 0 else -1
        assert client.get("/", Cookie=cookie).status == 200

    @pytest.mark.parametrize("change", ["later", "cut", "case", "longer", "unsigned", "no dot", "octal", "empty"])
    def test_made_up(self, world: World, client: Client, change: str) -> None:
        """A session that was changed is none."""
        issued, _, signature = client.log_in().cookie.partition("=")[2].partition(".")
        value = {
            "later": f"{int(issued) + 1}.{signature}",
            "cut": f"{issued}.{signature[:-1]}",
            "case": f"{issued}.{signature.upper()}",
            "longer": f"{issued}.{signature}0",
            "unsigned": f"{issued}.",
            "no dot": f"{issued}{signature}",
            "octal": f'"\\777{issued}.{signature}"',
            "empty": "",
        }[change]
        assert client.get("/api/status", Cookie=f"{COOKIE}={value}").status == 401
        assert world.passed == []


class TestWrongTokens:
    """Guessing."""

    def test_ten_a_minute(self, world: World, client: Client) -> None:
        """After ten wrong tokens in a minute not even this peer's right one is looked at, until the minute is over."""
        assert wrong_tokens(client, 11) == [303] * 10 + [429]
        for answer in (client.log_in(), client.get("/", Authorization=f"Bearer {TOKEN}")):
            assert (answer.status, answer.headers["retry-after"]) == (429, "60")
        world.now += 59.9
        assert client.log_in().headers["retry-after"] == "1"
        world.now += 0.2
        assert client.log_in().status == 303

    def test_others(self, world: World, client: Client) -> None:
        """Another peer is not affected, and no header makes one of its senders another peer."""
        wrong_tokens(client, 10)
        assert client.log_in(X_Forwarded_For="127.0.0.9", Forwarded="for=127.0.0.9").status == 429
        assert Client(client.port, "127.0.0.2").log_in().status == 303

    def test_sixty_in_all(self, world: World, client: Client) -> None:
        """After sixty in a minute from any peers, no token is looked at."""
        for number in range(2, 8):
            assert wrong_tokens(Client(client.port, f"127.0.0.{number}"), 10) == [303] * 10
        assert client.log_in().status == 429

    @pytest.mark.parametrize("way", ["header", "form", "cookie"])
    def test_every_way_counts(self, world: World, client: Client, way: str) -> None:
        """A token is guessed no faster by form, or by the key of a cookie, than by header."""

        def guess(number: int) -> int:
            if way == "header":
                return client.get("/", Authorization=f"Bearer {number}").status
            if way == "form":
                return client.log_in(str(number)).status
            return client.get("/", Cookie=f"{COOKIE}={forged(str(number), world)}").status

        assert [guess(number) for number in range(11)] == [401 if way == "form" else 303] * 10 + [429]
        assert client.get("/", Cookie=f"{COOKIE}={forged(TOKEN, world)}").status == 429

    def test_sessions_go_on(self, world: World, client: Client) -> None:
        """Whoever is logged in goes on while somebody guesses, from the same address too."""
        cookie = client.log_in().cookie
        assert client.get("/", Cookie=cookie).status == 200
        wrong_tokens(client, 20)
        assert client.get("/", Cookie=cookie).status == 200

    def test_health_goes_on(self, world: World, client: Client) -> None:
        """The health check and the login form are not affected."""
        wrong_tokens(client, 20)
        assert client.get("/healthz").status == client.get("/login").status == 200

    def test_nothing_shown_is_no_guess(self, world: World, client: Client) -> None:
        """Requests without any token do not count."""
        assert {client.get("/api/status").status for _ in range(30)} == {401}
        assert client.log_in().status == 303

    def test_bounded(self, caplog: pytest.LogCaptureFixture) -> None:
        """However many peers guess, what is kept of them does not grow, and a minute has one line in the log."""
        clock = [0.0]
        wrong = WrongTokens(lambda: clock[0])

        def guesses(first: int) -> None:
            for number in range(first, first + 2000):
                clock[0] += 0.5
                if not wrong.wait_seconds(peer := f"peer {number}"):
                    wrong.add(peer)

        guesses(0)
        assert 0 < len(caplog.records) <= clock[0] / 60 + 1
        caplog.set_level(logging.ERROR, "bot.dashboard.auth")  # pytest keeps what is logged
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        guesses(2000)
        grown = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown < 20_000

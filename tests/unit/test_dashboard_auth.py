"""Access to the dashboard through the auth middleware, over real HTTP."""

from __future__ import annotations

import json
import logging
import tracemalloc

import pytest

from bot.dashboard.auth import Authenticator, FailedAttempts
from tests.dashboard_tools import COOKIE, TOKEN, AuthServer, Client, csrf_token_in, forge_session, send_wrong_tokens

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
    """A dashboard bound to loopback."""

    @pytest.mark.parametrize("path", ["/", "/metrics", "/api/status", "/nothing", "/healthz"])
    def test_everything_is_open(self, loopback_server: AuthServer, client: Client, path: str) -> None:
        """Any client on this machine may read everything."""
        assert client.get(path).status == 200
        assert loopback_server.passed_paths == [path]

    @pytest.mark.parametrize(
        "host", ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "127.8.9.10", "[::1]:8080", "[::1]"]
    )
    def test_loopback_hosts_are_accepted(self, loopback_server: AuthServer, client: Client, host: str) -> None:
        """The host names of this machine are accepted."""
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
    def test_other_hosts_are_refused(self, loopback_server: AuthServer, client: Client, host: str) -> None:
        """A host name that only resolves to this machine is refused, for health checks too."""
        assert [client.get(path, Host=host).status for path in ("/", "/healthz", "/static/a")] == [421, 421, 421]
        assert loopback_server.passed_paths == []

    def test_login_redirects_to_the_page(self, loopback_server: AuthServer, client: Client) -> None:
        """Without a token there is no login."""
        assert client.get("/login").headers["location"] == "/"

    def test_stop_requires_same_origin(self, loopback_server: AuthServer, client: Client) -> None:
        """A page of another origin, open in the same browser, cannot stop entries."""
        form = {"csrf": csrf_token_in(client.get("/")), "confirm": "stop"}
        assert client.post("/stop", form, Sec_Fetch_Site="cross-site").status == 403
        assert client.post("/stop", form, Sec_Fetch_Site="cross-site", Authorization="Bearer x").status == 403
        assert client.post("/stop", {"csrf": "guess", "confirm": "stop"}).status == 403
        assert client.post("/stop", {"confirm": "stop"}).status == 403
        assert loopback_server.passed_paths == ["/"]
        assert json.loads(client.post("/stop", form).text)["form"] == {"confirm": "stop"}

    def test_form_of_a_previous_run_is_refused(self, loopback_server: AuthServer, client: Client) -> None:
        """A form of a previous run cannot stop entries."""
        old_csrf_token = csrf_token_in(client.get("/"))
        loopback_server.restart()
        assert client.post("/stop", {"csrf": old_csrf_token}).status == 403


class TestPublic:
    """A dashboard reachable from outside."""

    @pytest.mark.parametrize("path", ["/healthz", "/readyz", "/static/page.css"])
    def test_health_and_static_files_are_open(self, public_server: AuthServer, client: Client, path: str) -> None:
        """Health and static files need no token."""
        assert client.get(path).status == 200

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize("path", CLOSED_PATHS)
    def test_everything_else_requires_a_token(
        self, public_server: AuthServer, client: Client, method: str, path: str
    ) -> None:
        """Without a token every other path is refused, whether it exists or not."""
        response = client.request(method, path)
        assert (response.status, response.headers["location"]) == ((303, "/login") if path == "/" else (401, None))
        assert public_server.passed_paths == []

    def test_stop_requires_a_token(self, public_server: AuthServer, client: Client) -> None:
        """Entries cannot be stopped without a token."""
        assert client.post("/stop", {"csrf": "", "confirm": "stop"}).status == 401
        assert public_server.passed_paths == []

    def test_any_host_is_accepted(self, public_server: AuthServer, client: Client) -> None:
        """Any host name is accepted, because a platform's health check uses its own."""
        assert client.get("/healthz", Host="healthcheck.railway.app").status == 200

    @pytest.mark.parametrize("path", [*CLOSED_PATHS, "/login", "/static/page.css"])
    def test_everything_is_closed_without_a_configured_token(
        self, public_server: AuthServer, client: Client, path: str
    ) -> None:
        """Without a configured token the dashboard is closed and names the setting to set."""
        public_server.token = ""
        public_server.restart()
        for headers in ({}, {"Authorization": "Bearer "}, {"Cookie": f"{COOKIE}={forge_session('', public_server)}"}):
            response = client.get(path, **headers)
            assert response.status == 403
            assert "Set STATUS_TOKEN." in response.text
        assert client.log_in("").status == 403
        assert public_server.passed_paths == []
        assert client.get("/healthz").status == client.get("/readyz").status == 200

    def test_empty_token_authenticates_nobody(self) -> None:
        """Without a configured token, an empty token, its session and a form without csrf are all refused."""
        authenticator = Authenticator("", is_public=True, monotonic=lambda: 0.0, wall_clock=lambda: 0.0)
        assert not authenticator.log_in("peer", "").is_allowed
        assert not authenticator.authenticate("peer", token="", cookie=None).is_allowed
        assert not authenticator.authenticate("peer", token=None, cookie=authenticator.new_session()).is_allowed
        assert not authenticator.is_csrf_valid(None, "")

    @pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER "])
    def test_bearer_token_is_accepted(self, public_server: AuthServer, client: Client, scheme: str) -> None:
        """The token in the header gives access to everything."""
        assert client.get("/api/status", Authorization=f"{scheme} {TOKEN}").status == 200

    @pytest.mark.parametrize("token", ["", "x", TOKEN[:-1], TOKEN + "x", TOKEN.upper(), f"{TOKEN} {TOKEN}", "\xe9\xff"])
    def test_wrong_bearer_token_is_refused(self, public_server: AuthServer, client: Client, token: str) -> None:
        """Any other header value gives no access."""
        assert client.get("/api/status", Authorization=f"Bearer {token}").status == 401
        assert public_server.passed_paths == []

    def test_token_in_url_or_basic_auth_is_ignored(self, public_server: AuthServer, client: Client) -> None:
        """A token in the URL or as a password is ignored."""
        assert client.get(f"/api/status?token={TOKEN}&access_token={TOKEN}").status == 401
        assert client.get("/api/status", Authorization=f"Basic {TOKEN}").status == 401


class TestSessions:
    """The login form and its cookie."""

    def test_login_creates_a_session(self, public_server: AuthServer, client: Client) -> None:
        """The token in the form creates a session that gives access to everything."""
        answer = client.log_in(f" {TOKEN}\n")
        assert (answer.status, answer.headers["location"]) == (303, "/")
        assert client.get("/api/status", Cookie=answer.cookie).status == 200

    def test_cookie_attributes(self, public_server: AuthServer, client: Client) -> None:
        """The cookie is HttpOnly and SameSite and lasts 30 days."""
        attributes = {part.strip().lower() for part in str(client.log_in().headers["set-cookie"]).split(";")[1:]}
        assert attributes == {"httponly", "samesite=strict", "path=/", "max-age=2592000"}

    @pytest.mark.parametrize("proto", ["https", "HTTPS", "https,http"])
    def test_cookie_is_secure_over_https(self, public_server: AuthServer, client: Client, proto: str) -> None:
        """After a request over https the cookie is Secure."""
        assert "Secure" in str(client.log_in(X_Forwarded_Proto=proto).headers["set-cookie"])

    def test_wrong_token_shows_the_form_again(self, public_server: AuthServer, client: Client) -> None:
        """A wrong token shows the form again and creates no session."""
        answer = client.log_in("wrong")
        assert (answer.status, answer.headers["set-cookie"]) == (401, None)
        assert "This is not the token." in answer.text
        assert public_server.passed_paths == []

    def test_session_survives_a_restart(self, public_server: AuthServer, client: Client) -> None:
        """A session remains valid after a restart."""
        cookie = client.log_in().cookie
        public_server.restart()
        assert client.get("/", Cookie=cookie).status == 200

    def test_new_token_ends_all_sessions(self, public_server: AuthServer, client: Client) -> None:
        """A new token invalidates all sessions."""
        cookie = client.log_in().cookie
        public_server.token = TOKEN + "2"
        public_server.restart()
        answer = client.get("/api/status", Cookie=cookie)
        assert answer.status == 401
        assert answer.cookie == f'{COOKIE}=""'

    @pytest.mark.parametrize("shift_seconds", [30 * 86_400, -301])
    def test_session_expires_after_30_days(
        self, public_server: AuthServer, client: Client, shift_seconds: float
    ) -> None:
        """A session expires after 30 days, also one that is cached; a session from the future is invalid."""
        cookie = client.log_in().cookie
        assert client.get("/", Cookie=cookie).status == 200
        public_server.wall_seconds += shift_seconds
        assert client.get("/", Cookie=cookie).status == 303
        public_server.restart()
        assert client.get("/", Cookie=cookie).status == 303
        public_server.wall_seconds += 1 if shift_seconds < 0 else -1
        assert client.get("/", Cookie=cookie).status == 200

    @pytest.mark.parametrize("change", ["later", "cut", "case", "longer", "unsigned", "no dot", "octal", "empty"])
    def test_tampered_session_is_refused(self, public_server: AuthServer, client: Client, change: str) -> None:
        """A modified session is invalid."""
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
        assert public_server.passed_paths == []


class TestWrongTokens:
    """Limits on guessing the token."""

    def test_ten_failures_a_minute_throttle_a_peer(self, public_server: AuthServer, client: Client) -> None:
        """After ten wrong tokens in a minute, this peer's wrong tokens are answered with 429, until the minute is
        over."""
        assert send_wrong_tokens(client, 11) == [303] * 10 + [429]
        for answer in (client.log_in("wrong"), client.get("/", Authorization="Bearer wrong")):
            assert (answer.status, answer.headers["retry-after"]) == (429, "60")
        public_server.monotonic_seconds += 59.9
        assert client.log_in("wrong").headers["retry-after"] == "1"
        public_server.monotonic_seconds += 0.2
        assert client.log_in("wrong").status == 401

    def test_other_peers_are_not_throttled(self, public_server: AuthServer, client: Client) -> None:
        """Other peers are not throttled, and no header lets one of a peer's clients count as another peer."""
        send_wrong_tokens(client, 10)
        assert client.log_in("wrong", X_Forwarded_For="127.0.0.9", Forwarded="for=127.0.0.9").status == 429
        assert Client(client.port, "127.0.0.2").log_in("wrong").status == 401

    def test_sixty_failures_throttle_everybody(self, public_server: AuthServer, client: Client) -> None:
        """After sixty wrong tokens in a minute from any peers, every wrong token is answered with 429."""
        for number in range(2, 8):
            assert send_wrong_tokens(Client(client.port, f"127.0.0.{number}"), 10) == [303] * 10
        assert client.log_in("wrong").status == 429

    @pytest.mark.parametrize("is_same_peer", [True, False], ids=["one address", "other addresses"])
    def test_a_right_token_is_never_refused(
        self, public_server: AuthServer, client: Client, is_same_peer: bool
    ) -> None:
        """However many wrong tokens came within the minute, from the same address or others, the right one logs in,
        stops entries and reads the metrics, and its sessions work, also those from before a restart."""
        for number in range(2, 9):
            send_wrong_tokens(client if is_same_peer else Client(client.port, f"127.0.0.{number}"), 10)
        bearer = {"Authorization": f"Bearer {TOKEN}"}
        assert client.post("/stop", {"confirm": "stop"}, **bearer).status == 200
        assert [client.get(path, **bearer).status for path in ("/metrics", "/api/status", "/")] == [200] * 3
        assert client.log_in().status == 303
        assert client.get("/", Cookie=f"{COOKIE}={forge_session(TOKEN, public_server)}").status == 200
        assert client.log_in("wrong").status == 429

    @pytest.mark.parametrize("method", ["header", "form", "cookie"])
    def test_header_form_and_cookie_all_count(self, public_server: AuthServer, client: Client, method: str) -> None:
        """Guesses by header, by form and by the key of a cookie all count as failed attempts."""

        def guess(number: int) -> int:
            if method == "header":
                return client.get("/", Authorization=f"Bearer {number}").status
            if method == "form":
                return client.log_in(str(number)).status
            return client.get("/", Cookie=f"{COOKIE}={forge_session(str(number), public_server)}").status

        assert [guess(number) for number in range(11)] == [401 if method == "form" else 303] * 10 + [429]
        assert client.get("/", Cookie=f"{COOKIE}={forge_session('another', public_server)}").status == 429

    def test_sessions_continue_while_throttled(self, public_server: AuthServer, client: Client) -> None:
        """Existing sessions keep working while another client guesses, also from the same address."""
        cookie = client.log_in().cookie
        assert client.get("/", Cookie=cookie).status == 200
        send_wrong_tokens(client, 20)
        assert client.get("/", Cookie=cookie).status == 200

    def test_health_is_not_throttled(self, public_server: AuthServer, client: Client) -> None:
        """The health check and the login form are not throttled."""
        send_wrong_tokens(client, 20)
        assert client.get("/healthz").status == client.get("/login").status == 200

    def test_requests_without_a_token_do_not_count(self, public_server: AuthServer, client: Client) -> None:
        """Requests without a token do not count."""
        assert {client.get("/api/status").status for _ in range(30)} == {401}
        assert client.log_in().status == 303

    def test_failed_attempts_use_bounded_memory(self, caplog: pytest.LogCaptureFixture) -> None:
        """Memory for failed attempts does not grow with the number of peers, and each minute logs one line."""
        monotonic_seconds = [0.0]
        failed_attempts = FailedAttempts(lambda: monotonic_seconds[0])

        def guess_2000_times(first: int) -> None:
            for number in range(first, first + 2000):
                monotonic_seconds[0] += 0.5
                if not failed_attempts.retry_after_seconds(peer := f"peer {number}"):
                    failed_attempts.add(peer)

        guess_2000_times(0)
        assert 0 < len(caplog.records) <= monotonic_seconds[0] / 60 + 1
        caplog.set_level(logging.ERROR, "bot.dashboard.auth")  # pytest keeps every log record
        tracemalloc.start()
        before = tracemalloc.get_traced_memory()[0]
        guess_2000_times(2000)
        grown_bytes = tracemalloc.get_traced_memory()[0] - before
        tracemalloc.stop()
        assert grown_bytes < 20_000

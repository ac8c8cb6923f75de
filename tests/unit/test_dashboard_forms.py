"""Request and response rules of the auth middleware."""

from __future__ import annotations

import http.client
import json
import logging

import pytest

from tests.dashboard_tools import TOKEN, AuthServer, Client, Response, csrf_token_in, send_wrong_tokens


class TestForms:
    """Rules for submitted forms."""

    @pytest.mark.parametrize(
        "headers",
        [
            {"Sec_Fetch_Site": "same-origin", "Origin": "https://behind.a.proxy.example"},
            {"Sec_Fetch_Site": "", "Origin": "http://bot.example:8080"},
            {"Sec_Fetch_Site": "", "Origin": "http://BOT.example:8080"},
            {"Sec_Fetch_Site": "", "Referer": "http://bot.example:8080/login?x"},
            {"Sec_Fetch_Site": "", "Host": "bot.example", "Origin": "https://bot.example"},
            {"Sec_Fetch_Site": "", "Host": "bot.example:443", "Origin": "https://bot.example"},
        ],
    )
    def test_same_origin_form_is_accepted(
        self, public_server: AuthServer, client: Client, headers: dict[str, str]
    ) -> None:
        """A form that the browser reports as same-origin is accepted."""
        assert client.log_in(**{"Host": "bot.example:8080"} | headers).status == 303

    @pytest.mark.parametrize(
        "origin_headers",
        [
            {"Sec_Fetch_Site": "cross-site"},
            {"Sec_Fetch_Site": "same-site", "Origin": "http://bot.example:8080"},
            {"Sec_Fetch_Site": "none"},
            {"Sec_Fetch_Site": "", "Origin": "http://evil.example"},
            {"Sec_Fetch_Site": "", "Origin": "http://evil.example", "Referer": "http://bot.example:8080/"},
            {"Sec_Fetch_Site": "", "Origin": "http://bot.example:8081"},
            {"Sec_Fetch_Site": "", "Origin": "http://bot.example"},
            {"Sec_Fetch_Site": "", "Origin": "null"},
            {"Sec_Fetch_Site": "", "Origin": "http://bot.example:8080.evil.example"},
            {"Sec_Fetch_Site": "", "Origin": "http://[::1"},
            {"Sec_Fetch_Site": "", "Referer": "http://evil.example/http://bot.example:8080/"},
            {"Sec_Fetch_Site": ""},
        ],
    )
    def test_cross_origin_form_is_refused(
        self, public_server: AuthServer, client: Client, origin_headers: dict[str, str]
    ) -> None:
        """Any other form is refused, for login and for stop."""
        headers = {"Host": "bot.example:8080"} | origin_headers
        assert client.log_in(**headers).status == 403
        cookie = client.log_in().cookie
        form = {"csrf": csrf_token_in(client.get("/", Cookie=cookie)), "confirm": "stop"}
        assert client.post("/stop", form, Cookie=cookie, **headers).status == 403

    def test_stop_requires_the_csrf_token_of_its_session(self, public_server: AuthServer, client: Client) -> None:
        """Stop requires the csrf token of its own session, and its form fields reach the app."""
        cookie = client.log_in().cookie
        public_server.wall_seconds += 1
        other_cookie = client.log_in().cookie
        assert cookie != other_cookie
        csrf = csrf_token_in(client.get("/", Cookie=cookie))
        form = {"csrf": csrf, "confirm": "stop"}
        assert client.post("/stop", form, Cookie=other_cookie).status == 403
        assert client.post("/stop", form | {"csrf": ""}, Cookie=cookie).status == 403
        assert client.post("/stop", form | {"csrf": csrf + "0"}, Cookie=cookie).status == 403
        assert public_server.passed_paths == ["/"]
        assert json.loads(client.post("/stop", form, Cookie=cookie).text)["form"] == {"confirm": "stop"}

    def test_stop_with_bearer_token_needs_no_csrf_token(self, public_server: AuthServer, client: Client) -> None:
        """A program with the token in the header, which no browser sends by itself, needs no csrf token."""
        header = {"Authorization": f"Bearer {TOKEN}", "Sec_Fetch_Site": ""}
        assert json.loads(client.post("/stop", {"confirm": "stop"}, **header).text)["form"] == {"confirm": "stop"}

    @pytest.mark.parametrize(
        ("kind", "body", "status"),
        [
            ("application/json", "{}", 415),
            ("multipart/form-data; boundary=x", "--x--", 415),
            ("", "token=x", 415),
            ("application/x-www-form-urlencoded", "token=" + "x" * 4096, 413),
            ("application/x-www-form-urlencoded", "a=1&" * 10 + "b=1", 400),
            ("application/x-www-form-urlencoded", b"token=\xff", 400),
            ("application/x-www-form-urlencoded", "token=%FF%00%ED%B2%80", 401),
            ("application/x-www-form-urlencoded", "&&==;token", 401),
            ("application/x-www-form-urlencoded; charset=utf-8", f"token={TOKEN}", 303),
        ],
    )
    def test_invalid_bodies_are_refused(
        self, public_server: AuthServer, client: Client, kind: str, body: str | bytes, status: int
    ) -> None:
        """A body that is not a short form is refused, each with its status."""
        headers = {"Content-Type": kind, "Sec-Fetch-Site": "same-origin"}
        assert client.request("POST", "/login", headers, body).status == status

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "get", "POST"])
    @pytest.mark.parametrize("path", ["/", "/api/status", "/healthz", "/static/a"])
    def test_pages_allow_get_and_head_only(
        self, public_server: AuthServer, client: Client, method: str, path: str
    ) -> None:
        """Pages can only be read."""
        response = client.request(method, path, {"Authorization": f"Bearer {TOKEN}"})
        assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")

    def test_form_methods(self, public_server: AuthServer, client: Client) -> None:
        """A form endpoint accepts POST only."""
        assert client.get("/stop").headers["allow"] == "POST"
        assert client.request("DELETE", "/login").headers["allow"] == "GET, HEAD, POST"

    def test_body_with_get_closes_the_connection(self, public_server: AuthServer, client: Client) -> None:
        """A body with a GET closes the connection, so a client cannot keep sending it."""
        response = client.request("GET", "/healthz", body="x")
        assert (response.status, response.headers["connection"]) == (400, "close")


class TestAnswers:
    """Headers and contents of responses."""

    def collect_responses(self, client: Client) -> list[Response]:
        """Provoke one response of every kind."""
        cookie = client.log_in().cookie
        cookie_headers = {"Cookie": cookie}
        client.get("/", **cookie_headers)
        client.get("/weak", **cookie_headers)
        client.request("HEAD", "/", cookie_headers)
        client.post("/stop", {"csrf": csrf_token_in(client.get("/", **cookie_headers))}, **cookie_headers)
        client.post("/stop", {"csrf": "x"}, **cookie_headers)
        client.get("/static/page.css")
        client.get("/healthz")
        client.get("/login")
        client.get("/api/status")
        client.request("PUT", "/")
        client.log_in(Sec_Fetch_Site="cross-site")
        send_wrong_tokens(client, 11)
        client.log_in()
        return client.responses

    def test_every_response_has_security_headers(self, public_server: AuthServer, client: Client) -> None:
        """Every response, refusals included, has the security headers."""
        responses = self.collect_responses(client)
        assert {response.status for response in responses} == {200, 303, 401, 403, 405, 429}
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
            " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        for response in responses:
            assert response.headers.get_all("content-security-policy") == [policy]
            assert response.headers["x-content-type-options"] == "nosniff"
            assert response.headers["referrer-policy"] == "same-origin"
            assert response.headers["cross-origin-opener-policy"] == "same-origin"
            assert response.headers["cross-origin-resource-policy"] == "same-origin"
            assert "camera=()" in response.headers["permissions-policy"]
            assert response.headers["server"] is None
            assert response.headers["strict-transport-security"] is None

    def test_cache_control(self, public_server: AuthServer, client: Client) -> None:
        """Only static files may be cached, and only with revalidation."""
        assert client.get("/static/page.css").headers.get_all("cache-control") == ["no-cache"]
        cache_controls = {
            str(response.headers.get_all("cache-control")) for response in self.collect_responses(Client(client.port))
        }
        assert cache_controls == {"['no-store']", "['no-cache']"}
        assert client.get("/weak", Authorization=f"Bearer {TOKEN}").headers["cache-control"] == "no-store"

    def test_https_enables_hsts(self, public_server: AuthServer, client: Client) -> None:
        """Over https the response has HSTS."""
        response = client.get("/login", X_Forwarded_Proto="https")
        assert response.headers["strict-transport-security"] == "max-age=31536000"

    def test_streams_are_not_buffered(self, public_server: AuthServer, client: Client) -> None:
        """A streamed response arrives piece by piece, with the same headers."""
        connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
        connection.request("GET", "/events", headers={"Authorization": f"Bearer {TOKEN}"})
        response = connection.getresponse()
        assert response.read1(100) == b"one"
        public_server.may_send_second_half.set()
        assert response.read() == b"two"
        assert response.headers["cache-control"] == "no-store"
        connection.close()

    def test_secrets_appear_in_no_log_or_response(
        self, public_server: AuthServer, client: Client, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Token, session and csrf token are in no log line, error or response, except the one that issues them."""
        caplog.set_level(logging.DEBUG)
        cookie = client.log_in().cookie
        csrf = csrf_token_in(client.get("/", Cookie=cookie))
        client.responses.clear()
        client.log_in(TOKEN[:-1])
        client.get(f"/{TOKEN}?{cookie}", Authorization=f"Bearer {TOKEN}x", Cookie=f"{cookie}0")
        client.post("/stop", {"csrf": csrf}, Cookie=cookie, Sec_Fetch_Site="cross-site")
        client.post("/stop", {"csrf": csrf + "0"}, Cookie=cookie)
        client.request("GET", "/", {"Cookie": cookie, "Authorization": f"Bearer {TOKEN}"}, body=TOKEN)
        send_wrong_tokens(client, 11)
        output = "".join(str(answer) + str(answer.headers) for answer in client.responses) + caplog.text
        output += repr(vars(public_server.middleware)["_authenticator"])
        assert "too many wrong tokens" in caplog.text
        for secret in (TOKEN, cookie.partition("=")[2], csrf):
            assert secret not in output

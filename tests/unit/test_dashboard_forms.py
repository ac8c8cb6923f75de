"""What may be asked at the gate before the status page, and what each answer carries."""

from __future__ import annotations

import http.client
import json
import logging

import pytest

from tests.dashboard_tools import TOKEN, Answer, Client, World, csrf_of, wrong_tokens


class TestForms:
    """What a form has to be like."""

    @pytest.mark.parametrize(
        "sender",
        [
            {"Sec_Fetch_Site": "same-origin", "Origin": "https://behind.a.proxy.example"},
            {"Sec_Fetch_Site": "", "Origin": "http://bot.example:8080"},
            {"Sec_Fetch_Site": "", "Origin": "http://BOT.example:8080"},
            {"Sec_Fetch_Site": "", "Referer": "http://bot.example:8080/login?x"},
            {"Sec_Fetch_Site": "", "Host": "bot.example", "Origin": "https://bot.example"},
            {"Sec_Fetch_Site": "", "Host": "bot.example:443", "Origin": "https://bot.example"},
        ],
    )
    def test_own_page(self, world: World, client: Client, sender: dict[str, str]) -> None:
        """A form that the browser says to be of this server is read."""
        assert client.log_in(**{"Host": "bot.example:8080"} | sender).status == 303

    @pytest.mark.parametrize(
        "sender",
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
    def test_other_pages(self, world: World, client: Client, sender: dict[str, str]) -> None:
        """Any other form is refused, for login and for stop."""
        headers = {"Host": "bot.example:8080"} | sender
        assert client.log_in(**headers).status == 403
        cookie = client.log_in().cookie
        form = {"csrf": csrf_of(client.get("/", Cookie=cookie)), "confirm": "stop"}
        assert client.post("/stop", form, Cookie=cookie, **headers).status == 403

    def test_stop(self, world: World, client: Client) -> None:
        """Stop needs the csrf token of its own session, and its fields reach the app."""
        cookie = client.log_in().cookie
        world.wall += 1
        another = client.log_in().cookie
        assert cookie != another
        csrf = csrf_of(client.get("/", Cookie=cookie))
        form = {"csrf": csrf, "confirm": "stop"}
        assert client.post("/stop", form, Cookie=another).status == 403
        assert client.post("/stop", form | {"csrf": ""}, Cookie=cookie).status == 403
        assert client.post("/stop", form | {"csrf": csrf + "0"}, Cookie=cookie).status == 403
        assert world.passed == ["/"]
        assert json.loads(client.post("/stop", form, Cookie=cookie).text)["form"] == {"confirm": "stop"}

    def test_stop_by_program(self, world: World, client: Client) -> None:
        """A program stops entries with the token in the header, which no browser sends on its own."""
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
    def test_bodies(self, world: World, client: Client, kind: str, body: str | bytes, status: int) -> None:
        """A body that is no short form is refused, each for its reason."""
        headers = {"Content-Type": kind, "Sec-Fetch-Site": "same-origin"}
        assert client.ask("POST", "/login", headers, body).status == status

    @pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "PROPFIND", "get", "POST"])
    @pytest.mark.parametrize("path", ["/", "/api/status", "/healthz", "/static/a"])
    def test_methods(self, world: World, client: Client, method: str, path: str) -> None:
        """Pages are read, and nothing else is done to them."""
        answer = client.ask(method, path, {"Authorization": f"Bearer {TOKEN}"})
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")

    def test_methods_of_forms(self, world: World, client: Client) -> None:
        """A form that does something is sent and not fetched."""
        assert client.get("/stop").headers["allow"] == "POST"
        assert client.ask("DELETE", "/login").headers["allow"] == "GET, HEAD, POST"

    def test_no_body_with_get(self, world: World, client: Client) -> None:
        """A body where none is read ends the connection, so that nobody can go on sending it."""
        answer = client.ask("GET", "/healthz", body="x")
        assert (answer.status, answer.headers["connection"]) == (400, "close")


class TestAnswers:
    """What each answer carries."""

    def ask_all(self, client: Client) -> list[Answer]:
        """Provoke one answer of every kind."""
        cookie = client.log_in().cookie
        inside = {"Cookie": cookie}
        client.get("/", **inside)
        client.get("/weak", **inside)
        client.ask("HEAD", "/", inside)
        client.post("/stop", {"csrf": csrf_of(client.get("/", **inside))}, **inside)
        client.post("/stop", {"csrf": "x"}, **inside)
        client.get("/static/page.css")
        client.get("/healthz")
        client.get("/login")
        client.get("/api/status")
        client.ask("PUT", "/")
        client.log_in(Sec_Fetch_Site="cross-site")
        wrong_tokens(client, 11)
        client.log_in()
        return client.answers

    def test_security_headers(self, world: World, client: Client) -> None:
        """Each answer, refusals included, has the headers that keep a page from being used against its reader."""
        answers = self.ask_all(client)
        assert {answer.status for answer in answers} == {200, 303, 401, 403, 405, 429}
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
            " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
        )
        for answer in answers:
            assert answer.headers.get_all("content-security-policy") == [policy]
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["referrer-policy"] == "same-origin"
            assert answer.headers["cross-origin-opener-policy"] == "same-origin"
            assert answer.headers["cross-origin-resource-policy"] == "same-origin"
            assert "camera=()" in answer.headers["permissions-policy"]
            assert answer.headers["server"] is None
            assert answer.headers["strict-transport-security"] is None

    def test_kept(self, world: World, client: Client) -> None:
        """Nothing but a static file may be kept, and that only to be asked for again."""
        assert client.get("/static/page.css").headers.get_all("cache-control") == ["no-cache"]
        kept = {str(answer.headers.get_all("cache-control")) for answer in self.ask_all(Client(client.port))}
        assert kept == {"['no-store']", "['no-cache']"}
        assert client.get("/weak", Authorization=f"Bearer {TOKEN}").headers["cache-control"] == "no-store"

    def test_https(self, world: World, client: Client) -> None:
        """By https, the browser is told to stay with it."""
        answer = client.get("/login", X_Forwarded_Proto="https")
        assert answer.headers["strict-transport-security"] == "max-age=31536000"

    def test_streams(self, world: World, client: Client) -> None:
        """What the app sends in pieces arrives piece by piece, with the same headers."""
        link = http.client.HTTPConnection("127.0.0.1", client.port, timeout=20)
        link.request("GET", "/events", headers={"Authorization": f"Bearer {TOKEN}"})
        answer = link.getresponse()
        assert answer.read1(100) == b"one"
        world.second_half.set()
        assert answer.read() == b"two"
        assert answer.headers["cache-control"] == "no-store"
        link.close()

    def test_nothing_secret(self, world: World, client: Client, caplog: pytest.LogCaptureFixture) -> None:
        """Token, session and csrf token are in no log line, no error and no answer, but where they are handed out."""
        caplog.set_level(logging.DEBUG)
        cookie = client.log_in().cookie
        csrf = csrf_of(client.get("/", Cookie=cookie))
        client.answers.clear()
        client.log_in(TOKEN[:-1])
        client.get(f"/{TOKEN}?{cookie}", Authorization=f"Bearer {TOKEN}x", Cookie=f"{cookie}0")
        client.post("/stop", {"csrf": csrf}, Cookie=cookie, Sec_Fetch_Site="cross-site")
        client.post("/stop", {"csrf": csrf + "0"}, Cookie=cookie)
        client.ask("GET", "/", {"Cookie": cookie, "Authorization": f"Bearer {TOKEN}"}, body=TOKEN)
        wrong_tokens(client, 11)
        said = "".join(str(answer) + str(answer.headers) for answer in client.answers) + caplog.text
        said += repr(vars(world.gate)["_access"])
        assert "too many wrong tokens" in caplog.text
        for secret in (TOKEN, cookie.partition("=")[2], csrf):
            assert secret not in said

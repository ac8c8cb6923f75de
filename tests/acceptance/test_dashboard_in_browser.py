"""The page of a running bot, as a person sees it in a browser on a phone."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest
from playwright.sync_api import Browser, Page, Route, StorageState, expect

from bot.dashboard import page as bot_page
from bot.dashboard.headers import CONTENT_SECURITY_POLICY
from tests.acceptance.local_kraken import FILLING, local_kraken
from tests.acceptance.processes import BotProcess, running
from tests.browser import (
    DESKTOP,
    LIMIT_MS,
    LOW_CONTRAST_TEXTS,
    OVERFLOWING_ELEMENTS,
    PHONE,
    SMALL_TARGETS,
    open_browser,
    visit,
)
from tests.server_processes import free_port
from tests.servers import Server
from tests.tcp_proxy import FaultProxy
from tests.unit.dashboard_samples import full_status, order_row, starting_status

TOKEN = "a-token-for-the-page-of-these-tests"
LONG = "x" * 150
CONNECTION_LOST = re.compile(r"^not live: connection lost, last update \d\d:\d\d:\d\d UTC$")

expect.set_options(timeout=LIMIT_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Run a browser."""
    with open_browser() as opened:
        yield opened


@pytest.fixture(scope="module")
def bot(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BotProcess]:
    """Run a bot with a page, live on a local Kraken, that has bought; not at all where there is no browser."""
    with local_kraken(tmp_path_factory.mktemp("page") / "state", FILLING) as kraken:
        settings = kraken.settings(PORT=str(free_port()), STATUS_TOKEN=TOKEN)
        with running(settings=settings, until="filled: buy") as started:
            yield started


@pytest.fixture(scope="module")
def url(bot: BotProcess) -> str:
    """Return where its page is."""
    return f"http://127.0.0.1:{bot.settings['PORT']}/"


@pytest.fixture(scope="module")
def session(browser: Browser, url: str) -> StorageState:
    """Return the cookies of somebody who has logged in."""
    with visit(browser, url, viewport=PHONE) as seen:
        log_in(seen.page, TOKEN)
        expect(seen.page.locator("#live")).to_be_visible()
        return seen.page.context.storage_state()


def log_in(page: Page, token: str) -> None:
    """Fill in the form and send it."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button").click()


def wait_for_updates(page: Page, updates: int) -> None:
    """Wait until so many more updates have come into the page, which is not loaded anew meanwhile."""
    page.evaluate(
        """() => {
            window.updates = 0;
            new MutationObserver(() => window.updates++).observe(document.getElementById("live"), { childList: true });
        }"""
    )
    page.wait_for_function("(updates) => window.updates >= updates", arg=updates)


def sample_pages() -> dict[str, str]:
    """Return documents of every kind: each mode, hardly anything known, everything in trouble with endless words."""
    failing = full_status(
        mode="live",
        state="waiting",
        entries="stopped",
        reason=f"Kraken does not answer {LONG}",
        unknown_orders=[order_row(cl_ord_id=LONG, unknown_seconds=75, reason=LONG)],
        open_orders=[order_row(txid=LONG, volume="123456789.12345678", price="98765432.1234")],
        refusals=[{"time": "2026-11-23T06:00:00Z", "pair": "BTC/USD", "kind": "entry", "rule": LONG, "reason": LONG}],
        balances=[{"asset": LONG, "total": "123456789.12345678", "free": "123456789.12345678"}],
        nonce=full_status()["nonce"] | {"breaker": "open", "breaker_reason": LONG, "place": LONG, "last": "9" * 19},
        lease={"role": "standby", "leader": LONG, "generation": 12},
        log=[LONG, "short", f"with <markup> & {LONG}"],
    )
    halted = full_status(mode="halt", entries="halted")
    status = {"full": full_status(), "begun": starting_status(), "trouble": failing, "halted": halted}
    documents = {name: bot_page.render_page(one, csrf="x") for name, one in status.items()}
    return documents | {"login": bot_page.render_login_page(f"This is not the token {LONG}")}


def show_document(page: Page, url: str, document: str, update: str = "") -> None:
    """Show a document as if the bot had served it, with its style and its policy; and then news again and again."""

    def serve_events(route: Route) -> None:
        stream = f"retry: 100\ndata: {json.dumps(update)}\n\n"
        route.fulfill(body=stream, content_type="text/event-stream") if update else route.fulfill(status=204)

    def serve_document(route: Route) -> None:
        route.fulfill(
            body=document,
            content_type="text/html; charset=utf-8",
            headers={"content-security-policy": CONTENT_SECURITY_POLICY},
        )

    page.route("**/events", serve_events)
    page.route(f"{url}sample", serve_document)
    page.goto(f"{url}sample")
    page.unroute(f"{url}sample")


@contextlib.contextmanager
def open_gateway(bot: BotProcess) -> Iterator[FaultProxy]:
    """Open a gateway to the bot's page."""
    # A gateway asks a server for its port alone.
    with FaultProxy(cast("Server", SimpleNamespace(port=int(bot.settings["PORT"])))) as opened:
        yield opened


def test_page_works_without_javascript(browser: Browser, url: str) -> None:
    """Without JavaScript one can log in and sees mode, drawings with the fill, nonce and log, which are loaded anew."""
    with visit(browser, url, viewport=PHONE, java_script_enabled=False) as seen:
        log_in(seen.page, TOKEN)
        mode = seen.page.get_by_role("heading", level=1)
        expect(mode).to_have_text("LIVE")
        expect(mode).to_be_in_viewport()
        expect(seen.page.get_by_role("img", name="Prices of BTC/USD").locator(".mark.buy")).to_be_visible()
        expect(seen.page.locator(".nonce")).to_have_text(re.compile(r"^\d{16}$"))
        expect(seen.page.get_by_role("region", name="Log")).to_contain_text("filled: buy")
        expect(seen.page.locator("noscript meta[http-equiv=refresh]")).to_have_attribute("content", "10")


def test_only_the_token_opens_the_page(browser: Browser, url: str) -> None:
    """A wrong token leads to the form again, which says so; the right one leads to the page."""
    with visit(browser, url, expected="401", viewport=PHONE) as seen:
        log_in(seen.page, "a wrong one")
        expect(seen.page.get_by_role("alert")).to_have_text("This is not the token.")
        expect(seen.page.locator("#live")).to_have_count(0)
        log_in(seen.page, TOKEN)
        expect(seen.page.locator("#live")).to_be_visible()
        assert seen.page.url == url


def test_updates_arrive_without_a_reload(browser: Browser, url: str, session: StorageState) -> None:
    """Two updates come into the page as it stands, by the files it names and nothing else, and its place is kept."""
    with visit(browser, url, viewport=PHONE, storage_state=session) as seen:
        expect(seen.page.locator("#link")).to_have_text("live")
        seen.page.evaluate("scrollTo(0, 700)")
        up_for = seen.page.locator("dt:text-is('Up for') + dd")
        before = up_for.inner_text()
        wait_for_updates(seen.page, 2)
        assert up_for.inner_text() != before
        assert seen.page.evaluate("scrollY") == 700
        files = {f"{url}{name}" for name in ("static/page.css", "static/page.js", "static/icon.svg", "events")}
        assert {url} <= set(seen.requests) <= {url} | files


def test_updates_preserve_user_interaction(browser: Browser, url: str) -> None:
    """News keep details open, the log where it was moved and the focus; and they wait while text is marked."""
    with visit(browser, f"{url}login", viewport=PHONE) as seen:
        page = seen.page
        show_document(
            page,
            url,
            bot_page.render_page(full_status(), csrf="x"),
            update=bot_page.render_live(full_status(mode="live", entries="stopped")),
        )
        expect(page.get_by_role("heading", level=1)).to_have_text("LIVE")
        expect(page).to_have_title("LIVE 10,012.35 USD")
        expect(page.get_by_text("Entries are stopped.")).to_be_visible()
        fills = page.locator("#more-fills")
        fills.locator("summary").click()
        page.evaluate("log.scrollTo(0, -300)")
        wait_for_updates(page, 2)
        assert page.evaluate("log.scrollTop") == -300
        expect(fills.locator("tr").last).to_be_visible()
        expect(fills.locator("summary")).to_be_focused()
        page.evaluate("getSelection().selectAllChildren(document.querySelector('.nonce'))")
        # The end of each answer follows at once, and is said too.
        page.evaluate(
            "said = ''; new MutationObserver(() => { said += link.textContent }).observe(link, { childList: true })"
        )
        page.wait_for_function("() => said.split('paused while text is marked').length > 3")
        assert page.evaluate("String(getSelection())") == "1795414800123456"
        page.evaluate("getSelection().removeAllRanges()")
        wait_for_updates(page, 1)


def test_hidden_page_closes_its_stream(browser: Browser, url: str, session: StorageState) -> None:
    """A page in the background ends its connection, and is live again when it is seen again."""
    with visit(browser, url, viewport=PHONE, storage_state=session) as seen:
        expect(seen.page.locator("#link")).to_have_text("live")
        for is_hidden in (True, False):
            with seen.page.expect_event("requestfailed" if is_hidden else "request") as ended:
                # No other way to hide a page without a window is known.
                seen.page.evaluate(
                    """(hidden) => {
                        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
                        document.dispatchEvent(new Event("visibilitychange"));
                    }""",
                    is_hidden,
                )
            assert ended.value.url == f"{url}events"
        wait_for_updates(seen.page, 1)


def test_lost_connection_is_shown_and_restored(browser: Browser, bot: BotProcess, session: StorageState) -> None:
    """When the connection breaks the page keeps what it has and says since when, and is live again by itself."""
    with open_gateway(bot) as proxy:
        address = f"http://127.0.0.1:{proxy.port}/"
        with visit(browser, address, expected="ERR_CONNECTION_", viewport=PHONE, storage_state=session) as seen:
            status_line = seen.page.locator("#link")
            expect(status_line).to_have_text("live")
            proxy.start_partition()
            expect(status_line).to_have_text(CONNECTION_LOST)
            expect(seen.page.get_by_role("heading", level=1)).to_have_text("LIVE")
            proxy.end_partition()
            expect(status_line).to_have_text("live")


def test_silent_connection_is_shown_as_lost(browser: Browser, bot: BotProcess, session: StorageState) -> None:
    """When nothing has come for half a minute, though no connection broke, the page says that it is not live."""
    with open_gateway(bot) as proxy:
        address = f"http://127.0.0.1:{proxy.port}/"
        with visit(browser, address, viewport=PHONE, storage_state=session) as seen:
            status_line = seen.page.locator("#link")
            seen.page.clock.install()
            seen.page.reload()
            expect(status_line).to_have_text("live")
            proxy.start_partition(blackhole=True)
            seen.page.clock.fast_forward(40_000)
            expect(status_line).to_have_text(CONNECTION_LOST)


def test_error_response_to_the_stream_is_retried(browser: Browser, url: str, session: StorageState) -> None:
    """Where the bot answers with an error instead of news, the page says that it is not live, and asks again."""
    with visit(browser, url, expected="503", viewport=PHONE, storage_state=session) as seen:
        status_line = seen.page.locator("#link")
        seen.page.clock.install()
        seen.page.route("**/events", lambda route: route.fulfill(status=503))
        seen.page.reload()
        expect(status_line).to_have_text(CONNECTION_LOST)
        seen.page.unroute("**/events")
        seen.page.clock.fast_forward(6_000)
        expect(status_line).to_have_text("live")


def test_nothing_overflows_at_phone_width(browser: Browser, url: str, session: StorageState) -> None:
    """On a phone 360 pixels wide nothing of any kind of page goes over the edge, and what is touched is 44 high."""
    width = PHONE["width"]
    with visit(browser, url, viewport=PHONE, is_mobile=True, has_touch=True, storage_state=session) as seen:
        found = {"the bot's own": seen.page.evaluate(OVERFLOWING_ELEMENTS, width)}
        for name, document in sample_pages().items():
            show_document(seen.page, url, document)
            seen.page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
            found[name] = [*seen.page.evaluate(OVERFLOWING_ELEMENTS, width), *seen.page.evaluate(SMALL_TARGETS)]
        assert not {name: out for name, out in found.items() if out}


def test_dark_and_light_have_enough_contrast(browser: Browser, url: str) -> None:
    """Whoever prefers dark gets a dark page, and each text of each kind of page has the contrast that WCAG AA asks."""
    backgrounds, low_contrast = {}, {}
    with visit(browser, f"{url}login", viewport=DESKTOP) as seen:
        for scheme in ("light", "dark"):
            seen.page.emulate_media(color_scheme=scheme)
            for name, document in sample_pages().items():
                show_document(seen.page, url, document)
                low_contrast[scheme, name] = seen.page.evaluate(LOW_CONTRAST_TEXTS)
                backgrounds[scheme] = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert not {name: texts for name, texts in low_contrast.items() if texts}
    assert backgrounds == {"light": "rgb(243, 245, 247)", "dark": "rgb(15, 19, 23)"}


def test_stop_requires_confirmation(browser: Browser, bot: BotProcess, url: str, session: StorageState) -> None:
    """Without the mark nothing is sent; with it, entries are stopped, which the page says from then on."""
    with visit(browser, url, viewport=PHONE, storage_state=session) as seen:
        stop = seen.page.get_by_role("button", name="Stop entries")
        stop.click()
        checkbox = seen.page.get_by_label("Yes, open nothing new")
        assert checkbox.evaluate("one => one.validity.valueMissing")
        assert f"{url}stop" not in seen.requests
        checkbox.check()
        stop.click()
        expect(seen.page.get_by_text("Entries are stopped.")).to_be_visible()
        expect(stop).to_be_hidden()
        assert seen.requests.count(f"{url}stop") == 1
        assert seen.page.url == url

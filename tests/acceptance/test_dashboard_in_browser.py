"""The dashboard of a running bot in a browser on a phone."""

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
    """Run a live bot with a dashboard on a local Kraken, after its first buy; skip if there is no browser."""
    with local_kraken(tmp_path_factory.mktemp("page") / "state", FILLING) as kraken:
        settings = kraken.settings(PORT=str(free_port()), STATUS_TOKEN=TOKEN)
        with running(settings=settings, until="filled: buy") as started:
            yield started


@pytest.fixture(scope="module")
def url(bot: BotProcess) -> str:
    """Return the URL of its dashboard."""
    return f"http://127.0.0.1:{bot.settings['PORT']}/"


@pytest.fixture(scope="module")
def session(browser: Browser, url: str) -> StorageState:
    """Return the cookies of a logged-in user."""
    with visit(browser, url, viewport=PHONE) as visitor:
        log_in(visitor.page, TOKEN)
        expect(visitor.page.locator("#live")).to_be_visible()
        return visitor.page.context.storage_state()


def log_in(page: Page, token: str) -> None:
    """Fill in and submit the login form."""
    page.get_by_label("Token").fill(token)
    page.get_by_role("button").click()


def wait_for_updates(page: Page, updates: int) -> None:
    """Wait until the page has had this many more updates without a reload."""
    page.evaluate(
        """() => {
            window.updates = 0;
            new MutationObserver(() => window.updates++).observe(document.getElementById("live"), { childList: true });
        }"""
    )
    page.wait_for_function("(updates) => window.updates >= updates", arg=updates)


def sample_pages() -> dict[str, str]:
    """Return pages of every kind: each mode, a starting bot, and a failing bot with very long words."""
    failing = full_status(
        mode="live",
        state="waiting",
        entries="paused",
        reason=f"Kraken does not answer {LONG}",
        unknown_orders=[order_row(cl_ord_id=LONG, unknown_seconds=75, reason=LONG)],
        open_orders=[order_row(txid=LONG, volume="123456789.12345678", price="98765432.1234")],
        refusals=[{"time": "2026-11-23T06:00:00Z", "pair": "BTC/USD", "kind": "entry", "rule": LONG, "reason": LONG}],
        balances=[{"asset": LONG, "total": "123456789.12345678", "free": "123456789.12345678"}],
        nonce=full_status()["nonce"]
        | {"circuit_breaker": "open", "circuit_breaker_reason": LONG, "location": LONG, "last": "9" * 19},
        lease={"role": "standby", "leader": LONG, "fencing_token": 12},
        log=[LONG, "short", f"with <markup> & {LONG}"],
    )
    halted = full_status(mode="halt", entries="halted")
    status = {"full": full_status(), "starting": starting_status(), "failing": failing, "halted": halted}
    documents = {name: bot_page.render_page(sample, csrf="x") for name, sample in status.items()}
    return documents | {"login": bot_page.render_login_page(f"This is not the token {LONG}")}


def show_document(page: Page, url: str, document: str, update: str = "") -> None:
    """Show a document as if the bot had served it, with its style and policy, and then send it updates repeatedly."""

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
def open_proxy(bot: BotProcess) -> Iterator[FaultProxy]:
    """Open a proxy to the bot's dashboard."""
    # The proxy only needs the port of a server.
    with FaultProxy(cast("Server", SimpleNamespace(port=int(bot.settings["PORT"])))) as opened:
        yield opened


def test_page_works_without_javascript(browser: Browser, url: str) -> None:
    """Without JavaScript the login works, and the page shows mode, charts with the fill, nonce and log, and reloads
    itself."""
    with visit(browser, url, viewport=PHONE, java_script_enabled=False) as visitor:
        log_in(visitor.page, TOKEN)
        mode = visitor.page.get_by_role("heading", level=1)
        expect(mode).to_have_text("LIVE")
        expect(mode).to_be_in_viewport()
        expect(visitor.page.get_by_role("img", name="Prices of BTC/USD").locator(".mark.buy")).to_be_visible()
        expect(visitor.page.locator(".nonce")).to_have_text(re.compile(r"^\d{16}$"))
        expect(visitor.page.get_by_role("region", name="Log")).to_contain_text("filled: buy")
        expect(visitor.page.locator("noscript meta[http-equiv=refresh]")).to_have_attribute("content", "10")


def test_only_the_token_opens_the_page(browser: Browser, url: str) -> None:
    """A wrong token leads back to the form, which says so; the right one leads to the page."""
    with visit(browser, url, expected="401", viewport=PHONE) as visitor:
        log_in(visitor.page, "a wrong one")
        expect(visitor.page.get_by_role("alert")).to_have_text("This is not the token.")
        expect(visitor.page.locator("#live")).to_have_count(0)
        log_in(visitor.page, TOKEN)
        expect(visitor.page.locator("#live")).to_be_visible()
        assert visitor.page.url == url


def test_updates_arrive_without_a_reload(browser: Browser, url: str, session: StorageState) -> None:
    """Two updates arrive without a reload, only the page's own files are requested, and the scroll position is kept."""
    with visit(browser, url, viewport=PHONE, storage_state=session) as visitor:
        expect(visitor.page.locator("#link")).to_have_text("live")
        visitor.page.evaluate("scrollTo(0, 700)")
        up_for = visitor.page.locator("dt:text-is('Up for') + dd")
        before = up_for.inner_text()
        wait_for_updates(visitor.page, 2)
        assert up_for.inner_text() != before
        assert visitor.page.evaluate("scrollY") == 700
        files = {f"{url}{name}" for name in ("static/page.css", "static/page.js", "static/icon.svg", "events")}
        assert {url} <= set(visitor.requests) <= {url} | files


def test_updates_preserve_user_interaction(browser: Browser, url: str) -> None:
    """Updates keep details open, the log's scroll position and the focus; and they pause while text is selected."""
    with visit(browser, f"{url}login", viewport=PHONE) as visitor:
        page = visitor.page
        show_document(
            page,
            url,
            bot_page.render_page(full_status(), csrf="x"),
            update=bot_page.render_live(full_status(mode="live", entries="paused")),
        )
        expect(page.get_by_role("heading", level=1)).to_have_text("LIVE")
        expect(page).to_have_title("LIVE 10,012.35 USD")
        expect(page.get_by_text("Entries are paused.")).to_be_visible()
        fills = page.locator("#more-fills")
        fills.locator("summary").click()
        page.evaluate("log.scrollTo(0, -300)")
        wait_for_updates(page, 2)
        assert page.evaluate("log.scrollTop") == -300
        expect(fills.locator("tr").last).to_be_visible()
        expect(fills.locator("summary")).to_be_focused()
        page.evaluate("getSelection().selectAllChildren(document.querySelector('.nonce'))")
        # The end of each response follows at once, and is shown too.
        page.evaluate(
            "said = ''; new MutationObserver(() => { said += link.textContent }).observe(link, { childList: true })"
        )
        page.wait_for_function("() => said.split('paused while text is selected').length > 3")
        assert page.evaluate("String(getSelection())") == "1795414800123456"
        page.evaluate("getSelection().removeAllRanges()")
        wait_for_updates(page, 1)


def test_hidden_page_closes_its_stream(browser: Browser, url: str, session: StorageState) -> None:
    """A page in the background closes its connection, and is live again when it is visible again."""
    with visit(browser, url, viewport=PHONE, storage_state=session) as visitor:
        expect(visitor.page.locator("#link")).to_have_text("live")
        for is_hidden in (True, False):
            with visitor.page.expect_event("requestfailed" if is_hidden else "request") as ended:
                # There is no other way to hide a page in a headless browser.
                visitor.page.evaluate(
                    """(hidden) => {
                        Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
                        document.dispatchEvent(new Event("visibilitychange"));
                    }""",
                    is_hidden,
                )
            assert ended.value.url == f"{url}events"
        wait_for_updates(visitor.page, 1)


def test_lost_connection_is_shown_and_restored(browser: Browser, bot: BotProcess, session: StorageState) -> None:
    """When the connection breaks, the page keeps its content and shows since when, and reconnects by itself."""
    with open_proxy(bot) as proxy:
        address = f"http://127.0.0.1:{proxy.port}/"
        with visit(browser, address, expected="ERR_CONNECTION_", viewport=PHONE, storage_state=session) as visitor:
            status_line = visitor.page.locator("#link")
            expect(status_line).to_have_text("live")
            proxy.start_partition()
            expect(status_line).to_have_text(CONNECTION_LOST)
            expect(visitor.page.get_by_role("heading", level=1)).to_have_text("LIVE")
            proxy.end_partition()
            expect(status_line).to_have_text("live")


def test_silent_connection_is_shown_as_lost(browser: Browser, bot: BotProcess, session: StorageState) -> None:
    """When nothing has arrived for half a minute on an open connection, the page shows that it is not live."""
    with open_proxy(bot) as proxy:
        address = f"http://127.0.0.1:{proxy.port}/"
        with visit(browser, address, viewport=PHONE, storage_state=session) as visitor:
            status_line = visitor.page.locator("#link")
            visitor.page.clock.install()
            visitor.page.reload()
            expect(status_line).to_have_text("live")
            proxy.start_partition(blackhole=True)
            visitor.page.clock.fast_forward(40_000)
            expect(status_line).to_have_text(CONNECTION_LOST)


def test_error_response_to_the_stream_is_retried(browser: Browser, url: str, session: StorageState) -> None:
    """If the bot answers the stream with an error, the page shows that it is not live, and retries."""
    with visit(browser, url, expected="503", viewport=PHONE, storage_state=session) as visitor:
        status_line = visitor.page.locator("#link")
        visitor.page.clock.install()
        visitor.page.route("**/events", lambda route: route.fulfill(status=503))
        visitor.page.reload()
        expect(status_line).to_have_text(CONNECTION_LOST)
        visitor.page.unroute("**/events")
        visitor.page.clock.fast_forward(6_000)
        expect(status_line).to_have_text("live")


def test_nothing_overflows_at_phone_width(browser: Browser, url: str, session: StorageState) -> None:
    """On a phone 360 pixels wide no page of any kind overflows, and touch targets are 44 pixels high."""
    width = PHONE["width"]
    with visit(browser, url, viewport=PHONE, is_mobile=True, has_touch=True, storage_state=session) as visitor:
        findings = {"the bot's own": visitor.page.evaluate(OVERFLOWING_ELEMENTS, width)}
        for name, document in sample_pages().items():
            show_document(visitor.page, url, document)
            visitor.page.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true })")
            overflowing = visitor.page.evaluate(OVERFLOWING_ELEMENTS, width)
            findings[name] = [*overflowing, *visitor.page.evaluate(SMALL_TARGETS)]
        assert not {name: elements for name, elements in findings.items() if elements}


def test_dark_and_light_have_enough_contrast(browser: Browser, url: str) -> None:
    """A user who prefers dark gets a dark page, and each text of each kind of page has the contrast of WCAG AA."""
    backgrounds, low_contrast = {}, {}
    with visit(browser, f"{url}login", viewport=DESKTOP) as visitor:
        for scheme in ("light", "dark"):
            visitor.page.emulate_media(color_scheme=scheme)
            for name, document in sample_pages().items():
                show_document(visitor.page, url, document)
                low_contrast[scheme, name] = visitor.page.evaluate(LOW_CONTRAST_TEXTS)
                backgrounds[scheme] = visitor.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert not {name: texts for name, texts in low_contrast.items() if texts}
    assert backgrounds == {"light": "rgb(243, 245, 247)", "dark": "rgb(15, 19, 23)"}


def test_stop_requires_confirmation(browser: Browser, bot: BotProcess, url: str, session: StorageState) -> None:
    """Without the checkbox nothing is sent; with it entries are paused, and the page shows that from then on."""
    with visit(browser, url, viewport=PHONE, storage_state=session) as visitor:
        stop = visitor.page.get_by_role("button", name="Pause entries")
        stop.click()
        checkbox = visitor.page.get_by_label("Yes, open nothing new")
        assert checkbox.evaluate("checkbox => checkbox.validity.valueMissing")
        assert f"{url}stop" not in visitor.requests
        checkbox.check()
        stop.click()
        expect(visitor.page.get_by_text("Entries are paused.")).to_be_visible()
        expect(stop).to_be_hidden()
        assert visitor.requests.count(f"{url}stop") == 1
        assert visitor.page.url == url

"""Who may see the status page and stop entries: decisions only, no I/O.

Bound to loopback, the page is open to whoever is on this machine. Elsewhere it takes the token: in a header, or in the
login form, which gives a cookie for it. A wrong token costs time whichever way it came, as the key of a cookie that
somebody made up too.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import logging
import secrets
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

COOKIE_SECONDS = 30 * 86_400
# A clock that is corrected must not end sessions, and one that was years ahead must not have made one for years.
CLOCK_LEEWAY_SECONDS = 300
WINDOW_SECONDS = 60.0
WRONG_PER_PEER = 10
WRONG_IN_ALL = 60
KNOWN_COOKIES = 256


class Admission(enum.Enum):
    """What a request may do, judged by what it has shown."""

    LOOPBACK = "the page is open to this machine"
    COOKIE = "a session"
    BEARER = "the token itself"
    NOBODY = "nothing, or a session that is over"
    WRONG = "a token or a session that is not ours"
    TOO_MANY = "not looked at, after too many wrong ones"

    @property
    def is_in(self) -> bool:
        """Whether the page is shown."""
        return self in {Admission.LOOPBACK, Admission.COOKIE, Admission.BEARER}


class WrongTokens:
    """The wrong tokens of the last minute: never more of them than are let through in one, so it cannot grow."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._seen: deque[tuple[float, str]] = deque(maxlen=WRONG_IN_ALL)
        self._told: float | None = None

    def wait_seconds(self, peer: str) -> float:
        """Return after how many seconds a token from this peer is looked at again; 0.0 for at once."""
        start = self._now() - WINDOW_SECONDS
        while self._seen and self._seen[0][0] <= start:
            self._seen.popleft()
        in_all = [when for when, _ in self._seen]
        of_peer = [when for when, whose in self._seen if whose == peer]
        limits = ((in_all, WRONG_IN_ALL), (of_peer, WRONG_PER_PEER))
        return max((times[-limit] - start for times, limit in limits if len(times) >= limit), default=0.0)

    def add(self, peer: str) -> None:
        """Count one, and tell of too many at most once a minute."""
        now = self._now()
        self._seen.append((now, peer))
        if self.wait_seconds(peer) and (self._told is None or now - self._told >= WINDOW_SECONDS):
            self._told = now
            log.warning(
                "Status page: too many wrong tokens, the last from %s; for a minute no more are looked at", peer
            )


class Access:
    """Holds the token and says who comes in. For one thread, the server's.

    `now` gives seconds that are never set back; `wall` the time in Unix seconds.
    """

    def __init__(self, token: str, *, is_public: bool, now: Callable[[], float], wall: Callable[[], float]) -> None:
        self.is_public = is_public
        self._token = _bytes(token)
        self._wall = wall
        self._wrong = WrongTokens(now)
        # Sessions found to be ours: they go on while somebody guesses.
        self._known: dict[str, None] = {}
        self._own_csrf_token = secrets.token_hex(32)

    @property
    def is_closed(self) -> bool:
        """Whether nobody comes in: the page is public, and there is no token."""
        return self.is_public and not self._token

    def admit(self, peer: str, *, token: str | None, cookie: str | None) -> Admission:
        """Judge a request of this peer (an address) by its header's token, or else by its cookie (None: not there)."""
        if not self.is_public:
            return Admission.LOOPBACK
        if token is not None:
            return self.log_in(peer, token)
        if cookie is None or self.is_closed:
            return Admission.NOBODY
        if cookie not in self._known:
            if self._wrong.wait_seconds(peer):
                return Admission.TOO_MANY
            if not self._is_signed(cookie):
                self._wrong.add(peer)
                return Admission.WRONG
            self._remember(cookie)
        return Admission.COOKIE if self._is_current(cookie) else Admission.NOBODY

    def log_in(self, peer: str, token: str) -> Admission:
        """Judge a token: BEARER, WRONG or TOO_MANY."""
        if self._wrong.wait_seconds(peer):
            return Admission.TOO_MANY
        if not self.is_closed and hmac.compare_digest(_bytes(token), self._token):
            return Admission.BEARER
        self._wrong.add(peer)
        return Admission.WRONG

    def wait_seconds(self, peer: str) -> float:
        """Return after how many seconds a token from this peer is looked at again; 0.0 for at once."""
        return self._wrong.wait_seconds(peer)

    def new_cookie(self) -> str:
        """Return a session: when it was given, signed with the token, so that it ends with the token or in 30 days."""
        issued = f"{self._wall():.0f}"
        return f"{issued}.{self._signature('session', issued)}"

    def csrf_token(self, cookie: str | None) -> str:
        """Return what a form of the page has to bring back: nothing that a page of somebody else can know."""
        if not self.is_public:
            return self._own_csrf_token
        return self._signature("csrf", cookie) if cookie else ""

    def csrf_ok(self, cookie: str | None, given: str) -> bool:
        """Whether a form of the page was sent, and not one of somebody else."""
        expected = self.csrf_token(cookie)
        return bool(expected) and hmac.compare_digest(_bytes(given), _bytes(expected))

    def _signature(self, purpose: str, text: str) -> str:
        return hmac.new(self._token, _bytes(f"{purpose}.{text}"), hashlib.sha256).hexdigest()

    def _is_signed(self, cookie: str) -> bool:
        issued, _, signature = cookie.partition(".")
        return hmac.compare_digest(_bytes(signature), _bytes(self._signature("session", issued)))

    def _is_current(self, cookie: str) -> bool:
        age_seconds = self._wall() - int(cookie.partition(".")[0])
        return -CLOCK_LEEWAY_SECONDS <= age_seconds < COOKIE_SECONDS

    def _remember(self, cookie: str) -> None:
        self._known[cookie] = None
        while len(self._known) > KNOWN_COOKIES:
            del self._known[next(iter(self._known))]


def _bytes(text: str) -> bytes:
    # What a client or the environment gives need not be text; it is compared all the same.
    return text.encode("utf-8", "surrogatepass")

"""Who may see the page and stop entries: decisions only, no I/O.

On loopback, the page is open to everybody on this machine. Elsewhere it needs the token: in a header, or in the login
form, which sets a cookie for it. Every wrong token counts towards the rate limit, and so does the key of a forged
cookie. The limit concerns wrong ones only: all visitors may have one address, and a stranger who guesses must not keep
the holder of the token from stopping the bot. The length of the token is what protects it.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
from collections import deque
from collections.abc import Callable

from bot.base.event_catalog import Event
from bot.base.events import emit

SESSION_SECONDS = 30 * 86_400
# A corrected clock must not end sessions, and a clock that was years ahead must not have made a session for years.
CLOCK_LEEWAY_SECONDS = 300
WINDOW_SECONDS = 60.0
FAILURES_PER_PEER_MAX = 10
FAILURES_MAX = 60


class AuthResult(enum.Enum):
    """What a request may do, by its credentials."""

    BROWSER = "a page on this machine, or a session: its forms need a csrf token"
    BEARER = "the token in a header"
    DENIED = "no token and no session, or a wrong one"
    THROTTLED = "a wrong one, after too many others"

    @property
    def is_allowed(self) -> bool:
        """Whether the request may see the page."""
        return self in {AuthResult.BROWSER, AuthResult.BEARER}


class FailedAttempts:
    """The wrong tokens of the last minute: never more than the limit allows in one minute, so the size is bounded."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._failures: deque[tuple[float, str]] = deque(maxlen=FAILURES_MAX)
        self._warned_seconds: float | None = None

    def retry_after_seconds(self, peer: str) -> float:
        """Return for how many seconds wrong tokens from this peer are answered with 429; 0.0 for none."""
        start = self._monotonic() - WINDOW_SECONDS
        while self._failures and self._failures[0][0] <= start:
            self._failures.popleft()
        all_times = [time_seconds for time_seconds, _ in self._failures]
        peer_times = [time_seconds for time_seconds, failed_peer in self._failures if failed_peer == peer]
        limits = ((all_times, FAILURES_MAX), (peer_times, FAILURES_PER_PEER_MAX))
        return max((times[-limit] - start for times, limit in limits if len(times) >= limit), default=0.0)

    def add(self, peer: str) -> None:
        """Count one, and log too many at most once a minute."""
        now = self._monotonic()
        self._failures.append((now, peer))
        if self.retry_after_seconds(peer) and (
            self._warned_seconds is None or now - self._warned_seconds >= WINDOW_SECONDS
        ):
            self._warned_seconds = now
            emit(Event.LOGIN_ATTEMPTS_LIMITED, peer=peer)


class Authenticator:
    """Holds the token and decides who is let in. For one thread, the server's.

    `monotonic` returns seconds that are never set back; `wall_clock` returns Unix seconds.
    """

    def __init__(
        self, token: str, *, is_public: bool, monotonic: Callable[[], float], wall_clock: Callable[[], float]
    ) -> None:
        self.is_public = is_public
        self.failed_attempts = FailedAttempts(monotonic)
        self._token = _to_bytes(token)
        # On loopback there are no sessions, and the forms of a previous run are refused.
        self._signing_key = self._token if is_public else secrets.token_bytes(32)
        self._wall_clock = wall_clock

    @property
    def is_token_missing(self) -> bool:
        """Whether nobody is let in: the page is public, and there is no token."""
        return self.is_public and not self._token

    def authenticate(self, peer: str, *, token: str | None, cookie: str | None) -> AuthResult:
        """Check a request of this peer (an address) by its header's token, or else by its cookie (None: not there)."""
        if not self.is_public:
            return AuthResult.BROWSER
        if token is not None:
            return self.log_in(peer, token)
        if cookie is None or self.is_token_missing:
            return AuthResult.DENIED
        issued, _, signature = cookie.partition(".")
        if not self._is_signed("session", issued, signature):
            return self._count_failure(peer)
        age_seconds = self._wall_clock() - int(issued)
        is_current = -CLOCK_LEEWAY_SECONDS <= age_seconds < SESSION_SECONDS
        return AuthResult.BROWSER if is_current else AuthResult.DENIED

    def log_in(self, peer: str, token: str) -> AuthResult:
        """Check a token: BEARER, DENIED or THROTTLED."""
        if not self.is_token_missing and hmac.compare_digest(_to_bytes(token), self._token):
            return AuthResult.BEARER
        return self._count_failure(peer)

    def _count_failure(self, peer: str) -> AuthResult:
        if self.failed_attempts.retry_after_seconds(peer):
            return AuthResult.THROTTLED
        self.failed_attempts.add(peer)
        return AuthResult.DENIED

    def new_session(self) -> str:
        """Return a session: its creation time, signed with the token, so that it ends with the token or in 30 days."""
        issued = f"{self._wall_clock():.0f}"
        return f"{issued}.{self._signature('session', issued)}"

    def csrf_token(self, cookie: str | None) -> str:
        """Return the value that a form of the page must send back: no other site's page can know it."""
        return self._signature("csrf", cookie or "")

    def is_csrf_valid(self, cookie: str | None, submitted: str) -> bool:
        """Tell whether the form was rendered by this server."""
        return self._is_signed("csrf", cookie or "", submitted)

    def _is_signed(self, purpose: str, text: str, signature: str) -> bool:
        return hmac.compare_digest(_to_bytes(signature), _to_bytes(self._signature(purpose, text)))

    def _signature(self, purpose: str, text: str) -> str:
        return hmac.new(self._signing_key, _to_bytes(f"{purpose}.{text}"), hashlib.sha256).hexdigest()


def _to_bytes(text: str) -> bytes:
    # A value from a client or the environment need not be valid text; it is compared all the same.
    return text.encode("utf-8", "surrogatepass")

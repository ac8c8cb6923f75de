"""One attempt of a request: circuit breaker, rate limiter, nonce, sending, and what the response means for the key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bot.base import clock
from bot.base.clock import ServerTime
from bot.base.errors import (
    BotError,
    CircuitOpenError,
    InvalidNonceError,
    LockoutError,
    OrderRefusedError,
    RateLimitError,
    RequestError,
)
from bot.kraken import error_table, nonce_recovery
from bot.kraken.breaker_file import BreakerState
from bot.kraken.circuit_breaker import CircuitBreaker
from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.kraken.rate_limiter import RateLimiter
from bot.kraken.transport import KrakenAPI
from bot.nonce.local_lock import Priority

# What places or changes an order; `OrderGateway` says which of them it offers.
ORDER_METHODS = frozenset({"AddOrder", "AddOrderBatch", "AmendOrder", "EditOrder"})
_PRIORITY_BY_METHOD = {
    "CancelOrder": Priority.CANCEL,
    "CancelAll": Priority.CANCEL,
    "CancelAllOrdersAfter": Priority.CANCEL,
    "AddOrder": Priority.ORDER,
}


class BeforeSend(Protocol):
    """Records an order before its first byte leaves."""

    def record_sent(self, nonce: str, deadline_seconds: float) -> None:
        """Write the order to disk with its nonce and its deadline (Unix seconds). Raises JournalError."""


class KrakenCalls(Protocol):
    """The two calls that market data and account are built on. `KrakenBroker` provides them."""

    def public_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a public endpoint; return its `result`."""

    def private_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a private endpoint; return its `result`."""

    def response_date(self) -> float | None:
        """Return the HTTP Date of the last answer in Unix seconds, or None where it had none."""


class Sender(Protocol):
    """The owner of the request lock and of the key's nonces. `KrakenBroker` provides them."""

    def check_request_lock(self) -> None:
        """Raise RequestLockExpiredError, LeaseLostError or StoreUnavailableError where nothing may be sent any more."""

    def check_not_stopping(self, priority: Priority) -> None:
        """Raise StoppingError where the program stops and a request of this priority is no cancel."""

    def apply_nonce_jump(self, jump: nonce_recovery.NonceJump) -> None:
        """Raise the nonce as a nonce jump says."""

    def newest_nonce_before(self, nonce: int) -> int | None:
        """Return the highest nonce below `nonce` that this process has issued, or None where it knows none."""


@dataclass(frozen=True, slots=True)
class PrivateRequest:
    """A private request, from the call to the wire. `before_send` is set for an order, and for nothing else."""

    method: str
    params: Mapping[str, Any]
    before_send: BeforeSend | None = None

    @property
    def priority(self) -> Priority:
        """Its rank among the requests that wait for the request lock."""
        return _PRIORITY_BY_METHOD.get(self.method, Priority.READ)

    @property
    def is_repeatable(self) -> bool:
        """Whether sending it twice does no harm. An AddOrder without `before_send` only validates."""
        return self.method in nonce_recovery.RETRYABLE_METHODS or (
            self.method == "AddOrder" and self.before_send is None
        )


def is_validation(method: str, params: Mapping[str, Any]) -> bool:
    """Whether Kraken only checks the order and places none (Kraken: AddOrder page, `validate`)."""
    return method == "AddOrder" and str(params.get("validate", "")).lower() in ("true", "1")


PROBE = PrivateRequest("GetApiKeyInfo", {})


class KrakenClient:
    """Sends requests over a given KrakenAPI, each once; tells circuit breaker and rate limiter the result.

    The API's `_nonce` issues the nonces.
    """

    def __init__(
        self,
        sender: Sender,
        circuit_breaker: CircuitBreaker,
        rate_limiter: RateLimiter,
        server_time: ServerTime,
        nonce_unit: str,
    ) -> None:
        self._sender = sender
        self._circuit_breaker = circuit_breaker
        self._rate_limiter = rate_limiter
        self._server_time = server_time
        self._nonce_unit = nonce_unit

    def send_public(self, api: KrakenAPI, method: str, params: Mapping[str, Any]) -> Any:
        """Send a public request; return its result."""
        return self._read_result(method, api.query_public(method, dict(params)))

    def try_send(self, api: KrakenAPI, request: PrivateRequest, *, must_send: bool) -> tuple[float, Any]:
        """Send a private request; return 0.0 and its result, or how many seconds the rate limit asks to wait and None.

        `must_send` sends it whatever the rate limit says. Raises NonceRefusedError for a refused nonce and
        CircuitOpenError while the key's circuit breaker is open.
        """
        if (half_open := self._circuit_breaker.check()) is not None:
            self._probe(api, half_open, request.priority)
        # Counted now, while the request lock is held: calls that are counted long before would arrive all at once.
        wait_seconds = self._rate_limiter.try_acquire_rest(request.method, self._server_time.now())
        if wait_seconds > 0:
            if not must_send:
                return wait_seconds, None
            self._rate_limiter.spend_rest(request.method, self._server_time.now())
        # The form encoding would write True, which Kraken does not read.
        params: dict[str, Any] = {}
        for name, value in request.params.items():
            if value is not None:
                params[name] = str(value).lower() if isinstance(value, bool) else value
        if request.method != "AddOrder":
            return 0.0, self._exchange(api, request, params, self._take_nonce(api, request.priority))
        deadline_seconds = self._server_time.now() + ORDER_DEADLINE_SECONDS
        params["deadline"] = clock.format_rfc3339(deadline_seconds)
        nonce = self._take_nonce(api, request.priority)
        if request.before_send is None:
            # It only validates. Kraken's spelling, whatever the caller wrote for yes.
            params["validate"] = "true"
        else:
            request.before_send.record_sent(str(nonce), deadline_seconds)
            # Writing to disk may have taken long.
            self._sender.check_request_lock()
        return 0.0, self._exchange(api, request, params, nonce)

    def _take_nonce(self, api: KrakenAPI, priority: Priority) -> int:
        nonce = int(api._nonce())
        # A store may answer late. While the program stops, a cancel does not wait for the lock: it takes a higher nonce
        # and may have been sent by now.
        self._sender.check_not_stopping(priority)
        return nonce

    def _probe(self, api: KrakenAPI, half_open: BreakerState, priority: Priority) -> None:
        """Send the one request that may close the circuit breaker.

        Raises CircuitOpenError where Kraken refuses it or does not answer: then nothing else was sent.
        """
        nonce = 0
        try:
            nonce = self._take_nonce(api, priority)
            key_info = self._exchange(api, PROBE, {}, nonce)
        except InvalidNonceError as error:
            still_open = self._circuit_breaker.extend(half_open, error)
            if half_open.reason != nonce_recovery.EXTERNAL_SENDER:
                raise still_open from error
            self._probe_ahead(api, half_open, priority, nonce, still_open)
            return
        except LockoutError as error:
            raise self._circuit_breaker.extend(half_open, error) from error
        except RequestError:
            # Kraken does not know the probe, but it answers this key again.
            key_info = None
        except BotError as error:
            raise CircuitOpenError(
                f"the probe was not answered, and nothing else was sent: {error}", clock.wall_seconds()
            ) from error
        previous_nonce = self._sender.newest_nonce_before(nonce)
        self._circuit_breaker.close_after_probe(half_open, key_info, previous_nonce, nonce)

    def _probe_ahead(
        self,
        api: KrakenAPI,
        half_open: BreakerState,
        priority: Priority,
        refused_nonce: int,
        still_open: CircuitOpenError,
    ) -> None:
        """Send one more probe, 10 minutes ahead of the clock, to learn what the other sender's nonces are like: after
        the silence one in our unit is no higher. Raises CircuitOpenError where it does not close the breaker."""
        nonce = 0
        try:
            self._sender.apply_nonce_jump(nonce_recovery.NonceJump.LARGE)
            nonce = self._take_nonce(api, priority)
            key_info = self._exchange(api, PROBE, {}, nonce)
        except InvalidNonceError as error:
            raise self._circuit_breaker.handle_floor_out_of_reach(nonce, self._nonce_unit) from error
        except LockoutError as error:
            raise self._circuit_breaker.extend(half_open, error) from error
        except BotError as error:
            raise still_open from error
        self._circuit_breaker.close_after_probe(half_open, key_info, refused_nonce, nonce)

    def _exchange(self, api: KrakenAPI, request: PrivateRequest, params: dict[str, Any], nonce: int) -> Any:
        envelope = api.send_private(request.method, params, nonce)
        try:
            result = self._read_result(request.method, envelope)
        except InvalidNonceError as error:
            raise self._circuit_breaker.handle_refusal(
                error, nonce, self._nonce_unit, is_repeatable=request.is_repeatable
            ) from error
        except OrderRefusedError:
            # The matching engine refused the order: the nonce was accepted.
            self._circuit_breaker.record_accepted(nonce)
            raise
        except LockoutError:
            self._circuit_breaker.handle_lockout()
            raise
        except RateLimitError as limited:
            self._rate_limiter.record_rate_limit_error(limited, self._server_time.now())
            raise
        self._circuit_breaker.record_accepted(nonce)
        return result

    def _read_result(self, method: str, envelope: dict[str, Any]) -> Any:
        if errors := envelope["error"] and error_table.filter_errors(envelope["error"]):
            error = error_table.make_error(method, errors)
            error.wait_seconds = error_table.retry_after_seconds(errors, self._server_time.now())
            raise error
        return envelope.get("result")

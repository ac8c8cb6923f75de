"""One attempt at a request: circuit breaker, rate limiter, nonce, send, and what Kraken's answer means for the key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import krakenex

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
from bot.kraken import error_table, nonce_recovery, transport
from bot.kraken.circuit_breaker import CircuitBreaker
from bot.kraken.order_requests import ORDER_DEADLINE_SECONDS
from bot.kraken.rate_limiter import RateLimiter
from bot.nonce.local_lock import Priority

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
    """The two calls that everything above the wire is built on. `KrakenBroker` provides them."""

    def public_call(self, method: str, params: Mapping[str, Any] | None = None) -> Any:
        """Call a public endpoint; return its `result`."""

    def private_call(
        self, method: str, params: Mapping[str, Any] | None = None, *, before_send: BeforeSend | None = None
    ) -> Any:
        """Call a private endpoint; return its `result`. An AddOrder with `before_send` comes from the order gateway."""


class Sender(Protocol):
    """The owner of the request lock and of the key's nonces. `KrakenBroker` provides them."""

    def check_request_lock(self) -> None:
        """Raise RequestLockExpiredError, LeaseLostError or StoreUnavailableError where nothing may be sent any more."""

    def newest_nonce_before(self, nonce: int) -> int:
        """Return the highest nonce below `nonce` that this process has issued."""


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


PROBE = PrivateRequest("GetApiKeyInfo", {})


class _RequestNonce:
    """The nonce of one request. krakenex asks for it while it builds the request."""

    def __init__(
        self, next_nonce: Callable[[], str], sender: Sender, before_send: BeforeSend | None, deadline_seconds: float
    ) -> None:
        self._next_nonce = next_nonce
        self._sender = sender
        self._before_send = before_send
        self._deadline_seconds = deadline_seconds
        self.value = 0

    def take(self) -> str:
        """Return the nonce as krakenex sends it, once an order that goes with it is on disk."""
        nonce = self._next_nonce()
        self.value = int(nonce)
        if self._before_send is not None:
            self._before_send.record_sent(nonce, self._deadline_seconds)
            # Writing to disk may have taken long.
            self._sender.check_request_lock()
        return nonce


class KrakenClient:
    """Sends requests over a given krakenex.API, each once; tells circuit breaker and rate limiter the result.

    The API's `_nonce` makes the nonces.
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

    def send_public(self, api: krakenex.API, method: str, params: Mapping[str, Any]) -> Any:
        """Send a public request; return its result."""
        envelope = transport.request(api.query_public, method, dict(params))
        return self._read_result(method, envelope)

    def check_circuit_breaker(self, api: krakenex.API) -> None:
        """Raise CircuitOpenError while the key's circuit breaker is open; send the one probe when its time is over.

        Raises CircuitOpenError as well where the probe is not answered: then nothing else was sent.
        """
        half_open = self._circuit_breaker.check()
        if half_open is None:
            return
        nonce = _RequestNonce(api._nonce, self._sender, None, 0.0)
        try:
            key_info = self._exchange(api, PROBE, nonce, {})
        except (InvalidNonceError, LockoutError) as error:
            raise self._circuit_breaker.extend(half_open, error) from error
        except RequestError:
            # Kraken does not know the probe, but it answers this key again.
            key_info = None
        except BotError as error:
            raise CircuitOpenError(
                f"the probe was not answered, and nothing else was sent: {error}", clock.wall_seconds()
            ) from error
        previous_nonce = self._sender.newest_nonce_before(nonce.value)
        self._circuit_breaker.close_after_probe(half_open, key_info, previous_nonce, nonce.value)

    def send_private(self, api: krakenex.API, request: PrivateRequest) -> Any:
        """Send a private request; return its result. Raises NonceRefusedError for a refused nonce."""
        # The form encoding would write True, which Kraken does not read. krakenex adds the nonce to this dictionary.
        data = {
            name: str(value).lower() if isinstance(value, bool) else value
            for name, value in request.params.items()
            if value is not None
        }
        deadline_seconds = 0.0
        if request.method == "AddOrder":
            deadline_seconds = self._server_time.now() + ORDER_DEADLINE_SECONDS
            data["deadline"] = clock.format_rfc3339(deadline_seconds)
        nonce = _RequestNonce(api._nonce, self._sender, request.before_send, deadline_seconds)
        return self._exchange(api, request, nonce, data)

    def _exchange(self, api: krakenex.API, request: PrivateRequest, nonce: _RequestNonce, data: dict[str, Any]) -> Any:
        default_nonce, api._nonce = api._nonce, nonce.take
        try:
            envelope = transport.request(api.query_private, request.method, data)
        finally:
            api._nonce = default_nonce
        try:
            result = self._read_result(request.method, envelope)
        except InvalidNonceError as error:
            raise self._circuit_breaker.handle_refusal(
                error, nonce.value, self._nonce_unit, is_repeatable=request.is_repeatable
            ) from error
        except OrderRefusedError:
            # The matching engine refused the order: the nonce was accepted.
            self._circuit_breaker.record_accepted(nonce.value)
            raise
        except LockoutError:
            self._circuit_breaker.handle_lockout()
            raise
        except RateLimitError as limited:
            self._rate_limiter.record_rate_limit_error(limited, self._server_time.now())
            raise
        self._circuit_breaker.record_accepted(nonce.value)
        return result

    def _read_result(self, method: str, envelope: dict[str, Any]) -> Any:
        if errors := envelope["error"] and error_table.filter_errors(envelope["error"]):
            error = error_table.make_error(method, errors)
            error.wait_seconds = error_table.retry_after_seconds(errors, self._server_time.now())
            raise error
        return envelope.get("result")

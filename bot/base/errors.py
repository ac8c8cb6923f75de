"""Every error this program raises on purpose.

BotError
|-- SettingsError           a setting is wrong; nothing was started
|-- BotAlreadyRunningError  another bot holds the state folder
|-- BotNotRunningError      no running bot answers
|-- StateLostError          the state folder was replaced or removed under the running bot; nothing more is sent
|-- JournalError            the journal cannot be read or written: no new order is sent
|-- JournalVersionError     a newer version of this program has written the journal
|-- SymbolError             no such pair or asset at Kraken
|-- NonceError
|   |-- NonceStoreError     a nonce ahead of the clock could not be written to the nonce file
|   |-- NonceAheadError     the stored nonce is more than a day ahead of the clock
|   |-- StoreUnavailableError   the shared nonce store cannot be used now; nothing was sent
|   `-- RequestLockTimeout  another sender holds the key's request lock (also a TimeoutError)
|-- LeaseLostError          this instance does not lead the account, or no longer leads it; nothing was sent
|-- KeyRuleError            the key works, but it may not be used to trade
|-- CircuitOpenError        the key's circuit breaker is open; nothing was sent
|-- StoppingError           the program is shutting down; nothing was sent
|-- TransportError
|   |-- NotSentError        no connection: the request did not leave
|   |   `-- RequestLockExpiredError   the request lock expired before the request could leave
|   `-- NoAnswerError       the request may have arrived; no readable answer came back
|-- KrakenError             Kraken answered with an error
|   |-- InvalidNonceError
|   |-- LockoutError        temporarily locked out
|   |-- CredentialsError    wrong key or signature, or an account that may not trade
|   |-- PermissionDeniedError
|   |-- RateLimitError
|   |-- ServiceError        Kraken is unavailable, busy or in a restricted mode
|   |-- RequestError        the request itself is wrong
|   |-- OrderRefusedError   a final refusal of an order (or of a cancel)
|   `-- UnknownKrakenError  a string that is not in the table: the action stops
|-- OrderRuleError          refused before sending: precision, minimum or a limit of the bot
|-- MarketStatusError       the exchange or the pair is not open for it now; nothing was sent
|-- OrderBlockedError       the pair has an order with an unknown outcome
`-- OrderOutcomeUnknownError    an order was sent and its outcome is unknown
"""

from __future__ import annotations


class BotError(Exception):
    """Root of everything that this program raises on purpose."""


class SettingsError(BotError):
    """One or more settings are wrong.

    `problems` has one sentence for each setting, which names the variable.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class BotAlreadyRunningError(BotError):
    """Another bot is running on the same state folder."""


class StateLostError(BotError):
    """The state folder was moved, replaced or removed while the bot ran on it: another bot may hold the new one."""


class BotNotRunningError(BotError):
    """No bot runs on the state folder, or it does not answer."""


class JournalError(BotError):
    """The journal cannot be read or written; no new order is sent, and sent orders are still followed."""


class JournalVersionError(BotError):
    """A newer version of this program has written the journal; it is left alone."""


class SymbolError(BotError):
    """A symbol that is not in Kraken's AssetPairs and Assets."""


class NonceError(BotError):
    """An error in issuing or ordering nonces."""


class NonceStoreError(NonceError):
    """The store could not be written, and the clock does not cover the nonce."""


class NonceAheadError(NonceError):
    """The stored nonce is more than a day ahead of the clock."""


class StoreUnavailableError(NonceError):
    """The shared nonce store is unreachable, too slow, full or refuses; nothing was sent, and the bot tries again."""


class RequestLockTimeout(NonceError, TimeoutError):  # noqa: N818 - named by the design
    """The key's request lock was not acquired within the time allowed; nothing was sent."""


class LeaseLostError(BotError):
    """This instance does not lead the account, or no longer leads it; nothing was sent."""


class KeyRuleError(BotError):
    """The key works, but trading on it would not be safe: a nonce window, a permission too many or too few."""


class CircuitOpenError(BotError):
    """The key's circuit breaker is open after refusals or a lockout; nothing was sent.

    `until_seconds` is Unix time.
    """

    def __init__(self, message: str, until_seconds: float) -> None:
        super().__init__(message)
        self.until_seconds = until_seconds


class StoppingError(BotError):
    """The program is stopping; the request was not sent."""


class TransportError(BotError):
    """The HTTP exchange itself failed."""


class NotSentError(TransportError):
    """No connection could be made, so Kraken never saw the request."""


class RequestLockExpiredError(NotSentError):
    """The request lock expired before the request could leave."""


class NoAnswerError(TransportError):
    """The request may have reached Kraken, but no readable answer came back."""


class KrakenError(BotError):
    """Kraken answered with an error.

    `error_strings` are Kraken's own strings; `method` is the endpoint. `wait_seconds` is the minimum time before a
    similar request is sent again.
    """

    wait_seconds = 0.0

    def __init__(self, method: str, error_strings: list[str], advice: str = "") -> None:
        text = f"Kraken refused {method}: {'; '.join(error_strings)}"
        super().__init__(f"{text}. {advice}" if advice else text)
        self.method = method
        self.error_strings = error_strings


class InvalidNonceError(KrakenError):
    """Kraken had already accepted this nonce or a higher one for the key."""


class LockoutError(KrakenError):
    """Kraken has locked the key or address out for a while."""


class CredentialsError(KrakenError):
    """The key or its signature is wrong, or the account is not in order."""


class PermissionDeniedError(KrakenError):
    """The key lacks a permission."""


class RateLimitError(KrakenError):
    """A rate counter of Kraken is over its maximum."""


class ServiceError(KrakenError):
    """Kraken is unavailable, busy, or in a mode that does not allow the request."""


class RequestError(KrakenError):
    """The request is malformed or names something that does not exist."""


class OrderRefusedError(KrakenError):
    """Kraken's final refusal: the order was not placed (or the cancel not done)."""


class UnknownKrakenError(KrakenError):
    """An error string that is not in the table; nothing may be assumed from it."""


class OrderRuleError(BotError):
    """The order breaks a rule and was not sent.

    `rule` names it (for example `ordermin`); `nearest` is the nearest allowed value, as text, or "".
    """

    def __init__(self, message: str, rule: str, nearest: str = "") -> None:
        super().__init__(message)
        self.rule = rule
        self.nearest = nearest


class MarketStatusError(BotError):
    """The status of the exchange or of the pair does not allow the request now; nothing was sent."""


class OrderBlockedError(BotError):
    """The pair has an order whose outcome is unknown; no new order is sent for it."""


class OrderOutcomeUnknownError(BotError):
    """An order was sent and its outcome is unknown. It is queried, never sent again."""

    def __init__(self, message: str, cl_ord_id: str) -> None:
        super().__init__(message)
        self.cl_ord_id = cl_ord_id

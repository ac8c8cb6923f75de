"""The record of a key in Redis 6.2+ or Valkey: one hash, and one atomic script for each operation (redis/*.lua)."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import redis
from redis.connection import ConnectionInterface

from bot.base import fork_safety
from bot.base.errors import StoreUnavailableError
from bot.nonce.store_protocol import RESERVATION_SECONDS, GrantStatus, KeyRecord, Lease, NonceGrant, NonceRequest

Result = TypeVar("Result")

TIMEOUT_SECONDS = 2.0

_SCRIPT_NAMES = ("draw", "take", "give_back", "acquire", "renew", "sign_off", "look")
_SCRIPT_FOLDER = Path(__file__).with_name("redis")
_ALLOWED_OPTION = re.compile(r"db=\d+|(username|password|client_name|ssl_\w+)=.*")
INVALID_URL_MESSAGE = (
    "The address of a Redis server must look like redis://host:6379/0, or rediss://... for TLS; before the host may"
    " stand user:password@, with the special characters percent-encoded; no options but db, client_name and ssl_..."
)
_CONNECTION_OPTIONS: dict[str, Any] = {
    "decode_responses": True,
    "encoding_errors": "backslashreplace",
    "socket_connect_timeout": TIMEOUT_SECONDS,
    "socket_timeout": TIMEOUT_SECONDS,
    "socket_keepalive": True,
    "protocol": 2,
    # Otherwise the driver sends its name first, and loses the error of a server in protected mode.
    "driver_info": None,
}

_MISSING_PERMISSION = "does not allow this user what the bot needs: EVALSHA, EVAL, TIME and hashes at kraken-bot:*"
# The first word of the server's error; in a script's error it may be in the middle, or spelled out (Redis 6.2).
_ERROR_DESCRIPTIONS = {
    "OOM": "is full and evicts nothing (maxmemory, noeviction)",
    "READONLY": "is a read-only replica: name the primary",
    "WRONGPASS": "refuses the user name or password",
    "NOAUTH": "wants a user name or password",
    "DENIED": "is in protected mode, where only its own machine may connect: give it a password, and this address too",
    "NOPERM": _MISSING_PERMISSION,
    "ACL failure": _MISSING_PERMISSION,
    "user executing the script": _MISSING_PERMISSION,
    "WRONGTYPE": "holds something else than a hash where this key's row belongs",
    "LOADING": "is still loading its data",
    "BUSY": "is kept busy by another client's script",
    "MISCONF": "cannot write to its disk",
    "NOREPLICAS": "has too few replicas to be allowed to write",
    "MASTERDOWN": "is a replica that has lost its primary",
    "CLUSTERDOWN": "is part of a cluster that is down",
    "MOVED": "is a node of a cluster that does not hold this key's row: name the one that does",
    "ASK": "is a node of a cluster that is moving this key's row",
    "TRYAGAIN": "is a node of a cluster that is moving this key's row",
}
_NOT_A_REDIS_SERVER = "does not answer as a Redis server does"
_ERROR_CODE = re.compile(rf"\b({'|'.join(_ERROR_DESCRIPTIONS)})\b")


class RedisStore:
    """The NonceStore of the key whose hash is `name`, at `url`; connects at its first use.

    Raises ValueError for a URL that cannot be used; the text does not repeat the URL, which may hold a password.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        # In braces, so that a cluster would keep all keys of one name on one node.
        self._key = f"kraken-bot:{{{name}}}"
        self._scripts = {script_name: _load_script(script_name) for script_name in _SCRIPT_NAMES}
        self._pool = _make_pool(url)
        # Not in the pool: it keeps an interrupted connection, whose late answer the next operation would take for its
        # own, and it may lose the error of a server in protected mode.
        self._idle: list[ConnectionInterface] = []
        options = self._pool.connection_kwargs
        self._secrets = [str(options[option]) for option in ("username", "password") if options.get(option)]
        host = options.get("host", "localhost")
        scheme = "rediss" if self._pool.connection_class is redis.SSLConnection else "redis"
        display_host = f"[{host}]" if ":" in host else host
        self.location = f"{scheme}://{display_host}:{options.get('port', 6379)}/{options.get('db', 0)}"
        fork_safety.register_after_fork(self)

    def after_fork_in_child(self) -> None:
        """Leave the parent's connections and locks alone, and create new ones."""
        self._pool, self._idle = _make_pool(self._url), []

    def next_nonce(self, request: NonceRequest) -> NonceGrant:
        """Issue a nonce: GRANTED, STALE or ABOVE_CEILING."""
        return self._run_script("draw", _parse_grant, _encode_request(request))

    def acquire_lock(
        self, request: NonceRequest, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0
    ) -> NonceGrant:
        """Acquire the request lock and issue its nonce in one operation, or neither: GRANTED, RESERVED, BUSY, STALE or
        ABOVE_CEILING."""
        times = [_to_microseconds(seconds) for seconds in (lifetime_seconds, RESERVATION_SECONDS, waited_seconds)]
        return self._run_script("take", _parse_grant, _encode_request(request), owner, *times)

    def release_lock(self, nonce: int) -> None:
        """Release the lock that was acquired with this nonce; do nothing where another sender holds it by now."""
        self._run_script("give_back", str, str(nonce))

    def acquire_lease(self, owner: str, lifetime_seconds: float) -> Lease:
        """Acquire the lease if nobody leads; return the current lease, which belongs to another instance if its `owner`
        is another."""
        return self._run_script("acquire", _parse_lease, owner, _to_microseconds(lifetime_seconds))

    def renew_lease(self, fencing_token: int, lifetime_seconds: float) -> bool:
        """Extend the lease of this fencing token from now; return False where it has expired, or belongs to another
        instance."""
        return self._run_script("renew", _parse_bool, str(fencing_token), _to_microseconds(lifetime_seconds))

    def release_lease(self, fencing_token: int, is_reconciled: bool) -> None:
        """End the lease of this fencing token; `is_reconciled`: no order of its owner has an unknown outcome."""
        self._run_script("sign_off", str, str(fencing_token), "1" if is_reconciled else "0")

    def read_record(self) -> KeyRecord | None:
        """Return the key's record in the store, or None. Writes nothing."""
        return self._run_script("look", _parse_record)

    def close(self) -> None:
        """Close the idle connections; the next use opens them again."""
        while (connection := self._pop_idle()) is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _run_script(self, script_name: str, parse: Callable[[Any], Result], *arguments: str) -> Result:
        try:
            return parse(self._evaluate(script_name, arguments))
        except redis.RedisError as error:
            problem = self._describe_error(error)
        except ValueError:
            problem = _NOT_A_REDIS_SERVER
        # Outside of the handler: the driver's own errors may hold the sent arguments, the password included.
        raise StoreUnavailableError(f"the nonce store {self.location} {problem}")

    def _evaluate(self, script_name: str, arguments: tuple[str, ...]) -> Any:
        script, sha1 = self._scripts[script_name]
        try:
            return self._send("EVALSHA", sha1, "1", self._key, *arguments)
        except redis.exceptions.NoScriptError:
            # A new server, or its scripts were flushed. The server keeps the script that this sends. SCRIPT LOAD would
            # need one more permission.
            return self._send("EVAL", script, "1", self._key, *arguments)

    def _send(self, *command: str) -> Any:
        # Not created by the pool, which would count it for ever.
        new_connection = self._pool.connection_class
        connection: ConnectionInterface = self._pop_idle() or new_connection(**self._pool.connection_kwargs)
        try:
            try:
                reply = _send_and_receive(connection, command)
            except redis.ConnectionError:
                # The connection may be dead since the server was restarted: connect again. Not after a time-out, as
                # waiting twice would be worse. Each operation may be repeated, whatever the result of the first
                # attempt.
                reply = _send_and_receive(connection, command)
        except BaseException:
            # A late answer must not be taken for the next request's.
            connection.disconnect()  # type: ignore[no-untyped-call]
            raise
        self._idle.append(connection)
        return reply

    def _pop_idle(self) -> ConnectionInterface | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _describe_error(self, error: redis.RedisError) -> str:
        match = _ERROR_CODE.search(f"{error.status_code or ''} {error}")
        if match:
            return _ERROR_DESCRIPTIONS[match[1]]
        if isinstance(error, redis.AuthenticationError):
            return _ERROR_DESCRIPTIONS["WRONGPASS"]
        if isinstance(error, redis.TimeoutError):
            return f"did not answer within {TIMEOUT_SECONDS:g} s"
        if isinstance(error, redis.InvalidResponse):
            return _NOT_A_REDIS_SERVER
        # A server that does not know a command repeats its arguments, which may be the password.
        text = str(error).split(", with args", 1)[0]
        for secret in self._secrets:
            # Whole words alone: a user named u is no reason to write "ref***sed".
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        if isinstance(error, redis.ConnectionError):
            return f"is unreachable: {text.rstrip('.')}"
        return f"refuses the step: {text.rstrip('.')}"


def _send_and_receive(connection: ConnectionInterface, command: tuple[str, ...]) -> Any:
    connection.send_command(*command)  # type: ignore[no-untyped-call]
    return connection.read_response()


def _load_script(script_name: str) -> tuple[str, str]:
    """Return the script and its SHA-1, by which the server knows it."""
    parts = [(_SCRIPT_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", script_name)]
    script = "\n".join(parts)
    return script, hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()


def _make_pool(url: str) -> redis.ConnectionPool:
    """Return a pool that has not connected yet."""
    try:
        parts = urlsplit(url)
        # A password with a bare / ? or # in it ends the address early: its first half would be taken for the port.
        (parts.hostname or "").encode("idna")  # as the name look-up will do: its failure is not a RedisError
        is_valid = not parts.fragment and "@" not in parts.path + parts.query and re.fullmatch(r"(/\d*)?", parts.path)
        if is_valid and all(_ALLOWED_OPTION.fullmatch(f"{name}={value}") for name, value in parse_qsl(parts.query)):
            pool = redis.ConnectionPool.from_url(url, **_CONNECTION_OPTIONS)
            pool.make_connection()  # does not connect yet; it checks the options
            return pool
    except (ValueError, TypeError, redis.RedisError):
        pass  # its text may contain the URL
    raise ValueError(INVALID_URL_MESSAGE)


def _encode_request(request: NonceRequest) -> str:
    return f"{request.floor} {request.ceiling} {str(request.units_per_microsecond)[1:]} {request.fencing_token}"


def _to_microseconds(seconds: float) -> str:
    return str(round(seconds * 1_000_000))


# Each reads the answer of an operation. Raises ValueError for an answer that the bot's scripts never give.


def _parse_grant(reply: Any) -> NonceGrant:
    status, nonce, previous_nonce = str(reply).split()
    return NonceGrant(GrantStatus(status), int(nonce), int(previous_nonce))


def _parse_bool(reply: Any) -> bool:
    return bool(int(str(reply)))


def _parse_lease(reply: Any) -> Lease:
    owner, fencing_token, remaining_us, is_clean_handover = _parse_strings(reply)
    return Lease(owner, int(fencing_token), int(remaining_us) / 1_000_000, is_clean_handover == "1")


def _parse_record(reply: Any) -> KeyRecord | None:
    if reply is None:
        return None
    nonce, lock_owner, *lease = _parse_strings(reply)
    return KeyRecord(int(nonce), _parse_lease(lease), lock_owner)


def _parse_strings(reply: Any) -> list[str]:
    if not isinstance(reply, list):
        raise ValueError
    return [str(item) for item in reply]

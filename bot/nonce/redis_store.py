"""The row of a key in Redis 6.2+ or Valkey: one hash, and one atomic script a step (redis/*.lua)."""

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
from bot.nonce.store_protocol import NEXT_SECONDS, Drawn, Lease, Outcome, Row, Wish

Answer = TypeVar("Answer")

TIMEOUT_SECONDS = 2.0

_STEPS = ("draw", "take", "give_back", "acquire", "renew", "sign_off", "look")
_FOLDER = Path(__file__).with_name("redis")
_OPTION = re.compile(r"db=\d+|(username|password|client_name|ssl_\w+)=.*")
NO_URL = (
    "The address of a Redis server must look like redis://host:6379/0, or rediss://... for TLS; before the host may"
    " stand user:password@, with the special characters percent-encoded; no options but db, client_name and ssl_..."
)
_CONNECTION: dict[str, Any] = {
    "decode_responses": True,
    "encoding_errors": "backslashreplace",
    "socket_connect_timeout": TIMEOUT_SECONDS,
    "socket_timeout": TIMEOUT_SECONDS,
    "socket_keepalive": True,
    "protocol": 2,
    # Else it tells the server its name first, and loses the answer of one that is in protected mode.
    "driver_info": None,
}

_NO_RIGHT = "does not allow this user what the bot needs: EVALSHA, EVAL, TIME and hashes at kraken-bot:*"
# The first word of the server's error; within a script's error it may stand in the middle, or be in words (Redis 6.2).
_TROUBLES = {
    "OOM": "is full and evicts nothing (maxmemory, noeviction)",
    "READONLY": "is a read-only replica: name the primary",
    "WRONGPASS": "refuses the user name or password",
    "NOAUTH": "wants a user name or password",
    "DENIED": "is in protected mode, where only its own machine may connect: give it a password, and this address too",
    "NOPERM": _NO_RIGHT,
    "ACL failure": _NO_RIGHT,
    "user executing the script": _NO_RIGHT,
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
_NO_REDIS = "does not answer as a Redis server does"
_WORD = re.compile(rf"\b({'|'.join(_TROUBLES)})\b")


class RedisEngine:
    """The Engine of the key whose hash is `name`, at `url`; connects when it is first asked. Raises ValueError for a
    URL that cannot be used; the text does not have the URL, which may hold a password.
    """

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        # In braces, so that in a cluster all keys of one name would be on one node.
        self._key = f"kraken-bot:{{{name}}}"
        self._texts = {step: _script(step) for step in _STEPS}
        self._heads = {step: _packed("EVALSHA", _sha1(text), "1", self._key) for step, text in self._texts.items()}
        self._pool = _pool(url)
        # Taken and put back by ourselves: the pool's own way costs a tenth of a step.
        self._idle: list[ConnectionInterface] = []
        options = self._pool.connection_kwargs
        self._secrets = [str(options[one]) for one in ("username", "password") if options.get(one)]
        host = options.get("host", "localhost")
        scheme = "rediss" if self._pool.connection_class is redis.SSLConnection else "redis"
        shown = f"[{host}]" if ":" in host else host
        self.place = f"{scheme}://{shown}:{options.get('port', 6379)}/{options.get('db', 0)}"
        fork_safety.forget_in_child(self)

    def after_fork_in_child(self) -> None:
        """Leave the parent's connections and locks alone: have others."""
        self._pool, self._idle = _pool(self._url), []

    def draw(self, wish: Wish) -> Drawn:
        """Draw a nonce: DRAWN, STALE or AHEAD."""
        return self._run("draw", _drawn, _wished(wish))

    def take(self, wish: Wish, owner: str, lifetime_seconds: float, waited_seconds: float = 0.0) -> Drawn:
        """Take the turn and draw its nonce in one step, or neither: DRAWN, NEXT, BUSY, STALE or AHEAD."""
        times = [_micros(seconds) for seconds in (lifetime_seconds, NEXT_SECONDS, waited_seconds)]
        return self._run("take", _drawn, _wished(wish), owner, *times)

    def give_back(self, nonce: int) -> None:
        """Give back the turn that was taken with this nonce; where it is another's by now, nothing happens."""
        self._run("give_back", str, str(nonce))

    def acquire(self, owner: str, lifetime_seconds: float) -> Lease:
        """Lead if nobody does; return the lease as it is then, which is another's where `owner` is."""
        return self._run("acquire", _lease, owner, _micros(lifetime_seconds))

    def renew(self, generation: int, lifetime_seconds: float) -> bool:
        """Let the lease of this generation live on from now; return False where it is over, or another's."""
        return self._run("renew", _yes, str(generation), _micros(lifetime_seconds))

    def sign_off(self, generation: int, settled: bool) -> None:
        """End the lease of this generation at once; `settled`: no order of its owner has an unknown fate."""
        self._run("sign_off", str, str(generation), "1" if settled else "0")

    def look(self) -> Row | None:
        """Return what the store has of the key, or None. Writes nothing."""
        return self._run("look", _row)

    def close(self) -> None:
        """Close the connections that nobody uses; the next use opens them again."""
        while (connection := self._take_idle()) is not None:
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _run(self, step: str, read: Callable[[Any], Answer], *arguments: str) -> Answer:
        try:
            return read(self._step(step, arguments))
        except redis.RedisError as error:
            problem = self._problem(error)
        except ValueError:
            problem = _NO_REDIS
        # Outside of the handler: the driver's own errors may hold what was sent, password and all.
        raise StoreUnavailableError(f"the nonce store {self.place} {problem}")

    def _step(self, step: str, arguments: tuple[str, ...]) -> Any:
        try:
            return self._ask(self._heads[step], arguments)
        except redis.exceptions.NoScriptError:
            # A new server, or its scripts were flushed. It keeps what it is sent here.
            return self._ask(_packed("EVAL", self._texts[step], "1", self._key), arguments)

    def _ask(self, head: bytes, arguments: tuple[str, ...]) -> Any:
        # Not by redis.Redis, and packed here: on one machine the driver's way to do it costs half as much again as the
        # server's answer.
        command = b"*%d\r\n%b%b" % (4 + len(arguments), head, _packed(*arguments))
        connection = self._take_idle() or self._connection()
        answered = False
        try:
            try:
                answer = _exchange(connection, command)
            except redis.ConnectionError:
                # Dead since the server was restarted, maybe: it connects again. Not after a time-out, as waiting twice
                # would be worse. Whatever became of the first, each step may be repeated.
                answer = _exchange(connection, command)
            answered = True
            return answer
        finally:
            if answered:
                self._idle.append(connection)
            else:
                # An answer that is still to come must not be taken for the next one's.
                connection.disconnect()  # type: ignore[no-untyped-call]

    def _connection(self) -> ConnectionInterface:
        # Not made by the pool, which would count it for ever.
        connection: ConnectionInterface = self._pool.connection_class(**self._pool.connection_kwargs)
        return connection

    def _take_idle(self) -> ConnectionInterface | None:
        try:
            return self._idle.pop()
        except IndexError:
            return None

    def _problem(self, error: redis.RedisError) -> str:
        word = _WORD.search(f"{error.status_code or ''} {error}")
        if word:
            return _TROUBLES[word[1]]
        if isinstance(error, redis.AuthenticationError):
            return _TROUBLES["WRONGPASS"]
        if isinstance(error, redis.TimeoutError):
            return f"did not answer within {TIMEOUT_SECONDS:g} s"
        if isinstance(error, redis.InvalidResponse):
            return _NO_REDIS
        # A server that does not know a command repeats its arguments, which may be the password.
        text = str(error).split(", with args", 1)[0]
        for secret in self._secrets:
            # Whole words alone: a user named u is no reason to write "ref***sed".
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
        if isinstance(error, redis.ConnectionError):
            return f"is unreachable: {text.rstrip('.')}"
        return f"refuses the step: {text.rstrip('.')}"


def _exchange(connection: ConnectionInterface, command: bytes) -> Any:
    connection.send_packed_command((command,))  # type: ignore[no-untyped-call]
    return connection.read_response()


def _script(step: str) -> str:
    return "\n".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("prelude", step))


def _pool(url: str) -> redis.ConnectionPool:
    """Return a pool that has not connected yet."""
    try:
        parts = urlsplit(url)
        # A password with a bare / ? or # in it ends the address early: its first half would be taken for the port.
        (parts.hostname or "").encode("idna")  # as the look-up of the name will: it fails as no RedisError
        whole = not parts.fragment and "@" not in parts.path + parts.query and re.fullmatch(r"(/\d*)?", parts.path)
        if whole and all(_OPTION.fullmatch(f"{name}={value}") for name, value in parse_qsl(parts.query)):
            pool = redis.ConnectionPool.from_url(url, **_CONNECTION)
            pool.make_connection()  # not connected yet; what the options say is looked at here
            return pool
    except (ValueError, TypeError, redis.RedisError):
        pass  # its text may have the URL in it
    raise ValueError(NO_URL)


def _sha1(text: str) -> str:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _packed(*words: str) -> bytes:
    """Return the words as they stand in a command of Redis's protocol."""
    encoded = [word.encode() for word in words]
    return b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in encoded])


def _wished(wish: Wish) -> str:
    return f"{wish.floor} {wish.ceiling} {str(wish.ticks)[1:]} {wish.generation}"


def _micros(seconds: float) -> str:
    return str(round(seconds * 1_000_000))


# Each reads the answer of a step. Raises ValueError for what no script of ours says.


def _drawn(answer: Any) -> Drawn:
    outcome, nonce, last = str(answer).split()
    return Drawn(Outcome(outcome), int(nonce), int(last))


def _yes(answer: Any) -> bool:
    return bool(int(str(answer)))


def _lease(answer: Any) -> Lease:
    owner, generation, remaining_us, clean = _texts(answer)
    return Lease(owner, int(generation), int(remaining_us) / 1_000_000, clean == "1")


def _row(answer: Any) -> Row | None:
    if answer is None:
        return None
    nonce, turn_owner, *lease = _texts(answer)
    return Row(int(nonce), _lease(lease), turn_owner)


def _texts(answer: Any) -> list[str]:
    if not isinstance(answer, list):
        raise ValueError
    return [str(one) for one in answer]

"""The simulator put together: exchange, keys, faults, state file and server."""

from __future__ import annotations

import threading
from collections import deque
from decimal import Decimal, InvalidOperation
from secrets import token_hex
from types import TracebackType
from typing import Self

from bot.base.clock import MarketClock
from bot.simulator.account import Account
from bot.simulator.api import Api, LoggedRequest
from bot.simulator.errors import SimulatorError
from bot.simulator.exchange import DeadlineRules, Exchange
from bot.simulator.faults import Faults
from bot.simulator.http_server import WireServer
from bot.simulator.instruments import Catalogue, known_pairs
from bot.simulator.keys import ALL_TRADING, ApiKey, KeyRing, new_key
from bot.simulator.limits import tier_named
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import PriceSource, SyntheticPrices
from bot.simulator.storage import Kept, Storage

MAIN_KEY = "simulator"


class Simulator:
    """A local Kraken: `with Simulator(options) as simulator:` serves on `simulator.url` until the block ends.

    `clock` is the market's clock; nonces have nothing to do with it. `is_new`: the account was made just now.
    Raises SimulatorError for wrong options and StateFileError for a state file that cannot be used.
    """

    def __init__(
        self,
        options: SimulatorOptions | None = None,
        clock: MarketClock | None = None,
        prices: PriceSource | None = None,
        catalogue: Catalogue | None = None,
    ) -> None:
        self.options = options or SimulatorOptions()
        self.clock = clock or MarketClock()
        self.faults = Faults(self.options.fault_rates, self.options.seed)
        self.keys = KeyRing(self.options.lockout_after, self.options.nonce_window_repeats)
        prices = prices or SyntheticPrices(self.options.seed)
        catalogue = catalogue or known_pairs(self.options.pairs)
        tier = tier_named(self.options.tier)
        start = _amounts(self.options)
        path = self.options.state_path
        self._storage = Storage(path, prices.world) if path else None
        try:
            kept = self._storage.load() if self._storage else None
            self.is_new = kept is None
            account = kept.account if kept else Account(start, token_hex(8))
            now = kept.now if kept else self.clock.now()
            self.exchange = Exchange(
                account, catalogue, prices, tier, now, self.faults.portion, _deadlines(self.options)
            )
            self._restore(kept)
            self.api = Api(self.exchange, self.keys, self.clock.now, self._keep, self.options)
            self._main = self._main_key()
            self._keep()
        except SimulatorError:
            self._close_storage()
            raise
        self._server: WireServer | None = None

    @property
    def url(self) -> str:
        """Where it serves, such as http://127.0.0.1:8000."""
        if self._server is None:
            raise SimulatorError("The simulator is not running; use it in a with block.")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def key(self) -> str:
        """The API key of the account."""
        return self._main.key

    @property
    def secret(self) -> str:
        """The secret of `key`."""
        return self._main.secret

    @property
    def log(self) -> deque[LoggedRequest]:
        """The last private requests, oldest first."""
        return self.api.log

    def orders_by_client_id(self) -> dict[str, list[str]]:
        """Return the txids of all orders ever accepted, by the client id that they came with."""
        with self.api.lock:
            self.api.catch_up()
            return self.exchange.account.orders_by_client_id()

    def add_key(
        self, permissions: tuple[str, ...] = ALL_TRADING, nonce_window: int = 0, floor: int = 0
    ) -> tuple[str, str]:
        """Make one more key pair for the account. Return key and secret."""
        made = new_key(self.clock.now(), "extra", permissions, nonce_window, floor)
        with self.api.lock:
            self.keys.add(made)
            self._keep()
        return made.key, made.secret

    def __enter__(self) -> Self:
        try:
            self._server = WireServer(self.api, self.faults, self.options, self.clock)
        except (OSError, OverflowError) as error:
            self._close_storage()
            why = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise SimulatorError(f"Port {self.options.port} cannot be used ({why}).") from error
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="simulator", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.hang_up()
            self._server.server_close()
            self._server = None
            with self.api.lock:
                self.api.close()
                self._keep_time()
        self._close_storage()

    def _restore(self, kept: Kept | None) -> None:
        if kept is None:
            return
        for key in kept.keys:
            self.keys.add(key)
        self.keys.changed.clear()
        self.exchange.restore_switch(kept.switch_at)

    def _main_key(self) -> ApiKey:
        """Return the account's own key: the one that was asked for, the one that was kept, or a new one."""
        wanted = self.options.key
        for key in self.keys.keys.values():
            if key.name == MAIN_KEY and wanted in ("", key.key):
                key.nonce_window = self.options.nonce_window
                return key
        made = new_key(self.exchange.now, MAIN_KEY, nonce_window=self.options.nonce_window)
        if wanted:
            made.key, made.secret = wanted, self.options.secret
        self.keys.add(made)
        return made

    def _keep(self) -> None:
        """Write down what has changed. Called with the lock held, before an answer leaves."""
        account = self.exchange.account
        if not (self.keys.changed or account.changed_orders or account.new_trades):
            return
        if self._storage is not None:
            self._save(self._storage)
        self.keys.changed.clear()
        account.forget_changes()

    def _keep_time(self) -> None:
        """Write down how far the market has come, so that the next run goes on from there."""
        if self._storage is not None and not self.api.failure:
            self._save(self._storage)

    def _save(self, storage: Storage) -> None:
        keys = list(self.keys.changed.values())
        storage.save(self.exchange.account, keys, self.exchange.now, self.exchange.switch_at)

    def _close_storage(self) -> None:
        if self._storage is not None:
            self._storage.close()


def _deadlines(options: SimulatorOptions) -> DeadlineRules:
    if options.deadline_at not in ("engine", "gateway"):
        raise SimulatorError(f"Deadlines are kept at the engine or the gateway, not at {options.deadline_at}.")
    return DeadlineRules(options.enforce_deadline, options.deadline_at == "engine", options.clock_offset_seconds)


def _amounts(options: SimulatorOptions) -> dict[str, Decimal]:
    try:
        return {asset: Decimal(amount) for asset, amount in options.balances.items()}
    except (InvalidOperation, TypeError):
        raise SimulatorError("The balances of a new account must be numbers, written as text.") from None

"""Assembles the simulator: exchange, keys, faults, state file and server."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import ExitStack, closing
from decimal import Decimal, InvalidOperation
from secrets import token_hex
from typing import Self

from bot.base.clock import MarketClock
from bot.simulator.account import Account
from bot.simulator.api import Api, LoggedRequest
from bot.simulator.errors import SimulatorError
from bot.simulator.exchange import Exchange
from bot.simulator.faults import ExchangeBehavior, FaultInjector
from bot.simulator.http_server import SimulatorHttpServer
from bot.simulator.instruments import Instruments, known_instruments
from bot.simulator.keys import TRADING_PERMISSIONS, ApiKey, KeyRing, new_key
from bot.simulator.limits import find_tier
from bot.simulator.options import SimulatorOptions
from bot.simulator.prices import PriceSource, SyntheticPrices
from bot.simulator.storage import SavedState, Storage

ACCOUNT_KEY_NAME = "simulator"


class Simulator:
    """A local Kraken: `with Simulator(options) as simulator:` serves on `simulator.url` until the block ends.

    `clock` is the market's clock, which has no influence on nonces. `is_new`: the account was created just now. Raises
    SimulatorError for wrong options and StateFileError for a state file that cannot be used.
    """

    def __init__(
        self,
        options: SimulatorOptions | None = None,
        clock: MarketClock | None = None,
        prices: PriceSource | None = None,
        instruments: Instruments | None = None,
    ) -> None:
        self.options = options or SimulatorOptions()
        self.clock = clock or MarketClock()
        self.faults = FaultInjector(self.options.fault_rates, self.options.seed)
        self.keys = KeyRing(self.options.lockout_after, self.options.allow_nonce_repeats)
        prices = prices or SyntheticPrices(self.options.seed)
        instruments = instruments or known_instruments(self.options.pairs)
        tier = find_tier(self.options.tier)
        starting_balances = _parse_balances(self.options)
        path = self.options.state_path
        self._resources = ExitStack()
        self._storage = self._resources.enter_context(closing(Storage(path, prices.source_id))) if path else None
        try:
            saved_state = self._storage.load() if self._storage else None
            self.is_new = saved_state is None
            account = saved_state.account if saved_state else Account(starting_balances, token_hex(8))
            now = saved_state.now if saved_state else self.clock.now()
            behavior = ExchangeBehavior(self.options, self.faults)
            self.exchange = Exchange(account, instruments, prices, tier, now, behavior)
            if saved_state:
                self._restore(saved_state)
            self.api = Api(self.exchange, self.keys, self.clock.now, self._save_changes, self.options)
            self._account_key = self._find_or_create_account_key()
            self._save_changes()
        except SimulatorError:
            self._resources.close()
            raise
        self._server: SimulatorHttpServer | None = None

    @property
    def url(self) -> str:
        """The address, such as http://127.0.0.1:8000."""
        if self._server is None:
            raise SimulatorError("The simulator is not running; use it in a with block.")
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def key(self) -> str:
        """The API key of the account."""
        return self._account_key.key

    @property
    def secret(self) -> str:
        """The secret of `key`."""
        return self._account_key.secret

    @property
    def request_log(self) -> deque[LoggedRequest]:
        """The last private requests, oldest first."""
        return self.api.request_log

    def orders_by_client_id(self) -> dict[str, list[str]]:
        """Return the txids of all orders ever accepted, by client order id."""
        with self.api.lock:
            self.api.advance_to_now()
            return self.exchange.account.orders_by_client_id()

    def add_key(
        self, permissions: tuple[str, ...] = TRADING_PERMISSIONS, nonce_window: int = 0, floor: int = 0
    ) -> tuple[str, str]:
        """Create another key pair for the account. Return key and secret."""
        api_key = new_key(self.clock.now(), "extra", permissions, nonce_window, floor)
        with self.api.lock:
            self.keys.add(api_key)
            self._save_changes()
        return api_key.key, api_key.secret

    def __enter__(self) -> Self:
        try:
            self._server = SimulatorHttpServer(self.api, self.faults, self.options, self.clock)
        except (OSError, OverflowError) as error:
            self._resources.close()
            reason = error.strerror if isinstance(error, OSError) else "there is no such port"
            raise SimulatorError(f"Port {self.options.port} cannot be used ({reason}).") from error
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="simulator", daemon=True).start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.close_connections()
            self._server.server_close()
            self._server = None
            with self.api.lock:
                self.api.close()
                if not self.api.failure:
                    # The market time, so that the next run continues from there.
                    self._write_state()
        self._resources.close()

    def _restore(self, saved_state: SavedState) -> None:
        for key in saved_state.keys:
            self.keys.add(key)
        self.keys.changed_keys.clear()
        self.exchange.matching.dead_man_switch_at = saved_state.dead_man_switch_at

    def _find_or_create_account_key(self) -> ApiKey:
        """Return the account's own key: the one in the options, the saved one, or a new one."""
        requested_key = self.options.key
        for key in self.keys.keys.values():
            if key.name == ACCOUNT_KEY_NAME and requested_key in ("", key.key):
                key.nonce_window = self.options.nonce_window
                return key
        api_key = new_key(self.exchange.now, ACCOUNT_KEY_NAME, nonce_window=self.options.nonce_window)
        if requested_key:
            api_key.key, api_key.secret = requested_key, self.options.secret
        self.keys.add(api_key)
        return api_key

    def _save_changes(self) -> None:
        """Save the changes. Called with the lock held, before an answer leaves."""
        account = self.exchange.account
        if not (self.keys.changed_keys or account.changed_orders or account.new_trades):
            return
        self._write_state()
        self.keys.changed_keys.clear()
        account.clear_changes()

    def _write_state(self) -> None:
        if self._storage is not None:
            keys = self.keys.changed_keys.values()
            self._storage.save(self.exchange.account, keys, self.exchange.now, self.exchange.dead_man_switch_at)


def _parse_balances(options: SimulatorOptions) -> dict[str, Decimal]:
    try:
        return {asset: Decimal(amount) for asset, amount in options.balances.items()}
    except (InvalidOperation, TypeError):
        raise SimulatorError("The balances of a new account must be numbers, written as text.") from None

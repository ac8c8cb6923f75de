"""No money appears or vanishes, whatever is ordered."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import pytest

from bot.simulator.account import Account, SimOrder
from bot.simulator.errors import Refusal
from bot.simulator.exchange import Exchange
from bot.simulator.faults import ExchangeBehavior
from bot.simulator.instruments import known_instruments
from bot.simulator.limits import find_tier
from bot.simulator.prices import SyntheticPrices
from bot.simulator.storage import Storage, read_state
from tests.simulator_parts import START

PAIRS = ("BTC/USD", "ETH/USD", "SOL/USD")
CHOICES = {
    "type": ("buy", "sell"),
    "ordertype": ("market", "limit", "limit", "limit", "stop-loss", "take-profit"),
    "oflags": ("", "", "fciq", "fcib", "post", "viqc"),
    "timeinforce": ("", "", "IOC", "FOK", "GTD"),
}


class RandomFills(ExchangeBehavior):
    """Fills random parts of orders."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self._random = rng

    def fill_volume(self, order: SimOrder) -> Decimal:
        """Fill everything, or a part with many decimals."""
        part = (order.remaining * Decimal(self._random.randint(1, 9)) / 13).quantize(Decimal("0.00000001"))
        return order.remaining if self._random.random() < 0.5 or not part else part


class OrderFuzzer:
    """A seeded stream of orders, cancels and time steps on one exchange."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        start = {"ZUSD": Decimal(10000), "XXBT": Decimal("0.05")}
        self.exchange = Exchange(
            Account(start, f"storm {seed}"),
            known_instruments(PAIRS),
            SyntheticPrices(seed, 60),
            find_tier("unlimited"),
            START,
            RandomFills(self.random),
        )
        self.placed = 0

    def step(self) -> None:
        """Perform one random action."""
        roll = self.random.random()
        if roll < 0.3:
            self.exchange.advance(self.exchange.now + self.random.choice((1, 60, 3600)))
        elif roll < 0.4 and self.exchange.account.open_orders:
            self.exchange.cancel({"txid": self.random.choice(list(self.exchange.account.open_orders))})
        else:
            self.place_random_order()

    def place_random_order(self) -> None:
        """Place a random order near the price; most are accepted, the rest refused."""
        pair = self.random.choice(self.exchange.instruments.pairs)
        params = {name: self.random.choice(choice) for name, choice in CHOICES.items()}
        last = self.exchange.prices.price(pair, self.exchange.now)
        price = last * Decimal(self.random.randint(980, 1020)) / 1000
        volume = Decimal(self.random.randint(1, 3000)) / last
        params |= {"price": f"{price.quantize(pair.tick_size):f}", "volume": f"{volume:.8f}", "expiretm": "+600"}
        try:
            self.exchange.add_order(params | {"pair": pair.altname})
            self.placed += 1
        except Refusal:
            pass


@pytest.mark.parametrize("seed", range(8))
def test_starting_balance_plus_trades_equals_balance(seed: int, full_size: bool) -> None:
    """After every step the audit finds nothing, and at least one trade took place."""
    fuzzer = OrderFuzzer(seed)
    for number in range(3000 if full_size else 250):
        fuzzer.step()
        problems = fuzzer.exchange.account.audit()
        assert problems == [], f"seed {seed}, step {number}"
    assert fuzzer.placed > 50, f"seed {seed}"
    assert len(fuzzer.exchange.account.trades) > 30, f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_a_saved_account_round_trips(seed: int, tmp_path: Path) -> None:
    """After every step, orders, trades, balances and holds read from the file equal those in memory."""
    fuzzer, path = OrderFuzzer(seed), tmp_path / "account.db"
    storage = Storage(path, "storm")
    account = fuzzer.exchange.account
    for _ in range(120):
        fuzzer.step()
        storage.save(account, [], fuzzer.exchange.now, None)
        account.clear_changes()
    storage.close()
    saved_state = read_state(path, "storm")
    assert saved_state is not None, f"seed {seed}"
    assert (saved_state.account.orders, saved_state.account.trades) == (account.orders, account.trades), f"seed {seed}"
    assert saved_state.account.balances == account.balances, f"seed {seed}"
    assert {a: h for a, h in saved_state.account.held.items() if h} == {a: h for a, h in account.held.items() if h}
    assert set(saved_state.account.open_orders) == set(account.open_orders), f"seed {seed}"


def test_the_audit_detects_a_one_cent_error() -> None:
    """A balance that is one cent too high is a problem with the asset's name."""
    fuzzer = OrderFuzzer(1)
    fuzzer.exchange.account.balances["ZUSD"] += Decimal("0.01")
    assert fuzzer.exchange.account.audit() == ["ZUSD: the trades give 10000, the balance is 10000.01"]

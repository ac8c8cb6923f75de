"""No money appears or vanishes, whatever is ordered."""

from __future__ import annotations

import random
from decimal import Decimal
from pathlib import Path

import pytest

from bot.simulator.account import Account, Order
from bot.simulator.errors import Refusal
from bot.simulator.exchange import Exchange
from bot.simulator.instruments import known_pairs
from bot.simulator.limits import tier_named
from bot.simulator.prices import SyntheticPrices
from bot.simulator.storage import Storage, peek
from tests.simulator_parts import START

PAIRS = ("BTC/USD", "ETH/USD", "SOL/USD")
CHOICES = {
    "type": ("buy", "sell"),
    "ordertype": ("market", "limit", "limit", "limit", "stop-loss", "take-profit"),
    "oflags": ("", "", "fciq", "fcib", "post", "viqc"),
    "timeinforce": ("", "", "IOC", "FOK", "GTD"),
}


class Storm:
    """A seeded stream of orders, cancels and steps in time on one exchange."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        start = {"ZUSD": Decimal(10000), "XXBT": Decimal("0.05")}
        self.exchange = Exchange(
            Account(start, f"storm {seed}"),
            known_pairs(PAIRS),
            SyntheticPrices(seed, 60),
            tier_named("unlimited"),
            START,
            portion=self.portion,
        )
        self.placed = 0

    def portion(self, order: Order) -> Decimal:
        """Fill all, or a part with many decimals."""
        part = (order.remaining * Decimal(self.random.randint(1, 9)) / 13).quantize(Decimal("0.00000001"))
        return order.remaining if self.random.random() < 0.5 or not part else part

    def step(self) -> None:
        """Do one random thing."""
        what = self.random.random()
        if what < 0.3:
            self.exchange.advance(self.exchange.now + self.random.choice((1, 60, 3600)))
        elif what < 0.4 and self.exchange.account.open_orders:
            self.exchange.cancel({"txid": self.random.choice(list(self.exchange.account.open_orders))})
        else:
            self.order()

    def order(self) -> None:
        """Place a random order near the price; most are accepted, the rest refused."""
        pair = self.random.choice(self.exchange.catalogue.pairs)
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
def test_start_plus_trades_is_always_the_balance(seed: int, full_size: bool) -> None:
    """After every step of the storm the audit finds nothing, and something was traded."""
    storm = Storm(seed)
    for number in range(3000 if full_size else 250):
        storm.step()
        problems = storm.exchange.account.audit()
        assert problems == [], f"seed {seed}, step {number}"
    assert storm.placed > 50, f"seed {seed}"
    assert len(storm.exchange.account.trades) > 30, f"seed {seed}"


@pytest.mark.parametrize("seed", range(3))
def test_an_account_comes_back_from_its_file_as_it_was(seed: int, tmp_path: Path) -> None:
    """Orders, trades, balances and holds read from the file equal those in memory, after every step kept."""
    storm, path = Storm(seed), tmp_path / "account.db"
    storage = Storage(path, "storm")
    account = storm.exchange.account
    for _ in range(120):
        storm.step()
        storage.save(account, [], storm.exchange.now, None)
        account.forget_changes()
    storage.close()
    kept = peek(path, "storm")
    assert kept is not None, f"seed {seed}"
    assert (kept.account.orders, kept.account.trades) == (account.orders, account.trades), f"seed {seed}"
    assert kept.account.balances == account.balances, f"seed {seed}"
    assert {a: h for a, h in kept.account.held.items() if h} == {a: h for a, h in account.held.items() if h}
    assert set(kept.account.open_orders) == set(account.open_orders), f"seed {seed}"


def test_the_audit_notices_a_cent() -> None:
    """One cent too much in a balance is a problem with the asset's name."""
    storm = Storm(1)
    storm.exchange.account.balances["ZUSD"] += Decimal("0.01")
    assert storm.exchange.account.audit() == ["ZUSD: the trades give 10000, the balance is 10000.01"]

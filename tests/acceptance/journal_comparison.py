"""What the journal says compared with what the exchange has: order by order, fill by fill, to the last decimal."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from pathlib import Path

from bot.base.paths import journal_file
from bot.orders.journal import Journal
from bot.orders.order_state import PLACED
from bot.simulator.server import Simulator


def check_books(simulator: Simulator, state: Path, *, all_ended: bool = True) -> None:
    """Fail where the journal in a state folder and the exchange differ, or where anything is doubled or unsettled.

    All orders of the account must be this bot's. `all_ended` False: some may rest, and fills may still be fetched.
    """
    seen = simulator.api.state()
    assert (seen["doubled"], seen["problems"]) == ([], [])
    with closing(Journal(journal_file(state / "kraken_nonce.txt", simulator.key))) as journal:
        assert journal.unsettled() == []
        _check_orders(simulator, journal)
        if all_ended:
            assert journal.working() == []
            _check_fills(simulator, journal)


def _check_orders(simulator: Simulator, journal: Journal) -> None:
    with simulator.api.lock:
        there = {
            order.txid: (order.cl_ord_id, order.status, order.executed, order.cost, order.fee)
            for order in simulator.exchange.account.orders.values()
        }
    kept = {row.txid: (row.cl_ord_id, str(row.status), row.executed, row.cost, row.fee) for row in journal.orders()}
    assert kept == there
    placed = {intent.txid: intent.cl_ord_id for intent in journal.intents() if intent.state in PLACED}
    assert placed == {txid: row[0] for txid, row in there.items()}


def _check_fills(simulator: Simulator, journal: Journal) -> None:
    account = simulator.exchange.account
    there = {trade.trade_id: (trade.order_txid, trade.volume, trade.cost, trade.fee) for trade in account.trades}
    fills = journal.fills()
    assert {fill.trade_id: (fill.order_txid, fill.volume, fill.cost, fill.fee) for fill in fills} == there
    money = dict(account.start)
    for fill in fills:
        sign = 1 if fill.side == "buy" else -1
        base = {"BTC": "XXBT", "ETH": "XETH"}.get(fill.symbol[:3], fill.symbol[:3])
        money[base] = money.get(base, Decimal(0)) + sign * fill.volume
        money["ZUSD"] -= sign * fill.cost + fill.fee
    assert money == account.balances

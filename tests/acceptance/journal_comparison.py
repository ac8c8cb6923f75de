"""Compare the journal with the exchange: order by order, fill by fill, to the last decimal."""

from __future__ import annotations

from contextlib import closing
from decimal import Decimal
from pathlib import Path

from bot.base.paths import journal_file_path
from bot.orders.journal import Journal
from bot.orders.order_state import PLACED_STATES
from bot.simulator.server import Simulator


def check_journal_against_exchange(simulator: Simulator, state_folder: Path, *, all_closed: bool = True) -> None:
    """Fail if the journal in a state folder and the exchange differ, or an order is duplicated or unresolved.

    All orders of the account must be this bot's. Without `all_closed` some orders may be open and some fills missing.
    """
    exchange_state = simulator.api.state()
    assert (exchange_state["doubled"], exchange_state["problems"]) == ([], [])
    with closing(Journal(journal_file_path(state_folder / "kraken_nonce.txt", simulator.key))) as journal:
        assert journal.unresolved_intents() == []
        _check_orders(simulator, journal)
        if all_closed:
            assert journal.working_intents() == []
            _check_fills(simulator, journal)


def _check_orders(simulator: Simulator, journal: Journal) -> None:
    with simulator.api.lock:
        exchange_orders = {
            order.txid: (order.cl_ord_id, order.status, order.executed, order.cost, order.fee)
            for order in simulator.exchange.account.orders.values()
        }
    journal_orders = {
        order.txid: (order.cl_ord_id, str(order.status), order.executed, order.cost, order.fee)
        for order in journal.orders()
    }
    assert journal_orders == exchange_orders
    placed = {intent.txid: intent.cl_ord_id for intent in journal.intents() if intent.state in PLACED_STATES}
    assert placed == {txid: fields[0] for txid, fields in exchange_orders.items()}


def _check_fills(simulator: Simulator, journal: Journal) -> None:
    account = simulator.exchange.account
    exchange_fills = {
        trade.trade_id: (trade.order_txid, trade.volume, trade.cost, trade.fee) for trade in account.trades
    }
    fills = journal.fills()
    assert {fill.trade_id: (fill.order_txid, fill.volume, fill.cost, fill.fee) for fill in fills} == exchange_fills
    balances = dict(account.starting_balances)
    for fill in fills:
        sign = 1 if fill.side == "buy" else -1
        base = {"BTC": "XXBT", "ETH": "XETH"}.get(fill.symbol[:3], fill.symbol[:3])
        balances[base] = balances.get(base, Decimal(0)) + sign * fill.volume
        balances["ZUSD"] -= sign * fill.cost + fill.fee
    assert balances == account.balances

"""AddOrder's parameters, as scripts give them, read into an order and written again."""

from __future__ import annotations

from decimal import Decimal

import pytest

from bot.base.models import Side
from bot.kraken.new_order import NewOrder, parse_order
from tests.unit.kraken_samples import PAIR_TABLE

PAIR = PAIR_TABLE.find("BTC/EUR")
PARAMS = {"pair": "XBTEUR", "type": "buy", "ordertype": "limit", "volume": "0.00100", "price": "30000.0"}


@pytest.mark.parametrize(
    ("oflags", "flags"), [("post", ("post",)), ("fciq, post", ("fciq", "post")), ("", ()), (None, ())]
)
def test_flags_are_read_one_by_one(oflags: str | None, flags: tuple[str, ...]) -> None:
    """Flags are told apart by commas, and blanks around them mean nothing."""
    assert parse_order(PAIR, PARAMS | {"oflags": oflags}, "an id").flags == flags


def test_an_order_is_written_as_it_was_read() -> None:
    """Reading and writing keeps every parameter; numbers lose their trailing zeros."""
    params = PARAMS | {"cl_ord_id": "an id", "oflags": "post,fciq", "timeinforce": "GTD", "expiretm": "+60"}
    order = parse_order(PAIR, params, "an id")
    assert (order.side, order.volume, order.price) == (Side.BUY, Decimal("0.001"), Decimal(30000))
    assert order.to_params() == params | {"volume": "0.001", "price": "30000"}


def test_an_order_pays_its_fee_in_quote_currency() -> None:
    """An order of the bot's own has the flag fciq, and no parameter that it does not need."""
    order = NewOrder(PAIR, Side.SELL, "stop-loss", Decimal("0.001"), Decimal(30000), "an id")
    assert order.to_params() == {
        "pair": "XBTEUR",
        "type": "sell",
        "ordertype": "stop-loss",
        "volume": "0.001",
        "price": "30000",
        "cl_ord_id": "an id",
        "oflags": "fciq",
    }

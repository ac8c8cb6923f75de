"""The rules for unknown orders, searched exhaustively: none is doubled, none is lost, and each rule is needed."""

from __future__ import annotations

from functools import cache

import pytest

from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS, QUERY_GAP_SECONDS
from tests.model.mutants import MUTANTS
from tests.model.protocol import Disk, Exchange, Model, Rules, Seconds, State, Violation
from tests.model.search import Result, longest_wait, search

EXCHANGES = {
    "as Kraken says": Exchange(),
    "deadline not enforced": Exchange(enforces_deadline=False),
    "clock 3 s behind": Exchange(clock_behind=True),
    "deadline checked at the gateway only": Exchange(deadline_at_gateway_only=True),
    "engine queue of 8 s": Exchange(long_queue=True),
}
BLIND_KEYS = {
    "with GetApiKeyInfo": Exchange(blindness=True),
    "without GetApiKeyInfo": Exchange(blindness=True, tells_key_info=False),
}
NEW_DISK = Rules(disk=Disk.REPLACED)
OTHER_HOST = Rules(disk=Disk.OTHER_HOST)


@cache
def search_cached(model: Model) -> Result[State]:
    """Return the search of a model; two tests use each."""
    return search(model)


def test_the_model_has_the_times_of_the_program() -> None:
    """Deadline, margin and gap of the model are those of the program."""
    seconds = Seconds()
    assert (seconds.deadline, seconds.margin, seconds.gap) == (
        ORDER_DEADLINE_SECONDS,
        DEADLINE_MARGIN_SECONDS,
        QUERY_GAP_SECONDS,
    )


@pytest.mark.parametrize("rules", [Rules(), NEW_DISK], ids=["journal", "new disk"])
@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_the_rules_have_no_violation(rules: Rules, exchange: Exchange, full_size: bool) -> None:
    """No state has a violation, with a crash at every step, at Kraken and at exchanges with one fault.

    About 12,000 states each with a journal and 33,000 with a new disk; at full size 0.3 and 0.9 million.
    """
    result = (
        search(Model(rules, exchange, sends_max=3, copies=3)) if full_size else search_cached(Model(rules, exchange))
    )
    assert not result.violations, result
    assert len(result.visited) > 10_000


@pytest.mark.parametrize("rules", [Rules(), NEW_DISK], ids=["journal", "new disk"])
@pytest.mark.parametrize("exchange", BLIND_KEYS.values(), ids=BLIND_KEYS)
def test_a_blind_key_leads_to_no_violation(rules: Rules, exchange: Exchange, full_size: bool) -> None:
    """No state has a violation where the key loses sight of its orders, and gets it back, between any two steps."""
    result = search(Model(rules, exchange, copies=2 if full_size else 1))
    assert not result.violations, result


@pytest.mark.parametrize("rules", [Rules(), NEW_DISK, OTHER_HOST], ids=["journal", "new disk", "other host"])
def test_an_attempt_after_a_refusal_leads_to_no_violation(rules: Rules, full_size: bool) -> None:
    """No state has a violation where a refused signal is sent once more as its next attempt, with a crash at every
    step."""
    result = search(Model(rules, sends_max=3 if full_size or rules.disk is Disk.KEPT else 2, copies=1))
    assert not result.violations, result
    assert any(state.sends[0].refused and len(state.sends) == 2 for state in result.visited if state.sends)


@pytest.mark.parametrize(("kind", "model"), MUTANTS.values(), ids=MUTANTS)
def test_every_rule_is_needed(kind: Violation, model: Model) -> None:
    """A client without the rule has a trace of at most forty steps to the violation of the table."""
    result = search(model, frozenset({kind}))
    assert result.violations == {kind}
    assert len(result.trace) <= 40, result


@pytest.mark.parametrize(
    "rules", [Rules(fencing_read=False), Rules(waits_for_deadline=False)], ids=["deadline", "fencing read"]
)
def test_deadline_or_fencing_read_alone_is_enough_where_the_exchange_is_correct(rules: Rules) -> None:
    """With deadline or fencing read alone, and margin and gap, there is no violation while the exchange is as Kraken
    says."""
    result = search(Model(rules))
    assert not result.violations, result


@pytest.mark.parametrize("rules", [Rules(), NEW_DISK], ids=["journal", "new disk"])
@pytest.mark.parametrize("exchange", EXCHANGES.values(), ids=EXCHANGES)
def test_every_unknown_order_is_reconciled_in_time(rules: Rules, exchange: Exchange) -> None:
    """From every state, once Kraken answers, the order is resolved within deadline + margin + gap, whatever arrives."""
    model = Model(rules, exchange)
    seconds = model.seconds
    assert longest_wait(search_cached(model).visited, model) == seconds.deadline + seconds.margin + seconds.gap

"""The takeover rules, searched exhaustively: no order is lost or doubled, no wait is endless, each rule is needed."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache

import pytest

from bot.kraken.new_order import ORDER_DEADLINE_SECONDS
from bot.orders.reconciliation import DEADLINE_MARGIN_SECONDS
from tests.model.lease_mutants import CLOCKS_STAND_STILL, FAILS_OVER, KNOWN_LIMITS, MUTANTS, NO_DEADLINES, NO_NONCES
from tests.model.lease_protocol import Model
from tests.model.lease_states import Environment, Loss, Rules, Seconds, State, Violation
from tests.model.search import Result, longest_wait, search

# The program: its deadline counts from up to 3 s after the nonce.
PROGRAM = Rules(deadline_from_nonce=False)
ENVIRONMENTS = {
    "as Kraken and the store say": Model(PROGRAM),
    "deadlines not enforced": Model(PROGRAM, NO_DEADLINES),
    "nonces not enforced, deadlines from the nonce": Model(Rules(), NO_NONCES),
    "clocks that stand still while a machine sleeps": Model(PROGRAM, CLOCKS_STAND_STILL),
    "a store that fails over": Model(PROGRAM, FAILS_OVER),
    "a store that is wiped": Model(PROGRAM, Environment(loss=Loss.ALL)),
}
LARGER = Seconds(deadline=3, margin=2, lifetime=4)
COVERED_BY_FENCING_READ = Rules(
    checks_local_clock=False,
    lifetime_from_request=False,
    clean_only_if_reconciled=False,
    new_owner_name=False,
    deadline_from_nonce=False,
    waits_for_deadline=False,
)


@cache
def search_cached(model: Model) -> Result[State]:
    """Return the search of a model; two tests use each."""
    return search(model)


@cache
def find_violation(kind: Violation, model: Model) -> Result[State]:
    """Return the search for a violation of one kind."""
    return search(model, frozenset({kind}))


@pytest.mark.parametrize("seconds", [Seconds(), LARGER], ids=["small", "larger"])
def test_the_models_times_are_ordered_as_the_programs(seconds: Seconds) -> None:
    """As in the program, a margin is shorter than a deadline, so that one does not stand in for the other."""
    assert DEADLINE_MARGIN_SECONDS < ORDER_DEADLINE_SECONDS
    assert seconds.margin < seconds.deadline


@pytest.mark.parametrize("model", ENVIRONMENTS.values(), ids=ENVIRONMENTS)
def test_the_rules_have_no_violation(model: Model, full_size: bool) -> None:
    """No state has a violation after any number of leases, in a correct environment and in those with one fault.

    About 4,000 states in a correct environment, 13,000 where clocks stand still and 63,000 where the store fails over;
    at full size 15,000, 86,000 and 360,000.
    """
    result = search(replace(model, seconds=LARGER)) if full_size else search_cached(model)
    assert not result.violations, result
    assert len(result.visited) > 3_000


def test_state_reduction_hides_no_violation(full_size: bool) -> None:
    """Without the reduction of states there is no violation either."""
    result = search(Model(PROGRAM, CLOCKS_STAND_STILL if full_size else Environment(), is_reduced=False))
    assert not result.violations, result


@pytest.mark.parametrize(("kind", "model"), MUTANTS.values(), ids=MUTANTS)
def test_every_rule_is_needed(kind: Violation, model: Model) -> None:
    """Without the rule there is a trace of at most thirty steps to the violation in the environment of the table."""
    result = find_violation(kind, model)
    assert result.violations == {kind}
    assert len(result.trace) <= 30, result


def test_every_rule_has_a_mutant() -> None:
    """Each rule of the model is left out in at least one mutant that leaves out nothing else."""
    left_out = [
        [rule.name for rule in fields(Rules) if not getattr(model.rules, rule.name)] for _, model in MUTANTS.values()
    ]
    assert all(len(rules) == 1 for rules in left_out)
    assert {rules[0] for rules in left_out} == {rule.name for rule in fields(Rules)}


@pytest.mark.parametrize("model", KNOWN_LIMITS.values(), ids=KNOWN_LIMITS)
def test_known_limits_lose_an_order(model: Model) -> None:
    """Where the store loses its newest grant and its time too, or nonces ahead of the clock, an order can be lost."""
    assert find_violation(Violation.LOST, model).violations


def test_the_fencing_read_alone_covers_clock_and_deadline() -> None:
    """In a correct environment no order is lost where six rules are left out at once, if the others are kept.

    They are the local clock, the lifetime from the request, the honest release, new owner names, and both deadline
    rules.
    """
    result = search(Model(COVERED_BY_FENCING_READ))
    assert not result.violations, result


@pytest.mark.parametrize("rule", ["fencing_read", "waits_for_deadline"])
def test_deadline_or_fencing_read_alone_is_enough_where_kraken_is_correct(rule: str) -> None:
    """In a correct environment fencing read or deadline alone loses no order; without both, one is lost."""
    assert not search(Model(replace(Rules(), **{rule: False}))).violations
    assert find_violation(Violation.LOST, Model(Rules(fencing_read=False, waits_for_deadline=False))).violations


# The largest of them takes as long as all others together.
LEADERSHIP_MODELS = [
    pytest.param(model, id=name, marks=pytest.mark.soak if model.environment is FAILS_OVER else ())
    for name, model in ENVIRONMENTS.items()
]


@pytest.mark.parametrize("model", LEADERSHIP_MODELS)
def test_somebody_always_leads_in_time(model: Model) -> None:
    """From every state, once both live and all is answered, one leads and has reconciled within a lease and a
    reconciliation.

    Or within two reconciliations, where a late release ends the first one.
    """
    seconds = model.seconds
    reconciliation_seconds = seconds.deadline + seconds.margin
    max_wait_seconds = max(seconds.lifetime, reconciliation_seconds) + reconciliation_seconds
    assert longest_wait(search_cached(model).visited, model) == max_wait_seconds

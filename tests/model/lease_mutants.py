"""Stores and instances that leave one rule out, and what it comes to; the worlds in which no rule helps."""

from __future__ import annotations

from tests.model.lease_protocol import Model
from tests.model.lease_states import Environment, Loss, Rules, Seconds, Violation

DOUBLED, LOST, BLOCKED = Violation.DOUBLED, Violation.LOST, Violation.BLOCKED

NO_NONCES = Environment(enforces_nonce=False)
NO_DEADLINES = Environment(enforces_deadline=False)
CLOCKS_STAND_STILL = Environment(clocks_stand_still=True)
FAILS_OVER = Environment(loss=Loss.LATEST)

# A bad trace is one, however long its seconds are; with few it is found sooner.
SHORT_SECONDS = Seconds(deadline=1)

# Where a world is named, the mutant is harmless in a whole one, where the fence covers for whoever waits or is silent.
MUTANTS: dict[str, tuple[Violation, Model]] = {
    "a draw of any generation": (LOST, Model(Rules(nonce_checks_token=False))),
    "a draw under a lease that is over, clocks sleep and the grant after it is lost": (
        LOST,
        Model(Rules(nonce_checks_expiry=False), Environment(loss=Loss.LATEST, clocks_stand_still=True), SHORT_SECONDS),
    ),
    "a lease that is over is renewed, the grant after it lost": (LOST, Model(Rules(expiry_is_final=False), FAILS_OVER)),
    "generations count up, a grant lost": (LOST, Model(Rules(tokens_never_repeat=False), FAILS_OVER, SHORT_SECONDS)),
    "a grant leaves the turn": (BLOCKED, Model(Rules(grant_releases_lock=False))),
    "a sign-off leaves the turn": (BLOCKED, Model(Rules(release_frees_lock=False))),
    "no clock of its own, nonces not enforced": (LOST, Model(Rules(checks_local_clock=False), NO_NONCES)),
    "a lifetime from the answer, nonces not enforced": (
        LOST,
        Model(Rules(lifetime_from_request=False), NO_NONCES, Seconds(lifetime=3)),
    ),
    "always signed off clean, nonces not enforced": (LOST, Model(Rules(clean_only_if_reconciled=False), NO_NONCES)),
    "the old name after a restart, nonces not enforced": (LOST, Model(Rules(new_owner_name=False), NO_NONCES)),
    "a deadline from when it leaves, nonces not enforced": (LOST, Model(Rules(deadline_from_nonce=False), NO_NONCES)),
    "the deadline not waited for, nonces not enforced": (LOST, Model(Rules(waits_for_deadline=False), NO_NONCES)),
    "nothing settled": (LOST, Model(Rules(reconciles=False))),
    "nothing settled, to the end": (DOUBLED, Model(Rules(reconciles=False))),
    "no fence, deadlines not enforced": (LOST, Model(Rules(fencing_read=False), NO_DEADLINES)),
    "no fence, clocks sleep": (LOST, Model(Rules(fencing_read=False), CLOCKS_STAND_STILL)),
    "no fence, the store fails over": (LOST, Model(Rules(fencing_read=False), FAILS_OVER)),
    "look-ups at once": (LOST, Model(Rules(margin=False))),
    "another identifier for the same signal": (LOST, Model(Rules(same_id=False))),
}

# With every rule. The first is what is left of `max(generation + 1, now)` where now is too low.
KNOWN_LIMITS: dict[str, Model] = {
    "the server's clock is set back, and a grant is lost": MUTANTS["generations count up, a grant lost"][1],
    "writes are lost whose nonces ran ahead of the clock": Model(
        environment=Environment(loss=Loss.LATEST, nonces_too=True)
    ),
}

"""Stores and instances that leave one rule out, with the violation that follows; environments that no rule covers."""

from __future__ import annotations

from tests.model.lease_protocol import Model
from tests.model.lease_states import Environment, Loss, Rules, Seconds, Violation

DOUBLED, LOST, BLOCKED = Violation.DOUBLED, Violation.LOST, Violation.BLOCKED

NO_NONCES = Environment(enforces_nonce=False)
NO_DEADLINES = Environment(enforces_deadline=False)
CLOCKS_STAND_STILL = Environment(clocks_stand_still=True)
FAILS_OVER = Environment(loss=Loss.LATEST)

# A trace is bad whatever the length of its seconds; with fewer seconds the search finds it sooner.
SHORT_SECONDS = Seconds(deadline=1)

# Where an environment is named, the mutant is harmless in a correct one, because the fencing read covers for it.
MUTANTS: dict[str, tuple[Violation, Model]] = {
    "a nonce for any fencing token": (LOST, Model(Rules(nonce_checks_token=False))),
    "a nonce under an expired lease, clocks sleep and the grant after it is lost": (
        LOST,
        Model(Rules(nonce_checks_expiry=False), Environment(loss=Loss.LATEST, clocks_stand_still=True), SHORT_SECONDS),
    ),
    "an expired lease is renewed, the grant after it lost": (LOST, Model(Rules(expiry_is_final=False), FAILS_OVER)),
    "fencing tokens count up, a grant lost": (LOST, Model(Rules(tokens_never_repeat=False), FAILS_OVER, SHORT_SECONDS)),
    "a grant keeps the lock": (BLOCKED, Model(Rules(grant_releases_lock=False))),
    "a release of the lease keeps the lock": (BLOCKED, Model(Rules(release_frees_lock=False))),
    "no local clock, nonces not enforced": (LOST, Model(Rules(checks_local_clock=False), NO_NONCES)),
    "a lifetime from the answer, nonces not enforced": (
        LOST,
        Model(Rules(lifetime_from_request=False), NO_NONCES, Seconds(lifetime=3)),
    ),
    "always released as clean, nonces not enforced": (LOST, Model(Rules(clean_only_if_reconciled=False), NO_NONCES)),
    "the same owner name after a restart, nonces not enforced": (LOST, Model(Rules(new_owner_name=False), NO_NONCES)),
    "a deadline from the sending, nonces not enforced": (LOST, Model(Rules(deadline_from_nonce=False), NO_NONCES)),
    "the deadline not waited for, nonces not enforced": (LOST, Model(Rules(waits_for_deadline=False), NO_NONCES)),
    "nothing reconciled": (LOST, Model(Rules(reconciles=False))),
    "nothing reconciled, to the end": (DOUBLED, Model(Rules(reconciles=False))),
    "no fencing read, deadlines not enforced": (LOST, Model(Rules(fencing_read=False), NO_DEADLINES)),
    "no fencing read, clocks sleep": (LOST, Model(Rules(fencing_read=False), CLOCKS_STAND_STILL)),
    "no fencing read, the store fails over": (LOST, Model(Rules(fencing_read=False), FAILS_OVER)),
    "queries at once": (LOST, Model(Rules(margin=False))),
    "another client order id for the same signal": (LOST, Model(Rules(same_id=False))),
}

# These keep every rule. The first is the limit of `max(fencing_token + 1, now)`: `now` can be too low.
KNOWN_LIMITS: dict[str, Model] = {
    "the server's clock is set back, and a grant is lost": MUTANTS["fencing tokens count up, a grant lost"][1],
    "writes are lost whose nonces ran ahead of the clock": Model(
        environment=Environment(loss=Loss.LATEST, nonces_too=True)
    ),
}

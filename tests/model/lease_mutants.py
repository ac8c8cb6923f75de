"""Stores and instances that leave one rule out, and what it comes to; the worlds in which no rule helps."""

from __future__ import annotations

from tests.model.lease_protocol import Model
from tests.model.lease_states import Bad, Loss, Rules, Seconds, World

DOUBLED, LOST, BLOCKED = Bad.DOUBLED, Bad.LOST, Bad.BLOCKED

NO_NONCES = World(enforces_nonce=False)
NO_DEADLINES = World(enforces_deadline=False)
ASLEEP = World(clocks_stand_still=True)
FAILS_OVER = World(loss=Loss.LATEST)

# A bad trace is one, however long its seconds are; with few it is found sooner.
FEW = Seconds(deadline=1)

# Where a world is named, the mutant is harmless in a whole one, where the fence covers for whoever waits or is silent.
MUTANTS: dict[str, tuple[Bad, Model]] = {
    "a draw of any generation": (LOST, Model(Rules(draw_checks_generation=False))),
    "a draw under a lease that is over, clocks sleep and the grant after it is lost": (
        LOST,
        Model(Rules(draw_checks_expiry=False), World(loss=Loss.LATEST, clocks_stand_still=True), FEW),
    ),
    "a lease that is over is renewed, the grant after it lost": (LOST, Model(Rules(over_is_over=False), FAILS_OVER)),
    "generations count up, a grant lost": (LOST, Model(Rules(generations_never_repeat=False), FAILS_OVER, FEW)),
    "a grant leaves the turn": (BLOCKED, Model(Rules(grant_ends_turn=False))),
    "a sign-off leaves the turn": (BLOCKED, Model(Rules(sign_off_ends_turn=False))),
    "no clock of its own, nonces not enforced": (LOST, Model(Rules(own_clock=False), NO_NONCES)),
    "a lifetime from the answer, nonces not enforced": (
        LOST,
        Model(Rules(from_question=False), NO_NONCES, Seconds(lifetime=3)),
    ),
    "always signed off clean, nonces not enforced": (LOST, Model(Rules(clean_only_if_settled=False), NO_NONCES)),
    "the old name after a restart, nonces not enforced": (LOST, Model(Rules(new_name=False), NO_NONCES)),
    "a deadline from when it leaves, nonces not enforced": (LOST, Model(Rules(deadline_from_draw=False), NO_NONCES)),
    "the deadline not waited for, nonces not enforced": (LOST, Model(Rules(waits_for_deadline=False), NO_NONCES)),
    "nothing settled": (LOST, Model(Rules(settles=False))),
    "nothing settled, to the end": (DOUBLED, Model(Rules(settles=False))),
    "no fence, deadlines not enforced": (LOST, Model(Rules(fence=False), NO_DEADLINES)),
    "no fence, clocks sleep": (LOST, Model(Rules(fence=False), ASLEEP)),
    "no fence, the store fails over": (LOST, Model(Rules(fence=False), FAILS_OVER)),
    "look-ups at once": (LOST, Model(Rules(margin=False))),
    "another identifier for the same signal": (LOST, Model(Rules(same_id=False))),
}

# With every rule. The first is what is left of `max(generation + 1, now)` where now is too low.
LIMITS: dict[str, Model] = {
    "the server's clock is set back, and a grant is lost": MUTANTS["generations count up, a grant lost"][1],
    "writes are lost whose nonces ran ahead of the clock": Model(world=World(loss=Loss.LATEST, nonces_too=True)),
}

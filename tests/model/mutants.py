"""Clients that leave one rule out, or misread one answer, with the violation that follows."""

from __future__ import annotations

from tests.model.protocol import Disk, Exchange, Interpretation, Model, OrderList, Rules, Seconds, Sight, Violation

DOUBLED, LOST, IMAGINED, REPEATED = Violation.DOUBLED, Violation.LOST, Violation.IMAGINED, Violation.REPEATED
BLIND = Exchange(blindness=True)

# Where an exchange is named, the mutant is harmless with a correct one: deadline and fencing read each cover for the
# other, so leaving one of them out needs an exchange that breaks the other.
MUTANTS: dict[str, tuple[Violation, Model]] = {
    "again with a fresh nonce after Invalid nonce": (DOUBLED, Model(Rules(invalid_nonce=Interpretation.RETRY))),
    "Invalid nonce read as placed": (IMAGINED, Model(Rules(invalid_nonce=Interpretation.PLACED))),
    "Invalid nonce read as not placed": (LOST, Model(Rules(invalid_nonce=Interpretation.NOT_PLACED))),
    "a gateway's refusal read as not placed": (LOST, Model(Rules(gateway_refusal=Interpretation.NOT_PLACED))),
    "queries at once": (LOST, Model(Rules(waits_for_deadline=False, margin=False))),
    "queries before the deadline": (LOST, Model(Rules(waits_for_deadline=False), Exchange(long_queue=True))),
    "queries at the deadline": (LOST, Model(Rules(margin=False))),
    "closed before open": (LOST, Model(Rules(queries=(OrderList.CLOSED, OrderList.OPEN)))),
    "no gap": (LOST, Model(Rules(gap=False))),
    "open orders only": (LOST, Model(Rules(queries=(OrderList.OPEN,)))),
    "no fencing read, deadline not enforced": (
        LOST,
        Model(Rules(fencing_read=False), Exchange(enforces_deadline=False)),
    ),
    "no fencing read, clock behind": (LOST, Model(Rules(fencing_read=False), Exchange(clock_behind=True))),
    "a nonce window": (DOUBLED, Model(exchange=Exchange(nonce_window=True))),
    "by time alone": (LOST, Model(Rules(queries=()))),
    "an intent forgotten at a crash": (DOUBLED, Model(Rules(disk=Disk.FORGOTTEN))),
    "a new disk, no patience": (
        LOST,
        Model(Rules(disk=Disk.REPLACED, waits_on_new_disk=False), Exchange(long_queue=True)),
    ),
    "a new disk, the next attempt's id only": (LOST, Model(Rules(disk=Disk.REPLACED, queries_any_attempt=False))),
    "no sight": (LOST, Model(Rules(sight=Sight.NEVER), BLIND)),
    "no sight, no GetApiKeyInfo": (
        LOST,
        Model(Rules(sight=Sight.NEVER), Exchange(blindness=True, tells_key_info=False)),
    ),
    "sight before the queries only": (LOST, Model(Rules(sight=Sight.BEFORE), BLIND)),
    "sight after the queries, of a key that was changed": (
        LOST,
        Model(Rules(sight=Sight.AFTER_WITHOUT_CHANGES), BLIND),
    ),
    "a gateway's refusal as a reason for the next attempt": (
        DOUBLED,
        Model(Rules(gateway_refusal=Interpretation.RETRY)),
    ),
    "again after every refusal": (REPEATED, Model(Rules(attempts_after_refusal=2), sends_max=3, copies=1)),
    "a margin of 4 s": (LOST, Model(exchange=Exchange(enforces_deadline=False), seconds=Seconds(margin=4))),
    "a gap of 2 s": (LOST, Model(seconds=Seconds(gap=2))),
}

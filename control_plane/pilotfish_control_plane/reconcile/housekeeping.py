"""The foundation's own reconcilers: sealing the audit trail, forgetting old answers."""

from __future__ import annotations

from pilotfish_control_plane.storage import audit, idempotency
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["AnswerRetention", "AuditSealer"]

_BATCH = 1000


class AuditSealer:
    """Gives new audit rows their place in the chain, within a second."""

    name = "audit-sealer"
    topics = (audit.TOPIC,)
    debounce_s = 0.25
    sweep_s = 1.0

    def __init__(self, key: bytes) -> None:
        """Seal with `key`."""
        self._key = key

    def reconcile(self, tx: Tx) -> float | None:
        """Seal what is not sealed; come back at once when there is more."""
        return 0.0 if audit.seal(tx.conn, self._key, _BATCH) == _BATCH else None


class AnswerRetention:
    """Deletes answers to request ids that nobody will repeat any more."""

    name = "answer-retention"
    topics = ()
    sweep_s = 3600.0

    def reconcile(self, tx: Tx) -> float | None:
        """Delete what is older than its retention."""
        idempotency.forget(tx.conn, tx.now)
        return None

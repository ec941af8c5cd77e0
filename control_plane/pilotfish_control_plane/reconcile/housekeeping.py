"""The foundation's own reconcilers: sealing the audit trail, forgetting old answers."""

from __future__ import annotations

from pathlib import Path

from pilotfish_control_plane.access.bootstrap import write_head
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

    def __init__(self, key: bytes, head_file: Path) -> None:
        """Seal with `key`; note the end of the chain in `head_file`."""
        self._key = key
        self._head_file = head_file

    def reconcile(self, tx: Tx) -> float | None:
        """Seal what is not sealed; come back at once when there is more."""
        sealed = audit.seal(tx.conn, self._key, _BATCH)
        if sealed:
            end = audit.head(tx.conn)
            tx.after_commit(lambda: write_head(self._head_file, end))
        return 0.0 if sealed == _BATCH else None


class AnswerRetention:
    """Deletes answers to request ids that nobody will repeat any more."""

    name = "answer-retention"
    topics = ()
    sweep_s = 3600.0

    def reconcile(self, tx: Tx) -> float | None:
        """Delete what is older than its retention."""
        idempotency.forget(tx.conn, tx.now)
        return None

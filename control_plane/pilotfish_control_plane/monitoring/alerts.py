"""Alerts: one per deployment, kind and episode; begun, told, acknowledged, silenced, resolved.

Owns their life. When the numbers are bad enough is told by who calls.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pilotfish.errors import InvalidArgument, NotFound, Violation
from pilotfish_control_plane.monitoring.model import Alert, AlertKind, AlertState, Severity
from pilotfish_control_plane.names import AlertName
from pilotfish_control_plane.storage import alerts as rows
from pilotfish_control_plane.storage.transaction import Tx

__all__ = ["Alerts"]


class Alerts:
    """The alerts of every deployment."""

    def raise_alert(
        self,
        tx: Tx,
        kind: AlertKind,
        severity: Severity,
        *,
        project: str,
        endpoint: str,
        deployment: str,
        summary: str,
        details: Mapping[str, Any],
        episode: str,
    ) -> Alert:
        """Begin the alert of an episode, or return the one that it has."""
        known = rows.alert_of_episode(tx.conn, deployment, kind.value, episode)
        if known is not None:
            return known
        found = Alert(
            id=f"alert-{secrets.token_hex(6)}",
            project=project,
            kind=kind,
            state=AlertState.FIRING,
            severity=severity,
            endpoint=endpoint,
            deployment=deployment,
            summary=summary,
            details=dict(details),
            episode=episode,
            started=tx.now,
        )
        rows.add_alert(tx.conn, found)
        self._tell(tx, "alert.firing", found)
        return found

    def resolve(self, tx: Tx, deployment: str, kind: AlertKind, episode: str | None = None) -> list[Alert]:
        """Resolve the open alerts of a kind; of one episode only where it is given."""
        ended = []
        for found in rows.open_alerts(tx.conn, deployment, kind.value):
            if episode is not None and found.episode != episode:
                continue
            over = dataclasses.replace(found, state=AlertState.RESOLVED, ended=tx.now)
            rows.set_alert(tx.conn, over)
            self._tell(tx, "alert.resolved", over)
            ended.append(over)
        return ended

    def get(self, tx: Tx, name: str) -> Alert:
        """Return an alert.

        Raises:
            NotFound: there is none of that name.
        """
        parsed = AlertName.parse(name, "name")
        found = rows.alert(tx.conn, parsed.project, parsed.alert)
        if found is None:
            raise NotFound(f"there is no alert {name}")
        return found

    def acknowledge(self, tx: Tx, name: str, note: str) -> Alert:
        """Note that the caller takes care of it; a second time changes nothing but the note."""
        found = self.get(tx, name)
        if len(note) > 4096:
            raise InvalidArgument("the note is too long", violations=[Violation("note", "at most 4096 characters")])
        by, at = found.acknowledged_by or tx.actor.name, found.acknowledged or tx.now
        taken = dataclasses.replace(found, acknowledged_by=by, acknowledged=at, note=note or found.note)
        rows.set_alert(tx.conn, taken)
        tx.audit("AcknowledgeAlert", str(AlertName(found.project, found.id)), None, {"by": by, "note": note})
        return taken

    def silence(self, tx: Tx, name: str, until: datetime) -> Alert:
        """Tell nobody about it again before a time.

        Raises:
            InvalidArgument: the time is past.
        """
        if until <= tx.now:
            raise InvalidArgument(
                f"until {until.isoformat()} is past", violations=[Violation("until", "must be in the future")]
            )
        found = dataclasses.replace(self.get(tx, name), silenced_until=until)
        rows.set_alert(tx.conn, found)
        tx.audit("SilenceAlert", str(AlertName(found.project, found.id)), None, {"until": until.isoformat()})
        return found

    def _tell(self, tx: Tx, kind: str, found: Alert) -> None:
        payload = {
            "kind": found.kind.value,
            "severity": found.severity.value,
            "endpoint": found.endpoint,
            "deployment": found.deployment,
            "episode": found.episode,
            "summary": found.summary,
        }
        tx.emit(kind, str(AlertName(found.project, found.id)), payload)

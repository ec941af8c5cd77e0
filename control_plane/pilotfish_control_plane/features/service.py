"""Feature sets: defined, revised, found; statistics stored per job.

Owns their life. What a transformation computes is the trainer's.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pilotfish.errors import InvalidArgument, NotFound, Violation
from pilotfish_control_plane.features.model import FeatureSet
from pilotfish_control_plane.names import check_id
from pilotfish_control_plane.storage import features as rows
from pilotfish_control_plane.storage.transaction import Tx
from pilotfish_control_plane.trainer.fields import Fields
from pilotfish_control_plane.trainer.spec_features import read_feature_set

__all__ = ["FeatureService"]


class FeatureService:
    """The feature store."""

    def put(
        self, tx: Tx, project: str, feature_set_id: str, definition: Mapping[str, Any], description: str
    ) -> FeatureSet:
        """Store a definition as the next revision; the same definition again is the same revision.

        Raises:
            InvalidArgument: every bad transformation.
        """
        check_id(feature_set_id, "feature_set_id")
        problems: list[Violation] = []
        read_feature_set(Fields(dict(definition), "feature_set", problems))
        if problems:
            raise InvalidArgument(f"feature set {feature_set_id} cannot be used", violations=problems)
        known = rows.feature_set(tx.conn, project, feature_set_id)
        if known is not None and known.definition == definition and known.description == description:
            return known
        revision = known.revision + 1 if known else 1
        found = FeatureSet(project, feature_set_id, revision, description, dict(definition), tx.now, tx.actor.name)
        rows.add_feature_set(tx.conn, found)
        tx.audit("PutFeatureSet", found.name, dict(known.definition) if known else None, dict(definition))
        tx.emit("feature_set.revised", found.name, {"revision": revision})
        return found

    def get(self, tx: Tx, project: str, feature_set_id: str, revision: int = 0) -> FeatureSet:
        """Return a revision, 0: the newest.

        Raises:
            NotFound: there is none.
        """
        found = rows.feature_set(tx.conn, project, feature_set_id, revision)
        if found is None:
            which = f" revision {revision}" if revision else ""
            raise NotFound(f"there is no feature set {feature_set_id}{which}: define it with PutFeatureSet")
        return found

    def list_newest(self, tx: Tx, project: str) -> list[FeatureSet]:
        """Return the newest revision of every feature set."""
        return rows.newest_feature_sets(tx.conn, project)

    def keep_statistics(
        self, tx: Tx, project: str, feature_set_id: str, revision: int, job: str, statistics: Mapping[str, Any]
    ) -> None:
        """Keep what a job measured of the features."""
        rows.add_statistics(tx.conn, project, feature_set_id, revision, job, dict(statistics), tx.now)

    def statistics(self, tx: Tx, project: str, feature_set_id: str) -> list[tuple[str, int, dict[str, Any], datetime]]:
        """Return (job, revision, statistics, time) of every job, newest first."""
        self.get(tx, project, feature_set_id)
        return rows.statistics_of(tx.conn, project, feature_set_id)

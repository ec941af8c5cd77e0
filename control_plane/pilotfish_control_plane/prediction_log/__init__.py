"""The prediction log: durable, exactly-once storage of predictions and ground truths, and queries over them.

Owns nothing but its public names. It imports no grpc, no protobuf and no SQLAlchemy.
"""

from __future__ import annotations

from .batches import Append, Appended, Batch, ColumnBatch, Gap, Role, Source, TruthBatch
from .maintenance import Merged, Purged
from .options import LogOptions
from .reports import DailyCount, ErrorRate, Labelled, LatencyQuantiles
from .segments import Damage
from .statistics import LogStatistics
from .store import PredictionLog

__all__ = [
    "Append",
    "Appended",
    "Batch",
    "ColumnBatch",
    "DailyCount",
    "Damage",
    "ErrorRate",
    "Gap",
    "Labelled",
    "LatencyQuantiles",
    "LogOptions",
    "LogStatistics",
    "Merged",
    "PredictionLog",
    "Purged",
    "Role",
    "Source",
    "TruthBatch",
]

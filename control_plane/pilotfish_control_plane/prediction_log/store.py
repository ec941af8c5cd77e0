"""The prediction log: what callers open.

Owns the directory, its lock and the order in which log files become parts. Appending is `journal`'s work,
reading is `queries`' and `reports`'. It knows no wire format and no database.

    lock  manifest.log  log/<number>.seg  parts/deployment=<id>/day=<date>/  truth/day=<date>/  ids/  quarantine/  tmp/
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

import pyarrow as pa

from pilotfish.errors import FailedPrecondition, PilotfishError
from pilotfish_control_plane.clock import Clock

from . import reports
from .batches import Append, Appended, Batch, Gap, Source
from .durable import disk_error
from .export import ExportFormat, write_export
from .journal import Journal
from .maintenance import Maintenance, Merged, Purged
from .manifest import Manifest
from .options import LogOptions
from .parts import remove_strays
from .queries import Queries, Session
from .repeats import Repeats
from .requests import Request
from .segments import Damage
from .snapshots import Snapshots
from .statistics import LogStatistics, measure

__all__ = ["PredictionLog"]

_logger = logging.getLogger(__name__)
_QUANTILES = (0.5, 0.95, 0.99)


class PredictionLog:
    """A durable log of predictions and ground truths in one directory; safe for many threads.

    One process has it open at a time. Appends are durable when they return; queries see every row whose append
    has returned, once.
    """

    def __init__(self, root: Path, clock: Clock, options: LogOptions, lock: int) -> None:
        """Read the directory back; use `open` instead."""
        self._lock = lock
        self._root = root
        self._manifest = Manifest(root / "manifest.log")
        state = self._manifest.state
        strays = remove_strays(root, state.parts)
        if strays:
            _logger.info("%s: deleted %d files that a stopped roll or merge had left", root, strays)
        self._journal = Journal(root, state, clock, options)
        self._snapshots = Snapshots(root, self._journal, state)
        self._repeats = Repeats(root)
        self._queries = Queries(root, self._snapshots, self._repeats, options)
        self._maintenance = Maintenance(
            root, self._journal, self._manifest, self._snapshots, self._repeats, clock, options
        )
        self._closing = threading.Lock()
        self._closed = False

    @classmethod
    def open(
        cls, path: str | Path, *, clock: Clock, options: LogOptions | None = None, background: bool = True
    ) -> PredictionLog:
        """Open the log in a directory, created if need be, and read back what a crash left.

        Args:
            path: the directory.
            clock: where time comes from.
            options: see `LogOptions`.
            background: roll log files into parts and merge parts in a thread; otherwise call `maintain`.

        Raises:
            FailedPrecondition: another process has it open, or its manifest is damaged.
            ResourceExhausted: the disk is too full to repair what a crash left.
            Unavailable: the directory cannot be read or written.
        """
        root = Path(path).absolute()
        options = options or LogOptions()
        try:
            for folder in ("log", "parts", "truth", "quarantine"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            lock = _acquire(root)
            try:
                shutil.rmtree(root / "tmp", ignore_errors=True)
                log = cls(root, clock, options, lock)
            except BaseException:
                os.close(lock)
                raise
        except OSError as error:
            raise disk_error(error, root, options.retry_after_s) from error
        if background:
            log._maintenance.start()
        return log

    # Appending ---------------------------------------------------------------------------------------------

    def append(
        self, source: Source, first_offset: int, last_offset: int, batch: Batch, *, allow_gap: bool = False
    ) -> Appended:
        """Store the rows of offsets `[first_offset, last_offset)` that are not stored yet, durably.

        Args:
            source: whose offsets they are.
            first_offset: offset of the first row.
            last_offset: offset after the last row.
            batch: the rows; row i has the offset `first_offset + i`.
            allow_gap: accept that offsets before `first_offset` are lost, and record it.

        Raises:
            InvalidArgument: what is wrong with the batch, every problem of it.
            FailedPrecondition: offsets before `first_offset` are missing (OFFSET_GAP; metadata `expected_offset`).
            ResourceExhausted: the disk is full; nothing was stored, come back after `retry_after_s`.
            Unavailable: the disk failed; nothing was stored.
        """
        (answer,) = self.append_many([Append(source, first_offset, last_offset, batch, allow_gap)])
        if isinstance(answer, PilotfishError):
            raise answer
        return answer

    def append_many(self, items: Sequence[Append]) -> list[Appended | PilotfishError]:
        """Store a group with one fdatasync and return an answer per item, in order.

        An item that is refused (InvalidArgument, FailedPrecondition) has its error as its answer; the others
        are stored. A later item of a source builds on the earlier ones.

        Raises:
            ResourceExhausted: the disk is full; nothing of the group was stored.
            Unavailable: the disk failed; nothing of the group was stored.
        """
        answers = self._journal.append_many(items)
        self._maintenance.wake_if_due()
        return answers

    def watermark(self, source: Source) -> int:
        """Return the first offset of a source that is not durable; 0 for an unknown source."""
        return self._journal.watermark(source)

    def watermarks(self) -> dict[Source, int]:
        """Return the watermark of every source that ever appended."""
        return self._journal.watermarks()

    def gaps(self) -> list[Gap]:
        """Return every range of offsets that was given up, or lost to a damaged file."""
        return self._journal.gaps()

    def damages(self) -> list[Damage]:
        """Return the damaged log files that opening found; they are kept in `quarantine/`."""
        return list(self._journal.damages) + self._maintenance.damages

    # Reading -----------------------------------------------------------------------------------------------

    def query(
        self,
        deployments: Sequence[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        columns: Sequence[str] | None = None,
        roles: Sequence[int] = (0,),
        *,
        with_truth: bool = True,
        limit: int | None = None,
        newest_first: bool = False,
        prediction_ids: Sequence[str] | None = None,
    ) -> pa.Table:
        """Return predictions by time, each once, with the latest truth known for it.

        Columns: prediction_id, time (timestamp[us, UTC]), deployment, endpoint, model, version, replica, latency_us
        (null: unknown), role, code, input_hash, attempts, conflict, metadata, truth (a number), truth_text,
        truth_time, and `input.<name>`, `output.<name>`; `seq`, the order of arrival, when named.

        Args:
            deployments: ids; None for all.
            start_us: first time, microseconds since 1970 UTC; None for no limit.
            end_us: first time that is too late; None for no limit.
            columns: names of columns; None for all.
            roles: see `Role`.
            with_truth: have the truth columns when `columns` is None.
            limit: at most so many rows.
            newest_first: latest first.
            prediction_ids: only these; None for all.

        Raises:
            InvalidArgument: unknown columns or roles, or a start after the end.
            ResourceExhausted: the answer needs more memory than a query may use.
        """
        with self._session(deployments, start_us, end_us, roles, prediction_ids) as session:
            text, names = session.select(columns, with_truth=with_truth, limit=limit, newest_first=newest_first)
            return session.table(text, names)

    def query_batches(
        self,
        deployments: Sequence[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        columns: Sequence[str] | None = None,
        roles: Sequence[int] = (0,),
        *,
        with_truth: bool = True,
        rows: int = 65_536,
    ) -> Iterator[pa.RecordBatch]:
        """Yield what `query` returns, unordered and in batches of at most `rows`, in bounded memory.

        The snapshot lasts until the iterator ends or is closed.
        """
        with self._session(deployments, start_us, end_us, roles) as session:
            text, names = session.select(columns, with_truth=with_truth, ordered=False)
            yield from session.batches(text, names, rows)

    def export(
        self,
        path: str | Path,
        deployments: Sequence[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        columns: Sequence[str] | None = None,
        roles: Sequence[int] = (0,),
        *,
        file_format: ExportFormat = "parquet",
        with_truth: bool = True,
    ) -> int:
        """Write what `query` returns to a file, complete or not at all, and return the rows written.

        Args:
            path: the file; one that exists is replaced.
            deployments: as in `query`.
            start_us: as in `query`.
            end_us: as in `query`.
            columns: as in `query`.
            roles: as in `query`.
            with_truth: as in `query`.
            file_format: `parquet`, `csv` or `jsonl`.

        Raises:
            InvalidArgument: as `query`, or an unknown format.
            ResourceExhausted: the disk of `path` is full.
        """
        with self._session(deployments, start_us, end_us, roles) as session:
            text, names = session.select(columns, with_truth=with_truth)
            return write_export(session, text, names, Path(path), file_format)

    def count(
        self,
        deployments: Sequence[str] | str | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        roles: Sequence[int] = (0,),
    ) -> int:
        """Return the number of predictions."""
        with self._session(deployments, start_us, end_us, roles) as session:
            return reports.count(session)

    def daily_counts(
        self,
        deployments: Sequence[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        roles: Sequence[int] = (0,),
        *,
        quantiles: Sequence[float] = (),
    ) -> list[reports.DailyCount]:
        """Return counts, and latency quantiles if asked for, per deployment and UTC day."""
        with self._session(deployments, start_us, end_us, roles) as session:
            return reports.daily_counts(session, quantiles)

    def latency_quantiles(
        self,
        deployments: Sequence[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        quantiles: Sequence[float] = _QUANTILES,
        roles: Sequence[int] = (0,),
    ) -> reports.LatencyQuantiles:
        """Return quantiles of the latency, each an observed value in microseconds."""
        with self._session(deployments, start_us, end_us, roles) as session:
            return reports.latency_quantiles(session, quantiles)

    def error_rate(
        self,
        deployments: Sequence[str] | None = None,
        start_us: int | None = None,
        end_us: int | None = None,
        roles: Sequence[int] = (0,),
    ) -> reports.ErrorRate:
        """Return how many predictions failed."""
        with self._session(deployments, start_us, end_us, roles) as session:
            return reports.error_rate(session)

    def labelled(
        self, deployment: str, start_us: int | None = None, end_us: int | None = None, roles: Sequence[int] = (0,)
    ) -> reports.Labelled:
        """Return the answered predictions of a deployment whose truth is known."""
        with self._session([deployment], start_us, end_us, roles) as session:
            return reports.labelled(session)

    def training_frame(
        self,
        deployments: Sequence[str] | None,
        start_us: int | None,
        end_us: int | None,
        feature_names: Sequence[str],
        label_name: str,
    ) -> pa.Table:
        """Return the inputs `feature_names` and the truth as `label_name` of live, answered, labelled predictions.

        Rows with a conflict are left out. The label is text when any truth is.

        Raises:
            InvalidArgument: a feature that no row has, or one called as the label.
        """
        with self._session(deployments, start_us, end_us, (0,)) as session:
            return reports.training_frame(session, feature_names, label_name)

    @contextmanager
    def _session(
        self,
        deployments: Sequence[str] | str | None,
        start_us: int | None,
        end_us: int | None,
        roles: Sequence[int],
        prediction_ids: Sequence[str] | None = None,
    ) -> Iterator[Session]:
        chosen = [deployments] if isinstance(deployments, str) else deployments
        with self._queries.session(Request(chosen, start_us, end_us, roles, prediction_ids)) as session:
            yield session

    # Housekeeping ------------------------------------------------------------------------------------------

    def maintain(self) -> float:
        """Roll and merge what is due, and return the seconds until something may be due again."""
        return self._maintenance.run()

    def roll(self) -> int:
        """Turn every log file, the active one too, into parts now, and return how many."""
        return self._maintenance.roll_all()

    def compact(self, *, everything: bool = False) -> Merged:
        """Merge small parts of one deployment and day.

        Args:
            everything: merge wherever there are two, not only where many gathered.
        """
        return self._maintenance.compact(everything=everything)

    def purge(self, before_day: int, *, deployments: Sequence[str] | None = None, dry_run: bool = False) -> Purged:
        """Delete predictions and truths of the days before `before_day`, and return what went.

        Args:
            before_day: days since 1970 UTC; this day stays.
            deployments: only predictions of these; None for all, and for the truths.
            dry_run: only say what would go.
        """
        return self._maintenance.purge(before_day, deployments, dry_run=dry_run)

    def statistics(self) -> LogStatistics:
        """Return sizes: parts, rows and bytes stored, and what waits in log files."""
        with self._snapshots.take() as snapshot:
            return measure(snapshot)

    def close(self) -> None:
        """Stop the thread, close the files and give up the directory; a second call does nothing."""
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._maintenance.stop()
        self._journal.close()
        self._manifest.close()
        os.close(self._lock)

    def __enter__(self) -> PredictionLog:
        """Return the log."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the log."""
        self.close()


def _acquire(root: Path) -> int:
    handle = os.open(root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(handle)
        raise FailedPrecondition(
            f"the prediction log {root} is open in process {owner}: a local store has one control plane only; "
            "stop that one, or give this one another directory",
            reason="PREDICTION_LOG_LOCKED",
            metadata={"path": str(root), "process": owner},
        ) from error
    with suppress(OSError):  # only for the message above: a full disk must not keep the log from being opened
        os.pwrite(handle, f"{os.getpid():<31}\n".encode(), 0)
    return handle

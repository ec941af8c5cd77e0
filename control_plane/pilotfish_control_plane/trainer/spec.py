"""What a training job is asked to do, as frozen values.

Owns the meaning and the defaults of every field of `spec.json`. `spec_reader` makes these values from JSON and names
every problem; nothing here reads files, and importing it needs no numerical package.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from pilotfish_control_plane.trainer.outcome import Severity

__all__ = [
    "ApiSource",
    "ChampionRule",
    "CheckConfig",
    "ColumnLimits",
    "DatabaseSource",
    "EvaluationConfig",
    "FeatureConfig",
    "FeatureSet",
    "FileSource",
    "JobSpec",
    "JoinConfig",
    "JoinStep",
    "ModelConfig",
    "Pagination",
    "PredictionLogSource",
    "QualityConfig",
    "SearchConfig",
    "SearchRange",
    "Source",
    "SplitConfig",
    "Task",
    "Threshold",
    "TrainingConfig",
    "Transformation",
]


class Task(enum.StrEnum):
    """What is predicted: one of several classes, or a number."""

    CLASSIFICATION = "classification"
    REGRESSION = "regression"


@dataclass(frozen=True, slots=True)
class DatabaseSource:
    """Rows of one read-only query.

    Attributes:
        name: how the joins call it.
        connection: SQLAlchemy URL; SQLite files must lie under an allowed root.
        query: one SELECT (or WITH … SELECT).
        parameters: values for `:name` in the query, bound, never pasted.
        max_rows: more rows than this fail the job; nothing is cut silently.
    """

    name: str
    connection: str
    query: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    max_rows: int = 5_000_000


@dataclass(frozen=True, slots=True)
class FileSource:
    """Rows of CSV, Parquet, JSON (an array of objects) or JSON Lines files.

    Attributes:
        paths: files, or one directory of Parquet parts; all must lie under an allowed root.
        format: `csv`, `parquet`, `json` or `jsonl`; None: by the file's ending.
        delimiter: between the fields of a CSV file.
        encoding: of text files.
    """

    name: str
    paths: tuple[str, ...]
    format: str | None = None
    delimiter: str = ","
    encoding: str = "utf-8"
    max_rows: int = 5_000_000


@dataclass(frozen=True, slots=True)
class Pagination:
    """How an API hands out its rows in pages.

    Attributes:
        style: `none`, `page` (page numbers), `offset`, or `cursor` (the answer names the next page).
        parameter: query parameter that carries the page number, the offset or the cursor.
        size_parameter: query parameter that carries the page size; empty: not sent.
        size: rows asked for per page.
        first: number of the first page.
        cursor_path: dotted path of the next cursor in the answer.
        max_pages: more pages than this fail the job.
    """

    style: str = "none"
    parameter: str = ""
    size_parameter: str = ""
    size: int = 1000
    first: int = 1
    cursor_path: str = ""
    max_pages: int = 1000


@dataclass(frozen=True, slots=True)
class ApiSource:
    """Rows of an HTTP(S) API that answers JSON.

    Attributes:
        endpoint: the URL, without the parameters of paging.
        parameters: query parameters.
        headers: request headers; their values are never logged.
        records_path: dotted path of the array of objects in the answer; empty: the answer itself.
        timeout_s: seconds for each request.
    """

    name: str
    endpoint: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    records_path: str = ""
    pagination: Pagination = field(default_factory=Pagination)
    timeout_s: float = 30.0
    max_rows: int = 1_000_000


@dataclass(frozen=True, slots=True)
class PredictionLogSource:
    """Rows that were served, joined with their labels: a Parquet export made by the control plane."""

    name: str
    path: str
    max_rows: int = 5_000_000


Source: TypeAlias = DatabaseSource | FileSource | ApiSource | PredictionLogSource


@dataclass(frozen=True, slots=True)
class JoinStep:
    """One source joined to what was joined so far.

    Attributes:
        left_on: key columns of what was joined so far.
        right_on: key columns of `source`, in the same order.
        how: `inner` or `left`.
        allow_fan_out: several matching rows may multiply a row; off by default because it is usually a mistake.
    """

    source: str
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: str = "inner"
    allow_fan_out: bool = False


@dataclass(frozen=True, slots=True)
class JoinConfig:
    """How several sources become one table: `base`, then the joins in order, then the rows of `union` below it."""

    base: str
    joins: tuple[JoinStep, ...] = ()
    union: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Transformation:
    """One step of a feature set.

    Attributes:
        type: `imputation`, `scaling`, `encoding` or `feature_selection`.
        method: such as `standard` or `onehot`.
        columns: the features it is for; None: every feature of its kind.
        options: further settings of the method.
    """

    type: str
    method: str
    columns: tuple[str, ...] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FeatureSet:
    """A named, versioned definition of how columns become the numbers that a model learns from.

    Attributes:
        features: the columns; None: every column that has no other role.
        kinds: `numeric` or `categorical` by column, where the data's own type should not decide.
    """

    name: str = ""
    version: int = 0
    features: tuple[str, ...] | None = None
    kinds: Mapping[str, str] = field(default_factory=dict)
    transformations: tuple[Transformation, ...] = ()


@dataclass(frozen=True, slots=True)
class FeatureConfig:
    """Which columns play which role, and the feature set applied to them."""

    label: str
    feature_set_id: str = ""
    feature_set: FeatureSet = field(default_factory=FeatureSet)
    features: tuple[str, ...] | None = None
    id_column: str | None = None
    time_column: str | None = None
    group_column: str | None = None
    join: JoinConfig | None = None


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The estimator by name."""

    type: str
    task: Task = Task.CLASSIFICATION
    framework: str = "sklearn"


@dataclass(frozen=True, slots=True)
class SearchRange:
    """A range that a random search draws from; `log`: evenly in the logarithm; `integer`: whole numbers only."""

    low: float
    high: float
    log: bool = False
    integer: bool = False


@dataclass(frozen=True, slots=True)
class SearchConfig:
    """A search over hyperparameters, decided on the validation split.

    Attributes:
        method: `grid` (every combination) or `random` (`trials` draws).
        space: by hyperparameter the values to try, or a range (random only).
        trials: number of draws of a random search, and the most combinations a grid may have.
        metric: what is compared; None: accuracy, or rmse for regression.
        max_seconds: no new trial is begun after this time.
    """

    method: str
    space: Mapping[str, tuple[Any, ...] | SearchRange]
    trials: int = 20
    metric: str | None = None
    max_seconds: float = 600.0


@dataclass(frozen=True, slots=True)
class SplitConfig:
    """How rows are divided; the fractions sum to 1."""

    method: str = "stratified"
    train: float = 0.6
    validation: float = 0.2
    test: float = 0.2
    seed: int = 0


@dataclass(frozen=True, slots=True)
class TrainingConfig:
    """The estimator, its settings, the search over them, and the split."""

    model: ModelConfig
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    search: SearchConfig | None = None
    split: SplitConfig = field(default_factory=SplitConfig)


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound that a test metric must keep.

    Attributes:
        comparison: `>=`, `>`, `<=` or `<`.
        min_sample: with fewer test rows the verdict is INCONCLUSIVE; the evaluation's own minimum holds as well.
    """

    metric: str
    comparison: str
    bound: float
    min_sample: int = 0


@dataclass(frozen=True, slots=True)
class ChampionRule:
    """How the candidate is compared with the version in charge, on the same test rows.

    Attributes:
        metric: None: accuracy, or rmse for regression.
        margin: by how much the candidate must be better, in the metric's unit; negative: may be worse.
        require: `point`: the measured difference reaches the margin; `significant`: so does the lower end of its
            95 % interval.
    """

    metric: str | None = None
    margin: float = 0.0
    require: str = "point"


@dataclass(frozen=True, slots=True)
class EvaluationConfig:
    """What is measured on the test split and what must hold.

    Attributes:
        metrics: names; empty: all of the task.
        averaging: `macro`, `weighted` or `micro`, for more than two classes.
        positive_class: class that precision and recall are about when there are two; None: the last in order.
        minimum_rows: with fewer test rows every verdict is INCONCLUSIVE.
        importance_seconds: time given to permutation importance; 0 switches it off.
    """

    metrics: tuple[str, ...] = ()
    thresholds: tuple[Threshold, ...] = ()
    champion: ChampionRule | None = None
    averaging: str = "macro"
    positive_class: str | None = None
    minimum_rows: int = 20
    importance_seconds: float = 1.5


@dataclass(frozen=True, slots=True)
class ColumnLimits:
    """What one column must keep; unset limits are not checked.

    Attributes:
        type: `numeric`, `categorical` or `time`.
        max_missing: largest share of missing values, 0..1.
        allowed: the only values that may appear.
    """

    type: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    max_missing: float | None = None
    allowed: tuple[Any, ...] | None = None


@dataclass(frozen=True, slots=True)
class CheckConfig:
    """One data-quality check: whether it runs, what its findings are worth, and its limits by name."""

    enabled: bool = True
    severity: Severity = Severity.ERROR
    limits: Mapping[str, float] = field(default_factory=dict)
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class QualityConfig:
    """The data-quality checks by name, and the limits of single columns."""

    checks: Mapping[str, CheckConfig]
    columns: Mapping[str, ColumnLimits] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One training job, checked.

    Attributes:
        seed: all randomness of the job comes from it.
        champion_dir: artifact of the version in charge; None: there is none yet.
        previous_profile: profile of the last run's training data; None: there is none.
        allowed_roots: directories that source files may lie under.
        allow_private: networks (CIDR) that API sources may reach though they are not public.
    """

    job_id: str
    pipeline: str
    pipeline_revision: int
    trigger: str
    seed: int
    sources: tuple[Source, ...]
    features: FeatureConfig
    training: TrainingConfig
    evaluation: EvaluationConfig
    quality: QualityConfig
    champion_dir: str | None = None
    previous_profile: str | None = None
    allowed_roots: tuple[str, ...] = ()
    allow_private: tuple[str, ...] = ()

"""Runs sent to an MLflow server that the user has anyway, by its REST interface.

Owns the translation and the calls; needs no MLflow package. The server is somebody else's: it may be away for days,
so nothing waits for it, and a run is found again by its tag, so that a repetition changes nothing.
"""

from __future__ import annotations

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any  # JSON of any depth

from pilotfish.errors import FailedPrecondition, Unavailable
from pilotfish_control_plane.experiments.model import Point, Run, RunState

__all__ = ["RUN_TAG", "MlflowServer", "experiment_name"]

RUN_TAG = "pilotfish.run"
"""The tag that carries the run's resource name: the key of the export."""

TIMEOUT_S = 20.0
_PARAM_CHARS = 6_000
_TAG_CHARS = 5_000
_BATCH = {"metrics": 1_000, "params": 100, "tags": 100}
_STATUS = {RunState.RUNNING: "RUNNING", RunState.FINISHED: "FINISHED", RunState.FAILED: "FAILED"}


def experiment_name(run: Run) -> str:
    """Return the experiment in MLflow: `pilotfish/{project}/{experiment}`."""
    return f"pilotfish/{run.project}/{run.experiment}"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The operator named one address: no answer may send the token to another."""

    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        """Refuse."""
        return None


class MlflowServer:
    """One server; every method blocks.

    Args:
        uri: its address, as MLFLOW_TRACKING_URI would be.
        token: bearer token; "": none.
    """

    def __init__(self, uri: str, token: str = "") -> None:
        """Connect to nothing yet."""
        self._base = uri.rstrip("/") + "/api/2.0/mlflow/"
        self._headers = {"Content-Type": "application/json"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, run: Run, points: Sequence[Point]) -> str:
        """Create or bring up to date the run's copy; return its id in MLflow.

        Raises:
            Unavailable: the server does not answer, or not well: worth a repetition.
            FailedPrecondition: it refuses the run: a repetition would not help.
        """
        experiment = self._experiment(experiment_name(run))
        copy, known = self._find(experiment, run)
        if not copy:
            copy = self._create(experiment, run)
        # MLflow's parameters never change once they are set.
        params = {k: _text(v, _PARAM_CHARS) for k, v in run.parameters.items() if k not in known}
        self._log(copy, "params", [{"key": k, "value": v} for k, v in params.items()])
        self._log(copy, "metrics", [_metric(p, run.started_at) for p in points if math.isfinite(p.value)])
        self._log(copy, "tags", [{"key": k, "value": _text(v, _TAG_CHARS)} for k, v in _tags(run).items()])
        update: dict[str, Any] = {"run_id": copy, "status": _STATUS[run.state]}
        if run.ended_at is not None:
            update["end_time"] = _millis(run.ended_at)
        self._call("runs/update", update)
        return copy

    def _experiment(self, name: str) -> str:
        found = self._call("experiments/get-by-name?" + urllib.parse.urlencode({"experiment_name": name}), None, (404,))
        if found is not None:
            return str(found["experiment"]["experiment_id"])
        made = self._call("experiments/create", {"name": name}, (400,))
        if made is not None:
            return str(made["experiment_id"])
        # Somebody else made it in between.
        again = self._call("experiments/get-by-name?" + urllib.parse.urlencode({"experiment_name": name}), None)
        assert again is not None
        return str(again["experiment"]["experiment_id"])

    def _find(self, experiment: str, run: Run) -> tuple[str, set[str]]:
        """Return the id of the run's copy ("": there is none) and the names of its parameters."""
        asked = {"experiment_ids": [experiment], "filter": f"tags.`{RUN_TAG}` = '{run.name}'", "max_results": 1}
        found = (self._call("runs/search", asked) or {}).get("runs") or []
        if not found:
            return "", set()
        params = found[0].get("data", {}).get("params", [])
        return str(found[0]["info"]["run_id"]), {str(p["key"]) for p in params}

    def _create(self, experiment: str, run: Run) -> str:
        made = self._call(
            "runs/create",
            {
                "experiment_id": experiment,
                "run_name": f"{run.kind.value} {run.id[:8]}",
                "start_time": _millis(run.started_at),
                "tags": [{"key": RUN_TAG, "value": run.name}],
            },
        )
        assert made is not None
        return str(made["run"]["info"]["run_id"])

    def _log(self, copy: str, what: str, rows: Sequence[Mapping[str, Any]]) -> None:
        for start in range(0, len(rows), _BATCH[what]):
            self._call("runs/log-batch", {"run_id": copy, what: list(rows[start : start + _BATCH[what]])})

    def _call(self, path: str, body: Mapping[str, Any] | None, absent: Sequence[int] = ()) -> Any:
        """Return the answer's JSON; None for a status in `absent`. Without a body it is a GET."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._base + path, data=data, headers=self._headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT_S) as answer:
                return json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            said = error.read(500).decode(errors="replace")
            if error.code in absent:
                return None
            text = f"the MLflow server answers {error.code} to {path.partition('?')[0]}: {said}"
            if error.code >= 500 or error.code in (408, 429):
                raise Unavailable(text, reason="MLFLOW") from error
            raise FailedPrecondition(text, reason="MLFLOW") from error
        except (OSError, ValueError) as error:
            raise Unavailable(f"the MLflow server does not answer: {error}", reason="MLFLOW") from error


def _tags(run: Run) -> dict[str, str]:
    known = {RUN_TAG: run.name, "pilotfish.kind": run.kind.value, "pilotfish.author": run.author}
    subject = {"pilotfish.subject": run.subject} if run.subject else {}
    return {**run.tags, **known, **subject}


def _metric(point: Point, default: datetime) -> dict[str, Any]:
    time = point.time or default
    return {"key": point.metric, "value": point.value, "timestamp": _millis(time), "step": point.step}


def _millis(time: datetime) -> int:
    return round(time.timestamp() * 1000)


def _text(value: Any, most: int) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= most else text[: most - 1] + "…"

"""The columns of every list. Owns the layout; it calls nothing."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from pilotfish.cli.formats import age, bytes_text, number, percent, ref, short_name, state_style
from pilotfish.cli.output import Column, Record, state_column

__all__ = ["COLUMNS"]


def _age(now: datetime, field: str = "create_time", header: str = "AGE") -> Column:
    return Column(header, lambda r: age(r.get(field, ""), now), "dim", right=True)


def _name(header: str, text: Callable[[Record], str]) -> Column:
    return Column(header, text, "bold")


def _id(header: str = "NAME") -> Column:
    return _name(header, lambda r: short_name(r["name"]))


def _field(header: str, field: str, style: str = "", *, wide: bool = False, extra: bool = False) -> Column:
    return Column(header, lambda r: str(r.get(field, "")), style, wide=wide, extra=extra)


def _pairs(values: dict[str, object], limit: int = 3) -> str:
    shown = [f"{k}={number(v)}" for k, v in list(values.items())[:limit]]
    return " ".join(shown) + (" …" if len(values) > limit else "")


def _models(now: datetime) -> list[Column]:
    return [
        _id("MODEL"),
        Column("LATEST", lambda r: f"@{r['latest_version']}" if r["latest_version"] else "–", right=True),
        Column("ALIASES", lambda r: " ".join(f"{k}→{v}" for k, v in sorted(r["aliases"].items())), "cyan"),
        Column("TAGS", lambda r: _pairs(r["tags"]), "dim", extra=True),
        _field("DESCRIPTION", "description", wide=True),
        _age(now),
    ]


def _versions(now: datetime) -> list[Column]:
    return [
        _name("VERSION", lambda r: f"{r['model']}@{r['number']}"),
        _field("LABEL", "label"),
        state_column("STATUS", "status"),
        Column("ALIASES", lambda r: " ".join(r["aliases"]), "cyan"),
        Column("METRICS", lambda r: _pairs(r["metrics"]), wide=True),
        _field("FRAMEWORK", "framework", "dim", extra=True),
        Column("SIZE", lambda r: bytes_text(r["artifact_size_bytes"]), right=True),
        _age(now),
    ]


def _endpoints(now: datetime) -> list[Column]:
    def serving(record: Record) -> str:
        live = sorted(record["deployments"], key=lambda d: -d["traffic_bp"])
        return "  ".join(f"{d['stage']} @{d['version']} {percent(d['traffic_bp'])}" for d in live) or "nothing"

    return [
        _id("ENDPOINT"),
        _field("MODEL", "model"),
        Column("SERVES", serving, wide=True),
        _field("ADDRESS", "address", "cyan"),
        Column("AUTOMATION", lambda r: "paused" if r["automation_paused"] else "on", "dim", extra=True),
        _age(now),
    ]


def _deployments(now: datetime) -> list[Column]:
    return [
        _name("DEPLOYMENT", lambda r: f"{r['endpoint']}/{r['stage']}"),
        Column("VERSION", lambda r: f"{r['model']}@{r['version']}"),
        state_column(),
        Column("REPLICAS", lambda r: f"{r['ready_replicas']}/{len(r['replicas'])}", right=True),
        Column("TRAFFIC", lambda r: percent(r["traffic_bp"]), right=True),
        _field("AUTHOR", "author", "dim", extra=True),
        _age(now),
        _field("ID", "id", "dim", extra=True),
        _field("REASON", "state_reason", "dim", wide=True),
    ]


def _replicas(_now: datetime) -> list[Column]:
    return [
        _field("REPLICA", "id", "bold"),
        _field("DEPLOYMENT", "deployment", "dim", extra=True),
        state_column(),
        state_column("SIDECAR", "link"),
        _field("NODE", "node", extra=True),
        _field("GRPC", "grpc_address", "cyan"),
        Column("RESTARTS", lambda r: str(r["restarts"]), right=True),
        _field("REASON", "state_reason", "dim", wide=True),
    ]


def _rollouts(now: datetime) -> list[Column]:
    def step(record: Record) -> str:
        steps = record.get("plan", {}).get("steps", [])
        return f"{min(record['step'] + 1, len(steps))}/{len(steps)}" if steps else "–"

    return [
        _name("ROLLOUT", lambda r: "/".join([r["name"].split("/")[3], short_name(r["name"])])),
        Column("STAGE", lambda r: r["stage"], lambda r: state_style(r["stage"])),
        state_column(),
        Column("STEP", step, right=True),
        _field("REASON", "state_reason", "dim", wide=True),
        _field("AUTHOR", "author", "dim", extra=True),
        _age(now),
    ]


def _pipelines(now: datetime) -> list[Column]:
    def starts(record: Record) -> str:
        return ", ".join([t["type"] for t in record["triggers"]] + ([record["schedule"]] if record["schedule"] else []))

    return [
        _id("PIPELINE"),
        _field("MODEL", "model"),
        Column("REVISION", lambda r: str(r["revision"]), right=True),
        Column("SOURCES", lambda r: ", ".join(s["type"] for s in r["data_sources"])),
        Column("STARTS BY", starts),
        _field("DESCRIPTION", "description", wide=True),
        _age(now, "update_time", "CHANGED"),
    ]


def _jobs(now: datetime) -> list[Column]:
    return [
        _id("JOB"),
        _field("PIPELINE", "pipeline"),
        state_column(),
        Column("STAGE", lambda r: f"{r['stage']} {r['progress']:.0%}" if r["state"] == "running" else r["stage"]),
        _field("TRIGGER", "trigger", "dim", extra=True),
        Column("VERSION", lambda r: f"@{r['version']}" if r["version"] else "", "cyan"),
        Column("METRICS", lambda r: _pairs(r["metrics"], 2), extra=True),
        _field("REASON", "state_reason", "dim", wide=True),
        _age(now),
    ]


def _operations(now: datetime) -> list[Column]:
    return [
        _name("OPERATION", lambda r: short_name(r["resource"])),
        _field("KIND", "kind"),
        state_column(),
        _field("STAGE", "stage"),
        Column("DONE", lambda r: f"{r['progress']:.0%}", right=True),
        _field("REASON", "state_reason", "dim", wide=True),
        _age(now),
    ]


def _features(now: datetime) -> list[Column]:
    return [
        _id("FEATURE SET"),
        Column("REVISION", lambda r: str(r["revision"]), right=True),
        Column("TRANSFORMATIONS", lambda r: ", ".join(f"{t['type']}:{t['method']}" for t in r["transformations"])),
        _field("DESCRIPTION", "description", wide=True),
        _age(now),
    ]


def _rules(now: datetime) -> list[Column]:
    def enabled(record: Record) -> str:
        return "● on" if record.get("enabled", True) else "○ off"

    return [
        _id("RULE"),
        Column("ENABLED", enabled, lambda r: "green" if r.get("enabled", True) else "dim"),
        Column("WHEN", lambda r: " or ".join(t["type"] for t in r["triggers"])),
        Column("THEN", lambda r: ", ".join(a["type"] for a in r["actions"])),
        _field("DESCRIPTION", "description", wide=True),
        _age(now, "update_time", "CHANGED"),
    ]


def _firings(now: datetime) -> list[Column]:
    def did(record: Record) -> str:
        return ", ".join(f"{a['type']} {a['state']}" for a in record["actions"])

    return [
        _id("FIRING"),
        _field("RULE", "rule"),
        _field("ENDPOINT", "endpoint"),
        state_column(),
        Column("ACTIONS", did),
        _field("REASON", "state_reason", "dim", wide=True),
        _age(now),
    ]


def _alerts(now: datetime) -> list[Column]:
    return [
        _id("ALERT"),
        Column("SEVERITY", lambda r: r["severity"], lambda r: state_style(r["severity"])),
        _field("KIND", "kind"),
        state_column(),
        _field("ENDPOINT", "endpoint"),
        _field("SUMMARY", "summary", wide=True),
        _field("TAKEN BY", "acknowledged_by", "dim"),
        _age(now, "start_time", "SINCE"),
    ]


def _retirements(now: datetime) -> list[Column]:
    return [
        _id("PLAN"),
        Column("SUBJECT", lambda r: ref(r["subject"])),
        state_column(),
        Column("ON", lambda r: r.get("retirement_time", "")[:10]),
        Column("IN", lambda r: age(r.get("retirement_time", ""), now).removeprefix("in "), "dim", right=True),
        Column("REPLACED BY", lambda r: _replacement(r.get("migration_plan", {}))),
        Column("BLOCKERS", lambda r: "; ".join(r["blockers"]), "yellow", wide=True),
    ]


def _replacement(plan: Record) -> str:
    number_text = f"@{plan['replacement_version']}" if plan.get("replacement_version") else ""
    return f"{plan.get('replacement_model', '')}{number_text}" or "nothing"


def _runs(now: datetime) -> list[Column]:
    return [
        _id("RUN"),
        _field("KIND", "kind"),
        state_column(),
        _field("EXPERIMENT", "experiment"),
        Column("SUBJECT", lambda r: ref(r["subject"]), "dim"),
        Column("METRICS", lambda r: _pairs(r["metrics"]), wide=True),
        _age(now, "start_time"),
    ]


def _members(now: datetime) -> list[Column]:
    return [
        _field("MEMBER", "instance", "bold"),
        _field("KIND", "kind"),
        state_column("LINK", "link"),
        _field("HOST", "host", "dim", extra=True),
        Column("REPLICAS", lambda r: str(len(r["replicas"])), right=True),
        Column("STARTS", lambda r: str(r["incarnation"]), right=True),
        _field("CONFIG ERROR", "config_error", "red", wide=True),
        _age(now, "seen_time", "SEEN"),
    ]


def _tokens(now: datetime) -> list[Column]:
    def state(record: Record) -> str:
        return "✗ revoked" if record.get("revoke_time") else "● valid"

    return [
        _field("TOKEN", "name", "bold"),
        _field("PRINCIPAL", "principal"),
        _field("ROLE", "role"),
        Column("STATE", state, lambda r: "red" if r.get("revoke_time") else "green"),
        Column("ENDS", lambda r: age(r.get("expire_time", ""), now) or "never", "dim"),
        _age(now),
    ]


def _metrics(_now: datetime) -> list[Column]:
    def ms(field: str) -> Column:
        header = field.removeprefix("latency_").removesuffix("_ms").upper() + " ms"
        return Column(header, lambda r: number(r.get(field), 3), right=True)

    def ratio(record: Record) -> str:
        return f"{record['error_ratio']:.2%}" if record.get("error_ratio") is not None else "–"

    def drift(record: Record) -> str:
        verdict = record.get("drift")
        if not verdict:
            return "–"
        return verdict["reason"] or f"{'drifted' if verdict['drifted'] else 'none'} {number(verdict['score'], 3)}"

    return [
        _field("DEPLOYMENT", "deployment", "bold"),
        Column("VERSION", lambda r: f"@{r['version']}"),
        Column("CALLS", lambda r: number(r["prediction_count"]), right=True),
        Column("ERRORS", ratio, lambda r: "red" if (r.get("error_ratio") or 0) > 0.01 else "", right=True),
        ms("latency_p50_ms"),
        ms("latency_p99_ms"),
        Column("LABELLED", lambda r: number(r["labelled_count"]), right=True),
        Column("QUALITY", lambda r: "  ".join(f"{k} {number(v, 3)}" for k, v in list(r["quality"].items())[:2])),
        Column("DRIFT", drift, lambda r: "red" if r.get("drift", {}).get("drifted") else "dim", wide=True),
    ]


COLUMNS: dict[str, Callable[[datetime], list[Column]]] = {
    "models": _models,
    "versions": _versions,
    "endpoints": _endpoints,
    "deployments": _deployments,
    "replicas": _replicas,
    "rollouts": _rollouts,
    "pipelines": _pipelines,
    "jobs": _jobs,
    "operations": _operations,
    "features": _features,
    "rules": _rules,
    "firings": _firings,
    "alerts": _alerts,
    "retirements": _retirements,
    "runs": _runs,
    "members": _members,
    "tokens": _tokens,
    "metrics": _metrics,
}

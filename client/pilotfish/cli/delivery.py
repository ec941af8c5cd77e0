"""`pilotfish deploy`, `promote`, `rollback`, `stop`, `scale`: versions into and out of service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.failures import DONE, REFUSED, verdict_code
from pilotfish.cli.formats import percent
from pilotfish.cli.progress import follow_deployment
from pilotfish.cli.verdicts import parse_criteria, show_checks, show_decision
from pilotfish.errors import InvalidArgument, Violation

__all__ = ["install"]

PANEL = "Deliver"
DEPLOYMENT_HELP = "ENDPOINT/STAGE, such as fraud/staging, or a full name."


def install(app: typer.Typer) -> None:
    """Add the commands."""
    for command in (deploy, promote, rollback, stop, scale):
        app.command(rich_help_panel=PANEL)(command)


def parse_steps(text: str) -> list[dict[str, Any]]:
    """Return the steps of a canary: "5,25:600,50" is 5 %, 25 % for at least 600 s, 50 %.

    Raises:
        InvalidArgument: a step has another form.
    """
    steps: list[dict[str, Any]] = []
    for item in filter(None, (part.strip() for part in text.split(","))):
        share, _, least = item.partition(":")
        try:
            weight, seconds = round(float(share.rstrip("% ")) * 100), float(least.rstrip("s ") or 0)
        except ValueError:
            weight, seconds = 0, 0.0
        if not 0 < weight <= 10_000 or seconds < 0:
            raise InvalidArgument(
                f"{item!r} is no step",
                violations=[Violation("steps", "write PERCENT[:SECONDS],…, such as 5,25:600,50")],
            )
        steps.append({"weight_bp": weight} | ({"min_duration_s": seconds} if seconds else {}))
    return steps


def rollout_plan(steps: str, criteria: list[str], max_wait: float, auto_promote: bool) -> dict[str, Any] | None:
    """Return the plan that the options describe; None: the default one."""
    plan: dict[str, Any] = {}
    if steps:
        plan |= {"strategy": "canary", "steps": parse_steps(steps)}
    if criteria:
        plan["criteria"] = parse_criteria(criteria)
    if max_wait:
        plan["max_wait_s"] = max_wait
    if auto_promote:
        plan["auto_promote"] = True
    return plan or None


def _config(path: Path | None, replicas: int | None, cpu: float, memory: int) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    if path is not None:
        from pilotfish.cli.documents import read_documents

        config = read_documents(path)[0]
    if replicas is not None:
        config["scaling"] = {**config.get("scaling", {}), "replicas": replicas}
    sizes = {"cpu_cores": cpu, "memory_mib": memory}
    if cpu or memory:
        config["resources"] = {**config.get("resources", {}), **{k: v for k, v in sizes.items() if v}}
    return config or None


Criteria = Annotated[
    list[str] | None,
    typer.Option("--criterion", "-c", help="METRIC<=BOUND[:MIN_SAMPLE], such as 'error_ratio<=0.01:100'; repeatable."),
]
Steps = Annotated[str, typer.Option(help="Canary steps PERCENT[:SECONDS],…, such as 5,25:600,50.")]
MaxWait = Annotated[float, typer.Option(help="Seconds a step may wait for evidence.", show_default=False)]
Timeout = Annotated[float, typer.Option(help="Seconds to wait until it serves.")]


def deploy(
    ctx: typer.Context,
    ref: Annotated[str, typer.Argument(help="Version: fraud@3, fraud@champion, or fraud for the latest.")],
    stage: Annotated[
        str, typer.Option(help="development, staging, canary, or production while there is none.")
    ] = "staging",
    endpoint: Annotated[str, typer.Option(help="Endpoint; unset: the model's name. Created when it is new.")] = "",
    replicas: Annotated[int | None, typer.Option(help="Copies to run.")] = None,
    cpu: Annotated[float, typer.Option(help="CPU cores per replica.", show_default=False)] = 0.0,
    memory: Annotated[int, typer.Option(help="MiB of memory per replica.", show_default=False)] = 0,
    config: Annotated[Path | None, typer.Option(help="YAML or JSON file with the whole configuration.")] = None,
    steps: Steps = "",
    criterion: Criteria = None,
    max_wait: MaxWait = 0.0,
    auto_promote: Annotated[bool, typer.Option(help="Promote the canary after its last step.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check only.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it serves.")] = True,
    timeout: Timeout = 120.0,
) -> None:
    """Deploy a version to a stage, and show its way to READY."""
    cli = Cli.of(ctx)
    plan = rollout_plan(steps, criterion or [], max_wait, auto_promote)
    settings = _config(config, replicas, cpu, memory)
    with cli.client() as client:
        if dry_run:
            _check(cli, client, ref, stage=stage, endpoint=endpoint, config=settings, plan=plan)
            return
        made = client.deployments.deploy(
            ref, stage=stage, endpoint=endpoint, config=settings, plan=plan, wait=False, timeout_s=timeout
        )
        first = plain(made)
        place = f"{first['endpoint']}/{first['stage']}"
        seconds = None
        if wait:
            first, seconds = follow_deployment(cli.out, client, first, timeout)
    version = f"{first['model']}@{first['version']}"
    took = f"  [dim]after {seconds:.1f} s[/]" if seconds is not None else ""
    words = f"serves at [bold]{place}[/]" if wait else f"is being deployed to [bold]{place}[/]"
    cli.out.one(first, lambda: cli.out.done(f"[bold]{version}[/] {words}{took}"), str(first["name"]))
    _after_deploy(cli, first)


def _after_deploy(cli: Cli, record: dict[str, Any]) -> None:
    endpoint, stage = record["endpoint"], record["stage"]
    if stage in ("development", "staging"):
        cli.out.hint(f"pilotfish predict {endpoint} --stage {stage} --file rows.csv")
        cli.out.hint(f"pilotfish promote {endpoint}/{stage} --dry-run")
    elif record.get("rollout"):
        cli.out.hint(f"pilotfish rollout status {endpoint} --watch")


# Any: the client, which is imported late; plain values.
def _check(cli: Cli, client: Any, ref: str, **asked: Any) -> None:
    checks = [plain(c) for c in client.deployments.check(ref, **asked)]
    fits = all(c["passed"] for c in checks)

    def show() -> None:
        show_checks(cli.out, checks)
        if fits:
            cli.out.done(f"{ref} can be deployed to {asked['stage']}; nothing was changed")
        else:
            cli.out.line(f"[red]✗[/] {ref} cannot be deployed to {asked['stage']}")

    cli.out.one({"deployable": fits, "checks": checks}, show, ref)
    raise typer.Exit(DONE if fits else REFUSED)


def promote(
    ctx: typer.Context,
    deployment: Annotated[str, typer.Argument(help=DEPLOYMENT_HELP)],
    to: Annotated[str, typer.Option(help="Stage; unset: the next one.")] = "",
    criterion: Criteria = None,
    steps: Steps = "",
    max_wait: MaxWait = 0.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge only.")] = False,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it serves.")] = True,
    timeout: Timeout = 120.0,
) -> None:
    """Promote a deployment to the next stage if its criteria hold.

    Exit code 3: they failed; 4: there is too little evidence.
    """
    cli = Cli.of(ctx)
    criteria = parse_criteria(criterion or [])
    plan = rollout_plan(steps, criterion or [], max_wait, False) if steps or max_wait else None
    with cli.client() as client:
        answer = client.deployments.promote(
            deployment, target_stage=to, criteria=criteria, plan=plan, validate_only=dry_run
        )
        record = plain(answer)
        if cli.out.for_people:
            show_decision(cli.out, record.get("decision", {}))
            cli.out.line()
        if answer.promoted and wait and not dry_run:
            record["deployment"], _ = follow_deployment(cli.out, client, record["deployment"], timeout)
    verdict = record.get("decision", {}).get("verdict", "")
    cli.out.one(record, lambda: _say_promoted(cli, deployment, record, dry_run), deployment)
    if not record["promoted"]:
        raise typer.Exit(verdict_code(verdict) if not (dry_run and verdict == "pass") else DONE)


def _say_promoted(cli: Cli, deployment: str, record: dict[str, Any], dry_run: bool) -> None:
    verdict = record.get("decision", {}).get("verdict", "")
    if dry_run:
        holds = {"pass": "would be promoted", "fail": "would be refused"}.get(
            verdict, "would have to wait for evidence"
        )
        cli.out.line(f"{deployment} {holds}; nothing was changed")
    elif record["promoted"]:
        made = record["deployment"]
        share = f", {percent(made['traffic_bp'])} of the traffic" if made["traffic_bp"] else ""
        cli.out.done(
            f"[bold]{made['model']}@{made['version']}[/] is in [bold]{made['endpoint']}/{made['stage']}[/]{share}"
        )
        if record.get("rollout"):
            cli.out.hint(f"pilotfish rollout status {made['endpoint']} --watch")
    elif verdict == "fail":
        cli.out.line(f"[red]✗[/] {deployment} was not promoted: its criteria do not hold")
    else:
        cli.out.line(f"[yellow]▲[/] {deployment} was not promoted: there is too little evidence")
        cli.out.hint(
            f"send it trial traffic: pilotfish predict {deployment.replace('/', ' --stage ', 1)} --file rows.csv"
        )


def rollback(
    ctx: typer.Context,
    deployment: Annotated[str, typer.Argument(help=DEPLOYMENT_HELP)],
    reason: Annotated[str, typer.Option(help="Why; kept with the record.")],
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the previous version serves.")] = True,
    timeout: Timeout = 120.0,
) -> None:
    """Bring back the previous version of a stage, and stop the current one.

    The one that is stopped is quarantined: automation does not deploy it here again.
    """
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.deployments.rollback(deployment, reason))
        restored = record.get("restored")
        if restored and wait:
            record["restored"], _ = follow_deployment(cli.out, client, restored, timeout)
    stopped = record.get("stopped", {})
    gone = f"{stopped.get('model')}@{stopped.get('version')}"
    back = record.get("restored", {})
    words = f"[bold]{back['model']}@{back['version']}[/] is back at [bold]{deployment}[/], " if back else ""
    cli.out.one(record, lambda: cli.out.done(f"{words}{gone} is stopped and quarantined"), deployment)


def stop(
    ctx: typer.Context,
    deployment: Annotated[str, typer.Argument(help=DEPLOYMENT_HELP)],
    reason: Annotated[str, typer.Option(help="Why; kept with the record.")] = "",
    force: Annotated[bool, typer.Option("--force", help="Even if it has live traffic.")] = False,
) -> None:
    """Drain a deployment and stop it."""
    cli = Cli.of(ctx)
    with cli.client() as client:
        record = plain(client.deployments.stop(deployment, reason=reason, force=force))
    version = f"{record['model']}@{record['version']}"
    cli.out.one(record, lambda: cli.out.done(f"{version} at {deployment} is {record['state']}"), str(record["name"]))


def scale(
    ctx: typer.Context,
    deployment: Annotated[str, typer.Argument(help=DEPLOYMENT_HELP)],
    replicas: Annotated[int | None, typer.Option(help="Copies to run.")] = None,
    cpu: Annotated[float, typer.Option(help="CPU cores per replica.", show_default=False)] = 0.0,
    memory: Annotated[int, typer.Option(help="MiB of memory per replica.", show_default=False)] = 0,
) -> None:
    """Change how many replicas a deployment has, and what each may use."""
    cli = Cli.of(ctx)
    sizes = {k: v for k, v in (("cpu_cores", cpu), ("memory_mib", memory)) if v}
    if replicas is None and not sizes:
        raise typer.BadParameter("give --replicas, --cpu or --memory")
    with cli.client() as client:
        resources: dict[str, float] = {}
        if sizes:
            # Both fields travel together: the one that is not given stays as it is.
            now = plain(client.deployments.get(deployment))["config"]["resources"]
            resources = {**now, **sizes}
        record = plain(client.deployments.scale(deployment, replicas, resources=resources or None))
    config = json.loads(json.dumps(record["config"]))
    count = config.get("scaling", {}).get("replicas", 1)
    used = config.get("resources", {})
    text = f"{deployment}: {count} × {used.get('cpu_cores', 1):g} cores, {used.get('memory_mib', 1024)} MiB"
    cli.out.one(record, lambda: cli.out.done(f"{text}  [dim]revision {record['revision']}[/]"), str(record["name"]))

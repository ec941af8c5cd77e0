"""What is said when something went wrong, and the exit code it ends with.

Owns the table of exit codes and the next steps offered. It never shows a traceback for an error of pilotfish.
"""

from __future__ import annotations

import re

from pilotfish.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    PilotfishError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)

__all__ = ["DONE", "ERROR", "FAILED", "INCONCLUSIVE", "REFUSED", "USAGE", "exit_code", "next_steps", "verdict_code"]

DONE, ERROR, USAGE, FAILED, INCONCLUSIVE, REFUSED = range(6)

CODES: dict[type[PilotfishError], int] = {
    FailedPrecondition: REFUSED,
    PermissionDenied: REFUSED,
    InvalidArgument: USAGE,
}

# What helps when the state forbids a command.
AFTER_REFUSAL = {
    "register": "mend the artifact and repeat; --dry-run validates and registers nothing",
    "deploy": "pilotfish deploy … --dry-run     shows every check",
    "promote": "pilotfish get deployments",
    "rollback": "pilotfish get deployments --all",
    "stop": "take its traffic away first: pilotfish traffic …, or --force",
    "train": "pilotfish get jobs",
    "job retry": "pilotfish get jobs",
    "job cancel": "pilotfish get jobs",
    "apply": "pilotfish describe KIND NAME",
    "retire": "pilotfish get retirements",
}

# How messages call a resource → how `pilotfish get` lists it.
KINDS = {
    "model": "models",
    "version": "versions",
    "endpoint": "endpoints",
    "deployment": "deployments",
    "pipeline": "pipelines",
    "job": "jobs",
    "feature set": "features",
    "rule": "rules",
    "alert": "alerts",
    "rollout": "rollouts",
    "run": "runs",
    "retirement plan": "retirements",
    "token": "tokens",
}


def exit_code(error: PilotfishError) -> int:
    """Return the exit code of an error: 2 wrongly asked, 5 refused, else 1."""
    return next((code for cls, code in CODES.items() if isinstance(error, cls)), ERROR)


def verdict_code(verdict: str) -> int:
    """Return the exit code of a verdict: 0 pass, 3 fail, 4 inconclusive."""
    return {"pass": DONE, "fail": FAILED}.get(verdict, INCONCLUSIVE)


def next_steps(error: PilotfishError, command: str, address: str = "") -> list[str]:
    """Return what the user can do next, each a command or a sentence.

    Args:
        error: what went wrong.
        command: the command that was run, such as "deploy".
        address: where the control plane was looked for.
    """
    if isinstance(error, Unavailable):
        steps = [
            "pilotfish up                 start it on this machine",
            "pilotfish doctor             find what is wrong",
        ]
        return steps + ([f"pilotfish --address …        look elsewhere than at {address}"] if address else [])
    if isinstance(error, Unauthenticated):
        return [
            "pilotfish up                 writes a token into its home",
            "pilotfish --token …          or set PILOTFISH_TOKEN",
        ]
    if isinstance(error, PermissionDenied):
        return ["ask an administrator for a token with a higher role: pilotfish token create NAME --role …"]
    if isinstance(error, NotFound):
        return [f"pilotfish get {_kind(error, command)}"]
    if isinstance(error, AlreadyExists):
        return ["choose another name"]
    if isinstance(error, Aborted):
        return ["somebody changed it meanwhile: look at it again and repeat"]
    if isinstance(error, ResourceExhausted):
        wait = f" in {error.retry_after_s:g} s" if error.retry_after_s else ""
        return [f"free some room and repeat{wait}", "pilotfish doctor"]
    if isinstance(error, DeadlineExceeded):
        return ["it may still go on: pilotfish status"]
    if isinstance(error, Unimplemented):
        return ["the control plane is older than this command line: upgrade it, or use its own `pilotfish`"]
    if isinstance(error, Internal):
        return [f"the control plane's log has it under request id {error.request_id or '(none)'}"]
    if isinstance(error, InvalidArgument) and command:
        return [f"pilotfish {command} --help"]
    if isinstance(error, FailedPrecondition):
        return [AFTER_REFUSAL.get(command, "pilotfish status")]
    return []


def _kind(error: NotFound, command: str) -> str:
    """Return the kind of resource that was looked for, as `pilotfish get` names it."""
    said = re.search(rf"(?:there is no|has no|has had no) ({'|'.join(KINDS)})\b", error.message)
    if said is not None:
        return KINDS[said.group(1)]
    usual = {"deploy": "versions", "train": "pipelines", "job": "jobs", "promote": "deployments", "alert": "alerts"}
    return usual.get(command.split(" ")[0], "endpoints")

"""Who gets which share of the live traffic.

Owns the arithmetic of weights, in basis points that sum to exactly 10000 or to nothing, and the checks on what a
caller asks for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from pilotfish.errors import Violation
from pilotfish_control_plane.deployments.model import FULL_WEIGHT_BP, Deployment, RouteTable, Shadow

__all__ = ["Weights", "changed_weights", "shadow_problems", "share", "sticky_problems", "weight_problems", "without"]

Weights = tuple[tuple[str, int], ...]

_HEADER = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,128}")
_RESERVED = re.compile(r"(pilotfish-|grpc-|content-).*|te|host|connection|transfer-encoding|upgrade|keep-alive")


def share(subject: str, weight_bp: int, other: str | None) -> Weights:
    """Return `weight_bp` for `subject` and the rest for `other`; without another `subject` has all of it."""
    if other is None or other == subject or weight_bp >= FULL_WEIGHT_BP:
        return ((subject, FULL_WEIGHT_BP),)
    if weight_bp <= 0:
        return ((other, FULL_WEIGHT_BP),)
    return ((other, FULL_WEIGHT_BP - weight_bp), (subject, weight_bp))


def without(weights: Weights, gone: str, heir: str | None) -> Weights:
    """Return the weights after `gone` has left.

    Args:
        weights: the weights before.
        gone: the deployment that leaves.
        heir: who gets its share; None: the others in proportion, and nobody when there is none.
    """
    left = {d: w for d, w in weights if d != gone and w > 0}
    freed = sum(w for _, w in weights) - sum(left.values())
    if heir is not None and heir != gone:
        left[heir] = left.get(heir, 0) + (freed if weights else FULL_WEIGHT_BP)
    return _scaled(left)


def _scaled(weights: Mapping[str, int]) -> Weights:
    """Return the weights in proportion with sum 10000, by largest remainder; nothing stays nothing."""
    total = sum(weights.values())
    if not total:
        return ()
    exact = {d: w * FULL_WEIGHT_BP / total for d, w in weights.items()}
    floors = {d: int(e) for d, e in exact.items()}
    rest = FULL_WEIGHT_BP - sum(floors.values())
    for deployment in sorted(exact, key=lambda d: (floors[d] - exact[d], d))[:rest]:
        floors[deployment] += 1
    return tuple(sorted((d, w) for d, w in floors.items() if w))


def weight_problems(weights: Sequence[tuple[str, int]], targets: Mapping[str, Deployment]) -> list[Violation]:
    """Return what is wrong with weights that a caller asks for.

    Args:
        weights: what was written (an id or a stage) and its basis points.
        targets: what was written -> the deployment it means, where there is one.
    """
    found, seen = [], dict[str, str]()
    for i, (written, weight_bp) in enumerate(weights):
        field = f"weights[{i}]"
        if not 0 <= weight_bp <= FULL_WEIGHT_BP:
            found.append(Violation(f"{field}.weight_bp", f"{weight_bp} is not in 0..{FULL_WEIGHT_BP}", "OUT_OF_RANGE"))
        target = targets.get(written)
        if target is None:
            found.append(Violation(f"{field}.deployment", f"the endpoint has no deployment {written!r}", "UNKNOWN"))
            continue
        if target.id in seen:
            text = f"{written!r} and {seen[target.id]!r} are the same deployment"
            found.append(Violation(f"{field}.deployment", text, "REPEATED"))
        seen[target.id] = written
        if not target.stage.is_live:
            text = f"{target.id} is in stage {target.stage.value}: only canary and production take live traffic"
            found.append(Violation(f"{field}.deployment", text, "NOT_LIVE_STAGE"))
        elif not target.state.serves:
            text = f"{target.id} is {target.state.value.upper()}, not READY or DEGRADED"
            found.append(Violation(f"{field}.deployment", text, "NOT_SERVING"))
    total = sum(w for _, w in weights)
    if total != FULL_WEIGHT_BP:
        found.append(Violation("weights", f"the weights sum to {total}, not {FULL_WEIGHT_BP}", "SUM"))
    return found


def shadow_problems(shadows: Sequence[Shadow], targets: Mapping[str, Deployment]) -> list[Violation]:
    """Return what is wrong with shadows that a caller asks for; any serving deployment may be one."""
    found, seen = [], set[str]()
    for i, shadow in enumerate(shadows):
        field = f"shadows[{i}]"
        if not 1 <= shadow.fraction_bp <= FULL_WEIGHT_BP:
            text = f"{shadow.fraction_bp} is not in 1..{FULL_WEIGHT_BP}"
            found.append(Violation(f"{field}.fraction_bp", text, "OUT_OF_RANGE"))
        target = targets.get(shadow.deployment)
        if target is None:
            text = f"the endpoint has no deployment {shadow.deployment!r}"
            found.append(Violation(f"{field}.deployment", text, "UNKNOWN"))
        elif target.id in seen:
            found.append(Violation(f"{field}.deployment", f"{shadow.deployment!r} is named twice", "REPEATED"))
        elif not target.state.serves:
            text = f"{target.id} is {target.state.value.upper()}, not READY or DEGRADED"
            found.append(Violation(f"{field}.deployment", text, "NOT_SERVING"))
        if target is not None:
            seen.add(target.id)
    return found


def sticky_problems(header: str) -> list[Violation]:
    """Return what is wrong with a sticky header; empty is none."""
    if not header:
        return []
    if _HEADER.fullmatch(header) is None:
        return [Violation("sticky_header", f"{header[:80]!r} is no lower-case header name", "NOT_A_HEADER")]
    if _RESERVED.fullmatch(header):
        return [Violation("sticky_header", f"{header!r} has a meaning of its own: use another one", "RESERVED")]
    return []


def changed_weights(table: RouteTable, weights: Weights) -> bool:
    """Return whether `weights` differ from the table's; a weight of 0 is none."""
    return {d: w for d, w in table.weights if w} != {d: w for d, w in weights if w}

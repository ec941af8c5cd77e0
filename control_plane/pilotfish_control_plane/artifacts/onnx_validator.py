"""Validation of ONNX artifacts: files, graph, runtime, signature, example, profile.

Owns the checks of framework `onnx`. It runs in the confined process only. Every check goes on after the failure of
another one, unless it needs what that one would have given.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any  # onnx and onnxruntime carry no types

from pilotfish.errors import InvalidArgument
from pilotfish_control_plane.artifacts import example as examples
from pilotfish_control_plane.artifacts.findings import Findings
from pilotfish_control_plane.artifacts.onnx_graph import (
    MAX_MODEL_BYTES,
    external_data,
    graph_signature,
    negative_sizes,
)
from pilotfish_control_plane.artifacts.signatures import (
    Signature,
    as_mapping,
    disagreements,
    read_signature,
    refine,
)
from pilotfish_control_plane.registry.rules import check_dependencies

__all__ = ["FILES", "validate_onnx"]

MODEL = "model.onnx"
FILES: Mapping[str, int] = {
    MODEL: MAX_MODEL_BYTES,
    "signature.json": 8 * 1024**2,
    "example.json": 64 * 1024**2,
    "profile.json": 64 * 1024**2,
    "feature_set.json": 16 * 1024**2,
    "requirements.json": 1024**2,
    "model_card.json": 16 * 1024**2,
    # Hashes of the rows it was trained on, so that nobody is judged on rows that a rival has seen.
    "training_rows.bin": 256 * 1024**2,
}
"""The files of an ONNX artifact and their largest sizes in bytes; only model.onnx is required, no other is accepted."""


def validate_onnx(directory: Path, requested: Mapping[str, Any], findings: Findings) -> Mapping[str, Any]:
    """Check `directory`; return what was learned: signature, example_ok, dependencies, profile_json."""
    present = _check_sizes(directory, findings)
    model = _read_model(directory, present, findings)
    real = _graph(model, findings) if model is not None else None
    session = _load(directory, model, findings) if model is not None and not findings.problems else None
    signature = _signature(directory, present, requested, real, findings)
    example_ok = _example(directory, present, session, signature if real is not None else None, findings)
    if session is not None and example_ok is None:
        _try(signature, session, findings)
    _extras(directory, present, findings)
    return {
        "signature": as_mapping(signature),
        "example_ok": example_ok,
        "dependencies": _dependencies(directory, present, findings),
        "profile_json": _profile(directory, present, signature, findings),
    }


def _check_sizes(directory: Path, findings: Findings) -> set[str]:
    present = set()
    for name, most in FILES.items():
        try:
            facts = os.lstat(directory / name)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(facts.st_mode):
            continue  # told already, and reading a pipe would never end
        if facts.st_size > most:
            findings.problem(name, f"has {facts.st_size} bytes, at most {most} are allowed", "FILE_TOO_LARGE")
        else:
            present.add(name)
    return present


def _read_model(directory: Path, present: set[str], findings: Findings) -> Any:
    if MODEL not in present:
        if not os.path.lexists(directory / MODEL):
            findings.problem(MODEL, "is missing: an onnx artifact needs it", "MODEL_MISSING")
        return None
    findings.stage("reading model.onnx")
    import onnx

    model = onnx.ModelProto()
    try:
        model.ParseFromString((directory / MODEL).read_bytes())
    except Exception as error:  # protobuf's C++ and Python parsers raise different classes
        findings.problem(MODEL, f"is not an ONNX model: {_text(error)}", "NOT_ONNX")
        return None
    if not model.HasField("graph"):
        findings.problem(MODEL, "is not an ONNX model: it has no graph", "NOT_ONNX")
        return None
    return model


def _graph(model: Any, findings: Findings) -> Signature:
    findings.stage("checking the graph")
    outside = external_data(model)
    for place in outside[:20]:
        text = f"{place} lies outside the file: save the model with its weights inside"
        findings.problem(MODEL, text, "EXTERNAL_DATA")
    for text in negative_sizes(model)[:20]:
        findings.problem(MODEL, text, "BAD_SHAPE")
    if not findings.problems:
        _run_checker(model, findings)
    real, unservable = graph_signature(model)
    for text in unservable:
        findings.problem(MODEL, text, "UNSERVABLE_TENSOR")
    return real


def _run_checker(model: Any, findings: Findings) -> None:
    import onnx.checker

    try:
        onnx.checker.check_model(model)
    except Exception as error:  # onnx raises several classes, some of C++
        findings.problem(MODEL, f"the ONNX checker refuses it: {_text(error)}", "CHECKER")
        return
    operators = sum(len(g.node) for g in [model.graph])
    findings.check(f"model.onnx: {operators} operators, accepted by the ONNX checker, all data inside the file")


def _load(directory: Path, model: Any, findings: Findings) -> Any:
    findings.stage("loading the model")
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(
            (directory / MODEL).read_bytes(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's errors share no public base
        findings.problem(MODEL, f"onnxruntime cannot load it: {_text(error)}", "DOES_NOT_LOAD")
        return None
    findings.check(f"model.onnx: loads in onnxruntime {onnxruntime.__version__}")
    return session


def _signature(
    directory: Path, present: set[str], requested: Mapping[str, Any], real: Signature | None, findings: Findings
) -> Signature:
    findings.stage("comparing the signature")
    said = []
    for name, document in (("signature.json", None), ("the request's signature", requested or None)):
        if name in present:
            document = _json(directory / name, findings)
        if document is None:
            continue
        read, wrong = read_signature(document)
        path = name if name in present else ""
        for text in wrong[:20]:
            findings.problem(path, f"{text}" if path else f"{name}: {text}", "BAD_SIGNATURE")
        for text in disagreements(read, real)[:20] if real is not None and not wrong else ():
            findings.problem(path, text if path else f"{name}: {text}", "SIGNATURE_MISMATCH")
        if not wrong:
            said.append(read)
            findings.check(f"{name}: compared with the graph")
    if real is None:
        return said[0] if said else Signature()
    signature, differ = refine(real, *said)
    for text in differ[:20]:
        findings.problem("", text, "SIGNATURE_MISMATCH")
    inputs = ", ".join(f"{t.name} {t}" for t in signature.inputs)
    findings.check(f"signature: {inputs} → {', '.join(f'{t.name} {t}' for t in signature.outputs)}")
    return signature


def _run(session: Any, inputs: Mapping[str, Any]) -> dict[str, Any]:
    names = [o.name for o in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))


def _example(
    directory: Path, present: set[str], session: Any, signature: Signature | None, findings: Findings
) -> bool | None:
    if "example.json" not in present:
        return None
    document = _json(directory / "example.json", findings)
    if signature is None or document is None:
        return False
    findings.stage("reading the example")
    example, wrong = examples.read_example(document, signature)
    for text in wrong[:20]:
        findings.problem("example.json", text, "BAD_EXAMPLE")
    if example is None or session is None:
        return False
    findings.stage("answering the example")
    try:
        answered = _run(session, example.inputs)
    except Exception as error:  # onnxruntime's errors share no public base
        findings.problem("example.json", f"the model cannot answer it: {_text(error)}", "EXAMPLE_FAILED")
        return False
    differ = examples.compare(example, answered)
    for text in differ[:20]:
        findings.problem("example.json", text, "EXAMPLE_NOT_REPRODUCED")
    if not differ:
        how = "reproduced" if example.outputs else "answered (it says nothing about outputs)"
        findings.check(f"example.json: {how}")
    return not differ


def _try(signature: Signature, session: Any, findings: Findings) -> None:
    """Feed zeros, which nobody asked for: what comes of it is told, and decides nothing but that it fits in memory."""
    findings.stage("trying the model")
    fed = examples.zeros(signature.inputs)
    if fed is None:
        findings.check("zeros: not tried, the inputs are too large")
        return
    try:
        _run(session, fed)
        findings.check("zeros: answered")
    except MemoryError:
        raise
    except Exception as error:
        if any(word in str(error) for word in ("allocate memory", "bad_alloc")):
            text = f"one row needs more memory than a validation may use: {_text(error)}"
            findings.problem(MODEL, text, "MEMORY_LIMIT")
            return
        # Zeros need not be a valid input: an index out of range is no fault of the model.
        findings.check(f"warning: zeros as inputs gave an error, not held against the model: {_text(error)}")


def _profile(directory: Path, present: set[str], signature: Signature, findings: Findings) -> str:
    if "profile.json" not in present:
        findings.check("no profile.json: the reference will be learned from the first rows served")
        return ""
    findings.stage("reading the profile")
    from pilotfish.stats.profile import FeatureGroup, Profile

    try:
        profile = Profile.from_json((directory / "profile.json").read_bytes().decode())
    except InvalidArgument as error:
        for violation in error.violations[:20] or ():
            findings.problem("profile.json", f"{violation.field}: {violation.description}", "BAD_PROFILE")
        if not error.violations:
            findings.problem("profile.json", error.message, "BAD_PROFILE")
        return ""
    except UnicodeDecodeError as error:
        findings.problem("profile.json", f"is not UTF-8: {error}", "BAD_PROFILE")
        return ""
    known = set(signature.feature_names) | {t.name for t in signature.inputs}
    strangers = [f.name for f in profile.features if f.group is FeatureGroup.INPUT and f.name not in known]
    if strangers and signature.inputs:
        shown = ", ".join(strangers[:5])
        findings.check(f"warning: profile.json has {len(strangers)} features that the signature does not name: {shown}")
    findings.check(f"profile.json: {len(profile.features)} features of {profile.rows} rows, id {profile.id}")
    return profile.to_json()


def _dependencies(directory: Path, present: set[str], findings: Findings) -> dict[str, str]:
    if "requirements.json" not in present:
        return {}
    document = _json(directory / "requirements.json", findings)
    if not isinstance(document, dict) or not all(isinstance(v, str) for v in document.values()):
        if document is not None:
            findings.problem("requirements.json", "must be an object, package → version", "BAD_REQUIREMENTS")
        return {}
    wrong = check_dependencies(document, "requirements")
    for violation in wrong[:20]:
        findings.problem("requirements.json", f"{violation.field}: {violation.description}", "BAD_REQUIREMENTS")
    return {} if wrong else document


def _extras(directory: Path, present: set[str], findings: Findings) -> None:
    """Check the form of what the trainer adds for people and for later trainings; nothing of it is loaded to serve."""
    for name in ("feature_set.json", "model_card.json"):
        if name in present:
            document = _json(directory / name, findings)
            if document is not None and not isinstance(document, dict):
                findings.problem(name, "must be a JSON object", "NOT_AN_OBJECT")
    if "training_rows.bin" in present and (directory / "training_rows.bin").stat().st_size % 8:
        findings.problem("training_rows.bin", "must be hashes of 8 bytes each", "BAD_HASHES")


def _json(path: Path, findings: Findings) -> Any:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a JSON number")

    findings.stage(f"reading {path.name}")
    try:
        return json.loads(path.read_bytes(), parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        findings.problem(path.name, f"is not JSON: {_text(error)}", "NOT_JSON")
        return None


def _text(error: BaseException) -> str:
    return " ".join(str(error).split())[:400] or type(error).__name__

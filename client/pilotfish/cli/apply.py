"""`pilotfish apply`: what a file defines is created, changed, or found to be so already."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pilotfish.cli.context import Cli, plain
from pilotfish.cli.documents import read_documents
from pilotfish.errors import FailedPrecondition, InvalidArgument, NotFound, PilotfishError, Violation

if TYPE_CHECKING:
    from pilotfish import Client

__all__ = ["differences", "install"]

# What the server gives; a definition that was read back may carry it.
GIVEN = ("kind", "name", "revision", "create_time", "update_time", "author", "etag", "latest_version")
STYLES = {"created": "green", "changed": "yellow", "unchanged": "dim"}
SIGNS = {"created": "+", "changed": "~", "unchanged": "="}

# Any: plain values of any depth, here and below.
Spec = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Definition:
    """One document: kind, id, and the fields it names."""

    kind: str
    name: str
    spec: Spec


@dataclass(frozen=True, slots=True)
class Handler:
    """How a kind is read, made and changed; `change` gets the fields that differ."""

    message: str
    read: Callable[[Client, str], Any]
    create: Callable[[Client, str, Spec], object]
    change: Callable[[Client, str, Spec, Spec], object]
    fixed: tuple[str, ...] = ()


def _create_endpoint(client: Client, name: str, spec: Spec) -> None:
    client.endpoints.create(name, str(spec.get("model", "")))
    if spec.get("routes"):
        _set_routes(client, name, {}, spec)


def _set_routes(client: Client, name: str, _changed: Spec, spec: Spec) -> None:
    routes = spec["routes"]
    client.endpoints.set_traffic(
        name,
        {w["deployment"]: w["weight_bp"] for w in routes.get("weights", [])},
        shadows={s["deployment"]: s["fraction_bp"] for s in routes.get("shadows", [])},
        sticky_header=routes.get("sticky_header", ""),
    )


def _create_model(client: Client, name: str, spec: Spec) -> None:
    client.models.create(name, description=spec.get("description", ""), tags=spec.get("tags"))
    _set_aliases(client, name, spec)


def _change_model(client: Client, name: str, changed: Spec, _spec: Spec) -> None:
    if "description" in changed or "tags" in changed:
        client.models.update(name, description=changed.get("description"), tags=changed.get("tags"))
    _set_aliases(client, name, changed)


def _set_aliases(client: Client, name: str, spec: Spec) -> None:
    for alias, version in (spec.get("aliases") or {}).items():
        client.models.set_alias(name, alias, version)


def _put_features(client: Client, name: str, spec: Spec) -> object:
    return client.features.put(name, spec.get("transformations", []), description=spec.get("description", ""))


HANDLERS: dict[str, Handler] = {
    "Model": Handler("registry_pb2.Model", lambda c, n: c.models.get(n), _create_model, _change_model),
    "FeatureSet": Handler(
        "feature_service_pb2.FeatureSet",
        lambda c, n: c.features.get(n),
        _put_features,
        lambda c, n, _changed, spec: _put_features(c, n, spec),
    ),
    "Pipeline": Handler(
        "training_pb2.Pipeline",
        lambda c, n: c.pipelines.get(n),
        lambda c, n, s: c.pipelines.create(n, s),
        lambda c, n, changed, _: c.pipelines.update(n, changed),
        fixed=("model",),
    ),
    "Endpoint": Handler(
        "deployment_pb2.Endpoint", lambda c, n: c.endpoints.get(n), _create_endpoint, _set_routes, fixed=("model",)
    ),
    "Rule": Handler(
        "lifecycle_pb2.Rule",
        lambda c, n: c.lifecycle.rule(n),
        lambda c, n, s: c.lifecycle.create_rule(n, s),
        lambda c, n, changed, _: c.lifecycle.update_rule(n, **changed),
    ),
}


def install(app: typer.Typer) -> None:
    """Add the command."""
    app.command(rich_help_panel="Register")(apply)


def apply(
    ctx: typer.Context,
    file: Annotated[
        list[Path], typer.Option("--file", "-f", help="YAML or JSON file; - is standard input; repeatable.")
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")] = False,
) -> None:
    """Create or change what files define: Model, FeatureSet, Pipeline, Endpoint, Rule.

    A document has `kind`, `name`, and the fields of the contract, side by side or below `spec`. Fields that it does
    not name stay as they are.
    """
    cli = Cli.of(ctx)
    definitions = parse_definitions([(str(path), d) for path in file for d in read_documents(path)])
    width = max(len(d.name) for d in definitions)
    done: list[Spec] = []
    with cli.client() as client:
        for definition in definitions:
            try:
                done.append(_apply(client, definition, dry_run))
            except PilotfishError as error:
                _show(cli, done, dry_run, width)
                error.message = f"{definition.kind} {definition.name}: {error.message}"
                raise
            if cli.out.for_people:
                _show(cli, done, dry_run, width)
                done.clear()
    cli.out.one(done, lambda: None, "\n".join(f"{d['kind']}/{d['name']}" for d in done))


def _show(cli: Cli, done: list[Spec], dry_run: bool, width: int) -> None:
    for one in done:
        style = STYLES[one["outcome"]]
        would = "would be " if dry_run and one["outcome"] != "unchanged" else ""
        fields = f"  [dim]{', '.join(one['fields'])}[/]" if one["fields"] else ""
        head = f"[{style}]{SIGNS[one['outcome']]}[/] {one['kind']:<10} [bold]{one['name']:<{width}}[/]"
        cli.out.line(f"{head}  [{style}]{would}{one['outcome']}[/]{fields}")


def parse_definitions(documents: list[tuple[str, Spec]]) -> list[Definition]:
    """Return documents as definitions, checked against the contract before anything is sent.

    Raises:
        InvalidArgument: names every bad kind, name, field and word of every document.
    """
    found, wrong = [], []
    for source, document in documents:
        kind, name = str(document.get("kind", "")), str(document.get("name", ""))
        where = f"{source}: {kind or 'a document'} {name}".strip()
        handler = HANDLERS.get(kind)
        if handler is None or not name:
            text = f"kind is one of {', '.join(HANDLERS)}, not {kind!r}" if handler is None else "has no name"
            wrong.append(Violation(where, text))
            continue
        inner = document.get("spec")
        spec = {**{k: v for k, v in document.items() if k != "spec"}, **(inner if isinstance(inner, Mapping) else {})}
        spec = {k: v for k, v in spec.items() if k not in GIVEN}
        try:
            _built(handler, spec)
        except InvalidArgument as error:
            wrong += [Violation(f"{where}: {v.field}", v.description) for v in error.violations]
        found.append(Definition(kind, name.rpartition("/")[2], spec))
    if wrong:
        raise InvalidArgument("the definitions cannot be used; nothing was changed", violations=wrong)
    return found


def _built(handler: Handler, spec: Spec) -> Spec:
    """Return a spec as the contract has it: enums as its words, times and numbers in its form."""
    import importlib

    from pilotfish import messages

    module, _, name = handler.message.partition(".")
    cls = getattr(importlib.import_module(f"pilotfish.v1.{module}"), name)
    return messages.plain(messages.build(cls, spec, name.lower()), complete=True)


def differences(wanted: Any, found: Any) -> bool:
    """Tell whether something wanted is not so; what is not named does not count, nor do defaults filled in."""
    if isinstance(wanted, Mapping):
        return not isinstance(found, Mapping) or any(differences(v, found.get(k)) for k, v in wanted.items())
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(wanted) != len(found):
            return True
        return any(differences(w, f) for w, f in zip(wanted, found, strict=True))
    if isinstance(wanted, bool) or isinstance(found, bool):
        return wanted is not found
    return bool(wanted != found)


def _named(spec: Any, built: Any) -> Any:
    """Return the built form of what a spec names, and nothing that it does not."""
    if isinstance(spec, Mapping) and isinstance(built, Mapping):
        return {k: _named(v, built[k]) for k, v in spec.items() if k in built}
    if isinstance(spec, list) and isinstance(built, list) and len(spec) == len(built):
        return [_named(s, b) for s, b in zip(spec, built, strict=True)]
    return built


def _apply(client: Client, definition: Definition, dry_run: bool) -> Spec:
    handler = HANDLERS[definition.kind]
    outcome, fields = "unchanged", []
    try:
        now = plain(handler.read(client, definition.name))
    except NotFound:
        outcome = "created"
        if not dry_run:
            handler.create(client, definition.name, definition.spec)
    else:
        wanted = _named(definition.spec, _built(handler, definition.spec))
        fields = [k for k, v in wanted.items() if differences(v, now.get(k))]
        moved = [f for f in fields if f in handler.fixed]
        if moved:
            raise FailedPrecondition(
                f"{', '.join(moved)} cannot be changed",
                violations=[Violation(f, f"is {now.get(f)!r}, and the file says {wanted[f]!r}") for f in moved],
            )
        if fields:
            outcome = "changed"
            if not dry_run:
                changed = {k: definition.spec[k] for k in fields}
                handler.change(client, definition.name, changed, definition.spec)
    return {"kind": definition.kind, "name": definition.name, "outcome": outcome, "fields": fields}

"""Reads a profile from JSON that nobody vouches for: every field checked, every violation named.

It owns the checks. It never writes: `Profile.to_json` does.
"""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Mapping
from typing import TypeVar

from pilotfish.errors import InvalidArgument, Violation
from pilotfish.stats.columns import NAME_CHARACTERS, is_column_name
from pilotfish.stats.profile import (
    FORMAT_VERSION,
    MAX_BINS,
    MAX_FEATURES,
    MAX_RARE,
    FeatureGroup,
    FeatureKind,
    FeatureProfile,
    Profile,
)

MAX_JSON_CHARACTERS = 64 * 1024 * 1024
_MAX_COUNT = 2**50
_E = TypeVar("_E", bound=enum.Enum)


def read_profile(text: str) -> Profile:
    """Return the profile of a JSON text, checked field by field.

    Raises:
        InvalidArgument: it is no JSON, or no profile; `violations` names every field that is wrong (at most 50).
    """
    return _ProfileReader().read(text)


class _ProfileReader:
    """Reads one profile from JSON and gathers every violation on the way."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

    def read(self, text: str) -> Profile:
        document = _parse_json(text)
        if not isinstance(document, dict):
            raise InvalidArgument("a profile is a JSON object", reason="BAD_PROFILE")
        version = document.get("version")
        if version != FORMAT_VERSION:
            raise InvalidArgument(
                f"profile format {version!r} is unknown; this release reads format {FORMAT_VERSION}",
                reason="UNKNOWN_PROFILE_FORMAT",
            )
        self.only(document, "", {"version", "rows", "learned", "features"})
        rows = self.whole(document, "", "rows")
        learned = document.get("learned")
        if not isinstance(learned, bool):
            self.wrong("learned", "must be true or false")
        listed = document.get("features")
        if not isinstance(listed, list) or len(listed) > MAX_FEATURES:
            self.wrong("features", f"must be a list of at most {MAX_FEATURES} features")
            listed = []
        features = [self.feature(item, f"features[{i}]", rows) for i, item in enumerate(listed)]
        seen: set[tuple[str, FeatureGroup]] = set()
        for i, feature in enumerate(f for f in features if f is not None):
            if (feature.name, feature.group) in seen:
                self.wrong(f"features[{i}].name", f"{feature.group.value} {feature.name!r} comes twice")
            seen.add((feature.name, feature.group))
        if self.violations:
            shown = self.violations[:50]
            raise InvalidArgument(
                f"this is no valid profile: {len(self.violations)} fields are wrong",
                reason="BAD_PROFILE",
                violations=shown,
            )
        return Profile(tuple(f for f in features if f is not None), rows, bool(learned))

    def feature(self, item: object, path: str, rows: int) -> FeatureProfile | None:
        if not isinstance(item, dict):
            self.wrong(path, "must be an object")
            return None
        before = len(self.violations)
        self.only(item, path, set(FeatureProfile.__dataclass_fields__))
        kind = self.choice(item, path, "kind", FeatureKind)
        group = self.choice(item, path, "group", FeatureGroup)
        feature = FeatureProfile(
            name=self.text(item, path, "name", NAME_CHARACTERS),
            group=group or FeatureGroup.INPUT,
            kind=kind or FeatureKind.NUMERIC,
            dtype=self.text(item, path, "dtype", 64),
            edges=self.numbers(item, path, "edges"),
            atoms=self.numbers(item, path, "atoms"),
            levels=self.texts(item, path, "levels", MAX_BINS),
            counts=self.wholes(item, path, "counts"),
            missing=self.whole(item, path, "missing"),
            rows=self.whole(item, path, "rows"),
            mean=self.number(item, path, "mean"),
            sd=self.number(item, path, "sd"),
            min=self.number(item, path, "min"),
            max=self.number(item, path, "max"),
            rare=self.texts(item, path, "rare", MAX_RARE),
            novel=self.whole(item, path, "novel"),
        )
        if len(self.violations) == before:
            self.consistent(feature, path, rows)
        return feature if len(self.violations) == before else None

    def consistent(self, feature: FeatureProfile, path: str, rows: int) -> None:
        """Check what the fields say about each other."""
        if not is_column_name(feature.name):
            self.wrong(f"{path}.name", "must be a printable text that is not empty")
        numeric = feature.kind is FeatureKind.NUMERIC
        cuts, label = (len(feature.edges), "edges") if numeric else (len(feature.levels), "levels")
        if len(feature.counts) != cuts + 1:
            self.wrong(f"{path}.counts", f"has {len(feature.counts)} bins, {cuts} {label} need {cuts + 1}")
        if numeric and (feature.levels or feature.rare):
            self.wrong(f"{path}.levels", "a numeric feature has no levels")
        if not numeric and (feature.edges or feature.atoms):
            self.wrong(f"{path}.edges", "a categorical feature has no edges and no atoms")
        if any(a >= b for a, b in zip(feature.edges, feature.edges[1:], strict=False)):
            self.wrong(f"{path}.edges", "must rise")
        if len(set(feature.levels + feature.rare)) < len(feature.levels) + len(feature.rare):
            self.wrong(f"{path}.levels", "a level comes twice")
        if feature.group is FeatureGroup.INPUT and feature.rows != rows:
            self.wrong(f"{path}.rows", f"is {feature.rows}, the profile has {rows} rows")
        if sum(feature.counts) + feature.missing > feature.rows:
            total = sum(feature.counts) + feature.missing
            self.wrong(f"{path}.counts", f"counts and missing add up to {total}, more than {feature.rows} rows")
        elif not feature.unlisted <= feature.novel <= feature.present:
            self.wrong(f"{path}.novel", f"is {feature.novel}, must be in {feature.unlisted}..{feature.present}")
        if feature.sd < 0.0 or feature.min > feature.max:
            self.wrong(f"{path}.sd", "sd must be >= 0 and min <= max")

    def wrong(self, path: str, description: str) -> None:
        self.violations.append(Violation(path, description, "BAD_PROFILE"))

    def only(self, item: Mapping[str, object], path: str, known: set[str]) -> None:
        for key in sorted(set(item) - known)[:5]:
            self.wrong(f"{path}.{key[:64]}".lstrip("."), "is not a field of a profile")

    def whole(self, item: Mapping[str, object], path: str, key: str) -> int:
        return self._whole(item.get(key), f"{path}.{key}".lstrip("."))

    def _whole(self, value: object, path: str) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MAX_COUNT:
            self.wrong(path, "must be a whole number >= 0")
            return 0
        return value

    def number(self, item: Mapping[str, object], path: str, key: str) -> float:
        return self._number(item.get(key), f"{path}.{key}")

    def _number(self, value: object, path: str) -> float:
        if not isinstance(value, bool) and isinstance(value, (int, float)):
            try:
                if math.isfinite(value):
                    return float(value)
            except OverflowError:
                pass
        self.wrong(path, "must be a finite number")
        return 0.0

    def text(self, item: Mapping[str, object], path: str, key: str, longest: int) -> str:
        return self._text(item.get(key), f"{path}.{key}", longest)

    def _text(self, value: object, path: str, longest: int) -> str:
        if not isinstance(value, str) or len(value) > longest or not _encodable(value):
            self.wrong(path, f"must be a text of at most {longest} characters")
            return ""
        return value

    def items(self, item: Mapping[str, object], path: str, key: str, most: int) -> list[object]:
        value = item.get(key)
        if not isinstance(value, list) or len(value) > most:
            self.wrong(f"{path}.{key}", f"must be a list of at most {most} entries")
            return []
        return value

    def numbers(self, item: Mapping[str, object], path: str, key: str) -> tuple[float, ...]:
        return tuple(self._number(v, f"{path}.{key}[{i}]") for i, v in enumerate(self.items(item, path, key, MAX_BINS)))

    def wholes(self, item: Mapping[str, object], path: str, key: str) -> tuple[int, ...]:
        entries = self.items(item, path, key, MAX_BINS + 1)
        return tuple(self._whole(v, f"{path}.{key}[{i}]") for i, v in enumerate(entries))

    def texts(self, item: Mapping[str, object], path: str, key: str, most: int) -> tuple[str, ...]:
        entries = self.items(item, path, key, most)
        return tuple(self._text(v, f"{path}.{key}[{i}]", 256) for i, v in enumerate(entries))

    def choice(self, item: Mapping[str, object], path: str, key: str, of: type[_E]) -> _E | None:
        value = item.get(key)
        for member in of:
            if member.value == value:
                return member
        self.wrong(f"{path}.{key}", f"must be one of {', '.join(str(m.value) for m in of)}")
        return None


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _parse_json(text: str) -> object:
    def refuse(constant: str) -> float:
        raise ValueError(f"{constant} is not a JSON number")

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise ValueError("a key comes twice")
        return dict(pairs)

    if len(text) > MAX_JSON_CHARACTERS:
        raise InvalidArgument(
            f"a profile has at most {MAX_JSON_CHARACTERS} characters, this one {len(text)}", reason="PROFILE_TOO_LARGE"
        )
    try:
        parsed: object = json.loads(text, parse_constant=refuse, object_pairs_hook=unique)
    except (ValueError, RecursionError, TypeError) as error:
        raise InvalidArgument(f"the profile is not JSON: {error}", reason="BAD_PROFILE") from error
    return parsed

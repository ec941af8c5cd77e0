"""Hashes of rows, and of whole tables, that are the same on every machine.

Owns how values become bytes: one NaN, one zero, texts with their length. Changes nothing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["Hashes", "column_digest", "hash_array", "row_hashes"]

Hashes = npt.NDArray[np.uint64]


def row_hashes(features: pd.DataFrame) -> Hashes:
    """Return one 64-bit hash per row, of its values and the names of their columns; the same on every machine."""
    total = np.zeros(len(features), dtype=np.uint64)
    with np.errstate(over="ignore"):
        for name in features.columns:
            seed = np.uint64(int.from_bytes(hashlib.sha256(str(name).encode()).digest()[:8], "little") | 1)
            mixed = (hash_array(features[name].to_numpy()) ^ seed) * np.uint64(0xBF58476D1CE4E5B9)
            # Mixed before the sum: x + y alone would not tell two columns with exchanged values apart.
            total += mixed ^ (mixed >> np.uint64(29))
    return total


def hash_array(values: npt.NDArray[Any]) -> Hashes:
    """Return one 64-bit hash per value; equal values have equal hashes, NaN included."""
    if values.dtype.kind == "f":
        # One NaN, one zero: their bits differ from machine to machine, their meaning does not.
        values = np.where(np.isnan(values), np.nan, values) + values.dtype.type(0)
    return pd.util.hash_array(values, categorize=True).astype(np.uint64)


def column_digest(columns: Iterable[tuple[str, str, npt.NDArray[Any]]]) -> str:
    """Return the SHA-256 (hexadecimal) of columns, each given as name, kind and values, in their order."""
    digest = hashlib.sha256()
    for name, kind, values in columns:
        digest.update(f"{name}\0{kind}\0{len(values)}\0".encode())
        if values.dtype == object:
            for text in values:
                content = str(text).encode()
                digest.update(len(content).to_bytes(8, "little") + content)
        else:
            little = np.where(values != values, np.nan, values).astype(values.dtype.newbyteorder("<"))
            digest.update(little.tobytes())
    return digest.hexdigest()

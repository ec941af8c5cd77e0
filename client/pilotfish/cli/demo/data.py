"""The demo's data: scikit-learn's digits (8 × 8 images, 64 pixels 0–16); the target is whether the digit is odd.

Owns the split: which rows train version 1, which are sent, which are held out. No row has two of these roles.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["PIXELS", "DigitRows", "Split", "make_split", "write_sources"]

PIXELS = tuple(f"pixel_{i}" for i in range(64))
KNOWN = range(6)
TRAIN_ROWS, TRIAL_ROWS, CLEAN_ROWS = 560, 60, 420
HELD_OUT_NEW = 120

Matrix = npt.NDArray[np.float32]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class DigitRows:
    """Images, shape (rows, 64), and whether each digit is odd, shape (rows,)."""

    images: Matrix
    odd: Labels

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.odd)


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """Every role once; `new` are the digits that version 1 has never seen."""

    train: DigitRows
    trial: DigitRows
    clean: DigitRows
    new: DigitRows
    held_out: DigitRows


def make_split(seed: int) -> Split:
    """Return the split and order of a seed."""
    from sklearn.datasets import load_digits  # type: ignore[import-untyped,unused-ignore]

    found: Any = load_digits()
    images, digits = found.data.astype(np.float32), found.target
    rng = np.random.default_rng(seed)
    known = rng.permutation(np.flatnonzero(np.isin(digits, KNOWN)))
    new = rng.permutation(np.flatnonzero(~np.isin(digits, KNOWN)))

    def rows(index: npt.NDArray[np.intp]) -> DigitRows:
        return DigitRows(images[index], (digits[index] % 2).astype(np.int64))

    ends = np.cumsum([TRAIN_ROWS, TRIAL_ROWS, CLEAN_ROWS])
    held_out = np.concatenate([known[ends[2] :], new[:HELD_OUT_NEW]])
    return Split(
        rows(known[: ends[0]]),
        rows(known[ends[0] : ends[1]]),
        rows(known[ends[1] : ends[2]]),
        rows(new[HELD_OUT_NEW:]),
        rows(held_out),
    )


def write_sources(rows: DigitRows, directory: Path) -> tuple[Path, Path]:
    """Write the images as an SQL table and the labels as a CSV with the same ids; return both paths."""
    directory.mkdir(parents=True, exist_ok=True)
    database, labels = directory / "images.db", directory / "labels.csv"
    with sqlite3.connect(database) as connection:
        columns = ", ".join(f"{name} REAL" for name in PIXELS)
        connection.execute(f"CREATE TABLE images (id INTEGER PRIMARY KEY, {columns})")
        marks = ", ".join("?" * (len(PIXELS) + 1))
        connection.executemany(
            f"INSERT INTO images VALUES ({marks})", [(i, *row) for i, row in enumerate(rows.images.tolist())]
        )
    connection.close()
    labels.write_text("id,odd\n" + "".join(f"{i},{odd}\n" for i, odd in enumerate(rows.odd.tolist())))
    return database, labels

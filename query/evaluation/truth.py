"""Tables of true lineage, and a model of such a table with its answer."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from provenance.query.engine import Judgement
from provenance.schemas.errors import TruthError

SCENARIO, WEIGHTS = "scenario", "weights"
"""Columns that a table may have as well: what a model was made for, and what a merge gave to each of its parents."""

COLUMNS = ("model", "parents", "root", "relation", "attack", "weights_derived")


@dataclass(frozen=True, slots=True)
class Truth:
    """One row of a truth table.

    If no weights were reused, `parents` is empty, and `roots` is empty or the model itself.
    """

    model: str
    parents: tuple[str, ...]
    roots: frozenset[str]
    relation: str
    attack: bool
    derived: bool
    scenario: str = ""
    weights: tuple[float, ...] = ()


def read_truth(path: Path) -> dict[str, Truth]:
    """Read a truth table: a CSV with the columns of `COLUMNS`.

    Raises:
        TruthError: it is not text, columns or cells are missing, a weight is no number, or a model occurs twice.
    """
    try:
        return _read(path)
    except (UnicodeDecodeError, csv.Error) as error:
        raise TruthError(f"{path}: not a truth table: {error}; expected a CSV in UTF-8") from error


def _read(path: Path) -> dict[str, Truth]:
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise TruthError(f"{path}: not a truth table; the columns {', '.join(missing)} are missing")
        rows: dict[str, Truth] = {}
        for row in reader:
            if any(row[name] is None for name in COLUMNS):
                raise TruthError(f"{path}: line {reader.line_num} has too few cells")
            if row["model"] in rows:
                raise TruthError(f"{path}: {row['model']} occurs twice")
            derived = row["weights_derived"].strip().lower() == "true"
            rows[row["model"]] = Truth(
                row["model"],
                tuple(p for p in row["parents"].split(";") if p) if derived else (),
                frozenset(r for r in row["root"].split(";") if r),
                row["relation"],
                row["attack"].strip().lower() == "true",
                derived,
                row.get(SCENARIO) or "",
                _weights(row.get(WEIGHTS) or "", path),
            )
    if not rows:
        raise TruthError(f"{path}: the table is empty")
    return rows


def _weights(text: str, path: Path) -> tuple[float, ...]:
    try:
        return tuple(float(weight) for weight in text.split(";") if weight)
    except ValueError as error:
        raise TruthError(f"{path}: {text!r} are no weights: numbers with ';' between them are expected") from error


def family(model: str, truth: Mapping[str, Truth]) -> frozenset[str]:
    return truth[model].roots or frozenset({model})


def related(a: str, b: str, truth: Mapping[str, Truth]) -> bool:
    return bool(family(a, truth) & family(b, truth))


@dataclass(frozen=True)
class Judged:
    """One model of the table with its truth and its judgement."""

    truth: Truth
    judgement: Judgement

    @property
    def adapter(self) -> bool:
        return bool(self.judgement.model.meta.adapter)

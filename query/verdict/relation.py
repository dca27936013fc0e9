"""What was done to the parent: names a relation from structure and from the shape of the change."""

from __future__ import annotations

import numpy as np

from provenance.indexer.dossier import Dossier
from provenance.query.evidence.pair import Pair
from provenance.query.verdict.rounding import is_rounded, is_rounding, repeated_values
from provenance.query.verdict.witness import ZEROS
from provenance.schemas.enums import Direction, Relation
from provenance.schemas.roles import ROLE_CODE, Role

NEARLY_EQUAL = 0.9998
LONG_TRAINING = 0.4
"""Energy of the change over energy of the parent above which a fine-tune is called continued pre-training."""

ROUNDED = 0.9
"""Correlation that rounding alone keeps, also to 4 bits: below it something else was done too."""

CAST = 1e-4
"""How far a cast to 16 bits moves mean and spread of a matrix, in units of the spread, at the most."""

PARTLY = 0.5
RESCALED = 0.05


def relation_of(pair: Pair, direction: Direction) -> Relation:
    """Name the relation of a pair of relatives.

    Args:
        pair: the model and a candidate.
        direction: what the candidate is to the model; where unknown, the model is taken for the child.

    Returns:
        one of the relations of `provenance query`; a label to read, not a test result.
    """
    child, parent = (pair.b, pair.a) if direction is Direction.CHILD else (pair.a, pair.b)
    found = pair.slopes
    if found is None:
        return Relation.UNKNOWN
    codes = [{int(code) for code in subject.dossier.facts["role"]} for subject in (child, parent)]
    if (ROLE_CODE[Role.ROUTER] in codes[0]) != (ROLE_CODE[Role.ROUTER] in codes[1]):
        return Relation.UPCYCLED
    # Layers without a single number, as after a broken upload, are layers too.
    if len(_layers(child.dossier)) != len(_layers(parent.dossier)):
        return Relation.DEPTH_CHANGED
    shapes = [_shapes(subject.dossier) for subject in (child, parent)]
    if shapes[0] != shapes[1]:
        smaller = sum(r * c for r, c in shapes[0].values()) < sum(r * c for r, c in shapes[1].values())
        return Relation.PRUNED if smaller else Relation.TRANSFORMED
    if found.equal:
        # What one of them lacks, or holds as NaN, is not the same; new rows of a vocabulary are training.
        if not np.array_equal(pair.a.grid.held, pair.b.grid.held):
            return Relation.TRANSFORMED
        return Relation.IDENTICAL if _same_beside_layers(child.dossier, parent.dossier) else Relation.FINETUNE
    correlation = pair.aligned.correlation
    slope = found.b_on_a if direction is Direction.CHILD else found.a_on_b
    if correlation > NEARLY_EQUAL and abs(slope - 1) > RESCALED:
        return Relation.TRANSFORMED
    if correlation > ROUNDED and (
        child.dossier.meta.quantization
        or is_rounding(found)
        or is_rounded(repeated_values(child.dossier), repeated_values(parent.dossier), 2 * (1 - correlation))
    ):
        return Relation.QUANTIZED
    zeros = (found.zeros_b, found.zeros_a) if direction is Direction.CHILD else (found.zeros_a, found.zeros_b)
    if zeros[0] > zeros[1] + ZEROS:
        return Relation.PRUNED
    if correlation < PARTLY:
        return Relation.TRANSFORMED
    energy = 1 / correlation**2 - 1
    return Relation.CONTINUED_PRETRAINING if energy > LONG_TRAINING else Relation.FINETUNE


def _shapes(dossier: Dossier) -> dict[int, tuple[int, int]]:
    facts = dossier.matrices.facts
    return {int(f["role"]): (int(f["rows"]), int(f["columns"])) for f in facts}


def _layers(dossier: Dossier) -> set[int]:
    return {int(layer) for layer in dossier.matrices.facts["layer"]}


def _same_beside_layers(child: Dossier, parent: Dossier) -> bool:
    """Whether all that both have beside the matrices of the layers is equal, as far as it is known, up to a cast.

    Vectors are compared by their sampled cells, embeddings and heads by rows, mean and spread.
    """
    one, other = child.vectors, parent.vectors
    if len(one.facts) == len(other.facts) and not np.array_equal(one.weights, other.weights):
        return False
    for role in (Role.EMBEDDING, Role.HEAD):
        facts = [dossier.facts[dossier.facts["role"] == ROLE_CODE[role]] for dossier in (child, parent)]
        if min(map(len, facts)) == 0:
            continue
        new, old = facts[0][0], facts[1][0]
        if new["rows"] != old["rows"]:
            return False
        whole = new["std_error"] == old["std_error"] == 0
        moved = max(abs(float(new[name]) - float(old[name])) for name in ("mean", "std"))
        if whole and moved > CAST * float(old["std"]):
            return False
    return True

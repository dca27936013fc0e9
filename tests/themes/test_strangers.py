"""Nobody is accused: many fresh models that come from nowhere, held against families that are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from provenance.crawler.engine.options import CrawlOptions
from provenance.indexer.dossier import Dossier, dossier_of
from provenance.ingest import fingerprint_local
from provenance.query.catalogue import Catalogue
from provenance.query.engine import judge
from provenance.query.statistics.background import Background
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import dossier, layers_of, mapped

MINIATURE = Path(__file__).resolve().parents[2] / "provenance" / "miniature"
STRANGERS = 200


def lightly_trained(seed: int, **shape: int) -> Tensors:
    """A random start plus changes of low rank, norms moved together, as a first training run leaves it."""
    rng = np.random.default_rng([seed, 4])

    def train(_: str, tensor: NDArray[Any]) -> NDArray[Any]:
        n, m = tensor.shape
        return tensor + 0.01 * rng.normal(size=(n, 3)) @ rng.normal(size=(3, m))

    return mapped(llama(seed, **shape), train)


def scaled(seed: int, **shape: int) -> Tensors:
    """Depth and channel scales that models of one recipe share: the same for every seed."""
    recipe = np.random.default_rng(0)
    depth, channel = np.geomspace(0.5, 2, 16), np.exp(recipe.normal(0, 0.5, 256))

    def scale(name: str, tensor: NDArray[Any]) -> NDArray[Any]:
        out: NDArray[Any] = tensor * depth[int(name.split(".")[2])] * channel[: tensor.shape[1]]
        return out

    return mapped(llama(seed, **shape), scale)


SHAPES: Sequence[dict[str, int]] = (
    {},
    {"layers": 8},
    {"layers": 4, "hidden": 48, "ffn": 64},
    {"hidden": 80, "heads": 5, "kv_heads": 5, "ffn": 160},
    {"layers": 12, "hidden": 32, "heads": 2, "kv_heads": 1, "ffn": 64},
)
MAKERS = (llama, scaled, lightly_trained)


@pytest.fixture(scope="module")
def miniature() -> list[Dossier]:
    """The family that ships with the package: really trained, of 4 and 6 layers."""
    return [dossier_of(found) for found in fingerprint_local(MINIATURE, CrawlOptions())]


@pytest.fixture(scope="module")
def generated() -> list[Dossier]:
    """Families of every shape that the strangers have: a root, a child, a shallower grandchild."""
    store: list[Dossier] = []
    for i, shape in enumerate(SHAPES):
        for j, make in enumerate(MAKERS):
            root = make(10 * i + j, **shape)
            child = trained(root, 500 + 10 * i + j, 0.3)
            for name, tensors in (("root", root), ("child", child), ("short", layers_of(child, [0, 1, 3]))):
                store.append(dossier(tensors, f"family-{i}{j}/{name}", created=len(store)))
    return store


def test_fresh_strangers_are_neither_derived_nor_related(miniature: list[Dossier]) -> None:
    judged: Counter[str] = Counter()
    for number in range(STRANGERS):
        make, shape = MAKERS[number % len(MAKERS)], SHAPES[number // len(MAKERS) % len(SHAPES)]
        stranger = dossier(make(1000 + number, **shape), f"stranger/{number}", created=100 + number)
        found = judge(stranger, Catalogue(None, miniature, Background({})))
        accused = [c.repo_id for c in found.candidates if c.verdict in ("derived", "related")]
        assert accused == [], f"stranger {number}: {make.__name__} {shape}"
        assert found.verdict != "derived"
        judged[found.verdict] += 1
    assert judged["no-parent-found"] >= 0.95 * STRANGERS


def test_members_of_the_same_families_do_find_each_other(generated: list[Dossier]) -> None:
    children = [d for d in generated if d.repo_id.endswith("/child")][::3]
    for child in children:
        found = judge(child, Catalogue(None, generated, Background({})))
        family = child.repo_id.split("/")[0]
        assert found.candidates[0].repo_id == f"{family}/root"
        assert found.verdict == "derived", child.repo_id
        assert {c.repo_id for c in found.candidates if c.verdict in ("derived", "related")} <= {
            f"{family}/root",
            f"{family}/short",
        }

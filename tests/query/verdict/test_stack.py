"""Layers of several checkpoints one above the other."""

from __future__ import annotations

import pytest

from provenance.query.evidence.pair import Subject
from provenance.query.statistics.grid import Grid
from provenance.query.verdict.stack import coverage, find_stack
from tests.conftest import LLAMA_CONFIG, Tensors, llama, trained
from tests.support.dossiers import dossier, layers_of

ONE, OTHER = llama(1), llama(2)


def grid(tensors: Tensors) -> Grid:
    depth = len({name.split(".")[2] for name in tensors if ".layers." in name})
    return Subject(dossier(tensors, config={**LLAMA_CONFIG, "num_hidden_layers": depth})).grid


def stacked(first: list[int], second: list[int]) -> Tensors:
    """Layers of one model, then layers of the other."""
    below, above = layers_of(ONE, first), layers_of(OTHER, second)
    out = dict(below)
    for name, tensor in above.items():
        if ".layers." in name:
            layer, rest = name.removeprefix("model.layers.").split(".", 1)
            out[f"model.layers.{int(layer) + len(first)}.{rest}"] = tensor
    return out


@pytest.mark.parametrize(
    ("first", "second"), [([0, 1, 2], [3, 4, 5]), ([0, 1, 2, 3], [2, 3, 4, 5])], ids=["equal-depth", "deeper"]
)
@pytest.mark.parametrize("amount", [0.0, 0.3])
def test_sources_are_named_with_their_share_of_the_layers(first: list[int], second: list[int], amount: float) -> None:
    model = trained(stacked(first, second), 9, amount)
    found = find_stack(grid(model), {3: grid(ONE), 5: grid(OTHER), 7: grid(llama(77))})
    assert found is not None
    assert found.weights == {3: 0.5, 5: 0.5}
    assert found.left_over == 0


@pytest.mark.parametrize("layers", [[0, 1, 2, 3, 2, 3, 4, 5], [0, 1, 4, 5]], ids=["repeated", "dropped"])
def test_one_source_that_explains_all_layers_is_no_stack(layers: list[int]) -> None:
    assert find_stack(grid(layers_of(ONE, layers)), {1: grid(ONE), 2: grid(OTHER)}) is None


def test_layers_without_a_source_are_no_stack() -> None:
    assert find_stack(grid(stacked([0, 1, 2], [3, 4, 5])), {1: grid(ONE), 2: grid(llama(77))}) is None
    assert find_stack(grid(ONE), {}) is None


def test_coverage_counts_layers_with_a_counterpart() -> None:
    assert coverage(grid(ONE), grid(trained(ONE, 3, 0.3))) == 1
    assert coverage(grid(ONE), grid(layers_of(ONE, [0, 1, 4]))) == pytest.approx(0.5)
    assert coverage(grid(ONE), grid(OTHER)) == 0

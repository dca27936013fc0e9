"""Every line of evidence by itself, and p-values of pairs of independent checkpoints, however much they look alike."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from provenance.crawler.plan import SAMPLE_SIZES
from provenance.indexer.dossier import Dossier
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.evidence.registry import CONVICTING, LINES, SUPPORTING, gather
from provenance.query.statistics.background import SAME, key
from provenance.query.statistics.grid import grid_of
from provenance.query.statistics.significance import adjust_log10_p, combine_log10_p
from provenance.schemas.results import Evidence
from provenance.schemas.roles import LAYER_MATRICES, VECTORS
from tests.conftest import Tensors, llama, trained
from tests.support.dossiers import MIXTRAL_CONFIG, dossier, layers_of, mapped, pair_of, upcycled, without

PARENT, STRANGER = llama(1), llama(2)
CHILD = trained(PARENT, 3, 0.2)
Matrix = NDArray[np.float32]


def lines(a: Tensors | Dossier, b: Tensors | Dossier) -> dict[str, Evidence]:
    return {evidence.kind: evidence for evidence in gather(pair_of(a, b))}


def log10_p(found: dict[str, Evidence], kind: str) -> float:
    value = found[kind].log10_p
    assert value is not None
    return value


def adapted(found: Dossier, *sha256: str) -> Dossier:
    return replace(found, meta=replace(found.meta, sha256=sha256))


def test_a_copy_agrees_on_every_line() -> None:
    found = lines(PARENT, dict(PARENT))
    assert set(found) == {line.name for line in LINES} - {"layer_alignment"}
    for kind in ("file_digest", "tensor_digest", "weight_correlation", "norm_correlation", "published_score"):
        assert found[kind].value == pytest.approx(1), kind
    for kind in ("file_digest", "tensor_digest", "weight_correlation"):
        assert log10_p(found, kind) < -14, kind


def test_a_fine_tune_agrees_in_weights_norms_and_curves_but_not_in_digests() -> None:
    found = lines(CHILD, PARENT)
    assert (found["file_digest"].value, found["file_digest"].log10_p) == (0, 0)
    assert (found["tensor_digest"].value, found["tensor_digest"].log10_p) == (0, 0)
    assert found["weight_correlation"].value == pytest.approx(1 / np.sqrt(1 + 0.2**2), abs=0.01)
    assert log10_p(found, "weight_correlation") < -15
    assert (found["norm_correlation"].value or 0) > 0.9
    assert (found["profile_correlation"].value or 0) > 0.3
    assert (found["published_score"].value or 0) > 0.9


def test_a_stranger_agrees_on_no_line_but_architecture() -> None:
    found = lines(STRANGER, PARENT)
    for kind in CONVICTING:
        if kind in found:
            assert log10_p(found, kind) > -2, kind
    assert abs(found["norm_correlation"].value or 0) < 0.2
    assert found["architecture"].value == pytest.approx(1)
    assert found["architecture"].p_value is None


def test_sampled_and_full_reading_agree() -> None:
    sampled = dossier(CHILD, size=SAMPLE_SIZES["small"])
    assert log10_p(lines(sampled, PARENT), "weight_correlation") < -15
    assert lines(dossier(PARENT, size=SAMPLE_SIZES["small"]), PARENT)["tensor_digest"].value == 1


def test_frozen_layers_are_found_by_digest() -> None:
    half = {name: PARENT[name] if ".layers.0." in name or ".layers.1." in name else CHILD[name] for name in PARENT}
    found = lines(half, PARENT)["tensor_digest"]
    assert found.value == pytest.approx(2 / 6)
    assert (found.log10_p or 0) < -14


def test_equal_values_in_another_role_share_no_digest() -> None:
    swap = {"q_proj": "o_proj", "o_proj": "q_proj"}
    swapped = {
        ".".join(swap.get(part, part) for part in name.split(".")): tensor
        for name, tensor in PARENT.items()
        if "_proj" not in name or "q_proj" in name or "o_proj" in name
    }
    assert lines(swapped, PARENT)["tensor_digest"].value == 0


def test_a_start_that_every_layer_has_is_no_shared_digest() -> None:
    def identity(seed: int) -> Tensors:
        return mapped(llama(seed), lambda name, t: np.eye(64) if "o_proj" in name else t)

    found = lines(identity(1), identity(2))["tensor_digest"]
    assert (found.value, found.log10_p) == (0, 0)


def test_an_untouched_norm_is_no_shared_digest() -> None:
    def fresh(seed: int) -> Tensors:
        return {n: np.linspace(0, 1, len(t), dtype=t.dtype) if t.ndim == 1 else t for n, t in llama(seed).items()}

    assert lines(fresh(1), fresh(2))["tensor_digest"].value == 0


def test_digests_of_files_count_the_smaller_side_and_are_null_where_unknown() -> None:
    a, b = dossier(PARENT), dossier(STRANGER)
    shared = adapted(b, *a.meta.sha256, *b.meta.sha256)
    found = lines(a, shared)["file_digest"]
    assert (found.value, found.n) == (1, 1)
    assert log10_p(lines(a, shared), "file_digest") < -50
    assert "file_digest" not in lines(a, adapted(b))


@pytest.mark.parametrize("width", [48, 80])
def test_another_feed_forward_width_keeps_the_weight_correlation(width: int) -> None:
    grown = llama(9, ffn=width)

    def cut(name: str, tensor: Matrix) -> Matrix:
        shape = grown[name].shape
        out = grown[name].copy()
        rows, columns = min(shape[0], tensor.shape[0]), min(shape[1], tensor.shape[1])
        out[:rows, :columns] = tensor[:rows, :columns]
        return out

    found = lines(mapped(CHILD, cut), PARENT)
    assert log10_p(found, "weight_correlation") < -15
    assert (found["architecture"].value or 0) < 1


def test_more_words_change_nothing_but_the_architecture() -> None:
    more = np.random.default_rng(0).normal(0, 0.02, (16, 64)).astype(np.float32)
    longer = {n: np.concatenate([t, more]) if n in ("model.embed_tokens.weight", "lm_head.weight") else t for n, t in
              CHILD.items()}  # fmt: skip
    plain, extended = lines(CHILD, PARENT), lines(longer, PARENT)
    for kind in ("weight_correlation", "norm_correlation", "profile_correlation", "tensor_digest"):
        assert extended[kind] == plain[kind]
    assert (extended["architecture"].value or 0) < (plain["architecture"].value or 0)


def test_experts_agree_with_the_dense_block_they_were_copied_from() -> None:
    sparse = dossier(upcycled(CHILD, 5), config=MIXTRAL_CONFIG)
    found = lines(sparse, PARENT)["weight_correlation"]
    assert (found.log10_p or 0) < -15
    feed_forward = lines(without(sparse, "q", "k", "v", "o"), without(dossier(PARENT), "q", "k", "v", "o"))
    assert (feed_forward["weight_correlation"].value or 0) > 0.9
    other = dossier(upcycled(STRANGER, 6), config=MIXTRAL_CONFIG)
    assert log10_p(lines(other, PARENT), "weight_correlation") > -2


@pytest.mark.parametrize("layers", [[0, 1, 4, 5], [2, 3, 4, 5], [0, 1, 2, 3, 2, 3, 4, 5], [1, 3, 5]])
def test_a_change_of_depth_leaves_a_run_of_layers(layers: list[int]) -> None:
    found = lines(layers_of(CHILD, layers), PARENT)
    alignment = found["layer_alignment"]
    assert min(log10_p(found, kind) for kind in ("layer_alignment", "weight_correlation")) < -5
    assert alignment.note.startswith(f"{len(layers)} layers correspond")
    assert (alignment.value or 0) > 0.9


def test_layer_alignment_has_nothing_to_say_at_equal_depth_and_convicts_no_stranger() -> None:
    assert "layer_alignment" not in lines(CHILD, PARENT)
    found = lines(llama(4, layers=8), PARENT).get("layer_alignment")
    assert found is None or (found.log10_p or 0) > -2


def test_lines_without_data_say_nothing() -> None:
    a, b = dossier(PARENT), dossier(CHILD)
    bare = without(b, *LAYER_MATRICES)
    assert {e.kind for e in gather(pair_of(a, bare))} & {"tensor_digest", "weight_correlation"} == set()
    assert "norm_correlation" not in lines(a, without(b, *VECTORS))
    assert {e.kind for e in gather(pair_of(a, without(bare, *VECTORS, "embed", "lm_head")))} <= {
        "file_digest",
        "architecture",
    }
    assert "norm_correlation" not in lines(a, llama(1, hidden=48)), "vectors of other widths are other tensors"


def test_a_line_with_too_few_blocks_has_no_p_value() -> None:
    tiny = llama(1, hidden=16, heads=4, kv_heads=2, ffn=16)
    found = lines(trained(tiny, 2), tiny)["weight_correlation"]
    assert found.p_value is None
    assert found.log10_p is None
    assert (found.value or 0) > 0.9


def test_norms_are_compared_centred_and_only_where_they_vary() -> None:
    untrained = {n: np.ones_like(t) if t.ndim == 1 else t for n, t in PARENT.items()}
    assert "norm_correlation" not in lines(untrained, PARENT)
    near_one = {n: (1 + 1e-3 * (t - 1)).astype(np.float32) if t.ndim == 1 else t for n, t in STRANGER.items()}
    assert abs(lines(near_one, PARENT)["norm_correlation"].value or 0) < 0.2


def test_supporting_lines_end_at_the_size_of_their_background() -> None:
    strangers = {key(kind, SAME): np.linspace(-0.3, 0.3, 149) for kind in SUPPORTING}
    for evidence in gather(pair_of(PARENT, dict(PARENT), strangers)):
        if evidence.kind in SUPPORTING:
            assert evidence.p_value == pytest.approx(1 / 150), evidence.kind
    stranger = next(e for e in gather(pair_of(PARENT, STRANGER, strangers)) if e.kind == "norm_correlation")
    assert (stranger.p_value or 0) > 0.05


# Independent checkpoints. Each of these constructions shares something with every other of its kind (scales, patterns,
# distributions, dependence inside a checkpoint), never the weights themselves.

COMMON = np.random.default_rng(42)
SCALES = np.exp(COMMON.normal(0, 1.2, 128))
PATTERN = COMMON.random((128, 128)) < 0.15
MAGNITUDES = np.abs(COMMON.normal(size=(2, 128, 4)))

Change = Callable[[np.random.Generator, Matrix], NDArray[Any]]


def low_rank(rng: np.random.Generator, tensor: Matrix) -> NDArray[Any]:
    """Four directions of the same magnitudes everywhere, with signs of their own."""
    n, m = tensor.shape
    left = MAGNITUDES[0, :n] * rng.choice([-1, 1], (n, 4))
    right = MAGNITUDES[1, :m] * rng.choice([-1, 1], (m, 4))
    out: NDArray[Any] = 0.02 * left @ right.T + 0.3 * tensor
    return out


BY_MATRIX: dict[str, Change] = {
    "plain": lambda rng, t: t.astype(np.float64),
    "same column scales": lambda rng, t: t * SCALES[: t.shape[1]],
    "same row scales": lambda rng, t: t * SCALES[: t.shape[0], None],
    "same sparsity": lambda rng, t: t * PATTERN[: t.shape[0], : t.shape[1]],
    "same low-rank magnitudes": low_rank,
    "heavy tails": lambda rng, t: 0.01 * rng.standard_t(1.5, t.shape),
    "no variance at all": lambda rng, t: 0.01 * rng.standard_cauchy(t.shape),
    "all positive": lambda rng, t: np.abs(t).astype(np.float64),
    "log-normal": lambda rng, t: np.exp(rng.normal(0, 2, t.shape)),
    "positive with row scales": lambda rng, t: np.abs(t) * np.exp(rng.normal(0, 1, (t.shape[0], 1))),
    "positive with column scales": lambda rng, t: np.abs(t) * np.exp(rng.normal(0, 1, (1, t.shape[1]))),
    "row means": lambda rng, t: t + rng.normal(0, 0.02, (t.shape[0], 1)),
    "column means": lambda rng, t: t + rng.normal(0, 0.02, (1, t.shape[1])),
    "rank one": lambda rng, t: rng.normal(size=(t.shape[0], 1)) * rng.normal(size=(1, t.shape[1])),
    "three values": lambda rng, t: rng.integers(-1, 2, t.shape).astype(np.float64),
    "one loud cell": lambda rng, t: np.where(np.arange(t.size).reshape(t.shape) == rng.integers(t.size), 3, t),
}


def by_matrix(change: Change) -> Callable[[int, int], Tensors]:
    def make(seed: int, layers: int) -> Tensors:
        rng = np.random.default_rng([seed, 1])
        return mapped(llama(seed, layers=layers), lambda name, tensor: change(rng, tensor))

    return make


def tied_layers(seed: int, layers: int) -> Tensors:
    """One layer, used at every depth."""
    return layers_of(llama(seed, layers=1), [0] * layers)


def shared_rows(seed: int, layers: int) -> Tensors:
    """Row means that every layer shares, for every kind of matrix its own."""
    rng = np.random.default_rng([seed, 2])
    means: dict[str, NDArray[np.float64]] = {}
    return mapped(
        llama(seed, layers=layers),
        lambda name, t: t + means.setdefault(name.split(".")[-2], rng.normal(0, 0.02, (t.shape[0], 1))),
    )


def shared_channels(seed: int, layers: int) -> Tensors:
    """A mean for every residual channel, the same in every matrix that touches it."""
    means = np.random.default_rng([seed, 3]).normal(0, 0.02, 128)

    def add(name: str, tensor: Matrix) -> NDArray[Any]:
        out = "o_proj" in name or "down_proj" in name
        return tensor + (means[: tensor.shape[0], None] if out else means[: tensor.shape[1]])

    return mapped(llama(seed, layers=layers), add)


CONSTRUCTIONS: dict[str, Callable[[int, int], Tensors]] = {
    **{name: by_matrix(change) for name, change in BY_MATRIX.items()},
    "tied layers": tied_layers,
    "row means shared by the layers": shared_rows,
    "channel means shared by all matrices": shared_channels,
}
MODELS = 7


def log10_ps(make: Callable[[int, int], Tensors], depths: tuple[int, int]) -> NDArray[np.float64]:
    """What the lines of every pair of `MODELS` and `MODELS` further checkpoints together say."""
    first, second = (
        [Subject(dossier(make(100 * (1 + side) + i, layers))) for i in range(MODELS)]
        for side, layers in enumerate(depths)
    )
    found = []
    for a, b in product(first, second):
        measured = [line.measure(Pair(a, b)) for line in LINES if line.convicts]
        values = [e.log10_p for e in measured if e is not None and e.log10_p is not None]
        found.append(combine_log10_p(values, len(values)))
    return np.array(found)


@pytest.mark.parametrize("depths", [(4, 4), (4, 5)], ids=["same depth", "other depth"])
@pytest.mark.parametrize("name", CONSTRUCTIONS)
def test_independent_checkpoints_are_never_convicted(name: str, depths: tuple[int, int]) -> None:
    found = log10_ps(CONSTRUCTIONS[name], depths)
    assert len(found) == MODELS**2
    assert found.min() > -4
    assert adjust_log10_p(float(found.min()), 100) > -3
    assert (found <= np.log10(0.05)).mean() < 0.15


def test_p_values_of_plain_strangers_are_calibrated() -> None:
    grids = [Subject(dossier(llama(500 + i, layers=4))) for i in range(40)]
    p = np.array([10 ** Pair(a, b).by_position.log10_p for a, b in product(grids[:20], grids[20:])])
    for level in (0.2, 0.05, 0.01):
        assert (p <= level).sum() <= stats.binom.ppf(0.999, len(p), level)
    # The largest of three dependent p-values is conservative, but not silent.
    assert (p <= 0.2).mean() > 0.03
    assert all(grid_of(s.dossier).weights.shape == grids[0].grid.weights.shape for s in grids)

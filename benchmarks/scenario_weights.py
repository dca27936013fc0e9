"""What publishers do to weights: training, merging, cutting, rounding and disguising a tiny Llama.

Everything but `train` is a plain function on dicts of float32 arrays that carry the names of the Hugging Face
layout; none changes its arguments. Random choices come from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache

import ml_dtypes
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tools.tiny_llama import HEAD, HEADS, INIT_STD, KV_HEADS, TinyLlama, read_text

Array = NDArray[np.float32]
Weights = dict[str, Array]
Draw = Callable[[int], NDArray[np.float64]]

BATCH, CONTEXT, WARMUP, WEIGHT_DECAY = 8, 64, 20, 0.1
"""Small windows: a step takes some 30 ms of one core, a third of what the miniature family's takes."""

READS, WRITES = ("q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"), ("o_proj", "down_proj")
"""The matrices whose columns read the residual stream, and those whose rows write to it."""


# Training


@cache
def text(*folders: str) -> Tensor:
    """Bytes of these top folders of the standard library (`.` for its modules), without the held-out files."""
    return read_text(lambda folder: folder in folders)[0]


def train(
    start: Weights, words: Tensor, *, seed: int, steps: int, rate: float = 1e-3, trained: Iterable[str] = ("",)
) -> Weights:
    """AdamW on windows drawn in an order that `seed` fixes; `trained` holds parts of the names that may move.

    The rate is constant after its warm-up: fewer steps of the same seed are a snapshot of the same run.
    """
    model = TinyLlama({name: torch.from_numpy(weight) for name, weight in start.items()})
    for name, parameter in model.named_parameters():
        parameter.requires_grad = any(part in name for part in trained)
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(moving, lr=rate, betas=(0.9, 0.95), weight_decay=WEIGHT_DECAY, fused=True)
    generator, window = torch.Generator().manual_seed(seed), torch.arange(CONTEXT + 1)
    for step in range(1, steps + 1):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, step / WARMUP)
        starts = torch.randint(len(words) - CONTEXT, (BATCH, 1), generator=generator)
        optimizer.zero_grad()
        model.loss(words[starts + window]).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(moving, 1.0)
        optimizer.step()
    return {name: weight.detach().numpy() for name, weight in model.state_dict().items()}


# Merging. Every merge works tensor by tensor.


def linear(models: Sequence[Weights], weights: Sequence[float]) -> Weights:
    """Weighted sum. With equal weights: a model soup (arXiv:2203.05482)."""
    total: Weights = {}
    for name in models[0]:
        total[name] = sum((w * model[name] for w, model in zip(weights, models, strict=True)), start=np.float32(0))
    return total


def task_arithmetic(models: Sequence[Weights], base: Weights, weights: Sequence[float]) -> Weights:
    """The base plus scaled task vectors, which are the models minus the base (arXiv:2212.04089)."""
    return linear((*models, base), (*weights, 1 - sum(weights)))


def slerp(a: Weights, b: Weights, t: Callable[[str], float]) -> Weights:
    """Along the great circle from `a` (t = 0) to `b` (t = 1); `t` may differ by name.

    Shoemake, Animating Rotation with Quaternion Curves, 1985, on flattened tensors as mergekit does it.
    """

    def between(x: Array, y: Array, t: float) -> Array:
        cosine = float(np.sum(x * y) / (np.linalg.norm(x) * np.linalg.norm(y)))
        if cosine > 0.9995:  # nearly parallel: the chord, as mergekit
            return (1 - t) * x + t * y
        angle = np.arccos(cosine)
        return (np.sin((1 - t) * angle) * x + np.sin(t * angle) * y).astype(np.float32) / np.float32(np.sin(angle))

    return {name: between(a[name], b[name], t(name)) for name in a}


def ties(models: Sequence[Weights], base: Weights, density: float) -> Weights:
    """TIES (arXiv:2306.01708): trim each change to its largest cells, elect a sign, average what agrees with it."""
    merged = {}
    for name in base:
        trimmed = np.stack([keep_largest(model[name] - base[name], density) for model in models])
        agrees = (np.sign(trimmed) == np.sign(trimmed.sum(axis=0))) & (trimmed != 0)
        merged[name] = base[name] + (trimmed * agrees).sum(axis=0) / np.maximum(agrees.sum(axis=0), 1, dtype=np.float32)
    return merged


def dare(model: Weights, base: Weights, density: float, seed: int) -> Weights:
    """DARE (arXiv:2311.03099): drop random cells of a change and rescale the others to keep its mean."""
    rng = np.random.default_rng(seed)

    def dropped(change: Array) -> Array:
        return np.where(rng.random(change.shape) < density, change / np.float32(density), np.float32(0))

    return {name: base[name] + dropped(model[name] - base[name]) for name in base}


def noisy(weights: Weights, near: Sequence[Weights], fraction: float, seed: int) -> Weights:
    """Gaussian noise on every matrix: a fraction of the spread of its change from the nearest of the models `near`."""
    rng, out = np.random.default_rng(seed), dict(weights)
    for name, weight in weights.items():
        if weight.ndim == 2:
            spread = min(float(np.std(weight - other[name])) for other in near)
            out[name] = weight + rng.normal(0, fraction * spread, weight.shape).astype(np.float32)
    return out


# Stacking and cutting


def passthrough(slices: Sequence[tuple[Weights, int, int]]) -> Weights:
    """Layers first to last (inclusive) of each slice, stacked; embedding of the first, last norm of the last."""
    stacked = {name: slices[0][0][name] for name in slices[0][0] if ".layers." not in name}
    stacked["model.norm.weight"] = slices[-1][0]["model.norm.weight"]
    layers = [(model, layer) for model, first, last in slices for layer in range(first, last + 1)]
    for new, (model, old) in enumerate(layers):
        prefix = f"model.layers.{old}."
        stacked |= {f"model.layers.{new}.{n.removeprefix(prefix)}": model[n] for n in model if n.startswith(prefix)}
    return stacked


def low_rank(weights: Weights, tuned: Weights, rank: int) -> Weights:
    """Only the leading singular directions of each change, as a merged LoRA leaves it (arXiv:2106.09685)."""
    out = dict(weights)
    for name, weight in weights.items():
        if np.any(weight != tuned[name]):
            u, s, v = np.linalg.svd(tuned[name] - weight, full_matrices=False)
            out[name] = weight + (u[:, :rank] * s[:rank]) @ v[:rank]
    return out


def keep_largest(values: Array, density: float) -> Array:
    """All but the fraction `density` of cells with the largest magnitudes set to zero."""
    return np.where(np.abs(values) >= np.quantile(np.abs(values), 1 - density), values, np.float32(0))


def prune_magnitude(weights: Weights, fraction: float) -> Weights:
    """The smallest cells of every matrix of the layers set to zero."""
    return on_matrices(weights, lambda weight: keep_largest(weight, 1 - fraction))


def new_attention(weights: Weights, seed: int) -> Weights:
    """Only the feed-forward part, embedding and norms kept: the attention as if never trained."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(0, INIT_STD, w.shape).astype(np.float32) if ".self_attn." in name else w
        for name, w in weights.items()
    }


def cut_residual(weights: Weights, width: int) -> Weights:
    """Only the residual coordinates that vary most over the vocabulary, in their order."""
    spread = weights["model.embed_tokens.weight"].std(axis=0)
    return select_residual(weights, np.sort(np.argsort(spread)[-width:]))


def extend_vocabulary(weights: Weights, rows: int, seed: int) -> Weights:
    """New rows of the embedding, drawn around its mean row with its spread."""
    name = "model.embed_tokens.weight"
    old = weights[name]
    new = np.random.default_rng(seed).normal(old.mean(axis=0), old.std(axis=0), (rows, old.shape[1]))
    return weights | {name: np.concatenate((old, new.astype(np.float32)))}


# Rounding: the matrices of the layers on a coarse grid, and back


def on_matrices(weights: Weights, change: Callable[[Array], Array]) -> Weights:
    """The matrices of the layers changed, the rest as it is."""
    return {name: change(weight) if "_proj." in name else weight for name, weight in weights.items()}


def round_to_integers(weights: Weights, bits: int, group: int | None = None) -> Weights:
    """Symmetric integers with one step per row, or per `group` columns of a row."""

    def rounded(weight: Array) -> Array:
        cells = weight.reshape(-1, group or weight.shape[1])
        step = np.maximum(np.abs(cells).max(axis=1, keepdims=True), 1e-12) / (2 ** (bits - 1) - 1)
        return (np.round(cells / step) * step).reshape(weight.shape).astype(np.float32)

    return on_matrices(weights, rounded)


def round_to_fp8(weights: Weights) -> Weights:
    """Eight-bit floats E4M3 (arXiv:2209.05433) with one scale per matrix."""

    def rounded(weight: Array) -> Array:
        scale = np.abs(weight).max() / np.float32(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
        return (weight / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * scale

    return on_matrices(weights, rounded)


# Disguises: other weights, the same function


def prefixes(weights: Weights) -> list[str]:
    return sorted({name.split("self_attn")[0] for name in weights if "self_attn" in name})


def permute_inside(weights: Weights, seed: int) -> Weights:
    """Other orders of the feed-forward units, of the key-value heads, and of the query heads of each."""
    rng, out, share = np.random.default_rng(seed), dict(weights), HEADS // KV_HEADS
    for prefix in prefixes(weights):
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        units = rng.permutation(len(weights[f"{mlp}up_proj.weight"]))
        groups = rng.permutation(KV_HEADS)
        queries = np.concatenate([group * share + rng.permutation(share) for group in groups])
        kv_rows, q_rows = ((heads[:, None] * HEAD + np.arange(HEAD)).ravel() for heads in (groups, queries))
        reads = {"self_attn.q_proj": q_rows, "self_attn.k_proj": kv_rows, "self_attn.v_proj": kv_rows}
        for name, rows in (reads | {"mlp.gate_proj": units, "mlp.up_proj": units}).items():
            out[f"{prefix}{name}.weight"] = weights[f"{prefix}{name}.weight"][rows]
        out[f"{attention}o_proj.weight"] = weights[f"{attention}o_proj.weight"][:, q_rows]
        out[f"{mlp}down_proj.weight"] = weights[f"{mlp}down_proj.weight"][:, units]
    return out


def select_residual(weights: Weights, order: NDArray[np.integer]) -> Weights:
    """These coordinates of the residual stream, in this order."""

    def selected(name: str, weight: Array) -> Array:
        return weight[order] if weight.ndim == 1 or name.split(".")[-2] in WRITES else weight[:, order]

    return {name: selected(name, weight) for name, weight in weights.items()}


def permute_residual(weights: Weights, seed: int) -> Weights:
    """Another order of the residual stream, which RMSNorm does not notice."""
    return select_residual(weights, np.random.default_rng(seed).permutation(len(weights["model.norm.weight"])))


def scale_inside(weights: Weights, draw: Draw) -> Weights:
    """Factors that cancel: q against k (one for each rotary pair), v against o, up against down."""
    out, share = dict(weights), HEADS // KV_HEADS

    def multiply(name: str, factors: NDArray[np.float64]) -> None:
        out[name] = (weights[name] * factors).astype(np.float32)

    for prefix in prefixes(weights):
        attention, mlp = prefix + "self_attn.", prefix + "mlp."
        turns = np.tile(draw(KV_HEADS * HEAD // 2).reshape(KV_HEADS, HEAD // 2), 2)
        channels = draw(KV_HEADS * HEAD).reshape(KV_HEADS, HEAD)
        units = draw(len(weights[f"{mlp}up_proj.weight"]))
        multiply(f"{attention}q_proj.weight", turns.repeat(share, axis=0).reshape(-1, 1))
        multiply(f"{attention}k_proj.weight", 1 / turns.reshape(-1, 1))
        multiply(f"{attention}v_proj.weight", channels.reshape(-1, 1))
        multiply(f"{attention}o_proj.weight", 1 / channels.repeat(share, axis=0).ravel())
        multiply(f"{mlp}up_proj.weight", units[:, None])
        multiply(f"{mlp}down_proj.weight", 1 / units)
    return out


def flip_signs(weights: Weights, seed: int) -> Weights:
    rng = np.random.default_rng(seed)
    return scale_inside(weights, lambda n: rng.choice((-1.0, 1.0), n))


def rescale(weights: Weights, seed: int) -> Weights:
    """Factors between about a third and three."""
    rng = np.random.default_rng(seed)
    return scale_inside(weights, lambda n: np.exp(rng.normal(0, 0.5, n)))


def fold_norms(weights: Weights, _: int) -> Weights:
    """The gains of the layers' norms moved into the matrices that read them; the last norm feeds a tied embedding."""
    out = dict(weights)
    for name, weight in weights.items():
        part = name.split(".")[-2]
        if part in READS:
            norm = "input_layernorm" if "self_attn" in name else "post_attention_layernorm"
            gains = ".".join([*name.split(".")[:3], norm, "weight"])
            out[name], out[gains] = weight * weights[gains], np.ones_like(weights[gains])
    return out


def disguise(weights: Weights, seed: int) -> Weights:
    """All of the above."""
    for step, change in enumerate((fold_norms, flip_signs, rescale, permute_inside, permute_residual)):
        weights = change(weights, seed + step)
    return weights

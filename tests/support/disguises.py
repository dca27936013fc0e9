"""What hides where a Llama came from and leaves what it computes: each takes its tensors and returns others.

They need `heads` and `kv_heads` only where heads matter; the residual stream may be turned only once the gains of the
norms are folded into the matrices that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.conftest import Tensors

Array = NDArray[Any]
READS = {"input_layernorm": ("q_proj", "k_proj", "v_proj"), "post_attention_layernorm": ("gate_proj", "up_proj")}
WRITES = ("o_proj", "down_proj")


@dataclass(frozen=True)
class Disguise:
    """A seeded disguise of a Llama of `heads` query and `kv_heads` value heads."""

    heads: int
    kv_heads: int
    seed: int

    def permute_inner(self, tensors: Tensors) -> Tensors:
        """The units of every feed-forward layer in another order."""
        return self._units(tensors, lambda rng, n: (rng.permutation(n), np.ones(n), np.ones(n)))

    def scale(self, tensors: Tensors) -> Tensors:
        """Units of feed-forward and of values scaled up, and down again where they are read."""

        def change(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
            factor = np.exp(rng.normal(0, 0.5, n))
            return np.arange(n), factor, 1 / factor

        return self._mix(self._units(tensors, change), lambda rng, n: np.diag(np.exp(rng.normal(0, 0.5, n))))

    def flip_signs(self, tensors: Tensors) -> Tensors:
        """Signs of units of feed-forward and of values flipped on both sides."""

        def change(rng: np.random.Generator, n: int) -> tuple[Array, Array, Array]:
            sign = rng.choice([-1.0, 1.0], n)
            return np.arange(n), sign, sign

        return self._mix(self._units(tensors, change), lambda rng, n: np.diag(rng.choice([-1.0, 1.0], n)))

    def shuffle_heads(self, tensors: Tensors) -> Tensors:
        """Value heads in another order, with the query heads that use them, shuffled among themselves."""
        rng, changed = np.random.default_rng(self.seed), dict(tensors)
        shared = self.heads // self.kv_heads
        for prefix in _layers(tensors):
            groups = rng.permutation(self.kv_heads)
            queries = np.concatenate([group * shared + rng.permutation(shared) for group in groups])
            for name, heads, order in (
                ("q", self.heads, queries),
                ("k", self.kv_heads, groups),
                ("v", self.kv_heads, groups),
            ):
                key = f"{prefix}self_attn.{name}_proj.weight"
                changed[key] = tensors[key].reshape(heads, -1, tensors[key].shape[1])[order].reshape(tensors[key].shape)
            key = f"{prefix}self_attn.o_proj.weight"
            hidden, width = tensors[key].shape
            changed[key] = tensors[key].reshape(hidden, self.heads, -1)[:, queries].reshape(hidden, width)
        return changed

    def mix_values(self, tensors: Tensors) -> Tensors:
        """Every value head mixed by an invertible matrix, undone in the output projection."""
        return self._mix(tensors, lambda rng, n: np.eye(n) + rng.normal(0, 0.5 / np.sqrt(n), (n, n)))

    def turn_queries(self, tensors: Tensors) -> Tensors:
        """The pair of rows of each rotary frequency turned, in queries and keys alike."""
        rng, changed = np.random.default_rng(self.seed), dict(tensors)
        shared = self.heads // self.kv_heads
        for prefix in _layers(tensors):
            rows, hidden = tensors[f"{prefix}self_attn.k_proj.weight"].shape
            angle = rng.uniform(0, 2 * np.pi, (self.kv_heads, rows // self.kv_heads // 2, 1))
            for name, times in (("q", shared), ("k", 1)):
                key = f"{prefix}self_attn.{name}_proj.weight"
                turn = np.repeat(angle, times, axis=0)
                first, second = tensors[key].reshape(self.kv_heads * times, 2, -1, hidden).swapaxes(0, 1)
                turned = [np.cos(turn) * first - np.sin(turn) * second, np.sin(turn) * first + np.cos(turn) * second]
                changed[key] = np.stack(turned, axis=1).reshape(tensors[key].shape)
        return changed

    def fold_gains(self, tensors: Tensors) -> Tensors:
        """The gain of every norm moved into the matrices that read its output."""
        changed = dict(tensors)
        for prefix in _layers(tensors):
            for norm, readers in READS.items():
                gain = tensors[f"{prefix}{norm}.weight"]
                changed[f"{prefix}{norm}.weight"] = np.ones_like(gain)
                for name in tensors:
                    if name.startswith(prefix) and name.split(".")[-2] in readers:
                        changed[name] = tensors[name] * gain
        changed["lm_head.weight"] = tensors["lm_head.weight"] * tensors["model.norm.weight"]
        changed["model.norm.weight"] = np.ones_like(tensors["model.norm.weight"])
        return changed

    def permute_residual(self, tensors: Tensors) -> Tensors:
        """The channels of the residual stream in another order."""
        hidden = tensors["model.embed_tokens.weight"].shape[1]
        order = np.random.default_rng(self.seed).permutation(hidden)
        turned = _turn(tensors, np.eye(hidden)[:, order])
        return turned | {name: t[order] for name, t in tensors.items() if t.ndim == 1}

    def rotate(self, tensors: Tensors) -> Tensors:
        """The residual stream turned and made larger, after folding the gains."""
        hidden = tensors["model.embed_tokens.weight"].shape[1]
        basis, _ = np.linalg.qr(np.random.default_rng(self.seed).normal(size=(hidden, hidden)))
        turned = _turn(self.fold_gains(tensors), basis)
        larger = ("embed_tokens", *WRITES)
        return {name: 3 * t if name.split(".")[-2] in larger else t for name, t in turned.items()}

    def everything(self, tensors: Tensors) -> Tensors:
        """All of them, one after the other."""
        for change in (
            self.permute_inner,
            self.scale,
            self.flip_signs,
            self.shuffle_heads,
            self.mix_values,
            self.turn_queries,
            self.permute_residual,
            self.rotate,
        ):
            tensors = change(tensors)
        return tensors

    def _units(
        self, tensors: Tensors, change: Callable[[np.random.Generator, int], tuple[Array, Array, Array]]
    ) -> Tensors:
        rng, changed = np.random.default_rng(self.seed), dict(tensors)
        for prefix in _layers(tensors):
            up, gate, down = (f"{prefix}mlp.{name}_proj.weight" for name in ("up", "gate", "down"))
            order, factor, inverse = change(rng, len(tensors[up]))
            changed[up] = tensors[up][order] * factor[:, None]
            changed[gate] = tensors[gate][order]
            changed[down] = tensors[down][:, order] * inverse
        return changed

    def _mix(self, tensors: Tensors, draw: Callable[[np.random.Generator, int], Array]) -> Tensors:
        rng, changed = np.random.default_rng(self.seed), dict(tensors)
        for prefix in _layers(tensors):
            v, o = (f"{prefix}self_attn.{name}_proj.weight" for name in "vo")
            rows, hidden = tensors[v].shape
            head = rows // self.kv_heads
            mixes = np.stack([draw(rng, head) for _ in range(self.kv_heads)])
            changed[v] = (mixes @ tensors[v].reshape(self.kv_heads, head, hidden)).reshape(rows, hidden)
            undo = np.repeat(np.linalg.inv(mixes), self.heads // self.kv_heads, axis=0)
            parts = tensors[o].reshape(hidden, self.heads, 1, head) @ undo
            changed[o] = parts.reshape(tensors[o].shape)
        return changed


DISGUISES = tuple(name for name, member in vars(Disguise).items() if callable(member) and not name.startswith("_"))


def _layers(tensors: Tensors) -> list[str]:
    return sorted({".".join(name.split(".")[:3]) + "." for name in tensors if ".layers." in name})


def _turn(tensors: Tensors, basis: Array) -> Tensors:
    """The residual stream `x` as `x basis`; gains are left alone."""
    readers = ("embed_tokens", "lm_head", *READS["input_layernorm"], *READS["post_attention_layernorm"])
    changed = dict(tensors)
    for name, tensor in tensors.items():
        part = name.split(".")[-2]
        if part in readers:
            changed[name] = tensor @ basis
        elif part in WRITES:
            changed[name] = basis.T @ tensor
    return changed

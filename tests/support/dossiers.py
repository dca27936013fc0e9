"""Dossiers of checkpoints in memory, made by the crawler from real safetensors bytes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from provenance.crawler.fingerprint import fingerprint
from provenance.crawler.plan import SampleSize
from provenance.indexer.dossier import Dossier, dossier_of
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.statistics.background import Background, Scores
from provenance.schemas.enums import Source
from provenance.schemas.errors import WeightsError
from provenance.schemas.identity import CheckpointId
from provenance.schemas.records import ListedCheckpoint, RepoFile, RepoMetadata
from provenance.schemas.roles import ROLE_CODE
from tests.conftest import LLAMA_CONFIG, Tensors

START = datetime(2025, 1, 1, tzinfo=UTC)
WEIGHTS = "model.safetensors"


class MemoryReader:
    """The files of one repo, in memory: a `schemas.protocols.TensorReader`."""

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self.files = files
        self.bytes_read = self.requests = 0

    def size(self, path: str) -> int:
        if path not in self.files:
            raise WeightsError(f"no file {path}")
        return len(self.files[path])

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for start, stop in ranges:
            self.requests += 1
            self.bytes_read += stop - start
            yield self.files[path][start:stop]


def day(number: int | None) -> datetime | None:
    """A date of creation: this many days after the first."""
    return None if number is None else START + timedelta(days=number)


def dossier(
    tensors: Tensors,
    repo_id: str = "org/model",
    *,
    created: int | None = None,
    declares: Sequence[str] = (),
    config: Mapping[str, Any] = LLAMA_CONFIG,
    size: SampleSize | None = None,
) -> Dossier:
    """Fingerprint a checkpoint and make its dossier.

    Args:
        tensors: its weights.
        repo_id: its name.
        created: day of its creation, null if unknown.
        declares: repos that its card names as parents.
        config: its `config.json`.
        size: how much is read; null for everything.
    """
    files = {WEIGHTS: save(tensors), "config.json": json.dumps(config).encode()}
    digest = hashlib.sha256(files[WEIGHTS]).hexdigest()
    listed = ListedCheckpoint(
        CheckpointId(repo_id, hashlib.sha256(repo_id.encode()).hexdigest()),
        Source.LOCAL,
        (WEIGHTS,),
        (RepoFile(WEIGHTS, len(files[WEIGHTS]), digest), RepoFile("config.json", len(files["config.json"]))),
        "config.json",
        RepoMetadata(created_at=day(created), declared_parents=tuple(declares)),
    )
    return dossier_of(fingerprint(listed, MemoryReader(files), size=size, now=START))


def pair_of(a: Tensors | Dossier, b: Tensors | Dossier, scores: Scores | None = None) -> Pair:
    """A pair of checkpoints, with the scores of unrelated pairs."""
    first, second = (x if isinstance(x, Dossier) else dossier(x) for x in (a, b))
    return Pair(Subject(first), Subject(second), Background(scores or {}))


def layers_of(tensors: Tensors, chosen: Sequence[int]) -> Tensors:
    """The checkpoint made of these layers, in this order; a layer may occur more than once."""
    head = "model.layers."
    out = {name: tensor for name, tensor in tensors.items() if not name.startswith(head)}
    for new, old in enumerate(chosen):
        prefix = f"{head}{old}."
        out |= {f"{head}{new}.{n.removeprefix(prefix)}": t for n, t in tensors.items() if n.startswith(prefix)}
    return out


MIXTRAL_CONFIG = {**LLAMA_CONFIG, "architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
_EXPERT_NAMES = {"gate_proj": "w1", "up_proj": "w3", "down_proj": "w2"}


def upcycled(tensors: Tensors, seed: int, *, experts: int = 4, amount: float = 0.1) -> Tensors:
    """The checkpoint as a mixture of experts in Mixtral's names: every expert is the dense block, slightly changed."""
    rng = np.random.default_rng(seed)
    out: Tensors = {}
    for name, tensor in tensors.items():
        layer, _, projection = name.removesuffix(".weight").partition(".mlp.")
        if not projection:
            out[name] = tensor
            continue
        for expert in range(experts):
            change = rng.normal(0, amount * float(tensor.std()), tensor.shape).astype(tensor.dtype)
            out[f"{layer}.block_sparse_moe.experts.{expert}.{_EXPERT_NAMES[projection]}.weight"] = tensor + change
        router = rng.normal(0, 0.02, (experts, tensors["model.norm.weight"].shape[0]))
        out[f"{layer}.block_sparse_moe.gate.weight"] = router.astype(tensor.dtype)
    return out


def mapped(tensors: Tensors, change: Callable[[str, NDArray[Any]], NDArray[Any]]) -> Tensors:
    """The checkpoint with each matrix of its layers changed separately."""
    return {
        name: change(name, tensor).astype(tensor.dtype) if tensor.ndim == 2 and ".layers." in name else tensor
        for name, tensor in tensors.items()
    }


def without(model: Dossier, *roles: str) -> Dossier:
    """The dossier without the tensors of some roles."""
    return replace(model, facts=model.facts[~np.isin(model.facts["role"], [ROLE_CODE[role] for role in roles])])


def rounded(levels: int) -> Callable[[str, NDArray[Any]], NDArray[Any]]:
    """A change for `mapped`: every row rounded to so many levels on each side of zero."""

    def change(_: str, tensor: NDArray[Any]) -> NDArray[Any]:
        step = np.abs(tensor).max(axis=1, keepdims=True) / levels
        return np.round(tensor / step) * step

    return change

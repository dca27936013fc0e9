"""Roles of transformers' architectures, as resolved from what `save_pretrained` writes, against what a model does."""

from __future__ import annotations

import json
import re
import struct
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from provenance.crawler.architectures import read_names, resolve_roles, rows_index
from provenance.schemas.roles import ATTENTION
from provenance.schemas.tensors import LogicalTensor, TensorEntry
from tests.crawler.architectures.truth import Truth, head_order
from tests.crawler.architectures.zoo import build, forward

CHECKED = ("q", "k", "v", "o", "gate", "up", "down", "q_a", "q_b", "kv_a", "kv_b", "q_bias", "k_bias", "v_bias")


NORMS = ("attn_norm", "ffn_norm")

NO_PART = re.compile(
    r"mamba|[.](in|x)_proj|x_proj_weight|router|lconv1d|gru_rel|merger|_projection[.]|shared_(transf|expert)|share_expert"
    r"|ffw_layer_(start|end)|relative_position_embedding|hypernetworks|prediction_head|bbox_|mask_embedder"
    r"|(query_pos|ref_point|obj_score)_head|hq_mask_mlp|stage[.][0-9]+[.]ffn|pwconv|pointwise_|conv_blocks|mixer[.]"
    r"|shared_mlp|shared_experts|(feed_forward|ffn)[12][.]|indexer|compressor|wo_a|o_a_proj|linear_pos|r_kernel|rel_attn.r"
)
"""Parts that make no role: state-space blocks, convolutional ones, routers of several layers, shared experts, the two
halves of a macaron's feed-forward, indexers, the halves of a low-rank output, the keys of relative positions, and the
heads of a detector."""

UNSEEN = {
    "cvt": "its queries meet the keys of a coarser grid",
    "gemma3n_audio": "its queries meet keys of the neighbouring chunks",
    "lilt": "the scores of its text and of its layout are added",
    "muse_glimmer_assistant": "its queries meet the keys of another model too",
    "vits": "its feed-forward is convolutions over several tokens",
    "informer": "few of its queries are chosen, and the rest read a mean",
    **dict.fromkeys(("maskformer", "mask2former"), "the first attention of its decoder reads zeros"),
    "mra": "its softmax is cut into blocks by a kernel",
    "squeezebert": "its projections are convolutions",
    "deepseek_v4": "its queries meet keys of compressed blocks too",
    "gemma4_audio": "its queries meet keys of the neighbouring chunks",
    **dict.fromkeys(("glpn", "pvt", "pvt_v2", "segformer"), "its queries meet the keys of a coarser grid"),
    "pi0": "the last layer of its language model gives its keys and values to the action expert alone",
    **dict.fromkeys(("sam2", "sam2_hiera_det_model", "sam2_vision_model"), "its queries are pooled between stages"),
    "reformer": "its layers are reversible: autograd does not see into them",
    "t5gemma2": "its decoder attends to itself and to the encoder at once",
    "funnel": "its queries are pooled between blocks",
    "yoso": "its attention counts the collisions of hashes of queries and keys instead of a softmax",
    "t5gemma2_text": "its decoder attends to itself and to the encoder at once",
}
"""Model types whose softmax attention autograd does not show as one: a role that is not seen is no error there."""


@dataclass
class Result:
    """How one class fared.

    Attributes:
        status: right, unknown, wrong, or unjudged.
        stacks: those that roles of an attention were given to.
        stacks_seen: those of them that took part in the forward pass.
    """

    name: str
    model_type: str
    status: str
    wrong: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    reason: str = ""
    config_read: bool = False
    softmax: bool = True
    stacks: int = 0
    stacks_seen: int = 0


def sweep(name: str, model_type: str) -> Result:
    """Build, watch, save, resolve and compare one class."""
    problems: list[str] = []
    for model in build(name, problems):
        try:
            return judge(name, model_type, model)
        except ValueError as error:
            problems.append(str(error))
    return Result(name, model_type, "unjudged", reason=problems[0])


def judge(name: str, model_type: str, model: Any) -> Result:
    """Watch, save, resolve and compare one model.

    Raises:
        ValueError: it takes no known inputs, or nothing of its attention is seen.
    """
    truth = Truth(model, forward(model))
    if truth.n_attentions == 0 and model_type in UNSEEN:
        raise ValueError(UNSEEN[model_type])
    with tempfile.TemporaryDirectory() as folder:
        return compare(Result(name, model_type, "right"), model, truth, Path(folder))


def tagged(model: Any) -> tuple[list[str], list[int]]:
    """Write the number of every parameter element into itself; returns names, and first numbers."""
    names, starts, at = [], [], 1
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            names.append(name)
            starts.append(at)
            parameter.copy_(torch.arange(at, at + parameter.numel(), dtype=torch.float64).reshape(parameter.shape))
            at += parameter.numel()
    assert at < 2**24, f"{at} weights: their numbers do not fit a float32"
    return names, [*starts, at]


def saved(folder: Path) -> tuple[list[TensorEntry], dict[str, Any], dict[str, Any]]:
    entries, arrays = [], {}
    for file in sorted(folder.glob("*.safetensors")):
        content = file.read_bytes()[: 1 << 26]
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(content[8 : 8 + length])
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - a safetensors file is no mapping
                arrays[name] = tensors.get_tensor(name).double().numpy()
                start, stop = header[name]["data_offsets"]
                entries.append(TensorEntry(name, header[name]["dtype"], arrays[name].shape, file.name, start, stop))
    return entries, arrays, json.loads((folder / "config.json").read_text())


def extract(tensor: LogicalTensor, arrays: dict[str, Any]) -> Any:
    """The plain reading of a `LogicalTensor`."""
    n = int(np.prod(tensor.stored_shape))
    stored = arrays[tensor.name].reshape(-1)[tensor.element_offset : tensor.element_offset + n]
    stored = stored.reshape(tensor.stored_shape)
    stored = stored.T if tensor.transposed else stored
    return stored if tensor.rows is None else stored[rows_index(tensor.rows)]


def compare(result: Result, model: Any, truth: Truth, folder: Path) -> Result:
    """Compare the roles of the model as saved with the truth, element by element; fills and returns `result`."""
    names, starts = tagged(model)
    model.save_pretrained(folder)
    entries, arrays, config = saved(folder)
    resolved = resolve_roles(entries, config)
    result.config_read = read_names(entries).needs_config
    claimed: dict[str, set[str]] = defaultdict(set)
    calls: dict[tuple[str, int | None], set[int]] = defaultdict(set)
    wrong = Counter[str]()
    given, seen = set[str](), set[str]()
    attending = {(t.stack, t.layer) for t in resolved.tensors if t.role in ("q", "q_a")}
    for tensor in resolved.tensors:
        # The norms of a layer with a linear attention have no partner to be seen with.
        if tensor.role == "embed" or (
            tensor.role in NORMS and (tensor.stack, tensor.layer) in attending and result.model_type not in UNSEEN
        ):
            wrong.update(_outside_truth(tensor, truth, arrays, names, starts))
        if tensor.role not in CHECKED:
            continue
        tags = extract(tensor, arrays).astype(np.int64)
        found = int(np.searchsorted(starts, tags.flat[0], "right")) - 1
        live = names[found] if 0 <= found < len(names) else "?"
        where = f"{tensor.stack} {re.sub(r'[0-9]+', '*', tensor.name)} as {tensor.role}"
        if live == "?":
            wrong[f"{where}: no parameter"] += 1
            continue
        labels = truth.labels.get(live)
        at = tags - starts[found]
        if at.min() < 0 or at.max() >= starts[found + 1] - starts[found]:
            wrong[f"{where}: of several parameters"] += 1
            continue
        given |= {tensor.stack} if tensor.role in ATTENTION else set()
        seen |= {tensor.stack} if labels and tensor.role in ATTENTION else set()
        label = labels.get(tensor.role) if labels else None
        if label is None:
            if labels:
                wrong[f"{where}: does {'/'.join(sorted(labels))}"] += 1
            elif (
                tensor.stack == "main" and tensor.role not in ("gate", "up", "down") and result.model_type not in UNSEEN
            ):
                wrong[f"{where}: takes no such part"] += 1
            continue
        claimed[tensor.role].add(live)
        if tensor.expert is None or label.mask[at].any():
            if tensor.expert is None and label.mask[at].mean() < 0.9:
                wrong[f"{where}: {label.mask[at].mean():.0%} of its elements are {tensor.role}"] += 1
            foreign = [
                r
                for r, other in labels.items()
                if r != tensor.role and r not in ("k", "v") and (other.mask[at] & ~label.mask[at]).any()
            ]
            if foreign:
                wrong[f"{where}: holds {foreign}"] += 1
        if tensor.role in ("q", "k", "v") and not head_order(label.heads[at]):
            wrong[f"{where}: heads out of order"] += 1
        if tensor.role in ("q", "k", "v", "q_b", "kv_b"):
            calls[tensor.stack, tensor.layer].add(label.call)
            if tensor.stack == "main" and label.cross and result.model_type not in UNSEEN:
                wrong[f"{where}: cross attention"] += 1
    for (stack, layer), found_calls in calls.items():
        if len(found_calls) > 1 and result.model_type not in UNSEEN:
            wrong[f"{stack} {layer}: of several attentions"] += 1
    result.wrong = [f"{text} ({n})" for text, n in wrong.items()]
    stored_as: dict[str, str] = {}
    for name, array in arrays.items():
        found = int(np.searchsorted(starts, array.flat[0], "right")) - 1 if array.size else -1
        if 0 <= found < len(names):
            stored_as.setdefault(names[found], name)
    _gaps(result, truth, claimed, stored_as)
    result.status = "wrong" if result.wrong else "unknown" if result.unknown else "right"
    result.stacks, result.stacks_seen = len(given), len(seen)
    result.softmax = truth.n_attentions > 0
    return result


def _outside_truth(
    tensor: LogicalTensor, truth: Truth, arrays: dict[str, Any], names: list[str], starts: list[int]
) -> list[str]:
    """What is wrong with a norm or an embedding: what it feeds plays other roles, or no token is looked up in it."""
    found = int(np.searchsorted(starts, arrays[tensor.name].flat[0], "right")) - 1
    live = names[found] if 0 <= found < len(names) else "?"
    shown = f"{tensor.stack} {re.sub(r'[0-9]+', '*', tensor.name)} as {tensor.role}"
    if tensor.role == "embed":
        return (
            [f"{shown}: nothing is looked up in it"]
            if tensor.stack == "main" and live in truth.graph.parameters - truth.embeddings
            else []
        )
    after, ahead = (
        {role for name in side for role in truth.labels.get(name, {})} for side in truth.norm_of.get(live, ((), ()))
    )
    feeds = {"gate", "up", "down"} if tensor.role == "ffn_norm" else {"q", "k", "v", "o", "q_a", "kv_a"}
    return [f"{shown}: feeds {sorted(after)}"] if after and not feeds & (after | ahead) else []


def _gaps(result: Result, truth: Truth, claimed: dict[str, set[str]], stored_as: dict[str, str]) -> None:
    """Roles that a numbered module plays and no tensor of it was given."""
    have: dict[str, set[str]] = defaultdict(set)
    for role, parameters in claimed.items():
        for name in parameters:
            have[_layer(name)].add(role)
    missing = Counter[str]()
    for name, labels in truth.labels.items():
        if not _layer(name) or NO_PART.search(stored_as.get(name, name)) or NO_PART.search(name):
            continue
        for role, label in labels.items():
            alias = {"v": {"k", "v"}, "k": {"k", "v"}}.get(role, {role})
            if role in CHECKED and not alias & have[_layer(name)] and label.mask.any():
                shown = re.sub(r"[.][0-9]+[.]", ".*.", stored_as.get(name, f"{name} (not stored)"))
                missing[f"{shown} is {role}"] += 1
    result.unknown = [f"{text} ({n})" for text, n in missing.items()]


def _layer(name: str) -> str:
    match = re.match(r"(.*?\.\d+)\.", "." + name)
    return match.group(1) if match else ""

"""A merge as a recipe in the configuration format of mergekit (github.com/arcee-ai/mergekit, arXiv 2403.13257)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from provenance.query.engine import Judgement
from provenance.query.verdict.rule import Assessment
from provenance.schemas.enums import Direction, MergeMethod, Relation
from provenance.schemas.errors import NotAMergeError
from provenance.schemas.results import LayerRun

DTYPES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}

FILTERS = {"attention": "self_attn", "feed-forward": "mlp"}
"""Parts of a tensor's name by which mergekit tells a layer's matrices apart."""


def recipe(judgement: Judgement) -> str:
    """The configuration that would make the model from its parents, with comments on how sure it is.

    Raises:
        NotAMergeError: no merge, and no stack of layers, of stored checkpoints.
    """
    parents = [one for one in judgement.candidates if one.merge is not None]
    if not parents:
        parents = [one for one in judgement.candidates if _stacked(one)][:1]
    model = judgement.model.meta
    if not parents:
        raise NotAMergeError(
            f"{model.repo_id}: no merge of stored checkpoints, so there is no recipe; "
            f"`provenance query {model.repo_id}` shows what it comes from"
        )
    method = parents[0].merge.method if parents[0].merge else MergeMethod.PASSTHROUGH
    depth = judgement.model.meta.n_layers or 0
    build = {MergeMethod.PASSTHROUGH: _passthrough, MergeMethod.SLERP: _slerp}.get(method, _weighted)
    config = build(parents, depth) | {"merge_method": method.value}
    if (dtype := DTYPES.get(model.dtype or "")) is not None:
        config["dtype"] = dtype
    lines = [f"# {line}" for line in _remarks(judgement, parents, method)]
    return "\n".join([*lines, yaml.safe_dump(config, sort_keys=False, allow_unicode=True)])


def _stacked(one: Assessment) -> bool:
    return one.relation is Relation.DEPTH_CHANGED and one.direction is Direction.PARENT and bool(one.layers)


def _passthrough(parents: Sequence[Assessment], _: int) -> dict[str, Any]:
    runs = sorted(((run, one.repo_id) for one in parents for run in one.layers), key=lambda item: item[0].first)
    return {
        "slices": [
            # The end of a range is exclusive.
            {"sources": [{"model": name, "layer_range": [run.start, run.start + run.last - run.first + 1]}]}
            for run, name in runs
        ]
    }


def _slerp(parents: Sequence[Assessment], depth: int) -> dict[str, Any]:
    one, other = parents
    return {
        "models": [{"model": one.repo_id}, {"model": other.repo_id}],
        "base_model": one.repo_id,
        "parameters": {"t": _parameter(other, depth)},
    }


def _weighted(parents: Sequence[Assessment], depth: int) -> dict[str, Any]:
    models = [{"model": one.repo_id, "parameters": {"weight": _parameter(one, depth)}} for one in parents]
    config: dict[str, Any] = {"models": models}
    merge = parents[0].merge
    if merge is not None and merge.base is not None:
        config["base_model"] = merge.base
        # The weights count as they are; by default they would be scaled to a sum of 1.
        config["parameters"] = {"normalize": False}
    return config


def _parameter(one: Assessment, depth: int) -> Any:
    """A weight, a list of one for each layer, or such lists by part of the name."""
    weight = round(one.merge_weight or 0.0, 3)
    parts = {run.part for run in one.layers}
    if not one.layers or depth == 0:
        return weight
    if parts == {""}:
        return _by_layer(one.layers, depth)
    values: list[Mapping[str, Any]] = [
        {"filter": FILTERS[part], "value": _by_layer([run for run in one.layers if run.part == part], depth)}
        for part in sorted(parts)
    ]
    return [*values, {"value": weight}]


def _by_layer(runs: Sequence[LayerRun], depth: int) -> list[float]:
    values = [0.0] * depth
    for run in runs:
        values[run.first : run.last + 1] = [round(run.weight, 3)] * (run.last - run.first + 1)
    return values


def _remarks(judgement: Judgement, parents: Sequence[Assessment], method: MergeMethod) -> list[str]:
    lines = [f"{judgement.model.meta.repo_id}: inferred from its weights, not from a card."]
    for one in parents:
        if one.merge is None:
            continue
        text = f"{one.repo_id}: weight {one.merge.weight:.3f}"
        if one.merge.error is not None:
            text += f", standard error {one.merge.error:.3f}"
        if one.merge.log10_p is not None:
            text += f", log10 p without it {one.merge.log10_p:.1f}"
        if one.merge.instead:
            text += f"; explained equally by {' or '.join(one.merge.instead)}"
        lines.append(text)
    if method in (MergeMethod.TIES, MergeMethod.DARE_TIES):
        lines.append("Weights are regression slopes, so weight times density. Densities and seeds are not inferred.")
    if method is MergeMethod.PASSTHROUGH:
        lines.append(
            "Not inferred: embeddings, last norm and head, which mergekit takes from the first and last slice."
        )
    else:
        lines.append(
            "Embeddings, norms and head are taken to be merged as the layers are; tokenizers are not inferred."
        )
    return lines

"""The place of a tensor: its stack of layers, its layer and its expert, from its name alone.

The main stack, whose layers make the curves, is chosen among the containers of layers that have attention, even with
unknown names (among all containers if none has). The order is: the highest rank of its prefix (`TOWERS`: a language
model before an encoder, an encoder before a vision or audio tower), then the most layers with attention, then the most
layers, then the first by name. A draft head is never main.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from provenance.crawler.architectures.names import CONTAINERS, CROSS, DRAFT_STEMS, SAME_LAYERS, TOWERS
from provenance.schemas.roles import MAIN_STACK
from provenance.schemas.tensors import TensorEntry

# A layer number has at most five digits.
_IN_LAYER = re.compile(rf"((?:[^.]+\.)*?)({'|'.join(CONTAINERS)})\.([0-9]{{1,5}})\.(.+)")
_WRAPPERS = re.compile(r"(?<![^.])(?:_orig_mod|_checkpoint_wrapped_module|_fsdp_wrapped_module|module)\.")
_EXPERT = re.compile(r"(?<![^.])experts\.(?:expert_)?([0-9]{1,5})\.")
_EXPERT_LAST = re.compile(r"(ffn_(?:gate|up|down))\.([0-9]{1,5})")  # llama.cpp's, before it stacked experts
_SUFFIXES = {"weight": "weight", "gamma": "weight", "bias": "bias", "beta": "bias"}
_TWIN = re.compile(r"(self_attn|mlps|input_layernorm|post_attention_layernorm)\.([0-9])(?=\.|$)")
"""LongCat's layers have two of each; the second ones form a separate stack."""
_WRAPPED = re.compile(r"(?<![0-9])\.linear$")
"""Moshi and Gemma's audio tower wrap each matrix; Grok-1's `experts.0.linear` is one."""

_FUNNEL = re.compile(r"((?:.+\.)?)encoder\.blocks\.([0-9]{1,5})")
_FUNNEL_STEM = "attention.q_head"
_PLAIN_RANK = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor inside a layer.

    Attributes:
        container: prefix and word of the list of layers, `model.layers`.
        stem: name inside the layer without suffix, with `experts.*` for any expert.
        suffix: `weight`, `bias` or empty (`gamma` and `beta` of old BERT files are mapped to these).
        cross: it belongs to cross attention; `stem` is the equivalent in self attention.
    """

    entry: TensorEntry
    container: str
    layer: int
    stem: str
    suffix: str
    expert: int | None
    cross: bool


# Container, layer, and whether it is cross attention.
_Key: TypeAlias = tuple[str, int, bool]


def plain_names(entries: Iterable[TensorEntry]) -> dict[TensorEntry, str]:
    """Names without the words that torch's wrappers put into them: compiled, checkpointed, distributed.

    A checkpoint may hold a wrapped copy beside the plain tensors: names that would become equal stay as they are.
    """
    plain = {entry: _WRAPPERS.sub("", entry.name) for entry in entries}
    count = Counter(plain.values())
    return {entry: name if count[name] == 1 else entry.name for entry, name in plain.items()}


def place_of(entry: TensorEntry, name: str | None = None) -> Place | None:
    """The place of a tensor by its plain name, by default its own; null outside of the layers."""
    match = _IN_LAYER.fullmatch(name or entry.name)
    if match is None:
        return None
    prefix, word, number, rest = match.groups()
    word = SAME_LAYERS.get(word, word)
    # PEFT stores the frozen matrix of a wrapped module under `base_layer`.
    stem, _, last = rest.replace(".base_layer.", ".").rpartition(".")
    stem = _WRAPPED.sub("", stem)
    if last in ("in_proj_weight", "in_proj_bias"):  # torch.nn.MultiheadAttention
        stem, last = f"{stem}.in_proj", last.removeprefix("in_proj_")
    suffix = _SUFFIXES.get(last, "")
    if (twin := _TWIN.match(stem)) is not None:
        stem = twin[1].replace("mlps", "mlp") + stem[twin.end() :]
        word += "" if twin[2] == "0" else f".second{twin[2]}"
    if not suffix:
        stem = f"{stem}.{last}" if stem else last
    stem = _EXPERT_LAST.sub(r"experts.\2.\1", stem)
    numbers = _EXPERT.findall(stem)
    expert = int(numbers[0]) if len(numbers) == 1 else None
    if expert is not None:
        stem = _EXPERT.sub("experts.*.", stem)
    for cross, own in CROSS:
        if stem.startswith(cross):
            return Place(entry, prefix + word, int(number), own + stem.removeprefix(cross), suffix, expert, True)
    return Place(entry, prefix + word, int(number), stem, suffix, expert, False)


def in_layers(entries: Iterable[TensorEntry], places: Iterable[Place]) -> dict[_Key, list[Place]]:
    """Group tensors by container, layer and cross attention; a draft layer gets a separate container."""
    layers: dict[_Key, list[Place]] = {}
    for place in places:
        layers.setdefault((place.container, place.layer, place.cross), []).append(place)
    drafts = [key for key, layer in layers.items() if any(place.stem in DRAFT_STEMS for place in layer)]
    lone = {entry.name.removesuffix("fc.weight") + "layers" for entry in entries if _joins_states(entry)}
    for container in lone:
        keys = [key for key in layers if key[0] == container]
        drafts += keys if len({number for _, number, _ in keys}) == 1 else []
    for container, number, cross in dict.fromkeys(drafts):
        layers[f"{container}.draft", number, cross] = layers.pop((container, number, cross))
    return _of_one_encoder(layers)


def _of_one_encoder(layers: dict[_Key, list[Place]]) -> dict[_Key, list[Place]]:
    """Number the layers of Funnel's blocks through: the encoder pools between them, the decoder only undoes that."""
    blocks = sorted(
        (match[1], int(match[2]), number, cross, container)
        for (container, number, cross), places in layers.items()
        if (match := _FUNNEL.fullmatch(container)) and any(place.stem == _FUNNEL_STEM for place in places)
    )
    counts: Counter[str] = Counter()
    for prefix, _, number, cross, container in blocks:
        joined, layer = f"{prefix}blocks", counts[prefix]
        places = layers.pop((container, number, cross))
        layers[joined, layer, cross] = [replace(place, container=joined, layer=layer) for place in places]
        counts[prefix] += 1
    return layers


def _joins_states(entry: TensorEntry) -> bool:
    """Whether a tensor is Eagle's `fc`: it reads an embedding and the state of a layer, or three states."""
    named = entry.name == "fc.weight" or entry.name.endswith(".fc.weight")
    return named and len(entry.shape) == 2 and entry.shape[1] in (2 * entry.shape[0], 3 * entry.shape[0])


def _tower(container: str) -> tuple[str, int]:
    """Name and rank of the lowest tower word in a container's name."""
    words = [*re.split(r"[._]", container.lower()), *container.lower().split("."), container]
    known = [TOWERS[word] for word in words if word in TOWERS]
    return min(known, key=lambda tower: tower[1], default=(container, _PLAIN_RANK))


def looks_like_attention(layer: Iterable[Place]) -> bool:
    """Whether a stem of the layer contains `attn` or `attention`, known or not."""
    return any("attn" in place.stem or "attention" in place.stem for place in layer)


def name_stacks(n_layers: Mapping[str, int], n_attention: Mapping[str, int], unread: Container[str]) -> dict[str, str]:
    """Name the stack of every container, `main` for the one chosen by the rule of this module.

    Args:
        n_layers: layers of each container.
        n_attention: layers with attention of each container.
        unread: containers with an unknown stem that contains `attn` or `attention`.
    """
    able = [container for container in n_layers if _tower(container)[1] > 0]
    able = [container for container in able if n_attention[container] or container in unread] or able
    able.sort(key=lambda c: (-_tower(c)[1], -n_attention[c], -n_layers[c], c))
    names: dict[str, str] = {able[0]: MAIN_STACK} if able else {}
    for container in sorted(n_layers):
        if container not in names:
            name = _tower(container)[0]
            names[container] = name if name not in names.values() else f"{name}:{container}"
    return names

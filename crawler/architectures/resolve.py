"""All tensors of a checkpoint with their roles: layers first, then stack names, then tensors outside of the layers."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from provenance.crawler.architectures.config import Settings, read_settings
from provenance.crawler.architectures.fused import Unresolved
from provenance.crawler.architectures.layer import Context, other, resolve_layer
from provenance.crawler.architectures.names import OUTSIDE
from provenance.crawler.architectures.notes import Notes, holds_weights
from provenance.crawler.architectures.stacks import in_layers, looks_like_attention, name_stacks, place_of, plain_names
from provenance.crawler.formats.packing.packed import PackedEntry
from provenance.schemas.roles import ATTENTION, LATENT_ATTENTION, MAIN_STACK, Role
from provenance.schemas.tensors import LogicalTensor, Order, ResolvedRoles, TensorEntry

_ADAPTER = re.compile(r"(?:^|[._])(?:lora_|ia3_|hada_|lokr_|oft_|boft_|vera_|adapters?[._]|prompt_embeddings)")
_ATTENTION = frozenset(ATTENTION + LATENT_ATTENTION)
_OTHER = Role.OTHER
_CROSS_STACK = "cross"


@dataclass(frozen=True, slots=True)
class Reading:
    """What names, dtypes and shapes say about a checkpoint's tensors.

    Attributes:
        needs_config: a config could resolve what these leave open (fused or rotary-permuted rows). If false, no config
            changes any role.
    """

    entries: Sequence[TensorEntry]
    needs_config: bool
    _tensors: tuple[LogicalTensor, ...]
    _notes: tuple[str, ...]

    def with_config(self, config: Mapping[str, object] | None) -> ResolvedRoles:
        """The roles of all tensors of the checkpoint. Never raises, for any config.

        Args:
            config: parsed config.json or params.json, or null; used for roles only if `needs_config` is true, and for
                the numbers in the result.

        Returns:
            one or more logical tensors for every entry, in the order of the entries. `n_layers` is the number of
            distinct layers of the main stack with attention (of all its layers with any role if no attention is
            readable, as in packed checkpoints); layer numbers are those of the names, so a pruned model has gaps.
        """
        settings = read_settings(config)
        tensors, notes = self._tensors, self._notes
        if self.needs_config:
            with_config, reasons = _resolve(self.entries, settings)
            tensors, notes = tuple(with_config), reasons.lines()
        main = [tensor for tensor in tensors if tensor.stack == MAIN_STACK]
        with_attention = {tensor.layer for tensor in main if tensor.layer is not None and tensor.role in _ATTENTION}
        with_role = {tensor.layer for tensor in main if tensor.layer is not None and tensor.role != _OTHER}
        q, k = (
            next((t.shape for t in main if t.role == role and len(t.shape) == 2), None)
            for role in (Role.QUERY, Role.KEY)
        )
        n_heads = _dividing(settings.n_heads, q)
        n_kv_heads = _dividing(settings.n_kv_heads, k)
        if n_kv_heads is None and q is not None and q == k:
            n_kv_heads = n_heads
        return ResolvedRoles(
            tensors=tensors,
            n_layers=len(with_attention or with_role),
            hidden_size=settings.hidden_size or (q[1] if q else None),
            n_heads=n_heads,
            n_kv_heads=n_kv_heads,
            model_type=settings.model_type,
            architecture=settings.architecture,
            quantization=settings.quantization,
            adapter=not with_attention and any(_ADAPTER.search(entry.name) for entry in self.entries),
            notes=notes,
        )


def read_names(entries: Sequence[TensorEntry]) -> Reading:
    """Read the names of all tensors of a checkpoint; the result says whether a config is needed."""
    tensors, notes = _resolve(entries, Settings())
    return Reading(entries, notes.wants_config, tuple(tensors), notes.lines())


def resolve_roles(entries: Sequence[TensorEntry], config: Mapping[str, object] | None) -> ResolvedRoles:
    """The roles of all tensors, for a config that is already read."""
    return read_names(entries).with_config(config)


def _dividing(heads: int | None, shape: tuple[int, ...] | None) -> int | None:
    """A config's number of heads; null if the rows of the projection are not a multiple of it."""
    return None if heads and shape and shape[0] % heads else heads


def _resolve(entries: Sequence[TensorEntry], settings: Settings) -> tuple[list[LogicalTensor], Notes]:
    notes = Notes()
    scaled = any(isinstance(entry, PackedEntry) and entry.dtype.startswith("F8") for entry in entries)
    context = Context(settings, frozenset(entry.name for entry in entries), notes, scaled)
    names = plain_names(entries)
    places = {entry: place for entry in entries if (place := place_of(entry, names[entry])) is not None}
    placed = in_layers(entries, places.values())
    unread = {key[0] for key, layer in placed.items() if not key[2] and looks_like_attention(layer)}
    layers = {key: resolve_layer(layer, context) for key, layer in placed.items()}

    n_layers: dict[str, int] = {}
    n_attention: dict[str, int] = {}
    for (container, _, cross), tensors in layers.items():
        n_layers[container] = n_layers.get(container, 0) + (not cross)
        attends = not cross and any(tensor.role in _ATTENTION for tensor in tensors)
        n_attention[container] = n_attention.get(container, 0) + attends
    stacks = name_stacks(n_layers, n_attention, unread)

    outside = {entry: name for entry, name in names.items() if entry not in places}
    resolved = _outside(outside, stacks, notes)
    for (container, _, cross), tensors in layers.items():
        name = stacks[container]
        if cross:
            name = _CROSS_STACK if name == MAIN_STACK else f"{name}:{_CROSS_STACK}"
        for tensor in tensors:
            # Most are already in the main stack; copying each would take a quarter of the time.
            own = tensor if name == tensor.stack else replace(tensor, stack=name)
            resolved.setdefault(tensor.entry, []).append(own)
    tensors = [tensor for entry in dict.fromkeys(entries) for tensor in resolved[entry]]
    return [_by_columns(t, notes) if t.entry.order is Order.COLUMNS else t for t in tensors], notes


def _by_columns(tensor: LogicalTensor, notes: Notes) -> LogicalTensor:
    """A tensor of a matrix that is stored by columns, as the transpose that is stored by rows."""
    if tensor.stored_shape != tensor.entry.shape:
        notes.add(tensor.name, Unresolved("a stack of experts that is stored by columns"))
        return other(tensor.entry)
    return replace(tensor, stored_shape=tensor.stored_shape[::-1], transposed=not tensor.transposed)


def _outside(
    entries: Mapping[TensorEntry, str], stacks: Mapping[str, str], notes: Notes
) -> dict[TensorEntry, list[LogicalTensor]]:
    """Embeddings, head and final norms: each belongs to a stack under the same prefix, the main stack first.

    Of several with the same role in a stack (`shared.weight` and `decoder.embed_tokens.weight`), the one nearest to the
    layers gets it; if two are equally near, none does.
    """
    claims: dict[tuple[str, Role], dict[int, list[TensorEntry]]] = {}
    by_main_first = sorted(stacks.items(), key=lambda item: (item[1] != MAIN_STACK, item[0]))
    # `output.weight` is ambiguous unless the checkpoint has Meta's or llama.cpp's name of the embedding.
    meta = any(entry.name.endswith(("tok_embeddings.weight", "token_embd.weight")) for entry in entries)
    for entry, plain in entries.items():
        prefix, role = _outside_role(entry, plain)
        stack = next((name for container, name in by_main_first if container.startswith(prefix)), None)
        if role is None or stack is None or (entry.name.endswith("output.weight") and not meta):
            notes.add_look_alike(entry)
            continue
        claims.setdefault((stack, role), {}).setdefault(len(prefix), []).append(entry)
    resolved = {entry: [other(entry)] for entry in entries}
    for (stack, role), by_prefix in claims.items():
        nearest = by_prefix[max(by_prefix)]
        for entry in nearest:
            if len(nearest) == 1:
                resolved[entry] = [replace(other(entry), role=role, stack=stack)]
            else:
                notes.add(entry.name, Unresolved(f"another tensor claims to be the {role} too"))
    return resolved


def _outside_role(entry: TensorEntry, name: str) -> tuple[str, Role | None]:
    """Prefix and role of a tensor outside of the layers; no role if its dtype or shape does not fit."""
    parts = name.split(".")
    for start in range(max(0, len(parts) - 4), len(parts)):
        role = OUTSIDE.get(".".join(parts[start:]))
        if role is not None:
            fits = len(entry.shape) == (1 if role == Role.FINAL_NORM else 2) and 0 not in entry.shape
            read = holds_weights(entry) and entry.order is not Order.APART
            return "".join(f"{part}." for part in parts[:start]), role if fits and read else None
    return "", None

"""The tensors of one layer: look up names, split fused tensors, undo the stored orientation, and check shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from provenance.crawler.architectures.agreement import READ_RESIDUAL, agreeing, latent_fits
from provenance.crawler.architectures.config import Settings
from provenance.crawler.architectures.fused import Geometry, Layout, Parts, Unresolved, rotary
from provenance.crawler.architectures.llama_cpp import PERMUTED, ROTARY
from provenance.crawler.architectures.names import (
    BOTTLENECK,
    CONV1D_STEMS,
    DOUBLE_UP,
    EXPERTS_IN_ROWS,
    EXPERTS_OUT_FIRST,
    FUSED,
    GATED_QUERY,
    HEAD_AXIS,
    NO_SOFTMAX,
    POINTWISE,
    ROLE_OF_STEM,
    ROTARY_STEMS,
    VARIANTS,
    Fused,
)
from provenance.crawler.architectures.notes import Notes, holds_weights
from provenance.crawler.architectures.stacks import Place
from provenance.crawler.formats.packing.packed import PackedEntry
from provenance.schemas.roles import ATTENTION, LATENT_ATTENTION, ROLE_BY_NAME, VECTORS, Role
from provenance.schemas.tensors import LogicalTensor, Order, TensorEntry

_BIAS_OF_PART: dict[str, Role] = {"q": Role.QUERY_BIAS, "k": Role.KEY_BIAS, "v": Role.VALUE_BIAS}
_QUERIES = (Role.QUERY, Role.QUERY_B)
_READ_HIDDEN = (*READ_RESIDUAL, Role.ROUTER)
_OTHER = Role.OTHER  # compared for every tensor; looking up an enum member is slow in Python 3.11
_MAX_EXPERTS = 4096
_TELL_WIDTH = ("self_attn.q_proj", "attn.in_proj", "attn.qkv")


@dataclass(frozen=True, slots=True)
class Context:
    """What all layers share: the config's facts, the names of all tensors, and the notes.

    `scaled`: some 8-bit floats have a scale beside them.
    """

    settings: Settings
    names: frozenset[str]
    notes: Notes
    scaled: bool = False

    def layout(self, fused: Fused, container: str) -> Layout:
        """The layout of a fused tensor, by the prefix, then the model type, then the family that owns the name.

        Raises:
            Unresolved: no known family.
        """
        for family in (*container.split("."), *self.settings.model_types, ""):
            if family in fused.layouts:
                return fused.layouts[family]
        if not self.settings.model_types:
            raise Unresolved("several families share this name and no config tells which", config=True)
        raise Unresolved(f"no known layout for model type {self.settings.model_types[-1]}")

    def check_values(self, entry: TensorEntry) -> None:
        """Refuse tensors whose stored numbers are not the weights.

        Raises:
            Unresolved: integers, packed values, 8-bit floats or NVFP4 that need a scale from another tensor, or
                values that lie apart.
        """
        if entry.order is Order.APART:
            raise Unresolved("a strided view, whose values lie apart in the file")
        if not holds_weights(entry):
            raise Unresolved("packed or integer values")
        if entry.dtype.startswith(("F8", "NVFP4")) and not isinstance(entry, PackedEntry):
            if self.scaled and entry.dtype.startswith("F8"):
                raise Unresolved("8-bit values without the scale that others of this checkpoint have")
            bare = entry.name.removesuffix(".weight")
            scales = (f"{entry.name}_scale", f"{entry.name}_scale_inv", f"{bare}.scale", f"{bare}.scale_weight")
            if any(scale in self.names for scale in scales):
                raise Unresolved("values that need the scale beside them")


def other(entry: TensorEntry) -> LogicalTensor:
    """A tensor without a role."""
    return LogicalTensor(entry.name, None, _OTHER, None, entry.shape, entry, stored_shape=entry.shape)


def resolve_layer(places: Sequence[Place], context: Context) -> list[LogicalTensor]:
    """The logical tensors of one layer, with `layer` and `expert` set; `stack` is set later."""
    layer = _Layer(places, context)
    resolved = [
        replace(tensor, layer=place.layer, expert=place.expert if tensor.expert is None else tensor.expert)
        for place in places
        for tensor in layer.resolve(place)
    ]
    return agreeing(resolved, context.notes, layer.readers)


class _Layer:
    def __init__(self, places: Sequence[Place], context: Context) -> None:
        self.context = context
        self.matrices = {
            place.stem: place.entry.shape
            for place in places
            if place.suffix == "weight" and len(place.entry.shape) == 2 and place.expert is None
        }
        stems = {place.stem for place in places}
        self.readers = tuple(r for r in READ_RESIDUAL if r != Role.VALUE or BOTTLENECK not in stems)
        self.linear = {module for module, _, member in (stem.rpartition(".") for stem in stems) if member in NO_SOFTMAX}
        known = _roles(stems)
        self.roles = {
            stem: _OTHER if role in ATTENTION and stem.rpartition(".")[0] in self.linear else role
            for stem in stems
            if (role := known.get(stem)) is not None
        }
        self.meta = "attention_norm" in stems  # Meta's own files; vision towers also have `attention.wq`
        self.conv1d = _conv1d(self.matrices)
        if self.conv1d is None:
            self.matrices = {stem: shape for stem, shape in self.matrices.items() if stem not in CONV1D_STEMS}
        self.inputs = {role: self._input(stem) for stem in self.matrices if (role := self.roles.get(stem))}
        query = next((shape[0] for stem, shape in self.matrices.items() if self.roles.get(stem) == Role.QUERY), None)
        self.geometry = Geometry(context.settings, self.inputs.get(Role.OUTPUT) or query)
        self.latent = any(role in self.inputs for role in LATENT_ATTENTION)
        rows = {self.roles.get(stem): shape for stem, shape in self.matrices.items()}
        self.latent_fits = latent_fits(
            rows.get(Role.QUERY_B) or rows.get(Role.QUERY),
            rows.get(Role.KEY_VALUE_A),
            rows.get(Role.KEY_VALUE_B),
            rows.get(Role.OUTPUT),
        )

    def _transposed(self, stem: str) -> bool:
        return HEAD_AXIS.get(stem, self.conv1d is True and stem in CONV1D_STEMS)

    def _permuted(self, place: Place) -> bool:
        """Whether the rows of a query or key projection are stored in Meta's rotary order.

        Raises:
            Unresolved: it is named as in llama.cpp, and nothing tells the architecture.
        """
        if place.stem not in ROTARY_STEMS:
            return False
        if place.stem not in ROTARY:
            return self.meta
        if not self.context.settings.model_types:
            raise Unresolved("whether llama.cpp has reordered its rows depends on the architecture", config=True)
        return self.context.settings.model_types[0] in PERMUTED

    def _input(self, stem: str) -> int:
        return self.matrices[stem][0 if self._transposed(stem) else 1]

    def resolve(self, place: Place) -> list[LogicalTensor]:
        """The parts of one stored tensor; the tensor itself as `other`, with a note, if its role is not certain."""
        try:
            return list(self._claim(place))
        except Unresolved as gap:
            self.context.notes.add(place.entry.name, gap)
            return [other(place.entry)]

    def _claim(self, place: Place) -> Iterator[LogicalTensor]:
        entry, stem = place.entry, place.stem
        role = self.roles.get(stem, _OTHER)
        fused = self._fused(place, role)
        if role == _OTHER and fused is None:
            self.context.notes.add_look_alike(entry)
            yield other(entry)
        elif place.suffix == "bias":
            yield from self._bias(place, role, fused)
        elif role in VECTORS:
            yield self._vector(entry, role) if place.suffix and len(entry.shape) == 1 else other(entry)
        elif _holds_experts(place):
            yield from self._stacked(place, role, fused)
        elif place.suffix or stem in HEAD_AXIS:
            yield from self._matrix(place, role, fused)
        else:
            self.context.notes.add_look_alike(entry)
            yield other(entry)

    def _vector(self, entry: TensorEntry, role: Role) -> LogicalTensor:
        self.context.check_values(entry)
        return replace(other(entry), role=role)

    def _fused(self, place: Place, role: Role) -> Fused | None:
        """The table entry of a fused tensor, recognised by its name or its shape; null for any other tensor."""
        if place.expert is not None:
            return None
        rows, width = place.entry.shape[0] if place.entry.shape else 0, self.inputs.get(Role.DOWN)
        if role == Role.QUERY and not self.latent and self.inputs.get(Role.OUTPUT, 0) * 2 == rows:
            return GATED_QUERY
        if place.stem in DOUBLE_UP and width is not None and rows == 2 * width:
            return DOUBLE_UP[place.stem]
        if place.stem.rpartition(".")[0] in self.linear:
            return None
        return FUSED.get(place.stem)

    def _split(self, place: Place, fused: Fused, rows: int) -> Parts:
        conv1d = fused.conv1d if self._transposed(place.stem) else None
        layout = conv1d or self.context.layout(fused, place.container)
        return layout(rows, self.geometry)

    def _bias(self, place: Place, role: Role, fused: Fused | None) -> Iterator[LogicalTensor]:
        """q, k and v biases have the same rows as their matrices; other biases have no role."""
        entry = place.entry
        if len(entry.shape) != 1 or (role != _OTHER and role not in _BIAS_OF_PART):
            yield other(entry)
        elif fused is None:
            self.context.check_values(entry)
            rows = rotary(entry.shape[0], self.geometry) if self._permuted(place) else None
            yield replace(other(entry), role=_BIAS_OF_PART[role], rows=rows)
        else:
            self.context.check_values(entry)
            for part, rows in self._split(place, fused, entry.shape[0]).items():
                of_part = _BIAS_OF_PART.get(part, _OTHER)
                yield replace(other(entry), part=part, role=of_part, shape=(rows.count,), rows=rows)

    def _matrix(self, place: Place, role: Role, fused: Fused | None) -> Iterator[LogicalTensor]:
        entry, stem = place.entry, place.stem
        self.context.check_values(entry)
        stored = entry.shape
        if len(stored) == 3 and (stem in HEAD_AXIS or (stem in POINTWISE and stored[2] == 1)):
            stored = stored[0], stored[1] * stored[2]
        if len(stored) != 2 or 0 in stored:
            raise Unresolved(f"shape {list(entry.shape)[:4]} is no matrix")
        if role in _QUERIES and not self.latent_fits:
            raise Unresolved(f"{entry.shape[0]} rows are more than the queries of the layer's latent attention")
        if stem in CONV1D_STEMS and self.conv1d is None:
            raise Unresolved("nothing in the layer tells whether it is stored as [in, out] or [out, in]")
        transposed = self._transposed(stem)
        shape = stored[::-1] if transposed else stored
        whole = LogicalTensor(entry.name, None, role, None, shape, entry, stored_shape=stored, transposed=transposed)
        if fused is not None:
            for part, rows in self._split(place, fused, shape[0]).items():
                yield replace(
                    whole, part=part, role=ROLE_BY_NAME.get(part, _OTHER), shape=(rows.count, shape[1]), rows=rows
                )
        elif self._permuted(place):
            yield replace(whole, rows=rotary(shape[0], self.geometry))
        else:
            yield whole

    def _stack(self, place: Place) -> tuple[int, int, int]:
        """Number of experts, and the rows and columns of each.

        Raises:
            Unresolved: the tensor is not a stack of matrices.
        """
        shape = place.entry.shape
        if place.stem in EXPERTS_IN_ROWS and len(shape) == 2:
            n = next((self.matrices[stem][0] for stem in self.matrices if self.roles.get(stem) == Role.ROUTER), 0)
            if n == 0 or shape[0] % n:
                raise Unresolved(f"{shape[0]} rows do not divide into the {n} experts of the router")
            shape = (n, shape[0] // n, shape[1])
        if len(shape) != 3 or 0 in shape or shape[0] > _MAX_EXPERTS:
            raise Unresolved(f"shape {list(shape)[:4]} is no stack of at most {_MAX_EXPERTS} expert matrices")
        return shape[0], shape[1], shape[2]

    def _stacked(self, place: Place, role: Role, fused: Fused | None) -> Iterator[LogicalTensor]:
        """Experts stored as one `[experts, a, b]`; the width of the residual stream distinguishes `a` from `b`."""
        entry = place.entry
        self.context.check_values(entry)
        n_experts, a, b = self._stack(place)
        hidden = next((self.inputs[r] for r in _READ_HIDDEN if r in self.inputs), self.context.settings.hidden_size)
        known = place.stem in EXPERTS_OUT_FIRST or (isinstance(entry, PackedEntry) and entry.packing.out_first)
        if not known and (a == b or hidden not in (a, b)):
            reason = f"experts of {a} x {b} may be stored as [in, out] or [out, in]"
            raise Unresolved(reason, config=a != b and hidden is None)
        transposed = not known and (a == hidden) != (role == Role.DOWN)
        shape = (b, a) if transposed else (a, b)
        whole = LogicalTensor(entry.name, None, role, None, shape, entry, stored_shape=(a, b), transposed=transposed)
        parts = self._split(place, fused, shape[0]) if fused is not None else None
        for expert in range(n_experts):
            one = replace(whole, expert=expert, element_offset=expert * a * b)
            if parts is None:
                yield one
            else:
                for part, rows in parts.items():
                    yield replace(
                        one, part=part, role=ROLE_BY_NAME.get(part, _OTHER), shape=(rows.count, shape[1]), rows=rows
                    )


def _holds_experts(place: Place) -> bool:
    """Whether a tensor stacks the matrices of all experts."""
    of_mixture = place.stem.startswith(("mlp.", "moe.", "block_sparse_moe."))
    stacked = place.stem in EXPERTS_OUT_FIRST or ".experts." in place.stem
    return place.expert is None and (stacked or (of_mixture and len(place.entry.shape) == 3))


def _conv1d(matrices: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether tensors with GPT-2's names are stored `[in, out]`; null if the layer's attention does not show it."""
    if "attn.attention.q_proj" in matrices or "attn.kv" in matrices:
        return False
    rows, columns = matrices.get("attn.c_attn", (0, 0))
    if 0 < 3 * rows == columns:
        return True
    if rows > columns:
        return False
    width = next((shape[1] for stem, shape in matrices.items() if stem in _TELL_WIDTH), None)
    rows, columns = matrices.get("mlp.c_fc", (0, 0))
    return False if rows != columns == width else None


def _roles(stems: set[str]) -> dict[str, Role]:
    roles = dict(ROLE_OF_STEM)
    for variant in VARIANTS:
        if variant.holds in stems and not (variant.lacks and variant.lacks in stems):
            roles |= variant.roles
    return roles

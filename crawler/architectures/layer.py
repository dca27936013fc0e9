"""The tensors of one layer: names looked up, fused ones split, stored orientation undone, shapes checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from provenance.crawler.architectures.agreement import READ_RESIDUAL, agreeing, latent_fits
from provenance.crawler.architectures.config import Settings
from provenance.crawler.architectures.fused import Geometry, Layout, Parts, Unsettled, rotary
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
    NO_SOFTMAX_FAMILIES,
    ROLE_OF_STEM,
    ROTARY_STEMS,
    VARIANTS,
    Fused,
)
from provenance.crawler.architectures.notes import FLOAT_DTYPES, Notes
from provenance.crawler.architectures.stacks import Place
from provenance.schemas.records import LogicalTensor, TensorEntry
from provenance.schemas.roles import ATTENTION, LATENT_ATTENTION, ROLE_CODE, VECTORS

_BIASED = ("q", "k", "v")
_MAX_EXPERTS = 4096
_TELL_WIDTH = ("self_attn.q_proj", "attn.in_proj", "attn.qkv")


@dataclass(frozen=True, slots=True)
class Context:
    """What all layers share: the config's facts, the scaled tensors' names, and the notes being taken."""

    settings: Settings
    names: frozenset[str]
    notes: Notes

    def layout(self, fused: Fused, container: str) -> Layout:
        """The layout of a fused tensor, by the prefix, then the model type, then the name's owner.

        Raises:
            Unsettled: no known family.
        """
        for family in (*container.split("."), *self.settings.model_types, ""):
            if family in fused.layouts:
                return fused.layouts[family]
        if not self.settings.model_types:
            raise Unsettled("several families share this name and no config tells which", config=True)
        raise Unsettled(f"no known layout for model type {self.settings.model_types[-1]}")

    def check_values(self, entry: TensorEntry) -> None:
        """Refuse tensors whose stored numbers are not the weights.

        Raises:
            Unsettled: integers, packed values, or 8-bit floats with a scale beside them.
        """
        if entry.dtype not in FLOAT_DTYPES:
            raise Unsettled("packed or integer values")
        if entry.dtype.startswith("F8"):
            bare = entry.name.removesuffix(".weight")
            scales = (f"{entry.name}_scale", f"{entry.name}_scale_inv", f"{bare}.scale", f"{bare}.scale_weight")
            if any(scale in self.names for scale in scales):
                raise Unsettled("8-bit values that need the scale beside them")


def other(entry: TensorEntry) -> LogicalTensor:
    """A tensor without a role."""
    return LogicalTensor(entry.name, None, "other", None, entry.shape, entry, stored_shape=entry.shape)


def resolve_layer(places: Sequence[Place], context: Context) -> list[LogicalTensor]:
    """The logical tensors of one layer, with `layer` and `expert` set and `stack` left for later."""
    layer = _Layer(places, context)
    resolved = [
        replace(tensor, layer=found.layer, expert=found.expert if tensor.expert is None else tensor.expert)
        for found in places
        for tensor in layer.resolve(found)
    ]
    return agreeing(resolved, context.notes, layer.readers)


class _Layer:
    def __init__(self, places: Sequence[Place], context: Context) -> None:
        self.context = context
        self.matrices = {
            found.stem: found.entry.shape
            for found in places
            if found.suffix == "weight" and len(found.entry.shape) == 2 and found.expert is None
        }
        stems = {found.stem for found in places}
        self.readers = tuple(r for r in READ_RESIDUAL if r != "v" or BOTTLENECK not in stems)
        self.linear = {module for module, _, member in (stem.rpartition(".") for stem in stems) if member in NO_SOFTMAX}
        none = any(word in NO_SOFTMAX_FAMILIES for word in places[0].container.split("."))
        self.roles = {
            stem: "other" if role in ATTENTION and (none or stem.rpartition(".")[0] in self.linear) else role
            for stem, role in _roles(stems).items()
        }
        self.rotary = "attention_norm" in stems  # Meta's own files; vision towers write `attention.wq` too
        self.conv1d = _conv1d(self.matrices)
        if self.conv1d is None:
            self.matrices = {stem: shape for stem, shape in self.matrices.items() if stem not in CONV1D_STEMS}
        self.inputs = {role: self._input(stem) for stem in self.matrices if (role := self.roles.get(stem))}
        query = next((shape[0] for stem, shape in self.matrices.items() if self.roles.get(stem) == "q"), None)
        self.geometry = Geometry(context.settings, self.inputs.get("o") or query)
        self.latent = any(role in self.inputs for role in LATENT_ATTENTION)
        rows = {self.roles.get(stem): shape for stem, shape in self.matrices.items()}
        self.latent_fits = latent_fits(
            rows.get("q_b") or rows.get("q"), rows.get("kv_a"), rows.get("kv_b"), rows.get("o")
        )

    def _transposed(self, stem: str) -> bool:
        return HEAD_AXIS.get(stem, self.conv1d is True and stem in CONV1D_STEMS)

    def _input(self, stem: str) -> int:
        return self.matrices[stem][0 if self._transposed(stem) else 1]

    def resolve(self, found: Place) -> list[LogicalTensor]:
        """The parts of one stored tensor; itself as `other`, with a note, where its role is not certain."""
        try:
            return list(self._claim(found))
        except Unsettled as gap:
            self.context.notes.add(found.entry.name, gap)
            return [other(found.entry)]

    def _claim(self, found: Place) -> Iterator[LogicalTensor]:
        entry, stem = found.entry, found.stem
        role = self.roles.get(stem, "other")
        fused = self._fused(found, role)
        if role == "other" and fused is None:
            self.context.notes.add_look_alike(entry)
            yield other(entry)
        elif found.suffix == "bias":
            yield from self._bias(found, role, fused)
        elif role in VECTORS:
            yield self._vector(entry, role) if found.suffix and len(entry.shape) == 1 else other(entry)
        elif _holds_experts(found):
            yield from self._stacked(found, role, fused)
        elif found.suffix or stem in HEAD_AXIS:
            yield from self._matrix(found, role, fused)
        else:
            self.context.notes.add_look_alike(entry)
            yield other(entry)

    def _vector(self, entry: TensorEntry, role: str) -> LogicalTensor:
        self.context.check_values(entry)
        return replace(other(entry), role=role)

    def _fused(self, found: Place, role: str) -> Fused | None:
        """The row of a fused tensor, whether its name says so or only its shape does."""
        if found.expert is not None:
            return None
        rows, width = found.entry.shape[0] if found.entry.shape else 0, self.inputs.get("down")
        if role == "q" and not self.latent and self.inputs.get("o", 0) * 2 == rows:
            return GATED_QUERY
        if found.stem in DOUBLE_UP and width is not None and rows == 2 * width:
            return DOUBLE_UP[found.stem]
        if found.stem.rpartition(".")[0] in self.linear:
            return None
        return FUSED.get(found.stem)

    def _split(self, found: Place, fused: Fused, rows: int) -> Parts:
        conv1d = fused.conv1d if self._transposed(found.stem) else None
        layout = conv1d or self.context.layout(fused, found.container)
        return layout(rows, self.geometry)

    def _bias(self, found: Place, role: str, fused: Fused | None) -> Iterator[LogicalTensor]:
        """q, k and v biases go where their rows go; others have no role."""
        entry = found.entry
        if len(entry.shape) != 1 or role not in (*_BIASED, "other"):
            yield other(entry)
        elif fused is None:
            self.context.check_values(entry)
            rows = rotary(entry.shape[0], self.geometry) if self.rotary and found.stem in ROTARY_STEMS else None
            yield replace(other(entry), role=f"{role}_bias", rows=rows)
        else:
            self.context.check_values(entry)
            for part, rows in self._split(found, fused, entry.shape[0]).items():
                of_part = f"{part}_bias" if part in _BIASED else "other"
                yield replace(other(entry), part=part, role=of_part, shape=(rows.count,), rows=rows)

    def _matrix(self, found: Place, role: str, fused: Fused | None) -> Iterator[LogicalTensor]:
        entry, stem = found.entry, found.stem
        self.context.check_values(entry)
        apart = stem in HEAD_AXIS and len(entry.shape) == 3
        stored = (entry.shape[0], entry.shape[1] * entry.shape[2]) if apart else entry.shape
        if len(stored) != 2 or 0 in stored:
            raise Unsettled(f"shape {list(entry.shape)[:4]} is no matrix")
        if role in ("q", "q_b") and not self.latent_fits:
            raise Unsettled(f"{entry.shape[0]} rows are more than the queries of the layer's latent attention")
        if stem in CONV1D_STEMS and self.conv1d is None:
            raise Unsettled("nothing in the layer tells whether it is stored as [in, out] or [out, in]")
        transposed = self._transposed(stem)
        shape = stored[::-1] if transposed else stored
        whole = LogicalTensor(entry.name, None, role, None, shape, entry, stored_shape=stored, transposed=transposed)
        if fused is not None:
            for part, rows in self._split(found, fused, shape[0]).items():
                yield replace(whole, part=part, role=_role(part), shape=(rows.count, shape[1]), rows=rows)
        elif self.rotary and stem in ROTARY_STEMS:
            yield replace(whole, rows=rotary(shape[0], self.geometry))
        else:
            yield whole

    def _stack(self, found: Place) -> tuple[int, int, int]:
        """Number of experts and shape of each.

        Raises:
            Unsettled: no stack of matrices.
        """
        shape = found.entry.shape
        if found.stem in EXPERTS_IN_ROWS and len(shape) == 2:
            n = next((self.matrices[stem][0] for stem in self.matrices if self.roles.get(stem) == "router"), 0)
            if n == 0 or shape[0] % n:
                raise Unsettled(f"{shape[0]} rows do not divide into the {n} experts of the router")
            shape = (n, shape[0] // n, shape[1])
        if len(shape) != 3 or 0 in shape or shape[0] > _MAX_EXPERTS:
            raise Unsettled(f"shape {list(shape)[:4]} is no stack of at most {_MAX_EXPERTS} expert matrices")
        return shape[0], shape[1], shape[2]

    def _stacked(self, found: Place, role: str, fused: Fused | None) -> Iterator[LogicalTensor]:
        """Experts stored as one `[experts, a, b]`; the width of the residual stream tells `a` from `b`."""
        entry = found.entry
        self.context.check_values(entry)
        n_experts, a, b = self._stack(found)
        readers = (*READ_RESIDUAL, "router")
        hidden = next((self.inputs[r] for r in readers if r in self.inputs), self.context.settings.hidden_size)
        known = found.stem in EXPERTS_OUT_FIRST
        if not known and (a == b or hidden not in (a, b)):
            reason = f"experts of {a} x {b} may be stored as [in, out] or [out, in]"
            raise Unsettled(reason, config=a != b and hidden is None)
        transposed = not known and (a == hidden) != (role == "down")
        shape = (b, a) if transposed else (a, b)
        whole = LogicalTensor(entry.name, None, role, None, shape, entry, stored_shape=(a, b), transposed=transposed)
        parts = self._split(found, fused, shape[0]) if fused is not None else None
        for expert in range(n_experts):
            one = replace(whole, expert=expert, element_offset=expert * a * b)
            if parts is None:
                yield one
            else:
                for part, rows in parts.items():
                    yield replace(one, part=part, role=part, shape=(rows.count, shape[1]), rows=rows)


def _holds_experts(found: Place) -> bool:
    """Whether a tensor stacks the matrices of all experts."""
    of_mixture = found.stem.startswith(("mlp.", "moe.", "block_sparse_moe."))
    return found.expert is None and (".experts." in found.stem or (of_mixture and len(found.entry.shape) == 3))


def _role(part: str) -> str:
    return part if part in ROLE_CODE else "other"


def _conv1d(matrices: Mapping[str, tuple[int, ...]]) -> bool | None:
    """Whether GPT-2's names are stored `[in, out]` here; null where the layer's attention does not tell."""
    if "attn.attention.q_proj" in matrices:
        return False
    rows, columns = matrices.get("attn.c_attn", (0, 0))
    if 0 < 3 * rows == columns:
        return True
    if rows > columns:
        return False
    width = next((shape[1] for stem, shape in matrices.items() if stem in _TELL_WIDTH), None)
    rows, columns = matrices.get("mlp.c_fc", (0, 0))
    return False if rows != columns == width else None


def _roles(stems: set[str]) -> dict[str, str]:
    roles = dict(ROLE_OF_STEM)
    for variant in VARIANTS:
        if variant.holds in stems and not (variant.lacks and variant.lacks in stems):
            roles |= variant.roles
    return roles

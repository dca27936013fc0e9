"""Consistency of the matrices in one layer: a tensor that contradicts the others loses its role."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TypeAlias

from provenance.crawler.architectures.fused import Unresolved
from provenance.crawler.architectures.notes import Notes
from provenance.schemas.roles import FEED_FORWARD, Role
from provenance.schemas.tensors import LogicalTensor

READ_RESIDUAL = (Role.QUERY, Role.KEY, Role.VALUE, Role.QUERY_A, Role.KEY_VALUE_A)

_OTHER, _OUTPUT, _DOWN = Role.OTHER, Role.OUTPUT, Role.DOWN  # compared for every tensor: see `layer`
_WRITE_RESIDUAL = (_OUTPUT, _DOWN)
_OF_WIDTH = (*FEED_FORWARD, _OUTPUT)
_WRITE_INNER = (Role.GATE, Role.UP)

_Shape: TypeAlias = tuple[int, ...] | None


def agreeing(tensors: list[LogicalTensor], notes: Notes, readers: tuple[Role, ...]) -> list[LogicalTensor]:
    """The tensors of one layer; those that contradict each other lose their role. `readers` must have equal widths."""
    return _whole(_of_one_width(_unclaimed_twice(tensors, notes), notes, readers), notes)


def latent_fits(q: _Shape, kv_a: _Shape, kv_b: _Shape, o: _Shape) -> bool:
    """Whether the rows of q fit the other projections of a latent attention (A.X K2 adds an output gate).

    kv_a writes the latent and one rotary part, kv_b reads the latent and writes the unrotated keys and the values of
    all heads, and o reads the values. So q has the rows of the unrotated keys and an integer number of rotary parts,
    one for each head.
    """
    if not (q and kv_a and kv_b and o):
        return True
    rotary, plain = kv_a[0] - kv_b[1], kv_b[0] - o[1]
    if rotary <= 0 or plain < 0:
        return rotary == 0
    heads, rest = divmod(q[0] - plain, rotary)
    return rest == 0 and heads > 0 and o[1] % heads == 0 and plain % heads == 0


def _unclaimed_twice(tensors: list[LogicalTensor], notes: Notes) -> list[LogicalTensor]:
    """If two stored tensors claim the same role in a layer, neither gets it."""
    claims = Counter((t.role, t.expert) for t in tensors if t.role != _OTHER)
    return [
        _refused(t, "another tensor of the layer claims the same role", notes) if claims[t.role, t.expert] > 1 else t
        for t in tensors
    ]


def _of_one_width(tensors: list[LogicalTensor], notes: Notes, readers: tuple[Role, ...]) -> list[LogicalTensor]:
    """Refuse matrices of different widths in one layer: q, k, v and the feed-forward share the residual stream."""
    widths = {t.shape[1] for t in tensors if t.role in readers}
    if len(widths) > 1:
        reason = f"q, k, v of the layer read {sorted(widths)} inputs, which should be one number"
        return [_refused(t, reason, notes) if t.role in READ_RESIDUAL else t for t in tensors]
    if not widths:
        return tensors
    width = widths.pop()
    checked = []
    for tensor in tensors:
        side = 0 if tensor.role in _WRITE_RESIDUAL else 1
        if tensor.role in _OF_WIDTH and tensor.shape[side] != width:
            gap = f"{'writes' if side == 0 else 'reads'} {tensor.shape[side]} numbers where q reads {width}"
            if tensor.role == _OUTPUT:
                notes.add(tensor.name, Unresolved(gap))
            else:
                tensor = _refused(tensor, gap, notes)
        checked.append(tensor)
    return checked


def _whole(tensors: list[LogicalTensor], notes: Notes) -> list[LogicalTensor]:
    """Refuse incomplete groups: gate and up write what down reads, and an `o` needs a `q` or its latent form."""
    inner = {(t.role, t.expert): t.shape for t in tensors if t.role in FEED_FORWARD}
    attends = any(t.role in READ_RESIDUAL for t in tensors)
    checked = []
    for tensor in tensors:
        down = inner.get((_DOWN, tensor.expert))
        if tensor.role == _OUTPUT and not attends:
            tensor = _refused(tensor, "nothing in the layer tells which attention it belongs to", notes)
        elif tensor.role in _WRITE_INNER and down and tensor.shape[0] != down[1]:
            tensor = _refused(tensor, f"writes {tensor.shape[0]} numbers where down reads {down[1]}", notes)
        checked.append(tensor)
    return checked


def _refused(tensor: LogicalTensor, reason: str, notes: Notes) -> LogicalTensor:
    notes.add(tensor.name, Unresolved(reason))
    return replace(tensor, role=_OTHER)

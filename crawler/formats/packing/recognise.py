"""Which tensors of a checkpoint are packed, and how: one table.

A format is recognised by names, dtypes and shapes; the config is asked only for what these leave open. A tensor that is
in no row of the table, or does not fit its row, stays as it is stored: it gets no role, and the checkpoint a note.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from provenance.crawler.formats.packing.awq import read_awq
from provenance.crawler.formats.packing.bitsandbytes import read_4bit, read_int8
from provenance.crawler.formats.packing.fp4 import read_blocks, read_mxfp4, read_nvfp4
from provenance.crawler.formats.packing.gptq import read_gptq
from provenance.crawler.formats.packing.group import Facts, Group, Peeker
from provenance.crawler.formats.packing.integers import read_mlx, read_packed_words
from provenance.crawler.formats.packing.packed import PackedEntry, Packing, Unreadable
from provenance.crawler.formats.packing.scaled import read_floats, read_integers, read_scaled
from provenance.schemas.protocols import TensorReader
from provenance.schemas.tensors import Order, TensorEntry

_MAX_NAME, _MAX_NOTES = 120, 50

_NEVER_CODES = frozenset({"F64", "F32", "F16", "BF16", "BOOL", "I64", "U64"})

_STATE = ".weight.quant_state.bitsandbytes__"


@dataclass(frozen=True, slots=True)
class Format:
    """A row of the table.

    Attributes:
        method: what the packing is called where no config says.
        codes: how the name of the tensor with the codes ends.
        needs: what else makes the matrix -> how its name ends instead; of several names the first that is there.
        read: the packing; null if dtypes and shapes are those of another row.
        may: what else there may be.
        matrix: how the name of the matrix ends.
    """

    method: str
    codes: str
    needs: Mapping[str, tuple[str, ...]]
    read: Callable[[Group], Packing | None]
    may: Mapping[str, tuple[str, ...]]
    matrix: str = ".weight"


def _row(
    method: str,
    codes: str,
    read: Callable[[Group], Packing | None],
    needs: Mapping[str, str],
    may: Mapping[str, str] | None = None,
    matrix: str = ".weight",
) -> Format:
    """A row with the names as words with blanks between."""
    split = {part: tuple(names.split()) for part, names in needs.items()}
    return Format(
        method, codes, split, read, {part: tuple(names.split()) for part, names in (may or {}).items()}, matrix
    )


FORMATS = (
    _row("gptq", ".qweight", read_gptq, {"zeros": ".qzeros", "scales": ".scales"}, {"index": ".g_idx"}),
    _row("awq", ".qweight", read_awq, {"zeros": ".qzeros", "scales": ".scales"}),
    _row(
        "bitsandbytes",
        ".weight",
        read_4bit,
        {"scales": ".weight.absmax", "table": ".weight.quant_map", "state": f"{_STATE}nf4 {_STATE}fp4"},
        {"nested scales": ".weight.nested_absmax", "nested table": ".weight.nested_quant_map"},
    ),
    _row("bitsandbytes", ".weight", read_int8, {"scales": ".SCB"}, {"order": ".weight_format"}),
    _row("nvfp4", ".weight_packed", read_nvfp4, {"scales": ".weight_scale", "divisor": ".weight_global_scale"}),
    _row("nvfp4", ".weight", read_nvfp4, {"scales": ".weight_scale", "factor": ".weight_scale_2"}),
    _row("mxfp4", "_blocks", read_blocks, {"scales": "_scales"}, matrix=""),
    _row("mxfp4", ".weight_packed", read_mxfp4, {"scales": ".weight_scale"}),
    _row("mxfp4", ".weight", read_mxfp4, {"scales": ".weight_scale"}),
    _row(
        "compressed-tensors",
        ".weight_packed",
        read_packed_words,
        {"scales": ".weight_scale", "shape": ".weight_shape"},
        {"zeros": ".weight_zero_point", "index": ".weight_g_idx"},
    ),
    _row("mlx", ".weight", read_mlx, {"scales": ".scales", "biases": ".biases"}),
    _row("mlx", ".weight", read_mxfp4, {"scales": ".scales"}),
    _row("quanto", ".weight._data", read_scaled, {"scales": ".weight._scale"}),
    _row("torchao", "._weight_qdata", read_scaled, {"scales": "._weight_scale"}, {"zeros": "._weight_zero_point"}),
    _row("fp8", ".weight", read_floats, {"scales": ".weight_scale .weight_scale_inv .scale .scale_weight"}),
    _row("int8", ".weight", read_integers, {"scales": ".weight_scale .scale"}, {"zeros": ".weight_zero_point"}),
    _row("fp8", "", read_floats, {"scales": "_scale _scale_inv"}, matrix=""),
)

_UNREAD = {
    ".q_weight": "exl2",
    ".trellis": "exl3",
    ".W_q": "hqq",
    ".codebooks": "aqlm",
    ".Qidxs": "quip",
    ".centroids": "vptq",
    ".weight_scales": "eetq",
    ".workspace": "marlin",
    ".qzeros": "gptq",
    ".weight_packed": "compressed-tensors",
    ".weight._data._data": "quanto",
    "._weight_qdata": "torchao",
    ".weight.absmax": "bitsandbytes",
}
"""How names end that tell of a packing which is not read, or was not readable here."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A checkpoint's tensors with a `PackedEntry` in place of each group that makes one matrix.

    Attributes:
        method: the packing of most matrices, as its writers call it; null if nothing is packed.
        notes: why tensors that look packed are left as they are stored.
    """

    entries: tuple[TensorEntry, ...]
    method: str | None
    notes: tuple[str, ...]


def may_be_packed(entries: Sequence[TensorEntry]) -> bool:
    """Whether any dtype could be that of codes. A checkpoint of which this is false is read as it is stored."""
    return any(entry.dtype not in _NEVER_CODES for entry in entries)


def unpack(entries: Sequence[TensorEntry], config: Mapping[str, object] | None, reader: TensorReader) -> Unpacked:
    """Find the packed matrices of a checkpoint.

    Args:
        entries: all stored tensors, no two of the same name.
        config: parsed config.json, or null.
        reader: reads a few small tensors that say what shapes do not, two for each kind of matrix at most.

    Raises:
        CheckpointError: a file cannot be read.
    """
    if not may_be_packed(entries):
        return Unpacked(tuple(entries), None, ())
    by_name = {entry.name: entry for entry in entries}
    facts, peeker = Facts(_quantization(config)), Peeker(reader)
    methods: Counter[str] = Counter()
    notes: Counter[str] = Counter()
    replaced: dict[str, PackedEntry | None] = {}
    for entry in entries:
        # bitsandbytes can be told to keep its bytes as floats, in one column.
        if entry.name in replaced or (entry.dtype in _NEVER_CODES and entry.shape[1:] != (1,)):
            continue
        try:
            for method, packed, members in _packed(entry, by_name, facts, peeker):
                methods[method] += 1
                replaced |= dict.fromkeys(members, None)
                replaced[entry.name] = packed
        except Unreadable as reason:
            notes[f"{_pattern(entry.name)}: {reason}"] += 1
    left = (replaced.get(entry.name, entry) for entry in entries)
    kept = tuple(entry for entry in left if entry is not None)
    unread = Counter(method for e in kept for ending, method in _UNREAD.items() if e.name.endswith(ending))
    for method, count in () if notes else unread.items():
        notes[f"packed as {method} stores it, which is not read"] += count
    lines = [note + (f" ({n} tensors)" if n > 1 else "") for note, n in notes.most_common(_MAX_NOTES)]
    named = methods or unread
    return Unpacked(kept, named.most_common(1)[0][0] if named else None, tuple(lines))


def _packed(
    entry: TensorEntry, by_name: Mapping[str, TensorEntry], facts: Facts, peeker: Peeker
) -> Iterator[tuple[str, PackedEntry, list[str]]]:
    """The matrix whose codes a tensor holds, its method, and the names of the other tensors; nothing if it is none's.

    Raises:
        Unreadable: a row of the table has such names, and the tensors do not fit.
    """
    for row in FORMATS:
        if not entry.name.endswith(row.codes):
            continue
        base = entry.name.removesuffix(row.codes) if row.codes else entry.name
        parts = _beside(base, row, by_name)
        if parts is None:
            continue
        if any(stored.order is not Order.ROWS for stored in (entry, *parts.values())):
            raise Unreadable("one of its tensors is not stored by rows")
        packing = row.read(Group(entry, parts, facts, peeker))
        if packing is None:
            continue
        name = base + row.matrix
        if name != entry.name and name in by_name:
            raise Unreadable("the matrix is there both packed and as it is")
        stored = 1 + len(parts)
        packed = PackedEntry(
            name, packing.label, packing.logical, entry.file, entry.start, entry.stop, packing=packing, stored=stored
        )
        yield row.method, packed, [part.name for part in parts.values()]
        return


def _beside(base: str, row: Format, by_name: Mapping[str, TensorEntry]) -> dict[str, TensorEntry] | None:
    """The other tensors of a matrix, by what they are; null if one is missing."""
    parts: dict[str, TensorEntry] = {}
    for wanted in (row.needs, row.may):
        for part, names in wanted.items():
            for name in names:
                if (found := by_name.get(base + name)) is not None:
                    parts[part] = found
                    break
            else:
                if wanted is row.needs:
                    return None
    return parts


def _quantization(config: Mapping[str, object] | None) -> Mapping[str, object]:
    """What a config says of the packing, of the language model's own section where the first says nothing."""
    sections = [config or {}]
    sections += [inner for key in ("text_config", "llm_config") if isinstance(inner := sections[0].get(key), Mapping)]
    for section in sections:
        for key in ("quantization_config", "compression_config", "quantization"):
            found = section.get(key)
            if isinstance(found, Mapping):
                return found
    return {}


def _pattern(name: str) -> str:
    """A name for a note: untrusted, so digits are replaced, control characters escaped, the length limited."""
    return re.sub(r"[0-9]+", "*", name[:_MAX_NAME]).encode("unicode_escape").decode("ascii")

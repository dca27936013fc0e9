"""Which GGUF files of a folder are models: a pure decision over their names.

A file, or the files of a split model (`NAME-00001-of-00003.gguf`), is a checkpoint by itself. Its variant is the
packing that ends the name, `Q4_K_M` in `Llama-3-8B.Q4_K_M.gguf`; where that does not tell the checkpoints of a folder
apart, as in a folder of several models, the variant is the whole name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from provenance.schemas.errors import WeightsError

SUFFIX = ".gguf"

_NAME = re.compile(r"(?P<stem>.+?)(?:-(?P<number>\d{5})-of-(?P<total>\d{5}))?\.gguf")
_PACKING = re.compile(
    r"(?P<base>.*?)(?:^|[-._])(?P<packing>(?:UD-)?(?:I?Q[1-9](?:_[0-9A-Z]+)*|TQ[12]_0|MXFP4(?:_MOE)?|NVFP4|BF16|F(?:P)?(?:16|32)))",
    re.IGNORECASE,
)
_BESIDE = re.compile(r"mmproj|imatrix|ggml-vocab", re.IGNORECASE)


@dataclass(slots=True)
class _Model:
    """The files of one name."""

    single: str | None = None
    shards: dict[tuple[int, int], str] = field(default_factory=dict)  # announced total, number -> file


def goes_with_a_model(name: str) -> bool:
    """Whether a GGUF file is a projector of images, a vocabulary, or an importance matrix by its name."""
    match = _BESIDE.search(name)
    # A model that was packed with an importance matrix is named after the packing too.
    return match is not None and not (match[0].lower() == "imatrix" and _packing(_stem(name))[1])


def gguf_models(names: Sequence[str]) -> list[tuple[str | None, tuple[str, ...]]]:
    """The models among the files of one folder.

    Args:
        names: all files of the folder.

    Returns:
        variant and files in shard order of each complete model, by variant; empty if there is no model.

    Raises:
        WeightsError: there are models, and each misses a shard.
    """
    models: dict[str, _Model] = {}
    for name in sorted(names):
        match = _NAME.fullmatch(name)
        if match is None or goes_with_a_model(name):
            continue
        model = models.setdefault(match["stem"], _Model())
        if match["number"] is None:
            model.single = name
        else:
            model.shards[int(match["total"]), int(match["number"])] = name
    variants = _variants(list(models))
    found: list[tuple[str | None, tuple[str, ...]]] = []
    gaps: list[WeightsError] = []
    for variant, model in zip(variants, models.values(), strict=True):
        try:
            found.append((variant, _files(model)))
        except WeightsError as gap:
            gaps.append(gap)
    if gaps and not found:
        raise gaps[0]
    return sorted(found, key=lambda pair: pair[0] or "")


def _stem(name: str) -> str:
    match = _NAME.fullmatch(name)
    return match["stem"] if match else name


def _packing(stem: str) -> tuple[str, str | None]:
    """The rest of a name and the packing that ends it, in capitals."""
    match = _PACKING.fullmatch(re.sub(r"[-._]i(?:mat(?:rix)?)$", "", stem, flags=re.IGNORECASE))
    return (match["base"], match["packing"].upper()) if match else (stem, None)


def _variants(stems: Sequence[str]) -> list[str | None]:
    parts = [_packing(stem) for stem in stems]
    bases = {re.sub(r"[-._]+", "-", base.lower()).strip("-") for base, _ in parts}
    packings = Counter(packing for _, packing in parts)
    if len(bases) > 1 or packings.total() > len(packings):
        return list(stems)
    return [packing for _, packing in parts]


def _files(model: _Model) -> tuple[str, ...]:
    if model.single:
        return (model.single,)
    total = max(total for total, _ in model.shards)
    example = next(iter(model.shards.values()))
    absent = [number for number in range(1, total + 1) if (total, number) not in model.shards]
    if absent:
        first = re.sub(r"-\d{5}-of-", f"-{absent[0]:05d}-of-", example)
        raise WeightsError(f"{len(absent)} of {total} files of a split model are missing: the first is {first[:120]!r}")
    return tuple(model.shards[total, number] for number in range(1, total + 1))

"""Which files of a repo are its weights: a pure decision over the file list.

The weights of a folder are the first of these that exists; later ones are ignored:

    model                        transformers, mlx, …
    diffusion_pytorch_model      a part of a diffusers pipeline
    any other name with an index the one of the most files
    consolidated                 Meta's and Mistral's own layout; next to `model` it has the same weights
    adapter_model                a LoRA without the weights it applies to
    any other name               only if there is one; several unrelated ones are skipped, not guessed at
    GGUF                         every file or split model is a checkpoint; see `gguf_selection`

and each of them but the last is, in the order in which the usual loaders look,

    NAME.safetensors                              one file
    NAME-00001-of-00030.safetensors               all shards, 5 or 6 digits, from 1 (or from 0)
    NAME.safetensors.index.json                   the files that the index names, all in the same folder; not read if
                                                  the shards are complete and there is no other file that it could name
    NAME.VARIANT.safetensors, NAME.VARIANT-00001-of-00002.safetensors
                                                  separate checkpoints, only if the plain one is absent

Where a folder has neither safetensors nor GGUF, the same holds of PyTorch's files: `pytorch_model` in place of `model`,
`.bin`, `.pt` or `.pth` in place of `.safetensors`, without the states of optimizers and the like. Their pickles are
never loaded.

A pipeline (`model_index.json`) has one checkpoint per sub-folder, and single files at its root are the same weights
again. In any other repo sub-folders count only if the root has no weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from provenance.crawler.gguf_selection import gguf_models
from provenance.crawler.shards import weight_map_of
from provenance.crawler.weight_names import ADAPTER, FORMATS, INDEXED, OTHER, PYTORCH, SAFETENSORS, Format
from provenance.schemas.errors import SkippedCheckpoint, WeightsError

PIPELINE_FILE = "model_index.json"

CONFIG_FILES = ("config.json", "params.json", "adapter_config.json", PIPELINE_FILE)
"""Files that make a folder look like a checkpoint even without weights."""

_CONFIGS = CONFIG_FILES[:2]  # those that describe the weights in the same folder, the better one first
_ADAPTER_CONFIG = "adapter_config.json"

_UNREAD: tuple[tuple[tuple[str, ...], str], ...] = (
    ((".bin", ".pt", ".pth"), "states of a training, or no weights ({})"),
    ((".ckpt", ".pkl", ".pickle"), "pickles that are never loaded ({}); save the weights as safetensors"),
    ((".gguf",), "only GGUF files that go with a model: projectors, importance matrices ({})"),
    ((".ggml",), "GGML files from before GGUF are not read ({})"),
    ((".onnx", ".onnx_data"), "ONNX graphs are not read ({})"),
    ((".h5", ".keras", ".pb", ".tflite"), "TensorFlow weights are not read ({})"),
    ((".msgpack",), "Flax weights are not read ({})"),
)
WEIGHT_SUFFIXES = (".safetensors", *(suffix for suffixes, _ in _UNREAD for suffix in suffixes))
"""Endings of weight files, including formats that are not read."""

_SIDE_FILES = "._"  # macOS writes one beside every file of an archive
_LONG = 120  # maximum characters of a name in an error


@dataclass(frozen=True, slots=True)
class Selection:
    """The weights of one checkpoint of a repo. Paths are relative to the repo, `weight_files` in shard order.

    `index_file` is the index of the shards, null without shards or index.
    """

    subfolder: str | None
    variant: str | None
    weight_files: tuple[str, ...]
    config_file: str | None
    index_file: str | None = None


@dataclass(slots=True)
class _WeightSet:
    """All files of one name, ending and variant in one folder."""

    variant: str | None
    standard: int | None  # the rank of its name, null for one that is not standard
    single: str | None = None
    index: str | None = None
    shards: dict[str, dict[int, str]] = field(default_factory=dict)  # announced total -> number -> file

    @property
    def rank(self) -> int:
        return self.standard if self.standard is not None else INDEXED if self.index else OTHER

    @property
    def first(self) -> str:
        """A file of the set, for messages."""
        return self.single or self.index or min(min(shards.values()) for shards in self.shards.values())


def select_weights(paths: Sequence[str], read_json: Callable[[str], object]) -> list[Selection]:
    """Decide which checkpoints a repo holds.

    Args:
        paths: its files, relative to the repo, with `/` as separator.
        read_json: parses one of them; called for shard indexes only, and may raise CheckpointError.

    Returns:
        one selection per checkpoint, by sub-folder and variant; never empty.

    Raises:
        WeightsError: a shard is missing, or an index is malformed or names a file outside its folder.
        SkippedCheckpoint: there are no readable weights; the message says what there is instead.
    """
    folders: dict[str, list[str]] = {"": []}
    for path in sorted(paths):
        folder, _, name = path.rpartition("/")
        if not name.startswith(_SIDE_FILES):
            folders.setdefault(folder, []).append(name)
    parts = [folder for folder in sorted(folders) if folder]
    refusals: list[SkippedCheckpoint] = []
    for group in (parts, [""]) if PIPELINE_FILE in folders[""] else ([""], parts):
        selections: list[Selection] = []
        for folder in group:
            try:
                selections += _select_folder(folder, folders[folder], read_json)
            except SkippedCheckpoint as skipped:
                refusals.append(skipped)
        if selections:
            return selections
    if refusals:
        raise refusals[0]
    reasons = [
        reason.format(_some(unread))
        for suffixes, reason in _UNREAD
        if (unread := [path for path in sorted(paths) if path.endswith(suffixes)])
    ]
    raise SkippedCheckpoint("nothing to read here: " + ("; ".join(reasons) or "no weights of any kind"))


def is_weight_related(name: str) -> bool:
    """Whether a file contains, describes or lists weights, judged by its name."""
    listed = any(kind.index.fullmatch(name) for kind in FORMATS)
    return name.endswith(WEIGHT_SUFFIXES) or name in CONFIG_FILES or listed


def names_a_model(name: str) -> bool:
    """Whether a weight file has a specific name, rather than a standard name such as `model`."""
    sets = [weights for kind in FORMATS for weights in _weight_sets([name], kind)]
    return not sets or any(weights.standard is None for weights in sets)


def _select_folder(folder: str, names: Sequence[str], read_json: Callable[[str], object]) -> list[Selection]:
    """The checkpoints of one folder; empty if it has neither weights nor an index of them."""
    kind, sets = SAFETENSORS, _weight_sets(names, SAFETENSORS)
    if not sets and (models := gguf_models(names)):
        return [
            Selection(folder or None, variant, tuple(_join(folder, name) for name in files), None)
            for variant, files in models
        ]
    if not sets:
        kind, sets = PYTORCH, _weight_sets(names, PYTORCH)
    best = min((s.rank for s in sets), default=None)
    chosen = [s for s in sets if s.rank == best]
    if any(s.variant is None for s in chosen):
        chosen = [s for s in chosen if s.variant is None]
    if best != INDEXED and len({s.variant for s in chosen}) < len(chosen):
        raise _ambiguous(folder, chosen, kind)
    checkpoints = [(s, _files(s, folder, names, kind, read_json)) for s in chosen]
    if best == INDEXED:
        most = max(len(files) for _, files in checkpoints)
        checkpoints = [(s, files) for s, files in checkpoints if len(files) == most]
        if len(checkpoints) > 1:
            raise _ambiguous(folder, [s for s, _ in checkpoints], kind)
    order = (_ADAPTER_CONFIG, *_CONFIGS) if best == ADAPTER else _CONFIGS
    config = next((_join(folder, name) for name in order if name in names), None)
    return [
        Selection(
            folder or None,
            s.variant,
            tuple(_join(folder, name) for name in files),
            config,
            _join(folder, s.index) if s.index and not s.single else None,
        )
        for s, files in sorted(checkpoints, key=lambda pair: pair[0].variant or "")
    ]


def _weight_sets(names: Sequence[str], kind: Format) -> list[_WeightSet]:
    """Group the weight files of one format and their indexes by name, ending and variant."""
    sets: dict[tuple[str, str, str | None], _WeightSet] = {}
    for name in names:
        listed = kind.index.fullmatch(name)
        match = listed or kind.match(name)
        if match is None:
            continue
        parts = match.groupdict()
        variant = parts.get("variant") or parts.get("late")
        stem = parts["stem"]
        weights = sets.setdefault((stem, parts["ending"], variant), _WeightSet(variant, kind.ranks.get(stem)))
        if listed:
            weights.index = name
        elif parts.get("number") is None:
            weights.single = name
        else:
            weights.shards.setdefault(parts.get("total") or "", {})[int(parts["number"])] = name
    return list(sets.values())


def _files(
    weights: _WeightSet, folder: str, names: Sequence[str], kind: Format, read_json: Callable[[str], object]
) -> list[str]:
    """The files of one set in shard order.

    Raises:
        WeightsError: a file is missing.
        SkippedCheckpoint: it is unclear which shards are the weights.
    """
    if weights.single:
        return [weights.single]
    if whole := _whole_set(weights, names, kind):
        return whole
    if weights.index:
        path = _join(folder, weights.index)
        named = _indexed_files(read_json(path), path, kind)
        if missing := [name for name in named if name not in names]:
            raise WeightsError(f"{path} names {len(missing)} of {len(named)} files that are missing: {_some(missing)}")
        return named
    if len(weights.shards) > 1:
        first = [_join(folder, min(shards.values())) for shards in weights.shards.values()]
        raise SkippedCheckpoint(f"shards of several sets and no index says which are the weights: {_some(first)}")
    (total, shards), *_ = weights.shards.items()
    if absent := [number for number in _numbers(total, shards) if number not in shards]:
        named = [_shard_name(weights.first, number) for number in absent[:5]]
        raise WeightsError(
            f"{len(absent)} shards of {_join(folder, weights.first)} are missing: {_some(named, len(absent))}"
        )
    return [shards[number] for number in sorted(shards)]


def _whole_set(weights: _WeightSet, names: Sequence[str], kind: Format) -> list[str]:
    """The shards in order if they need no index: one complete set whose names give the total number.

    Empty if another file could belong to it, such as a separate draft head.
    """
    if len(weights.shards) != 1 or "" in weights.shards:
        return []
    ((total, shards),) = weights.shards.items()
    others = [name for name in names if kind.match(name) and not name.startswith("consolidated")]
    complete = list(_numbers(total, shards)) == sorted(shards)
    return [shards[number] for number in sorted(shards)] if complete and len(others) == len(shards) else []


def _numbers(total: str, shards: Mapping[int, str]) -> range:
    """The expected shard numbers: by the total in the names, or up to the last shard if the names give no total."""
    start = 0 if 0 in shards or not total else 1
    return range(start, start + int(total) if total else max(shards) + 1)


def _indexed_files(index: object, path: str, kind: Format) -> list[str]:
    """The files that a shard index names, in shard order.

    Raises:
        WeightsError: the index is malformed, or names a file outside its folder.
    """
    named: set[str] = set()
    for name in weight_map_of(index, path).values():
        if not isinstance(name, str) or kind.match(name) is None:
            raise WeightsError(f"{path} names {str(name)[:_LONG]!r}, which is not a {kind.name} file")
        if "/" in name or "\\" in name or PurePosixPath(name).name != name:
            raise WeightsError(f"{path} names {name[:_LONG]!r}, which does not lie in its own folder; refused")
        named.add(name)
    numbered = re.compile(r"-(\d{5,6})-of-")

    def shard_order(name: str) -> tuple[int, str]:
        match = numbered.search(name)
        return (int(match[1]) if match else 0, name)

    return sorted(named, key=shard_order)


def _shard_name(example: str, number: int) -> str:
    """The name of shard `number`, derived from the name of another shard."""
    return re.sub(
        r"(?<=[-.])(\d+)(?=-of-\d|\.[a-z]+$)", lambda digits: f"{number:0{len(digits[1])}d}", example, count=1
    )


def _ambiguous(folder: str, sets: Sequence[_WeightSet], kind: Format) -> SkippedCheckpoint:
    names = [_join(folder, s.first) for s in sets]
    several = f"several unrelated {kind.name} files and nothing says which are the weights"
    return SkippedCheckpoint(f"{several}: {_some(names)}; crawl one by itself")


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _some(names: Sequence[str], count: int | None = None) -> str:
    """At most five names, quoted so that none breaks the line, and the number of the others."""
    more = (count or len(names)) - len(names[:5])
    return ", ".join(repr(name[:_LONG]) for name in names[:5]) + (f" and {more} more" if more > 0 else "")

"""Which files of a repo are its weights: a pure decision over the file list.

The weights of a folder are the first of these that exists; later ones are ignored:

    model                        transformers, mlx, …
    diffusion_pytorch_model      a part of a diffusers pipeline
    any other name with an index the one of the most files
    consolidated                 Meta's and Mistral's own layout; next to `model` it has the same weights
    adapter_model                a LoRA without the weights it applies to
    any other name               only if there is one; several unrelated ones are skipped, not guessed at

and each of them is, in the order in which the usual loaders look,

    NAME.safetensors                              one file
    NAME-00001-of-00030.safetensors               all shards, 5 or 6 digits, from 1 (or from 0)
    NAME.safetensors.index.json                   the files that the index names, all in the same folder; not read if
                                                  the shards are complete and there is no other file that it could name
    NAME.VARIANT.safetensors, NAME.VARIANT-00001-of-00002.safetensors
                                                  separate checkpoints, only if the plain one is absent

A pipeline (`model_index.json`) has one checkpoint per sub-folder, and single files at its root are the same weights
again. In any other repo sub-folders count only if the root has no weights. Pickles are never loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from provenance.crawler.shards import weight_map_of
from provenance.schemas.errors import SkippedCheckpoint, WeightsError

PIPELINE_FILE = "model_index.json"

CONFIG_FILES = ("config.json", "params.json", "adapter_config.json", PIPELINE_FILE)
"""Files that make a folder look like a checkpoint even without weights."""

_CONFIGS = CONFIG_FILES[:2]  # those that describe the weights in the same folder, the better one first

_RANK = {"model": 0, "diffusion_pytorch_model": 1, "consolidated": 3, "adapter_model": 4}
_INDEXED, _OTHER = 2, 5

_UNREAD: tuple[tuple[tuple[str, ...], str], ...] = (
    ((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"), "only pickled weights ({}); they are never loaded"),
    ((".gguf", ".ggml"), "GGUF is not read yet ({})"),
    ((".onnx", ".onnx_data"), "ONNX graphs are not read ({})"),
    ((".h5", ".keras", ".pb", ".tflite"), "TensorFlow weights are not read ({})"),
    ((".msgpack",), "Flax weights are not read ({})"),
)
WEIGHT_SUFFIXES = (".safetensors", *(suffix for suffixes, _ in _UNREAD for suffix in suffixes))
"""Endings of weight files, including formats that are not read."""

_SHARD = r"(?:-(?P<number>\d{5,6})-of-(?P<total>\d{5,6}))?"
_NAMES = (  # only standard names have variants: `sd_xl_base_1.0` is a name, not variant `0`
    re.compile(
        r"(?P<stem>model|diffusion_pytorch_model|adapter_model)(?:\.(?P<variant>[^.]+?))?"
        rf"{_SHARD}(?:\.(?P<late>[^.]+))?\.safetensors"
    ),
    re.compile(r"(?P<stem>consolidated)\.(?P<number>\d{1,6})\.safetensors"),
    re.compile(rf"(?P<stem>.+?){_SHARD}\.safetensors"),
)
_SIDE_FILES = "._"  # macOS writes one beside every file of an archive
_LONG = 120  # maximum characters of a name in an error
_INDEX = re.compile(r"(?P<stem>.+)\.safetensors\.index(?:\.(?P<variant>[^.]+))?\.json")


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
    """All files of one name and variant in one folder."""

    stem: str
    variant: str | None
    single: str | None = None
    index: str | None = None
    shards: dict[str, dict[int, str]] = field(default_factory=dict)  # announced total -> number -> file

    @property
    def rank(self) -> int:
        return _RANK.get(self.stem, _INDEXED if self.index else _OTHER)

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
    raise SkippedCheckpoint("no safetensors here: " + ("; ".join(reasons) or "no weights of any kind"))


def is_weight_related(name: str) -> bool:
    """Whether a file contains, describes or lists weights, judged by its name."""
    return name.endswith(WEIGHT_SUFFIXES) or name in CONFIG_FILES or _INDEX.fullmatch(name) is not None


def names_a_model(name: str) -> bool:
    """Whether a safetensors file has a specific name, rather than a standard name such as `model`."""
    return any(weights.stem not in _RANK for weights in _weight_sets([name])) or not name.endswith(".safetensors")


def _select_folder(folder: str, names: Sequence[str], read_json: Callable[[str], object]) -> list[Selection]:
    """The checkpoints of one folder; empty if it has neither safetensors nor an index of them."""
    sets = _weight_sets(names)
    best = min((s.rank for s in sets), default=None)
    chosen = [s for s in sets if s.rank == best]
    if any(s.variant is None for s in chosen):
        chosen = [s for s in chosen if s.variant is None]
    if best == _OTHER and len(chosen) > 1:
        raise _ambiguous(folder, chosen)
    checkpoints = [(s, _files(s, folder, names, read_json)) for s in chosen]
    if best == _INDEXED:
        most = max(len(files) for _, files in checkpoints)
        checkpoints = [(s, files) for s, files in checkpoints if len(files) == most]
        if len(checkpoints) > 1:
            raise _ambiguous(folder, [s for s, _ in checkpoints])
    config = next((_join(folder, name) for name in _CONFIGS if name in names), None)
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


def _weight_sets(names: Sequence[str]) -> list[_WeightSet]:
    """Group safetensors files and their indexes by name and variant."""
    sets: dict[tuple[str, str | None], _WeightSet] = {}
    for name in names:
        match = next((m for pattern in (*_NAMES, _INDEX) if (m := pattern.fullmatch(name))), None)
        if match is None:
            continue
        parts = match.groupdict()
        variant = parts.get("variant") or parts.get("late")
        weights = sets.setdefault((parts["stem"], variant), _WeightSet(parts["stem"], variant))
        if match.re is _INDEX:
            weights.index = name
        elif parts.get("number") is None:
            weights.single = name
        else:
            weights.shards.setdefault(parts.get("total") or "", {})[int(parts["number"])] = name
    return list(sets.values())


def _files(weights: _WeightSet, folder: str, names: Sequence[str], read_json: Callable[[str], object]) -> list[str]:
    """The files of one set in shard order.

    Raises:
        WeightsError: a file is missing.
        SkippedCheckpoint: it is unclear which shards are the weights.
    """
    if weights.single:
        return [weights.single]
    if whole := _whole_set(weights, names):
        return whole
    if weights.index:
        path = _join(folder, weights.index)
        named = _indexed_files(read_json(path), path)
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


def _whole_set(weights: _WeightSet, names: Sequence[str]) -> list[str]:
    """The shards in order if they need no index: one complete set whose names give the total number.

    Empty if another file could belong to it, such as a separate draft head.
    """
    if len(weights.shards) != 1 or "" in weights.shards:
        return []
    ((total, shards),) = weights.shards.items()
    others = [name for name in names if name.endswith(".safetensors") and not name.startswith("consolidated")]
    complete = list(_numbers(total, shards)) == sorted(shards)
    return [shards[number] for number in sorted(shards)] if complete and len(others) == len(shards) else []


def _numbers(total: str, shards: Mapping[int, str]) -> range:
    """The expected shard numbers: by the total in the names, or up to the last shard if the names give no total."""
    start = 0 if 0 in shards or not total else 1
    return range(start, start + int(total) if total else max(shards) + 1)


def _indexed_files(index: object, path: str) -> list[str]:
    """The files that a shard index names, in shard order.

    Raises:
        WeightsError: the index is malformed, or names a file outside its folder.
    """
    named: set[str] = set()
    for name in weight_map_of(index, path).values():
        if not isinstance(name, str) or not name.endswith(".safetensors"):
            raise WeightsError(f"{path} names {str(name)[:_LONG]!r}, which is not a safetensors file")
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
        r"(?<=[-.])(\d+)(?=-of-\d|\.safetensors$)", lambda digits: f"{number:0{len(digits[1])}d}", example, count=1
    )


def _ambiguous(folder: str, sets: Sequence[_WeightSet]) -> SkippedCheckpoint:
    names = [_join(folder, s.first) for s in sets]
    return SkippedCheckpoint(
        f"several unrelated safetensors and nothing says which are the weights: {_some(names)}; crawl one by itself"
    )


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _some(names: Sequence[str], count: int | None = None) -> str:
    """At most five names, quoted so that none breaks the line, and the number of the others."""
    more = (count or len(names)) - len(names[:5])
    return ", ".join(repr(name[:_LONG]) for name in names[:5]) + (f" and {more} more" if more > 0 else "")

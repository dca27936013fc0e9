"""The repos in a local folder.

A folder is a repo if it directly contains weights or a config. A repo in the hub's layout owns its sub-folders: one
with `model_index.json`, an entry in `listing.jsonl` or a place in a Hugging Face cache. In other folders a sub-folder
with weights is a separate repo. Symbolic links are followed inside the given root and into the `blobs/` of the Hugging
Face cache that contains them. A link from a weight file, config or folder to anywhere else fails its repo. Each real
folder is searched once, so that circular links do no harm.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import unicodedata
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from provenance.crawler.card import FRONT_MATTER_LIMIT
from provenance.crawler.local.confinement import Contents, confined, contents_of, is_snapshot
from provenance.crawler.local.reader import LocalReader
from provenance.crawler.metadata import (
    base_of_adapter,
    commit_from_listing,
    files_from_listing,
    metadata_from_listing,
    metadata_from_readme,
    parse_listing,
    with_declared,
)
from provenance.crawler.selection import (
    CONFIG_FILES,
    PIPELINE_FILE,
    WEIGHT_SUFFIXES,
    Selection,
    is_weight_related,
    names_a_model,
    select_weights,
)
from provenance.crawler.shards import read_index
from provenance.schemas.enums import Source, Stage
from provenance.schemas.errors import IdentityError, SourceError, WeightsError
from provenance.schemas.identity import UNKNOWN_REVISION, CheckpointId, is_repo_id
from provenance.schemas.records import ListedCheckpoint, RepoFile, RepoMetadata

LISTING = "listing.jsonl"
CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"

_MAX_CONFIG_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class LocalRepo:
    """One repo of a local source.

    Attributes:
        repo_id: the last two parts of its path under the root, or the name in its Hugging Face cache.
        folder: the folder of its files.
        root: the folder that was given; links are followed inside it.
        revision: the listed commit or that of the cache's snapshot, null for any other folder.
        metadata: from the listing, or license and base models from README.md.
        files: its files; paths relative to `folder`, with `/` as separator.
        fault: why it cannot be fingerprinted, if that is already known.
    """

    repo_id: str
    folder: Path
    root: Path
    revision: str | None
    metadata: RepoMetadata
    files: tuple[RepoFile, ...]
    fault: str | None = None

    def selections(self) -> list[Selection]:
        """The checkpoints in it.

        Raises:
            CheckpointError: as `select_weights`, or the repo has a fault.
        """
        if self.fault is not None:
            raise WeightsError(self.fault, stage=Stage.LISTING)
        return select_weights([file.path for file in self.files], self._read_index)

    def reader(self) -> LocalReader:
        """A reader of its files, to be closed by the caller."""
        return LocalReader(self.folder, self.root)

    def _read_index(self, path: str) -> object:
        with self.reader() as reader:
            return read_index(reader, path)


def find_local(source: Path) -> Iterator[LocalRepo]:
    """The repos in a folder, or the one of a single weight file, in the order of their paths.

    A source without any repo yields one empty repo, so that it too has an outcome. Of two folders with the same repo
    id the later one has a fault. Dates come from `listing.jsonl` only, never from file times.

    Raises:
        SourceError: `source` is neither a folder nor a weight file, or its listing is malformed.
    """
    path = Path(os.path.abspath(source))  # noqa: PTH100 - resolve() would follow a link to one file
    advice = "give a folder of checkpoints, or a .safetensors or .gguf file"
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except OSError as error:
        raise SourceError(f"{str(source)!r} cannot be used: {error.strerror}; {advice}") from error
    if not is_folder and not path.name.endswith(WEIGHT_SUFFIXES):
        raise SourceError(f"{str(source)!r} is neither a folder nor a weight file; {advice}")
    root = (path if is_folder else path.parent).resolve()
    search = _Search(root, _read_listing(root))
    return search.repos() if is_folder else iter([search.single(path.name)])


def listed_checkpoints(repo: LocalRepo) -> list[ListedCheckpoint]:
    """The checkpoints of a repo; an unknown revision is `UNKNOWN_REVISION`.

    Raises:
        CheckpointError: as `LocalRepo.selections`.
    """
    files = {file.path: file for file in repo.files}
    checkpoints = []
    for selection in repo.selections():
        try:
            identity = CheckpointId(
                repo.repo_id, repo.revision or UNKNOWN_REVISION, selection.subfolder, selection.variant
            )
        except IdentityError as error:
            raise WeightsError(f"{error}; rename it", stage=Stage.LISTING) from error
        paths = (*selection.weight_files, *([selection.config_file] if selection.config_file else []))
        checkpoints.append(
            ListedCheckpoint(
                identity=identity,
                source=Source.LOCAL,
                weight_files=selection.weight_files,
                files=tuple(files[path] for path in paths),
                config_file=selection.config_file,
                metadata=repo.metadata,
                commit=repo.revision,
                changed_at=_changed_at(repo.folder / path for path in paths),
                index_file=selection.index_file,
            )
        )
    return checkpoints


@dataclass(slots=True)
class _Search:
    """One search of `root`, a path without links.

    `seen` holds the real folders searched so far, `taken` the folder of each repo id.
    """

    root: Path
    listing: Mapping[str, Mapping[str, Any]]
    seen: set[Path] = field(default_factory=set)
    taken: dict[str, Path] = field(default_factory=dict)

    def repos(self) -> Iterator[LocalRepo]:
        pending = [(self.root, False)]
        has_repo = False
        while pending:
            folder, in_repo = pending.pop()
            try:
                folder = self._snapshot(folder) or folder
                contents = self._scan(folder)
            except WeightsError as error:
                contents = Contents(faults=[str(error)])
            if contents is None:
                continue
            repo_id, names = self._repo_id(folder), {file.path for file in contents.files}
            owns = repo_id in self.listing or PIPELINE_FILE in names or is_snapshot(folder)
            if owns:
                self._gather(folder, contents)
            holds_weights = bool(contents.faults) or any(map(is_weight_related, names.difference(CONFIG_FILES)))
            # Inside a repo, a folder with only a config (`1_Pooling/config.json`) is a part of it, not another repo.
            is_repo = owns or holds_weights or (not in_repo and not names.isdisjoint(CONFIG_FILES))
            if is_repo:
                has_repo = True
                yield self._repo(repo_id, folder, contents)
            if not owns:
                pending += [(folder / name, in_repo or holds_weights) for name in reversed(contents.folders)]
        if not has_repo:
            yield self._repo(self._repo_id(self.root), self.root, Contents())

    def single(self, name: str) -> LocalRepo:
        """The repo of one weight file: that file, and the configs and the model card next to it."""
        contents = Contents()
        for file in (name, *CONFIG_FILES, CARD):
            if file != PIPELINE_FILE and os.path.lexists(self.root / file):
                contents.add(self.root / file, self.root)
        if re.search(r"-\d{5,6}-of-\d{5,6}\b", name):
            contents.faults.append(f"{name!r} is one shard of several; give the folder that they lie in")
        own_name = names_a_model(name) and not is_snapshot(self.root)
        repo_id = _repo_id((*self.root.parts[1:], name.rpartition(".")[0])) if own_name else self._repo_id(self.root)
        return self._repo(repo_id, self.root, contents)

    def _scan(self, folder: Path) -> Contents | None:
        """The contents of a folder; null if it was searched before."""
        real = confined(folder, self.root)
        if real in self.seen:
            return None
        self.seen.add(real)
        return contents_of(folder, self.root)

    def _gather(self, folder: Path, contents: Contents) -> None:
        """Add the contents of all sub-folders to `contents`."""
        pending = contents.folders[::-1]
        while pending:
            part = pending.pop()
            try:
                inner = self._scan(folder / part)
            except WeightsError as error:
                contents.faults.append(str(error))
                continue
            if inner is not None:
                contents.files += [replace(file, path=f"{part}/{file.path}") for file in inner.files]
                contents.faults += inner.faults
                pending += [f"{part}/{name}" for name in reversed(inner.folders)]

    def _snapshot(self, home: Path) -> Path | None:
        """The snapshot named by a Hugging Face cache's `refs/main`, else the newest one; null for other folders."""
        if not home.name.startswith("models--") or not os.path.lexists(home / "snapshots"):
            return None
        contents = self._scan(home / "snapshots")
        if contents is None or not contents.folders:
            return None
        try:
            with LocalReader(home, self.root) as reader:
                main = reader.head("refs/main", 64).decode("ascii", "replace").strip()
        except WeightsError:
            main = ""
        snapshots = [home / "snapshots" / name for name in contents.folders]
        return max(snapshots, key=lambda path: (path.name == main, path.lstat().st_mtime_ns, path.name))

    def _repo_id(self, folder: Path) -> str:
        if is_snapshot(folder):
            return _repo_id(folder.parent.parent.name.removeprefix("models--").split("--", 1))
        return _repo_id(self.root.parts[1:] if folder == self.root else folder.relative_to(self.root).parts)

    def _repo(self, repo_id: str, folder: Path, contents: Contents) -> LocalRepo:
        listed = self.listing.get(repo_id)
        commit = commit_from_listing(listed) if listed is not None else None
        revision = commit_from_listing({"sha": folder.name}) if is_snapshot(folder) else commit
        digests = {(f.path, f.size): f.sha256 for f in files_from_listing(listed or {})} if revision == commit else {}
        files = tuple(
            replace(file, sha256=file.sha256 or digests.get((file.path, file.size)), resolved_revision=revision)
            for file in contents.files
        )
        fault = next(iter(contents.faults), None)
        if fault is None and (first := self.taken.setdefault(repo_id, folder)) != folder:
            fault = f"{str(folder)!r} has the same repo id, {repo_id}, as {str(first)!r}; rename one, or crawl it alone"
        if listed is not None:
            metadata = metadata_from_listing(listed)
        else:
            metadata = self._stated(repo_id, folder, {file.path for file in files})
        return LocalRepo(repo_id, folder, self.root, revision, metadata, files, fault)

    def _stated(self, repo_id: str, folder: Path, paths: Container[str]) -> RepoMetadata:
        """What the files of a repo without a listing say about it: its card, and the config of an adapter."""
        metadata = RepoMetadata()
        with LocalReader(folder, self.root) as reader:
            if CARD in paths:
                try:
                    metadata = metadata_from_readme(reader.head(CARD, FRONT_MATTER_LIMIT), repo_id)
                except WeightsError as error:  # an unreadable card must not fail the weights
                    metadata = RepoMetadata(declared_parents=None, notes=(f"card: {error}",))
            if ADAPTER_CONFIG in paths:
                try:
                    config = json.loads(reader.head(ADAPTER_CONFIG, _MAX_CONFIG_BYTES).decode("utf-8-sig"))
                except (WeightsError, ValueError, RecursionError):
                    note = f"card: {ADAPTER_CONFIG} cannot be read, nor the base model in it"
                    metadata = replace(metadata, notes=(*metadata.notes, note))
                else:
                    metadata = with_declared(metadata, repo_id, base_of_adapter(config))
        return metadata


def _read_listing(root: Path) -> dict[str, Mapping[str, Any]]:
    """The entries of the root's `listing.jsonl` by repo id; empty if there is none."""
    if not os.path.lexists(root / LISTING):
        return {}
    try:
        with LocalReader(root, root) as reader:
            content = reader.head(LISTING, reader.size(LISTING))
    except WeightsError as error:
        raise SourceError(f"the listing cannot be used: {error}") from error
    return parse_listing(content, str(root / LISTING))


def _changed_at(paths: Iterable[Path]) -> datetime | None:
    """The newest time of change of some files; null if one of them cannot be looked at."""
    try:
        return datetime.fromtimestamp(max(path.stat().st_mtime for path in paths), UTC)
    except OSError:
        return None


def _repo_id(parts: Sequence[str]) -> str:
    return "/".join(map(_name, parts[-2:])) or "root"


def _name(folder: str) -> str:
    """The name of a folder as a part of a repo id.

    Letters of every script stay. Blanks, signs and invisible characters become `-`, and a digest of the name follows,
    because `my model` and `my-model` are two.
    """
    plain = unicodedata.normalize("NFC", folder)
    name = "".join(sign if is_repo_id(f"x{sign}") and sign != "/" else "-" for sign in plain)
    if name == plain:
        return name
    return f"{name}-{hashlib.sha256(os.fsencode(folder)).hexdigest()[:6]}"

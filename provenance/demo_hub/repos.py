"""Repos as the hub describes them: files, properties, and who may read them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from provenance.crawler.metadata import metadata_from_listing, parse_listing
from provenance.demo_hub.files import DiskFile, HubFile, blob_id, is_lfs, pointer, xet_hash
from provenance.schemas.errors import IdentityError, SourceError
from provenance.schemas.identity import CheckpointId

MASK = "****"
"""Shown by a gated repo in place of digests."""


@dataclass(frozen=True, slots=True)
class HubRepo:
    """One repo and its only commit.

    Attributes:
        id: `owner/name`, or `name` for the oldest repos.
        files: by path, `/` between the parts.
        listing: properties as the hub's listing has them (`createdAt`, `gated`, `private`, `disabled`, `tags`,
            `cardData`, …), completed with defaults for those that are missing.
        tokens: the access tokens that may read it where it is private or gated. Any other token is a valid user's.
        former_ids: ids that redirect to this one.

    Raises:
        SourceError: the listing's `sha` is not a full commit.
    """

    id: str
    files: Mapping[str, HubFile]
    listing: Mapping[str, Any] = field(default_factory=dict)
    tokens: frozenset[str] = frozenset()
    former_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        sizes = sorted((path, file.size) for path, file in self.files.items())
        created = self.listing.get("createdAt", "2025-01-01T00:00:00.000Z")
        defaults = {
            "_id": hashlib.sha1(self.id.encode()).hexdigest()[:24],
            "id": self.id,
            "modelId": self.id,
            "sha": hashlib.sha1(f"{self.id} {sizes}".encode()).hexdigest(),
            "createdAt": created,
            "lastModified": created,
            "downloads": 0,
            "likes": 0,
            "trendingScore": 0,
            "gated": False,
            "private": False,
            "disabled": False,
            "tags": [],
            "cardData": {},
        }
        if "/" in self.id:
            defaults["author"] = self.id.split("/")[0]
        given = {name: value for name, value in self.listing.items() if value is not None}
        object.__setattr__(self, "listing", defaults | given)
        if not re.fullmatch(r"[0-9a-f]{40}", self.sha):
            raise SourceError(f"the sha of {self.id} is {self.sha!r}; a hub needs a commit of 40 hexadecimal digits")

    @property
    def sha(self) -> str:
        """The commit."""
        return str(self.listing["sha"])

    def visible_to(self, token: str | None) -> bool:
        """Whether a user can see that the repo exists."""
        return not self.listing["private"] or token in self.tokens

    def readable_by(self, token: str | None) -> bool:
        """Whether a user may read its files."""
        return not (self.listing["private"] or self.listing["gated"]) or token in self.tokens

    def property(self, name: str) -> Any:
        """One property of the listing, null where the repo lacks it."""
        if name == "siblings":
            return [{"rfilename": path} for path in sorted(self.files)]
        if name == "baseModels":
            return self._base_models()
        return self.listing.get(name)

    def siblings(self, token: str | None) -> list[dict[str, Any]]:
        """Its files with sizes and digests, as for `blobs=true`."""
        found = []
        for path, file in sorted(self.files.items()):
            sibling = {"rfilename": path, "size": file.size, "blobId": blob_id(path, file)}
            if is_lfs(path, file):
                sha256 = file.sha256 if self.readable_by(token) else MASK
                sibling["lfs"] = {"sha256": sha256, "size": file.size, "pointerSize": len(pointer(file))}
            found.append(sibling)
        return found

    def tree(self, folder: str, token: str | None, *, recursive: bool) -> list[dict[str, Any]]:
        """The entries of a folder (the root is the empty string), by path; empty if there is no such folder."""
        entries: dict[str, dict[str, Any]] = {}
        for path, file in self.files.items():
            parents = [str(parent) for parent in PurePosixPath(path).parents][::-1]  # the root, `.`, comes first
            above = [parent for parent in parents[1:] if not folder or parent.startswith(f"{folder}/")]
            if folder and folder not in parents:
                continue
            for parent in above if recursive else above[:1]:
                oid = hashlib.sha1(f"tree {self.sha} {parent}".encode()).hexdigest()
                entries[parent] = {"type": "directory", "oid": oid, "size": 0, "path": parent}
            if recursive or not above:
                entries[path] = self._tree_file(path, file, token)
        return [entries[path] for path in sorted(entries)]

    def _tree_file(self, path: str, file: HubFile, token: str | None) -> dict[str, Any]:
        entry = {"type": "file", "oid": blob_id(path, file), "size": file.size, "path": path}
        if is_lfs(path, file):
            readable = self.readable_by(token)
            oid = file.sha256 if readable else MASK
            entry["lfs"] = {"oid": oid, "size": file.size, "pointerSize": len(pointer(file))}
            entry["xetHash"] = xet_hash(file) if readable else MASK
        return entry

    def _base_models(self) -> dict[str, Any] | None:
        """What the card declares; the hub takes a base model without a relation for a fine-tune's."""
        metadata = metadata_from_listing(self.listing)
        if not metadata.declared_parents:
            return None
        ids = [{"_id": hashlib.sha1(id_.encode()).hexdigest()[:24], "id": id_} for id_ in metadata.declared_parents]
        return {"relation": metadata.declared_relation or "finetune", "models": ids}


CONFIG_KEYS = ("architectures", "model_type", "quantization_config")


def folder_repos(root: Path) -> list[HubRepo]:
    """The repos of a folder: one per line of its `listing.jsonl`, with the files of the folder with that id.

    Links and hidden files are left out.

    Raises:
        SourceError: there is no listing, or a line of it has no folder or no full `sha`.
    """
    listing = root / "listing.jsonl"
    try:
        content = listing.read_bytes()
    except OSError as error:
        raise SourceError(
            f"{str(listing)!r} cannot be read: {error.strerror}; write one line of JSON for each repo to serve"
        ) from error
    repos = []
    for repo_id, listed in parse_listing(content, str(listing)).items():
        try:
            CheckpointId(repo_id, "0")
        except IdentityError as error:
            raise SourceError(f"{str(listing)!r}: {error}; repair the line") from error
        folder = root / repo_id
        # A link in the path could lead out of the root.
        if folder.resolve() != root.resolve() / repo_id or not folder.is_dir():
            raise SourceError(f"{str(listing)!r} names {repo_id}, but {str(folder)!r} is no folder; remove the line")
        repos.append(HubRepo(repo_id, _files(folder), {"config": _config(folder), **listed}))
    return repos


def _config(folder: Path) -> dict[str, Any] | None:
    """The part of a config.json that the Hub shows."""
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError):
        return None
    return {name: config[name] for name in CONFIG_KEYS if name in config} if isinstance(config, dict) else None


def _files(folder: Path) -> dict[str, HubFile]:
    files: dict[str, HubFile] = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(place, name) for name in names if not name.startswith(".")):
            if path.is_file() and not path.is_symlink():
                files[path.relative_to(folder).as_posix()] = DiskFile(path, path.stat().st_size)
    return files

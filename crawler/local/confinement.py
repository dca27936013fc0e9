"""The contents of a local folder, with links confined to the folder that was given.

The one exception is a Hugging Face cache, whose snapshots are links into its own `blobs/`.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from provenance.crawler.metadata import sha256_or_null
from provenance.crawler.selection import is_weight_related
from provenance.schemas.errors import WeightsError
from provenance.schemas.records import RepoFile


def cache_home(path: Path) -> Path | None:
    """The `models--owner--name` folder of a Hugging Face cache if `path` is in one of its snapshots, else null."""
    for parent in path.parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return parent.parent
    return None


def confined(path: Path, root: Path) -> Path:
    """The real path of `path`, all links followed: inside `root`, or in the `blobs/` of its Hugging Face cache.

    Args:
        path: absolute, without `..`.
        root: the folder that was given.

    Raises:
        WeightsError: it does not exist, its links are circular, or they lead out.
    """
    try:
        real_root = Path(os.path.realpath(root, strict=True))
        real = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise WeightsError(f"{str(path)!r} cannot be read: {error.strerror}; repair or remove it") from error
    if real.is_relative_to(real_root):
        return real
    if (home := cache_home(path)) is not None:
        real_home = Path(os.path.realpath(home))
        belongs = real_home.is_relative_to(real_root) or real_root.is_relative_to(real_home)
        if belongs and real.is_relative_to(real_home / "blobs"):
            return real
    raise WeightsError(
        f"{str(path)!r} leads out of {str(root)!r} to {str(real)!r}, and such links are not followed; "
        "put the file itself there, or crawl the folder that it lies in"
    )


def is_snapshot(folder: Path) -> bool:
    """Whether a folder is one snapshot of a Hugging Face cache."""
    home = cache_home(folder)
    return home is not None and folder.parent == home / "snapshots"


@dataclass(slots=True)
class Contents:
    """The entries of a folder: files, sub-folders, and why some relevant files cannot be used.

    Attributes:
        files: regular files, with the digest that a Hugging Face cache knows.
        folders: names of sub-folders, including links that lead out; reading one of those is refused.
        faults: one message for each weight file, shard index or config that is a pipe, a broken link, or leads out.
    """

    files: list[RepoFile] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def add(self, path: Path, root: Path) -> None:
        """Add the entry at `path`, following links inside `root`."""
        fault = None
        try:
            target = confined(path, root)
            status = target.stat()
            if stat.S_ISDIR(status.st_mode):
                self.folders.append(path.name)
            elif not stat.S_ISREG(status.st_mode) or not path.name.isprintable():
                fault = f"{str(path)!r} is not a regular file with a printable name; move it away"
            else:
                # A Hugging Face cache names a blob by the hub's ETag, which is the sha256 of a weight file.
                sha256 = sha256_or_null(target.name) if target.parent.name == "blobs" else None
                self.files.append(RepoFile(path.name, status.st_size, sha256))
        except (WeightsError, OSError) as error:
            if os.path.isdir(path):  # noqa: PTH112 - returns false without permission, where Path raises
                self.folders.append(path.name)
            else:
                fault = str(error)
        if fault and is_weight_related(path.name):
            self.faults.append(fault)


def contents_of(folder: Path, root: Path) -> Contents:
    """The direct entries of a folder, without hidden ones.

    Raises:
        WeightsError: the folder leads out of `root`, or cannot be listed.
    """
    try:
        with os.scandir(confined(folder, root)) as entries:
            # Real entries before links, so that a folder is known by its own name.
            names = sorted((entry.is_symlink(), entry.name) for entry in entries if not entry.name.startswith("."))
    except OSError as error:
        raise WeightsError(f"{str(folder)!r} cannot be listed: {error.strerror}; make it readable") from error
    contents = Contents()
    for _, name in names:
        contents.add(folder / name, root)
    return contents

"""Parse a listing object or a model card into `RepoMetadata`; the input is untrusted.

A field of the wrong type becomes null: a malformed card must not fail the other fields, or the crawl.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

import yaml

from provenance.schemas.errors import SourceError
from provenance.schemas.records import RepoFile, RepoMetadata

_REPO_ID = re.compile(r"[\w-][\w.-]*(?:/[\w-][\w.-]*)?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(?P<yaml>.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_YAML_NULL = ("", "~", "null")
_HUB = re.compile(r"https?://(?:huggingface\.co|hf\.co)/")
_MAX_INT = 2**63 - 1

FRONT_MATTER_LIMIT = 64 * 1024
"""Maximum number of bytes read of a README.md."""


def parse_listing(content: bytes, name: str) -> dict[str, Mapping[str, object]]:
    """The objects of a `listing.jsonl` by repo id; of several with one id the last, as later pages are newer.

    Args:
        content: one JSON object per line, as the hub's listing returns them; empty lines are ignored.
        name: the name of the file in errors.

    Raises:
        SourceError: a line is not such an object; the message gives its number.
    """
    listing: dict[str, Mapping[str, object]] = {}
    for number, line in enumerate(content.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            listed = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{name}, line {number}: not valid JSON: {error}; repair or remove the line") from error
        if not isinstance(listed, dict) or not isinstance(listed.get("id"), str):
            raise SourceError(f"{name}, line {number}: not an object with a repo id as `id`; repair or remove the line")
        listing[listed["id"]] = listed
    return listing


def metadata_from_listing(listed: Mapping[str, object]) -> RepoMetadata:
    """The metadata in one object of the hub's listing.

    Declared parents are the card's `base_model` and then the `base_model:` tags, without repeats and without the repo
    itself. Repo ids are compared without case, as on the hub.
    """
    repo_id = _text(listed.get("id")) or ""
    tags = tuple(text for tag in _items(listed.get("tags")) if (text := _text(tag)) is not None)
    card = _mapping(listed.get("cardData"))
    licenses = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    gated = listed.get("gated")
    return RepoMetadata(
        author=_text(listed.get("author")) or (repo_id.split("/")[0] if "/" in repo_id else None),
        created_at=_time(listed.get("createdAt")),
        last_modified=_time(listed.get("lastModified")),
        downloads=_count(listed.get("downloads")),
        likes=_count(listed.get("likes")),
        license=_text(card.get("license")) or next(iter(licenses), None),
        gated="false" if gated is False else gated if gated in ("auto", "manual") else None,
        private=private if isinstance(private := listed.get("private"), bool) else None,
        pipeline_tag=_text(listed.get("pipeline_tag")),
        tags=tags,
        declared_parents=_parents(repo_id, card, tags),
        declared_relation=_relation(card, tags),
    )


def metadata_from_readme(readme: bytes, repo_id: str) -> RepoMetadata:
    """License, base models and their relation from the YAML front matter of a model card, else nulls.

    Args:
        readme: the beginning of README.md; at most `FRONT_MATTER_LIMIT` bytes are used.
        repo_id: the repo's own id, which is no base model of itself.
    """
    front_matter = _FRONT_MATTER.match(readme[:FRONT_MATTER_LIMIT].decode("utf-8", "replace"))
    try:
        # The base loader supports neither tags nor merge keys, which can expand without bound, and keeps `license: no`
        # as text.
        card = _mapping(yaml.load(front_matter["yaml"], Loader=yaml.BaseLoader)) if front_matter else {}
    except (
        yaml.YAMLError,
        RecursionError,
        ValueError,
        OverflowError,
    ):  # the last two from escapes such as `\\UFFFFFFFF`
        card = {}
    card = {key: value for key, value in card.items() if not (isinstance(value, str) and value.lower() in _YAML_NULL)}
    return RepoMetadata(
        license=_text(card.get("license")),
        declared_parents=_parents(repo_id, card, ()),
        declared_relation=_relation(card, ()),
    )


def with_base(metadata: RepoMetadata, repo_id: str, base: str | None) -> RepoMetadata:
    """The metadata of an adapter whose own config names its base model; a base that the card names stays first."""
    declared = {parent.lower(): parent for parent in metadata.declared_parents}
    for parent in _parents(repo_id, {"base_model": base or ()}, ()):
        declared.setdefault(parent.lower(), parent)
    relation = metadata.declared_relation or ("adapter" if declared else None)
    return replace(metadata, declared_parents=tuple(declared.values()), declared_relation=relation)


def commit_from_listing(listed: Mapping[str, object]) -> str | None:
    """The commit of a listing object, null unless it is hexadecimal."""
    sha = listed.get("sha")
    return sha if isinstance(sha, str) and _COMMIT.fullmatch(sha) else None


def files_from_listing(listed: Mapping[str, object]) -> tuple[RepoFile, ...]:
    """The files of a listing object that have a size; digests masked as `****` are null."""
    commit = commit_from_listing(listed)
    files = []
    for sibling in map(_mapping, _items(listed.get("siblings"))):
        lfs = _mapping(sibling.get("lfs"))
        path = _text(sibling.get("rfilename"))
        size = _count(lfs.get("size")) if lfs else _count(sibling.get("size"))
        if path is not None and size is not None:
            files.append(RepoFile(path, size, sha256_or_null(lfs.get("sha256")), _text(sibling.get("xetHash")), commit))
    return tuple(files)


def sha256_or_null(value: object) -> str | None:
    """A sha256 in hex; null if it is masked or anything else."""
    return value if isinstance(value, str) and _SHA256.fullmatch(value) else None


def _parents(repo_id: str, card: Mapping[str, object], tags: tuple[str, ...]) -> tuple[str, ...]:
    parents: dict[str, str] = {}
    for name in _declared(card, tags):
        parent = _HUB.sub("", name.strip(), count=1).rstrip("/")
        if _REPO_ID.fullmatch(parent) and parent.lower() != repo_id.lower():
            parents.setdefault(parent.lower(), parent)
    return tuple(parents.values())


def _declared(card: Mapping[str, object], tags: tuple[str, ...]) -> Iterator[str]:
    """Every declared base model, those of the card first."""
    base = card.get("base_model")
    for name in [base] if isinstance(base, str) else _items(base):
        if isinstance(name, str):
            yield name
    for tag in tags:
        if tag.startswith("base_model:"):
            yield tag.rpartition(":")[2]


def _relation(card: Mapping[str, object], tags: tuple[str, ...]) -> str | None:
    """`base_model_relation` of the card, else the first `base_model:<relation>:<repo id>` tag's."""
    tagged = (parts[1] for tag in tags if len(parts := tag.split(":")) == 3 and parts[0] == "base_model" and parts[1])
    return _text(card.get("base_model_relation")) or next(tagged, None)


def _text(value: object) -> str | None:
    """A non-empty string that can be encoded as UTF-8: JSON allows lone surrogates, Parquet does not."""
    return value.encode("utf-8", "replace").decode() or None if isinstance(value, str) else None


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MAX_INT else None


def _time(value: object) -> datetime | None:
    """An ISO 8601 time in UTC; a time without an offset is taken as UTC."""
    if not isinstance(value, str):
        return None
    try:
        time = datetime.fromisoformat(value)
        return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _items(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}

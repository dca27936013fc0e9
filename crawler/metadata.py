"""Parse a listing object or a model card into `RepoMetadata`; the input is untrusted.

A field of the wrong type becomes null: a malformed card must not fail the other fields, or the crawl.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime

from provenance.crawler.card import read_card
from provenance.schemas.errors import SourceError
from provenance.schemas.naming import repo_key, repo_named
from provenance.schemas.records import RepoFile, RepoMetadata

_COMMIT = re.compile(r"[0-9a-f]{7,64}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_INT = 2**63 - 1

_PARENT_KEYS = ("name", "id", "model", "repo_id", "repo")
"""Keys under which cards name a base model where they make an object of it."""

_LONGEST_NOTE = 120
_MOST_NOTES = 5


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
            listed = json.loads(line.removeprefix(codecs.BOM_UTF8).decode())
        except (ValueError, RecursionError) as error:
            raise SourceError(f"{name}, line {number}: not valid JSON: {error}; repair or remove the line") from error
        if not isinstance(listed, dict) or not isinstance(listed.get("id"), str):
            raise SourceError(f"{name}, line {number}: not an object with a repo id as `id`; repair or remove the line")
        listing[listed["id"]] = listed
    return listing


def metadata_from_listing(listed: Mapping[str, object]) -> RepoMetadata:
    """The metadata in one object of the hub's listing.

    Declared parents are the card's `base_model`, then the `base_model:` tags, which `baseModels` joins with the current
    ids of renamed repos, then what an adapter's config names; without repeats and without the repo itself.
    """
    repo_id = _text(listed.get("id")) or ""
    bases = _mapping(listed.get("baseModels"))
    ids = [text for model in _items(bases.get("models")) if (text := _text(_mapping(model).get("id"))) is not None]
    tags = tuple(
        dict.fromkeys(
            [
                *(text for tag in _items(listed.get("tags")) if (text := _text(tag)) is not None),
                *(f"base_model:{_text(bases.get('relation')) or ''}:{parent}" for parent in ids),
            ]
        )
    )
    card = _mapping(listed.get("cardData"))
    licenses = [tag.removeprefix("license:") for tag in tags if tag.startswith("license:")]
    adapter = _mapping(_mapping(listed.get("config")).get("peft"))
    gated = listed.get("gated")
    parents, notes = _parents(
        repo_id,
        [
            *_named(card.get("base_model")),
            *(tag.rpartition(":")[2] for tag in tags if tag.startswith("base_model:")),
            *_named(adapter.get("base_model_name_or_path")),
        ],
    )
    return RepoMetadata(
        author=_text(listed.get("author")) or (repo_id.split("/")[0] if "/" in repo_id else None),
        created_at=_time(listed.get("createdAt")),
        last_modified=_time(listed.get("lastModified")),
        downloads=_count(listed.get("downloads")),
        likes=_count(listed.get("likes")),
        license=_license(card) or next(iter(licenses), None),
        gated="false" if gated is False else gated if gated in ("auto", "manual") else None,
        private=private if isinstance(private := listed.get("private"), bool) else None,
        pipeline_tag=_text(listed.get("pipeline_tag")),
        tags=tags,
        declared_parents=parents,
        declared_relation=_relation(card, tags),
        notes=notes,
    )


def metadata_from_readme(readme: bytes, repo_id: str) -> RepoMetadata:
    """License, base models and their relation from a model card; see `crawler.card`.

    Args:
        readme: README.md, or the beginning of it.
        repo_id: the repo's own id, which is no base model of itself.
    """
    card = read_card(readme)
    parents, notes = _parents(repo_id, _named(card.values.get("base_model")))
    if "base_model" in card.unread:
        parents = None
    linked = [link for link in card.links if repo_key(link) != repo_key(repo_id)]
    if parents == () and linked and "base_model" not in card.values:
        parents = None
        notes = (*notes, f"card: it declares no base model, but its text links to {', '.join(linked[:5])}")
    return RepoMetadata(
        license=_license(card.values),
        declared_parents=parents,
        declared_relation=_relation(card.values, ()),
        notes=(*card.notes, *notes),
    )


def with_declared(metadata: RepoMetadata, repo_id: str, names: Iterable[str]) -> RepoMetadata:
    """The metadata with more declared base models: those that a repo's own files name, beside its card.

    Args:
        metadata: what the card or listing says.
        repo_id: the repo's own id, which is no base model of itself.
        names: ids or addresses of repos, as written.
    """
    parents, notes = _parents(repo_id, [*(metadata.declared_parents or ()), *names])
    return replace(metadata, declared_parents=parents or metadata.declared_parents, notes=(*metadata.notes, *notes))


def with_adapter_base(metadata: RepoMetadata, repo_id: str, config: object) -> RepoMetadata:
    """The metadata of an adapter whose `adapter_config.json`, parsed, names its base model."""
    found = with_declared(metadata, repo_id, base_of_adapter(config))
    return replace(found, declared_relation=found.declared_relation or ("adapter" if found.declared_parents else None))


def base_of_adapter(config: object) -> list[str]:
    """The base models that an `adapter_config.json`, parsed, names."""
    return list(_named(_mapping(config).get("base_model_name_or_path")))


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


def _parents(repo_id: str, names: Iterable[str]) -> tuple[tuple[str, ...] | None, tuple[str, ...]]:
    """The repos that these names mean, and a note for those that mean none; null if no name means a repo."""
    parents, unread = dict[str, str](), list[str]()
    for name in names:
        if (parent := repo_named(name)) is None:
            unread.append(name)
        elif repo_key(parent) != repo_key(repo_id):
            parents.setdefault(repo_key(parent), parent)
    notes = [f"card: the base model {name[:_LONGEST_NOTE]!r} is no repo id" for name in dict.fromkeys(unread)]
    return (None if unread and not parents else tuple(parents.values())), tuple(notes[:_MOST_NOTES])


def _named(value: object) -> Iterator[str]:
    """Every base model in a value of a card: text, several of them separated by commas, or an object with a name."""
    if isinstance(value, str):
        yield from (text for part in value.split(",") if (text := _text(part.strip())))
    elif isinstance(value, list):
        for item in value:
            if not isinstance(item, list):
                yield from _named(item)
    elif isinstance(value, Mapping):
        yield from _named(next((value[key] for key in _PARENT_KEYS if isinstance(value.get(key), str)), None))


def _license(card: Mapping[str, object]) -> str | None:
    """The license of a card; several as one text; the name of one that is `other` than the hub's own."""
    given = card.get("license")
    texts = [text for item in (given if isinstance(given, list) else [given]) if (text := _text(item))]
    name = _text(card.get("license_name"))
    if name is not None and [text.lower() for text in texts] in (["other"], []):
        return name
    return ", ".join(dict.fromkeys(texts)) or None


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

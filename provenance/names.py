"""How people name models: ids, addresses of pages on the hub, and mistyped ones."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from provenance.schemas.errors import UnknownModelError
from provenance.schemas.identity import short_revision
from provenance.schemas.suggestions import did_you_mean

if TYPE_CHECKING:
    from provenance.indexer.store.store import Store

_HUBS = ("huggingface.co", "www.huggingface.co", "hf.co")
_AT_REVISION = ("tree", "blob", "resolve", "raw", "commit")
_HEXADECIMAL = re.compile(r"[0-9a-f]{13,40}")

_SIMILAR = """
select repo_id from (select distinct repo_id from checkpoints)
order by jaro_winkler_similarity(lower(repo_id), lower($name)) desc, repo_id limit 20
"""


def hub_name(text: str) -> str:
    """`owner/name[@revision]` for the address of a model's page on the hub; any other text as it is.

    Raises:
        UnknownModelError: it is the address of a page that is no model's.
    """
    if not text.lower().startswith(("https://", "http://", *(f"{hub}/" for hub in _HUBS))):
        return text
    try:
        address = urlsplit(text if "://" in text else f"https://{text}")
        own = urlsplit(os.environ.get("HF_ENDPOINT", "")).netloc
    except ValueError:
        return text  # no address, whatever it is
    if address.netloc.lower() not in (*_HUBS, own.lower()):
        return text
    parts = [unquote(part) for part in address.path.split("/") if part]
    parts = parts[1:] if parts[:1] == ["models"] else parts
    if not parts or parts[0] in ("datasets", "spaces", "docs", "papers", "collections"):
        raise UnknownModelError(f"{text}: not the page of a model; give {address.netloc}/owner/name")
    ends = [place for place, part in enumerate(parts[:3]) if place and part in _AT_REVISION]
    repo, rest = (parts[: ends[0]], parts[ends[0] + 1 :]) if ends else (parts[:2], [])
    revision = f"@{rest[0]}" if rest and rest[0] != "main" else ""
    return "/".join(repo) + revision


def short_id(name: str) -> str:
    """A name with its revision, if it is a commit, as checkpoint ids have it."""
    repo, at, revision = name.partition("@")
    return f"{repo}@{short_revision(revision)}" if at and _HEXADECIMAL.fullmatch(revision) else name


def similar_repos(store: Store, name: str) -> str:
    """`; did you mean …?` with stored repos of similar names; empty if there is none."""
    with store.connect() as connection:
        near = [row[0] for row in connection.execute(_SIMILAR, {"name": name}).fetchall()]
    return did_you_mean(name.partition("@")[0], near)

"""How people name models: ids, addresses of pages on the hub, and mistyped ones."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from provenance.schemas.errors import UnknownModelError
from provenance.schemas.identity import short_revision
from provenance.schemas.naming import hub_page
from provenance.schemas.suggestions import did_you_mean

if TYPE_CHECKING:
    from provenance.indexer.store.store import Store

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
    page = hub_page(text, os.environ.get("HF_ENDPOINT", ""))
    if page is None:
        return text
    repo, revision = page
    if not repo:
        raise UnknownModelError(f"{text}: not the page of a model; give huggingface.co/owner/name")
    return f"{repo}@{revision}" if revision else repo


def short_id(name: str) -> str:
    """A name with its revision, if it is a commit, as checkpoint ids have it."""
    repo, at, revision = name.partition("@")
    return f"{repo}@{short_revision(revision)}" if at and _HEXADECIMAL.fullmatch(revision) else name


def similar_repos(store: Store, name: str) -> str:
    """`; did you mean …?` with stored repos of similar names; empty if there is none."""
    with store.connect() as connection:
        near = [row[0] for row in connection.execute(_SIMILAR, {"name": name}).fetchall()]
    return did_you_mean(name.partition("@")[0], near)

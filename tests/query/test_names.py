"""Old names of repos, as outcomes of crawls keep them, in an index and without one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

import provenance
from provenance.indexer.generation import CURRENT, GENERATION_MANIFEST, generation_name
from provenance.schemas import tables
from provenance.schemas.naming import renaming
from tests.conftest import llama


@pytest.mark.parametrize("indexed", [False, True])
def test_a_redirect_of_a_crawl_is_known_to_queries(
    tmp_path: Path, write_repo: Callable[..., Path], indexed: bool
) -> None:
    write_repo("acme/new", llama(1))
    with provenance.open(tmp_path / "s", create=True) as database:
        database.crawl([tmp_path / "models"])
        row: dict[str, object] = {
            "repo_id": "Acme/Old",
            "status": "skipped",
            "reason": "renamed",
            "message": renaming("Acme/Old", "acme/new"),
        }
        database.store.commit({"outcomes": tables.from_rows("outcomes", [row])})
        if indexed:
            database.index()
        database.refresh()
        for name in ("acme/old", "Acme/Old", "acme/NEW", "https://huggingface.co/acme/new/tree/main", "new"):
            found = database.catalogue.find(name)
            assert found is not None, name
            assert found.repo_id == "acme/new"
        assert database.catalogue.find("old") is database.catalogue.find("acme/other") is None


def test_an_index_of_an_earlier_version_is_not_used(tmp_path: Path, write_repo: Callable[..., Path]) -> None:
    write_repo("acme/new", llama(1))
    with provenance.open(tmp_path / "s", create=True) as database:
        database.crawl([tmp_path / "models"])
        built = database.index().generation
        folder = database.store.index_path / built
        manifest = json.loads((folder / GENERATION_MANIFEST).read_text(encoding="utf-8"))
        del manifest["renamed"]
        content = json.dumps(manifest).encode()
        (folder / GENERATION_MANIFEST).write_bytes(content)
        name = generation_name(1, hashlib.sha256(content).hexdigest())
        folder.rename(folder.with_name(name))
        (folder.parent / CURRENT).write_text(name, encoding="utf-8")
        database.refresh()
        searched = database.query("acme/new").store
        assert (searched.generation, searched.unindexed) == (None, 1)

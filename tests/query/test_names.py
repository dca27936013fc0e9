"""Old names of repos, as outcomes of crawls keep them, in an index and without one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import provenance
from provenance.indexer.generation import GENERATION_MANIFEST
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


def test_an_index_of_an_earlier_version_is_read(tmp_path: Path, write_repo: Callable[..., Path]) -> None:
    write_repo("acme/new", llama(1))
    with provenance.open(tmp_path / "s", create=True) as database:
        database.crawl([tmp_path / "models"])
        database.index()
        (folder,) = (path for path in database.store.index_path.iterdir() if path.is_dir())
        manifest = json.loads((folder / GENERATION_MANIFEST).read_text(encoding="utf-8"))
        del manifest["renamed"]
        (folder / GENERATION_MANIFEST).write_text(json.dumps(manifest), encoding="utf-8")
        lines, notes = (folder / "meta.jsonl").read_bytes(), b', "notes": []'
        assert notes in lines
        (folder / "meta.jsonl").write_bytes(lines.replace(notes, b" " * len(notes)))
        database.refresh()
        assert database.query("acme/new").model.notes == ()

"""A store of an earlier format is read as it is, and becomes one of this format with its first change."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from provenance.indexer.store.store import Store
from provenance.schemas.tables import FORMAT_VERSION, READ_FORMATS, from_rows, schema
from tests.support.store_rows import fingerprint


@pytest.fixture
def earlier(tmp_path: Path) -> Store:
    """A store as format 2 left it: without the table `products`."""
    store = Store.create(tmp_path / "store")
    rows = fingerprint(1)
    del rows["products"]
    store.commit(rows)
    manifest = json.loads((store.path / "MANIFEST").read_text())
    del manifest["tables"]["products"]
    (store.path / "MANIFEST").write_text(json.dumps(manifest))
    (store.path / "FORMAT").write_text('{"format": 2}\n')
    shutil.rmtree(store.path / "products")
    return store


def test_it_is_read_as_having_no_sketches_and_not_changed(earlier: Store) -> None:
    store = Store.open(earlier.path)
    before = {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()}
    assert store.read("products").schema == schema("products")
    assert store.read("products").num_rows == 0
    with store.connect() as connection:
        assert connection.sql("select count(*) from latest_checkpoints").fetchall() == [(1,)]
        columns = connection.sql("select * from products").to_arrow_table()
    assert columns.num_rows == 0
    assert columns.cast(schema("products")).schema == schema("products")
    assert store.verify() == []
    assert {path: path.read_bytes() for path in store.path.rglob("*") if path.is_file()} == before


def test_its_first_change_makes_it_one_of_this_format(earlier: Store) -> None:
    store = Store.create(earlier.path)
    store.write_views()
    assert json.loads((store.path / "FORMAT").read_text()) == {"format": 2}
    store.commit({"outcomes": from_rows("outcomes", [{"repo_id": "org/x"}])})
    assert json.loads((store.path / "FORMAT").read_text()) == {"format": FORMAT_VERSION}
    store.commit(fingerprint(2))
    assert store.read("products").num_rows == 1
    store.compact()
    assert store.verify() == []


def test_every_format_that_is_read(earlier: Store) -> None:
    for version in READ_FORMATS:
        (earlier.path / "FORMAT").write_text(json.dumps({"format": version}))
        assert Store.open(earlier.path).read("checkpoints").num_rows == 1

"""`--deep`: weights read anew from folders and from a hub, and what is claimed of disguised ones."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import provenance
from provenance.crawler.engine.options import CrawlOptions
from provenance.database import Database
from provenance.deep import Weigher
from provenance.demo_hub import LoopbackHub, folder_repos
from provenance.indexer.dossier import FACT
from provenance.indexer.signature import product_vector
from provenance.query.candidates import NEAR, candidates
from provenance.schemas.comparison import Comparison
from provenance.schemas.errors import SourceError
from provenance.schemas.products import PRODUCTS_SPEC
from provenance.schemas.results import Evidence
from tests.conftest import LLAMA_CONFIG, Tensors, llama, trained
from tests.support.command_line import Run
from tests.support.disguises import Disguise

LAYERS = 8
ROOT = llama(1, layers=LAYERS)
CONFIG = LLAMA_CONFIG | {"num_hidden_layers": LAYERS}


def disguised(tensors: Tensors, seed: int = 5) -> Tensors:
    changed = Disguise(heads=4, kv_heads=2, seed=seed).everything(tensors)
    return {name: tensor.astype("float32") for name, tensor in changed.items()}


SAMPLED = CrawlOptions(mode="sampled")

MODELS: dict[str, Tensors] = {
    "org/root": ROOT,
    "org/twin": trained(ROOT, 2, 0.3),
    "thief/copy": disguised(trained(ROOT, 3, 0.1)),
    "thief/twin": disguised(trained(ROOT, 4, 0.3), seed=6),
    "else/where": llama(9, layers=LAYERS),
    "else/disguised": disguised(llama(10, layers=LAYERS)),
    "else/shallow": llama(11, layers=4),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("deep") / "models"
    for repo_id, tensors in MODELS.items():
        folder = root / repo_id
        folder.mkdir(parents=True)
        save_file(tensors, folder / "model.safetensors")
        layers = sum(name.endswith("q_proj.weight") for name in tensors)
        (folder / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": layers}))
    created = {"org/root": "2025-01-01", "thief/copy": "2025-06-01"}
    lines = [{"id": name, "createdAt": f"{created.get(name, '2025-03-01')}T00:00:00.000Z"} for name in MODELS]
    (root / "listing.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return root


@pytest.fixture(scope="module")
def local(models: Path) -> Iterator[Database]:
    """The store of all of them but the copy, sampled from their folders: it holds no products."""
    with provenance.open(models.parent / "local", create=True) as database:
        database.crawl([models / name for name in MODELS if not name.startswith("thief")], SAMPLED)
        database.index()
        yield database


@pytest.fixture(scope="module")
def whole(models: Path) -> Iterator[Database]:
    """The same store with every weight read: it holds the products."""
    with provenance.open(models.parent / "whole", create=True) as database:
        database.crawl([models / name for name in MODELS if not name.startswith("thief")])
        database.index()
        yield database


@pytest.fixture(scope="module")
def hub(models: Path) -> Iterator[tuple[Database, CrawlOptions, LoopbackHub]]:
    """The store of what a hub serves, and the hub."""
    with LoopbackHub(folder_repos(models)) as served, provenance.open(models.parent / "hub", create=True) as database:
        options = CrawlOptions(endpoint=served.endpoint)
        database.crawl(list(MODELS), options)
        database.index()
        yield database, options, served


def products(found: Any) -> Evidence:
    (line,) = [evidence for evidence in found.evidence if evidence.kind == "products"]
    assert isinstance(line, Evidence)
    return line


def bytes_said(*notes: str) -> int:
    return sum(int(number.replace(",", "")) for note in notes for number in re.findall(r"([\d,]+) bytes read", note))


def pair(database: Database, models: Path, a: str, b: str, **how: Any) -> Comparison:
    return database.compare(str(models / a), str(models / b), options=SAMPLED, **how)


def test_a_disguised_copy_is_related_with_deep_alone(local: Database, models: Path) -> None:
    plain = pair(local, models, "thief/copy", "org/root")
    assert plain.verdict in ("unrelated", "inconclusive")
    assert "products" not in [line.kind for line in plain.evidence]
    deep = pair(local, models, "thief/copy", "org/root", deep=True)
    assert (deep.verdict, deep.relation, deep.direction) == ("related", "transformed", "unknown")
    line = products(deep)
    assert line.value is not None
    assert line.value > 0.8
    assert line.n == LAYERS
    assert line.log10_p is not None
    assert line.log10_p < -6
    assert line.p_value == pytest.approx(10**line.log10_p)
    # Times five lines, then times the five checkpoints of the store.
    assert deep.p_value == pytest.approx(5 * line.p_value)
    assert deep.p_adjusted == pytest.approx(25 * line.p_value)
    assert deep.score == line.value
    assert deep.probability > 0.9
    # All other lines are as they were.
    assert [e for e in deep.evidence if e is not line] == list(plain.evidence)


@pytest.mark.parametrize("stranger", ["else/where", "else/disguised", "else/shallow"])
def test_a_stranger_stays_one(local: Database, models: Path, stranger: str) -> None:
    for a, b in (("thief/copy", stranger), (stranger, "org/root")):
        plain, deep = (pair(local, models, a, b, deep=deep) for deep in (False, True))
        assert deep.verdict == plain.verdict
        assert deep.verdict in ("unrelated", "inconclusive")
        assert (deep.p_value, deep.direction, deep.relation) == (plain.p_value, "unknown", "unknown")
        assert (products(deep).log10_p or 0) > -2


@pytest.mark.parametrize("other", ["org/twin", "thief/copy"])
def test_a_twin_is_related_at_most(local: Database, models: Path, other: str) -> None:
    found = pair(local, models, "thief/twin", other, deep=True)
    assert (products(found).value or 0) > 0.5
    assert (found.verdict, found.direction) == ("related", "unknown")


def test_what_weights_prove_openly_is_left_as_it_is(local: Database, models: Path) -> None:
    plain, deep = (pair(local, models, "org/twin", "org/root", deep=deep) for deep in (False, True))
    assert plain.p_value < 1e-6
    told = ("verdict", "relation", "direction", "p_value", "p_adjusted", "score", "probability")
    assert [getattr(deep, name) for name in told] == [getattr(plain, name) for name in told]
    assert (products(deep).value or 0) > 0.8


def test_as_many_bytes_are_read_as_were_announced(local: Database, models: Path) -> None:
    said: list[int] = []
    found = pair(local, models, "thief/copy", "org/root", deep=True, before_reading=said.append)
    hidden, heads, kv, ffn, item = 64, 64, 32, 96, 4
    one = item * (16 * hidden + LAYERS * (2 * hidden + hidden * (kv + heads + 2 * ffn)))
    assert said == [2 * one] == [bytes_said(products(found).note)]


def test_a_folder_that_the_store_does_not_know_has_to_be_named(local: Database, models: Path) -> None:
    assert local.compare("org/twin", "org/root").verdict in ("derived", "related")
    with pytest.raises(SourceError, match=r"org/root@.*crawled from a local folder.*name the folder instead"):
        local.compare(str(models / "thief/copy"), "org/root", deep=True, options=SAMPLED)
    assert pair(local, models, "thief/copy", "org/root", deep=True).verdict == "related"


def test_an_adapter_is_told_that_it_has_no_tokens(local: Database, models: Path, tmp_path: Path) -> None:
    bare = {name: tensor for name, tensor in ROOT.items() if "embed" not in name}
    save_file(bare, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    found = local.compare(str(tmp_path), str(models / "else/where"), deep=True)
    line = products(found)
    assert (line.value, line.p_value, line.n) == (None, None, 0)
    assert "too few tokens" in line.note


def test_a_stored_repo_is_read_from_its_hub(hub: tuple[Database, CrawlOptions, LoopbackHub], models: Path) -> None:
    database, options, served = hub
    said: list[int] = []
    before = len(served.requests)
    found = database.compare(
        str(models / "thief/copy"), "org/root", deep=True, options=options, before_reading=said.append
    )
    assert (found.verdict, found.relation) == ("related", "transformed")
    assert said == [bytes_said(products(found).note)]
    assert "fu" not in products(found).note, "of a hub attention alone is read"
    asked = [exchange.path for exchange in served.requests[before:]]
    sha = served.repos["org/root"].sha
    assert any(f"/revision/{sha}" in path for path in asked), "the commit that is stored"
    both = database.compare("thief/copy", "org/root", deep=True, options=options)
    assert products(both).value == products(found).value
    assert (found.direction, both.direction) == ("unknown", "unknown"), "an older relative may be a twin"


def test_of_a_network_sixteen_layers_of_attention_are_read(local: Database, tmp_path: Path) -> None:
    tensors = llama(21, layers=20)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"num_hidden_layers": 20}))
    dossier = local.find(str(tmp_path))
    with Weigher(local.store) as weigher:
        near, far = (replace(weigher.open(dossier, str(tmp_path)), remote=remote) for remote in (False, True))
        ((whole,), (some,)) = (weigher.read(model, [near]) for model in (near, far))
    assert whole.a is not None
    assert some.a is not None
    assert whole.a.layers == tuple(range(20))
    assert len(some.a.layers) == 16
    assert some.a.layers[0] == 0
    assert some.a.layers[-1] == 18
    assert np.isnan(some.a.fu).all()
    assert some.b is not None
    assert some.b.layers == some.a.layers, "one network is enough"
    assert some.bytes_read < whole.bytes_read / 2


def test_a_model_is_read_once_for_all_candidates(local: Database, models: Path) -> None:
    dossiers = {name: local.find(str(models / name)) for name in ("thief/copy", "org/root", "org/twin")}
    with Weigher(local.store) as weigher:
        model, *others = (weigher.open(dossier, str(models / name)) for name, dossier in dossiers.items())
        first, second = weigher.read(model, others)
    assert first.bytes_read == 2 * second.bytes_read
    assert first.a is second.a


# Queries


def test_a_query_finds_the_origin_of_a_disguised_copy(
    hub: tuple[Database, CrawlOptions, LoopbackHub], models: Path
) -> None:
    database, options, _ = hub
    model = str(models / "thief/copy")
    plain = database.query(model, options=options)
    assert not {"org/root", "org/twin"} & {c.repo_id for c in plain.candidates if c.verdict in ("derived", "related")}
    said: list[int] = []
    deep = database.query(model, options=options, deep=True, before_reading=said.append)
    assert deep.verdict == "inconclusive", "a twin would look the same"
    found = {candidate.repo_id: candidate for candidate in deep.candidates}
    assert [candidate.rank for candidate in deep.candidates] == list(range(1, len(MODELS)))
    assert deep.candidates[0].repo_id == "org/root"
    for origin in ("org/root", "org/twin", "thief/twin"):
        assert (found[origin].verdict, found[origin].relation) == ("related", "transformed")
    for stranger in ("else/where", "else/disguised", "else/shallow"):
        assert found[stranger].verdict in ("unrelated", "inconclusive")
    read = [candidate for candidate in deep.candidates if any(e.kind == "products" for e in candidate.evidence)]
    assert len(read) == 5
    assert said == [sum(bytes_said(products(candidate).note) for candidate in read)]
    likely = database.query(model, options=options, deep=True, min_probability=0.5)
    assert {candidate.repo_id for candidate in likely.candidates} == {"org/root", "org/twin", "thief/twin"}


def test_relatives_that_are_known_are_not_read(hub: tuple[Database, CrawlOptions, LoopbackHub]) -> None:
    database, options, _ = hub
    deep = database.query("org/twin", options=options, deep=True)
    assert deep.verdict == "derived"
    assert deep.candidates[0].repo_id == "org/root"
    assert all(line.kind != "products" for line in deep.candidates[0].evidence)


def test_an_older_relative_is_no_proven_parent(hub: tuple[Database, CrawlOptions, LoopbackHub]) -> None:
    database, options, _ = hub
    deep = database.query("thief/copy", options=options, deep=True)
    (root,) = [candidate for candidate in deep.candidates if candidate.repo_id == "org/root"]
    assert (root.verdict, root.direction) == ("related", "unknown")
    assert deep.verdict == "inconclusive"


def test_a_candidate_that_cannot_be_read_says_why(
    hub: tuple[Database, CrawlOptions, LoopbackHub], local: Database, models: Path
) -> None:
    model = str(models / "thief/copy")
    said: list[int] = []
    lines = [
        line
        for candidate in local.query(model, deep=True, options=SAMPLED, before_reading=said.append).candidates
        for line in candidate.evidence
        if line.kind == "products"
    ]
    assert said == []
    assert len(lines) == 5
    assert all(line.value is None and "name the folder instead" in line.note for line in lines)
    with pytest.raises(SourceError, match=r"org/root.*name the folder"):
        local.query("org/root", deep=True, options=SAMPLED)

    database, options, served = hub
    root = served.repos.pop("org/root")
    try:
        found = {c.repo_id: c for c in database.query(model, options=options, deep=True).candidates}
    finally:
        served.repos["org/root"] = root
    assert found["org/root"].verdict not in ("related", "derived")
    assert "org/root" in products(found["org/root"]).note
    assert found["org/twin"].verdict == "related"


def test_the_query_command_shows_products(
    run: Run, local: Database, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ("--store", str(local.store.path))
    plain, deep = (
        run("query", str(models / "thief/copy"), *store, "--mode", "sampled", "--format", "table", *flag)
        for flag in ((), ("--deep",))
    )
    assert "products" not in plain.out + deep.out, "a column in which there is nothing"
    assert "not compared with --deep" not in plain.err
    assert "bytes)" not in deep.err
    assert deep.err.count("not compared with --deep: ") == 5
    assert "not compared with --deep: org/root@" in deep.err


# Stored products


def test_where_products_are_stored_any_query_finds_the_origin_and_nothing_is_read(
    whole: Database, models: Path
) -> None:
    model = str(models / "thief/copy")
    said: list[int] = []
    plain, deep = (whole.query(model, deep=deep, before_reading=said.append) for deep in (False, True))
    assert said == [0]
    assert deep.to_dict() == plain.to_dict()
    assert plain.verdict == "inconclusive"
    found = {candidate.repo_id: candidate for candidate in plain.candidates}
    assert [c.repo_id for c in plain.candidates][:2] == ["org/root", "org/twin"]
    for name in ("org/root", "org/twin"):
        assert (found[name].verdict, found[name].relation) == ("related", "transformed")
    for name in ("else/where", "else/disguised", "else/shallow"):
        assert found[name].verdict in ("unrelated", "inconclusive")
    line = products(found["org/root"])
    assert found["org/root"].p_value == pytest.approx(5 * (line.p_value or 0))
    root = str(models / "org/root")
    assert whole.compare(model, root).to_dict() == whole.compare(model, root, deep=True).to_dict()


def test_the_search_by_products_names_relatives_alone(whole: Database, models: Path) -> None:
    generation = whole.catalogue.generation
    assert generation is not None

    def near(name: str) -> list[str]:
        vector = product_vector(whole.find(name).products)
        rows = generation.nearest(PRODUCTS_SPEC, vector, 10, NEAR)
        return [generation.dossiers[row].repo_id for row in rows]

    assert near(str(models / "thief/copy")) == ["org/root", "org/twin"]
    assert near("else/where") == ["else/where"]
    nothing_but_products = replace(whole.find(str(models / "thief/copy")), facts=np.zeros(0, FACT))
    found = candidates(nothing_but_products, generation, (), pool=1)
    assert [dossier.repo_id for dossier in found] == ["org/root"]


def test_a_model_without_stored_products_is_read_once_and_searched_with(whole: Database, models: Path) -> None:
    model, said = str(models / "thief/copy"), list[int]()
    plain = whole.query(model, options=SAMPLED)
    assert not any(e.kind == "products" for c in plain.candidates for e in c.evidence)
    deep = whole.query(model, options=SAMPLED, deep=True, before_reading=said.append)
    hidden, heads, kv, ffn, item = 64, 64, 32, 96, 4
    assert said == [item * (16 * hidden + LAYERS * (2 * hidden + hidden * (kv + heads + 2 * ffn)))]
    assert (deep.candidates[0].repo_id, deep.candidates[0].relation) == ("org/root", "transformed")
    full = whole.query(model)
    assert products(deep.candidates[0]).value == pytest.approx(products(full.candidates[0]).value, abs=1e-4)


def test_a_model_of_a_hub_is_searched_by_attention_alone(whole: Database, models: Path) -> None:
    said: list[int] = []
    with LoopbackHub(folder_repos(models)) as served:
        options = CrawlOptions(endpoint=served.endpoint)
        deep = whole.query("thief/copy", options=options, deep=True, before_reading=said.append)
    assert (deep.candidates[0].repo_id, deep.candidates[0].relation) == ("org/root", "transformed")
    assert "fu" not in products(deep.candidates[0]).note
    hidden, heads, kv, item = 64, 64, 32, 4
    assert said == [item * (16 * hidden + LAYERS * (hidden + hidden * (kv + heads)))]


def test_the_lineage_table_agrees_with_the_query(whole: Database, models: Path) -> None:
    with provenance.open(models.parent / "lineage", create=True) as database:
        database.crawl([models])
        database.index()
        list(database.refresh_lineage())
        rows = {(row.child, row.parent): row for row in database.lineage()}
        query = database.query("thief/copy", k=50)
    told = {c.repo_id for c in query.candidates if c.relation == "transformed"}
    assert {"org/root", "org/twin"} <= told
    assert told == {parent for child, parent in rows if child == "thief/copy"}
    row = rows["thief/copy", "org/root"]
    assert (row.verdict, row.relation, row.direction) == ("related", "transformed", "unknown")
    assert not any((child, parent) == ("org/root", "thief/copy") for child, parent in rows), "the copy is younger"


# Vocabularies


def test_tokens_go_by_their_strings_where_vocabularies_differ(local: Database, models: Path, tmp_path: Path) -> None:
    """The copy has its tokens in another order; equal ids would compare different tokens."""
    names = [f"t{i}" for i in range(64)]
    order = [(7 * i + 3) % 64 for i in range(64)]
    copy = dict(MODELS["thief/copy"])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        copy[name] = copy[name][order]
    for folder, tensors, vocabulary in (
        ("copy", copy, {names[old]: new for new, old in enumerate(order)}),
        ("root", ROOT, {name: i for i, name in enumerate(names)}),
    ):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
        (tmp_path / folder / "config.json").write_text(json.dumps(CONFIG))
        (tmp_path / folder / "tokenizer.json").write_text(json.dumps({"model": {"vocab": vocabulary}}))
    a, b = str(tmp_path / "copy"), str(tmp_path / "root")
    found = local.compare(a, b, deep=True)
    assert found.verdict == "related"
    assert "equal ids" not in products(found).note
    (tmp_path / "copy" / "tokenizer.json").unlink()
    blind = local.compare(a, b, deep=True)
    assert blind.verdict != "related"
    assert "equal ids are taken for equal tokens" in products(blind).note


def test_the_command_says_what_it_reads_on_stderr(run: Run, local: Database, models: Path) -> None:
    arguments = [str(models / name) for name in ("thief/copy", "org/root")]
    done = run("compare", "--deep", *arguments, "--store", str(local.store.path), "--format", "json")
    assert done.status == 0, done.err
    (line,) = [line for line in done.json["evidence"] if line["kind"] == "products"]
    assert set(line) == {"kind", "value", "p_value", "log10_p", "n", "note"}
    assert done.err == "no weights are read: all that --deep can compare is stored\n"
    assert "bytes read" not in line["note"]
    table = run("compare", "--deep", *arguments, "--store", str(local.store.path), "--format", "table")
    assert "products" in table.out
    refused = run("compare", "--deep", "org/twin", "org/root", "--store", str(local.store.path))
    assert refused.status == 1
    assert re.fullmatch(r"provenance: org/twin@.*--deep.*name the folder.*\n", refused.err)

"""The zoo: trained checkpoints whose lineage is known, read whole and read little. Skips where there is no zoo."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from provenance.crawler.engine.options import CrawlOptions
from provenance.database import Database, open_database
from provenance.query.engine import judge
from provenance.query.evaluation.truth import Truth, read_truth
from provenance.schemas.evaluation import Evaluation, TruthFigures
from tests.conftest import ZOO

MODELS, LINEAGE = ZOO / "models", ZOO / "lineage.csv"
INCONCLUSIVE_ALLOWED = "prune_residual_width"
"""Its columns were chosen anew, so that no cell corresponds."""

SECOND = 12
"""Models that are asked about in the second store."""


@pytest.fixture(scope="session")
def here() -> None:
    if not LINEAGE.exists():
        pytest.skip(f"no zoo at {ZOO}: it is not part of the product")


def crawled(store: Path, options: CrawlOptions) -> Database:
    database = open_database(store, create=True)
    summary = database.crawl([MODELS], options)
    assert summary.failed == 0, [o.message for o in summary.failures]
    database.index()
    return database


@pytest.fixture(scope="session")
def full(here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    with crawled(tmp_path_factory.mktemp("zoo") / "full", CrawlOptions(mode="full")) as database:
        yield database


@pytest.fixture(scope="session")
def small(here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    options = CrawlOptions(mode="sampled", sample="small")
    with crawled(tmp_path_factory.mktemp("zoo") / "small", options) as database:
        yield database


@pytest.fixture(scope="session")
def truth(here: None) -> dict[str, Truth]:
    return read_truth(LINEAGE)


@pytest.fixture(scope="session")
def measured(full: Database) -> Evaluation:
    return full.evaluate(LINEAGE)


def family(model: str, truth: dict[str, Truth]) -> frozenset[str]:
    return truth[model].roots or frozenset({model})


def test_every_model_of_the_table_is_stored(measured: Evaluation, truth: dict[str, Truth]) -> None:
    assert measured.models == TruthFigures(len(truth), len(truth))


def test_nobody_is_accused(measured: Evaluation) -> None:
    accusations = measured.accusations
    assert accusations.unrelated_pairs > 3000
    assert accusations.who == ()
    assert (accusations.accused, accusations.accused_at_ten_times_alpha) == (0, 0)


def test_every_derivative_is_traced_to_its_family(measured: Evaluation) -> None:
    derivatives = [d for d in measured.models_detail if d.derived and not d.attack and not d.adapter]
    assert len(derivatives) > 35
    assert [d.model for d in derivatives if d.family_rank != 1] == []
    missed = [d.model for d in derivatives if d.verdict != "derived" and d.relation != INCONCLUSIVE_ALLOWED]
    assert missed == []
    allowed = [d.verdict for d in derivatives if d.relation == INCONCLUSIVE_ALLOWED]
    assert set(allowed) <= {"derived", "inconclusive"}


def test_models_from_scratch_derive_from_nobody(measured: Evaluation) -> None:
    originals = [d for d in measured.models_detail if not d.derived]
    assert {"distilled_fresh_student", "random_init_control"} <= {d.relation for d in originals}
    assert [d.model for d in originals if d.verdict == "derived"] == []


def test_adapters_alone_are_inconclusive(measured: Evaluation) -> None:
    adapters = [d.verdict for d in measured.models_detail if d.adapter]
    assert len(adapters) == 2
    assert set(adapters) == {"inconclusive"}


def test_p_values_of_unrelated_models_are_not_too_small(measured: Evaluation) -> None:
    rows = {(row.line, row.level): row for row in measured.calibration}
    assert ("weight_correlation", 0.01) in rows
    for (_, level), row in rows.items():
        assert row.low is None or row.low <= level


def test_read_little_is_little_and_nobody_is_accused(small: Database, truth: dict[str, Truth]) -> None:
    with small.connect() as connection:
        (share,) = connection.sql("select sum(bytes_read) / sum(total_bytes) from latest_checkpoints").fetchall()[0]
    assert 0 < share <= 0.10
    for model in asked_about(truth):
        found = judge(small.find(model), small.catalogue)
        guilty = [c.repo_id for c in found.candidates if c.verdict in ("derived", "related")]
        assert all(family(model, truth) & family(other, truth) for other in guilty), model
        if truth[model].derived:
            assert family(model, truth) & family(found.candidates[0].repo_id, truth), model
            assert found.verdict == "derived", model
        else:
            assert found.verdict != "derived", model


def test_a_model_read_whole_is_found_among_models_read_little(
    full: Database, small: Database, truth: dict[str, Truth]
) -> None:
    for model in [name for name in asked_about(truth) if truth[name].derived]:
        found = judge(full.find(model), small.catalogue)
        assert family(model, truth) & family(found.candidates[0].repo_id, truth), model
        assert found.verdict == "derived", model


def asked_about(truth: dict[str, Truth]) -> list[str]:
    """Models of as many kinds as possible, in a fixed order."""
    kinds: dict[str, str] = {}
    for model, row in sorted(truth.items()):
        if not row.attack and row.relation not in ("lora_adapter", INCONCLUSIVE_ALLOWED):
            kinds.setdefault(row.relation, model)
    chosen = sorted(kinds)
    return [kinds[relation] for relation in chosen[:: max(1, len(chosen) // SECOND)]]

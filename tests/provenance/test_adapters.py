"""Adapters among models: what is said of them, and who is found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file

import provenance
from provenance.cli import provenance as command_line
from provenance.database import Database
from provenance.schemas.enums import Direction, ModelVerdict, NoteKind, Relation, Verdict
from provenance.schemas.results import Answer, Candidate
from tests.conftest import llama

RANK = 4
TARGETS = ("q_proj", "v_proj", "o_proj", "up_proj", "down_proj")

Tensors = dict[str, torch.Tensor]


def base(seed: int, **shape: int) -> Tensors:
    return {name: torch.from_numpy(array.astype(np.float32)) for name, array in llama(seed, **shape).items()}


def factors(model: Tensors, seed: int) -> Tensors:
    """A LoRA of some matrices of a model, a tenth as large as they are."""
    generator = torch.Generator().manual_seed(seed)
    found: Tensors = {}
    for name, weight in model.items():
        if name.split(".")[-2] in TARGETS:
            module = f"base_model.model.{name.removesuffix('.weight')}"
            a = torch.randn(RANK, weight.shape[1], generator=generator)
            b = torch.randn(weight.shape[0], RANK, generator=generator) * weight.std() / 20 / RANK**0.5
            found |= {f"{module}.lora_A.weight": a, f"{module}.lora_B.weight": b}
    return found


def merged(model: Tensors, adapter: Tensors, times: float) -> Tensors:
    result = dict(model)
    for name, a in adapter.items():
        if ".lora_A." in name:
            target = name.removeprefix("base_model.model.").replace(".lora_A", "")
            result[target] = model[target] + times * adapter[name.replace("lora_A", "lora_B")] @ a
    return result


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    """Two bases, an adapter of each, copies of one adapter, and a model into which it was merged."""
    store = tmp_path_factory.mktemp("stored")
    root = tmp_path_factory.mktemp("adapters")
    bases = {"org/base": base(1), "org/other": base(2), "org/small": base(3, layers=4, hidden=32)}
    adapters = {"lora/first": factors(bases["org/base"], 5), "lora/stranger": factors(bases["org/other"], 6)}
    first = adapters["lora/first"]
    noise = torch.Generator().manual_seed(7)
    adapters["lora/copy"] = first
    adapters["lora/half"] = {name: t.half() for name, t in first.items()}
    adapters["lora/tuned"] = {n: t + 0.1 * t.std() * torch.randn(t.shape, generator=noise) for n, t in first.items()}
    models = {**bases, "org/merged": {n: t.bfloat16() for n, t in merged(bases["org/base"], first, 2.0).items()}}
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "base_model_name_or_path": "org/base"}
    for name, tensors in models.items():
        (root / name).mkdir(parents=True)
        save_file({n: t.contiguous() for n, t in tensors.items()}, root / name / "model.safetensors")
    for name, tensors in adapters.items():
        (root / name).mkdir(parents=True)
        save_file(tensors, root / name / "adapter_model.safetensors")
        (root / name / "adapter_config.json").write_text(json.dumps(config))
    opened = provenance.open(store, create=True)
    opened.crawl([root])
    return opened


def ask(database: Database, model: str) -> tuple[Answer, dict[str, Candidate]]:
    answer = database.query(model, k=20)
    return answer, {candidate.repo_id: candidate for candidate in answer.candidates}


def test_a_bare_adapter_says_nothing_of_its_base(database: Database) -> None:
    answer, found = ask(database, "lora/first")
    assert answer.verdict is ModelVerdict.INCONCLUSIVE
    assert answer.model.declared_parents == ("org/base",)
    alone, same, kind = answer.notes
    assert (alone.kind, same.kind, kind.kind) == (
        NoteKind.ADAPTER_ALONE,
        NoteKind.SAME_WEIGHTS,
        NoteKind.UNRESOLVED,
    )
    assert alone.text == "an adapter alone: its weights say nothing of its base, which is declared to be org/base"
    assert "lora/copy" in same.text
    assert kind.text.startswith("an adapter alone (LoRA): rank 4, scale 2, ")
    for name in ("org/base", "org/other", "org/small", "org/merged"):
        assert found[name].verdict is Verdict.INCONCLUSIVE
        assert (found[name].score, found[name].probability) == (0.0, 0.0)
        assert [e.kind for e in found[name].evidence] == ["adapter_targets"]
        assert "its weights say nothing of its base" in found[name].evidence[0].note
    assert [name for name, candidate in found.items() if candidate.declared] == ["org/base"]


def test_shapes_are_checked_against_the_models(database: Database) -> None:
    _, found = ask(database, "lora/first")
    fits, other = found["org/base"].evidence[0], found["org/small"].evidence[0]
    assert (fits.value, fits.n) == (1.0, 30)
    assert "30 of its 30 targets have the shapes of org/base" in fits.note
    assert other.value == 0.0
    assert "q of layer 0, 64 x 64, is 32 x 32 there" in other.note


def test_a_copied_and_a_tuned_adapter_are_found(database: Database) -> None:
    _, found = ask(database, "lora/first")
    assert (found["lora/copy"].verdict, found["lora/copy"].relation) == (Verdict.RELATED, Relation.IDENTICAL)
    for name in ("lora/half", "lora/tuned"):
        assert found[name].verdict is Verdict.RELATED
        assert found[name].score > 0.95
    assert found["lora/stranger"].verdict is Verdict.UNRELATED


def test_a_merged_adapter_is_a_parent_beside_the_base(database: Database) -> None:
    answer, found = ask(database, "org/merged")
    assert answer.verdict is ModelVerdict.DERIVED
    first = found["lora/first"]
    assert (first.verdict, first.direction, first.relation) == (Verdict.DERIVED, Direction.PARENT, Relation.ADAPTER)
    line = next(e for e in first.evidence if e.kind == "adapter_merge")
    assert line.value is not None
    assert line.value > 0.95
    assert line.note.startswith("the change from org/base is 1.0")
    assert found["org/base"].verdict in (Verdict.DERIVED, Verdict.RELATED)
    stranger = found["lora/stranger"]
    assert (stranger.verdict, [e.kind for e in stranger.evidence]) == (Verdict.INCONCLUSIVE, ["adapter_targets"])
    derived = [candidate.verdict is Verdict.DERIVED for candidate in answer.candidates]
    assert derived == sorted(derived, reverse=True)


def test_a_model_without_the_adapter_in_it_has_none(database: Database) -> None:
    for name in ("org/base", "org/other"):
        _, found = ask(database, name)
        assert {c.verdict for repo, c in found.items() if repo.startswith("lora/")} == {Verdict.INCONCLUSIVE}


def test_an_adapter_and_a_model_compared(database: Database) -> None:
    found = database.compare("lora/first", "org/base")
    assert found.verdict is Verdict.INCONCLUSIVE
    assert found.curves.published_score is None
    assert [note.kind for note in found.notes] == [NoteKind.ADAPTER_ALONE]
    into = database.compare("org/merged", "lora/first")
    assert (into.verdict, into.relation, list(into.changes)) == (Verdict.DERIVED, Relation.ADAPTER, [])


def test_accuracy_is_measured_beside_adapters(database: Database, tmp_path: Path) -> None:
    truth = tmp_path / "truth.csv"
    rows = ["org/base,,org/base", "org/other,,org/other", "org/small,,org/small", "org/merged,org/base,org/base",
            "lora/first,org/base,org/base", "lora/stranger,org/other,org/other"]  # fmt: skip
    header = "model,parents,root,relation,declared_base,created_at,attack,weights_derived\n"
    truth.write_text(header + "".join(f"{row},x,,,false,true\n" for row in rows))
    found = database.evaluate(truth)
    assert found.models.stored == len(rows)
    assert "adapter_targets" not in {line.line for line in found.lines}


def test_the_notes_are_printed(database: Database) -> None:
    model, store = "lora/first", str(database.store.path)
    for arguments, words in (
        (["query", model], "an adapter alone: its weights say nothing of its base"),
        (["compare", model, "org/base"], "an adapter alone: its weights say nothing of its base"),
        (["show", model], "an adapter alone (LoRA): rank 4, scale 2, 30 targets"),
    ):
        result = CliRunner().invoke(command_line, [*arguments, "--store", store, "--format", "table"])
        assert result.exit_code == 0, result.output
        assert words in result.output
    assert list(database.query("org/base").notes) == []

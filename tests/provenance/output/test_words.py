"""Verdicts in sentences: one for every verdict that there is, and none that claims more than the answer does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from provenance.output.words import (
    LEGEND,
    MADE,
    STYLES,
    Reason,
    comparison_reasons,
    comparison_sentence,
    explanation,
    reasons,
    verdict_sentence,
)
from provenance.query.evidence.registry import DEEP, LINES
from provenance.schemas.comparison import ComparedModel, Comparison, Controls, CurveScores, RoleChange
from provenance.schemas.enums import Direction, ModelVerdict, NoteKind, Relation, Verdict, Witness
from provenance.schemas.results import (
    Answer,
    Candidate,
    Claim,
    Evidence,
    LayerRun,
    ModelSummary,
    Note,
    SearchedStore,
)
from provenance.schemas.tabular import Rows

WEIGHTS = Evidence("weight_correlation", 0.979, 1e-28, -28.0, 3744, "t = 39.0")


def candidate(repo: str, verdict: Verdict = Verdict.DERIVED, **changed: Any) -> Candidate:
    made = Candidate(
        rank=1,
        checkpoint_id=f"{repo}@0",
        repo_id=repo,
        verdict=verdict,
        relation=Relation.FINETUNE,
        direction=Direction.PARENT,
        declared=False,
        probability=1.0,
        p_value=1e-28,
        p_adjusted=7e-28,
        log10_p=-28.0,
        score=0.98,
        merge_weight=None,
        license="mit",
        created_at="2025-02-03T00:00:00+00:00",
        merge=None,
        layers=Rows(LayerRun),
        decided_by=Witness.DATES,
        undeclared=True,
        license_differs=True,
        evidence=Rows(Evidence, [WEIGHTS]),
    )
    return replace(made, **changed)


def answer(verdict: ModelVerdict, *candidates: Candidate, **changed: Any) -> Answer:
    model = ModelSummary("a/model@0", "a/model", 6, (), "apache-2.0", "2025-03-18T00:00:00+00:00", None, False, 56)
    return Answer(
        replace(model, **changed),
        SearchedStore(7, 0, None),
        verdict,
        Rows(Claim),
        Rows(Note),
        Rows(Candidate, candidates),
    )


def unknown(repo: str, relation: Relation) -> Candidate:
    return candidate(repo, Verdict.RELATED, direction=Direction.UNKNOWN, relation=relation, decided_by=None)


@pytest.mark.parametrize(
    ("found", "sentence"),
    [
        (answer(ModelVerdict.DERIVED, candidate("b/base")), "a/model is a fine-tune of b/base."),
        (
            answer(ModelVerdict.DERIVED, candidate("b/base"), candidate("c/root")),
            "a/model is a fine-tune of b/base. Other ancestors, or copies of one: c/root.",
        ),
        (
            answer(
                ModelVerdict.DERIVED,
                candidate("b/one", merge_weight=0.6, relation=Relation.MERGE),
                candidate("c/two", merge_weight=0.4, relation=Relation.MERGE),
            ),
            "a/model is a merge of b/one (60%) and c/two (40%).",
        ),
        (answer(ModelVerdict.DERIVED), "a/model is derived from a stored checkpoint that is not listed."),
        (answer(ModelVerdict.NO_PARENT_FOUND), "No stored checkpoint is an ancestor of a/model."),
        (
            answer(
                ModelVerdict.NO_PARENT_FOUND,
                *(candidate(f"c/{n}", Verdict.RELATED, direction=Direction.CHILD) for n in range(5)),
            ),
            "No stored checkpoint is an ancestor of a/model. It is itself the origin of c/0, c/1, c/2 and 2 more.",
        ),
        (
            answer(ModelVerdict.INCONCLUSIVE, unknown("b/copy", Relation.IDENTICAL)),
            "a/model and b/copy have the same weights; who was first is not known.",
        ),
        (
            answer(ModelVerdict.INCONCLUSIVE, unknown("b/near", Relation.FINETUNE)),
            "a/model and b/near have a common origin; which of them came first is not known.",
        ),
        (
            answer(ModelVerdict.INCONCLUSIVE, candidate("b/x", Verdict.INCONCLUSIVE, direction=Direction.UNKNOWN)),
            "The weights of a/model neither show nor rule out a common origin with b/x.",
        ),
        (
            answer(ModelVerdict.INCONCLUSIVE, candidate("b/x", Verdict.INCONCLUSIVE), adapter=True, resolved=0),
            "a/model is an adapter alone: without the model that it belongs to there is nothing to compare.",
        ),
        (
            answer(ModelVerdict.INCONCLUSIVE, n_layers=None, resolved=0),
            "No attention was found in a/model: none of its layers could be told apart, so nothing is compared.",
        ),
        (answer(ModelVerdict.INCONCLUSIVE), "The weights that were read of a/model do not suffice to decide."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_sentence_of_a_verdict(found: Answer, sentence: str) -> None:
    assert verdict_sentence(found) == sentence


def test_reasons_name_weights_order_card_license_and_doubt() -> None:
    found = answer(ModelVerdict.DERIVED, candidate("b/base"))
    told = dict(reasons(found))
    assert told == {
        "weights": "correlation 0.979 with b/base, over 3,744 sampled weights; "
        "by chance under 1 in 10^27 (p = 7e-28, over the whole store)",
        "order": "the dates of creation: b/base 2025-02-03, a/model 2025-03-18",
        "card": "it names no origin",
        "license": "apache-2.0; the origin has mit",
        "doubt": "the order rests on the dates, which can be wrong; the weights do not settle it",
    }


def test_a_conflict_of_dates_is_a_doubt_and_structure_needs_none() -> None:
    conflict = Evidence("dates", None, None, None, 0, "the dates of these two contradict the weights")
    one = candidate("b/base", decided_by=Witness.STRUCTURE, evidence=Rows(Evidence, [WEIGHTS, conflict]))
    told = reasons(answer(ModelVerdict.DERIVED, replace(one, license_differs=None), license=None))
    assert [about for about, _ in told] == ["weights", "order", "card", "doubt"]
    assert told[-1].text == conflict.note


def test_a_p_value_that_underflows_is_still_said() -> None:
    told = dict(reasons(answer(ModelVerdict.DERIVED, candidate("b/base", p_adjusted=0.0, log10_p=-812.4))))
    assert told["weights"].endswith("by chance under 1 in 10^812 (p too small for a float, over the whole store)")


def test_nothing_related_needs_no_reasons() -> None:
    assert reasons(answer(ModelVerdict.NO_PARENT_FOUND, candidate("b/x", Verdict.UNRELATED))) == []


@pytest.mark.parametrize("witness", Witness)
@pytest.mark.parametrize("direction", [Direction.PARENT, Direction.CHILD])
def test_every_witness_has_its_words(witness: Witness, direction: Direction) -> None:
    one = candidate("b/base", Verdict.RELATED, direction=direction, decided_by=witness)
    assert len(dict(reasons(answer(ModelVerdict.NO_PARENT_FOUND, one)))["order"]) > 20


def test_every_line_of_evidence_is_explained() -> None:
    lines = [*LINES, DEEP]
    told = explanation([Evidence(line.name, 0.5, 1e-9, -9.0, 12, "a note") for line in lines])
    assert [about for about, _ in told] == [line.name for line in lines]
    for line, (_, text) in zip(lines, told, strict=True):
        assert line.meaning[1:] in text
        assert "Here 0.500 over 12, by chance under 1 in 10^9 (log10 p -9.0): a note." in text
        assert ("never convicts" in text or "no evidence" in text) == (not line.convicts)
    (conflict,) = explanation([Evidence("dates", None, None, None, 0, "they contradict")])
    assert conflict == ("dates", "they contradict.")


def test_no_word_is_without_its_meaning() -> None:
    assert set(MADE) == set(Relation)
    assert set(Verdict) | set(Direction) <= set(LEGEND)
    assert set(STYLES) == {*Verdict, *ModelVerdict}


@pytest.mark.parametrize(
    ("verdict", "direction", "relation", "sentence"),
    [
        ("derived", "parent", "quantized", "a/a is a quantised form of b/b."),
        ("related", "child", "pruned", "b/b is a pruned form of a/a."),
        ("related", "sibling", "unknown", "a/a and b/b have a common origin; neither comes from the other."),
        ("related", "unknown", "identical", "a/a and b/b have the same weights; who was first is not known."),
        ("unrelated", "unknown", "unknown", "Nothing in the weights shows a common origin of a/a and b/b."),
        (
            "inconclusive",
            "unknown",
            "unknown",
            "The weights that were read neither show nor rule out a common origin of a/a and b/b.",
        ),
    ],
)
def test_sentence_of_a_comparison(verdict: str, direction: str, relation: str, sentence: str) -> None:
    a, b = (ComparedModel(f"{name}/{name}@0", f"{name}/{name}", 6, 64, 4, 2, None) for name in "ab")
    nothing = (None,) * 4
    found = Comparison(
        a,
        b,
        Verdict(verdict),
        Relation(relation),
        Direction(direction),
        *(1.0, 1e-28, 1e-27, -28.0, 0.9, None, None, None),
        Rows(Evidence, [WEIGHTS]),
        Rows(RoleChange),
        CurveScores(*nothing),
        Controls(0, *nothing),
        Rows(Note, [Note("b/b@1", NoteKind.PACKED, "its weights are packed")]),
    )
    assert comparison_sentence(found) == sentence
    assert Reason("note", "b/b@1: its weights are packed") in comparison_reasons(found)

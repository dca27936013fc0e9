"""Verdicts in sentences: what is claimed, why, and what raises doubt. Nothing here decides anything."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from provenance.output.text import chance, clean, show
from provenance.schemas.comparison import Comparison
from provenance.schemas.enums import ClaimStatus, Direction, ModelVerdict, Null, Relation, Verdict, Witness
from provenance.schemas.results import Answer, Candidate, Claim, Evidence

if TYPE_CHECKING:
    from provenance.query.evidence.registry import Line

STYLES = {
    "derived": "bold magenta",
    "related": "cyan",
    "inconclusive": "yellow",
    "unrelated": "dim",
    "no-parent-found": "green",
}
"""The style of a verdict on a terminal."""

MADE = {
    Relation.IDENTICAL: "is a copy of",
    Relation.FINETUNE: "is a fine-tune of",
    Relation.CONTINUED_PRETRAINING: "is a continued pre-training of",
    Relation.ADAPTER: "is an adapter of",
    Relation.MERGE: "is a merge with",
    Relation.QUANTIZED: "is a quantised form of",
    Relation.PRUNED: "is a pruned form of",
    Relation.UPCYCLED: "is a mixture of experts made from",
    Relation.DEPTH_CHANGED: "is made of layers of",
    Relation.TRANSFORMED: "is a transformed form of",
    Relation.UNKNOWN: "is derived from",
}

LEGEND = {
    "derived": "the candidate is an ancestor of the model, or a copy that came first",
    "related": "both have a common origin; the candidate is a child, a sibling, or it is not known which came first",
    "inconclusive": "the weights that were read do not suffice to decide",
    "unrelated": "the weights show no common origin",
    "parent": "the candidate came first, and the model was made from it or from one of its descendants",
    "child": "the model came first",
    "sibling": "both were made from the same model or start",
    "unknown": "it is not known",
    "declared": "whether the model's card names the candidate",
    "log10 p": "how rarely chance alone agrees as well: -27 is once in 10^27",
    "weights": "correlation of the sampled weights, from -1 to 1",
    "norms": "correlation of the norms and biases; supports, and decides nothing",
    "curves": "the published score of the layers' spread; strangers of one shape reach 0.9",
    "products": "agreement of what no inner disguise changes in the layers, from -1 to 1",
    "(shapes)": "how alike the shapes are; no evidence of origin",
}
"""The words of the table of `query`."""


class Reason(NamedTuple):
    """One line under a verdict: what it is about, and what there is to say."""

    about: str
    text: str


def verdict_sentence(answer: Answer) -> str:
    """The verdict on a model in one or two sentences."""
    model = clean(answer.model.repo_id)
    if answer.verdict is ModelVerdict.DERIVED:
        return _derived(model, [c for c in answer.candidates if c.verdict is Verdict.DERIVED])
    if answer.verdict is ModelVerdict.NO_PARENT_FOUND:
        return _no_parent(model, answer.candidates)
    return _inconclusive(model, answer)


def comparison_sentence(found: Comparison) -> str:
    """The verdict on a pair in one sentence."""
    a, b = clean(found.a.repo_id), clean(found.b.repo_id)
    if found.direction is Direction.PARENT:
        return f"{a} {MADE[found.relation]} {b}."
    if found.direction is Direction.CHILD:
        return f"{b} {MADE[found.relation]} {a}."
    if found.verdict is Verdict.RELATED:
        return _without_order(a, b, found.relation, found.direction)
    if found.verdict is Verdict.UNRELATED:
        return f"Nothing in the weights shows a common origin of {a} and {b}."
    return f"The weights that were read neither show nor rule out a common origin of {a} and {b}."


def reasons(answer: Answer) -> list[Reason]:
    """Why the verdict is what it is, and what raises doubt, about the best candidate."""
    relatives = [c for c in answer.candidates if c.verdict in (Verdict.DERIVED, Verdict.RELATED)]
    if not relatives:
        return _doubts(answer, None)
    best = relatives[0]
    found = [Reason("weights", _weights(best.evidence, best.p_adjusted, best.log10_p, clean(best.repo_id)))]
    if best.decided_by is not None:
        model, other = (_Dated(one.repo_id, one.created_at) for one in (answer.model, best))
        found.append(Reason("order", _order(best.decided_by, best.direction, model, other)))
    for parent in relatives:
        found += [Reason("merge", f"{clean(parent.repo_id)}: {clean(line.note)}") for line in _merge(parent.evidence)]
    if best.verdict is Verdict.DERIVED:
        if not answer.claims:
            found.append(Reason("card", _card(answer)))
        if best.license_differs:
            found.append(Reason("license", f"{clean(answer.model.license)}; the origin has {clean(best.license)}"))
    return found + _doubts(answer, best)


def claims(answer: Answer) -> list[Reason]:
    """What the card says and what the weights say of it, then what is known of copies and of the model itself."""
    said = [Reason("card says", _claim(claim)) for claim in answer.claims]
    return said + [Reason("note", clean(note.text)) for note in answer.notes]


def _claim(claim: Claim) -> str:
    words = {
        ClaimStatus.CONFIRMED: "confirmed by the weights",
        ClaimStatus.CONTRADICTED: "contradicted by the weights",
        ClaimStatus.NOT_STORED: "not stored, so its weights were not compared",
        ClaimStatus.CANNOT_TELL: f"cannot tell; by the weights it is {claim.verdict}, direction {claim.direction}",
    }[claim.status]
    if claim.found_instead:
        words += f", which say {clean(claim.found_instead)}"
    here, there = (clean(license_ or "unknown") for license_ in (claim.license, claim.parent_license))
    return f"{clean(claim.parent)}: {words}; license {here} here, {there} there"


def comparison_reasons(found: Comparison) -> list[Reason]:
    """Why the verdict on a pair is what it is."""
    lines = [Reason("weights", _weights(found.evidence, found.p_adjusted, found.log10_p, clean(found.b.repo_id)))]
    if found.decided_by is not None:
        a, b = (_Dated(one.repo_id, one.created_at) for one in (found.a, found.b))
        lines.append(Reason("order", _order(found.decided_by, found.direction, a, b)))
    lines += [Reason("note", f"{clean(note.checkpoint_id)}: {clean(note.text)}") for note in found.notes]
    doubts = [*(clean(line.note) for line in _conflicts(found.evidence)), *_weak_witness(found.decided_by)]
    return lines + [Reason("doubt", text) for text in doubts]


def explanation(evidence: Sequence[Evidence]) -> list[Reason]:
    """A sentence for every line of evidence: what it asks, what was measured, and how likely that is by chance."""
    from provenance.query.evidence.registry import DEEP, LINES

    known = {line.name: line for line in (*LINES, DEEP)}
    return [Reason(one.kind, _explained(one, known.get(one.kind))) for one in evidence]


def _explained(one: Evidence, line: Line | None) -> str:
    parts = [f"High means: {line.meaning[0].lower()}{line.meaning[1:]}"] if line else []
    if one.value is not None:
        here = f"Here {show(one.value)}"
        if one.log10_p is not None and one.log10_p < 0:
            here += f" over {one.n:,}, {chance(one.log10_p)} (log10 p {one.log10_p:.1f})"
        parts.append(here + (f": {clean(one.note)}." if one.note else "."))
    elif one.note:
        parts.append(f"{clean(one.note).rstrip('.')}.")
    if line and not line.convicts:
        parts.append("It is no evidence." if line.null is Null.NONE else "It supports, and never convicts.")
    return " ".join(parts)


def _derived(model: str, ancestors: Sequence[Candidate]) -> str:
    if not ancestors:  # hidden by --min-probability or -k
        return f"{model} is derived from a stored checkpoint that is not listed."
    parents = [c for c in ancestors if c.merge_weight is not None]
    if len(parents) > 1:
        shares = [f"{clean(c.repo_id)} ({c.merge_weight:.0%})" for c in parents]
        return f"{model} is a merge of {_listed(shares)}."
    first, *further = ancestors
    sentence = f"{model} {MADE[first.relation]} {clean(first.repo_id)}."
    above = [clean(c.repo_id) for c in further]
    return f"{sentence} Other ancestors, or copies of one: {_listed(above, most=3)}." if above else sentence


def _no_parent(model: str, candidates: Sequence[Candidate]) -> str:
    sentence = f"No stored checkpoint is an ancestor of {model}."
    children = [clean(c.repo_id) for c in candidates if c.direction is Direction.CHILD]
    siblings = [clean(c.repo_id) for c in candidates if c.direction is Direction.SIBLING]
    if children:
        return f"{sentence} It is itself the origin of {_listed(children, most=3)}."
    if siblings:
        return f"{sentence} It shares its origin with {_listed(siblings, most=3)}."
    return sentence


def _inconclusive(model: str, answer: Answer) -> str:
    undecided = [c for c in answer.candidates if c.verdict is Verdict.RELATED and c.direction is Direction.UNKNOWN]
    if undecided:
        first = undecided[0]
        return _without_order(model, clean(first.repo_id), first.relation, first.direction)
    if answer.model.adapter:
        return f"{model} is an adapter alone: without the model that it belongs to there is nothing to compare."
    if not answer.model.resolved or not answer.model.n_layers:
        return f"No attention was found in {model}: none of its layers could be told apart, so nothing is compared."
    near = [c for c in answer.candidates if c.verdict is Verdict.INCONCLUSIVE]
    if near:
        names = _listed([clean(c.repo_id) for c in near], most=3)
        return f"The weights of {model} neither show nor rule out a common origin with {names}."
    return f"The weights that were read of {model} do not suffice to decide."


def _without_order(a: str, b: str, relation: Relation, direction: Direction) -> str:
    if direction is Direction.SIBLING:
        return f"{a} and {b} have a common origin; neither comes from the other."
    if relation is Relation.IDENTICAL:
        return f"{a} and {b} have the same weights; who was first is not known."
    return f"{a} and {b} have a common origin; which of them came first is not known."


def _weights(evidence: Sequence[Evidence], p_adjusted: float, log10_p: float, name: str) -> str:
    rarity = math.log10(p_adjusted) if p_adjusted > 0 else log10_p
    measured = {e.kind: e for e in evidence}
    line = measured.get("layer_alignment") or measured.get("weight_correlation") or measured.get("tensor_digest")
    if line is None or line.value is None:
        return f"none of those of {name} could be compared"
    what = f"correlation {line.value:.3f} with {name}, over {line.n:,} sampled weights"
    if line.kind == "tensor_digest":
        what = f"{clean(line.note)} in {name}"
    p = f"p = {p_adjusted:.2g}" if p_adjusted > 0 else "p too small for a float"
    return f"{what}; {chance(rarity)} ({p}, over the whole store)"


class _Dated(NamedTuple):
    """A model, and when it was created."""

    repo_id: str
    created_at: str | None

    @property
    def day(self) -> str:
        return clean(self.created_at)[:10] if self.created_at else "at an unknown date"


def _order(witness: Witness, direction: Direction, model: _Dated, candidate: _Dated) -> str:
    first, second = (candidate, model) if direction is Direction.PARENT else (model, candidate)
    older, younger = clean(first.repo_id), clean(second.repo_id)
    return {
        Witness.STRUCTURE: f"the structure shows it: {younger} was cut, extended or rounded from {older}",
        Witness.ASYMMETRY: f"the change is one-sided: {younger} carries all of {older}, and not the reverse",
        Witness.DATES: f"the dates of creation: {older} {first.day}, {younger} {second.day}",
        Witness.DECLARED: f"the card of {younger} names {older}",
        Witness.FAMILY: f"the other relatives: seen from them, {older} stands nearer to the origin than {younger}",
        Witness.MERGE: f"the weights of {younger} are made of those of all its parents",
    }[witness]


def _card(answer: Answer) -> str:
    unread = answer.model.declared_parents is None
    return "there is none, or it could not be read" if unread else "it names no origin"


def _doubts(answer: Answer, best: Candidate | None) -> list[Reason]:
    doubts = [clean(line.note) for line in _conflicts(best.evidence)] if best else []
    if best and best.direction is Direction.UNKNOWN and not (answer.model.created_at and best.created_at):
        doubts.append("the dates of creation are not known, and the weights do not settle the order")
    if best:
        doubts += _weak_witness(best.decided_by)
    return [Reason("doubt", text) for text in doubts]


def _weak_witness(witness: Witness | None) -> list[str]:
    rests = {Witness.DATES: "the dates, which can be wrong", Witness.DECLARED: "what a card says"}
    return [f"the order rests on {rests[witness]}; the weights do not settle it"] if witness in rests else []


def _merge(evidence: Sequence[Evidence]) -> list[Evidence]:
    return [line for line in evidence if line.kind == "merge"]


def _conflicts(evidence: Sequence[Evidence]) -> list[Evidence]:
    return [line for line in evidence if line.kind in ("dates", "declared") and line.note]


def _listed(names: Sequence[str], most: int = 5) -> str:
    """Names as an enumeration, at most `most` of them."""
    shown = list(names[:most])
    if len(names) > most:
        shown.append(f"{len(names) - most} more")
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"

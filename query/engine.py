"""One question, one answer: candidates -> evidence -> verdict, as the object that `provenance query` prints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from provenance.indexer.dossier import Dossier
from provenance.indexer.generation import Generation
from provenance.query.candidates import candidates
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.statistics.background import Background
from provenance.query.statistics.significance import to_p
from provenance.query.verdict.rule import MIN_MATRICES, Candidate, assess, model_verdict, settle


@dataclass(frozen=True)
class Answer:
    """The settled candidates of one model, best first, and the verdict about the model."""

    model: Dossier
    verdict: str
    candidates: tuple[Candidate, ...]
    n_checkpoints: int
    n_unindexed: int
    generation: str | None

    def to_json(self, k: int) -> dict[str, Any]:
        """The JSON object of `provenance query`, with the `k` best candidates."""
        meta = self.model.meta
        return {
            "model": {
                name: meta[name]
                for name in (
                    "checkpoint_id",
                    "repo_id",
                    "n_layers",
                    "declared_parents",
                    "license",
                    "created_at",
                    "mode",
                )
            },
            "store": {
                "checkpoints": self.n_checkpoints,
                "unindexed": self.n_unindexed,
                "generation": self.generation,
            },
            "verdict": self.verdict,
            "candidates": [candidate_json(rank, c) for rank, c in enumerate(self.candidates[:k], start=1)],
        }


def candidate_json(rank: int, candidate: Candidate) -> dict[str, Any]:
    """One candidate as a JSON object."""
    meta = candidate.pair.b.dossier.meta
    return {
        "rank": rank,
        "checkpoint_id": meta["checkpoint_id"],
        "repo_id": meta["repo_id"],
        "verdict": candidate.verdict,
        "relation": candidate.relation,
        "direction": candidate.direction,
        "declared": candidate.declared,
        "probability": candidate.probability,
        "p_value": to_p(candidate.log10_p),
        "p_adjusted": to_p(candidate.log10_p_adjusted),
        "log10_p": candidate.log10_p,
        "score": candidate.score,
        "merge_weight": candidate.merge_weight,
        "license": meta["license"],
        "created_at": meta["created_at"],
        "evidence": [
            {
                "kind": e.kind,
                "value": e.value,
                "p_value": e.p_value,
                "log10_p": e.log10_p,
                "n": e.n,
                "note": e.note,
            }
            for e in candidate.evidence
        ],
    }


def answer(
    model: Dossier,
    generation: Generation | None,
    fresh: Sequence[Dossier],
    background: Background,
    *,
    spec: str | None = None,
    min_probability: float = 0.0,
    subject: Callable[[Dossier], Subject] = Subject,
) -> Answer:
    """Find and judge the suspected parents of a model.

    Args:
        model: the model asked about; its own repo is never a candidate.
        generation: the live index, or null when there is none yet.
        fresh: checkpoints crawled after it was built.
        background: scores of unrelated pairs.
        spec: signature to search with; the index's own by default.
        min_probability: candidates below are left out.
        subject: lays a checkpoint out for comparison; one that remembers saves time where many models are asked about.
    """
    n_store = (len(generation) if generation else 0) + len(fresh)
    asked = subject(model)
    pairs = [Pair(asked, subject(other), background) for other in candidates(model, generation, fresh, spec=spec)]
    settled = settle([assess(pair, n_store) for pair in pairs])
    verdict = model_verdict(settled, judgeable=len(model.matrices.facts) >= MIN_MATRICES)
    kept = tuple(c for c in settled if c.probability >= min_probability)
    return Answer(model, verdict, kept, n_store, len(fresh), generation.name if generation else None)

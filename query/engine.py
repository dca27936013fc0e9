"""The answer to a query: candidates -> evidence -> verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from provenance.indexer.dossier import Dossier
from provenance.query.candidates import candidates
from provenance.query.catalogue import Catalogue
from provenance.query.claims import claims_of, is_undeclared
from provenance.query.copies import copy_notes
from provenance.query.evidence.pair import Pair, Subject
from provenance.query.unread import MIN_MATRICES, crawl_notes, notes_of
from provenance.query.verdict.adapter import with_merged_adapters
from provenance.query.verdict.deep import by_products, deepen, rerank
from provenance.query.verdict.rule import Assessment, assess, model_verdict, settle
from provenance.schemas.enums import ModelVerdict
from provenance.schemas.naming import licenses_differ
from provenance.schemas.products import DeepReading
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


@dataclass(frozen=True)
class Judgement:
    """The judged candidates of one model, best first, and the verdict about the model.

    An answer leaves out candidates less probable than `least`; what is claimed rests on all.
    """

    model: Dossier
    verdict: ModelVerdict
    candidates: tuple[Assessment, ...]
    n_checkpoints: int
    n_unindexed: int
    generation: str | None
    least: float = 0.0

    @property
    def judgeable(self) -> bool:
        """Whether the model has enough sampled matrices to say anything."""
        return _judgeable(self.model)

    def at_least(self, min_probability: float) -> Judgement:
        """The same, to be answered without less probable candidates."""
        return replace(self, least=min_probability)

    def undecided(self, n: int) -> list[Assessment]:
        """The best `n` candidates that are no relatives, and whose products are not known but could be read."""

        def could_be_read(one: Assessment) -> bool:
            return one.pair.products is None and one.pair.a.dossier.has_tokens and one.pair.b.dossier.has_tokens

        return [one for one in self.candidates if not one.is_relative and could_be_read(one)][:n]

    def deepened(self, examined: Sequence[Assessment], readings: Sequence[DeepReading]) -> Judgement:
        """The same after reading the weights of some of its candidates anew."""
        found = dict(zip((one.meta.checkpoint_id for one in examined), readings, strict=True))
        candidates = rerank(
            deepen(one, found[one.meta.checkpoint_id], self.n_checkpoints) if one.meta.checkpoint_id in found else one
            for one in self.candidates
        )
        return replace(self, candidates=tuple(candidates), verdict=_verdict(self.model, candidates))

    def answer(self, k: int) -> Answer:
        """The public answer, with the `k` best candidates."""
        return Answer(
            ModelSummary.from_attributes(self.model.meta),
            SearchedStore(self.n_checkpoints, self.n_unindexed, self.generation),
            self.verdict,
            Rows(Claim, claims_of(self.model.meta, self.candidates)),
            Rows(Note, self._notes()),
            Rows(Candidate, (self._candidate(rank, a) for rank, a in enumerate(self._likely(k), start=1))),
        )

    def _notes(self) -> list[Note]:
        meta = self.model.meta
        return [*notes_of(self.model), *copy_notes(meta, self.candidates), *crawl_notes(meta)]

    def _likely(self, k: int) -> list[Assessment]:
        return [one for one in self.candidates if one.probability >= self.least][:k]

    def _candidate(self, rank: int, a: Assessment) -> Candidate:
        model = self.model.meta
        return Candidate(
            rank=rank,
            checkpoint_id=a.meta.checkpoint_id,
            repo_id=a.meta.repo_id,
            verdict=a.verdict,
            relation=a.relation,
            direction=a.direction,
            declared=a.declared,
            probability=a.probability,
            p_value=a.p_value,
            p_adjusted=a.p_adjusted,
            log10_p=a.log10_p,
            score=a.score,
            merge_weight=a.merge_weight,
            license=a.meta.license,
            created_at=a.meta.created_at,
            merge=a.merge,
            layers=Rows(LayerRun, a.layers),
            decided_by=a.decided_by,
            undeclared=is_undeclared(model, a, self.candidates),
            license_differs=licenses_differ(model.license, a.meta.license),
            evidence=Rows(Evidence, a.evidence),
        )


def judge(model: Dossier, catalogue: Catalogue, *, spec: str | None = None, min_probability: float = 0.0) -> Judgement:
    """Find and judge the suspected parents of a model.

    Args:
        model: the queried model; its own repo is never a candidate.
        catalogue: the checkpoints to search.
        spec: signature to search with; the index's own by default.
        min_probability: candidates with a lower probability are omitted.

    Raises:
        IndexMissingError: the index has no signatures of this spec.
    """
    model = catalogue.names.joined(model)
    assessed = assessments(model, catalogue, spec=spec)
    found = Judgement(
        model,
        _verdict(model, assessed),
        tuple(assessed),
        catalogue.n_checkpoints,
        len(catalogue.unindexed),
        catalogue.generation.name if catalogue.generation else None,
    )
    return found.at_least(min_probability)


def assessments(
    model: Dossier, catalogue: Catalogue, *, spec: str | None = None, also: Sequence[Dossier] = ()
) -> list[Assessment]:
    """What is claimed of every candidate of a model, best first.

    Args:
        model: the queried model.
        catalogue: the checkpoints to search.
        spec: signature to search with; the index's own by default.
        also: checkpoints to judge with them, found by the search or not; what is said of them here counts.
    """
    subject = Subject(catalogue.names.joined(model))  # not cached: it may be another reading of a stored checkpoint
    recalled = candidates(subject.dossier, catalogue.generation, catalogue.unindexed, spec=spec)
    given = {dossier.checkpoint_id: dossier for dossier in also}
    recalled = [given.pop(dossier.checkpoint_id, dossier) for dossier in recalled] + list(given.values())
    pairs = [Pair(subject, catalogue.subject(other), catalogue.background) for other in recalled]
    settled = settle([assess(pair, catalogue.n_checkpoints) for pair in pairs])
    n_store = catalogue.n_checkpoints
    return with_merged_adapters(by_products(settled, n_store), n_store)


def _verdict(model: Dossier, candidates: Sequence[Assessment]) -> ModelVerdict:
    return model_verdict(candidates, judgeable=_judgeable(model))


def _judgeable(model: Dossier) -> bool:
    """Whether the weights suffice to say that a model has no parent; an adapter's say nothing of its base."""
    return not model.meta.adapter and len(model.matrices.facts) >= MIN_MATRICES

"""What a card declares, against what the weights say; and what it should have declared. The one place that decides."""

from __future__ import annotations

from collections.abc import Sequence

from provenance.indexer.dossier_meta import DossierMeta
from provenance.query.verdict.rule import Assessment, judged
from provenance.schemas.enums import ClaimStatus, Verdict
from provenance.schemas.naming import licenses_differ, repo_key
from provenance.schemas.results import Claim


def claims_of(model: DossierMeta, candidates: Sequence[Assessment]) -> list[Claim]:
    """A judgement of every base model that a card declares, whether or not it is among the best candidates.

    Args:
        model: the model, its declared parents by their stored ids.
        candidates: everything that was compared with the model, best first.
    """
    ancestors = [one for one in candidates if one.verdict is Verdict.DERIVED]
    found = []
    for parent in model.declared_parents or ():
        judged_as = next((one for one in candidates if repo_key(one.repo_id) == repo_key(parent)), None)
        status = claim_status(judged_as)
        contradicted = status is ClaimStatus.CONTRADICTED
        license_ = judged_as.meta.license if judged_as else None
        found.append(
            Claim(
                parent=parent,
                status=status,
                checkpoint_id=judged_as.meta.checkpoint_id if judged_as else None,
                verdict=judged_as.verdict if judged_as else None,
                direction=judged_as.direction if judged_as else None,
                relation=judged_as.relation if judged_as else None,
                log10_p=judged_as.log10_p if judged_as else None,
                found_instead=ancestors[0].repo_id if contradicted and ancestors else None,
                license=model.license,
                parent_license=license_,
                license_differs=licenses_differ(model.license, license_),
            )
        )
    return found


def claim_status(declared: Assessment | None) -> ClaimStatus:
    """What the weights say of a declared parent; null is one that is not stored."""
    if declared is None:
        return ClaimStatus.NOT_STORED
    if declared.verdict is Verdict.DERIVED:
        return ClaimStatus.CONFIRMED
    # A relative that is no ancestor may be the sibling of one that is not stored: only a stranger is a contradiction.
    if declared.verdict is Verdict.UNRELATED and judged(declared):
        return ClaimStatus.CONTRADICTED
    return ClaimStatus.CANNOT_TELL


def is_undeclared(model: DossierMeta, candidate: Assessment, candidates: Sequence[Assessment]) -> bool | None:
    """Whether a candidate is an ancestor that the card does not name; null where the card could not be read.

    A card that names any ancestor is honest: cards do not list grandparents.
    """
    if candidate.verdict is not Verdict.DERIVED:
        return False
    if any(one.declared and one.verdict is Verdict.DERIVED for one in candidates):
        return False
    return None if model.declared_parents is None else True

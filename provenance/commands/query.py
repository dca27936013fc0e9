"""`provenance query`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from provenance.commands.options import (
    created_option,
    deep_option,
    format_option,
    license_option,
    mode_option,
    sample_option,
    store_option,
)

if TYPE_CHECKING:
    from provenance.schemas.results import Answer, Claim

FAIL_ON = ("derived", "undeclared", "contradicted", "license", "license-unknown")


@click.command()
@click.argument("model")
@store_option
@format_option
@click.option("-k", default=10, show_default=True, type=click.IntRange(1), help="Candidates to list.")
@click.option("--spec", help="Signature to search with (default: that of the index).")
@click.option("--min-probability", default=0.0, type=click.FloatRange(0, 1), help="Leave out less probable candidates.")
@click.option(
    "--fail-on",
    multiple=True,
    type=click.Choice(FAIL_ON),
    help="Exit with 3 when a listed candidate is an ancestor (derived), the card names none of the ancestors "
    "(undeclared) or a parent that the weights contradict (contradicted), an ancestor or declared parent has another "
    "license (license), or one of the licenses is not known (license-unknown).",
)
@click.option("--save", is_flag=True, help="Store the fingerprint of a model that is not in the store yet.")
@mode_option
@sample_option
@created_option
@license_option
@deep_option
def query(
    model: str,
    store: str | None,
    output: str | None,
    k: int,
    spec: str | None,
    min_probability: float,
    fail_on: tuple[str, ...],
    save: bool,
    mode: str | None,
    sample: str,
    created: datetime | None,
    license_: str | None,
    deep: bool,
) -> None:
    """Name the suspected parents of MODEL.

    MODEL is a checkpoint id or repo id in the store, a local folder (./…), or a repo of the hub. A model
    that is not stored is fingerprinted first, and kept only with --save. With --deep, the weights of MODEL and of
    up to five candidates not known to be relatives are read again, which reveals weights disguised on purpose.

    \b
    The answer is one of
      derived           a stored checkpoint is an ancestor of MODEL
      no-parent-found   no stored checkpoint is an ancestor
      inconclusive      the weights do not suffice to decide

    \b
    Examples:
      provenance query org/name
      provenance query ./my-model -k 3 --format json
      provenance query org/name --fail-on undeclared
      provenance query --deep ./my-model
    """
    from provenance import open as open_database
    from provenance.output import choose_format, clean, print_json, print_rows, say_reading

    options = None
    if mode is not None or sample != "default" or created or license_:  # the query of a stored model needs no crawler
        from provenance.crawler.engine.options import CrawlOptions

        at = created and created.replace(tzinfo=UTC)
        options = CrawlOptions(mode, sample, created_at=at, license=license_)
    with open_database(store) as database:
        answer = database.query(
            model,
            k=k,
            spec=spec,
            min_probability=min_probability,
            save=save,
            options=options,
            deep=deep,
            before_reading=say_reading,
        )
    chosen = choose_format(output)
    if chosen == "json":
        print_json(answer.to_dict())
    elif chosen == "table":
        _print_table(answer)
    else:
        rows = answer.candidates.to_dicts()
        print_rows([{name: value for name, value in row.items() if name != "evidence"} for row in rows], chosen)
    for condition in fail_on:
        for doubt in _doubts(condition, answer):
            click.echo(f"--fail-on {condition}: {clean(doubt)}", err=True)
    if any(_meets(condition, answer) for condition in fail_on):
        raise SystemExit(3)


def _meets(condition: str, answer: Answer) -> bool:
    from provenance.schemas.enums import ClaimStatus, Verdict

    ancestors = [candidate for candidate in answer.candidates if candidate.verdict is Verdict.DERIVED]
    differ = [one.license_differs for one in ancestors] + [claim.license_differs for claim in _credible(answer)]
    if condition == "undeclared":
        return any(ancestor.undeclared for ancestor in ancestors)
    if condition == "contradicted":
        return any(claim.status is ClaimStatus.CONTRADICTED for claim in answer.claims)
    if condition == "license":
        return True in differ
    if condition == "license-unknown":
        return None in differ
    return bool(ancestors)


def _credible(answer: Answer) -> list[Claim]:
    """The claims of the card that the weights do not contradict."""
    from provenance.schemas.enums import ClaimStatus

    return [claim for claim in answer.claims if claim.status is not ClaimStatus.CONTRADICTED]


def _doubts(condition: str, answer: Answer) -> list[str]:
    """What a condition could not decide, in words."""
    from provenance.schemas.enums import Direction, Relation, Verdict
    from provenance.schemas.naming import license_key

    ancestors = [candidate for candidate in answer.candidates if candidate.verdict is Verdict.DERIVED]
    if condition == "undeclared" and any(ancestor.undeclared is None for ancestor in ancestors):
        return ["cannot tell, because the card could not be read"]
    if condition != "license":
        return []
    parents = {a.repo_id: (a.license, a.license_differs) for a in ancestors}
    parents |= {claim.parent: (claim.parent_license, claim.license_differs) for claim in _credible(answer)}
    unknown = [
        name for name, (license_, differs) in parents.items() if differs is None and license_key(license_) is None
    ]
    found = [f"the license of {name} is not known, and was not compared" for name in unknown]
    found += [
        f"{one.repo_id} has the same weights under the license {one.license or 'unknown'}, who was first is not known"
        for one in answer.candidates
        if one.relation is Relation.IDENTICAL
        and one.direction is Direction.UNKNOWN
        and one.license_differs is not False
    ]
    if parents and license_key(answer.model.license) is None:
        found.insert(0, "the license of the model is not known, and was not compared; --license states it")
    return found


def _said(claim: Claim) -> str:
    """A claim of the card and what the weights say of it, in one line."""
    words = {
        "confirmed": "confirmed by the weights",
        "contradicted": "contradicted by the weights",
        "not-stored": "not stored, so its weights were not compared",
        "cannot-tell": f"cannot tell; by the weights it is {claim.verdict}, direction {claim.direction}",
    }[claim.status]
    if claim.found_instead:
        words += f", which say {claim.found_instead}"
    licenses = f"license {claim.license or 'unknown'} here, {claim.parent_license or 'unknown'} there"
    return f"card says {claim.parent}: {words}; {licenses}"


def _print_table(answer: Answer) -> None:
    from provenance.output import clean, print_table

    click.echo(f"{clean(answer.model.checkpoint_id)}: {answer.verdict}")
    for claim in answer.claims:
        click.echo(clean(_said(claim)))
    for note in answer.notes:
        click.echo(clean(note))
    rows = []
    deep = any(e.kind == "products" for candidate in answer.candidates for e in candidate.evidence)
    for candidate in answer.candidates:
        lines = {e.kind: e.value for e in candidate.evidence}
        rows.append(
            {
                "#": candidate.rank,
                "candidate": candidate.repo_id,
                "verdict": candidate.verdict,
                "direction": candidate.direction,
                "relation": candidate.relation,
                "declared": candidate.declared,
                "log10 p": candidate.log10_p,
                "weights": lines.get("layer_alignment", lines.get("weight_correlation")),
                "norms": lines.get("norm_correlation"),
                "curves": lines.get("published_score"),
                **({"products": lines.get("products")} if deep else {}),
                "(shapes)": lines.get("architecture"),
            }
        )
    print_table(rows)
    for candidate in answer.candidates:
        for line in candidate.evidence:
            if line.kind == "products" and line.value is None:
                click.echo(f"not compared with --deep: {clean(line.note)}", err=True)
    searched = f"{answer.store.checkpoints} checkpoints searched"
    if answer.store.unindexed:
        searched += f", {answer.store.unindexed} of them not indexed yet (run `provenance index`)"
    click.echo(searched, err=True)

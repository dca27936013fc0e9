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
    model_argument,
    sample_option,
    store_option,
    wide_option,
)

if TYPE_CHECKING:
    from provenance.schemas.results import Answer, Claim

FAIL_ON = ("derived", "undeclared", "contradicted", "license", "license-unknown")


@click.command()
@model_argument("model")
@store_option
@format_option
@wide_option
@click.option("--explain", is_flag=True, help="Explain every line of evidence, and the words of the table.")
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
    wide: bool,
    explain: bool,
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

    MODEL is a checkpoint id or repo id in the store, a local folder (./…), or a repo of the hub, by its id or the
    address of its page. A model that is not stored is fingerprinted first, and kept only with --save. Weights disguised
    on purpose are recognised where both were read whole (local folders, --mode full). With --deep, MODEL and up to five
    candidates that are no known relatives are read again where they were not.

    \b
    The answer is one of
      derived           a stored checkpoint is an ancestor of MODEL
      no-parent-found   no stored checkpoint is an ancestor
      inconclusive      the weights do not suffice to decide

    \b
    Examples:
      provenance query org/name
      provenance query org/name --explain
      provenance query ./my-model -k 3 --format json
      provenance query org/name --fail-on undeclared
      provenance query --deep ./my-model
    """
    from provenance import open as open_database
    from provenance.output import choose_format, clean, print_json, print_rows
    from provenance.output.progress import say_reading

    chosen = "table" if explain and output is None else choose_format(output)
    if explain and chosen != "table":
        raise click.UsageError("--explain is for the table; the other formats hold all evidence as it is")
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
    if chosen == "json":
        print_json(answer.to_dict())
    elif chosen == "table":
        _print_answer(answer, wide=wide, explain=explain, deep=deep)
    else:
        rows = answer.candidates.to_dicts()
        print_rows([{name: value for name, value in row.items() if name not in _NESTED} for row in rows], chosen)
    for condition in fail_on:
        for doubt in _doubts(condition, answer):
            click.echo(f"--fail-on {condition}: {clean(doubt)}", err=True)
    if any(_meets(condition, answer) for condition in fail_on):
        raise SystemExit(3)


_NESTED = ("merge", "layers", "evidence")
"""Keys of a candidate that no column of a flat table holds."""


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


def _print_answer(answer: Answer, *, wide: bool, explain: bool, deep: bool) -> None:
    from provenance.output import clean, say
    from provenance.output.sections import print_headline, print_legend, print_reasons
    from provenance.output.words import LEGEND, claims, reasons, verdict_sentence

    print_headline(clean(answer.model.checkpoint_id), answer.verdict, verdict_sentence(answer))
    print_reasons([*claims(answer), *reasons(answer)])
    if answer.candidates:
        click.echo()
        _print_candidates(answer, wide=wide)
    if explain:
        _print_evidence(answer)
        print_legend(LEGEND)
    for candidate in answer.candidates if deep else ():
        for line in candidate.evidence:
            if line.kind == "products" and line.value is None:
                say(f"not compared with --deep: {clean(line.note)}")
    searched = f"{answer.store.checkpoints} checkpoints searched"
    if answer.store.unindexed:
        searched += f", {answer.store.unindexed} of them not indexed yet (run `provenance index`)"
    say(searched)


LINES = {"norms": "norm_correlation", "curves": "published_score", "products": "products", "(shapes)": "architecture"}


def _print_candidates(answer: Answer, *, wide: bool) -> None:
    """The candidates as a table, without columns in which there is nothing."""
    from provenance.output import print_rows
    from provenance.output.words import STYLES

    rows = []
    for candidate in answer.candidates:
        lines = {e.kind: e.value for e in candidate.evidence}
        rows.append(
            {
                "#": candidate.rank,
                "candidate": candidate.repo_id,
                "verdict": str(candidate.verdict),
                "direction": str(candidate.direction),
                "relation": str(candidate.relation),
                "declared": candidate.declared,
                "log10 p": candidate.log10_p,
                "weights": lines.get("layer_alignment", lines.get("weight_correlation")),
                **{name: lines.get(kind) for name, kind in LINES.items()},
            }
        )
    empty = {name for name in ("weights", *LINES) if all(row[name] is None for row in rows)}
    print_rows(
        [{name: value for name, value in row.items() if name not in empty} for row in rows],
        "table",
        wide=wide,
        first_to_go=("(shapes)", "products", "curves", "norms", "declared", "weights", "log10 p"),
        styles=STYLES,
    )


def _print_evidence(answer: Answer) -> None:
    """A sentence for every line of evidence about the best candidate, or about each parent of a merge."""
    from provenance.output import clean
    from provenance.output.sections import print_reasons, print_title
    from provenance.output.words import explanation

    parents = [c for c in answer.candidates if c.merge_weight is not None]
    for candidate in parents or answer.candidates[:1]:
        print_title(f"evidence: {clean(candidate.repo_id)}, {candidate.verdict}")
        print_reasons(explanation(candidate.evidence))
    if len(answer.candidates) > 1:
        a, b = clean(answer.model.repo_id), clean(answer.candidates[1].repo_id)
        click.echo(f"\nany other pair: provenance compare {a} {b} --explain")

"""`provenance query`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from provenance.commands.options import deep_option, format_option, mode_option, sample_option, store_option

if TYPE_CHECKING:
    from provenance.schemas.results import Answer

FAIL_ON = ("derived", "undeclared", "license")


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
    help="Exit with 3 when a listed candidate is an ancestor (derived), an ancestor that the card does not name "
    "(undeclared), or an ancestor under another license (license).",
)
@click.option("--save", is_flag=True, help="Store the fingerprint of a model that is not in the store yet.")
@mode_option
@sample_option
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
    deep: bool,
) -> None:
    """Name the suspected parents of MODEL.

    MODEL is a checkpoint id or repo id in the store, a local folder (./…), or a repo of the hub. A model
    that is not stored is fingerprinted first, and kept only with --save. Weights disguised on purpose are recognised
    where both were read whole (local folders, --mode full). With --deep, MODEL and up to five candidates that are no
    known relatives are read again where they were not.

    \b
    The answer is one of
      derived           a listed candidate is an ancestor of MODEL, or a copy indistinguishable from one
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
    from provenance.output import choose_format, print_json, print_rows, say_reading

    options = None
    if mode is not None or sample != "default":  # the query of a stored model needs no crawler
        from provenance.crawler.engine.options import CrawlOptions

        options = CrawlOptions(mode, sample)
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
        print_rows([{name: value for name, value in row.items() if name not in _NESTED} for row in rows], chosen)
    if any(_meets(condition, answer) for condition in fail_on):
        raise SystemExit(3)


_NESTED = ("merge", "layers", "evidence")
"""Keys of a candidate that no column of a flat table holds."""


def _meets(condition: str, answer: Answer) -> bool:
    from provenance.schemas.enums import Verdict

    ancestors = [candidate for candidate in answer.candidates if candidate.verdict is Verdict.DERIVED]
    if condition == "undeclared":
        return any(not ancestor.declared for ancestor in ancestors)
    if condition == "license":
        license_ = answer.model.license
        return license_ is not None and any(a.license is not None and a.license != license_ for a in ancestors)
    return bool(ancestors)


def _print_table(answer: Answer) -> None:
    from provenance.output import clean, print_table

    click.echo(f"{clean(answer.model.checkpoint_id)}: {answer.verdict}")
    for note in answer.notes:
        click.echo(clean(note.text))
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
            if line.kind == "merge":
                click.echo(f"merge of {clean(candidate.repo_id)}: {clean(line.note)}")
            if line.kind == "products" and line.value is None:
                click.echo(f"not compared with --deep: {clean(line.note)}", err=True)
    searched = f"{answer.store.checkpoints} checkpoints searched"
    if answer.store.unindexed:
        searched += f", {answer.store.unindexed} of them not indexed yet (run `provenance index`)"
    click.echo(searched, err=True)

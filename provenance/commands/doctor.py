"""`provenance doctor`."""

from __future__ import annotations

import click

from provenance.commands.options import format_option, wide_option


@click.command()
@click.argument("repo", required=False)
@click.option("--endpoint", metavar="URL", help="Another hub (default: HF_ENDPOINT, else huggingface.co).")
@format_option
@wide_option
def doctor(repo: str | None, endpoint: str | None, output: str | None, wide: bool) -> None:
    """Check that a hub behaves as the crawler assumes.

    Each check is one assumption about listings, files, budgets or errors. It is ok, differs, or could not be checked.
    About twenty read-only requests are sent; at most a few megabytes are received. REPO is a public repo with weights
    and small files (default: sentence-transformers/all-MiniLM-L6-v2). Exit status 0 means that every check is ok.

    \b
    Examples:
      provenance doctor
      provenance doctor org/name --endpoint https://hub.example.org
      provenance doctor --format json > doctor.json
    """
    import logging
    from dataclasses import asdict

    from provenance.hub_check.doctor import REPO, diagnose
    from provenance.output import choose_format, print_rows, say

    # Each check reports its own failure.
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    found = list(diagnose(endpoint, repo or REPO))
    chosen = choose_format(output)
    if chosen == "table":
        rows = [{"check": f.check, "result": f.result, "found": f.found} for f in found]
        styles = {"ok": "green", "differs": "bold red", "could not be checked": "yellow"}
        print_rows(rows, "table", wide=wide, wraps=("found",), styles=styles)
    else:
        print_rows([asdict(finding) for finding in found], chosen)
    results = [finding.result for finding in found]
    words = [f"{results.count(result)} {result}" for result in dict.fromkeys(results)]
    say(f"{len(found)} checks: {', '.join(words)}")
    if set(results) != {"ok"}:
        raise SystemExit(1)

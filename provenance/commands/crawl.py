"""`provenance crawl`."""

from __future__ import annotations

import click

from provenance.commands.options import mode_option, sample_option, store_option


@click.command()
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@store_option
@mode_option
@sample_option
@click.option(
    "--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Checkpoints read at a time."
)
@click.option("--max-bytes", type=click.IntRange(1), help="Start no further checkpoint after reading so many bytes.")
@click.option("--max-time", type=click.FloatRange(0), metavar="SECONDS", help="Start no further checkpoint after that.")
@click.option("--refingerprint", is_flag=True, help="Read again what the store already holds.")
def crawl(
    sources: tuple[str, ...],
    store: str | None,
    mode: str | None,
    sample: str,
    workers: int,
    max_bytes: int | None,
    max_time: float | None,
    refingerprint: bool,
) -> None:
    """Fingerprint checkpoints and put them into the store.

    SOURCE is a local folder that is searched for checkpoints, or one .safetensors file. The last two parts of a
    checkpoint's path are its repo id. A `listing.jsonl` in the folder, with objects as the Hub's listing returns them,
    supplies commits, dates, tags and cards. Checkpoints the store already holds are skipped; a broken one becomes
    a row of `outcomes` and the crawl goes on.

    \b
    Examples:
      provenance crawl ./models
      provenance crawl ~/.cache/huggingface/hub --mode sampled
      provenance crawl ./a ./b/model.safetensors --workers 4
    """
    from pathlib import Path

    from provenance import open as open_database
    from provenance.database import local_source
    from provenance.output import CrawlProgress, report_run
    from provenance.settings import CrawlOptions

    # Before a store is made: a mistyped source should leave nothing behind.
    paths: list[Path] = [local_source(source) for source in sources]
    options = CrawlOptions(mode, sample, workers, max_bytes, max_time, refingerprint)
    with open_database(store, create=True) as database, CrawlProgress() as progress:
        summary = database.crawl(paths, options, progress)
    report_run(summary)
    if summary.stopped == "interrupted":
        raise SystemExit(130)

"""`provenance crawl`."""

from __future__ import annotations

from datetime import UTC, datetime

import click

from provenance.commands.options import created_option, license_option, mode_option, sample_option, store_option


@click.command()
@click.argument("sources", nargs=-1, metavar="[SOURCE...]")
@store_option
@mode_option
@sample_option
@click.option("--all", "everything", is_flag=True, help="Crawl the whole listing of the hub.")
@click.option("--author", help="Crawl the hub's repos of this user or organisation.")
@click.option("--search", help="Crawl the hub's repos with this text in their id.")
@click.option("--filter", "filters", multiple=True, metavar="TAG", help="Of the listing, repos with all these tags.")
@click.option("--sort", help="Order the listing by this field of the hub, largest first (default: createdAt).")
@click.option("--limit", type=click.IntRange(1), help="Of the listing, at most this many repos.")
@click.option("--since", type=click.DateTime(), help="Of the listing, only repos changed since then (UTC).")
@click.option("--endpoint", metavar="URL", help="Another hub (default: HF_ENDPOINT, else huggingface.co).")
@click.option("--workers", type=click.IntRange(1, 256), default=2, show_default=True, help="Checkpoints in parallel.")
@click.option("--max-bytes", type=click.IntRange(1), help="Start no new checkpoint after reading this many bytes.")
@click.option("--max-time", type=click.FloatRange(0), metavar="SECONDS", help="Start no new checkpoint after that.")
@click.option("--retry-failed", is_flag=True, help="Try again every repo that failed, due or not; needs no SOURCE.")
@click.option("--full-walk", is_flag=True, help="Crawl the full listing, not only what changed since the last crawl.")
@click.option("--refingerprint", is_flag=True, help="Read checkpoints again that the store already has.")
@created_option
@license_option
def crawl(
    sources: tuple[str, ...],
    store: str | None,
    mode: str | None,
    sample: str,
    everything: bool,
    author: str | None,
    search: str | None,
    filters: tuple[str, ...],
    sort: str | None,
    limit: int | None,
    since: datetime | None,
    endpoint: str | None,
    workers: int,
    max_bytes: int | None,
    max_time: float | None,
    retry_failed: bool,
    full_walk: bool,
    refingerprint: bool,
    created: datetime | None,
    license_: str | None,
) -> None:
    """Fingerprint checkpoints and put them into the store.

    SOURCE is a local folder that is searched for checkpoints, one .safetensors or .gguf file, or a repo on the hub by
    its id, owner/name[@revision], or the address of its page. The last two parts of a local checkpoint's path are its
    repo id. A `listing.jsonl` in a folder, with objects as the Hub's listing returns them, supplies commits, dates,
    tags and cards. Checkpoints that the store already has are skipped; a broken one becomes a row of `outcomes` and the
    crawl goes on.

    The first crawl of a hub's listing is full. Later crawls of the same listing are incremental: they read only what
    changed since, and retry what failed when it is due. Stop a crawl with Ctrl-C: checkpoints that are being read are
    finished and kept. The exit status is 1 when a SOURCE failed, when everything failed, or when the listing broke off.

    \b
    Examples:
      provenance crawl ./models
      provenance crawl ~/.cache/huggingface/hub --mode sampled
      provenance crawl org/name org/other@main
      provenance crawl --author org --limit 50
      provenance crawl --all --filter text-generation --workers 16
    """
    from provenance import open as open_database
    from provenance.crawler.engine.options import CrawlOptions, HubListing
    from provenance.crawler.engine.tasks import local_source
    from provenance.names import hub_name
    from provenance.output.progress import CrawlProgress, report_crawl

    listed = everything or bool(author or search or filters or sort or limit or since)
    if not sources and not listed and not retry_failed:
        raise click.UsageError("give a SOURCE, or --all, --author, --search or --filter for the hub's listing")
    for source in sources:
        # Before the store is created: a mistyped source should create nothing.
        local_source(hub_name(source))
    options = CrawlOptions(
        mode,
        sample,
        workers,
        max_bytes,
        max_time,
        refingerprint,
        endpoint,
        retry_failed,
        full_walk,
        created and created.replace(tzinfo=UTC),
        license_,
    )
    listing = HubListing(author, search, filters, sort, limit, since and since.replace(tzinfo=UTC)) if listed else None
    with open_database(store, create=True) as database, CrawlProgress() as progress:
        summary = database.crawl(sources, options, progress, listing=listing)
    report_crawl(summary)
    if summary.stopped == "interrupted":
        raise SystemExit(130)
    if not summary.successful:
        raise SystemExit(1)

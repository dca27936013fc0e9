"""Progress of long work on stderr: a bar with the time left on a terminal, a line each minute elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from provenance.output.messages import quiet, say
from provenance.output.text import clean, show_bytes
from provenance.schemas.enums import Status

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

    from provenance.crawler.engine.summary import CrawlSummary
    from provenance.crawler.hub.transport import HubTransport
    from provenance.schemas.records import Outcome

LINE_SECONDS = 60.0
"""How often work without a terminal prints a line of progress."""

SHOWN_FAILURES = 20


@contextmanager
def progress(doing: str) -> Iterator[Callable[[int, int], object]]:
    """Show how far some work is: the block passes what it is given, `(done, total)`, to that work.

    Args:
        doing: what is done, as in `indexing`.
    """
    bar = _bar()
    task = bar.add_task(doing, total=None)
    said = time.monotonic()

    def advance(done: int, total: int) -> None:
        nonlocal said
        bar.update(task, completed=done, total=total)
        if bar.disable and time.monotonic() - said >= LINE_SECONDS:
            said = time.monotonic()
            say(f"{doing}: {done:,} of {total:,}")

    with bar:
        yield advance


class CrawlProgress:
    """Progress of a crawl, with its speed, bytes, failures and the hub's budgets."""

    def __init__(self) -> None:
        from rich.progress import TextColumn

        self._done = self._bytes = self._failed = self._skipped = 0
        self._began = self._said = time.monotonic()
        self._budgets = ""
        self._bar = _bar(TextColumn("{task.fields[facts]}"))
        self._task = self._bar.add_task("crawling", total=None, facts="")

    def __enter__(self) -> CrawlProgress:
        self._bar.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._bar.stop()

    def found(self, total: int | None) -> None:
        self._bar.update(self._task, total=total)

    def visited(self, outcome: Outcome) -> None:
        self._done += 1
        self._bytes += outcome.bytes_read
        self._failed += outcome.status == Status.FAILED
        self._skipped += outcome.status == Status.SKIPPED
        self._show()

    def passed(self, listed: int) -> None:
        self._skipped += 1
        self._done += 1
        if listed % 1000 == 0:
            self._show()

    def budgets(self, transport: HubTransport) -> None:
        left = [f"{name} {o.left:,} of {o.quota or 0:,}" for name, o in sorted(transport.budgets.limits.items())]
        waiting = [f"waits {seconds:.0f} s for the hub"] if (seconds := transport.budgets.waiting()) else []
        self._budgets = "  ".join(left + waiting)
        self._show()

    def _show(self) -> None:
        now = time.monotonic()
        speed = self._done / max(now - self._began, 1e-9)
        facts = (
            f"{speed:.1f}/s  {show_bytes(self._bytes)}  {self._skipped} skipped  {self._failed} failed  {self._budgets}"
        )
        self._bar.update(self._task, completed=self._done, facts=facts)
        if self._bar.disable and now - self._said >= LINE_SECONDS:
            self._said = now
            say(f"{self._done} visited  {facts}")


def report_crawl(summary: CrawlSummary) -> None:
    """Say what a crawl did: a line for each of the first failures, then the counts with their reasons."""
    for outcome in summary.failures[:SHOWN_FAILURES]:
        click.echo(f"failed: {clean(outcome.message)}", err=True)
    if len(summary.failures) > SHOWN_FAILURES:
        click.echo(f"… and {len(summary.failures) - SHOWN_FAILURES} more; see `provenance status`", err=True)
    if summary.stopped:
        say(f"stopped early: {summary.stopped}; run the same command again to go on")
    reasons = [
        f"{status}: {', '.join(f'{n} {clean(reason)}' for reason, n in counts.items())}"
        for status, counts in summary.reasons.items()
    ]
    say(
        f"{summary.fingerprinted} fingerprinted, {summary.skipped} skipped, {summary.failed} failed "
        f"of {summary.listed} listed; {show_bytes(summary.bytes_read)} read in {summary.seconds:.1f} s"
        + "".join(f"; {reason}" for reason in reasons)
    )


def say_reading(n: int) -> None:
    """Say how many bytes of weights will be read."""
    if n == 0:
        say("no weights are read: all that --deep can compare is stored")
        return
    say(f"reading {show_bytes(n)} of weights ({n:,} bytes)")


def _bar(*facts: ProgressColumn) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from provenance.output.terminal import console

    out = console(stderr=True)
    return Progress(
        TextColumn("[progress.description]{task.description}", markup=True),
        BarColumn(bar_width=20),
        MofNCompleteColumn(),
        *facts,
        TimeRemainingColumn(),
        console=out,
        disable=not sys.stderr.isatty() or out.is_dumb_terminal or quiet(),
        transient=True,
    )

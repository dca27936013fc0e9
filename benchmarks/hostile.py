"""What a hostile hub costs a crawl: `python -m benchmarks.hostile`, about six minutes.

Every attack of `tests/hub/hostile.py`, alone, against a crawl in a process of its own that also reads two sound repos.
Requests have 3 seconds instead of a minute, and retries do not wait. `memory` is the peak of the process; `sound` are
the sound repos that were stored.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

SECONDS = 3.0


def attacked(name: str) -> dict[str, Any]:
    """One attack in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.hostile", name], capture_output=True, text=True, check=True, timeout=600
    )
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer | {"stderr": len(done.stderr)}


def attack(name: str) -> dict[str, Any]:
    """Crawl a hub with one attack, in this process."""
    os.environ["HF_TOKEN"] = "hf_nobody"
    import provenance
    from provenance.crawler.engine.options import CrawlOptions, HubListing
    from provenance.crawler.hub import api, listing, transport
    from tests.hub.hostile import ATTACKS, GOOD, HostileHub

    transport.REQUEST_SECONDS = api.MAX_SECONDS = SECONDS
    transport.WAITS, listing._PAGE_WAITS = (0.01,) * 4, (0.01,) * 4
    of_listing = ATTACKS[name].place == "listing"
    hub = HostileHub(listing=name) if of_listing else HostileHub(name)
    with TemporaryDirectory() as folder, hub, provenance.open(Path(folder) / "store", create=True) as database:
        began = perf_counter()
        options = CrawlOptions(endpoint=hub.endpoint, workers=3)
        names = [] if of_listing else [*hub.attacked, *GOOD]
        summary = database.crawl(names, options, listing=HubListing() if of_listing else None)
        seconds = perf_counter() - began
        outcomes = database.store.read("outcomes").to_pylist()
    found = [o for o in outcomes if o["repo_id"] in hub.attacked]
    return {
        "attack": name,
        "outcome": " ".join(f"{o['status']} ({o['reason']})" if o["reason"] else o["status"] for o in found)
        or ("broke off" if summary.broke_off else "ended"),
        "sound": sum(o["status"] == "done" and o["repo_id"] in GOOD for o in outcomes),
        "requests": len(hub.asked),
        "seconds": round(seconds, 1),
        "memory": f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024} MiB",
    }


def main() -> None:
    """Print the table."""
    from tests.hub.hostile import ATTACKS

    columns = ("attack", "outcome", "sound", "requests", "seconds", "memory", "stderr")
    print("| " + " | ".join(columns) + " |")
    print("|" + " --- |" * len(columns))
    for name in ATTACKS:
        row = attacked(name)
        print("| " + " | ".join(str(row[column]) for column in columns) + " |", flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(attack(sys.argv[1])))
    else:
        main()

"""Twins that hardly moved from a common initialisation: `python -m benchmarks.twins` trains and judges three pairs."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from safetensors.torch import save_file

import provenance
from provenance.query.engine import judge
from tools.tiny_llama import config, initial_weights, read_text, train

PAIRS = ((40, 1e-3), (150, 1e-3), (150, 6e-3))
"""Steps and learning rate; the miniature family's roots took 2,000 steps at 6e-3."""

TEXTS = (("json", "email"), ("asyncio", "unittest"))


def main() -> None:
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "models"
        listing = []
        for steps, rate in PAIRS:
            for side, folders in enumerate(TEXTS):
                text = read_text(lambda folder, chosen=folders: folder in chosen)
                weights = train(initial_weights(7), text, seed=100 + side, steps=steps, rate=rate)
                name = f"twins/steps-{steps}-rate-{rate:g}-{side}"
                (root / name).mkdir(parents=True)
                save_file({k: w.bfloat16().contiguous() for k, w in weights.items()}, root / name / "model.safetensors")
                (root / name / "config.json").write_text(json.dumps(config(weights)))
                listing.append({"id": name, "createdAt": f"2025-01-{len(listing) + 1:02}T00:00:00.000Z"})
        (root / "listing.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in listing))
        print("| pair | verdict | direction | slopes | weights | norms |\n| --- | --- | --- | --- | --- | --- |")
        with provenance.open(Path(place) / "store", create=True) as database:
            database.crawl([root])
            for entry in listing[1::2]:
                twin = entry["id"][:-1] + "0"
                found = judge(database.find(entry["id"]), database.catalogue).candidates
                c = next(candidate for candidate in found if candidate.repo_id == twin)
                lines = {e.kind: e.value for e in c.evidence}
                slopes = f"{c.pair.slopes.a_on_b:.2f}, {c.pair.slopes.b_on_a:.2f}" if c.pair.slopes else "–"
                weights, norms = lines["weight_correlation"], lines.get("norm_correlation")
                print(f"| {twin[6:-2]} | {c.verdict} | {c.direction} | {slopes} | {weights:.2f} | {norms or 0:.2f} |")


if __name__ == "__main__":
    main()

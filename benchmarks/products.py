"""Disguised copies, strangers and twins by sketches of products: `python -m benchmarks.products ZOO` prints tables."""

from __future__ import annotations

import csv
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from provenance.crawler.anchors import shared_anchors, spread_anchors
from provenance.crawler.architectures import resolve_roles
from provenance.crawler.formats.header import read_header
from provenance.crawler.local.reader import LocalReader
from provenance.crawler.product_plan import plan_products
from provenance.crawler.products import read_products
from provenance.demo_hub.repos import HubRepo
from provenance.query.statistics.products import ProductAgreement, ProductMatch, binomial_log10_tail, compare_products
from provenance.query.statistics.significance import to_p
from provenance.query.verdict.deep import convicts
from provenance.schemas.errors import WeightsError
from provenance.schemas.products import Product, ProductSketch
from provenance.schemas.roles import Role
from tests.conftest import Tensors
from tests.hub.generated import LLAMA_7B, LLAMA_70B, QWEN3_30B_A3B, generated_repo
from tests.support.disguises import DISGUISES, Disguise
from tools.tiny_llama import Weights, initial_weights, read_text, train
from tools.tiny_llama import config as tiny_config

MINIATURE = Path(__file__).resolve().parents[1] / "provenance" / "miniature"
LEVELS = (0.05, 0.01, 0.001)
TUNED = (0.0, 0.1, 0.2, 0.3, 0.5, 1.0)
"""A fine-tune, as noise of so many times the spread of each tensor."""

TWINS = ((40, 1e-3), (150, 1e-3), (150, 6e-3))
"""Steps and learning rate, as in `benchmarks.twins`."""

TEXTS = (("json", "email"), ("asyncio", "unittest"))


def sketch(folder: Path, anchors: Sequence[int] | None = None) -> ProductSketch | None:
    """All layers of a checkpoint; null where it has no embedding (an adapter)."""
    with LocalReader(folder, folder) as reader:
        files = sorted(path.name for path in folder.glob("*.safetensors"))
        entries = [entry for file in files for entry in read_header(reader, file, folder.name).entries]
        settings = next((folder / name for name in ("config.json", "params.json") if (folder / name).exists()), None)
        resolved = resolve_roles(entries, None if settings is None else json.loads(settings.read_text()))
        vocabulary = next((t.shape[0] for t in resolved.tensors if t.role is Role.EMBEDDING), 0)
        try:
            return read_products(reader, plan_products(resolved, anchors or spread_anchors(max(vocabulary, 256))))
        except WeightsError:
            return None


def write(folder: Path, tensors: Tensors | Weights, config: object) -> Path:
    folder.mkdir(parents=True)
    values = {name: torch.as_tensor(np.asarray(t)) if not torch.is_tensor(t) else t for name, t in tensors.items()}
    save_file({name: t.bfloat16().contiguous() for name, t in values.items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def figures(found: ProductAgreement | None) -> str:
    return "–" if found is None else f"{found.agreeing} of {found.layers} ({found.shifted}), {found.value:.3f}"


def table(head: str, rows: Iterable[Sequence[object]]) -> None:
    columns = head.split(" | ")
    print(f"\n| {head} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(f'{cell:.3f}' if isinstance(cell, float) else str(cell) for cell in row)} |")


def lowest(matches: Iterable[ProductMatch], which: str) -> float:
    return min((a.value for match in matches if (a := getattr(match, which)) is not None), default=float("nan"))


def highest(matches: Iterable[ProductMatch], which: str) -> float:
    return max((a.value for match in matches if (a := getattr(match, which)) is not None), default=float("nan"))


def at_random(found: ProductAgreement) -> float:
    """log10 p with the chance 1/L, whatever shifts say."""
    return binomial_log10_tail(found.layers, found.agreeing, 1 / found.layers)


def null_rows(label: str, pairs: Sequence[tuple[frozenset[str], ProductMatch]], n: int) -> Iterable[Sequence[object]]:
    """Share of unrelated pairs with p at most a, each pair of families counted once; the plain share beside it."""
    lines: dict[str, Callable[[ProductMatch], float | None]] = {
        "VO": lambda m: m.vo and m.vo.log10_p,
        "FU": lambda m: m.fu and m.fu.log10_p,
        "both": lambda m: m.log10_p,
    }
    if label == "as deep":
        lines |= {"VO at 1/L": lambda m: m.vo and at_random(m.vo), "FU at 1/L": lambda m: m.fu and at_random(m.fu)}
    for name, line in lines.items():
        ps = [(families, to_p(log10_p)) for families, match in pairs if (log10_p := line(match)) is not None]
        by_family: dict[frozenset[str], list[float]] = defaultdict(list)
        for families, p in ps:
            by_family[families].append(p)
        shares = [
            f"{np.mean([np.mean(np.array(found) <= a) for found in by_family.values()]):.4f} "
            f"({np.mean([p <= a for _, p in ps]):.4f})"
            for a in LEVELS
        ]
        which = {"VO": "vo", "FU": "fu"}.get(name)
        top = highest((m for _, m in pairs), which) if which else "–"
        convicted = sum(convicts(match, n) for _, match in pairs) if name == "both" else "–"
        yield label, name, len(ps), len(by_family), *shares, top, convicted


def zoo(root: Path) -> None:
    truth = {row["model"]: row for row in csv.DictReader((root / "lineage.csv").open())}
    found = {model: s for model in truth if (s := sketch(root / "models" / model)) is not None}
    pairs = {(a, b): compare_products(found[a], found[b]) for a, b in combinations(found, 2)}
    families = {model: frozenset(truth[model]["root"].split(";")) for model in found}
    n = len(truth)

    attacks = []
    open_rows = []
    for child in found:
        for parent in filter(None, truth[child]["parents"].split(";")):
            match = pairs.get((parent, child)) or pairs.get((child, parent))
            if match is None or truth[child]["weights_derived"] != "true":
                continue
            row = (child, truth[child]["relation"], figures(match.vo), figures(match.fu), match.log10_p)
            (attacks if truth[child]["attack"] == "true" else open_rows).append((*row, convicts(match, n)))
    head = "child | relation | VO: agree (best shift), value | FU | log10 p | convicts"
    table(f"attack: {head}", attacks)
    table(f"open: {head}", open_rows)

    strangers = {pair: match for pair, match in pairs.items() if not families[pair[0]] & families[pair[1]]}
    deep = defaultdict(list)
    for (a, b), match in strangers.items():
        same = len(found[a].layers) == len(found[b].layers)
        deep["as deep" if same else "depths differ"].append((frozenset(families[a] | families[b]), match))
    rows = [row for label, some in deep.items() for row in null_rows(label, some, n)]
    table(
        "strangers | product | pairs | families' pairs | p <= .05 (plain) | .01 | .001 | highest value | convicted",
        rows,
    )
    disguised(root, [m for m in found if truth[m]["relation"].startswith("root_")], found)


def disguised(root: Path, parents: Sequence[str], known: dict[str, ProductSketch]) -> None:
    """Every disguise of every Llama-shaped root, then as much noise as a fine-tune would leave."""
    rows, vocabularies, other_pairs = [], [], []
    with tempfile.TemporaryDirectory() as place:
        loaded = {}
        for parent in parents:
            folder = root / "models" / parent
            config = json.loads((folder / "config.json").read_text())
            weights = {name: t.double().numpy() for name, t in load_file(folder / "model.safetensors").items()}
            if config["model_type"] == "llama" and "model.layers.0.self_attn.q_proj.weight" in weights:
                weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
                loaded[parent] = (weights, config)
        for amount in TUNED:
            by_name: dict[str, list[ProductMatch]] = defaultdict(list)
            for (parent, (weights, config)), name in product(loaded.items(), DISGUISES):
                disguise = Disguise(config["num_attention_heads"], config["num_key_value_heads"], 1)
                changed = noisy(getattr(disguise, name)(weights), amount)
                folder = write(Path(place) / f"{parent}-{name}-{amount}", changed, config)
                copy = sketch(folder)
                assert copy is not None
                by_name[name].append(compare_products(known[parent], copy))
            matches = [m for found in by_name.values() for m in found]
            found = sum(convicts(m, 64) for m in matches)
            worst = min(by_name, key=lambda name: min(lowest(by_name[name], "vo"), lowest(by_name[name], "fu")))
            rows.append(
                (f"{amount:.0%}", f"{found} of {len(matches)}", lowest(matches, "vo"), lowest(matches, "fu"), worst)
            )
        for seed, (parent, (weights, config)) in enumerate(loaded.items()):
            plain, renumbered, order = tokenizers(len(weights["model.embed_tokens.weight"]), seed)
            here, there = shared_anchors(plain, renumbered) or ((), ())
            disguise = Disguise(config["num_attention_heads"], config["num_key_value_heads"], 2)
            changed = noisy(disguise.everything(weights), 0.1)
            rng = np.random.default_rng(seed)
            for name in ("model.embed_tokens.weight", "lm_head.weight"):
                new = rng.normal(0, changed[name].std(), (len(order), changed[name].shape[1]))
                kept = order >= 0
                new[kept] = changed[name][order[kept]]
                changed[name] = new
            copy = sketch(
                write(Path(place) / f"{parent}-vocabulary", changed, config | {"vocab_size": len(order)}), there
            )
            assert copy is not None
            for other in loaded:
                theirs = sketch(root / "models" / other, here)
                assert theirs is not None
                match = compare_products(theirs, copy)
                (vocabularies if other == parent else other_pairs).append(match)
    table("noise | found | lowest VO | lowest FU | lowest by", rows)
    for label, some in (("everything + 10 % noise, own root", vocabularies), ("the same, other roots", other_pairs)):
        found = sum(convicts(m, 64) for m in some)
        spans = [f"{lowest(some, which):.3f} to {highest(some, which):.3f}" for which in ("vo", "fu")]
        table("other vocabulary, anchors by string | pairs | convicted | VO | FU", [(label, len(some), found, *spans)])


def noisy(tensors: Tensors, amount: float) -> Tensors:
    rng = np.random.default_rng(11)
    return {name: t + rng.normal(0, amount * t.std(), t.shape) for name, t in tensors.items()}


def tokenizers(vocabulary: int, seed: int) -> tuple[dict[str, object], dict[str, object], np.ndarray]:
    """A vocabulary of bytes, another that lost a third of them and has others between, and its rows in the first."""
    rng = np.random.default_rng(seed)
    kept = rng.permutation(vocabulary)[: 2 * vocabulary // 3]
    order = rng.permutation(np.concatenate([kept, np.full(vocabulary // 2, -1)]))
    first = {f"<0x{i:02X}>": i for i in range(vocabulary)}
    second = {f"<0x{old:02X}>" if old >= 0 else f"new{i}": i for i, old in enumerate(order)}
    return {"model": {"vocab": first}}, {"model": {"vocab": second}}, order


def twins() -> None:
    rows = []
    known = {
        m: sketch(MINIATURE / m)
        for m in ("quillmarsh/sedge-200k", "quillmarsh/sedge-200k-suite", "vantorrel/basalt-200k")
    }
    base, twin, stranger = known.values()
    assert base is not None
    assert twin is not None
    assert stranger is not None
    for label, other in (("miniature twin", twin), ("miniature stranger", stranger)):
        match = compare_products(base, other)
        rows.append((label, figures(match.vo), figures(match.fu), match.log10_p, convicts(match, 64)))
    with tempfile.TemporaryDirectory() as place:
        for steps, rate in TWINS:
            pair = []
            for side, folders in enumerate(TEXTS):
                text = read_text(lambda folder, chosen=folders: folder in chosen)
                weights = train(initial_weights(7), text, seed=100 + side, steps=steps, rate=rate)
                pair.append(sketch(write(Path(place) / f"{steps}-{rate}-{side}", weights, tiny_config(weights))))
            left, right = pair
            assert left is not None
            assert right is not None
            match = compare_products(left, right)
            label = f"twins, {steps} steps at {rate:g}"
            rows.append((label, figures(match.vo), figures(match.fu), match.log10_p, convicts(match, 64)))
    table("twins | VO | FU | log10 p | convicts", rows)


class GeneratedReader:
    """Reads the files of a generated repo."""

    def __init__(self, repo: HubRepo) -> None:
        self.repo, self.bytes_read, self.requests = repo, 0, 0

    def size(self, path: str) -> int:
        return self.repo.files[path].size

    def read(self, path: str, ranges: Sequence[tuple[int, int]]) -> Iterator[bytes]:
        for start, stop in ranges:
            self.bytes_read, self.requests = self.bytes_read + stop - start, self.requests + 1
            yield self.repo.files[path].read(start, stop)


def costs() -> None:
    rows = []
    for name, geometry in (("Llama 7B", LLAMA_7B), ("Llama 70B", LLAMA_70B), ("Qwen3 30B-A3B", QWEN3_30B_A3B)):
        repo = generated_repo("bench/model", geometry)
        reader = GeneratedReader(repo)
        paths = [path for path in repo.files if path.endswith(".safetensors")]
        resolved = resolve_roles(
            [e for path in paths for e in read_header(reader, path, name).entries], geometry.config()
        )
        anchors = spread_anchors(geometry.vocabulary)
        sizes = {}
        for products in ((Product.VO,), tuple(Product)):
            for layers in (range(1), range(2)):
                sizes[products, len(layers)] = plan_products(
                    resolved, anchors, layers=layers, products=products
                ).n_bytes
        (vo, vo2), (both, both2) = [(sizes[p, 1], sizes[p, 2]) for p in ((Product.VO,), tuple(Product))]
        eight = plan_products(resolved, anchors, layers=range(8), products=[Product.VO])
        mib = [f"{n / 2**20:,.1f}" for n in (2 * vo - vo2, vo2 - vo, both2 - both - vo2 + vo, eight.n_bytes)]
        requests = reader.requests
        started = time.perf_counter()
        read_products(reader, eight)
        rows.append((name, *mib, reader.requests - requests, f"{time.perf_counter() - started:.1f}"))
    table(
        "MiB | anchors | VO a layer | FU a layer | eight layers of VO | requests | seconds, generation included", rows
    )


if __name__ == "__main__":
    torch.set_num_threads(1)  # matrices this small gain nothing from more
    zoo(Path(sys.argv[1]))
    costs()
    twins()

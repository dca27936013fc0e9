"""The integrity check of the index: no byte of it changes unseen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import provenance
from provenance.commands.index import index as index_command
from provenance.indexer import check_index
from provenance.indexer.build import KINDS
from provenance.indexer.check_index import index_problems
from provenance.indexer.generation import CURRENT, open_generation
from provenance.schemas.errors import IndexMissingError, StoreCorruptError
from tests.support.command_line import MINIATURE


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two generations of its index."""
    path = tmp_path_factory.mktemp("checked") / "store"
    with provenance.open(path, create=True) as database:
        database.crawl([MINIATURE / "quillmarsh"])
        database.index()
        database.index()
    return path


@pytest.fixture
def store(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built, tmp_path / "store"))


def live_files(store: Path) -> list[Path]:
    """All files of the index that matter: those of the live generation, and the one that names it."""
    index = store / "index"
    return [index / CURRENT, *sorted(open_generation(index).folder.iterdir())]


def problems(store: Path) -> list[str]:
    with provenance.open(store) as database:
        return database.verify()


def test_sound(store: Path) -> None:
    assert {path.suffix for path in live_files(store)} == {"", ".faiss", ".json", ".jsonl", ".npy", ".npz"}
    assert problems(store) == []


def test_a_store_without_an_index_is_sound(tmp_path: Path) -> None:
    with provenance.open(tmp_path / "store", create=True) as database:
        assert database.verify() == []
        database.index()
        assert database.verify() == []


@pytest.mark.parametrize("place", [0.0, 0.3, 0.6, 1.0])
def test_a_flipped_byte_in_any_file_is_found_and_named(store: Path, place: float) -> None:
    for path in live_files(store):
        whole = path.read_bytes()
        assert whole, f"{path.name} is empty: no byte of it can be flipped"
        at = round(place * (len(whole) - 1))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        (problem,) = problems(store)
        assert path.name in problem
        assert problem.endswith("run `provenance index`, which rebuilds the index")
        path.write_bytes(whole)
    assert problems(store) == []


def test_a_damaged_index_never_gives_another_answer(store: Path) -> None:
    """A query checks what it reads: it fails with the remedy, or does not touch the damage."""
    rng = np.random.default_rng(0)

    def answer() -> str:
        with provenance.open(store) as database:
            try:
                return json.dumps(database.query("sedge-200k").to_dict(), default=str)
            except (StoreCorruptError, IndexMissingError) as error:
                return str(error)

    expected, refused = answer(), 0
    for path in live_files(store):
        whole = path.read_bytes()
        for at in rng.integers(0, len(whole), 2).tolist():
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << int(rng.integers(8))]) + whole[at + 1 :])
            found = answer()
            assert found == expected or "run `provenance index`" in found, (path.name, at)
            refused += found != expected
        path.write_bytes(whole)
    assert refused > len(live_files(store))


def test_every_byte_of_the_small_files_counts(store: Path) -> None:
    """Also a space of the manifest, or the end of a line, that reads as the same JSON, or the same name."""
    manifest = open_generation(store / "index").folder / "manifest.json"
    for path in (store / "index" / CURRENT, manifest):
        whole = path.read_bytes()
        for at in range(len(whole)):
            for other in b"\r \t\n0":
                if other != whole[at]:
                    path.write_bytes(whole[:at] + bytes([other]) + whole[at + 1 :])
                    (problem,) = index_problems(store / "index")
                    assert path.name in problem
        path.write_bytes(whole)


@pytest.mark.parametrize("damage", ["missing", "longer", "shorter", "empty"])
def test_a_missing_or_cut_file_is_named(store: Path, damage: str) -> None:
    for path in live_files(store):
        whole = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes({"longer": whole + b"\n", "shorter": whole[:-1], "empty": b""}[damage])
        (problem,) = problems(store)
        assert path.name in problem
        path.write_bytes(whole)


def test_all_that_is_wrong_is_named_at_once(store: Path) -> None:
    folder = open_generation(store / "index").folder
    (folder / "keys.npy").unlink()
    (folder / "facts.npy").write_bytes(b"")
    (folder / "more.npy").write_bytes(b"x")
    (folder / "samples.npy").unlink()
    (folder / "samples.npy").mkdir()
    faults = [problem.removeprefix(f"index/{folder.name}/") for problem in problems(store)]
    for fault, start in zip(
        faults,
        [
            "facts.npy has 0 bytes, the manifest says ",
            "keys.npy is missing; ",
            "samples.npy has ",
            "more.npy is not named in the manifest; ",
        ],
        strict=True,
    ):
        assert fault.startswith(start)


def test_a_generation_that_is_gone(store: Path) -> None:
    folder = open_generation(store / "index").folder
    folder.rename(folder.with_name("moved"))
    (problem,) = problems(store)
    assert f"CURRENT names {folder.name}, which does not exist" in problem
    (store / "index" / CURRENT).unlink()
    (problem,) = problems(store)
    assert problem.startswith("index/CURRENT is missing, though an index was built")


def test_what_no_query_reads_any_more_is_not_checked(store: Path) -> None:
    live = open_generation(store / "index").folder
    (previous,) = set((store / "index").glob("generation-*")) - {live}
    (previous / "facts.npy").write_bytes(b"")
    assert problems(store) == []


def test_a_rebuild_mends_it_and_a_check_that_was_overtaken_begins_anew(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(open_generation(store / "index").folder)
    assert len(problems(store)) == 1
    pattern = check_index._LIVE

    class Overtaken:
        """A builder that switches the index just when the check has read its name."""

        def fullmatch(self, text: str) -> object:
            monkeypatch.setattr(check_index, "_LIVE", pattern)
            with provenance.open(store) as database:
                database.index()
            return pattern.fullmatch(text)

    monkeypatch.setattr(check_index, "_LIVE", Overtaken())
    assert index_problems(store / "index") == []


def test_the_command_offers_the_kinds_that_there_are() -> None:
    (kind,) = (option for option in index_command.params if option.name == "kind")
    assert tuple(kind.type.choices) == tuple(KINDS)  # type: ignore[attr-defined]

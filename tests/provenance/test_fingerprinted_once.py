"""A model that a command names is read once, and what is saved is what was asked about."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from provenance.crawler import headers
from provenance.crawler.architectures import read_names
from provenance.schemas.tensors import TensorEntry
from tests.conftest import llama, trained
from tests.support.command_line import Run

MODEL, PARENT = "./models/org/model", "./models/org/parent"


@pytest.fixture
def folders(write_repo: Callable[..., Path]) -> Path:
    """A parent and its child as folders, which no store holds."""
    base = llama(1)
    write_repo("org/parent", base)
    return write_repo("org/model", trained(base, 2)).parents[1]


@pytest.fixture
def fingerprints(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one at every fingerprint, which reads the names of a checkpoint's tensors once."""
    made: list[int] = []

    def counted(entries: Sequence[TensorEntry]) -> object:
        made.append(len(entries))
        return read_names(entries)

    monkeypatch.setattr(headers, "read_names", counted)
    return made


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["query", MODEL], 1),
        (["query", MODEL, "--save"], 1),
        (["query", MODEL, "--save", "--mode", "sampled"], 1),
        (["compare", MODEL, PARENT], 2),
        (["compare", MODEL, PARENT, "--plot", "pair.png"], 2),
        (["show", MODEL], 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_named_folder_is_fingerprinted_once(
    run: Run, folders: Path, fingerprints: list[int], arguments: list[str], named: int
) -> None:
    run("crawl", PARENT, "--store", "store")
    fingerprints.clear()
    done = run(*arguments, "--store", "store")
    assert done.status == 0, done.err
    assert len(fingerprints) == named
    assert Path("pair.png").exists() == ("--plot" in arguments)


def test_what_is_saved_is_what_was_asked_about(run: Run, folders: Path, fingerprints: list[int]) -> None:
    run("crawl", PARENT, "--store", "store")
    fingerprints.clear()
    for mode in ("sampled", "sampled", "full"):
        asked = run("query", MODEL, "--save", "--mode", mode, "--store", "store").json
        stored = run("show", asked["model"]["checkpoint_id"], "--store", "store").json
        assert asked["model"]["mode"] == stored["model"]["mode"] == mode
        assert asked["model"] == {name: stored["model"][name] for name in asked["model"]}
        assert asked["store"]["checkpoints"] == 2
        assert [c["repo_id"] for c in asked["candidates"]] == ["org/parent"]
    assert len(fingerprints) == 3


def test_a_mode_that_the_store_does_not_prefer_is_still_the_one_asked_about(run: Run, folders: Path) -> None:
    run("crawl", PARENT, "--store", "store")
    for mode in ("full", "sampled"):
        asked = run("query", MODEL, "--save", "--mode", mode, "--store", "store").json
        assert asked["model"]["mode"] == mode


def test_an_older_state_of_a_folder_is_asked_about_as_it_is(
    run: Run, folders: Path, write_repo: Callable[..., Path]
) -> None:
    run("crawl", PARENT, "--store", "store")
    states = [trained(llama(1), 2), trained(llama(1), 3)]
    ids = []
    for state in (states[0], states[1], states[0]):
        write_repo("org/model", state)
        ids.append(run("query", MODEL, "--save", "--store", "store").json["model"]["checkpoint_id"])
    assert ids[0] == ids[2] != ids[1]

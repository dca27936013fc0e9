"""How models are named: addresses of pages, ids of the store only, and mistyped ids."""

from __future__ import annotations

import re
import traceback

import pytest
from hypothesis import given
from hypothesis import strategies as st

import provenance
from provenance import ProvenanceError
from provenance.demo_hub import LoopbackHub, folder_repos
from provenance.names import hub_name, short_id
from tests.support.command_line import CHILD, MINIATURE, PARENT, Run

COMMIT = "690a87d854d5" + "0" * 28


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("https://huggingface.co/org/name", "org/name"),
        ("https://huggingface.co/org/name/", "org/name"),
        ("http://www.huggingface.co/org/name?library=transformers#files", "org/name"),
        ("huggingface.co/org/name/tree/main", "org/name"),
        ("hf.co/org/name/tree/v1.0", "org/name@v1.0"),
        ("https://huggingface.co/org/name/tree/refs%2Fpr%2F1", "org/name@refs/pr/1"),
        (f"https://huggingface.co/org/name/commit/{COMMIT}", f"org/name@{COMMIT}"),
        ("https://huggingface.co/org/name/blob/main/config.json", "org/name"),
        ("https://huggingface.co/gpt2/tree/main", "gpt2"),
        ("https://huggingface.co/gpt2", "gpt2"),
        ("https://hub.example.org/org/name", "org/name"),
        ("https://elsewhere.example.org/org/name", "https://elsewhere.example.org/org/name"),
        ("org/name", "org/name"),
        ("./huggingface.co/org", "./huggingface.co/org"),
        ("http://[", "http://["),
    ],
)
def test_the_address_of_a_page_is_its_repo(text: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.example.org")
    assert hub_name(text) == name


@pytest.mark.parametrize("text", ["https://huggingface.co/datasets/a/b", "hf.co/spaces/a/b", "https://hf.co/"])
def test_the_address_of_another_page_is_refused(text: str) -> None:
    with pytest.raises(ProvenanceError, match="not the page of a model"):
        hub_name(text)


@given(st.text())
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        assert hub_name(hub_name(text)) == hub_name(text)
    except ProvenanceError:
        assert "huggingface.co" in text.lower() or "hf.co" in text.lower()


def test_a_commit_is_shortened_as_in_ids() -> None:
    assert short_id(f"org/name@{COMMIT}") == "org/name@690a87d854d5"
    assert short_id("org/name@main") == "org/name@main"
    assert short_id("org/name") == "org/name"


@pytest.mark.parametrize("command", ["query", "show", "lineage"])
def test_every_command_understands_an_address(run: Run, command: str) -> None:
    run("lineage", "--refresh")
    by_id = run(command, CHILD)
    by_address = run(command, f"https://huggingface.co/{CHILD}/tree/{COMMIT}")
    assert (by_id.status, by_address.status) == (0, 0), by_address.err
    assert by_address.json == by_id.json
    assert run("compare", f"hf.co/{CHILD}", f"hf.co/{PARENT}").json == run("compare", CHILD, PARENT).json


def test_an_address_is_a_source_of_a_crawl_and_a_repo_to_forget(run: Run) -> None:
    with LoopbackHub(folder_repos(MINIATURE)) as hub:
        at = ("--endpoint", hub.endpoint, "--store", "new")
        done = run("crawl", f"https://huggingface.co/{CHILD}/tree/main", *at)
    assert done.status == 0, done.err
    assert run("sql", "select repo_id from checkpoints", "--store", "new").json == [{"repo_id": CHILD}]
    assert run("forget", f"https://huggingface.co/{CHILD}", "--yes", "--store", "new").status == 0


@pytest.mark.parametrize("command", [["show"], ["lineage"], ["compare", CHILD]])
def test_only_the_store_is_asked(run: Run, command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    run("lineage", "--refresh")
    with LoopbackHub(folder_repos(MINIATURE)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        done = run(*command, "nimblewick/concord-bse")
        assert hub.requests == []
    assert done.status == 1
    assert re.fullmatch(r"provenance: nimblewick/concord-bse: not in the store \(.+\); did you mean (.+)\?\n", done.err)
    assert CHILD in done.err


def test_a_name_like_no_other_gets_the_way_to_get_it(run: Run) -> None:
    assert "; `provenance crawl zzz/qqq` would put it there" in run("show", "zzz/qqq").err


def test_the_hub_is_asked_when_told(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("crawl", str(MINIATURE / PARENT), "--store", "small")
    with LoopbackHub(folder_repos(MINIATURE)) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.endpoint)
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        small = ("--store", "small")
        assert run("show", CHILD, *small).status == 1
        assert hub.requests == []
        assert run("show", CHILD, "--fetch", *small).json["model"]["repo_id"] == CHILD
        assert run("compare", CHILD, PARENT, "--fetch", *small).json["verdict"] in ("derived", "related")
        assert run("query", CHILD, *small).json["candidates"][0]["repo_id"] == PARENT


def test_an_unknown_model_is_one_error_in_python(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with provenance.open() as database, pytest.raises(ProvenanceError, match="did you mean") as caught:
        database.query("nimblewick/concord-bse")
    text = "".join(traceback.format_exception(caught.value))
    assert text.count("Traceback") == 1, text


def test_a_repo_to_forget_is_suggested_too(run: Run) -> None:
    done = run("forget", "nimblewick/concord", "--yes")
    assert done.status == 1
    assert f"did you mean {CHILD}?" in done.err


def test_a_mistyped_command_and_option_are_usage(run: Run) -> None:
    for arguments, hint in (
        (["qurey", CHILD], "did you mean query?"),
        (["zzz"], "`provenance --help` lists all commands"),
        (["query", CHILD, "--fromat", "json"], "--format"),
        (["sql", "--named", "licenses"], "did you mean licenses-that-differ?"),
    ):
        done = run(*arguments)
        assert (done.status, done.raw) == (2, b"")
        assert hint in done.err

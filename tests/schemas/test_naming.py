"""Spellings of one name are one name."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provenance.schemas.identity import CheckpointId, is_repo_id
from provenance.schemas.naming import (
    license_key,
    licenses_differ,
    renamed_to,
    renaming,
    repo_key,
    repo_named,
    short_key,
)


@pytest.mark.parametrize(
    "text",
    [
        "Acme/Root-1",
        " Acme/Root-1 ",
        "Acme/Root-1/",
        "Acme/Root-1@main",
        "Acme/Root-1@refs/pr/3",
        "https://huggingface.co/Acme/Root-1",
        "http://www.huggingface.co/Acme/Root-1/",
        "https://huggingface.co/Acme/Root-1/tree/main",
        "https://hf.co/Acme/Root-1/blob/main/README.md",
        "https://huggingface.co/Acme/Root-1?library=transformers",
        "huggingface.co/Acme/Root-1#usage",
        "hf://Acme/Root-1",
    ],
)
def test_what_names_a_repo(text: str) -> None:
    assert repo_named(text) == "Acme/Root-1"


@pytest.mark.parametrize(
    "text", ["", "./x", "/app/model", "a b", "a/b/c", "..", "a/..", "https://example.org/a/b", "C:\\x"]
)
def test_what_names_none(text: str) -> None:
    assert repo_named(text) is None


def test_keys() -> None:
    assert repo_key("Acme/Root-1") == repo_key("acme/root-1") == "acme/root-1"
    assert short_key("Acme/Root-1") == short_key("root-1") == "root-1"
    assert repo_named("模型/通义") == "模型/通义"


@pytest.mark.parametrize(
    ("a", "b", "differ"),
    [
        ("apache-2.0", "Apache-2.0", False),
        ("apache-2.0", "Apache 2.0", False),
        ("apache-2.0", "https://choosealicense.com/licenses/apache-2.0/", False),
        ("mit", "https://opensource.org/licenses/MIT", False),
        ("mit", "apache-2.0", True),
        ("mit, apache-2.0", "Apache-2.0, MIT", False),
        ("mit, apache-2.0", "mit", True),
        ("mit", None, None),
        ("mit", "other", None),
        ("other", "other", None),
    ],
)
def test_licenses(a: str | None, b: str | None, differ: bool | None) -> None:
    assert licenses_differ(a, b) is licenses_differ(b, a) is differ


@given(st.text())
def test_keys_are_those_of_themselves(text: str) -> None:
    assert repo_key(repo_key(text)) == repo_key(text)
    key = license_key(text)
    assert key is None or license_key(key) == key


def test_a_renaming_is_read_back() -> None:
    assert renamed_to(renaming("a/old", "b/new")) == "b/new"
    assert renamed_to("a/old: something else") is None


@pytest.mark.parametrize("repo", ["a", "a/b", "模型/通义", "org/🤗", "हिन्दी/b", "n" * 200, "a/-b", "a/..b"])
def test_ids_of_any_script(repo: str) -> None:
    assert is_repo_id(repo)
    assert CheckpointId.parse(str(CheckpointId(repo, "abc"))).repo_id == repo


@pytest.mark.parametrize(
    "repo", ["", "a/b/c", "a b", "a/..", "..", "a@b", "a:b", "a#b", "a\n", "a\u202eb", "a\u00a0b", "a'b"]
)
def test_what_is_no_id(repo: str) -> None:
    assert not is_repo_id(repo)

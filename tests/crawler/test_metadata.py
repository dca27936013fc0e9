"""What listings and model cards say, and that nothing in them can break a crawl."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from provenance.crawler.card import FRONT_MATTER_LIMIT
from provenance.crawler.metadata import (
    base_of_adapter,
    commit_from_listing,
    files_from_listing,
    metadata_from_listing,
    metadata_from_readme,
    parse_listing,
    with_declared,
)
from provenance.schemas.errors import SourceError
from provenance.schemas.records import RepoFile, RepoMetadata

LISTED: dict[str, Any] = {
    "id": "inkwell/header-coder",
    "sha": "4242a2543edcfcca33d9dcbf6eca7a67236a0408",
    "createdAt": "2025-01-06T09:00:00.000Z",
    "lastModified": "2025-02-06T11:30:00+02:00",
    "author": "inkwell",
    "downloads": 4434,
    "likes": 34,
    "gated": "manual",
    "private": False,
    "pipeline_tag": "text-generation",
    "tags": ["safetensors", "license:mit", "base_model:a/x", "base_model:finetune:a/y"],
    "cardData": {"license": "apache-2.0", "base_model": ["a/z", "a/x"], "base_model_relation": "merge"},
}


def declared(**fields: Any) -> tuple[str, ...]:
    return metadata_from_listing({"id": "me/child", **fields}).declared_parents or ()


def test_all_fields_of_a_listing() -> None:
    assert metadata_from_listing(LISTED) == RepoMetadata(
        author="inkwell",
        created_at=datetime(2025, 1, 6, 9, tzinfo=UTC),
        last_modified=datetime(2025, 2, 6, 9, 30, tzinfo=UTC),
        downloads=4434,
        likes=34,
        license="apache-2.0",
        gated="manual",
        private=False,
        pipeline_tag="text-generation",
        tags=("safetensors", "license:mit", "base_model:a/x", "base_model:finetune:a/y"),
        declared_parents=("a/z", "a/x", "a/y"),
        declared_relation="merge",
    )
    assert commit_from_listing(LISTED) == LISTED["sha"]


def test_declared_parents() -> None:
    assert declared(cardData={"base_model": "a/b"}) == ("a/b",)
    assert declared(cardData={"base_model": ["a/b", "A/B", "gpt2"]}) == ("a/b", "gpt2")
    assert declared(cardData={"base_model": ["Me/Child", "a/b"]}, tags=["base_model:me/child"]) == ("a/b",)
    assert declared(cardData={"base_model": "https://huggingface.co/a/b/"}) == ("a/b",)
    assert declared(cardData={"base_model": ["./x", "a b", "", None, 3, ["a/b"], "a/b/c", "..", "a/.."]}) == ()
    assert declared(cardData="base_model: a/b", tags="base_model:a/b") == ()
    assert declared(tags=["base_model:", "base_model:quantized:a/b", 7]) == ("a/b",)


def test_relation_and_license_fall_back_on_tags() -> None:
    found = metadata_from_listing({"tags": ["base_model:a/b", "base_model:quantized:a/b", "license:mit"]})
    assert (found.declared_relation, found.license) == ("quantized", "mit")


@pytest.mark.parametrize(("listed", "stored"), [(False, "false"), ("auto", "auto"), (True, None), ("x", None)])
def test_gated(listed: object, stored: str | None) -> None:
    assert metadata_from_listing({"gated": listed}).gated == stored


def test_wrong_types_become_null() -> None:
    assert metadata_from_listing({key: {"x": [1]} for key in LISTED}) == RepoMetadata()
    assert metadata_from_listing({key: 1 if key == "private" else True for key in LISTED}) == RepoMetadata()
    odd = metadata_from_listing({"downloads": -1, "likes": 2**63, "createdAt": "soon", "lastModified": 17})
    assert odd == RepoMetadata()
    assert metadata_from_listing({"createdAt": "0001-01-01T00:00:00+10:00"}).created_at is None
    assert metadata_from_listing({"createdAt": "2025-01-06"}).created_at == datetime(2025, 1, 6, tzinfo=UTC)


@pytest.mark.parametrize("sha", [None, 5, "", "main", "4242A2543E", "../../x"])
def test_a_sha_that_is_none(sha: object) -> None:
    assert commit_from_listing({"sha": sha}) is None


def test_files_of_a_listing() -> None:
    digest = "ab" * 32
    siblings = [
        {"rfilename": "model.safetensors", "size": 9, "lfs": {"sha256": digest, "size": 10, "pointerSize": 9}},
        {"rfilename": "gated.safetensors", "lfs": {"sha256": "****", "size": 10}},
        {"rfilename": "config.json", "size": 3},
        {"rfilename": "sizeless.json"},
        {"rfilename": 3, "size": 3},
        "README.md",
        None,
    ]
    assert files_from_listing({"sha": "a" * 40, "siblings": siblings}) == (
        RepoFile("model.safetensors", 10, digest, None, "a" * 40),
        RepoFile("gated.safetensors", 10, None, None, "a" * 40),
        RepoFile("config.json", 3, None, None, "a" * 40),
    )
    assert files_from_listing({"siblings": 5}) == ()


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["a/b", "base_model:a/b", "base_model:merge:a/b", "license:mit", "\ud800", "2025-01-06T09:00Z"]),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from([*LISTED, "base_model", "license"]), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*LISTED, "siblings"]), json_values))
def test_no_listing_breaks_and_all_text_can_be_stored(listed: dict[str, Any]) -> None:
    found = metadata_from_listing(json.loads(json.dumps(listed)))
    files_from_listing(listed)
    pa.array(
        [found.author, found.license, found.pipeline_tag, *found.tags, *(found.declared_parents or ())], pa.string()
    )
    pa.array([found.downloads, found.likes], pa.int64())
    pa.array([found.created_at, found.last_modified], pa.timestamp("us", tz="UTC"))


def card(front: str, rest: str = "# Title\n") -> RepoMetadata:
    return metadata_from_readme(f"---\n{front}\n---\n{rest}".encode(), "me/child")


def test_front_matter_of_a_card() -> None:
    assert card("license: mit\nbase_model: a/b\ndate: 2020-01-01\ntags: [x]") == RepoMetadata(
        license="mit", declared_parents=("a/b",)
    )
    assert card("base_model:\n- a/b\n- me/child\nbase_model_relation: merge") == RepoMetadata(
        declared_parents=("a/b",), declared_relation="merge"
    )
    assert metadata_from_readme(b"\xef\xbb\xbf---\r\nlicense: no\r\n---\r\n", "m").license == "no"
    assert card("license:\nbase_model: null") == RepoMetadata()


@pytest.mark.parametrize(
    "front", ["- just\n- a list", "text", "[" * 5000, "%YAML 1." + "1" * 5000 + "\n", "? [a]\n: b"]
)
def test_front_matter_without_keys_says_nothing(front: str) -> None:
    assert card(front) == RepoMetadata(
        declared_parents=None, notes=("card: its front matter is no YAML of keys and values",)
    )
    assert card("") == card("# nothing here") == RepoMetadata()


@pytest.mark.parametrize(
    ("front", "license_", "parents"),
    [
        ("license: [mit\nbase_model: a/b", "mit", ("a/b",)),
        ("license: mit\n\tbad: tab\nbase_model: a/b", "mit", ("a/b",)),
        ("title: Root: the tune\nlicense: mit\nbase_model: a/b", "mit", ("a/b",)),
        ("license: mit\nbase_model:\n\t- a/b\n\t- c/d", "mit", ("a/b", "c/d")),
        ("license: mit\nbase_model: [a/b, c/d", "mit", ("a/b", "c/d")),
        ("license: mit\nbase_model: {{", "mit", None),
        ("license: mit\nbase_model: /app/model", "mit", None),
        ("license: mit\nbase_model: [/app/model, a/b]", "mit", ("a/b",)),
        ("license: !!python/object/apply:os.system [exit 1]", "exit 1", ()),
    ],
)
def test_of_broken_front_matter_all_that_can_be_read_is_read(
    front: str, license_: str | None, parents: tuple[str, ...] | None
) -> None:
    found = card(front)
    assert (found.license, found.declared_parents) == (license_, parents)
    assert found.notes or "title" in front or "!!" in front


@pytest.mark.parametrize(
    "base",
    [
        "Acme/Root-1",
        "https://huggingface.co/Acme/Root-1/tree/main",
        "https://huggingface.co/Acme/Root-1/blob/main/config.json",
        "hf.co/Acme/Root-1",
        "Acme/Root-1@main",
        "' Acme/Root-1 '",
        "\n- name: Acme/Root-1",
        "\n- Acme/Root-1\n- acme/root-1",
        "Acme/Root-1  # the base",
    ],
)
def test_a_base_model_in_every_spelling(base: str) -> None:
    assert card(f"base_model: {base}") == RepoMetadata(declared_parents=("Acme/Root-1",))


@pytest.mark.parametrize(
    ("front", "license_"),
    [
        ("license:\n- apache-2.0", "apache-2.0"),
        ("license:\n- mit\n- apache-2.0", "mit, apache-2.0"),
        ("license: other\nlicense_name: root-community", "root-community"),
        ("license: other", "other"),
        ("license: mit\nlicense_name: x", "mit"),
    ],
)
def test_a_license_in_every_form(front: str, license_: str) -> None:
    assert card(front) == RepoMetadata(license=license_)


def test_front_matter_may_be_long_begin_late_and_end_otherwise() -> None:
    plain = RepoMetadata(license="mit", declared_parents=("a/b",))
    head = "license: mit\nbase_model: a/b\n"
    long = head + "model-index:\n" + "- name: x\n  results: [1, 2]\n" * 10_000
    for readme in (f"\n\n---\n{head}---\n", f"---\n{head}...\n", f"---\n{head}---", f"---\n{long}---\ntext"):
        assert metadata_from_readme(readme.encode(), "m") == plain
        assert metadata_from_readme(b"\xef\xbb\xbf" + readme.replace("\n", "\r\n").encode(), "m") == plain


@pytest.mark.parametrize("readme", ["<!-- made by a tool -->\n---\n{}---\n", "---\r{}---\r"])
def test_front_matter_after_a_comment_or_with_odd_ends_of_lines(readme: str) -> None:
    text = readme.format("License: mit\nbase-model: a/b\n").replace("\r", "\r\n")
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        found = metadata_from_readme(text.encode(encoding), "m")
        assert found == RepoMetadata(license="mit", declared_parents=("a/b",))


@pytest.mark.parametrize(
    "start", ["<!---->", "<!--", "\n", "---\n", "license: [", "base_model:\n- x\n", "https://hf.co/a/b "]
)
def test_no_card_takes_long(start: str) -> None:
    text = start * (300_000 // len(start))
    metadata_from_readme(text.encode(), "m")
    metadata_from_readme(f"---\n{text}\n---\n".encode(), "m")


def test_a_card_that_links_to_repos_only_in_its_text_leaves_open_what_it_declares() -> None:
    found = card(
        "license: mit", rest="Tuned from [x](https://huggingface.co/a/b), see https://huggingface.co/datasets/d/e"
    )
    assert found.declared_parents is None
    assert found.notes == ("card: it declares no base model, but its text links to a/b",)
    assert card("license: mit", rest="https://huggingface.co/me/child") == RepoMetadata(license="mit")
    assert card("base_model: a/b", rest="https://huggingface.co/c/d").declared_parents == ("a/b",)


def test_the_files_of_a_repo_declare_too() -> None:
    said = with_declared(RepoMetadata(declared_parents=("a/b",)), "me/child", ["https://hf.co/A/B", "c/d", "me/child"])
    assert said == RepoMetadata(declared_parents=("a/b", "c/d"))
    assert with_declared(RepoMetadata(), "m", ["/tmp/base"]).notes == (
        "card: the base model '/tmp/base' is no repo id",
    )
    assert with_declared(RepoMetadata(declared_parents=None), "m", ["a/b"]).declared_parents == ("a/b",)
    assert base_of_adapter({"base_model_name_or_path": "a/b"}) == ["a/b"]
    assert base_of_adapter([]) == base_of_adapter({"base_model_name_or_path": 3}) == []


def test_what_the_hub_knows_of_bases_joins_the_card() -> None:
    bases = {"relation": "finetune", "models": [{"_id": "x", "id": "a/new"}, {"id": 3}, None]}
    found = metadata_from_listing({"id": "me/child", "cardData": {"base_model": "a/old"}, "baseModels": bases})
    assert (found.declared_parents, found.declared_relation) == (("a/old", "a/new"), "finetune")
    assert declared(config={"peft": {"base_model_name_or_path": "a/b"}}) == ("a/b",)


def test_yaml_tags_are_passed_over() -> None:
    assert card("license: !!timestamp nonsense").license == "nonsense"


def test_merge_keys_do_not_blow_up() -> None:
    bomb = "a0: &a0 {x: y}\n" + "".join(f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 40))
    assert card(bomb + "license: mit").license == "mit"


def test_cards_without_front_matter_or_with_too_much() -> None:
    assert metadata_from_readme(b"# Title\nlicense: mit\n", "m") == RepoMetadata()
    assert metadata_from_readme(b"---\n# Title\ntext\n", "m") == RepoMetadata()
    endless = RepoMetadata(license="mit", notes=("card: its front matter has no end",))
    assert metadata_from_readme(b"---\nlicense: mit\n", "m") == endless
    assert card("license: mit\n#" + "x" * FRONT_MATTER_LIMIT) == endless
    assert card("license: mit", rest="x" * 2 * FRONT_MATTER_LIMIT).license == "mit"


@given(st.text(st.sampled_from("license: a/b\n-[]{}&*!|>'\"\\U%?#,\t\x00\u2028é"), max_size=60))
@example('license: "\\U00110000"')
def test_no_card_breaks(front: str) -> None:
    found = card(front)
    assert found.created_at is None
    assert found.author is None


def test_a_listing_is_read_by_repo_id_and_the_last_one_counts() -> None:
    found = parse_listing(b'{"id": "a/b", "likes": 1}\n\n{"id": "c"}\r\n{"id": "a/b", "likes": 2}', "l")
    assert found == {"a/b": {"id": "a/b", "likes": 2}, "c": {"id": "c"}}


@pytest.mark.parametrize(
    "line", [b"{", b"[]", b"{}", b'{"id": 3}', b"\xff", b"[" * 100_000, b'{"id": "a", "n": ' + b"1" * 5000 + b"}"]
)
def test_a_malformed_line_is_named(line: bytes) -> None:
    with pytest.raises(SourceError, match=r"^some/listing\.jsonl, line 3: not"):
        parse_listing(b'{"id": "a/b"}\n\n' + line + b'\n{"id": "c/d"}\n', "some/listing.jsonl")

"""Names that a mistyped one may have meant."""

from __future__ import annotations

from provenance.schemas.suggestions import closest, did_you_mean

KNOWN = ["nimblewick/concord-base", "quillmarsh/sedge-200k", "quillmarsh/sedge-200k-suite", "ostrel/sedge-mail"]


def test_slips_case_and_missing_owners_are_seen() -> None:
    assert closest("nimblewick/concord-bse", KNOWN)[0] == "nimblewick/concord-base"
    assert closest("Nimblewick/Concord-Base", KNOWN)[0] == "nimblewick/concord-base"
    assert closest("concord-base", KNOWN) == ["nimblewick/concord-base"]
    assert closest("other/sedge-200k", KNOWN)[:2] == ["quillmarsh/sedge-200k", "quillmarsh/sedge-200k-suite"]
    sedges = {"quillmarsh/sedge-200k", "quillmarsh/sedge-200k-suite", "ostrel/sedge-mail"}
    assert set(closest("sedge", KNOWN)) == sedges


def test_nothing_alike_is_nothing_said() -> None:
    assert closest("zzz/qqq", KNOWN) == []
    assert did_you_mean("zzz/qqq", KNOWN) == did_you_mean("x", []) == ""
    assert did_you_mean("lineaeg", ["lineage", "index"]) == "; did you mean lineage?"
    assert did_you_mean("sedge-200k", KNOWN).startswith("; did you mean quillmarsh/sedge-200k")

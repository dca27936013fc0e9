"""Tables that fit any width: the layout as a pure function, against what must hold for every table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from provenance.output.tables import GAP, MIN_ID, Column, columns_of, fit, print_table
from provenance.output.text import chance, shorten

TEXT = st.text(st.characters(exclude_categories=["C", "M"]), max_size=60)


@given(TEXT, st.integers(5, 40))
def test_shortened_text_fits_and_keeps_its_ends(text: str, width: int) -> None:
    short = shorten(text, width)
    assert cell_len(short) <= width
    if cell_len(text) <= width:
        assert short == text
    else:
        begin, _, end = short.partition("…")
        assert text.startswith(begin.rstrip())
        assert text.endswith(end)
        assert " " in text or end, "a name keeps its end"


def test_an_id_keeps_owner_and_revision() -> None:
    assert shorten("thriftbyte/sedge-mail-int8@0dcc658a1365", 24) == "thriftbyte/s…dcc658a1365"
    assert shorten("a long sentence about nothing", 12) == "a long sent…"
    assert shorten("漢字漢字漢字漢字", 7) == "漢字…字"


COLUMN = st.builds(
    Column,
    name=st.text("abc_ ", min_size=1, max_size=20),
    cells=st.lists(TEXT, min_size=2, max_size=2).map(tuple),
    numeric=st.booleans(),
)


@given(st.lists(COLUMN, min_size=1, max_size=12), st.integers(40, 200))
def test_layout_fits_and_leaves_nothing_out_without_need(columns: list[Column], width: int) -> None:
    fitted = fit(columns, width)
    used = sum(each for _, each in fitted) + GAP * (len(fitted) - 1)
    assert used <= width
    assert fitted[0][0] is columns[0]
    assert all(each == column.natural for column, each in fit(columns, 10_000))
    natural = sum(column.natural for column in columns) + GAP * (len(columns) - 1)
    if natural <= width:
        assert [each for _, each in fitted] == [column.natural for column in columns]
    for column, each in fitted:
        assert each >= min(column.least, width), "as much of it as can be recognised"
    if len(fitted) < len(columns):
        (gone, *_) = [column for column in columns if all(column is not kept for kept, _ in fitted)]
        assert sum(c.least for c, _ in fitted) + gone.least + GAP * len(fitted) > width


def test_columns_go_in_the_order_given_then_from_the_right() -> None:
    rows = [{"name": "n" * 20, "a": "a" * 20, "b": "b" * 20, "c": "c" * 20}]
    names = [[column.name for column, _ in fit(columns_of(rows), width, ("a",))] for width in (90, 70, 50, 40)]
    assert names == [["name", "a", "b", "c"], ["name", "b", "c"], ["name", "b"], ["name"]]


def test_an_id_is_never_cut_below_what_names_it() -> None:
    rows = [{"child": "o" * 20 + "/" + "n" * 40, "parent": "p" * 20 + "/" + "m" * 40, "x": 1.5}]
    widths = {column.name: width for column, width in fit(columns_of(rows), 80)}
    assert widths["child"] >= MIN_ID
    assert widths["parent"] >= MIN_ID
    assert widths["x"] == 5


def test_a_file_gets_everything_at_full_length(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "owner/" + "name" * 30, "note": "word " * 60, "n": n} for n in range(3)]
    assert print_table(rows, wraps=("note",)) == []
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    assert all(rows[0]["id"] in line for line in lines[1:])
    assert print_table([]) == []
    assert capsys.readouterr().out == "no rows\n"


@pytest.mark.parametrize(
    ("log10_p", "words"),
    [
        (0.0, "no more than chance gives"),
        (-0.5, "no more than chance gives"),
        (-1.9, "by chance 1 in 79"),
        (-2.8, "by chance 1 in 630"),
        (-3.99, "by chance 1 in 9,800"),
        (-4.0, "by chance under 1 in 10^4"),
        (-26.41, "by chance under 1 in 10^26"),
        (-1200.7, "by chance under 1 in 10^1200"),
    ],
)
def test_chance_in_words(log10_p: float, words: str) -> None:
    assert chance(log10_p) == words

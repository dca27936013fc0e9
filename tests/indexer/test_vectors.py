"""One suite for both vector indexes, against a brute-force oracle."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from provenance.indexer import vectors as module
from provenance.indexer.vectors import ExactIndex, FlatIndex, open_index
from provenance.schemas.errors import IndexMissingError, StoreCorruptError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from provenance.schemas.protocols import VectorIndex

    Matrix = NDArray[np.float32]
    Kind = type[ExactIndex] | type[FlatIndex]

KINDS = pytest.mark.parametrize("kind", [ExactIndex, FlatIndex], ids=["exact", "flat"])


def unit(matrix: NDArray[np.float64]) -> Matrix:
    scaled: Matrix = (matrix / np.linalg.norm(matrix, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def oracle(vectors: Matrix, query: Matrix, k: int) -> tuple[list[float], list[int]]:
    """Inner products in exact arithmetic, rounded once; all rows sorted; the first k."""
    scores = [
        float(np.float32(math.fsum(a * b for a, b in zip(row, query.tolist(), strict=True))))
        for row in vectors.tolist()
    ]
    rows = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
    return [scores[row] for row in rows], rows


@st.composite
def problems(draw: st.DrawFn) -> tuple[Matrix, Matrix, int]:
    """Vectors on a coarse grid, so that ties abound and every sum is exact; zero vectors among them."""
    dimension = draw(st.integers(1, 6))
    grid = st.integers(-2, 2)
    n, n_queries = draw(st.integers(0, 60)), draw(st.integers(0, 4))
    integers = draw(arrays(np.int64, (n + n_queries, dimension), elements=grid, fill=grid))
    scaled = (integers / 8).astype(np.float32)
    return scaled[:n], scaled[n:], draw(st.integers(1, 80))


@KINDS
@given(problem=problems())
@settings(max_examples=100)
def test_search_is_the_brute_force_answer(kind: Kind, problem: tuple[Matrix, Matrix, int]) -> None:
    vectors, queries, k = problem
    index = kind.build(vectors)
    scores, rows = index.search(queries, k)
    assert scores.shape == rows.shape == (len(queries), min(k, len(vectors)))
    assert scores.dtype == np.float32
    assert rows.dtype == np.int64
    for query, got_scores, got_rows in zip(queries, scores, rows, strict=True):
        assert (got_scores.tolist(), got_rows.tolist()) == oracle(vectors, query, k)


@pytest.fixture(scope="module")
def crowd() -> tuple[Matrix, Matrix]:
    """3,000 unit vectors of dimension 256 with 200 exact copies of one and 50 zero vectors; near and far queries."""
    rng = np.random.default_rng(11)
    vectors = unit(rng.normal(size=(3000, 256)))
    special = rng.permutation(3000)[:250]
    vectors[special[:200]] = vectors[special[0]]
    vectors[special[200:]] = 0
    near = unit(vectors[special[0]] + 0.05 * rng.normal(size=(6, 256)))
    return vectors, np.concatenate([near, unit(rng.normal(size=(20, 256))), np.zeros((1, 256), np.float32)])


@KINDS
@pytest.mark.parametrize("k", [1, 10, 150, 210])
def test_copies_come_by_rising_row_even_across_the_last_place(kind: Kind, k: int, crowd: tuple[Matrix, Matrix]) -> None:
    vectors, queries = crowd
    copies = np.flatnonzero((vectors == vectors[np.argmax(vectors @ queries[0])]).all(axis=1))
    assert len(copies) == 200
    scores, rows = kind.build(vectors).search(queries, k)
    for near in range(6):
        assert rows[near, : min(k, 200)].tolist() == copies[:k].tolist()
        assert len(set(scores[near, : min(k, 200)].tolist())) == 1
    # All rows tie with the zero query.
    assert rows[-1].tolist() == list(range(k))
    assert not scores[-1].any()


@KINDS
def test_ties_that_float32_sums_would_break(kind: Kind) -> None:
    # Permutations of one vector have the same mean, but summed in float32 it differs with the order of the terms.
    rng = np.random.default_rng(5)
    vectors = rng.permuted(np.tile(unit(rng.normal(size=(1, 256))), (500, 1)), axis=1)
    query = np.full((1, 256), 1 / 16, np.float32)
    assert len(np.unique(vectors @ query[0])) > 1
    scores, rows = kind.build(vectors).search(query, 7)
    assert len(np.unique(scores)) == 1
    assert rows[0].tolist() == list(range(7))


@KINDS
def test_scores_of_unit_vectors_match_the_oracle(kind: Kind, crowd: tuple[Matrix, Matrix]) -> None:
    vectors, queries = crowd
    scores, rows = kind.build(vectors).search(queries[4:9], 20)
    for query, got_scores, got_rows in zip(queries[4:9], scores, rows, strict=True):
        expected_scores, expected_rows = oracle(vectors, query, 20)
        assert got_rows.tolist() == expected_rows
        np.testing.assert_allclose(got_scores, expected_scores, atol=1e-7)


def test_both_indexes_answer_bit_for_bit_the_same(
    crowd: tuple[Matrix, Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors, queries = crowd
    monkeypatch.setattr(module, "BLOCK_SCORES", 4 * len(vectors))  # seven blocks of queries
    for k in (1, 50, 9999):
        exact, flat = (kind.build(vectors).search(queries, k) for kind in (ExactIndex, FlatIndex))
        assert exact[0].shape == (27, min(k, 3000))
        np.testing.assert_array_equal(exact[0], flat[0])
        np.testing.assert_array_equal(exact[1], flat[1])


@KINDS
def test_an_empty_index_finds_nothing(kind: Kind, tmp_path: Path) -> None:
    index = kind.build(np.zeros((0, 16), np.float32))
    path = tmp_path / f"empty{kind.SUFFIX}"
    index.save(path)
    for each in (index, kind.load(path)):
        scores, rows = each.search(np.ones((3, 16), np.float32), 5)
        assert each.size == 0
        assert scores.shape == rows.shape == (3, 0)


@KINDS
def test_saved_and_mapped_back(kind: Kind, tmp_path: Path, crowd: tuple[Matrix, Matrix]) -> None:
    vectors, queries = crowd
    path = tmp_path / f"größe{kind.SUFFIX}"
    index: VectorIndex = kind.build(vectors)
    index.save(path)
    loaded = open_index(path)
    assert type(loaded) is kind
    assert (loaded.size, loaded.dimension) == vectors.shape
    for built, mapped in zip(index.search(queries, 12), loaded.search(queries, 12), strict=True):
        np.testing.assert_array_equal(built, mapped)
    assert type(loaded.search(queries, 12)[0]) is np.ndarray
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


@KINDS
def test_saving_over_the_file_that_is_mapped(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / f"a{kind.SUFFIX}"
    kind.build(np.eye(700, dtype=np.float32)).save(path)
    loaded = kind.load(path)
    kind.build(np.eye(700, dtype=np.float32)[:1]).save(path)
    assert loaded.search(np.eye(700, dtype=np.float32)[690:], 1)[1].ravel().tolist() == list(range(690, 700))
    loaded.save(path)
    assert kind.load(path).size == 700


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@KINDS
def test_loading_maps_the_file(kind: Kind, tmp_path: Path) -> None:
    path = tmp_path / f"mapped{kind.SUFFIX}"
    kind.build(np.eye(64, dtype=np.float32)).save(path)
    index = kind.load(path)
    assert index.size == 64
    assert str(path) in Path("/proc/self/maps").read_text(encoding="utf-8")


@KINDS
@pytest.mark.parametrize(
    ("queries", "k", "message"),
    [
        (np.ones((1, 3), np.float32), 1, "queries of dimension 3 do not fit an index of dimension 4"),
        (np.ones(4, np.float32), 1, r"queries must be a matrix \[n, dimension\], got an array of shape \(4,\)"),
        (np.array([[0, np.nan, 0, 0]], np.float32), 1, "queries hold NaN or infinities"),
        (np.array([[0, np.inf, 0, 0]], np.float32), 1, "queries hold NaN or infinities"),
        (np.ones((1, 4), np.float32), 0, "k must be at least 1"),
        (np.ones((1, 4), np.float32), -2, "cannot search for the -2 nearest"),
    ],
)
def test_search_refuses(kind: Kind, queries: Matrix, k: int, message: str) -> None:
    index = kind.build(np.eye(4, dtype=np.float32))
    with pytest.raises(ValueError, match=message):
        index.search(queries, k)


@KINDS
@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones(4, np.float32), r"vectors must be a matrix \[n, dimension\], got an array of shape \(4,\)"),
        (np.ones((3, 0), np.float32), r"got an array of shape \(3, 0\)"),
        (np.array([[1, 0], [np.nan, 0]], np.float32), "vectors hold NaN or infinities"),
    ],
)
def test_build_refuses(kind: Kind, vectors: Matrix, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind.build(vectors)


@KINDS
def test_build_takes_any_layout(kind: Kind) -> None:
    columns = np.asfortranarray(np.eye(5)[::-1])
    assert kind.build(columns).search(np.eye(5), 1)[1].ravel().tolist() == [4, 3, 2, 1, 0]  # type: ignore[arg-type]


@KINDS
def test_a_file_that_is_not_there(kind: Kind, tmp_path: Path) -> None:
    with pytest.raises(IndexMissingError, match=r"does not exist; run `provenance index` to build it"):
        open_index(tmp_path / f"none{kind.SUFFIX}")


def test_an_unknown_suffix(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"suffix '.bin'; expected .npy or .faiss"):
        open_index(tmp_path / "index.bin")


@KINDS
def test_a_file_cut_short_anywhere_is_refused(kind: Kind, tmp_path: Path) -> None:
    path, cut = tmp_path / f"whole{kind.SUFFIX}", tmp_path / f"cut{kind.SUFFIX}"
    kind.build(np.eye(5, dtype=np.float32)).save(path)
    raw = path.read_bytes()
    for length in range(len(raw)):
        cut.write_bytes(raw[:length])
        with pytest.raises(StoreCorruptError, match=r"is not a readable vector index: .*; run `provenance index`"):
            open_index(cut)


@KINDS
@given(st.data())
@settings(max_examples=150)
def test_a_damaged_header_is_refused_or_harmless(
    kind: Kind, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.getbasetemp() / f"damaged{kind.SUFFIX}"
    kind.build(np.eye(3, dtype=np.float32)).save(path)
    raw = bytearray(path.read_bytes())
    for at in data.draw(st.lists(st.integers(0, len(raw) - 37), min_size=1, max_size=3)):
        raw[at] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(raw))
    try:
        index = open_index(path)
    except StoreCorruptError:
        return
    assert index.search(np.zeros((1, index.dimension), np.float32), 1)[0].shape == (1, min(1, index.size))


def test_a_matrix_of_another_type_is_refused(tmp_path: Path) -> None:
    for array in (np.eye(3), np.ones(3, np.float32), np.zeros((3, 0), np.float32), np.array([[{}]], dtype=object)):
        np.save(tmp_path / "other.npy", array, allow_pickle=True)
        with pytest.raises(StoreCorruptError, match="is not a readable vector index"):
            open_index(tmp_path / "other.npy")


def test_a_faiss_index_of_another_type_is_refused(tmp_path: Path) -> None:
    import faiss

    faiss.write_index(faiss.IndexFlatL2(4), str(tmp_path / "other.faiss"))
    with pytest.raises(StoreCorruptError, match="does not begin as a FAISS IndexFlatIP does"):
        open_index(tmp_path / "other.faiss")


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (0, 0, "does not begin"),  # kind
        (4, 5, "announces 3 vectors of dimension 5"),
        (8, 4, "announces 4 vectors of dimension 3"),
        (15, 255, "announces -"),
        (32, 2, "does not begin"),  # trained
        (33, 1, "does not begin"),  # metric: 0 is the inner product
        (37, 10, "its length says otherwise"),
    ],
)
def test_every_field_of_a_faiss_header_is_checked(tmp_path: Path, offset: int, value: int, message: str) -> None:
    path = tmp_path / "damaged.faiss"
    FlatIndex.build(np.eye(3, dtype=np.float32)).save(path)
    raw = bytearray(path.read_bytes())
    raw[offset] = value
    path.write_bytes(bytes(raw))
    with pytest.raises(StoreCorruptError, match=message):
        open_index(path)


def test_importing_the_module_does_not_import_faiss() -> None:
    code = (
        "import sys; from provenance.indexer import signature, vectors; "
        "print(sorted({'faiss', 'torch', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

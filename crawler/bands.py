"""Planned ranges in, the bands of matrices out, each once all of its bytes are read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from provenance.crawler.formats.packing.packed import Bytes
from provenance.crawler.plan import ByteRange, MatrixPlan
from provenance.schemas.protocols import TensorReader


def read_bands(
    reader: TensorReader, ranges: Mapping[str, Sequence[ByteRange]]
) -> Iterator[tuple[MatrixPlan, tuple[int, int], list[Bytes]]]:
    """Read planned ranges, file after file.

    A band of a matrix that is stored as it is has one span, and is complete at once. The bytes of a packed one wait
    for those of its scales.

    Yields:
        the matrix, the band as an interval of its stored rows, and the bytes of `MatrixPlan.spans`.

    Raises:
        CheckpointError: a file is shorter than its header says, or cannot be read.
    """
    waiting: dict[tuple[int, tuple[int, int]], dict[int, Bytes]] = {}
    for path, planned in ranges.items():
        for read, data in zip(planned, reader.read(path, [(r.start, r.stop) for r in planned]), strict=True):
            view = memoryview(data)
            for piece in read.pieces:
                own = view[piece.start - read.start : piece.stop - read.start]
                if piece.of == 1:
                    yield piece.plan, piece.rows, [own]
                    continue
                spans = waiting.setdefault((id(piece.plan), piece.rows), {})
                spans[piece.index] = bytes(own)  # a view would keep the whole range in memory
                if len(spans) == piece.of:
                    del waiting[id(piece.plan), piece.rows]
                    yield piece.plan, piece.rows, [spans[i] for i in range(piece.of)]

"""Map the rows of a logical matrix to rows of the stored matrix."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from provenance.schemas.tensors import OutputRows


@lru_cache(maxsize=32)
def rows_index(rows: OutputRows) -> NDArray[np.int64]:
    """The stored output row of every logical row.

    Meta stores the rows of a query or key head as `(i, half)`: the two rows of a rotary frequency are adjacent. Hugging
    Face checkpoints store them as `(half, i)`, which is the logical order here: logical row `half * n/2 + i` of a head
    of `n` rows is stored row `2 * i + half` (`permute` in transformers' convert_llama_weights_to_hf).

    Returns:
        `[rows.count]`: stored row (column, for a transposed matrix) of logical row 0, 1, …; read-only.

    Raises:
        ValueError: the rows are not a whole number of rotary heads with an even number of rows.
    """
    groups = rows.start + rows.stride * np.arange(rows.groups, dtype=np.int64)
    index = (groups[:, None] + np.arange(rows.size, dtype=np.int64)).reshape(-1)
    if rows.rotary_head:
        if rows.rotary_head < 0 or rows.rotary_head % 2 or rows.count % rows.rotary_head:
            raise ValueError(f"{rows.count} rows are no whole number of rotary heads of {rows.rotary_head} rows")
        index = index.reshape(-1, rows.rotary_head // 2, 2).swapaxes(1, 2).reshape(-1)
    index.flags.writeable = False
    return index

"""Arrays of the index, memory-mapped and checked."""

from __future__ import annotations

from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


def map_array(path: Path, dtype: DTypeLike) -> NDArray[Any]:
    """Map a `.npy` file of this dtype.

    Raises:
        OSError, ValueError: it is missing, truncated, or contains something else.
    """
    try:
        array = np.lib.format.open_memmap(path, mode="r")
    except (TypeError, OverflowError, SyntaxError, TokenError) as error:  # numpy raises these on a malformed header
        raise ValueError(f"{path.name}: {error}") from error
    if array.dtype != dtype:
        raise ValueError(f"{path.name} holds {array.dtype}, not {np.dtype(dtype)}")
    return array

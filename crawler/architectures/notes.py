"""Why tensors that look like projections have no role, in a few readable lines."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field

from provenance.crawler.architectures.fused import Unresolved
from provenance.crawler.formats.dtypes import BLOCKS
from provenance.crawler.formats.packing.packed import PackedEntry
from provenance.schemas.tensors import TensorEntry

_FLOAT_DTYPES = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})

_MAX_NOTES = 50
_MAX_NAME = 120

_LOOK_ALIKE = re.compile(
    r"(?:^|[._])(?:[qkvo]|qkv|wq|wk|wv|wo|wqkv|Wqkv|W_pack|to_[qkv]|[qkv]_lin|(?:q|k|v|o|qkv)_(?:proj|attn)|query|key|value"
    r"|query_key_value|c_attn|kv_[ab]_proj\w*|q_[ab]_proj|in_proj|in_proj_weight|gate_up_proj)(?:\.(?:weight|qweight|weight_packed))?$"
)


def holds_weights(entry: TensorEntry) -> bool:
    """Whether a tensor's numbers are weights: floats, blocks of a matrix, or codes with all that unpacks them."""
    if isinstance(entry, PackedEntry):
        return True
    return entry.dtype in _FLOAT_DTYPES or (entry.dtype in BLOCKS and len(entry.shape) > 1)


@dataclass(slots=True)
class Notes:
    """Reasons why tensors named like projections stayed `other`, one line for all layers and experts that share it."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    wants_config: bool = False

    def add(self, name: str, gap: Unresolved) -> None:
        """Note a reason for one tensor."""
        self.wants_config |= gap.config
        # The name is untrusted: digits are replaced, control characters escaped, the length limited.
        pattern = re.sub(r"[0-9]+", "*", name[:_MAX_NAME]).encode("unicode_escape").decode("ascii")
        self.counts[pattern, gap.reason] += 1

    def add_look_alike(self, entry: TensorEntry) -> None:
        """Note a matrix that is in no table, if its name ends like that of a projection."""
        if len(entry.shape) >= 2 and _LOOK_ALIKE.search(entry.name[-_MAX_NAME:]):
            reason = "no table knows this name" if holds_weights(entry) else "packed or integer values"
            self.add(entry.name, Unresolved(reason))

    def lines(self) -> tuple[str, ...]:
        """At most 50 sentences and a count of the rest."""
        lines = [
            f"{name}: {reason}" + (f" ({n} tensors)" if n > 1 else "") for (name, reason), n in self.counts.items()
        ]
        left = len(lines) - _MAX_NOTES
        return tuple(lines if left <= 0 else [*lines[:_MAX_NOTES], f"and {left} more kinds of tensors"])

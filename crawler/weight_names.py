"""How weight files are named, format by format, and which of several standard names is preferred."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

INDEXED, ADAPTER, OTHER = 2, 4, 5
"""Ranks of sets of files; those without a standard name are indexed or other. The lowest rank is preferred."""

_SHARD = r"(?:-(?P<number>\d{5,6})-of-(?P<total>\d{5,6}))?"


@dataclass(frozen=True, slots=True)
class Format:
    """How the weight files of one format are named.

    Attributes:
        name: for messages.
        ranks: standard names, and which of them are preferred: those of the lowest number.
        names: patterns of weight files, the first that matches is used.
        index: pattern of shard indexes.
        state: pattern of files of the same ending that hold no weights; null for none.
    """

    name: str
    ranks: Mapping[str, int]
    names: tuple[re.Pattern[str], ...]
    index: re.Pattern[str]
    state: re.Pattern[str] | None = None

    def match(self, name: str) -> re.Match[str] | None:
        """The parts of the name of a weight file; null for other files."""
        if self.state is not None and self.state.match(name):
            return None
        return next((m for pattern in self.names if (m := pattern.fullmatch(name))), None)


def _format(name: str, main: str, ending: str, state: str | None = None) -> Format:
    end = rf"\.(?P<ending>{ending})"
    standard = f"{main}|diffusion_pytorch_model|adapter_model"
    return Format(
        name,
        {main: 0, "diffusion_pytorch_model": 1, "consolidated": 3, "adapter_model": ADAPTER},
        (  # only standard names have variants: `sd_xl_base_1.0` is a name, not variant `0`
            re.compile(rf"(?P<stem>{standard})(?:\.(?P<variant>[^.]+?))?{_SHARD}(?:\.(?P<late>[^.]+))?{end}"),
            re.compile(rf"(?P<stem>consolidated)\.(?P<number>\d{{1,6}}){end}"),
            re.compile(rf"(?P<stem>.+?){_SHARD}{end}"),
        ),
        re.compile(rf"(?P<stem>.+){end}\.index(?:\.(?P<variant>[^.]+))?\.json"),
        re.compile(state) if state else None,
    )


SAFETENSORS = _format("safetensors", "model", "safetensors")
PYTORCH = _format(
    "PyTorch",
    "pytorch_model",
    "bin|pt|pth",
    state=r"training_args|optimizer|scheduler|scaler|rng_state|random_states|.*optim_states",
)
FORMATS = (SAFETENSORS, PYTORCH)

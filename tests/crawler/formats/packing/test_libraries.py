"""Matrices packed by bitsandbytes, compressed-tensors, torchao and MLX: read as these libraries read them themselves.

`tools/make_packed_fixtures.py` wrote the files.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from provenance.crawler.formats.header import read_header
from provenance.crawler.formats.packing.packed import PackedEntry
from provenance.crawler.formats.packing.recognise import unpack
from provenance.crawler.local.reader import LocalReader

FOLDER = Path(__file__).with_name("libraries")
FACTS = json.loads((FOLDER / "facts.json").read_text())
IN_16_BITS = {"ct-nvfp4"}
"""Where the library gives weights in bfloat16."""


@pytest.mark.parametrize("name", FACTS)
def test_weights_are_those_that_the_library_reads(name: str) -> None:
    wanted = load_file(FOLDER / "weights.safetensors")[name]
    with LocalReader(FOLDER, FOLDER) as reader:
        stored = [
            entry
            for entry in read_header(reader, "packed.safetensors", "x").entries
            if entry.name.startswith(f"{name}.")
        ]
        found = unpack(stored, {"quantization_config": FACTS[name]}, reader)
        (entry,) = [entry for entry in found.entries if isinstance(entry, PackedEntry)]
        assert entry.name == f"{name}.weight"
        assert entry.shape == wanted.shape
        for low, high in ((0, 16), (3, 11)):
            spans = entry.packing.spans(low, high)
            data = [next(iter(reader.read(span.file, [(span.start, span.stop)]))) for span in spans]
            rounding = 2.0**-8 if name in IN_16_BITS else 1e-6
            error = np.abs(entry.packing.rows(low, high, data) - wanted[low:high])
            assert error.max() <= rounding * np.abs(wanted).max()

"""What the metadata of a GGUF file says of the model: facts for the roles, its packing, and whom it comes from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace

from provenance.crawler.formats.dtypes import BLOCKS
from provenance.crawler.formats.gguf import Value
from provenance.crawler.metadata import metadata_from_listing, with_declared
from provenance.schemas.errors import SkippedCheckpoint, WeightsError
from provenance.schemas.records import RepoMetadata
from provenance.schemas.tensors import TensorEntry

FILE_TYPES = {
    2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S", 12: "Q3_K_M", 13: "Q3_K_L",
    14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K", 19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S",
    22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL", 26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M",
    30: "IQ4_XS", 31: "IQ1_M", 36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4_MOE", 39: "NVFP4",
}  # fmt: skip
"""`general.file_type` -> name of the mix of block types, as `llama-quantize` spells it (`LlamaFileType` of gguf-py)."""

_NO_MODELS = ("mmproj", "imatrix")
_SOURCES = ("general.source.repo_url", "general.source.huggingface.repository")  # the second in files of 2023
_MAX_BASES = 16


def check_model(metadata: Mapping[str, Value], files: Sequence[str]) -> None:
    """Refuse a file that is not the weights of a model.

    Args:
        metadata: of the first file of a checkpoint.
        files: all files of the checkpoint.

    Raises:
        SkippedCheckpoint: it is an image projector or an importance matrix.
        WeightsError: the model has other files too.
    """
    kind, architecture = metadata.get("general.type"), metadata.get("general.architecture")
    if kind in _NO_MODELS or architecture == "clip":
        what = "a projector of images" if architecture == "clip" else f"of type {kind}"
        raise SkippedCheckpoint(f"{files[0]} is {what}, not a model")
    count = metadata.get("split.count", len(files))
    if type(count) is int and count > 0 and count != len(files):
        raise WeightsError(f"{files[0]} is one of {count:,} files of a model, of which {len(files)} are here")


def config_of(metadata: Mapping[str, Value], entries: Sequence[TensorEntry]) -> dict[str, object]:
    """The facts that a config.json would give, under its names; the architecture is llama.cpp's name.

    Counts of heads that differ between layers become the largest one, of key/value heads none.
    """
    architecture = metadata.get("general.architecture")

    def fact(name: str) -> Value | None:
        return metadata.get(f"{architecture}.{name}")

    heads, kv_heads = fact("attention.head_count"), fact("attention.head_count_kv")
    if isinstance(heads, tuple):
        heads = max((n for n in heads if isinstance(n, int)), default=None)
    if isinstance(kv_heads, tuple):
        kv_heads = kv_heads[0] if len(set(kv_heads)) == 1 else None
    return {
        "model_type": architecture,
        "hidden_size": fact("embedding_length"),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "quantization_config": {"quant_method": _packing(metadata, entries)},
    }


def _packing(metadata: Mapping[str, Value], entries: Sequence[TensorEntry]) -> str | None:
    """The mix of block types that the file names, else the one of most weights; null for a file without any."""
    blocks: Counter[str] = Counter()
    for entry in entries:
        if entry.dtype in BLOCKS:
            blocks[entry.dtype] += entry.n_elements
    if not blocks:
        return None
    file_type = metadata.get("general.file_type")
    return (FILE_TYPES.get(file_type) if isinstance(file_type, int) else None) or blocks.most_common(1)[0][0]


def card_of(metadata: Mapping[str, Value]) -> dict[str, object]:
    """What the file declares, as a model card would: `license`, and `base_model` as a list of addresses of repos.

    The base models are the model that was converted, where the file names it, and then what that was made from.
    """
    count = metadata.get("general.base_model.count")
    bases = range(min(count, _MAX_BASES) if isinstance(count, int) else 0)
    keys = [f"general.base_model.{i}.repo_url" for i in bases]
    addresses = [metadata.get(key) for key in (*_SOURCES, *keys)]
    return {
        "license": metadata.get("general.license"),
        "base_model": [address for address in addresses if isinstance(address, str)],
    }


def with_declarations(listed: RepoMetadata, metadata: Mapping[str, Value], repo_id: str) -> RepoMetadata:
    """What was listed of a repo, completed by what its file declares: parents after those listed, a missing license."""
    own = metadata_from_listing({"id": repo_id, "cardData": card_of(metadata)})
    found = with_declared(listed, repo_id, own.declared_parents or ())
    return replace(found, license=listed.license or own.license, notes=(*listed.notes, *own.notes))

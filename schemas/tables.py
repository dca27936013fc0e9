"""One Arrow schema per table, with a description of each column: the only source of columns.

`lineage` and every other table name here is also the name of the SQL view over it.
"""

from __future__ import annotations

from functools import cache

import pyarrow as pa

STRING, INT, FLOAT, BOOL = pa.string(), pa.int64(), pa.float64(), pa.bool_()
TIME = pa.timestamp("us", tz="UTC")
STRINGS = pa.list_(STRING)

FORMAT_VERSION = 3
"""Version of the store's layout and columns, written into the store's FORMAT file."""

READ_FORMATS = (2, 3)
"""Versions that are read. One of format 2 has no table `products`; the first change of it makes it one of format 3."""

FINGERPRINT_VERSION = 1
"""Version of what a fingerprint holds; part of its key."""

SAMPLE_ENTRY = pa.struct(
    [
        pa.field("stack", STRING, nullable=False),
        pa.field("role", STRING, nullable=False),
        pa.field("layer", pa.int32()),
        pa.field("expert", pa.int32()),
        pa.field("shape", pa.list_(INT), nullable=False),
        pa.field("offset", pa.int32(), nullable=False),
        pa.field("count", pa.int32(), nullable=False),
        pa.field("exponent", pa.int32(), nullable=False),
    ]
)

_FINGERPRINT = ("fingerprint_id", STRING, "the fingerprint this row belongs to; visible once `checkpoints` contains it")
_CHECKPOINT = ("checkpoint_id", STRING, "repo_id@revision[:subfolder][#variant]")

_COLUMNS: dict[str, list[tuple[str, pa.DataType, str]]] = {
    "checkpoints": [
        _CHECKPOINT,
        (
            "fingerprint_id",
            STRING,
            "identifies one fingerprint; other tables join on it",
        ),
        ("repo_id", STRING, "owner/name on the hub, or the last two parts of the local path"),
        ("revision", STRING, "commit, 12 hex digits; for unlisted folders a digest of headers and sampled cells"),
        ("subfolder", STRING, "folder of the weights inside the repo, null at its root"),
        ("variant", STRING, "one of several files of the same weights (fp16, Q4_K_M), else null"),
        ("source", STRING, "hub or local"),
        ("author", STRING, "owner of the repo"),
        ("created_at", TIME, "creation of the repo, from the hub or listing.jsonl only"),
        ("last_modified", TIME, "last change of the repo, from the hub or listing.jsonl only"),
        ("downloads", INT, "downloads as listed"),
        ("likes", INT, "likes as listed"),
        ("license", STRING, "license as the card declares it"),
        ("gated", STRING, "false, auto or manual, as listed"),
        ("private", BOOL, "whether the repo is private"),
        ("pipeline_tag", STRING, "task as listed"),
        ("tags", STRINGS, "all tags as listed"),
        (
            "declared_parents",
            STRINGS,
            "repo ids that the card, the tags or the files name as base models, null where a card could not be read",
        ),
        ("declared_relation", STRING, "how the card says it was made from them (finetune, quantized, …)"),
        ("architecture", STRING, "first of config.json's architectures"),
        ("model_type", STRING, "config.json's model_type, or the general.architecture of a GGUF file"),
        ("n_layers", INT, "layers of the main stack"),
        ("hidden_size", INT, "width of the residual stream"),
        ("n_heads", INT, "query heads, null where unknown"),
        ("n_kv_heads", INT, "key/value heads, null where unknown"),
        ("n_parameters", INT, "elements of all floating-point tensors"),
        ("dtype", STRING, "dtype, packing, or block type of most of the elements"),
        (
            "quantization",
            STRING,
            "quantization method as config.json says or the tensors show, mix of block types of a GGUF file, else null",
        ),
        ("n_tensors", INT, "stored tensors"),
        ("n_files", INT, "weight files"),
        ("total_bytes", INT, "bytes of the weight files"),
        ("bytes_read", INT, "bytes of weight files read for this fingerprint"),
        ("requests", INT, "reads made for this fingerprint"),
        ("mode", STRING, "full (every weight read) or sampled (planned bands)"),
        ("sample_version", STRING, "version of the sampling scheme"),
        ("fingerprint_version", INT, "version of what a fingerprint holds"),
        ("fingerprinted_at", TIME, "when this fingerprint was made"),
        ("content_digest", STRING, "digest over the digests of all sampled tensors: equal for equal sampled weights"),
        ("resolved", INT, "tensors with a role"),
        ("unresolved", INT, "tensors without one"),
        ("adapter", BOOL, "an adapter (LoRA) without the weights it applies to"),
        (
            "notes",
            STRINGS,
            "what looks wrong, could not be read or was left out: card, shards, values, tensors; what an adapter is",
        ),
    ],
    "files": [
        _FINGERPRINT,
        _CHECKPOINT,
        ("path", STRING, "path inside the repo"),
        ("size", INT, "bytes"),
        ("sha256", STRING, "digest of the file, null where masked or unknown"),
        ("xet_hash", STRING, "the hub's storage hash, null where unknown"),
        ("resolved_revision", STRING, "full commit that the file was read at"),
    ],
    "tensors": [
        _FINGERPRINT,
        _CHECKPOINT,
        ("name", STRING, "name of the stored tensor"),
        ("part", STRING, "part of a fused tensor (q, k, gate, …), null for a whole one; update: B·A of an adapter"),
        ("role", STRING, "what it does: q k v o gate up down …, other when unknown"),
        ("layer", INT, "0-based layer in its stack"),
        ("stack", STRING, "main for the stack that makes the curves, else its own name"),
        ("expert", INT, "0-based expert"),
        ("shape", pa.list_(INT), "logical shape, (out, in) for matrices"),
        ("dtype", STRING, "stored dtype, or packing (docs/formats.md)"),
        ("n_elements", INT, "elements"),
        ("n_read", INT, "elements read; 0 when not read"),
        ("mean", FLOAT, "mean of the finite elements read"),
        ("std", FLOAT, "population standard deviation"),
        ("std_error", FLOAT, "standard error of std; 0 when all was read"),
        ("skewness", FLOAT, "standardised third moment"),
        ("kurtosis", FLOAT, "standardised fourth moment (3 for a Gaussian)"),
        ("min", FLOAT, "smallest finite element read"),
        ("max", FLOAT, "largest finite element read"),
        ("n_nonfinite", INT, "NaN and infinities among the elements read"),
        ("digest", STRING, "digest of the canonical sample cells and dtype; null for constants and known buffers"),
    ],
    "samples": [
        _FINGERPRINT,
        _CHECKPOINT,
        ("sample_version", STRING, "version of the sampling scheme"),
        ("entries", pa.list_(SAMPLE_ENTRY), "position of each tensor's cells in `data`, and their exponent"),
        ("data", pa.binary(), "little-endian float16 values; a weight is value * 2**exponent"),
    ],
    "signatures": [
        _FINGERPRINT,
        _CHECKPOINT,
        ("spec", STRING, "names every parameter that changes a value (qkvo-std-z-64)"),
        ("vector", pa.list_(pa.float32()), "unit vector, or zero where nothing could be computed"),
    ],
    "products": [
        _FINGERPRINT,
        _CHECKPOINT,
        ("spec", STRING, "names the rule of the sketches (products-v1)"),
        ("anchors", pa.list_(INT), "ids of the tokens between which the products were sketched"),
        ("tokens", STRINGS, "their strings, null where no tokenizer.json was read"),
        ("layers", pa.list_(INT), "layers of the main stack"),
        ("vo", pa.binary(), "little-endian float16 [layers, anchors, anchors]: what attention writes of what it reads"),
        ("fu", pa.binary(), "the same of the feed-forward part; NaN for a layer without"),
        ("notes", STRINGS, "why something is missing"),
    ],
    "outcomes": [
        ("run_id", STRING, "the run"),
        ("source", STRING, "hub or local"),
        ("repo_id", STRING, "the repo or folder"),
        ("revision", STRING, "its revision, null where not known"),
        ("status", STRING, "done, skipped or failed"),
        ("stage", STRING, "where it stopped"),
        ("error", STRING, "kind of error"),
        ("reason", STRING, "cause in one word: gated, disabled, no-weights, malformed, network, …; null where done"),
        ("message", STRING, "what happened, in one line"),
        ("attempts", INT, "failed attempts in a row, including this one; 1 where done"),
        ("next_attempt_at", TIME, "when to try again, null for not before the repo changes"),
        ("bytes_read", INT, "bytes read"),
        ("requests", INT, "reads made"),
        ("seconds", FLOAT, "wall time"),
        ("at", TIME, 'when it ended (a reserved word of SQL: write "at")'),
    ],
    "runs": [
        ("run_id", STRING, "identifies the run; it has a row from its start and, unless killed, one from its end"),
        ("started_at", TIME, "start"),
        ("finished_at", TIME, "end; null while it runs or when it was killed"),
        ("source", STRING, "what was crawled"),
        ("arguments", STRING, "arguments as JSON"),
        ("listed", INT, "checkpoints listed"),
        ("fingerprinted", INT, "checkpoints fingerprinted"),
        ("skipped", INT, "checkpoints skipped"),
        ("failed", INT, "checkpoints failed"),
        ("bytes_read", INT, "bytes read"),
        ("api_requests", INT, "API requests"),
        ("resolve_requests", INT, "resolve requests"),
        ("range_requests", INT, "ranged reads"),
        ("waited", FLOAT, "total seconds that its workers waited for the hub's budgets"),
        ("budgets", STRING, "the hub's budgets as it reported them, as JSON: quota and window (seconds) by resource"),
        ("listing", STRING, "which listing of which hub was crawled, as JSON; null where none was"),
        (
            "watermark",
            TIME,
            "every repo of the listing that changed before it was crawled or tried; null where not all were",
        ),
        ("stopped", STRING, "why it ended early, null where it did not"),
    ],
    "lineage": [
        ("child", STRING, "repo id of the child"),
        ("parent", STRING, "repo id of the parent"),
        ("child_id", STRING, "checkpoint id of the child, null where not stored"),
        ("parent_id", STRING, "checkpoint id of the parent, null where not stored"),
        ("rank", INT, "place among the child's candidates; the first ancestor is the most direct"),
        ("relation", STRING, "finetune, merge, quantized, …"),
        ("verdict", STRING, "derived, related, unrelated or inconclusive; null where never compared"),
        ("direction", STRING, "parent, child, sibling or unknown, as seen from the child"),
        ("probability", FLOAT, "1 - local false discovery rate"),
        ("p_value", FLOAT, "combined p-value of the weight evidence"),
        ("p_adjusted", FLOAT, "corrected over the store size"),
        ("log10_p", FLOAT, "log10 of p_value where a float underflows"),
        ("score", FLOAT, "strength of the weight evidence, 0 to 1"),
        ("merge_weight", FLOAT, "weight of the parent in a merge, null elsewhere"),
        ("declared", BOOL, "the child's card names the parent"),
        (
            "undeclared",
            BOOL,
            "the weights show it and the card names no ancestor; null where the card could not be read",
        ),
        ("contradicted", BOOL, "the card names the parent and the weights contradict it"),
        ("child_license", STRING, "license of the child"),
        ("parent_license", STRING, "license of the parent"),
        ("license_differs", BOOL, "whether they differ, whatever their spelling; null where one is not known"),
        ("evidence", STRING, "the lines of evidence as JSON"),
        ("detected_at", TIME, "when this was computed"),
    ],
    "tombstones": [
        ("repo_id", STRING, "a repo that was taken out of the store"),
        ("forgotten_at", TIME, "when; what was fingerprinted before is gone, and listings pass over the repo"),
    ],
    "verdicts": [
        _CHECKPOINT,
        ("fingerprint_id", STRING, "the fingerprint that was examined"),
        ("repo_id", STRING, "its repo"),
        ("verdict", STRING, "derived, no-parent-found or inconclusive"),
        ("n_candidates", INT, "stored checkpoints it was compared with"),
        ("examined_at", TIME, "when"),
    ],
}

TABLES = tuple(_COLUMNS)
FINGERPRINT_TABLES = ("files", "tensors", "samples", "signatures", "products")
"""Tables whose rows are visible only once `checkpoints` holds their fingerprint_id."""

LATER_TABLES = ("products",)
"""Tables that stores of the earlier `READ_FORMATS` lack."""


@cache
def schema(table: str) -> pa.Schema:
    """The Arrow schema of a table; each field has its description under the metadata key `doc`."""
    return pa.schema(
        [pa.field(name, kind, metadata={"doc": doc}) for name, kind, doc in _COLUMNS[table]],
    )


def empty(table: str) -> pa.Table:
    """A table without rows."""
    return schema(table).empty_table()


def from_rows(table: str, rows: list[dict[str, object]]) -> pa.Table:
    """Rows as an Arrow table; columns that a row lacks are null."""
    return pa.Table.from_pylist(rows, schema=schema(table))

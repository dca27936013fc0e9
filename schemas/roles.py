"""The role vocabulary: what a tensor does in a transformer.

The order of `ROLES` is part of the store's format (`ROLE_CODE` is written into the memory-mapped
dossiers): append, never reorder.
"""

from __future__ import annotations

ROLES = (
    "other",
    "q",
    "k",
    "v",
    "o",
    "gate",
    "up",
    "down",
    "attn_norm",
    "ffn_norm",
    "final_norm",
    "q_bias",
    "k_bias",
    "v_bias",
    "embed",
    "lm_head",
    "router",
    "q_a",
    "q_b",
    "kv_a",
    "kv_b",
)
ROLE_CODE = {role: code for code, role in enumerate(ROLES)}

ATTENTION = ("q", "k", "v", "o")
"""The four projections whose standard deviations make the published curves."""

LATENT_ATTENTION = ("q_a", "q_b", "kv_a", "kv_b")
FEED_FORWARD = ("gate", "up", "down")
LAYER_MATRICES = ATTENTION + LATENT_ATTENTION + FEED_FORWARD
"""Matrices inside a layer: the only ones whose sampled weights may convict."""

LAYER_VECTORS = ("attn_norm", "ffn_norm", "q_bias", "k_bias", "v_bias")
VECTORS = (*LAYER_VECTORS, "final_norm")

MAIN_STACK = "main"
"""Name of the stack of layers that makes the curves; others carry their own (`vision`, `encoder`, …)."""

"""The role vocabulary: what a tensor does in a transformer.

The order of the roles is part of the store's format (`ROLE_CODE` is written into the memory-mapped
dossiers): append, never reorder.
"""

from __future__ import annotations

from enum import StrEnum


class Role(StrEnum):
    """What a tensor does. `A` and `B` are the two factors of a low-rank projection: down to the latent, up from it."""

    OTHER = "other"
    """None of the roles below, or not known."""
    QUERY = "q"
    KEY = "k"
    VALUE = "v"
    OUTPUT = "o"
    GATE = "gate"
    UP = "up"
    DOWN = "down"
    ATTENTION_NORM = "attn_norm"
    FEED_FORWARD_NORM = "ffn_norm"
    FINAL_NORM = "final_norm"
    QUERY_BIAS = "q_bias"
    KEY_BIAS = "k_bias"
    VALUE_BIAS = "v_bias"
    EMBEDDING = "embed"
    HEAD = "lm_head"
    ROUTER = "router"
    QUERY_A = "q_a"
    QUERY_B = "q_b"
    KEY_VALUE_A = "kv_a"
    KEY_VALUE_B = "kv_b"


ROLES = tuple(Role)
ROLE_BY_NAME: dict[str, Role] = {role.value: role for role in ROLES}
"""For many look-ups: three times as fast as `Role(name)`, and `get` returns null for an unknown name."""

ROLE_CODE: dict[Role, int] = {role: code for code, role in enumerate(ROLES)}

ATTENTION = (Role.QUERY, Role.KEY, Role.VALUE, Role.OUTPUT)
"""The four projections whose standard deviations make the published curves."""

LATENT_ATTENTION = (Role.QUERY_A, Role.QUERY_B, Role.KEY_VALUE_A, Role.KEY_VALUE_B)
FEED_FORWARD = (Role.GATE, Role.UP, Role.DOWN)
LAYER_MATRICES = ATTENTION + LATENT_ATTENTION + FEED_FORWARD
"""Matrices inside a layer: the only ones whose sampled weights may convict."""

LAYER_VECTORS = (Role.ATTENTION_NORM, Role.FEED_FORWARD_NORM, Role.QUERY_BIAS, Role.KEY_BIAS, Role.VALUE_BIAS)
VECTORS = (*LAYER_VECTORS, Role.FINAL_NORM)

MAIN_STACK = "main"
"""Name of the stack of layers that makes the curves; others have their own (`vision`, `encoder`, …)."""

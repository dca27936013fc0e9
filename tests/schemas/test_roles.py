"""Codes and names of the roles are part of the store's format: they never change, and new ones come last."""

from __future__ import annotations

import json

import pytest

from provenance.schemas.roles import (
    ATTENTION,
    FEED_FORWARD,
    LATENT_ATTENTION,
    LAYER_MATRICES,
    ROLE_BY_NAME,
    ROLE_CODE,
    ROLES,
    VECTORS,
    Role,
)

STORED = (
    *("other", "q", "k", "v", "o", "gate", "up", "down", "attn_norm", "ffn_norm", "final_norm"),
    *("q_bias", "k_bias", "v_bias", "embed", "lm_head", "router", "q_a", "q_b", "kv_a", "kv_b"),
)


def test_names_and_codes_are_those_that_stores_hold() -> None:
    assert tuple(role.value for role in ROLES[: len(STORED)]) == STORED
    assert [ROLE_CODE[role] for role in ROLES] == list(range(len(ROLES)))
    assert {code: role.value for role, code in ROLE_CODE.items()} == dict(enumerate(ROLES))


def test_a_role_is_its_name_wherever_it_is_written_or_looked_up() -> None:
    for name in STORED:
        role = ROLE_BY_NAME[name]
        assert role is Role(name)
        assert (f"{role}", str(role), json.dumps({role: role})) == (name, name, f'{{"{name}": "{name}"}}')
        assert ROLE_CODE[name] == STORED.index(name)
    assert "output_gate" not in ROLE_BY_NAME
    with pytest.raises(ValueError, match="output_gate"):
        Role("output_gate")


def test_every_role_in_a_layer_is_in_one_group() -> None:
    groups = (ATTENTION, LATENT_ATTENTION, FEED_FORWARD, VECTORS)
    assert sum(map(len, groups)) == len({role for group in groups for role in group})
    assert {*LAYER_MATRICES, *VECTORS} == {*ROLES} - {Role.OTHER, Role.EMBEDDING, Role.HEAD, Role.ROUTER}

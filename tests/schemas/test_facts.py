"""Sets of facts: exact on numbers, and 64 bits for values of any kind."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from provenance.schemas.facts import FactSet, fact


@given(facts=st.lists(st.integers(0, 2**64 - 1)), others=st.lists(st.integers(0, 2**64 - 1)))
def test_facts_are_a_set(facts: list[int], others: list[int]) -> None:
    known = FactSet()
    for number, one in enumerate(facts):
        known.add(one)
        if number % 3 == 0:
            known.sort()
    assert all(one in known for one in facts)
    assert [other in known for other in others] == [other in set(facts) for other in others]


def test_a_large_set_sorts_itself() -> None:
    known = FactSet()
    for number in range(0, 400_000, 2):
        known.add(number)
    assert len(known._newest) < 70_000
    assert all((number in known) is (number % 2 == 0) for number in range(0, 400_000, 7))


@given(parts=st.lists(st.text(st.characters(exclude_characters="\0")), min_size=1))
def test_facts_tell_values_apart(parts: list[str]) -> None:
    assert fact(*parts) == fact(*parts)
    assert 0 <= fact(*parts) < 2**64
    assert fact(*parts) != fact(*parts, "")
    assert fact(*parts) != fact(*parts[:-1], parts[-1] + "x")

"""Trees show every repo of a family: copies and mutual declarations as groups, cycles once."""

from __future__ import annotations

from provenance.query.lineage.forest import Forest, label, to_dot
from provenance.schemas.enums import Direction, Relation, Verdict
from provenance.schemas.lineage import LineageRow


def derived(child: str, parent: str, rank: int = 1, *, undeclared: bool | None = False) -> LineageRow:
    return LineageRow(
        child,
        parent,
        child,
        rank=rank,
        relation=Relation.FINETUNE,
        verdict=Verdict.DERIVED,
        direction=Direction.PARENT,
        undeclared=undeclared,
    )


def related(child: str, parent: str, relation: Relation, *, declared: bool = False) -> LineageRow:
    return LineageRow(
        child,
        parent,
        child,
        relation=relation,
        verdict=Verdict.RELATED,
        direction=Direction.UNKNOWN,
        declared=declared,
    )


def both(a: str, b: str, relation: Relation, *, declared: bool = False) -> list[LineageRow]:
    return [related(a, b, relation, declared=declared), related(b, a, relation, declared=declared)]


def drawn(forest: Forest) -> list[str]:
    lines = []
    for top in forest.roots():
        lines.append(forest.title(top))
        lines += [f"{'  ' * depth}{forest.title(e.child)}: {label(e)}" for depth, e in forest.walk(top)]
    return lines


def test_copies_are_one_node_with_the_children_of_all() -> None:
    rows = [
        *both("b", "a", Relation.IDENTICAL),
        *both("b", "c", Relation.IDENTICAL),
        derived("kid", "b"),
        derived("x", "c"),
    ]
    forest = Forest(rows)
    assert drawn(forest) == [
        "a = b = c  (the same weights; who was first is not known)",
        "  kid: finetune",
        "  x: finetune",
    ]
    assert (forest.node("c"), forest.repos("a"), forest.repos("kid")) == ("a", ("a", "b", "c"), ("kid",))
    assert forest.around("kid") == (["a"], frozenset({"a", "kid"}))
    assert '"a" [label="a = b = c  (the same' in to_dot(forest, forest.roots(), None)


def test_a_group_without_children_is_shown_too() -> None:
    assert drawn(Forest(both("a", "b", Relation.IDENTICAL))) == [
        "a = b  (the same weights; who was first is not known)"
    ]


def test_cards_that_name_each_other_are_a_group() -> None:
    rows = [
        *both("a", "b", Relation.FINETUNE, declared=True),
        derived("a", "root"),
        derived("b", "root"),
        derived("kid", "b"),
    ]
    assert drawn(Forest(rows)) == [
        "root",
        "  a <-> b  (each card names another; who was first is not known): finetune",
        "    kid: finetune",
    ]


def test_relatives_of_unknown_order_are_no_group() -> None:
    rows = [*both("a", "b", Relation.FINETUNE), related("a", "c", Relation.FINETUNE, declared=True)]
    assert drawn(Forest(rows)) == []


def test_a_cycle_is_shown_and_ends() -> None:
    forest = Forest([derived("a", "b"), derived("b", "a"), derived("kid", "b", undeclared=None)])
    assert drawn(forest) == [
        "a",
        "  b: finetune",
        "    a: finetune, a cycle: see above",
        "    kid: finetune, card not read",
    ]
    assert to_dot(forest, forest.roots(), None).count("->") == 3


def test_the_most_direct_ancestor_is_the_parent() -> None:
    assert drawn(Forest([derived("c", "b"), derived("c", "a", 2), derived("b", "a")])) == [
        "a",
        "  b: finetune",
        "    c: finetune",
    ]

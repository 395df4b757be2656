"""M2N2: items shared in an archive, and children that are mixed at one point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from evomerge.algorithms.m2n2 import M2N2
from evomerge.errors import ConfigError
from evomerge.space.base import Dimension

_GROUPS = ("early", "middle", "late")
_BOX = tuple(
    Dimension(name=f"weight.{expert}.{group}", low=0.0, high=1.0, initial=0.5, group=group)
    for expert in ("a", "b")
    for group in _GROUPS
)


def made(**options: Any) -> M2N2:
    return M2N2(_BOX, seed=3, population=4, step_size=0.2, options={"mutation": 0.0, **options})


@pytest.mark.parametrize(("competition", "leaves"), [(1.0, 2), (0.0, 0)])
def test_one_of_many_that_know_the_same_leaves_before_the_only_one_that_knows_something(
    competition: float, leaves: int
) -> None:
    algorithm = made(archive=2, competition=competition)
    # By shares: 1, 1/2 + 1, 1/2. By right answers: 1, 2, 1, and the first of equals leaves.
    items = np.array([[0, 0, 1], [1, 1, 0], [1, 0, 0]], dtype=float)
    asked = [algorithm.ask_one() for _ in items]
    for (number, genome), scores in zip(asked, items, strict=True):
        algorithm.tell_one(number, genome, np.array([scores.mean()]), scores)
    stay = [genome.tolist() for place, (_, genome) in enumerate(asked) if place != leaves]
    children = [algorithm.ask_one()[1] for _ in range(8)]
    low, high = np.min(stay, axis=0), np.max(stay, axis=0)
    # Without mutation a child lies between its parents.
    assert all(np.all((child >= low - 1e-12) & (child <= high + 1e-12)) for child in children)
    gone = asked[leaves][1]
    assert not np.all((gone >= low) & (gone <= high))


def test_a_child_has_one_share_before_its_point_and_the_other_after_it_in_all_of_a_group() -> None:
    algorithm = made(archive=2)
    asked = [algorithm.ask_one() for _ in range(2)]
    for (number, genome), scores in zip(asked, np.eye(2), strict=True):
        algorithm.tell_one(number, genome, np.array([0.5]), scores)
    first, second = (genome for _, genome in asked)
    points = set()
    for _ in range(40):
        share = (algorithm.ask_one()[1] - second) / (first - second)
        np.testing.assert_allclose(share[:3], share[3:], atol=1e-9)
        changes = [place for place in (1, 2) if not np.isclose(share[place], share[place - 1])]
        assert len(changes) <= 1
        assert all(np.isclose(share[place] + share[place - 1], 1.0) for place in changes)
        points |= set(changes)
    assert points == {1, 2}


def test_the_second_parent_is_strong_where_the_first_is_weak() -> None:
    algorithm = made(archive=3)
    asked = [algorithm.ask_one() for _ in range(3)]
    # Two that are alike, and one that knows the rest: alike never mate, as neither gains.
    items = np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=float)
    for (number, genome), scores in zip(asked, items, strict=True):
        algorithm.tell_one(number, genome, np.array([scores.mean()]), scores)
    other = asked[2][1]
    for _ in range(20):
        child = algorithm.ask_one()[1]
        lines = [(child - other) / (genome - other) for _, genome in asked[:2]]
        assert any(np.allclose(line[:3], line[3:], atol=1e-9) for line in lines)


@pytest.mark.parametrize(("options", "message"), [({"archive": 1}, "at least 2"), ({"mutation": 2.0}, "a share")])
def test_options_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        made(**options)

"""Which documents each role takes."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from evomerge.benchmark.splits import choose_items
from evomerge.config.benchmark import SplitConfig
from evomerge.errors import BenchmarkError

ROLES = ("search", "validation", "test")


def taken(fractions: list[float], contents: list[str], *, every: bool = True) -> dict[str, list[int]]:
    roles = {role: SplitConfig(fraction=fraction) for role, fraction in zip(ROLES, fractions, strict=True)}
    return choose_items(
        roles,
        dict.fromkeys(ROLES, "all"),
        {"all": contents},
        name="x",
        place="x.yaml",
        seed=3,
        drop=False,
        every=every,
    )


@given(
    parts=st.tuples(*[st.integers(1, 20)] * 3),
    # Some documents say the same, and then stay together.
    contents=st.lists(st.integers(0, 300).map(str), min_size=3, max_size=200),
)
def test_fractions_that_add_up_to_one_take_every_item_and_differ_from_earlier_releases_in_the_last_alone(
    parts: tuple[int, int, int], contents: list[str]
) -> None:
    fractions = [part / sum(parts) for part in parts]
    try:
        found = taken(fractions, contents)
    except BenchmarkError:
        assume(False)
    assert sorted(index for indices in found.values() for index in indices) == list(range(len(contents)))
    try:
        earlier = taken(fractions, contents, every=False)
    except BenchmarkError:
        return
    assert [earlier[role] for role in ROLES[:2]] == [found[role] for role in ROLES[:2]]
    assert set(earlier["test"]) <= set(found["test"])


def test_what_rounding_leaves_goes_to_the_last_split() -> None:
    contents = [str(number) for number in range(48)]
    assert [len(found) for found in taken([0.4, 0.3, 0.3], contents).values()] == [19, 14, 15]
    assert [len(found) for found in taken([0.4, 0.3, 0.3], contents, every=False).values()] == [19, 14, 14]
    assert [len(found) for found in taken([0.4, 0.3, 0.2], contents).values()] == [19, 14, 10]

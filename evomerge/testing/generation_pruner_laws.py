"""What every pruner that decides over whole generations must keep: one function per law, each taking its class.

```python
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_my_pruner(law):
    law(MyPruner)
```
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from evomerge.pruners.base import GenerationPruner, Round, Scores
from evomerge.testing.pruner_laws import (
    refuses_options_that_it_does_not_have,
    tells_each_its_own,
    tells_less_than_of_any_complete_candidate,
)

Law = Callable[[type[GenerationPruner]], None]

_SITUATIONS = 40


def decides_the_same_again(pruner: type[GenerationPruner]) -> None:
    """A decision depends on the scores alone: not on earlier questions, nor on which instance is asked."""
    one = pruner({})
    before = [one.survivors(*situation).tolist() for situation in _situations()]
    again = [one.survivors(*situation).tolist() for situation in reversed([*_situations()])]
    fresh = [pruner({}).survivors(*situation).tolist() for situation in _situations()]
    assert before == again[::-1] == fresh


def answers_for_each_candidate(pruner: type[GenerationPruner]) -> None:
    """There is a decision for each, and somebody always goes on."""
    for scores, at in _situations():
        going = pruner({}).survivors(scores, at)
        assert going.shape == (len(scores),)
        assert going.dtype == np.bool_
        assert going.any()


def never_stops_the_best_on_every_item(pruner: type[GenerationPruner]) -> None:
    """A candidate that no other beats on any item goes on."""
    for scores, at in _situations():
        best = np.vstack([scores, scores.max(axis=0)])
        assert pruner({}).survivors(best, at)[-1]


def candidates_have_no_order(pruner: type[GenerationPruner]) -> None:
    """In another order they get the same decisions, so equals share one: it doesn't matter who answered first."""
    generator = np.random.default_rng(1)
    for scores, at in _situations():
        order = generator.permutation(len(scores))
        assert np.array_equal(pruner({}).survivors(scores[order], at), pruner({}).survivors(scores, at)[order])


def items_have_no_order(pruner: type[GenerationPruner]) -> None:
    """Items in another order, the same for everybody, lead to the same decisions."""
    generator = np.random.default_rng(2)
    for scores, at in _situations():
        order = generator.permutation(scores.shape[1])
        assert np.array_equal(pruner({}).survivors(scores[:, order], at), pruner({}).survivors(scores, at))


def goes_by_differences(pruner: type[GenerationPruner]) -> None:
    """Items that are easier for everybody, and scores in another unit, change nothing."""
    generator = np.random.default_rng(3)
    for scores, at in _situations():
        easier = scores + generator.integers(0, 3, scores.shape[1])
        assert np.array_equal(pruner({}).survivors(4 * easier, at), pruner({}).survivors(scores, at))


def begun_again_ends_the_same(pruner: type[GenerationPruner]) -> None:
    """A generation that is broken off after any round, and gone through again from its answers, ends the same."""
    generator = np.random.default_rng(4)
    for _ in range(6):
        candidates, block = int(generator.integers(4, 17)), int(generator.choice([5, 10, 20]))
        scores = (generator.random((candidates, 6 * block)) < generator.random((candidates, 1))).astype(np.float64)
        at = Round(candidates=candidates, needed=candidates // 2, items=scores.shape[1])
        whole = _rounds(pruner, scores, at, block, range(candidates))
        order = generator.permutation(candidates).tolist()
        assert _rounds(pruner, scores, at, block, order) == whole


def leaves_its_arguments_alone(pruner: type[GenerationPruner]) -> None:
    """Scores are read only."""
    for scores, at in _situations():
        scores.setflags(write=False)
        pruner({}).survivors(scores, at)
        pruner({}).told([scores[0]], np.array([0.5]))


LAWS: tuple[Law, ...] = (
    decides_the_same_again,
    answers_for_each_candidate,
    never_stops_the_best_on_every_item,
    candidates_have_no_order,
    items_have_no_order,
    goes_by_differences,
    begun_again_ends_the_same,
    leaves_its_arguments_alone,
    tells_less_than_of_any_complete_candidate,
    tells_each_its_own,
    refuses_options_that_it_does_not_have,
)


def _rounds(
    pruner: type[GenerationPruner], scores: Scores, at: Round, block: int, order: range | list[int]
) -> dict[int, int]:
    """Blocks that each candidate answers, whichever order they stand in, with a new pruner for each round."""
    inside = [*order]
    answered = dict.fromkeys(inside, 0)
    for end in range(block, scores.shape[1] + 1, block):
        for candidate in inside:
            answered[candidate] = end // block
        if len(inside) > 1:
            going: NDArray[np.bool_] = pruner({}).survivors(scores[inside, :end], at)
            inside = [candidate for candidate, goes_on in zip(inside, going, strict=True) if goes_on]
    return answered


def _situations() -> Iterator[tuple[Scores, Round]]:
    """Generations: right or wrong, in quarters, and halves that tie, of candidates that differ more or less."""
    generator = np.random.default_rng(0)
    for _ in range(_SITUATIONS):
        items, candidates = 2 ** int(generator.integers(0, 7)), int(generator.integers(2, 14))
        steps = int(generator.choice([1, 2, 4]))
        abilities = generator.random((candidates, 1))
        scores = generator.binomial(steps, np.broadcast_to(abilities, (candidates, items))) / steps
        before = candidates + int(generator.integers(0, 4))
        needed = int(generator.integers(1, before + 1))
        yield scores, Round(candidates=before, needed=needed, items=2 * items)

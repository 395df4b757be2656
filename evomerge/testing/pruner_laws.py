"""What every pruner of single candidates must keep: one function per law, each taking the pruner's class.

```python
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_my_pruner(law):
    law(MyPruner)
```

`evomerge.testing.generation_pruner_laws` has those of pruners that decide over whole generations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from evomerge.errors import ConfigError
from evomerge.pruners.base import GenerationPruner, Pruner, Scores
from evomerge.testing.expecting import refused

Law = Callable[[type[Pruner]], None]

_SITUATIONS = 200


def decides_the_same_again(pruner: type[Pruner]) -> None:
    """A decision depends on the scores alone: not on earlier questions, nor on which instance is asked."""
    one = pruner({})
    before = [one.goes_on(candidate, rivals) for candidate, rivals in _situations()]
    again = [one.goes_on(candidate, rivals) for candidate, rivals in reversed([*_situations()])]
    fresh = [pruner({}).goes_on(candidate, rivals) for candidate, rivals in _situations()]
    assert before == again[::-1] == fresh
    assert all(isinstance(decision, bool) for decision in before)


def never_prunes_the_best_on_every_item(pruner: type[Pruner]) -> None:
    """A candidate that no rival beats on any item goes on."""
    for _, rivals in _situations():
        if len(rivals):
            assert pruner({}).goes_on(rivals.max(axis=0), rivals)


def prunes_nobody_without_rivals(pruner: type[Pruner]) -> None:
    """There is nothing to compare with."""
    for candidate, _ in _situations():
        assert pruner({}).goes_on(candidate, np.empty((0, candidate.size)))


def rivals_have_no_order(pruner: type[Pruner]) -> None:
    """Rivals in another order lead to the same decision."""
    generator = np.random.default_rng(1)
    for candidate, rivals in _situations():
        assert pruner({}).goes_on(candidate, rivals) == pruner({}).goes_on(candidate, generator.permutation(rivals))


def items_have_no_order(pruner: type[Pruner]) -> None:
    """Items in another order, the same for everybody, lead to the same decision."""
    generator = np.random.default_rng(2)
    for candidate, rivals in _situations():
        order = generator.permutation(candidate.size)
        assert pruner({}).goes_on(candidate, rivals) == pruner({}).goes_on(candidate[order], rivals[:, order])


def better_scores_never_hurt(pruner: type[Pruner]) -> None:
    """A candidate that goes on would also go on with a higher score on any of its items."""
    generator = np.random.default_rng(3)
    for candidate, rivals in _situations():
        if pruner({}).goes_on(candidate, rivals):
            better = candidate + generator.integers(0, 2, candidate.size)
            assert pruner({}).goes_on(better, rivals)


def leaves_its_arguments_alone(pruner: type[Pruner]) -> None:
    """Scores are read only."""
    for candidate, rivals in _situations():
        candidate.setflags(write=False)
        rivals.setflags(write=False)
        pruner({}).goes_on(candidate, rivals)
        pruner({}).told([candidate], np.array([0.5]))


def tells_less_than_of_any_complete_candidate(pruner: type[Pruner] | type[GenerationPruner]) -> None:
    """What the algorithm is told of pruned candidates is finite and ranks below everything complete."""
    for complete in ([0.5], [0.25, 0.75, 1.0], [-1e9 - 0.25, 0.5], [-30.0]):
        pruned = [candidate for candidate, _ in _situations()][:20]
        told = pruner({}).told(pruned, np.array(complete))
        assert told.shape == (20,)
        assert np.isfinite(told).all()
        assert told.max() < min(complete)


def tells_each_its_own(pruner: type[Pruner] | type[GenerationPruner]) -> None:
    """What is told goes with the candidate, in whatever order they come, and equals are told the same."""
    pruned = [candidate for candidate, _ in _situations()][:20]
    complete = np.array([0.5, 0.75])
    told = pruner({}).told(pruned, complete)
    order = np.random.default_rng(4).permutation(20)
    assert np.array_equal(pruner({}).told([pruned[place] for place in order], complete), told[order])
    twice = pruner({}).told([pruned[0], pruned[1], pruned[0]], complete)
    assert twice[0] == twice[2]


def refuses_options_that_it_does_not_have(pruner: type[Pruner] | type[GenerationPruner]) -> None:
    """A misspelt option is an error that names it."""
    refused(ConfigError, "no_such_option", pruner, {"no_such_option": 1})


LAWS: tuple[Law, ...] = (
    decides_the_same_again,
    never_prunes_the_best_on_every_item,
    prunes_nobody_without_rivals,
    rivals_have_no_order,
    items_have_no_order,
    better_scores_never_hurt,
    leaves_its_arguments_alone,
    tells_less_than_of_any_complete_candidate,
    tells_each_its_own,
    refuses_options_that_it_does_not_have,
)


def _situations() -> Iterator[tuple[Scores, Scores]]:
    """Candidates among rivals: right or wrong, in quarters, and halves that tie; means of all are exact."""
    generator = np.random.default_rng(0)
    for _ in range(_SITUATIONS):
        items, rivals = 2 ** int(generator.integers(0, 6)), int(generator.integers(0, 12))
        steps = int(generator.choice([1, 2, 4]))
        scores = generator.integers(0, steps + 1, (rivals + 1, items)) / steps
        yield scores[0], scores[1:]

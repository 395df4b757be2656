"""Formulas of TIES, DARE, DELLA and Breadcrumbs: sparsify task vectors, then add them up or elect signs.

A loop for each rule of what is kept and each way to combine it. Their numbers are those of the rule and those of
the combination.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops import proofs
from evomerge.kernels.loops.compile import compiled, owning, part
from evomerge.kernels.loops.elementwise import place_of, run
from evomerge.kernels.loops.numbers import TREE, load, tree_sum
from evomerge.kernels.loops.randomness import mix, stir
from evomerge.kernels.loops.tuples import (
    as_int32,
    bytes_at,
    column,
    each,
    fill,
    fold,
    formula,
    sizes,
    times,
    times_if_any,
    total,
)

_UNIT = 2.0**-31
"""Random numbers are multiples of this in [0, 1), and are compared as whole ones."""


@each
def task_vector(value: Any, base: Any) -> Any:
    """What a source adds to the base."""
    return value - base


@part
def _kept_if(vector: Any, kept: bool) -> Any:
    """A product rather than a choice, so that NaN and Inf survive."""
    number = type(vector)
    return vector * (number(1) if kept else number(0))


@each
def _kept_in_band(vector: Any, low: Any, high: Any) -> Any:
    return _kept_if(vector, (abs(vector) >= low) & (abs(vector) <= high))


@formula
def _keep_band(vectors: Any, ranks: Any, place: Any, rule: Any) -> Any:
    """Keep magnitudes from `low` to `high`, numbers of each expert."""
    low, high = rule
    return _kept_in_band(vectors, low, high)


@each
def _kept_from(vector: Any, low: Any) -> Any:
    # Asked this way round, NaN stays.
    return type(vector)(0) if abs(vector) < low else vector


@formula
def _keep_largest(vectors: Any, ranks: Any, place: Any, rule: Any) -> Any:
    """Keep magnitudes from `low` on."""
    return _kept_from(vectors, rule[0])


@each
def _kept_at_level(vector: Any, rank: Any, low: Any) -> Any:
    return _kept_if(vector, rank >= low)


@formula
def _keep_level(vectors: Any, ranks: Any, place: Any, rule: Any) -> Any:
    """Keep entries whose rank, the same for all experts, is at least `low`."""
    return _kept_at_level(vectors, ranks[0], rule[0])


@each
def _draw(mixed: Any, upper: Any, key: Any) -> Any:
    return np.int32(stir(np.uint32(mixed + np.uint32(key ^ upper))) >> np.uint32(1))


@part
def _draws(place: Any, first: Any, second: Any) -> Any:
    """Each expert's whole random number at an element, below 2³¹; the first round of scrambling is common to all."""
    return _draw(mix(np.uint32(place[0] ^ first)), place[1], second)


@each
def _kept_up_to(vector: Any, drawn: Any, last: Any) -> Any:
    return _kept_if(vector, drawn <= last)


@formula
def _keep_random(vectors: Any, ranks: Any, place: Any, rule: Any) -> Any:
    """Keep entries whose random number is at most `last`."""
    last, first_key, second_keys = rule
    return _kept_up_to(vectors, _draws(place, first_key, second_keys), last)


@each
def _kept_by_rank(vector: Any, drawn: Any, rank: Any, least: Any, step: Any, inverse: bool) -> Any:
    number = type(vector)
    last = np.int32(least + np.int32(step * rank))
    kept = drawn <= last
    chance = (number(last) + number(1)) * number(_UNIT)
    return vector * ((number(1) if kept else number(0)) / (chance if kept & inverse else number(1)))


@formula
def _keep_ranked(vectors: Any, ranks: Any, place: Any, rule: Any) -> Any:
    """Keep entries whose number is at most least + step · rank; `inverse` divides them by the chance of that."""
    least, step, inverse, first_key, second_keys = rule
    return _kept_by_rank(vectors, _draws(place, first_key, second_keys), ranks, least, step, inverse)


@part
def _add(values: Any, kept: Any, combination: Any) -> Any:
    """Base + scale · Σ share · kept."""
    shares, scale = combination
    base = values[0]
    value = base + scale * total(times(kept, shares))
    size = total(times(sizes(kept), sizes(shares)))
    error = np.float32((len(shares) + 10) * proofs.UNIT) * abs(scale)
    return value, error * size + proofs.SUM_ERROR * abs(value) + proofs.FLOOR


@each
def _agreeing(vector: Any, against: bool) -> Any:
    """A vector where it lies on the elected side, without its sign; asked this way round, NaN stays."""
    along = -vector if against else vector
    return type(vector)(0) if along < type(vector)(0) else along


@each
def _present(along: Any, weight: Any) -> Any:
    return weight if along > type(along)(0) else type(along)(0)


@part
def _smaller(number: Any, least: Any) -> Any:
    return min(abs(number), least)


@part
def _without_rounding(voted: Any, exact: Any, values: Any) -> Any:
    """Whether votes of this sum of sizes were added without rounding."""
    if exact is None:
        return voted == type(voted)(0)
    return voted <= exact * fold(_smaller, abs(values[0]), values[1:])


@part
def _elect(values: Any, kept: Any, combination: Any) -> Any:
    """Base ± scale · Σ share · kept over what has the sign of Σ ballot · kept, divided by its weights if `normalize`.

    Where ballots are negative, `sides` are their signs, and `shares` have them too; otherwise it is empty. Votes of up
    to `exact` times the smallest of all values are added without rounding; None: only if there are none.
    """
    ballots, sides, shares, weights, scale, normalize, exact = combination
    base = values[0]
    number = type(base)
    many = len(shares)
    vote = total(times(kept, ballots))
    against = vote < number(0)
    along = _agreeing(times_if_any(kept, sides), against)
    agreement = total(_present(along, weights))
    # Weights of nobody, or that cancel, don't divide.
    divisor = agreement if normalize & (agreement != number(0)) else number(1)
    change = scale * (total(times(along, shares)) / divisor)
    value = base + (-change if against else change)
    bound = np.float32((2 * many + 14) * proofs.UNIT) * abs(change) + proofs.SUM_ERROR * abs(value) + proofs.FLOOR
    # Where rounding could have tipped the vote nothing is proved.
    voted = total(times(sizes(kept), ballots))
    clear = abs(vote) > np.float32((many + 8) * proofs.UNIT) * voted
    sure = clear | _without_rounding(voted, exact, values)
    return value, bound if sure else number(np.inf)


def _sparse(keep: Any, combine: Any) -> Any:
    @formula
    def merged(values: Any, ranks: Any, place: Any, numbers: Any) -> Any:
        kept = keep(task_vector(values[1:], values[0]), ranks, place, numbers[0])
        return combine(values, kept, numbers[1])

    return merged


_band_sum, _band_election = _sparse(_keep_band, _add), _sparse(_keep_band, _elect)
_largest_election = _sparse(_keep_largest, _elect)
_random_sum, _random_election = _sparse(_keep_random, _add), _sparse(_keep_random, _elect)
_ranked_sum, _ranked_election = _sparse(_keep_ranked, _add), _sparse(_keep_ranked, _elect)
_level_election = _sparse(_keep_level, _elect)


@compiled
def add_band(start: int, stop: int, work: Any) -> bool:
    """Sum of task vectors, entries being kept by magnitude."""
    return bool(run(_band_sum, start, stop, work))


@compiled
def elect_band(start: int, stop: int, work: Any) -> bool:
    """Those that agree, of entries kept by magnitude."""
    return bool(run(_band_election, start, stop, work))


@compiled
def elect_largest(start: int, stop: int, work: Any) -> bool:
    """Those that agree, of entries kept from a magnitude on."""
    return bool(run(_largest_election, start, stop, work))


@compiled
def add_random(start: int, stop: int, work: Any) -> bool:
    """Sum of task vectors, entries being kept at random."""
    return bool(run(_random_sum, start, stop, work))


@compiled
def elect_random(start: int, stop: int, work: Any) -> bool:
    """Those that agree, of entries kept at random."""
    return bool(run(_random_election, start, stop, work))


@compiled
def add_ranked(start: int, stop: int, work: Any) -> bool:
    """Sum of task vectors, entries being kept at random by rank."""
    return bool(run(_ranked_sum, start, stop, work))


@compiled
def elect_ranked(start: int, stop: int, work: Any) -> bool:
    """Those that agree, of entries kept at random by rank."""
    return bool(run(_ranked_election, start, stop, work))


@compiled
def elect_level(start: int, stop: int, work: Any) -> bool:
    """Those that agree, of entries kept from a rank on."""
    return bool(run(_level_election, start, stop, work))


@compiled
def masses_random(start: int, stop: int, sources: Any, codes: Any, ranks: Any, rule: Any, partial: Any) -> None:
    """Sums of |τ| before and after entries are kept at random, into partial[before or after, expert, block]."""
    _masses(_keep_random, start, stop, sources, codes, ranks, rule, partial)


@compiled
def masses_ranked(start: int, stop: int, sources: Any, codes: Any, ranks: Any, rule: Any, partial: Any) -> None:
    """As `masses_random`, by rank."""
    _masses(_keep_ranked, start, stop, sources, codes, ranks, rule, partial)


@compiled
def masses_band(start: int, stop: int, sources: Any, codes: Any, ranks: Any, rule: Any, partial: Any) -> None:
    """As `masses_random`, by magnitude."""
    _masses(_keep_band, start, stop, sources, codes, ranks, rule, partial)


@owning
def _masses(keep: Any, start: int, stop: int, sources: Any, codes: Any, ranks: Any, rule: Any, partial: Any) -> None:
    rows = np.empty((len(sources), TREE), dtype=np.float64)
    before_and_after = np.empty((2 * (len(sources) - 1), TREE), dtype=np.float64)
    for first in range(start, stop, TREE):
        count = min(TREE, stop - first)
        for k in range(len(sources)):
            load(sources[k], codes[k], first, count, rows[k])
        for i in range(count):
            place = place_of(first + i)
            values = column(rows, i, sources)
            vectors = task_vector(values[1:], values[0])
            kept = keep(vectors, as_int32(bytes_at(ranks, first + i)), place, rule)
            fill(before_and_after, i, sizes(vectors) + sizes(kept))
        for row in range(len(before_and_after)):
            partial[row, first // TREE] = tree_sum(before_and_after[row], count)

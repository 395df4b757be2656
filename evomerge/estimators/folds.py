"""Models that answered everything, held out in turns: what would have been estimated had they answered as little.

Knows which answers are hidden. Does not know what they are estimated with.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.estimators.base import Responses, Scores, complete_rows
from evomerge.estimators.units import units_of

FOLDS = 4


class Held(NamedTuple):
    """Responses with the answers of some complete models hidden, and which these are."""

    responses: Responses
    rows: list[int]


def patterns(scores: Scores, rows: list[int]) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
    """Which items were answered, each way once, (patterns, items); and the pattern of each row, (rows,)."""
    found, place = np.unique(np.isfinite(scores[rows]), axis=0, return_inverse=True)
    return found, place.reshape(-1)


def held_out(responses: Responses, answered: NDArray[np.bool_]) -> Iterator[Held]:
    """Each complete model but the endpoints is held out once, with the items hidden that `answered` lacks, (items,).

    Which are held out together depends on their scores alone, and not on the order of models or items.
    """
    endpoints = set(responses.endpoints)
    complete = [row for row in complete_rows(responses.scores) if row not in endpoints]
    folds = min(FOLDS, len(complete))
    ranked = _ranked(responses.scores, complete)
    covariates = responses.covariates
    if covariates is not None:
        # What models that lack answers know of other items is known of these as well, and nothing more.
        lacking = np.isnan(responses.scores).any(axis=1)
        unknown = ~answered & np.isnan(covariates[lacking]).any(axis=0)
    for fold in range(folds):
        rows = ranked[fold::folds]
        scores = responses.scores.copy()
        scores[np.ix_(np.array(rows), np.flatnonzero(~answered))] = np.nan
        known = None
        if covariates is not None:
            known = covariates.copy()
            known[np.ix_(np.array(rows), np.flatnonzero(unknown))] = np.nan
        yield Held(Responses(scores=scores, covariates=known, endpoints=responses.endpoints), rows)


def _ranked(scores: Scores, rows: list[int]) -> list[int]:
    """Rows from low to high; equals by how much they score on easy and on hard items."""
    taken = units_of(scores).shares(scores[rows])
    easy = taken.mean(axis=0) if rows else np.empty(0)
    keys = [np.round(taken @ np.cos(np.pi * power * easy) / max(1, easy.size), 9) for power in (3, 2, 1, 0)]
    return [rows[place] for place in np.lexsort(keys)]

"""Loops of TIES, DARE, DELLA and Breadcrumbs: sparsify task vectors, then add them up or elect signs.

Each step over a block is a function of its own with few arrays: LLVM gives up on telling many apart, and
then doesn't vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from evomerge.merge.loops.elements import (
    BLOCK,
    TREE,
    compiled,
    draw,
    load,
    load_difference,
    store,
    tree_sum,
    uint8_at,
)

BAND, RANDOM, RANKED = 0, 1, 2
"""Which entries are kept: of a band of magnitudes, at random, or at random by rank in the row."""

_WHOLE = 2.0**31
"""Random numbers are whole numbers below this."""


@compiled
def add_sparse(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    kind: int,
    low: Any,
    high: Any,
    inverse: bool,
    keys: Any,
    ranks: Any,
    ballots: Any,
    shares: Any,
    weights: Any,
    elect: bool,
    normalize: bool,
    scale: float,
    out: int,
    out_code: int,
) -> None:
    """Sparsify task vectors and add them up, all or those of the elected sign; the first source is the base.

    `ballots` are factors of the task vectors in the election, `shares` in the sum; `weights` divide.
    """
    many = len(shares)
    base = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(BLOCK, dtype=np.float64)
    agreeing = np.empty(BLOCK, dtype=np.float64)
    draws = np.empty(BLOCK, dtype=np.int32)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        _clear(votes, count)
        for k in range(many):
            load_difference(sources[k + 1], codes[k + 1], first, count, base, tau[k])
            factor = ballots[k] if elect else shares[k]
            _sparsify(tau[k], first, count, kind, k, low, high, inverse, keys, ranks, draws, factor, votes)
        if elect:
            _clear(total, count)
            _clear(agreeing, count)
            for k in range(many):
                side = np.sign(ballots[k])
                if side != 1.0:
                    _multiply(tau[k], side, count)
                _add_agreeing(tau[k], votes, shares[k] * side, weights[k], count, total, agreeing)
            _add_elected(base, votes, total, agreeing, normalize, scale, count)
        else:
            _add_scaled(base, votes, scale, count)
        store(base, out, out_code, first, count)


@compiled
def _clear(values: Any, count: int) -> None:
    for i in range(count):
        values[i] = 0.0


@compiled
def _multiply(values: Any, factor: float, count: int) -> None:
    for i in range(count):
        values[i] *= factor


@compiled
def _add_scaled(values: Any, others: Any, factor: float, count: int) -> None:
    for i in range(count):
        values[i] += factor * others[i]


@compiled
def _add_agreeing(tau: Any, votes: Any, share: float, weight: float, count: int, total: Any, agreeing: Any) -> None:
    """Add what lies on the side that the vote is for, without its sign."""
    for i in range(count):
        along = -tau[i] if votes[i] < 0.0 else tau[i]
        # Asked this way round, NaN stays.
        total[i] += share * (0.0 if along < 0.0 else along)
        agreeing[i] += weight if along > 0.0 else 0.0


@compiled
def _add_elected(base: Any, votes: Any, total: Any, agreeing: Any, normalize: bool, scale: float, count: int) -> None:
    if normalize:
        for i in range(count):
            # Weights of nobody, or that cancel, don't divide.
            part = total[i] / (agreeing[i] if agreeing[i] != 0.0 else 1.0)
            base[i] += scale * (-part if votes[i] < 0.0 else part)
    else:
        for i in range(count):
            base[i] += scale * (-total[i] if votes[i] < 0.0 else total[i])


@compiled
def _sparsify(
    tau: Any,
    first: int,
    count: int,
    kind: int,
    k: int,
    low: Any,
    high: Any,
    inverse: bool,
    keys: Any,
    ranks: Any,
    draws: Any,
    factor: float,
    total: Any,
) -> None:
    """Multiply each entry by 0 if it is dropped, so that NaN and Inf survive, and add factor · what is left to a sum.

    With `inverse` what is kept is divided by its probability.
    """
    if kind == BAND:
        _keep_band(tau, count, low[k], high[k], factor, total)
        return
    draw(first, count, keys[k, 0], keys[k, 1], draws)
    if kind == RANDOM:
        # Of whole numbers, those below a limit are those up to the one before.
        _keep_drawn(tau, count, draws, np.int32(np.ceil(min(low[k], 1.0) * _WHOLE) - 1.0), factor, total)
    else:
        _keep_ranked(tau, count, draws, ranks[k] + first, low[k], high[k], inverse, factor, total)


@compiled
def _keep_band(tau: Any, count: int, least: float, most: float, factor: float, total: Any) -> None:
    if most == np.inf:
        for i in range(count):
            tau[i] *= 1.0 if abs(tau[i]) >= least else 0.0
            total[i] += factor * tau[i]
    else:
        for i in range(count):
            tau[i] *= 1.0 if (abs(tau[i]) >= least) & (abs(tau[i]) <= most) else 0.0
            total[i] += factor * tau[i]


@compiled
def _keep_drawn(tau: Any, count: int, draws: Any, last: Any, factor: float, total: Any) -> None:
    for i in range(count):
        tau[i] *= 1.0 if draws[i] <= last else 0.0
        total[i] += factor * tau[i]


@compiled
def _keep_ranked(
    tau: Any, count: int, draws: Any, ranks: int, least: float, spread: float, inverse: bool, factor: float, total: Any
) -> None:
    steps = carray(uint8_at(ranks), (count,))
    if inverse:
        for i in range(count):
            chance = least + spread * np.float64(steps[i])
            kept = np.float64(draws[i]) * (1.0 / _WHOLE) < chance
            tau[i] *= (1.0 if kept else 0.0) / (chance if kept else 1.0)
            total[i] += factor * tau[i]
    else:
        for i in range(count):
            chance = least + spread * np.float64(steps[i])
            tau[i] *= 1.0 if np.float64(draws[i]) * (1.0 / _WHOLE) < chance else 0.0
            total[i] += factor * tau[i]


@compiled
def masses(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    kind: int,
    low: Any,
    high: Any,
    inverse: bool,
    keys: Any,
    ranks: Any,
    partial: Any,
) -> None:
    """Sums of |τ| before and after sparsifying, into partial[expert, block, before or after]."""
    base = np.empty(TREE, dtype=np.float64)
    tau = np.empty(TREE, dtype=np.float64)
    sizes = np.empty(TREE, dtype=np.float64)
    draws = np.empty(TREE, dtype=np.int32)
    for first in range(start, stop, TREE):
        count = min(TREE, stop - first)
        load(sources[0], codes[0], first, count, base)
        for k in range(1, len(sources)):
            load_difference(sources[k], codes[k], first, count, base, tau)
            for after in range(2):
                if after == 1:
                    _sparsify(tau, first, count, kind, k - 1, low, high, inverse, keys, ranks, draws, 0.0, sizes)
                for i in range(count):
                    sizes[i] = abs(tau[i])
                partial[k - 1, first // TREE, after] = tree_sum(sizes, count)

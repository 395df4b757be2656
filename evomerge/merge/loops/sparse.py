"""Loops of TIES, DARE, DELLA and Breadcrumbs: sparsify task vectors, then add them up or elect signs.

Each step over a block is a function of its own with few arrays: LLVM gives up on telling many apart, and
then doesn't vectorise.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from evomerge.merge.loops import narrow
from evomerge.merge.loops.elements import (
    BFLOAT16,
    BLOCK,
    TREE,
    compiled,
    draw,
    inner,
    load,
    load_difference,
    store,
    tree_sum,
    uint8_at,
)

BAND, RANDOM, RANKED, LEVEL = 0, 1, 2, 3
"""Which entries are kept: of a band of magnitudes, at random, at random by rank, or from a rank on."""

_WHOLE = 2.0**31
"""Random numbers are whole numbers below this."""

_ROWS = 4
"""Buffers besides those of the task vectors."""


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
) -> bool:
    """Sparsify task vectors and add them up, all or those of the elected sign; the first source is the base.

    `ballots` are factors of the task vectors in the election, `shares` in the sum; `weights` divide.
    """
    wide = np.empty((len(shares) + _ROWS, BLOCK), dtype=np.float64)
    small = np.empty((len(shares) + _ROWS, narrow.BLOCK), dtype=np.float32)
    bounds = np.empty(narrow.BLOCK, dtype=np.float32)
    marks = np.empty(narrow.BLOCK, dtype=np.int32)
    draws = np.empty(narrow.BLOCK, dtype=np.int32)
    provable = narrow.readable(sources, codes, BFLOAT16, out, out_code) and narrow.all_representable(shares)
    provable = provable and narrow.representable(scale)
    if elect:
        # Then sums of what agrees don't cancel.
        provable = provable and narrow.all_positive(ballots) and narrow.all_positive(weights) and shares.min() >= 0.0
    finite, tried, failed = True, 0, 0
    first = start
    while first < stop:
        if not (provable and narrow.worthwhile(tried, failed)):
            count = min(BLOCK, stop - first)
            _merge(
                sources, codes, first, count, kind, low, high, inverse, keys, ranks, ballots, shares, weights, elect,
                normalize, scale, draws, wide, None,
            )  # fmt: skip
            finite = store(wide[0], out, out_code, first, count) and finite
            first += count
            continue
        count = min(narrow.BLOCK, stop - first)
        _merge(
            sources, codes, first, count, kind, low, high, inverse, keys, ranks, ballots, shares, weights, elect,
            normalize, scale, draws, small, bounds,
        )  # fmt: skip
        tried += count
        if narrow.unsure(narrow.round_all(small[0], bounds, count, out, first, marks)):
            for strip in range(0, count, narrow.STRIP):
                length = min(narrow.STRIP, count - strip)
                if narrow.any_unsure(marks, strip, strip + length):
                    failed += length
                    _merge(
                        sources, codes, first + strip, length, kind, low, high, inverse, keys, ranks, ballots, shares,
                        weights, elect, normalize, scale, draws, wide, None,
                    )  # fmt: skip
                    finite = store(wide[0], out, out_code, first + strip, length) and finite
        first += count
    return finite


@inner
def _merge(
    sources: Any,
    codes: Any,
    first: int,
    count: int,
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
    draws: Any,
    rows: Any,
    bounds: Any,
) -> None:
    """Merge elements first..first+count in the precision of `rows`, into the first of them; bound errors, if asked."""
    number = rows.dtype.type
    base, votes, total, agreeing = rows[0], rows[1], rows[2], rows[3]
    many = len(shares)
    load(sources[0], codes[0], first, count, base)
    _clear(votes, count)
    if bounds is not None:
        _clear(bounds, count)
    for k in range(many):
        tau = rows[_ROWS + k]
        load_difference(sources[k + 1], codes[k + 1], first, count, base, tau)
        factor = number(ballots[k] if elect else shares[k])
        _sparsify(tau, first, count, kind, k, low, high, inverse, keys, ranks, draws, factor, votes, bounds)
    if not elect:
        _add_scaled(base, votes, number(scale), count, bounds, np.float32((many + 10) * narrow.UNIT))
        return
    _clear(total, count)
    _clear(agreeing, count)
    for k in range(many):
        tau, side = rows[_ROWS + k], np.sign(ballots[k])
        if side != 1.0:
            _multiply(tau, number(side), count)
        _add_agreeing(tau, votes, number(shares[k] * side), number(weights[k]), count, total, agreeing)
    if bounds is not None:
        _doubt_elections(votes, bounds, np.float32((many + 8) * narrow.UNIT), count)
    if normalize:
        _divide(total, agreeing, count)
    _add_elected(base, votes, total, number(scale), count, bounds, np.float32((2 * many + 14) * narrow.UNIT))


@inner
def _clear(values: Any, count: int) -> None:
    for i in range(count):
        values[i] = 0.0


@inner
def _multiply(values: Any, factor: Any, count: int) -> None:
    for i in range(count):
        values[i] *= factor


@inner
def _add_scaled(values: Any, others: Any, factor: Any, count: int, bounds: Any, error: Any) -> None:
    """Add factor · others; `bounds`, sums of what the others consist of, become those of the results' errors."""
    for i in range(count):
        values[i] += factor * others[i]
        if bounds is not None:
            bounds[i] = error * abs(factor) * bounds[i] + narrow.SUM_ERROR * abs(values[i]) + narrow.FLOOR


@inner
def _add_agreeing(tau: Any, votes: Any, share: Any, weight: Any, count: int, total: Any, agreeing: Any) -> None:
    """Add what lies on the side that the vote is for, without its sign."""
    zero = total.dtype.type(0.0)
    for i in range(count):
        along = -tau[i] if votes[i] < zero else tau[i]
        # Asked this way round, NaN stays.
        total[i] += share * (zero if along < zero else along)
        agreeing[i] += weight if along > zero else zero


@inner
def _doubt_elections(votes: Any, bounds: Any, error: Any, count: int) -> None:
    """From the sums of what was voted, let bounds prove nothing where rounding could have tipped the vote."""
    zero, infinity = np.float32(0.0), np.float32(np.inf)
    for i in range(count):
        # Where nothing was voted, nothing could. Asked this way round, NaN is in doubt.
        sure = (abs(votes[i]) > error * bounds[i]) | (bounds[i] == zero)
        bounds[i] = zero if sure else infinity


@inner
def _divide(total: Any, agreeing: Any, count: int) -> None:
    """Weights of nobody, or that cancel, don't divide."""
    zero, one = total.dtype.type(0.0), total.dtype.type(1.0)
    for i in range(count):
        total[i] /= agreeing[i] if agreeing[i] != zero else one


@inner
def _add_elected(base: Any, votes: Any, total: Any, scale: Any, count: int, bounds: Any, error: Any) -> None:
    """Add scale · total with the sign of the vote."""
    zero = base.dtype.type(0.0)
    for i in range(count):
        part = scale * total[i]
        base[i] += -part if votes[i] < zero else part
        if bounds is not None:
            bounds[i] += error * abs(part) + narrow.SUM_ERROR * abs(base[i]) + narrow.FLOOR


@inner
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
    factor: Any,
    total: Any,
    sizes: Any,
) -> None:
    """Multiply each entry by 0 if it is dropped, so that NaN and Inf survive, and add factor · what is left to a sum.

    With `inverse` what is kept is divided by its probability. `sizes`, unless None, adds up magnitudes.
    """
    number = tau.dtype.type
    if kind == BAND:
        _keep_band(tau, count, number(low[k]), number(high[k]), factor, total, sizes)
        return
    if kind == LEVEL:
        _keep_level(tau, count, ranks[k] + first, np.int32(low[k]), factor, total, sizes)
        return
    draw(first, count, keys[k, 0], keys[k, 1], draws)
    # Of whole numbers, those below a limit are those up to the one before.
    if kind == RANDOM:
        _keep_drawn(tau, count, draws, np.int32(np.ceil(min(low[k], 1.0) * _WHOLE) - 1.0), factor, total, sizes)
    else:
        least, step = np.int32(low[k] * _WHOLE - 1.0), np.int32(high[k] * _WHOLE)
        _keep_ranked(tau, count, draws, ranks[k] + first, least, step, inverse, factor, total, sizes)


@inner
def _keep_band(tau: Any, count: int, least: Any, most: Any, factor: Any, total: Any, sizes: Any) -> None:
    one, zero = tau.dtype.type(1.0), tau.dtype.type(0.0)
    if most == np.inf:
        for i in range(count):
            tau[i] *= one if abs(tau[i]) >= least else zero
            part = factor * tau[i]
            total[i] += part
            if sizes is not None:
                sizes[i] += abs(part)
    else:
        for i in range(count):
            tau[i] *= one if (abs(tau[i]) >= least) & (abs(tau[i]) <= most) else zero
            part = factor * tau[i]
            total[i] += part
            if sizes is not None:
                sizes[i] += abs(part)


@compiled
def _keep_level(tau: Any, count: int, ranks: int, least: Any, factor: Any, total: Any, sizes: Any) -> None:
    one, zero = tau.dtype.type(1.0), tau.dtype.type(0.0)
    steps = carray(uint8_at(ranks), (count,))
    for i in range(count):
        tau[i] *= one if np.int32(steps[i]) >= least else zero
        part = factor * tau[i]
        total[i] += part
        if sizes is not None:
            sizes[i] += abs(part)


@inner
def _keep_drawn(tau: Any, count: int, draws: Any, last: Any, factor: Any, total: Any, sizes: Any) -> None:
    one, zero = tau.dtype.type(1.0), tau.dtype.type(0.0)
    for i in range(count):
        tau[i] *= one if draws[i] <= last else zero
        part = factor * tau[i]
        total[i] += part
        if sizes is not None:
            sizes[i] += abs(part)


@compiled
def _keep_ranked(
    tau: Any,
    count: int,
    draws: Any,
    ranks: int,
    least: Any,
    step: Any,
    inverse: bool,
    factor: Any,
    total: Any,
    sizes: Any,
) -> None:
    """Keep entries whose number is at most least + step · rank."""
    number = tau.dtype.type
    one, zero, unit = number(1.0), number(0.0), number(1.0 / _WHOLE)
    steps = carray(uint8_at(ranks), (count,))
    for i in range(count):
        last = np.int32(least + np.int32(step * np.int32(steps[i])))
        kept = draws[i] <= last
        if inverse:
            chance = (number(last) + one) * unit
            tau[i] *= (one if kept else zero) / (chance if kept else one)
        else:
            tau[i] *= one if kept else zero
    for i in range(count):
        part = factor * tau[i]
        total[i] += part
        if sizes is not None:
            sizes[i] += abs(part)


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
                    _sparsify(tau, first, count, kind, k - 1, low, high, inverse, keys, ranks, draws, 0.0, sizes, None)
                for i in range(count):
                    sizes[i] = abs(tau[i])
                partial[k - 1, first // TREE, after] = tree_sum(sizes, count)

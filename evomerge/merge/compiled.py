"""Fused loops over raw weights, compiled by numba: one pass over memory, float64 inside, one rounding.

A loop is told addresses and dtype codes instead of typed arrays, so each is compiled once and serves
every mix of dtypes. Blocks of a few thousand elements are decoded to float64 in the first-level cache,
merged there and rounded once on the way out. LLVM neither reorders nor contracts these operations,
so the bytes are those of the same operations in torch. Threads are the caller's business: the loops
release the interpreter's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import carray, njit, types  # type: ignore[attr-defined]
from numba.extending import intrinsic

BLOCK = 1024
"""Elements decoded at a time; a few float64 buffers of this length fit into the first-level cache."""

FLOAT32, BFLOAT16, FLOAT16, FLOAT64 = 0, 1, 2, 3
"""Codes of the dtypes that the loops read and write."""


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile on first use, kept on disk where there is a place to write."""
    try:
        compiled_function: Callable[..., Any] = njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError:  # neither the package's folder nor the user's cache folder can be written
        compiled_function = njit(nogil=True, error_model="numpy")(function)
    return compiled_function


def _pointer_to(element: Any) -> Any:
    """An intrinsic that takes an integer address for a pointer to `element`."""

    @intrinsic
    def pointer(typing_context: Any, address: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(element)(types.int64), generate  # type: ignore[no-untyped-call]

    return pointer


_float32_at = _pointer_to(types.float32)
_float64_at = _pointer_to(types.float64)
_uint16_at = _pointer_to(types.uint16)
_uint8_at = _pointer_to(types.uint8)


@compiled
def _float32(bits: Any) -> Any:
    return np.uint32(bits).view(np.float32)


@compiled
def _from_bfloat16(bits: Any) -> Any:
    return np.float64(_float32(np.uint32(bits) << np.uint32(16)))


@compiled
def _from_float16(bits: Any) -> Any:
    shifted = np.uint32((np.uint32(bits) & np.uint32(0x7FFF)) << np.uint32(13))
    # The exponents' biases differ by 112. The product is exact, of subnormal numbers too.
    finite = np.float64(_float32(shifted)) * 2.0**112
    special = np.float64(_float32(shifted | np.uint32(0x7F800000)))
    magnitude = special if shifted >= np.uint32(0x7C00 << 13) else finite
    return -magnitude if bits >= np.uint16(0x8000) else magnitude


@compiled
def _odd_bits(value: Any) -> Any:
    """Bits of the float32 that rounding to odd gives: rounding these again rounds `value` only once."""
    near = np.float32(value)
    wide = np.float64(near)
    bits = near.view(np.uint32)
    bits = np.uint32(bits - np.uint32(1)) if abs(wide) > abs(value) else bits
    return np.uint32(bits | np.uint32(1)) if wide != value else bits


@compiled
def _to_bfloat16(value: Any) -> Any:
    bits = _odd_bits(value)
    last = np.uint32(bits >> np.uint32(16)) & np.uint32(1)
    rounded = np.uint32(np.uint32(bits + np.uint32(0x7FFF) + last) >> np.uint32(16))
    return np.uint16(0x7FC0) if value != value else np.uint16(rounded)


@compiled
def _to_float16(value: Any) -> Any:
    bits = _odd_bits(value)
    sign = np.uint16(np.uint32(bits >> np.uint32(16)) & np.uint32(0x8000))
    bits = np.uint32(bits & np.uint32(0x7FFFFFFF))
    last = np.uint32(bits >> np.uint32(13)) & np.uint32(1)
    normal = np.uint32(np.uint32(bits - np.uint32(112 << 23) + np.uint32(0xFFF) + last) >> np.uint32(13))
    # Adding 0.5 aligns the last bit of a subnormal float16 with that of the sum.
    small = np.float32(_float32(bits) + np.float32(0.5)).view(np.uint32) - np.uint32(0x3F000000)
    rounded = np.uint16(small) if bits < np.uint32(113 << 23) else np.uint16(normal)
    rounded = np.uint16(0x7C00) if bits >= np.uint32((127 + 16) << 23) else rounded
    rounded = np.uint16(0x7E00) if value != value else rounded
    return np.uint16(rounded | sign)


@compiled
def load(address: int, code: int, first: int, count: int, into: Any) -> None:
    """Decode elements first..first+count of the tensor at `address` into a float64 buffer."""
    if code == FLOAT32:
        singles = carray(_float32_at(address + 4 * first), (count,))
        for i in range(count):
            into[i] = np.float64(singles[i])
    elif code == BFLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] = _from_bfloat16(halves[i])
    elif code == FLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] = _from_float16(halves[i])
    else:
        doubles = carray(_float64_at(address + 8 * first), (count,))
        for i in range(count):
            into[i] = doubles[i]


@compiled
def store(values: Any, address: int, code: int, first: int, count: int) -> None:
    """Round float64 values once, to nearest, ties to even, into elements first..first+count at `address`."""
    if code == FLOAT32:
        singles = carray(_float32_at(address + 4 * first), (count,))
        for i in range(count):
            singles[i] = np.float32(values[i])
    elif code == BFLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            halves[i] = _to_bfloat16(values[i])
    elif code == FLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            halves[i] = _to_float16(values[i])
    else:
        doubles = carray(_float64_at(address + 8 * first), (count,))
        for i in range(count):
            doubles[i] = values[i]


@compiled
def _add(address: int, code: int, first: int, count: int, coefficient: float, into: Any) -> None:
    """Add coefficient · elements first..first+count to a buffer."""
    if code == FLOAT32:
        singles = carray(_float32_at(address + 4 * first), (count,))
        for i in range(count):
            into[i] += coefficient * np.float64(singles[i])
    elif code == BFLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] += coefficient * _from_bfloat16(halves[i])
    elif code == FLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] += coefficient * _from_float16(halves[i])
    else:
        doubles = carray(_float64_at(address + 8 * first), (count,))
        for i in range(count):
            into[i] += coefficient * doubles[i]


@compiled
def span(
    start: int, stop: int, sources: Any, codes: Any, coefficients: Any, length: int, out: int, out_code: int
) -> None:
    """Elements start..stop of Σ coefficient · source, with a row of coefficients for every `length` elements."""
    total = np.empty(BLOCK, dtype=np.float64)
    first = start
    while first < stop:
        row = first // length
        count = min(BLOCK, min(stop, (row + 1) * length) - first)
        for i in range(count):
            total[i] = 0.0
        for k in range(len(sources)):
            _add(sources[k], codes[k], first, count, coefficients[row, k], total)
        store(total, out, out_code, first, count)
        first += count


@compiled
def _tree_sum(values: Any) -> float:
    """Sum of BLOCK values by adding halves; overwrites them."""
    half = BLOCK // 2
    while half > 0:
        for i in range(half):
            values[i] += values[half + i]
        half //= 2
    return float(values[0])


@compiled
def gram(
    start: int, stop: int, sources: Any, codes: Any, origin: int, origin_code: int, length: int, partial: Any
) -> None:
    """Inner products of all pairs, less an origin unless its address is 0, into partial[row, block, pair].

    `start` and `stop` count blocks: each row of `length` elements has as many as it takes to cover it.
    """
    many, blocks = len(sources), partial.shape[1]
    values = np.zeros((many, BLOCK), dtype=np.float64)
    zero = np.zeros(BLOCK, dtype=np.float64)
    products = np.empty(BLOCK, dtype=np.float64)
    for unit in range(start, stop):
        row, block = unit // blocks, unit % blocks
        first = row * length + block * BLOCK
        count = min(BLOCK, length - block * BLOCK)
        if origin != 0:
            load(origin, origin_code, first, count, zero)
        for k in range(many):
            load(sources[k], codes[k], first, count, values[k])
            for i in range(count):
                values[k, i] -= zero[i]
            for i in range(count, BLOCK):
                values[k, i] = 0.0
        pair = 0
        for a in range(many):
            for b in range(a, many):
                for i in range(BLOCK):
                    products[i] = values[a, i] * values[b, i]
                partial[row, block, pair] = _tree_sum(products)
                pair += 1


BAND, RANDOM, RANKED = 0, 1, 2
"""Which entries `sparse` keeps: of a band of magnitudes, at random, or at random by rank in the row."""

SUM, VOTE, WEIGHTED_VOTE = 0, 1, 2
"""How `sparse` combines experts: sum, or elect signs by unweighted or by weighted task vectors."""


@compiled
def _mix(value: Any) -> Any:
    """Scramble 32 bits one to one (Wellons 2018, "Prospecting for hash functions", lowbias32)."""
    value = np.uint32(value ^ np.uint32(value >> np.uint32(16)))
    value = np.uint32(value * np.uint32(0x7FEB352D))
    value = np.uint32(value ^ np.uint32(value >> np.uint32(15)))
    value = np.uint32(value * np.uint32(0x846CA68B))
    return np.uint32(value ^ np.uint32(value >> np.uint32(16)))


@compiled
def _uniform(index: Any, key: Any, second_key: Any) -> Any:
    """The number in [0, 1) that belongs to an element, a multiple of 2⁻³²."""
    low, high = np.uint32(index), np.uint32(index >> 32)
    return np.float64(_mix(np.uint32(_mix(np.uint32(low ^ key)) + np.uint32(second_key ^ high)))) * 2.0**-32


@compiled
def _sparsify(
    tau: Any, first: int, count: int, kind: int, k: int, low: Any, high: Any, factor: Any, keys: Any, ranks: Any
) -> None:
    """Multiply each entry by 0 if it is dropped, otherwise by its factor. NaN and Inf survive either."""
    scale = factor[k]
    if kind == BAND:
        least, most = np.float32(low[k]), np.float32(high[k])
        for i in range(count):
            magnitude = np.float32(abs(tau[i]))
            tau[i] *= 0.0 if (magnitude < least) | (magnitude > most) else scale
    elif kind == RANDOM:
        probability, key, second_key = low[k], keys[k, 0], keys[k, 1]
        for i in range(count):
            tau[i] *= scale if _uniform(first + i, key, second_key) < probability else 0.0
    else:
        steps = carray(_uint8_at(ranks[k] + first), (count,))
        least, spread, key, second_key = low[k], high[k], keys[k, 0], keys[k, 1]
        for i in range(count):
            probability = least + spread * np.float64(steps[i])
            # A factor of 0 stands for 1/probability.
            grown = scale if scale != 0.0 else 1.0 / probability
            tau[i] *= grown if _uniform(first + i, key, second_key) < probability else 0.0


@compiled
def sparse(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    weights: Any,
    kind: int,
    low: Any,
    high: Any,
    factor: Any,
    keys: Any,
    ranks: Any,
    combine: int,
    normalize: bool,
    scale: float,
    out: int,
    out_code: int,
) -> None:
    """Sparsify task vectors and add them up, all or those of the elected sign; the first source is the base."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float64)
    up = np.empty(BLOCK, dtype=np.float64)
    down = np.empty(BLOCK, dtype=np.float64)
    up_weight = np.empty(BLOCK, dtype=np.float64)
    down_weight = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        for i in range(count):
            votes[i] = 0.0
            up[i] = 0.0
            down[i] = 0.0
            up_weight[i] = 0.0
            down_weight[i] = 0.0
        for k in range(1, len(sources)):
            load(sources[k], codes[k], first, count, tau)
            for i in range(count):
                tau[i] -= base[i]
            _sparsify(tau, first, count, kind, k - 1, low, high, factor, keys, ranks)
            weight = weights[k - 1]
            if combine == SUM:
                for i in range(count):
                    up[i] += weight * tau[i]
            else:
                for i in range(count):
                    weighted = weight * tau[i]
                    vote = weighted if combine == WEIGHTED_VOTE else tau[i]
                    votes[i] += vote
                    # Negated comparisons, so that NaN lands on both sides.
                    up[i] += 0.0 if vote <= 0.0 else weighted
                    up_weight[i] += 0.0 if vote <= 0.0 else weight
                    down[i] += 0.0 if vote >= 0.0 else weighted
                    down_weight[i] += 0.0 if vote >= 0.0 else weight
        for i in range(count):
            total = down[i] if votes[i] < 0.0 else up[i]
            weight = down_weight[i] if votes[i] < 0.0 else up_weight[i]
            divisor = weight if normalize and weight != 0.0 else 1.0
            tau[i] = base[i] + scale * (total / divisor)
        store(tau, out, out_code, first, count)


@compiled
def masses(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    kind: int,
    low: Any,
    high: Any,
    factor: Any,
    keys: Any,
    ranks: Any,
    partial: Any,
) -> None:
    """Sums of |τ| before and after sparsifying, into partial[expert, block, before or after]."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    sizes = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        for k in range(1, len(sources)):
            load(sources[k], codes[k], first, count, tau)
            for i in range(count):
                tau[i] -= base[i]
            for after in range(2):
                if after == 1:
                    _sparsify(tau, first, count, kind, k - 1, low, high, factor, keys, ranks)
                for i in range(count):
                    sizes[i] = abs(tau[i])
                for i in range(count, BLOCK):
                    sizes[i] = 0.0
                partial[k - 1, first // BLOCK, after] = _tree_sum(sizes)


@compiled
def magnitudes(start: int, stop: int, sources: Any, codes: Any, result: Any) -> None:
    """|second − first source| of elements start..stop as float32, NaN as infinity."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load(sources[1], codes[1], first, count, tau)
        for i in range(count):
            size = np.float32(abs(tau[i] - base[i]))
            result[first - start + i] = size if size == size else np.float32(np.inf)


@compiled
def _load_task_vectors(sources: Any, codes: Any, first: int, count: int, base: Any, tau: Any) -> None:
    """Decode the base and, for each expert, its difference from the base into tau[expert]."""
    load(sources[0], codes[0], first, count, base)
    for k in range(1, len(sources)):
        load(sources[k], codes[k], first, count, tau[k - 1])
        for i in range(count):
            tau[k - 1, i] -= base[i]


@compiled
def magmax(
    start: int, stop: int, sources: Any, codes: Any, weights: Any, scale: float, out: int, out_code: int
) -> None:
    """Per entry the weighted task vector of largest magnitude; of two opposite ones the positive."""
    base = np.empty(BLOCK, dtype=np.float64)
    best = np.empty(BLOCK, dtype=np.float64)
    poison = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((len(weights), BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        _load_task_vectors(sources, codes, first, count, base, tau)
        for i in range(count):
            best[i] = 0.0
            poison[i] = 0.0
        for k in range(len(weights)):
            for i in range(count):
                value = weights[k] * tau[k, i]
                # Not zero only for NaN and Inf, which no comparison may lose.
                poison[i] += value * 0.0
                larger = (abs(value) > abs(best[i])) | ((abs(value) == abs(best[i])) & (value > best[i]))
                best[i] = value if larger else best[i]
        for i in range(count):
            best[i] = base[i] + scale * (best[i] + poison[i])
        store(best, out, out_code, first, count)


@compiled
def agreement(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    weights: Any,
    selectivity: Any,
    chosen: int,
    least: int,
    scale: float,
    out: int,
    out_code: int,
) -> None:
    """Weighted sum of task vectors where one of them (`chosen`), or at least `least` of them, shapes the plain sum."""
    many = len(weights)
    base = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(BLOCK, dtype=np.float64)
    weighted = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.int64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        _load_task_vectors(sources, codes, first, count, base, tau)
        for i in range(count):
            total[i] = 0.0
            weighted[i] = 0.0
            votes[i] = 0
        for k in range(many):
            for i in range(count):
                total[i] += tau[k, i]
                weighted[i] += weights[k] * tau[k, i]
        for k in range(many):
            if chosen < 0 or chosen == k:
                for i in range(count):
                    votes[i] += 1 if abs(tau[k, i]) > selectivity[k] * abs(total[i] - tau[k, i]) else 0
        for i in range(count):
            total[i] = base[i] + weighted[i] * (scale if votes[i] >= least else 0.0)
        store(total, out, out_code, first, count)


@compiled
def variances(start: int, stop: int, sources: Any, codes: Any, result: Any) -> None:
    """Variance over experts of elements start..stop of the task vectors as float32, NaN as infinity."""
    many = len(sources) - 1
    base = np.empty(BLOCK, dtype=np.float64)
    spread = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        _load_task_vectors(sources, codes, first, count, base, tau)
        _variance(tau, count, base, spread)
        for i in range(count):
            size = np.float32(spread[i])
            result[first - start + i] = size if size == size else np.float32(np.inf)


@compiled
def _variance(tau: Any, count: int, mean: Any, spread: Any) -> None:
    """Variance over the first axis, the mean being scratch."""
    many = len(tau)
    for i in range(count):
        mean[i] = 0.0
        spread[i] = 0.0
    for k in range(many):
        for i in range(count):
            mean[i] += tau[k, i]
    for i in range(count):
        mean[i] /= many
    for k in range(many):
        for i in range(count):
            spread[i] += (tau[k, i] - mean[i]) * (tau[k, i] - mean[i])
    for i in range(count):
        spread[i] /= many


@compiled
def energies(start: int, stop: int, sources: Any, codes: Any, threshold: float, partial: Any) -> None:
    """Sums of τ² where the variance over experts reaches a threshold, into partial[expert, block]."""
    many = len(sources) - 1
    base = np.empty(BLOCK, dtype=np.float64)
    spread = np.empty(BLOCK, dtype=np.float64)
    squares = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    least = np.float32(threshold)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        _load_task_vectors(sources, codes, first, count, base, tau)
        _variance(tau, count, base, spread)
        for k in range(many):
            for i in range(count):
                squares[i] = 0.0 if np.float32(spread[i]) < least else tau[k, i] * tau[k, i]
            for i in range(count, BLOCK):
                squares[i] = 0.0
            partial[k, first // BLOCK] = _tree_sum(squares)


@compiled
def sce(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    weights: Any,
    threshold: float,
    scale: float,
    out: int,
    out_code: int,
) -> None:
    """Weighted mean of the task vectors that have their sum's sign, where they vary enough."""
    many = len(weights)
    base = np.empty(BLOCK, dtype=np.float64)
    mean = np.empty(BLOCK, dtype=np.float64)
    spread = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(BLOCK, dtype=np.float64)
    divisor = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    least = np.float32(threshold)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        _load_task_vectors(sources, codes, first, count, base, tau)
        _variance(tau, count, mean, spread)
        for i in range(count):
            votes[i] = 0.0
            total[i] = 0.0
            divisor[i] = 0.0
        for k in range(many):
            for i in range(count):
                tau[k, i] *= 0.0 if np.float32(spread[i]) < least else 1.0
                votes[i] += tau[k, i]
        for k in range(many):
            for i in range(count):
                against = (tau[k, i] >= 0.0) if votes[i] < 0.0 else (tau[k, i] <= 0.0)
                total[i] += 0.0 if against else weights[k] * tau[k, i]
                divisor[i] += 0.0 if against else weights[k]
        for i in range(count):
            mean[i] = base[i] + scale * (total[i] / (divisor[i] if divisor[i] != 0.0 else 1.0))
        store(mean, out, out_code, first, count)


@compiled
def ram(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    weights: Any,
    boosts: Any,
    epsilon: float,
    out: int,
    out_code: int,
) -> None:
    """Mean of the task vectors that exceed epsilon; where only one does, that one times its boost."""
    many = len(weights)
    base = np.empty(BLOCK, dtype=np.float64)
    shared = np.empty(BLOCK, dtype=np.float64)
    alone = np.empty(BLOCK, dtype=np.float64)
    active = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        _load_task_vectors(sources, codes, first, count, base, tau)
        for i in range(count):
            shared[i] = 0.0
            alone[i] = 0.0
            active[i] = 0.0
        for k in range(many):
            for i in range(count):
                counts = 1.0 if abs(tau[k, i]) > epsilon else 0.0
                value = weights[k] * (tau[k, i] * counts)
                active[i] += counts
                shared[i] += value
                alone[i] += value * boosts[k]
        for i in range(count):
            base[i] += shared[i] / active[i] if active[i] > 1.0 else alone[i]
        store(base, out, out_code, first, count)


@compiled
def nearswap(start: int, stop: int, sources: Any, codes: Any, t: float, out: int, out_code: int) -> None:
    """Step from the first source to the second, whole where they are within t."""
    base = np.empty(BLOCK, dtype=np.float64)
    value = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load(sources[1], codes[1], first, count, value)
        for i in range(count):
            tau = value[i] - base[i]
            distance = abs(tau)
            part = t / (1e-6 if distance < 1e-6 else distance)
            base[i] += (1.0 if part > 1.0 else part) * tau
        store(base, out, out_code, first, count)


@compiled
def importances(start: int, stop: int, sources: Any, codes: Any, rows: Any, length: int, result: Any) -> None:
    """|τ| · row factor of elements start..stop as float32, NaN as infinity."""
    base = np.empty(BLOCK, dtype=np.float64)
    value = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load(sources[1], codes[1], first, count, value)
        for i in range(count):
            size = np.float32(abs(value[i] - base[i]) * rows[(first + i) // length])
            result[first - start + i] = size if size == size else np.float32(np.inf)


@compiled
def fusion(
    start: int,
    stop: int,
    sources: Any,
    codes: Any,
    rows: Any,
    length: int,
    threshold: float,
    weight: float,
    out: int,
    out_code: int,
) -> None:
    """Add the task vector where |τ| · row factor, as float32, reaches a threshold."""
    base = np.empty(BLOCK, dtype=np.float64)
    value = np.empty(BLOCK, dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load(sources[1], codes[1], first, count, value)
        for i in range(count):
            tau = value[i] - base[i]
            size = np.float64(np.float32(abs(tau) * rows[(first + i) // length]))
            base[i] += tau * (weight if size >= threshold else 0.0)
        store(base, out, out_code, first, count)

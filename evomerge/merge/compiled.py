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

BLOCK = 512
"""Elements decoded at a time; several float64 buffers of this length fit into the first-level cache."""

TREE = 1024
"""Elements whose products are added as one balanced tree."""

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
    wide = np.uint32(bits)
    size = np.uint32((wide & np.uint32(0x7FFF)) << np.uint32(13))
    # The exponents' biases differ by 112, those of infinity and NaN by twice that.
    normal = np.uint32(size + (np.uint32(224 << 23) if size >= np.uint32(0x7C00 << 13) else np.uint32(112 << 23)))
    # Behind a leading one a subnormal number's digits are right, without any subnormal float32.
    small = np.float32(_float32(size + np.uint32(113 << 23)) - np.float32(2.0**-14)).view(np.uint32)
    magnitude = small if size < np.uint32(0x400 << 13) else normal
    return np.float64(_float32(magnitude | np.uint32((wide & np.uint32(0x8000)) << np.uint32(16))))


@compiled
def _bits(value: Any) -> Any:
    return np.float64(value).view(np.int64)


@compiled
def _to_bfloat16(value: Any) -> Any:
    bits = _bits(value)
    # To eight bits of mantissa, ties to even; the cast to float32 is then exact, or overflows as it should.
    normal = np.int64((bits + np.int64((1 << 44) - 1) + ((bits >> 45) & 1)) & np.int64(-(1 << 45))).view(np.float64)
    # Adding this number and taking it away leaves multiples of the least bfloat16, 2⁻¹³³.
    small = (value + 1.5 * 2.0 ** (52 - 133)) - 1.5 * 2.0 ** (52 - 133)
    rounded = small if abs(value) < 2.0**-126 else normal
    return np.uint16(np.float32(value if value != value else rounded).view(np.uint32) >> np.uint32(16))


@compiled
def _to_float16(value: Any) -> Any:
    bits = _bits(value)
    size = bits & np.int64((1 << 63) - 1)
    # To eleven bits of mantissa, ties to even, with the exponent's bias changed from 1023 to 15.
    normal = ((size + np.int64((1 << 41) - 1) + ((size >> 42) & 1)) >> 42) - np.int64(1008 << 10)
    # In a number of this size the last bit is that of the least float16, 2⁻²⁴.
    small = _bits(abs(value) + 2.0**28) & np.int64(0x7FF)
    rounded = small if abs(value) < 2.0**-14 else normal
    rounded = np.int64(0x7C00) if abs(value) >= 65520.0 else rounded
    rounded = np.int64(0x7E00) if value != value else rounded
    return np.uint16(rounded | ((bits >> 48) & np.int64(0x8000)))


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
def load_difference(address: int, code: int, first: int, count: int, base: Any, into: Any) -> None:
    """As `load`, less a base that is decoded already."""
    if code == FLOAT32:
        singles = carray(_float32_at(address + 4 * first), (count,))
        for i in range(count):
            into[i] = np.float64(singles[i]) - base[i]
    elif code == BFLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] = _from_bfloat16(halves[i]) - base[i]
    elif code == FLOAT16:
        halves = carray(_uint16_at(address + 2 * first), (count,))
        for i in range(count):
            into[i] = _from_float16(halves[i]) - base[i]
    else:
        doubles = carray(_float64_at(address + 8 * first), (count,))
        for i in range(count):
            into[i] = doubles[i] - base[i]


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
def _add_three(
    one: int, two: int, three: int, code: int, first: int, count: int, a: float, b: float, c: float, into: Any
) -> None:
    """As three times `_add`, for tensors of one 16-bit or 32-bit dtype, with a third of the traffic to the buffer."""
    if code == FLOAT32:
        one_singles = carray(_float32_at(one + 4 * first), (count,))
        two_singles = carray(_float32_at(two + 4 * first), (count,))
        three_singles = carray(_float32_at(three + 4 * first), (count,))
        for i in range(count):
            total = into[i] + a * np.float64(one_singles[i])
            total += b * np.float64(two_singles[i])
            into[i] = total + c * np.float64(three_singles[i])
    else:
        one_halves = carray(_uint16_at(one + 2 * first), (count,))
        two_halves = carray(_uint16_at(two + 2 * first), (count,))
        three_halves = carray(_uint16_at(three + 2 * first), (count,))
        if code == BFLOAT16:
            for i in range(count):
                total = into[i] + a * _from_bfloat16(one_halves[i])
                total += b * _from_bfloat16(two_halves[i])
                into[i] = total + c * _from_bfloat16(three_halves[i])
        else:
            for i in range(count):
                total = into[i] + a * _from_float16(one_halves[i])
                total += b * _from_float16(two_halves[i])
                into[i] = total + c * _from_float16(three_halves[i])


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
        k = 0
        while k < len(sources):
            code = codes[k]
            if k + 2 < len(sources) and code == codes[k + 1] and code == codes[k + 2] and code != FLOAT64:
                a, b, c = coefficients[row, k], coefficients[row, k + 1], coefficients[row, k + 2]
                _add_three(sources[k], sources[k + 1], sources[k + 2], code, first, count, a, b, c, total)
                k += 3
            else:
                _add(sources[k], code, first, count, coefficients[row, k], total)
                k += 1
        store(total, out, out_code, first, count)
        first += count


@compiled
def _tree_sum(values: Any) -> float:
    """Sum of TREE values by adding halves; overwrites them."""
    half = TREE // 2
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
    values = np.zeros((many, TREE), dtype=np.float64)
    zero = np.zeros(TREE, dtype=np.float64)
    products = np.empty(TREE, dtype=np.float64)
    for unit in range(start, stop):
        row, block = unit // blocks, unit % blocks
        first = row * length + block * TREE
        count = min(TREE, length - block * TREE)
        if origin != 0:
            load(origin, origin_code, first, count, zero)
        for k in range(many):
            load(sources[k], codes[k], first, count, values[k])
            for i in range(count):
                values[k, i] -= zero[i]
            for i in range(count, TREE):
                values[k, i] = 0.0
        pair = 0
        for a in range(many):
            for b in range(a, many):
                for i in range(TREE):
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
def _draw(first: int, count: int, key: Any, second_key: Any, draws: Any) -> None:
    """Random 31-bit numbers of elements first..first+count, none of whose indices differ above 32 bits."""
    low = np.uint32(first & 0xFFFFFFFF)
    second = np.uint32(second_key ^ np.uint32(first >> 32))
    for i in range(count):
        mixed = _mix(np.uint32(_mix(np.uint32(np.uint32(low + np.uint32(i)) ^ key)) + second))
        draws[i] = np.int32(mixed >> np.uint32(1))


@compiled
def _sparsify(
    tau: Any,
    first: int,
    count: int,
    kind: int,
    k: int,
    low: Any,
    high: Any,
    factor: Any,
    keys: Any,
    ranks: Any,
    draws: Any,
) -> None:
    """Multiply each entry by 0 if it is dropped, otherwise by its factor. NaN and Inf survive either."""
    scale = factor[k]
    if kind == BAND:
        least, most = low[k], high[k]
        for i in range(count):
            magnitude = abs(tau[i])
            tau[i] *= scale if (magnitude >= least) & (magnitude <= most) else 0.0
        return
    _draw(first, count, keys[k, 0], keys[k, 1], draws)
    if kind == RANDOM:
        probability = low[k]
        for i in range(count):
            tau[i] *= scale if np.float64(draws[i]) * 2.0**-31 < probability else 0.0
        return
    steps = carray(_uint8_at(ranks[k] + first), (count,))
    least_probability, spread = low[k], high[k]
    for i in range(count):
        chance = least_probability + spread * np.float64(steps[i])
        kept = 1.0 if np.float64(draws[i]) * 2.0**-31 < chance else 0.0
        # A factor of 0 stands for 1/probability.
        tau[i] *= kept / (chance + (1.0 - kept)) if scale == 0.0 else kept * scale


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
    many = len(weights)
    base = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(BLOCK, dtype=np.float64)
    agreeing = np.empty(BLOCK, dtype=np.float64)
    draws = np.empty(BLOCK, dtype=np.int32)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        for i in range(count):
            votes[i] = 0.0
            total[i] = 0.0
            agreeing[i] = 0.0
        for k in range(many):
            vector = tau[k]
            load_difference(sources[k + 1], codes[k + 1], first, count, base, vector)
            _sparsify(vector, first, count, kind, k, low, high, factor, keys, ranks, draws)
            weight = weights[k]
            if combine == SUM:
                for i in range(count):
                    total[i] += weight * vector[i]
            elif combine == VOTE:
                for i in range(count):
                    votes[i] += vector[i]
            else:
                for i in range(count):
                    vector[i] *= weight
                    votes[i] += vector[i]
        if combine != SUM:
            for i in range(count):
                votes[i] = -1.0 if votes[i] < 0.0 else 1.0
            for k in range(many):
                vector, weight = tau[k], weights[k]
                factor_of = weight if combine == VOTE else 1.0
                for i in range(count):
                    # Multiplied rather than chosen, so that NaN and Inf survive.
                    agrees = 1.0 if vector[i] * votes[i] > 0.0 else 0.0
                    total[i] += factor_of * vector[i] * agrees
                    agreeing[i] += weight * agrees
            if normalize:
                for i in range(count):
                    # Weights of nobody, or that cancel, don't divide.
                    total[i] /= agreeing[i] if agreeing[i] != 0.0 else 1.0
        for i in range(count):
            total[i] = base[i] + scale * total[i]
        store(total, out, out_code, first, count)


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
                    _sparsify(tau, first, count, kind, k - 1, low, high, factor, keys, ranks, draws)
                for i in range(count):
                    sizes[i] = abs(tau[i])
                for i in range(count, TREE):
                    sizes[i] = 0.0
                partial[k - 1, first // TREE, after] = _tree_sum(sizes)


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
        load_difference(sources[k], codes[k], first, count, base, tau[k - 1])


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
    least: float,
    scale: float,
    out: int,
    out_code: int,
) -> None:
    """Weighted sum of task vectors where one of them (`chosen`), or at least `least` of them, shapes the plain sum."""
    many = len(weights)
    base = np.empty(BLOCK, dtype=np.float64)
    total = np.empty(BLOCK, dtype=np.float64)
    weighted = np.empty(BLOCK, dtype=np.float64)
    votes = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty((many, BLOCK), dtype=np.float64)
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        _load_task_vectors(sources, codes, first, count, base, tau)
        for i in range(count):
            total[i] = 0.0
            weighted[i] = 0.0
            votes[i] = 0.0
        for k in range(many):
            for i in range(count):
                total[i] += tau[k, i]
                weighted[i] += weights[k] * tau[k, i]
        for k in range(many):
            if chosen < 0 or chosen == k:
                for i in range(count):
                    votes[i] += 1.0 if abs(tau[k, i]) > selectivity[k] * abs(total[i] - tau[k, i]) else 0.0
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
    base = np.empty(TREE, dtype=np.float64)
    spread = np.empty(TREE, dtype=np.float64)
    squares = np.empty(TREE, dtype=np.float64)
    tau = np.empty((many, TREE), dtype=np.float64)
    for first in range(start, stop, TREE):
        count = min(TREE, stop - first)
        _load_task_vectors(sources, codes, first, count, base, tau)
        _variance(tau, count, base, spread)
        for k in range(many):
            for i in range(count):
                squares[i] = tau[k, i] * tau[k, i] * (1.0 if spread[i] >= threshold else 0.0)
            for i in range(count, TREE):
                squares[i] = 0.0
            partial[k, first // TREE] = _tree_sum(squares)


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
                tau[k, i] *= 1.0 if spread[i] >= threshold else 0.0
                votes[i] += tau[k, i]
        for i in range(count):
            votes[i] = -1.0 if votes[i] < 0.0 else 1.0
        for k in range(many):
            for i in range(count):
                agrees = 1.0 if tau[k, i] * votes[i] > 0.0 else 0.0
                total[i] += weights[k] * tau[k, i] * agrees
                divisor[i] += weights[k] * agrees
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


@compiled
def magnitudes_between(start: int, stop: int, sources: Any, codes: Any, least: float, most: float, found: Any) -> int:
    """Collect |second − first source| in [least, most) as float32; returns how many there are."""
    base = np.empty(BLOCK, dtype=np.float64)
    tau = np.empty(BLOCK, dtype=np.float64)
    total = 0
    for first in range(start, stop, BLOCK):
        count = min(BLOCK, stop - first)
        load(sources[0], codes[0], first, count, base)
        load_difference(sources[1], codes[1], first, count, base, tau)
        hits = 0
        for i in range(count):
            tau[i] = abs(tau[i])
        for i in range(count):
            hits += 1 if (tau[i] >= least) & (tau[i] < most) else 0
        # Most blocks have none, and looking for them one by one is what costs.
        if hits > 0:
            for i in range(count):
                if tau[i] >= least and tau[i] < most:
                    found[total] = np.float32(tau[i])
                    total += 1
    return total


@compiled
def low_rank(
    start: int, stop: int, base: int, code: int, left: Any, right: Any, factor: float, out: int, out_code: int
) -> None:
    """Rows start..stop of base + factor · left · right, products added in the order of the rank."""
    rank, columns = right.shape
    total = np.empty(BLOCK, dtype=np.float64)
    values = np.empty(BLOCK, dtype=np.float64)
    first = 0
    while first < columns:
        count = min(BLOCK, columns - first)
        for row in range(start, stop):
            for i in range(count):
                total[i] = 0.0
            for k in range(rank):
                weight = left[row, k]
                for i in range(count):
                    total[i] += weight * right[k, first + i]
            load(base, code, row * columns + first, count, values)
            for i in range(count):
                values[i] += factor * total[i]
            store(values, out, out_code, row * columns + first, count)
        first += count

"""How far rows' softmaxes are from each other: the same bytes on every processor and with any number of threads.

Made of sums, products and quotients alone, since the exponentials and logarithms of libraries differ in their last
digits from one processor to the next. `evomerge.kernels.loops.divergence` takes the same steps, a number at a time.
"""

from __future__ import annotations

from math import factorial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.kernels.engines import compiled_for
from evomerge.kernels.memory import TREE, addresses_of, flattened
from evomerge.kernels.sums import tree_sums
from evomerge.kernels.threads import MIN_PART, in_parts
from evomerge.late import Tensor, torch

_LOG2_E, _LN2, _LN2_REST = 1.4426950408889634, 0.6931471803691238, 1.9082149292705877e-10
"""log₂ e, and ln 2 as a sum, whose first number leaves room for exact multiples."""
_SHIFT, _ROOT_HALF = 1.5 * 2.0**52, 0x3FE6A09E667F3BCD
"""What rounds a number to a whole one that its sum's last bits then are, and the bits of √½."""
_CHUNK = 1 << 18
"""Entries that are compared at a time without compiled loops."""


def divergences(base: Tensor, expert: Tensor, *, floor: float) -> NDArray[np.float64]:
    """KL(softmax(θ) ‖ softmax(θ₀)) of each row, Σ p ln(p / q), with `floor` added to each probability.

    Added up as p ln(p / q) − (p − q), where rows that hardly differ don't cancel: the error is then some 10⁻¹⁵ of the
    result over the relative difference of their probabilities.

    Args:
        base: θ₀, on the CPU. A row is its last dimension; of one dimension, all of it.
        expert: θ, of the same shape.
        floor: positive.

    Returns: not negative, shape (rows,); NaN for rows that hold NaN or +∞, while −∞ has a probability of 0.
    """
    length = base.shape[-1] if base.dim() else 1
    rows = base.numel() // max(1, length)
    flat = [flattened(tensor) for tensor in (base, expert)]
    result = np.empty(rows, dtype=np.float64)
    if compiled := compiled_for(*flat):
        arguments = (*addresses_of(flat), length, floor, result)

        def part(start: int, stop: int) -> None:
            compiled.divergences(start, stop, *arguments)

        in_parts(part, rows, grain=1, least=max(1, MIN_PART // max(1, length)))
        return result
    at_once = max(1, _CHUNK // max(1, length))
    for first in range(0, rows, at_once):
        q, p = (
            _softmax(tensor[first * length : (first + at_once) * length].to(torch.float64).numpy(), length) + floor
            for tensor in flat
        )
        with np.errstate(invalid="ignore"):  # what isn't finite is the caller's to notice
            result[first : first + at_once] = np.maximum(_row_sums(p * log_of_ratio(p, q) - (p - q)), 0.0)
    return result


def _softmax(values: NDArray[np.float64], length: int) -> NDArray[np.float64]:
    with np.errstate(invalid="ignore"):
        rows = values.reshape(-1, length)
        powers = exponential(rows - rows.max(axis=1, keepdims=True))
        return powers * (1.0 / _row_sums(powers))[:, None]


def _row_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Sums of rows, each stretch of TREE numbers as a tree."""
    padded = np.pad(values, ((0, 0), (0, -values.shape[1] % TREE)))
    trees = tree_sums(padded.reshape(len(values), -1, TREE), axis=2)
    return np.asarray(np.add.accumulate(trees, axis=1)[:, -1])


def exponential(numbers: NDArray[np.float64]) -> NDArray[np.float64]:
    """eˣ for x ≤ 0, by Taylor's series for what multiples of ln 2 leave of x; below −708 as at −708."""
    x = np.where(numbers < -708.0, -708.0, numbers)
    shifted = x * _LOG2_E + _SHIFT
    whole = shifted - _SHIFT
    rest = (x - whole * _LN2) - whole * _LN2_REST
    series = _polynomial(rest, [1 / factorial(power) for power in range(13, -1, -1)])
    return np.asarray(series * _of_bits((shifted.view(np.int64) + 1023) << 52))


def log_of_ratio(p: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """ln(p / q) of positive numbers, by the series of 2 artanh((p − q) / (p + q)), p having been brought near q."""
    power = ((p / q).view(np.int64) - _ROOT_HALF) >> 52
    near = p * _of_bits((1023 - power) << 52)
    s = (near - q) / (near + q)
    series = _polynomial(s * s, [1 / odd for odd in range(23, 0, -2)])
    return np.asarray(power.astype(np.float64) * (_LN2 + _LN2_REST) + 2.0 * s * series)


def _polynomial(x: NDArray[np.float64], factors: list[float]) -> Any:
    """By Horner's rule, the factor of the largest power first."""
    value: Any = factors[0]
    for factor in factors[1:]:
        value = value * x + factor
    return value


def _of_bits(bits: NDArray[np.int64]) -> NDArray[np.float64]:
    return bits.view(np.float64)

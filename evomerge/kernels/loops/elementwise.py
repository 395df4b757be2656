"""The loop of all elementwise merges: a formula for one element, over whole tensors.

A formula takes each source's number at an element, ranks that lie beside them, where it is, and its numbers
(coefficients, thresholds, keys), and gives the merged number with a bound of its error in float32:

    formula(values, ranks, place, numbers) -> value, bound

It is compiled twice: for float64, where the bound is of no use and left out, and for float32, several times
faster, where `proofs` tells which results are proved; the others are computed again in float64. Elements are
read two at a time, being the halves of 32-bit words, and never leave the registers on the way.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numba import carray  # type: ignore[attr-defined]

from evomerge.kernels.loops import proofs
from evomerge.kernels.loops.compile import contracted, optimised, owning, part
from evomerge.kernels.loops.numbers import BFLOAT16, BLOCK, load, lower, of_bits, store, uint16_at, upper
from evomerge.kernels.loops.tuples import (
    addresses_from,
    as_int32,
    bytes_at,
    copy_line,
    double_words_at,
    doubles_at,
    each,
    halves_at,
    moved,
    put_double,
    put_word,
    settle,
    stream_line,
    words_at,
)

PAIRS = 256
"""Pairs of elements that are merged at a time in float32."""

_STRIP = 8
"""Pairs that are computed again together."""

_LINE = 64


@owning
def run(formula: Any, start: int, stop: int, work: Any) -> bool:
    """Merge elements start..stop; returns whether all that was written is finite.

    `work` is as from `evomerge.kernels.fuse.fuse`: (sources, codes, halves, singles, ranks, wide, small, out,
    out_code, streamed). `wide` and `small` are the formula's numbers in float64 and float32; `small` is None where
    results can't be proved, otherwise the sources are `halves`, of bfloat16, and then `singles`, of float32.
    """
    sources, _, _, _, _, wide, small, _, _, _ = work
    return bool(run_segment(formula, start, stop, work, wide, small, make_buffers(sources)))


@owning
def make_buffers(sources: Any) -> Any:
    """Room for a block of decoded sources, of results in either precision, marks, and how often proofs failed."""
    rows = np.empty((len(sources), BLOCK), dtype=np.float64)
    result = np.empty(BLOCK, dtype=np.float64)
    words = np.empty(PAIRS + _LINE // 4, dtype=np.uint32)
    marks = np.empty(PAIRS, dtype=np.int32)
    tried_and_failed = np.zeros(2, dtype=np.int64)
    return rows, result, words, marks, tried_and_failed


@part
def run_segment(formula: Any, start: int, stop: int, work: Any, wide: Any, small: Any, buffers: Any) -> bool:
    """As `run`, with these numbers in place of the work's own."""
    _, _, _, _, _, _, _, out, out_code, _ = work
    finite, first = True, start
    if small is not None:
        finite, first = _run_narrow(formula, start, stop, work, wide, small, buffers)
    while first < stop:
        count = min(BLOCK, stop - first)
        finite = _merge_wide(formula, first, count, work, wide, buffers, out, out_code, first) and finite
        first += count
    return finite


@part
def _run_narrow(formula: Any, start: int, stop: int, work: Any, wide: Any, small: Any, buffers: Any) -> Any:
    """Merge in float32 while that is worthwhile; returns whether all is finite and where it stopped."""
    _, _, words, marks, tried_and_failed = buffers
    _, _, _, _, _, _, _, out, _, streamed = work
    # Of one type everywhere, these let `_merge_again` be compiled once.
    written, code = np.int64((words.ctypes.data + _LINE - 1) // _LINE * _LINE), np.int64(BFLOAT16)
    finite, first = True, start
    while first < stop and proofs.worthwhile(tried_and_failed[0], tried_and_failed[1]):
        count = min(2 * PAIRS, stop - first)
        pairs = count // 2
        joined = _prove(formula, first, pairs, work, small, written, marks.ctypes.data)
        tried_and_failed[0] += count
        if proofs.unsure(joined):
            for strip in range(0, pairs, _STRIP):
                last = min(pairs, strip + _STRIP)
                if proofs.any_unsure(marks, strip, last):
                    again = 2 * (last - strip)
                    tried_and_failed[1] += again
                    finite = (
                        _merge_again(formula, first + 2 * strip, again, work, wide, buffers, written, code, 2 * strip)
                        and finite
                    )
        if count % 2:
            rest = count - 1
            finite = (
                _merge_again(formula, first + rest, count - rest, work, wide, buffers, written, code, rest) and finite
            )
        _write(written, out + 2 * first, count, streamed)
        first += count
    if streamed:
        settle()  # type: ignore[call-arg]
    return finite, first


@contracted
def _prove(formula: Any, first: int, pairs: int, work: Any, numbers: Any, words: int, marks: int) -> Any:
    """Merge pairs from element `first` on into `words`, with a mark for each; returns all marks joined."""
    _, _, halves, singles, ranks, _, _, _, _, _ = work
    halves, singles, ranks = moved(halves, 2 * first), moved(singles, 4 * first), moved(ranks, first)
    low, high = place_of(first)
    joined = np.int32(0)
    for i in range(pairs):
        here, there, bytes_ = words_at(halves, i), double_words_at(singles, i), halves_at(ranks, i)
        at = np.uint32(low + np.uint32(2 * i))
        value, bound = formula(_lower(here) + _first(there), _low_byte(bytes_), (at, high), numbers)
        one, one_mark = proofs.rounded(value, bound)
        at = np.uint32(at + np.uint32(1))
        value, bound = formula(_upper(here) + _second(there), _high_byte(bytes_), (at, high), numbers)
        two, two_mark = proofs.rounded(value, bound)
        put_word(words, i, np.uint32((np.uint32(one) >> np.uint32(16)) | (np.uint32(two) & np.uint32(0xFFFF0000))))
        mark = np.int32(one_mark | two_mark)
        put_word(marks, i, np.uint32(mark))
        joined = np.int32(joined | mark)
    return joined


@optimised
def _merge_wide(
    formula: Any, first: int, count: int, work: Any, numbers: Any, buffers: Any, out: int, out_code: int, at: int
) -> bool:
    """Merge elements first..first+count in float64 and round them once, as elements from `at` on at `out`."""
    sources, codes, _, _, ranks, _, _, _, _, _ = work
    rows, result, _, _, _ = buffers
    for k in range(len(sources)):
        load(sources[k], codes[k], first, count, rows[k])
    ranks, read = moved(ranks, first), addresses_from(rows.ctypes.data, 8 * BLOCK, sources)
    written = result.ctypes.data
    low, high = place_of(first)
    for i in range(count):
        place = (np.uint32(low + np.uint32(i)), high)
        value, _ = formula(doubles_at(read, i), as_int32(bytes_at(ranks, i)), place, numbers)
        put_double(written, i, value)
    return bool(store(result, out, out_code, at, count))


@partial(part, forceinline=False)
def _merge_again(
    formula: Any, first: int, count: int, work: Any, numbers: Any, buffers: Any, out: int, out_code: int, at: int
) -> bool:
    """As `_merge_wide`, for a few elements: compiled once, though it is called here and there."""
    return bool(_merge_wide(formula, first, count, work, numbers, buffers, out, out_code, at))


@part
def place_of(index: int) -> Any:
    """An element's index in two words, the lower first; elements of one block don't differ in the upper one."""
    return np.uint32(index & 0xFFFFFFFF), np.uint32(index >> 32)


@part
def _write(words: int, target: int, count: int, streamed: bool) -> None:
    """Copy so many bfloat16 numbers to where they belong."""
    lines = 2 * count // _LINE
    if streamed and target % _LINE == 0:
        for line in range(lines):
            stream_line(words + _LINE * line, target + _LINE * line)
    else:
        for line in range(lines):
            copy_line(words + _LINE * line, target + _LINE * line)
    _copy(words, target, lines * _LINE // 2, count)


@owning
def _copy(words: int, target: int, start: int, stop: int) -> None:
    source, result = carray(uint16_at(words), (stop,)), carray(uint16_at(target), (stop,))
    for i in range(start, stop):
        result[i] = source[i]


@each
def _lower(word: Any) -> Any:
    return lower(word)


@each
def _upper(word: Any) -> Any:
    return upper(word)


@each
def _first(words: Any) -> Any:
    return of_bits(np.uint32(words & np.uint64(0xFFFFFFFF)))


@each
def _second(words: Any) -> Any:
    return of_bits(np.uint32(words >> np.uint64(32)))


@each
def _low_byte(pair: Any) -> Any:
    return np.int32(pair & np.uint16(0xFF))


@each
def _high_byte(pair: Any) -> Any:
    return np.int32(pair >> np.uint16(8))

"""Loops of the linear assignment: bids of an auction, then shortest paths for the rows that it leaves."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.kernels.loops.compile import compiled, part

_BLOCK = 64
_NO_NAN = {"nnan", "nsz"}


def _best_two(row: Any, prices: Any, tops: Any) -> tuple[float, float, int]:
    """The largest and the second largest of row − prices, and where the largest is; `tops` has room for blocks."""
    size = len(row)
    blocks = size // _BLOCK
    # Only blocks that reach above the second best are looked at number by number.
    for block in range(blocks):
        start = block * _BLOCK
        top = row[start] - prices[start]
        for j in range(start + 1, start + _BLOCK):
            value = row[j] - prices[j]
            top = value if value > top else top
        tops[block] = top
    best, second, at = -np.inf, -np.inf, 0
    for block in range(blocks):
        if tops[block] > second:
            for j in range(block * _BLOCK, block * _BLOCK + _BLOCK):
                value = row[j] - prices[j]
                if value > best:
                    second, best, at = best, value, j
                elif value > second:
                    second = value
    for j in range(blocks * _BLOCK, size):
        value = row[j] - prices[j]
        if value > best:
            second, best, at = best, value, j
        elif value > second:
            second = value
    return best, second, at


def _relax(row: Any, prices: Any, base: float, distances: Any, before: Any, source: int) -> None:
    """Take the way through `source` to every column that it is shorter to."""
    for j in range(len(row)):
        through = base + prices[j] - row[j]
        known = distances[j]
        before[j] = source if through < known else before[j]
        distances[j] = through if through < known else known


def _nearest(distances: Any, owners: Any) -> tuple[float, int]:
    """The smallest distance and where it is, at a column without an owner if one is as near."""
    size = len(distances)
    blocks = size // _BLOCK
    least, at = np.inf, -1
    for block in range(blocks):
        start = block * _BLOCK
        low = distances[start]
        for j in range(start + 1, start + _BLOCK):
            low = distances[j] if distances[j] < low else low
        if low <= least:
            for j in range(start, start + _BLOCK):
                if distances[j] < least or (distances[j] == least and owners[j] < 0):
                    least, at = distances[j], j
    for j in range(blocks * _BLOCK, size):
        if distances[j] < least or (distances[j] == least and owners[j] < 0):
            least, at = distances[j], j
    return least, at


best_two = part(_best_two, fastmath=_NO_NAN)
relax = part(_relax, fastmath=_NO_NAN)
nearest = part(_nearest, fastmath=_NO_NAN)


@compiled
def bid(scores: Any, prices: Any, increment: float, most: int) -> int:
    """Let rows bid for columns, raising prices, until each has one or `most` bids were made; the number of bids.

    A row bids for the column that leaves it most, as far as to be `increment` worse off than with the second best.
    """
    size = scores.shape[0]
    owners = np.full(size, -1, dtype=np.int64)
    waiting = np.arange(size - 1, -1, -1)
    tops = np.empty(size // _BLOCK + 1)
    left, bids = size, 0
    while left > 0 and bids < most:
        left -= 1
        row = waiting[left]
        best, second, at = best_two(scores[row], prices, tops)
        prices[at] += best - second + increment
        former = owners[at]
        owners[at] = row
        if former >= 0:
            waiting[left] = former
            left += 1
        bids += 1
    return bids


@compiled
def assign(scores: Any, prices: Any, profits: Any, order: Any) -> int:
    """The assignment of the largest sum, from any prices; the number of rows that a path was sought for.

    Rows take the column that leaves them most where no other did. Each of the others takes one along the shortest
    path of exchanges (Dijkstra's, over profits + prices − scores, which is 0 for what is assigned and never less).

    Args:
        scores: (n, n).
        prices: (n,), where to start; on return those of the columns.
        profits: (n,), on return those of the rows.
        order: (n,) int64, on return the column of each row.
    """
    size = scores.shape[0]
    tops = np.empty(size // _BLOCK + 1)
    owners = np.full(size, -1, dtype=np.int64)
    free = np.empty(size, dtype=np.int64)
    count = 0
    for row in range(size):
        best, _, at = best_two(scores[row], prices, tops)
        profits[row] = best
        order[row] = -1
        if owners[at] >= 0:
            # Of scores that are alike any other column may be as good, and no path is needed.
            for j in range(size):
                if owners[j] < 0 and scores[row, j] - prices[j] == best:
                    at = j
                    break
        if owners[at] < 0:
            owners[at] = row
            order[row] = at
        else:
            free[count] = row
            count += 1
    distances, lengths, asked = np.empty(size), np.empty(size), np.empty(size)
    before, reached = np.zeros(size, dtype=np.int64), np.empty(size, dtype=np.int64)
    for place in range(count):
        start = free[place]
        row, length, steps = start, 0.0, 0
        for j in range(size):
            distances[j] = np.inf
            asked[j] = prices[j]
        while True:
            relax(scores[row], asked, length + profits[row], distances, before, row)
            length, column = nearest(distances, owners)
            reached[steps] = column
            lengths[steps] = length
            steps += 1
            # An infinite price keeps a column that was reached from being reached again.
            asked[column] = distances[column] = np.inf
            if owners[column] < 0:
                break
            row = owners[column]
        for step in range(steps):
            more = length - lengths[step]
            prices[reached[step]] += more
            if owners[reached[step]] >= 0:
                profits[owners[reached[step]]] -= more
        profits[start] -= length
        while True:
            row = before[column]
            owners[column] = row
            following = order[row]
            order[row] = column
            if row == start:
                break
            column = following
    return count

"""Which items to ask first: orders in which any number from the front is a good sample, and anchors with weights.

Each order takes what models have scored so far and a seed, and returns a permutation of the items. A mean of items
chosen by `information` or `entropy` isn't that of all: only an estimator that knows the items makes up for it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import unknown
from evomerge.estimate.irt import fit
from evomerge.estimate.irt import information as fisher_information
from evomerge.estimators.base import Scores
from evomerge.estimators.units import units_of
from evomerge.streams import stream

Order = NDArray[np.intp]


class Anchors(NamedTuple):
    """Items that stand for others, (count,), and the share of all items that each stands for, which sum to 1."""

    items: Order
    weights: Scores


def random(scores: Scores, seed: int) -> Order:
    """Items in random order."""
    order: Order = stream(seed, "items").permutation(scores.shape[1])
    return order


def stratified(scores: Scores, seed: int) -> Order:
    """Random, but any number of items from the front are spread evenly from easy to hard.

    Places between easy and hard are taken by van der Corput's sequence, whose every stretch is spread evenly.
    """
    items = scores.shape[1]
    shuffled = random(scores, seed)
    ranked = shuffled[np.argsort(_shares(scores)[shuffled], kind="stable")]
    size = 1 << max(0, (items - 1).bit_length())
    places = np.arange(size)
    turned = np.zeros(size, dtype=np.intp)
    for bit in range(size.bit_length() - 1):
        turned |= ((places >> bit) & 1) << (size.bit_length() - 2 - bit)
    # A random start, so that which items come first is left to chance as well.
    cells = (turned + int(stream(seed, "start").integers(size))) % size
    order = np.floor(cells * items / size).astype(np.intp)
    _, first = np.unique(order, return_index=True)
    spread = order[np.sort(first)]
    return np.asarray(ranked[np.append(spread, np.setdiff1d(np.arange(items), spread))])


def entropy(scores: Scores, seed: int) -> Order:
    """Those first on which models differ most: by the entropy of the share that are right (as Evo-L2S chooses)."""
    share = np.clip(_shares(scores), 1e-9, 1 - 1e-9)
    return _from_high_to_low(-share * np.log(share) - (1 - share) * np.log(1 - share), seed)


def information(scores: Scores, seed: int) -> Order:
    """Those first that tell most of abilities like those of the better half of the models (Fisher information)."""
    shares = units_of(scores).shares(scores)
    bank = fit(shares)
    abilities = bank.abilities
    better = abilities[abilities[:, 0] >= np.median(abilities[:, 0])]
    return _from_high_to_low(fisher_information(bank, better), seed)


ORDERS: dict[str, Callable[[Scores, int], Order]] = {
    "random": random,
    "stratified": stratified,
    "entropy": entropy,
    "information": information,
}
"""Orders by name."""


def order_of(name: str, scores: Scores, seed: int) -> Order:
    """The items' order by a name of `ORDERS`.

    Args:
        name: of the order.
        scores: of models so far, (models, items) with NaN; perhaps of none, and then items come in random order.
        seed: of what is left to chance.

    Raises: ValueError for another name.
    """
    if name not in ORDERS:
        raise ValueError(unknown("order of items", name, ORDERS))
    order = ORDERS[name if np.isfinite(scores).any() else "random"]
    return order(scores, seed)


def anchors(scores: Scores, count: int, *, dimensions: int = 1) -> Anchors:
    """Items from the middle of clusters of items that are alike in slopes and difficulty (tinyBenchmarks).

    Args:
        scores: of models so far, (models, items) with NaN.
        count: of anchors, at most as many as there are items.
        dimensions: of ability.
    """
    bank = fit(units_of(scores).shares(scores), dimensions=dimensions)
    points = np.column_stack([bank.slopes, bank.difficulties])
    centres = points[[int(np.argmin(np.sum((points - points.mean(axis=0)) ** 2, axis=1)))]]
    while len(centres) < min(count, len(points)):
        # Each further centre is the item that is farthest from all so far.
        distance = _distances(points, centres).min(axis=1)
        centres = np.vstack([centres, points[int(np.argmax(distance))]])
    for _ in range(50):
        nearest = np.argmin(_distances(points, centres), axis=1)
        moved = np.array(
            [
                points[nearest == place].mean(axis=0) if (nearest == place).any() else centre
                for place, centre in enumerate(centres)
            ]
        )
        if np.allclose(moved, centres, atol=1e-9):
            break
        centres = moved
    nearest = np.argmin(_distances(points, centres), axis=1)
    items, weights = [], []
    for place, centre in enumerate(centres):
        members = np.flatnonzero(nearest == place)
        if members.size:
            items.append(int(members[np.argmin(np.sum((points[members] - centre) ** 2, axis=1))]))
            weights.append(members.size / len(points))
    return Anchors(np.array(items, dtype=np.intp), np.array(weights))


def _shares(scores: Scores) -> Scores:
    """Mean share that models have right of each item, (items,); of one that none answered, the mean of the others."""
    shares = units_of(scores).shares(scores)
    counts = np.isfinite(shares).sum(axis=0)
    usual = float(np.nanmean(shares)) if counts.any() else 0.5
    return np.asarray(np.where(counts > 0, np.nansum(shares, axis=0) / np.maximum(counts, 1), usual))


def _from_high_to_low(worth: Scores, seed: int) -> Order:
    """Items by what each is worth; equals in random order."""
    shuffled = stream(seed, "items").permutation(worth.size)
    return np.asarray(shuffled[np.argsort(-np.round(worth[shuffled], 12), kind="stable")])


def _distances(points: Scores, centres: Scores) -> Scores:
    return np.asarray(np.sum((points[:, np.newaxis] - centres[np.newaxis]) ** 2, axis=2))

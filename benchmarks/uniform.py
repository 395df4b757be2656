"""How good the best uniform merge is, by how the scan is laid out and how one of its merges is chosen.

    python benchmarks/uniform.py --experts 2 3 4 6 --scan 16 --items 100 --seeds 400

No model is merged: a merge with weight vector w answers each of 100 search and 50 validation items rightly with the
probability 0.75 exp(-1.5 (w - o)' H (w - o)), which is what is reported of the one that is chosen. For each seed the
best weights o and the interference H = (I + N)'(I + N) are drawn anew: o from a Dirichlet distribution times a factor
from 0.7 to 1.8, N of normal numbers with standard deviation 0.6 / sqrt(experts). Weights are from 0 to 1.5, and the
default 0.5.

`equal` has the same weight for every expert, evenly spaced; with two experts it is the grid of as many whole levels as
fit. `spread` is what a search does. Both cost as many evaluations, but for the grid, which leaves some of them out. The
last column takes the five with the best search scores, leaves out those that are clearly worse than the best of them,
and takes the best of the rest on the validation items, as a search does.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from numpy.typing import NDArray

from evomerge.space.scan import spread
from evomerge.streams import stream

LOW, HIGH, DEFAULT, SHORTLIST = 0.0, 1.5, 0.5, 5

Points = NDArray[np.float64]


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[2, 3, 4, 6])
    parser.add_argument("--scan", type=int, nargs="+", default=[16])
    parser.add_argument("--items", type=int, default=100, help="search items; half as many are for validation")
    parser.add_argument("--seeds", type=int, default=400)
    options = parser.parse_args()
    print("| experts | scan | equal | spread | difference, its 95% interval | spread, validated |")
    print("|---|---|---|---|---|---|")
    for experts, count in itertools.product(options.experts, options.scan):
        layouts = equal(experts, count), scan(experts, count)
        found = np.array([[chosen(points, options.items, seed) for points in layouts] for seed in range(options.seeds)])
        one, other = found[:, 0, 0], found[:, 1, 0]
        gain, error = (other - one).mean(), 1.96 * (other - one).std(ddof=1) / len(one) ** 0.5
        print(
            f"| {experts} | {count} | {_shown(one)} | {_shown(other)} | {gain:+.3f} [{gain - error:+.3f}, "
            f"{gain + error:+.3f}] | {_shown(found[:, 1, 1])} |"
        )


def equal(experts: int, count: int) -> Points:
    """The default and equal weights, or a grid where three levels of each expert fit."""
    levels = int((count - 0.5) ** (1 / experts))
    number = levels if levels >= 3 else count - 1
    steps = LOW + (HIGH - LOW) * np.arange(1, number + 1) / (number + 1)
    grid = itertools.product(steps, repeat=experts) if levels >= 3 else ((step,) * experts for step in steps)
    return _different([(DEFAULT,) * experts, *grid])


def scan(experts: int, count: int) -> Points:
    """The default and what `spread` gives."""
    return _different([np.full(experts, DEFAULT), *spread(experts, LOW, HIGH, count - 1)])[:count]


def chosen(points: Points, items: int, seed: int) -> tuple[float, float]:
    """True accuracy of the merge that is best on the search items, and of the best of five on validation items."""
    experts = points.shape[1]
    landscape, draws = stream(seed, "landscape"), stream(seed, "answers")
    optimum = landscape.dirichlet(np.full(experts, 1.5)) * landscape.uniform(0.7, 1.8)
    skew = np.eye(experts) + landscape.normal(0.0, 0.6 / experts**0.5, (experts, experts))
    accuracy = 0.75 * np.exp(-1.5 * np.sum(((points - optimum) @ skew.T) ** 2, axis=1))
    right = draws.binomial(items, accuracy) / items
    best = np.argsort(-right, kind="stable")[:SHORTLIST]
    error = np.sqrt((right * (1 - right))[best] / items + right[best[0]] * (1 - right[best[0]]) / items)
    best = best[right[best[0]] - right[best] <= 1.96 * error]
    validation = draws.binomial(items // 2, accuracy[best])
    return float(accuracy[best[0]]), float(accuracy[best[int(validation.argmax())]])


def _different(points: list[tuple[float, ...]] | list[Points]) -> Points:
    return np.array(list(dict.fromkeys(tuple(map(float, point)) for point in points)))


def _shown(values: Points) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1):.3f}"


if __name__ == "__main__":
    main()

"""Search algorithms on functions with known optima, at equal evaluations: standard ones, and landscapes like merges'.

    python benchmarks/search/algorithms.py --json algorithms.json --figure algorithms.svg   # drawn by matplotlib

Standard functions are without noise, and what counts is the best value that a search has evaluated. Landscapes like
those of merges have item noise: a candidate answers items with two-parameter logistic probabilities, its ability falls
with the distance of its coefficients from a hidden optimum, more in a few directions than in the others, and what
counts is the expected share of right answers of the candidate with the best score: what a search would hand over.
Every search starts at the middle of its box, a fifth of its range away from the optimum in each dimension, to either
side.

`pycma` is that package's own run (ask and tell, with its defaults but the population, bounds and first step); `cma` is
expected to be as good. Each figure is the median over seeds, with the lowest and the highest.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cma
import numpy as np
from numpy.typing import NDArray

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.population import default_population
from evomerge.space.base import Dimension

Points = NDArray[np.float64]
Function = Callable[[Points], tuple[float, float, Points]]
"""What is told of a point, what it is truly worth, and its scores on items; higher is better."""

OFFSET, STEP = 0.2, 0.15
ALGORITHMS = ("pycma", "cma", "cma:diagonal", "cma_lra", "m2n2", "tpe", "gp", "qmc", "random")
"""After a colon stands an option that is switched on."""
SLOW = {"tpe": 3_000, "gp": 2_000, "qmc": 12_000, "random": 36_000}
"""Dimensions times evaluations up to which an algorithm is run, whose own cost grows."""


def standard(name: str, dimensions: int, seed: int) -> Function:
    """Minus the base-10 logarithm of a function whose lowest value is 0."""
    shift = np.random.default_rng(seed).choice([-1.0, 1.0], dimensions) * OFFSET
    scale = 10 ** (6 * np.arange(dimensions) / max(1, dimensions - 1))

    def value(point: Points) -> tuple[float, float, Points]:
        x = 10 * (point - 0.5 - shift)
        if name == "sphere":
            found = np.sum(x**2)
        elif name == "ellipsoid":
            found = np.sum(scale * x**2)
        elif name == "rosenbrock":
            z = x + 1
            found = np.sum(100 * (z[1:] - z[:-1] ** 2) ** 2 + (1 - z[:-1]) ** 2)
        else:
            # So that the start is no bottom of a basin.
            x = 1.15 * x
            found = np.sum(x**2 + 10 * (1 - np.cos(2 * np.pi * x)))
        told = -float(np.log10(max(float(found), 1e-12)))
        return told, told, np.array([told])

    return value


def merges(dimensions: int, seed: int, items: int) -> Function:
    """Right answers to items, of a candidate whose ability falls away from an optimum."""
    generator = np.random.default_rng(seed)
    shift = generator.choice([-1.0, 1.0], dimensions) * OFFSET
    turned = np.linalg.qr(generator.normal(size=(dimensions, dimensions)))[0]
    weights = 1.0 / (1.0 + np.arange(dimensions))
    weights *= dimensions / weights.sum()
    slope, difficulty = generator.lognormal(0.0, 0.3, items), generator.normal(0.0, 1.0, items)
    luck = generator.uniform(size=items)

    def value(point: Points) -> tuple[float, float, Points]:
        away = turned @ (point - 0.5 - shift)
        ability = 1.0 - 40.0 * float(np.mean(weights * away**2))
        chance = 1.0 / (1.0 + np.exp(-slope * (ability - difficulty)))
        # The same model answers the same: its luck is of its weights, half of it shared by all models.
        own = np.random.default_rng(np.frombuffer(point.tobytes(), np.uint32)).uniform(size=items)
        drawn = np.where(np.arange(items) % 2 == 0, luck, own)
        right = (drawn < chance).astype(np.float64)
        return float(right.mean()), float(chance.mean()), right

    return value


def searched(algorithm: str, function: Function, dimensions: int, evaluations: int, items: int, seed: int) -> float:
    """What the best candidate by what was told of it is truly worth."""
    population = default_population(dimensions, evaluations, items)
    found: list[tuple[float, float, Points]] = []
    if algorithm == "pycma":
        settings = {"popsize": population, "bounds": [0, 1], "seed": seed + 1, "verbose": -9, "verb_log": 0}
        strategy = cma.CMAEvolutionStrategy([0.5] * dimensions, STEP, settings)
        while len(found) < evaluations:
            points = strategy.ask()
            values = [function(np.asarray(point)) for point in points]
            strategy.tell(points, [-told for told, _, _ in values])
            found += values
    else:
        box = [Dimension(name=f"x{place}", low=0.0, high=1.0, initial=0.5) for place in range(dimensions)]
        name, _, option = algorithm.partition(":")
        switched_on = {option: True} if option else {}
        proposer = PROPOSERS.get(name)(box, seed=seed, population=population, step_size=STEP, options=switched_on)
        while len(found) < evaluations:
            genomes = proposer.ask()
            values = [function(genome) for genome in genomes]
            proposer.tell(
                genomes, np.array([[told] for told, _, _ in values]), np.array([items for *_, items in values])
            )
            found += values
    return max((told, truth) for told, truth, _ in found[:evaluations])[1]


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every algorithm on every function at every number of dimensions."""
    rows = []
    names = [*options.functions, *(["merges"] if options.items else [])]
    for name, dimensions in itertools.product(names, options.dimensions):
        evaluations = options.evaluations
        for algorithm in options.algorithms:
            # Without items there is nothing that M2N2's merges could compete for.
            too_slow = dimensions * evaluations > options.patience * SLOW.get(algorithm, np.inf)
            if too_slow or (algorithm == "m2n2" and name != "merges"):
                continue
            start, values = time.process_time(), []
            for seed in range(options.seeds):
                is_standard = name != "merges"
                function = standard(name, dimensions, seed) if is_standard else merges(dimensions, seed, options.items)
                items = 1000 if is_standard else options.items
                values.append(searched(algorithm, function, dimensions, evaluations, items, seed))
            rows.append(
                {
                    "function": name,
                    "dimensions": dimensions,
                    "algorithm": algorithm,
                    "values": values,
                    "median": float(np.median(values)),
                    "seconds": (time.process_time() - start) / options.seeds,
                }
            )
            print(told(rows[-1]), flush=True)
    return rows


def told(row: dict[str, Any]) -> str:
    """A row of the table."""
    low, middle, high = min(row["values"]), row["median"], max(row["values"])
    where = f"{row['function']:12}{row['dimensions']:>5}  {row['algorithm']:10}"
    return f"{where}{middle:>9.3f} ({low:.3f} to {high:.3f}){row['seconds']:>9.2f} s"


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A panel for each function, a line for each algorithm over dimensions."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    names = list(dict.fromkeys(row["function"] for row in rows))
    figure, axes = pyplot.subplots(1, len(names), figsize=(3.2 * len(names), 3.2), squeeze=False)
    for name, panel in zip(names, axes[0], strict=True):
        for algorithm in dict.fromkeys(row["algorithm"] for row in rows):
            own = [row for row in rows if (row["function"], row["algorithm"]) == (name, algorithm)]
            spread = np.array([[row["median"] - min(row["values"]), max(row["values"]) - row["median"]] for row in own])
            where = [row["dimensions"] for row in own]
            if own:
                panel.errorbar(
                    where, [row["median"] for row in own], spread.T, label=algorithm, marker="o", ms=3, capsize=2
                )
        panel.set(title=name, xlabel="dimensions", xscale="log")
    axes[0][0].set_ylabel("higher is better")
    axes[0][-1].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Search, print a table, write JSON and a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    functions = ["sphere", "ellipsoid", "rosenbrock", "rastrigin"]
    parser.add_argument("--functions", nargs="*", choices=functions, default=functions)
    parser.add_argument("--dimensions", nargs="+", type=int, default=[20, 60, 200])
    parser.add_argument("--algorithms", nargs="+", default=list(ALGORITHMS))
    parser.add_argument("--evaluations", type=int, default=600, help="candidates of each search")
    parser.add_argument("--items", type=int, default=200, help="of the landscapes like merges'; 0: without these")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument(
        "--patience", type=float, default=1.0, help="how many times as large searches algorithms whose cost grows get"
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        f"{'function':12}{'dim.':>5}  {'algorithm':10}{'median':>9} (lowest to highest), processor time of one search"
    )
    rows = measure(options)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.figure is not None:
        draw(rows, options.figure)


if __name__ == "__main__":
    main()

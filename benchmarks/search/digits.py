"""Merges of two networks that have each seen half of the digits, by search: M2N2's own comparison, over many pairs.

    python benchmarks/search/digits.py --json digits.json --figure digits.svg

As in the code of Abrantes et al. 2025 (arXiv 2508.16204), networks have one hidden layer of 256 units and are trained
apart by a few steps of Adam on all their images, one on the digits 0 to 4, the other on 5 to 9. Their code has one pair
of networks for all its runs, and searches on the images that these were trained on; here every seed has its own pair,
and images to search on that no network has seen. A genome has the second network's share in each of some stretches of
the flat vector of weights. Every candidate answers all search images, and all searches have the same number of them.

- `m2n2`: competition for items and attraction of parents, as `search.algorithm: m2n2` has it.
- `no attraction`, `no competition`: the same with one of the two turned off; `genetic`: with both turned off.
- `m2n2, no mutation`, `genetic, no mutation`: shares come from parents alone, as in the paper's search from networks
  that are trained already. Its archive begins with the two networks, this one with merges around their average.
- `one share`: `m2n2` with one share for all weights, that is without split points.
- `uniform`: one share for all weights, evenly spaced: the line between both networks.

What counts is the accuracy on test images of the candidate with the best accuracy on the search images, the first of
equals. Each figure is the median over the pairs, with the lowest and highest; then come the pairs on which a search has
done better and worse than `m2n2`, and the median of the differences.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from evomerge.algorithms import PROPOSERS
from evomerge.report.figures import COLOURS
from evomerge.report.plane import Plane, Series
from evomerge.space.base import Dimension, Genome
from evomerge.streams import derive, stream

PIXELS, HIDDEN, CLASSES = 64, 256, 10
SIZES = (PIXELS * HIDDEN, HIDDEN, HIDDEN * CLASSES, CLASSES)
POPULATION, STEP = 16, 0.15


class Images(NamedTuple):
    """Pixels from 0 to 16, float32 (images, 64), and what they show, int64 (images,)."""

    pixels: Tensor
    labels: Tensor


class Pair:
    """Two networks, and the search and test images that their merges are asked about."""

    def __init__(self, seed: int, steps: int, search: int) -> None:
        pixels, labels = load_digits(return_X_y=True)
        order = stream(seed, "images").permutation(len(labels))
        parts = np.split(order, [search, search + len(labels) // 5])
        self._search, self._test, train = (
            Images(torch.from_numpy(pixels[part].astype(np.float32)), torch.from_numpy(labels[part])) for part in parts
        )
        self.first, self.second = (
            trained(Images(train.pixels[seen], train.labels[seen]), steps, derive(seed, "start", number))
            for number, seen in enumerate((train.labels < 5, train.labels >= 5))
        )

    def scores(self, genome: Genome) -> NDArray[np.float64]:
        """Which search images a merge gets right, (images,)."""
        return self._right(genome, self._search)

    def tested(self, genome: Genome) -> float:
        """A merge's accuracy on the test images."""
        return float(self._right(genome, self._test).mean())

    @torch.no_grad()
    def _right(self, genome: Genome, images: Images) -> NDArray[np.float64]:
        places = torch.arange(sum(SIZES)) * len(genome) // sum(SIZES)
        share = torch.from_numpy(genome.astype(np.float32))[places]
        logits = network(torch.lerp(self.first, self.second, share), images.pixels)
        right: NDArray[np.float64] = (logits.argmax(-1) == images.labels).double().numpy()
        return right


def network(weights: Tensor, pixels: Tensor) -> Tensor:
    """Logits (images, 10) of a network given as one flat vector."""
    into, bias, out, last = weights.split(SIZES)
    hidden = functional.relu(torch.addmm(bias, pixels, into.view(PIXELS, HIDDEN)))
    return torch.addmm(last, hidden, out.view(HIDDEN, CLASSES))


def trained(images: Images, steps: int, seed: int) -> Tensor:
    """A network's weights from a random start, after so many steps on all images."""
    weights = 0.01 * torch.randn(sum(SIZES), generator=torch.Generator().manual_seed(seed))
    weights.requires_grad_()
    optimiser = torch.optim.Adam([weights], lr=0.003)
    for _ in range(steps):
        optimiser.zero_grad()
        torch.autograd.backward(functional.cross_entropy(network(weights, images.pixels), images.labels))
        optimiser.step()
    return weights.detach()


def searched(
    pair: Pair, name: str, seed: int, *, stretches: int, budgets: Sequence[int], options: dict[str, Any] | None = None
) -> list[float]:
    """Test accuracy of the candidate that is best on the search images, after each number of candidates."""
    box = [Dimension(name=f"share{place}", low=0.0, high=1.0, initial=0.5) for place in range(stretches)]
    proposer = PROPOSERS.get(name)(box, seed=seed, population=POPULATION, step_size=STEP, options=options)
    candidates: list[Genome] = []
    accuracy: list[float] = []
    while len(accuracy) < max(budgets):
        genomes = proposer.ask()
        scores = np.stack([pair.scores(genome) for genome in genomes])
        proposer.tell(genomes, scores.mean(axis=1, keepdims=True), scores)
        candidates += genomes
        accuracy += scores.mean(axis=1).tolist()
    return [pair.tested(candidates[int(np.argmax(accuracy[:budget]))]) for budget in budgets]


def along_the_line(pair: Pair, seed: int, *, stretches: int, budgets: Sequence[int]) -> list[float]:
    """The same for evenly spaced shares of the second network."""
    found = []
    for budget in budgets:
        shares = [np.array([share]) for share in np.linspace(0, 1, budget)]
        found.append(pair.tested(max(shares, key=lambda share: pair.scores(share).mean())))
    return found


def one_share(pair: Pair, seed: int, *, stretches: int, budgets: Sequence[int]) -> list[float]:
    """M2N2 without split points."""
    return searched(pair, "m2n2", seed, stretches=1, budgets=budgets)


WAYS = {
    "m2n2": partial(searched, name="m2n2"),
    "no attraction": partial(searched, name="m2n2", options={"attraction": False}),
    "no competition": partial(searched, name="m2n2", options={"competition": 0.0}),
    "genetic": partial(searched, name="m2n2", options={"attraction": False, "competition": 0.0}),
    "m2n2, no mutation": partial(searched, name="m2n2", options={"mutation": 0.0}),
    "genetic, no mutation": partial(
        searched, name="m2n2", options={"attraction": False, "competition": 0.0, "mutation": 0.0}
    ),
    "one share": one_share,
    "cma": partial(searched, name="cma"),
    "random": partial(searched, name="random"),
    "uniform": along_the_line,
}
"""Functions of a pair, a seed, stretches and budgets."""


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every search of every pair: its test accuracy after each number of candidates."""
    rows = []
    for seed in range(options.pairs):
        pair = Pair(seed, options.steps, options.items)
        alone = [pair.tested(np.array([share])) for share in (0.0, 1.0)]
        rows.append({"pair": seed, "way": "networks alone", "accuracy": [max(alone)] * len(options.candidates)})
        for way in options.ways:
            start = time.process_time()
            found = WAYS[way](pair=pair, seed=seed, stretches=options.stretches, budgets=options.candidates)
            rows.append({"pair": seed, "way": way, "accuracy": found, "seconds": time.process_time() - start})
        print(f"searched pair {seed}", flush=True)
    return rows


def table(rows: Sequence[dict[str, Any]], candidates: Sequence[int]) -> str:
    """A line for each way: medians with the lowest and highest, then how it does against `m2n2` at the end."""
    titles = ["search", *(f"{count} candidates" for count in candidates), "better, worse than m2n2", "seconds"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    rival = accuracies(rows, "m2n2")
    for way in dict.fromkeys(row["way"] for row in rows):
        found = accuracies(rows, way)
        cells = [f"{np.median(values):.3f} ({values.min():.3f} to {values.max():.3f})" for values in found.T]
        against = ""
        if len(rival) and way != "m2n2":
            ahead = found[:, -1] - rival[:, -1]
            against = f"{np.sum(ahead > 0)}, {np.sum(ahead < 0)} of {len(ahead)} ({np.median(ahead):+.3f})"
        seconds = [row["seconds"] for row in rows if row["way"] == way and "seconds" in row]
        cells += [against, f"{np.median(seconds):.1f}" if seconds else ""]
        lines.append(f"| {way} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def accuracies(rows: Sequence[dict[str, Any]], way: str) -> NDArray[np.float64]:
    """Of one way, (pairs, numbers of candidates)."""
    return np.array([row["accuracy"] for row in rows if row["way"] == way])


def draw(rows: Sequence[dict[str, Any]], candidates: Sequence[int]) -> str:
    """The medians of each way over the candidates, as SVG."""
    series = [
        Series(
            name=way,
            x=candidates,
            y=np.median(accuracies(rows, way), axis=0).tolist(),
            drawn="joined",
            colour=number,
            dash="dash" if number >= len(COLOURS) else "solid",
        )
        for number, way in enumerate(dict.fromkeys(row["way"] for row in rows))
    ]
    title, caption = "Merges of two halves of the digits", "Medians over the pairs of networks."
    chart = Plane(title=title, caption=caption, x="candidates", y="accuracy on test images", series=series)
    return chart.svg(alone=True)


def main() -> None:
    """Train, search, print a table, write JSON and a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12, help="of networks, each with its own split of the images")
    parser.add_argument("--steps", type=int, default=10, help="of training; 10 as in the paper's code")
    parser.add_argument("--stretches", type=int, default=64, help="of the flat vector, each with its own share")
    parser.add_argument("--items", type=int, default=500, help="search images")
    parser.add_argument("--candidates", type=int, nargs="+", default=[125, 500, 2000], help="ascending")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    rows = measure(options)
    print(table(rows, options.candidates))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.figure is not None:
        options.figure.write_text(draw(rows, options.candidates), encoding="utf-8")


if __name__ == "__main__":
    main()

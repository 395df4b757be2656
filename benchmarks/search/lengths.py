"""Accuracy against length of answers, as in Evo-L2S: fronts of merges of a model that answers long and one that answers
short.

    python benchmarks/search/lengths.py FOLDER --seeds 4 --json lengths.json --figure lengths.svg

Models are small Llamas, trained for each seed on the questions of `chains.py`: a base that answers either way, and an
expert for each way. In the kind `steps` the short one leaves out steps that it needs, in `letters` it leaves out what
isn't needed, but doesn't know all that the long one knows. Merges are searched for accuracy and for the tokens of an
answer:

- `nsga2`: by NSGA-II, with a weight for each expert and group of layers.
- `random`: the same merges, drawn at random.
- `uniform`: a weight for each expert, the same everywhere, evenly over the square of both.

Every search scores the same number of merges on the same items, the same 16 uniform ones first. Its front is what it
says on the search items; what is told of the front is on held-out items, which chose nothing:

- its hypervolume, counted from no accuracy and the long expert's length; full accuracy at the short one's would be 1,
  and shorter merges may have more;
- *if accurate*: accuracy and length, as shares of the long expert's, of the shortest merge that has 95% of the long
  expert's accuracy on the search items;
- *if brief*: the same of the most accurate merge that has at most 60% of its length there.

Models may have met any of the questions in training. Figures are medians over the seeds, with the lowest and highest.
Finished searches are kept in FOLDER and not made again.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from chains import KINDS, TINY, Sizes, build
from numpy.typing import NDArray

import evomerge
from evomerge.config.config import Config
from evomerge.report.plane import Plane, Series
from evomerge.score.pareto import hypervolume

EQUAL, BRIEF = 0.95, 0.6
MEASURES = ("hypervolume", "accuracy, if accurate", "length, if accurate", "accuracy, if brief", "length, if brief")
WAYS: dict[str, tuple[str, str]] = {
    "nsga2": ("nsga2", "layer"),
    "random": ("random", "layer"),
    "uniform": ("qmc", "all"),
}
"""Algorithm and granularity of each search."""


def searched(folder: Path, run: Path, way: str, evaluations: int, seed: int) -> dict[str, Any]:
    """One search; its result."""
    algorithm, granularity = WAYS[way]
    data = {
        "models": {
            "base": str(folder / "base"),
            "experts": {name: str(folder / "experts" / name) for name in ("long", "short")},
        },
        "merge": {"method": "task_arithmetic"},
        "space": {
            "granularity": granularity,
            "kinds": ["embedding", "head"] if granularity == "layer" else False,
            "parameters": {"weight": {"low": 0.0, "high": 1.0}},
        },
        "benchmark": {
            "include_path": str(folder / "tasks"),
            "tasks": ["chains"],
            "splits": {"search": "search", "validation": "validation", "test": "test"},
        },
        "search": {
            "algorithm": algorithm,
            "objectives": {"accuracy": "chains", "length": {"length": "all"}},
            "evaluations": evaluations,
            "population": 20,
            "scan": 16,
            # So that the whole front answers the held-out items.
            "shortlist": 100,
            "seed": seed,
        },
        "execution": {"dtype": "float32", "cpus_per_worker": 1},
    }
    found: dict[str, Any] = evomerge.search(Config.model_validate(data), run).data
    return found


Point = tuple[float, float]
"""Accuracy, and tokens of an answer with the one that ends it."""


class Known(NamedTuple):
    """A model on the search items and on the held-out ones."""

    search: Point
    held_out: Point


def told(result: dict[str, Any]) -> dict[str, list[Known]]:
    """The base and each expert by name, and the front."""

    def known(row: dict[str, Any]) -> Known:
        search, held_out = (row[split]["objectives"] for split in ("search", "validation"))
        return Known((search["accuracy"], search["length"]), (held_out["accuracy"], held_out["length"]))

    models = {row["name"]: [known(row)] for row in result["baselines"] if row["kind"] in {"base", "expert"}}
    return {**models, "front": [known(row) for row in result["front"]]}


def measured(front: Sequence[Known], long: Known, short: Known) -> list[float]:
    """What is told of a front, in the order of `MEASURES`; not a number where no merge is accurate or short enough."""
    accuracy, tokens = long.held_out
    extent = tokens - short.held_out[1]
    points = [[one.held_out[0], (tokens - one.held_out[1]) / extent] for one in front]
    accurate = [one for one in front if one.search[0] >= EQUAL * long.search[0]]
    brief = [one for one in front if one.search[1] <= BRIEF * long.search[1]]
    found = [hypervolume(np.array(points), [0.0, 0.0])]
    for chosen in (
        min(accurate, key=lambda one: (one.search[1], -one.search[0]), default=None),
        max(brief, key=lambda one: (one.search[0], -one.search[1]), default=None),
    ):
        found += [float("nan")] * 2 if chosen is None else [chosen.held_out[0] / accuracy, chosen.held_out[1] / tokens]
    return found


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each kind and search, and one for the models alone: medians, with the lowest and highest."""
    titles = ["models", "front of", *MEASURES, "merges on it"]
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for kind, way in dict.fromkeys((row["kind"], row["way"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["way"]) == (kind, way)]
        columns = [*np.array([row["measured"] for row in own]).T, np.array([len(row["front"]) for row in own])]
        lines.append("| " + " | ".join([kind, way, *map(spread, columns)]) + " |")
    return "\n".join(lines)


def spread(values: NDArray[Any]) -> str:
    """Median, lowest and highest, of how many if some are missing."""
    there = values[np.isfinite(values)]
    if not len(there):
        return "none"
    few = "" if len(there) == len(values) else f", {len(there)} of {len(values)} seeds"
    digits = 0 if values.dtype.kind == "i" else 3
    low, middle, high = (f"{value:.{digits}f}" for value in (there.min(), np.median(there), there.max()))
    return f"{middle} ({low} to {high}{few})"


def draw(rows: Sequence[dict[str, Any]]) -> str:
    """The fronts of one kind and seed on the held-out items, as SVG: those that come last."""
    drawn = [row for row in rows if (row["kind"], row["seed"]) == (rows[-1]["kind"], rows[-1]["seed"])]
    series = []
    for number, row in enumerate(drawn):
        accuracy, tokens = zip(*(held_out for _, held_out in row["front"]), strict=True)
        series.append(Series(name=row["way"], x=tokens, y=accuracy, drawn="marks", colour=number))
    title = f"Accuracy against length on held-out items: {rows[-1]['kind']}, seed {rows[-1]['seed']}"
    return Plane(title=title, x="tokens of an answer", y="accuracy", series=series).svg(alone=True)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every search over the models of every kind and seed, with its front and what is told of that."""
    rows = []
    for kind, seed in itertools.product(options.kinds, range(options.seeds)):
        models = options.folder.absolute() / f"{kind}-{seed}"
        build(models, KINDS[kind], seed, TINY if options.small else Sizes())
        for way in options.ways:
            known = told(searched(models, options.folder / f"{kind}-{seed}-{way}", way, options.evaluations, seed))
            fronts = {way: known.pop("front")}
            if way == options.ways[0]:
                fronts["models alone"] = [one for (one,) in known.values()]
                alone = (f"{name} {one.held_out[0]:.3f} in {one.held_out[1]:.2f}" for name, (one,) in known.items())
                print(f"{kind}, seed {seed}: {', '.join(alone)} tokens", flush=True)
            for name, front in fronts.items():
                figures = measured(front, known["long"][0], known["short"][0])
                rows.append({"kind": kind, "seed": seed, "way": name, "measured": figures, "front": front})
    return rows


def main() -> None:
    """Train, search, print a table, write JSON and a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kinds", nargs="+", choices=list(KINDS), default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=4, help="of letters, models and searches")
    parser.add_argument("--evaluations", type=int, default=284, help="candidates of a search, beside 16 uniform merges")
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--small", action="store_true", help="hardly trained models and few items, to see that it runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = measure(options)
    print(table(rows))
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    if options.figure is not None:
        options.figure.write_text(draw(rows), encoding="utf-8")


if __name__ == "__main__":
    main()

"""What merging and compressing eight small image encoders keep of them, a head being kept for each task.

Trains a base and eight experts on handwritten digits for each seed, merges them by averaging, task arithmetic,
TSV-Merge, Iso-C, Iso-CTS and by evolved coefficients, and stores them as TSV-Compress does. Every setting is chosen
on the search items (the evolved winner among the best few on validation items); all figures are of test items, as
shares of the expert's own accuracy.

    python benchmarks/toolkit/compression.py --seeds 0 1 2 --json compression.json --html compression.html
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import transformers
from image_tasks import TASKS, make

from evomerge.benchmark import Benchmark, build_benchmark
from evomerge.config.config import Config
from evomerge.execute.base import Answers, Job
from evomerge.execute.settings import make_executor, worker_settings
from evomerge.materialise.folder import write_folder
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compress import compress
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.report.figures import Curve, bars, lines
from evomerge.report.page import Page, require_figures
from evomerge.study.search import search

NAMES = tuple(TASKS)
GRID = tuple(round(0.1 * step, 1) for step in range(1, 21))
FRACTIONS = (1 / 48, 1 / 24, 1 / 16, 1 / 8, 1 / 4, 1 / 2)
METHODS: Mapping[str, str] = {
    "task arithmetic": "task_arithmetic",
    "TSV-Merge": "tsv_merge",
    "Iso-C": "iso_c",
    "Iso-CTS": "iso_cts",
}
EVOLVED = {"evolved TSV-Merge": "tsv_merge"}

Accuracies = dict[str, float]


def config_of(folder: Path, experts: Mapping[str, Path], method: str, evaluations: int, seed: int) -> Config:
    """An experiment over the experts, each task answered with its own head."""
    data = {name: {part: str(folder / "data" / name / f"{part}.jsonl") for part in _PARTS} for name in NAMES}
    return Config.from_data(
        {
            "models": {
                "base": str(folder / "base"),
                "experts": {name: str(place) for name, place in experts.items()},
                "head": "base",
            },
            "merge": {"method": method},
            "space": {"granularity": "layer"},
            "benchmark": {
                "labels": {
                    "image": "pixels",
                    "tasks": {name: {"data": data[name], "head": str(folder / name)} for name in NAMES},
                },
                "splits": {part: {"split": part} for part in _PARTS},
                # Digits that look alike down to the pixel may stand in two parts.
                "overlap": "drop",
            },
            "search": {"evaluations": evaluations, "seed": seed, "scan": 8},
            "execution": {"backend": "inline", "cpus_per_worker": 1, "dtype": "float32"},
        }
    )


_PARTS = ("search", "validation", "test")


class Scorer:
    """Accuracies by task of merges of some models, on search and test items."""

    def __init__(self, config: Config, benchmark: Benchmark | None = None) -> None:
        self._sources = config.models.sources()
        self._benchmark = benchmark or build_benchmark(config.benchmark, Checkpoint.open(config.models.base.path))
        self._executor = make_executor(config.execution, worker_settings(config, dtype="float32"))
        for part in ("search", "test"):
            self._executor.add_requests(part, self._benchmark.requests(part))

    def over(self, config: Config) -> Scorer:
        """The same items asked of other models."""
        return Scorer(config, self._benchmark)

    def score(self, part: str, method: str, weights: Mapping[str, Any]) -> Accuracies:
        """Of one merge."""
        group = Group(name="all", coefficients=dict(weights))
        recipe = Recipe.of(self._sources, method=method, groups=(group,))
        ((_, outcome),) = self._executor.run([Job(number=0, recipe=recipe, split=part)])
        assert isinstance(outcome, Answers), outcome
        found = self._benchmark.aggregate(self._benchmark.score(part, outcome.responses))
        return {task: found[task]["acc,none"] for task in NAMES}

    def alone(self, part: str) -> Accuracies:
        """Of each task's own expert."""
        found = {}
        for task in NAMES:
            weight = {name: float(name == task) for name in self._sources.experts}
            found[task] = self.score(part, "task_arithmetic", {"weight": weight})[task]
        return found


def best_of_grid(scorer: Scorer, method: str) -> tuple[float, Accuracies]:
    """The one coefficient that is best on the search items, and the test accuracies there."""
    key = "scale" if method.startswith("iso") else "weight"
    tried = {value: np.mean([*scorer.score("search", method, {key: value}).values()]) for value in GRID}
    value = max(tried, key=lambda one: tried[one])
    return value, scorer.score("test", method, {key: value})


def merged(folder: Path, scorer: Scorer, experts: Mapping[str, Path], evaluations: int, seed: int) -> dict[str, Any]:
    """Test accuracies and chosen coefficients by method."""
    found: dict[str, Any] = {
        "average": {"accuracy": scorer.score("test", "task_arithmetic", {"weight": 1 / len(NAMES)})}
    }
    for name, method in METHODS.items():
        coefficient, accuracy = best_of_grid(scorer, method)
        found[name] = {"coefficient": coefficient, "accuracy": accuracy}
    for name, method in EVOLVED.items():
        started = time.perf_counter()
        result = search(config_of(folder, experts, method, evaluations, seed), folder / f"run-{method}")
        (winner,) = [model for model in result.data["test"]["models"] if model["name"] == "winner"]
        accuracy = {task: winner["tasks"][task] for task in NAMES}
        found[name] = {"accuracy": accuracy, "trial": result.winner, "seconds": time.perf_counter() - started}
    return found


def compressed(folder: Path, scorer: Scorer, own: Accuracies) -> list[dict[str, Any]]:
    """For each share of directions kept: bytes beside those of whole experts, and test accuracies."""
    encoders = {}
    for name in NAMES:
        # The encoder alone, since an expert's own head is kept whole for its task.
        place = config_of(folder, {name: folder / name}, "task_arithmetic", 8, 0).models.sources()
        group = Group(name="all", coefficients={"weight": 1.0})
        encoders[name] = write_folder(
            Recipe.of(place, method="task_arithmetic", groups=(group,)), folder / "encoders" / name
        )
    heads = sum(_head_bytes(folder / name) for name in NAMES)
    whole = heads + sum(_encoder_bytes(folder / name) for name in NAMES)
    rows = []
    for fraction in FRACTIONS:
        size, places = heads, {}
        for name, encoder in encoders.items():
            places[name] = folder / f"compressed-{fraction:.3f}" / name
            size += compress(folder / "base", encoder, places[name], fraction=fraction, dtype="float16").size_bytes
        accuracy = scorer.over(config_of(folder, places, "task_arithmetic", 8, 0)).alone("test")
        rows.append({"fraction": fraction, "size": size / whole, "accuracy": accuracy, "kept": kept(accuracy, own)})
    return rows


def kept(accuracy: Accuracies, own: Accuracies) -> float:
    """The mean over tasks of the share of the expert's own accuracy."""
    return float(np.mean([accuracy[task] / own[task] for task in NAMES]))


def _head_bytes(folder: Path) -> int:
    tensors = Checkpoint.open(folder).tensors
    return sum(info.size_bytes for name, info in tensors.items() if name.startswith("classifier"))


def _encoder_bytes(folder: Path) -> int:
    return Checkpoint.open(folder).size_bytes - _head_bytes(folder)


def run(folder: Path, seed: int, evaluations: int, epochs: int) -> dict[str, Any]:
    """Everything of one seed."""
    make(folder, seed=seed, base_epochs=2 * epochs, epochs=epochs)
    experts = {name: folder / name for name in NAMES}
    scorer = Scorer(config_of(folder, experts, "task_arithmetic", evaluations, seed))
    own = scorer.alone("test")
    base = scorer.score("test", "task_arithmetic", {"weight": 0.0})
    found = merged(folder, scorer, experts, evaluations, seed)
    return {
        "seed": seed,
        "experts": own,
        "base": {"accuracy": base, "kept": kept(base, own)},
        "merges": {name: {**row, "kept": kept(row["accuracy"], own)} for name, row in found.items()},
        "compressed": compressed(folder, scorer, own),
    }


def spread(values: Sequence[float]) -> str:
    """Mean with the lowest and highest."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def tables(rows: Sequence[Mapping[str, Any]]) -> tuple[list[list[str]], list[list[str]]]:
    """Merges, and sizes against accuracy kept, a line each."""
    merges = [
        ["base", _absolute([row["base"]["accuracy"] for row in rows]), spread([row["base"]["kept"] for row in rows])]
    ]
    for name in rows[0]["merges"]:
        own = [row["merges"][name] for row in rows]
        merges.append([name, _absolute([one["accuracy"] for one in own]), spread([one["kept"] for one in own])])
    merges.append(["experts", _absolute([row["experts"] for row in rows]), "1"])
    sizes = []
    for place, fraction in enumerate(FRACTIONS):
        own = [row["compressed"][place] for row in rows]
        sizes.append(
            [
                f"1/{round(1 / fraction)}",
                f"{np.mean([one['size'] for one in own]):.1%}",
                spread([one["kept"] for one in own]),
            ]
        )
    return merges, sizes


def _absolute(found: Sequence[Accuracies]) -> str:
    return spread([float(np.mean([*one.values()])) for one in found])


def page_of(rows: Sequence[Mapping[str, Any]]) -> Page:
    """Both tables as figures."""
    merges, sizes = tables(rows)
    page = Page(
        "Eight image encoders merged and compressed, a head kept for each task",
        f"Small vision transformers on handwritten digits; test items; {len(rows)} seeds.",
    )
    page.table(
        ["merge", "accuracy", "share of the experts' own"],
        merges,
        title="Mean over eight tasks, lowest and highest seed",
    )
    by_task = {
        name: [
            float(np.mean([row["merges"][name]["accuracy"][task] / row["experts"][task] for row in rows]))
            for task in NAMES
        ]
        for name in rows[0]["merges"]
    }
    page.figure(bars("Share of the expert's own accuracy, by task", NAMES, by_task, y="share of own accuracy"))
    page.table(["directions kept", "size", "share of the experts' own"], sizes, title="TSV-Compress")
    x = [100 * float(np.mean([row["compressed"][place]["size"] for row in rows])) for place in range(len(FRACTIONS))]
    y = [[row["compressed"][place]["kept"] for row in rows] for place in range(len(FRACTIONS))]
    curve = Curve(name="TSV-Compress", x=x, y=[*map(np.mean, y)], low=[*map(min, y)], high=[*map(max, y)])
    page.figure(
        lines(
            "Accuracy kept against size",
            [curve],
            x="size, per cent of eight whole experts",
            y="share of own accuracy",
            caption="Mean over seeds, with the lowest and highest. Factors in float16; the base isn't counted.",
        )
    )
    return page


def main() -> None:
    """Run and show."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--evaluations", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=10, help="of each expert; the base has twice as many")
    parser.add_argument("--folder", type=Path, help="where models and runs stay; default: a temporary one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--html", type=Path)
    options = parser.parse_args()
    if options.html is not None:
        require_figures()
    if options.folder is not None and options.folder.is_dir() and any(options.folder.iterdir()):
        # Models trained with other settings would go on in it, or be trained over.
        parser.error(f"--folder {options.folder}: is there already; choose another folder or empty this one")
    logging.disable(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    with TemporaryDirectory() as temporary:
        place = options.folder or Path(temporary)
        rows = []
        for seed in options.seeds:
            rows.append(run(place / f"seed-{seed}", seed, options.evaluations, options.epochs))
            print(f"seed {seed}: done", flush=True)
    merges, sizes = tables(rows)
    for line in (["merge", "accuracy", "share of own"], *merges, ["directions kept", "size", "share of own"], *sizes):
        print("| " + " | ".join(line) + " |")
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")
    if options.html is not None:
        page_of(rows).write(options.html)


if __name__ == "__main__":
    main()

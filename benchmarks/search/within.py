"""Whether a surrogate within a search finds better merges: small searches of the demo's models, many seeds each.

    python benchmarks/search/within.py FOLDER --models 4 --seeds 4 --json within.json

The models are those of `demo_models.py`, and so is the cost: a tenth of what 300 candidates on all items take. Every
way has the answers of 65 uniform merges to all search items, and spends 10,800 item evaluations on candidates with 50
fresh items each. A search is reduced to its bones to be repeated cheaply, in one process without a run directory:
CMA-ES, blocks of fresh items, the best five and the distribution's mean on all items.

- `cma`: nothing else.
- `more`: the same with a tenth more items.
- `within`: after three generations, the last candidate of each is what a Gaussian process expects the most of.
- `full`: 300 candidates on all items, once per models.

After `cma` and `within`, three merges that the process expects the most of answer all items as well (`end`), which
costs as much as the tenth of `more`. What is printed is the accuracy on all search items of the best merge found, and
on the test items of that which is the best on search and validation items together.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from demo_models import LARGER, TINY
from numpy.typing import NDArray

from evomerge.algorithms import PROPOSERS
from evomerge.algorithms.surrogate import FEWEST_GENERATIONS, expected_best
from evomerge.config.config import Config
from evomerge.demo.build import build_demo
from evomerge.execute.base import Answers, Job
from evomerge.execute.settings import arithmetic_of, worker_settings
from evomerge.execute.worker import Worker
from evomerge.space.base import Genome
from evomerge.study.experiment import open_experiment
from evomerge.study.schedule import Schedule, stratified_blocks

POPULATION, SCAN, BLOCK, SHARE, ELITE, AT_THE_END = 16, 65, 10, 5, 5, 3
ITEMS = {"cma": 10_800, "more": 11_880, "within": 10_800, "full": 108_000}
"""Item evaluations of candidates by way."""
SPREAD = 0.2
"""Variance of one item's score, as good as any for what is right or wrong."""
Scores = NDArray[np.float64]


class Models:
    """The demo's models of one seed: merges answer items, each once."""

    def __init__(self, folder: Path, seed: int, *, small: bool) -> None:
        path = build_demo(folder / f"models-{seed}", seed=seed, settings=TINY if small else LARGER)
        config = Config.from_file(path)
        experiment = open_experiment(config, where=str(path))
        compute = arithmetic_of(config.execution, experiment.dtype).dtype
        self.benchmark, self.space = experiment.benchmark, experiment.space
        self.step_size = config.search.step_size
        self.tasks = [item.task for item in self.benchmark.splits["search"]]
        self._worker = Worker(worker_settings(config, dtype=experiment.dtype, compute_dtype=compute))
        for split, items in self.benchmark.splits.items():
            places = [self.benchmark.places(split, [item]) for item in range(len(items))]
            self._worker.add_requests(split, self.benchmark.requests(split), places)
        self._known: dict[tuple[str, str], dict[int, float]] = {}
        self.uniform = [*self.space.starting_points(SCAN)][:SCAN]
        self.scan = np.array([self.all(genome, "search") for genome in self.uniform])
        self.start = self.uniform[int(np.argmax(self.scan.mean(axis=1)))]

    def scores(self, genome: Genome, split: str, items: Sequence[int]) -> Scores:
        """Of a merge on some items, (items,)."""
        recipe = self.space.decode(genome)
        known = self._known.setdefault((recipe.key(), split), {})
        missing = [item for item in items if item not in known]
        if missing:
            answers = self._worker.evaluate(Job(number=0, recipe=recipe, split=split, blocks=tuple(missing)))
            assert isinstance(answers, Answers), answers
            table = self.benchmark.score(split, answers.responses, items=missing)
            asked = [self.benchmark.splits[split][item].task for item in missing]
            values = self.benchmark.objective.item_scores(table, {task: asked.count(task) for task in asked})
            known.update(zip(sorted(missing), values.tolist(), strict=True))
        return np.array([known[item] for item in items])

    def all(self, genome: Genome, *splits: str) -> Scores:
        """Of a merge on all items of these splits."""
        return np.concatenate(
            [self.scores(genome, split, range(len(self.benchmark.splits[split]))) for split in splits]
        )


def searched(models: Models, way: str, seed: int) -> dict[str, float]:
    """One search."""
    blocks = stratified_blocks(models.tasks, BLOCK, seed)
    share = len(blocks) if way == "full" else min(SHARE, len(blocks))
    schedule = Schedule(len(blocks), share=share, seed=seed)
    dimensions = [
        replace(item, initial=float(value)) for item, value in zip(models.space.dimensions, models.start, strict=True)
    ]
    proposer = PROPOSERS.get("cma")(dimensions, seed=seed, population=POPULATION, step_size=models.step_size)
    told: list[tuple[Genome, float]] = []
    spent, generation = 0, 0
    whole: list[Genome] = []

    def expected() -> Genome | None:
        points = [*(genome for genome, _ in told), *models.uniform, *whole]
        values = [*(score for _, score in told), *models.scan.mean(axis=1)]
        values += [float(models.all(genome, "search").mean()) for genome in whole]
        variances = np.full(len(points), SPREAD / len(models.tasks))
        variances[: len(told)] = SPREAD / (share * BLOCK)
        return expected_best(dimensions, points, np.array(values), variances)

    while spent + POPULATION * share * BLOCK <= ITEMS[way] * len(models.tasks) // LARGER.search:
        genomes = proposer.ask()
        if way == "within" and generation >= FEWEST_GENERATIONS and (best := expected()) is not None:
            genomes[-1] = best
        items = [item for block in schedule.order(generation)[:share] for item in blocks[block]]
        easier = models.scan[:, items].mean() - models.scan.mean()
        fitness = [float(models.scores(genome, "search", items).mean() - easier) for genome in genomes]
        proposer.tell(genomes, np.array(fitness)[:, None])
        told += zip(genomes, fitness, strict=True)
        spent, generation = spent + POPULATION * len(items), generation + 1
    elite: dict[str, Genome] = {}
    for genome, _ in sorted(told, key=lambda one: -one[1]):
        elite.setdefault(models.space.decode(genome).key(), genome)
    whole += [*[*elite.values()][:ELITE], proposer.mean()]
    found = chosen(models, whole)
    if way in {"cma", "within"}:
        for _ in range(AT_THE_END):
            if (best := expected()) is not None:
                whole.append(best)
        found |= {f"{name} with end": value for name, value in chosen(models, whole).items()}
    return found


def chosen(models: Models, merges: Sequence[Genome]) -> dict[str, float]:
    """The best of some merges: its score on search items, and on test items that of the best on all but these."""
    best = sorted(merges, key=lambda genome: -models.all(genome, "search").mean())[:ELITE]
    winner = max([*best, models.start], key=lambda genome: float(models.all(genome, "search", "validation").mean()))
    return {
        "search": float(models.all(best[0], "search").mean()),
        "test": float(models.all(winner, "test").mean()),
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Each way beside others, means with standard errors: in pairs of the same models and seed, and of each models'
    means with what 300 candidates on all items found.
    """
    by_key = {(row["models"], row["seed"], row["way"]): row for row in rows}
    heads = [f"{items} items − {other}" for other in ("cma", "more", "full") for items in ("search", "test")]
    lines = [f"| | {' | '.join(heads)} | pairs |", "|---" * (len(heads) + 2) + "|"]
    for way, suffix in (("cma", ""), ("more", ""), ("cma", " with end"), ("within", ""), ("within", " with end")):
        own = {(models, seed): row for (models, seed, name), row in by_key.items() if name == way}
        cells = []
        for other in ("cma", "more", "full"):
            for items in ("search", "test"):
                gains: dict[Any, list[float]] = defaultdict(list)
                for (models, seed), row in own.items():
                    # One full search over the same models does for all seeds.
                    beside = by_key.get((models, 0 if other == "full" else seed, other))
                    if beside is not None and (way, suffix) != (other, ""):
                        unit = models if other == "full" else (models, seed)
                        gains[unit].append(row[items + suffix] - beside[items])
                cells.append(spread([float(np.mean(found)) for found in gains.values()]))
        lines.append(f"| {way}{suffix} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean and standard error."""
    error = f" ± {np.std(values, ddof=1) / np.sqrt(len(values)):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):+.3f}{error}" if values else ""


def main() -> None:
    """Search, print each and a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=4, help="seeds of models")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each way over the same models")
    parser.add_argument("--first", type=int, default=0, help="the first of these seeds")
    parser.add_argument("--ways", nargs="+", choices=sorted(ITEMS), default=["cma", "more", "within"])
    parser.add_argument("--small", action="store_true", help="tiny models and few items, to see that it runs")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for seed in range(given.models):
        models = Models(given.folder, seed, small=given.small)
        for number in range(given.first, given.first + given.seeds):
            for way in given.ways:
                rows.append({"models": seed, "seed": number, "way": way, **searched(models, way, 1000 + number)})
                print(json.dumps(rows[-1]), flush=True)
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

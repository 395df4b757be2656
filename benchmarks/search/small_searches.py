"""Small searches of the demo's models, reduced to their bones so that they can be repeated many times.

The models are those of `demo_models.py`. A search is CMA-ES over blocks of fresh items, in one process and without a
run directory, from the best of 65 uniform merges, whose answers to all search items are known to every search.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
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
from evomerge.recipe.recipe import Recipe
from evomerge.space.base import Genome, Space
from evomerge.study.experiment import open_experiment
from evomerge.study.schedule import Schedule, stratified_blocks

POPULATION, SCAN, BLOCK, SHARE, ELITE, AT_THE_END = 16, 65, 10, 5, 5, 3
ITEMS = 10_800
"""Item evaluations of candidates, where there are as many search items as `LARGER` has: a tenth of what 300 candidates
on all of them take."""
VARIANCE = 0.2
"""Of one item's score, as good as any for what is right or wrong."""
Scores = NDArray[np.float64]


class Models:
    """The demo's models of one seed: merges answer items, each once."""

    def __init__(self, folder: Path, seed: int, *, small: bool) -> None:
        self._path = build_demo(folder / f"models-{seed}", seed=seed, settings=TINY if small else LARGER)
        config = Config.from_file(self._path)
        experiment = open_experiment(config, where=str(self._path))
        compute = arithmetic_of(config.execution, experiment.dtype).dtype
        self.benchmark, self.space = experiment.benchmark, experiment.space
        self.step_size = config.search.step_size
        self.tasks = [item.task for item in self.benchmark.splits["search"]]
        self._worker = Worker(worker_settings(config, dtype=experiment.dtype, compute_dtype=compute))
        for split, items in self.benchmark.splits.items():
            places = [self.benchmark.places(split, [item]) for item in range(len(items))]
            self._worker.add_requests(split, self.benchmark.requests(split), places)
        self._known: dict[tuple[str, str], dict[int, float]] = {}
        self.uniform = [self.space.decode(genome) for genome in [*self.space.starting_points(SCAN)][:SCAN]]
        self.scan = np.array([self.all(recipe, "search") for recipe in self.uniform])
        self.start = self.uniform[int(np.argmax(self.scan.mean(axis=1)))]

    @cached_property
    def by_kind(self) -> Space:
        """The space over the same models that also tells kinds of tensors apart."""
        config = Config.from_file(self._path, settings=["space.kinds=true"])
        return open_experiment(config, where=str(self._path)).space

    def cost(self, items: int) -> int:
        """Item evaluations that are as large a part of all search items here as `items` are of `LARGER`'s."""
        return items * len(self.tasks) // LARGER.search

    def scores(self, recipe: Recipe, split: str, items: Sequence[int]) -> Scores:
        """Of a merge on some items, (items,)."""
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

    def all(self, recipe: Recipe, *splits: str) -> Scores:
        """Of a merge on all items of these splits."""
        return np.concatenate(
            [self.scores(recipe, split, range(len(self.benchmark.splits[split]))) for split in splits]
        )


class SmallSearch:
    """A search of one space that goes on for as many item evaluations as it is given."""

    def __init__(
        self,
        models: Models,
        space: Space,
        start: Recipe,
        *,
        seed: int,
        whole: bool = False,
        steps: Mapping[str, float] | None = None,
    ) -> None:
        """Nothing is asked yet.

        Args:
            models: that are merged.
            space: that is searched.
            start: a merge that the space can express.
            seed: of the algorithm and of which items come when.
            whole: whether candidates answer all search items.
            steps: first steps by dimension, over the config's.
        """
        self._models, self._space = models, space
        self._blocks = stratified_blocks(models.tasks, BLOCK, seed)
        share = len(self._blocks) if whole else min(SHARE, len(self._blocks))
        self._schedule = Schedule(len(self._blocks), share=share, seed=seed)
        self._dimensions = [
            replace(item, initial=float(value), step=(steps or {}).get(item.name, 1.0))
            for item, value in zip(space.dimensions, point_in(space, start), strict=True)
        ]
        self._proposer = PROPOSERS.get("cma")(
            self._dimensions, seed=seed, population=POPULATION, step_size=models.step_size
        )
        self._generation = 0
        self.spent = 0
        """Item evaluations of candidates."""
        self.told: list[tuple[Genome, float]] = []
        """Candidates and what the algorithm was told of each, in their order."""
        self.whole: list[Recipe] = []
        """Merges that answered all search items besides the uniform ones, once the search has ended."""

    def spend(self, items: int, *, guided: bool = False) -> None:
        """Generations, one at least, as long as they cost no more than so many item evaluations together; `guided` has
        the last candidate of each be what a surrogate expects the most of, after three.
        """
        share = self._schedule.share
        last = self.spent + items
        while not self.told or self.spent + POPULATION * share * BLOCK <= last:
            genomes = self._proposer.ask()
            if guided and self._generation >= FEWEST_GENERATIONS and (best := self._expected()) is not None:
                genomes[-1] = best
            asked = [item for block in self._schedule.order(self._generation)[:share] for item in self._blocks[block]]
            easier = self._models.scan[:, asked].mean() - self._models.scan.mean()
            fitness = [
                float(self._models.scores(self._space.decode(genome), "search", asked).mean() - easier)
                for genome in genomes
            ]
            self._proposer.tell(genomes, np.array(fitness)[:, None])
            self.told += zip(genomes, fitness, strict=True)
            self.spent += POPULATION * len(asked)
            self._generation += 1

    def mean(self) -> Recipe:
        """The merge at the mean of the algorithm's distribution."""
        mean = self._proposer.mean()
        assert mean is not None
        return self._space.decode(mean)

    def end(self) -> None:
        """The best candidates and the mean answer all items."""
        elite = {}
        for genome, _ in sorted(self.told, key=lambda one: -one[1]):
            recipe = self._space.decode(genome)
            elite.setdefault(recipe.key(), recipe)
        self.whole += [*[*elite.values()][:ELITE], self.mean()]

    def extend(self) -> None:
        """Three merges that a surrogate expects the most of answer all items, one after the other."""
        for _ in range(AT_THE_END):
            if (best := self._expected()) is not None:
                self.whole.append(self._space.decode(best))

    def _expected(self) -> Genome | None:
        models = self._models
        points = [genome for genome, _ in self.told]
        points += [point_in(self._space, recipe) for recipe in [*models.uniform, *self.whole]]
        values = [*(score for _, score in self.told), *models.scan.mean(axis=1)]
        values += [float(models.all(recipe, "search").mean()) for recipe in self.whole]
        variances = np.full(len(points), VARIANCE / len(models.tasks))
        variances[: len(self.told)] = VARIANCE / (self._schedule.share * BLOCK)
        return expected_best(self._dimensions, points, np.array(values), variances)


def point_in(space: Space, recipe: Recipe) -> Genome:
    """The point of a merge that the space can express."""
    point = space.encode(recipe)
    assert point is not None, recipe
    return point


Search = Callable[[Models, str, int], dict[str, float]]
"""One search of some models in one way and with a seed: its figures by name."""


def every_search(
    folder: Path, models: Iterable[int], seeds: Sequence[int], ways: Sequence[str], search: Search, *, small: bool
) -> list[dict[str, Any]]:
    """Searches over each seed's models with each seed in each way, printed as they end."""
    rows: list[dict[str, Any]] = []
    for own in models:
        family = Models(folder, own, small=small)
        for seed in seeds:
            for way in ways:
                rows.append({"models": own, "seed": seed, "way": way, **search(family, way, 1000 + seed)})
                print(json.dumps(rows[-1]), flush=True)
    return rows


def chosen(models: Models, merges: Sequence[Recipe]) -> dict[str, float]:
    """The best of some merges: its score on search items, and on test items that of the best on all but these."""
    best = sorted(merges, key=lambda recipe: -models.all(recipe, "search").mean())[:ELITE]
    winner = max([*best, models.start], key=lambda recipe: float(models.all(recipe, "search", "validation").mean()))
    return {
        "search": float(models.all(best[0], "search").mean()),
        "test": float(models.all(winner, "test").mean()),
    }

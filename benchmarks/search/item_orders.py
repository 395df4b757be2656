"""Whether candidates are told apart by fewer items if these are chosen by what the baselines answered.

    python benchmarks/search/demo_models.py FOLDER --models 4 --spending plain --share 0.4
    python benchmarks/search/item_orders.py FOLDER/plain-0.4-* --items 20 50 --json item_orders.json

On searches in which every candidate answered every item: the order of items is found from the answers of the base, the
experts and the uniform merges, which every search has before its first candidate, and each candidate is estimated from
the first items of that order alone. What is printed for each order, estimator and number of items is Kendall's rank
correlation of estimated and true scores of the candidates, and the root of the mean squared error; the same over that
of a random order of the same run; means over the runs with standard errors. Random and stratified orders are drawn anew
for each of several seeds.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from means import mean_and_error
from numpy.typing import NDArray
from scipy.stats import kendalltau

from evomerge.estimators import ESTIMATORS
from evomerge.estimators.base import Responses
from evomerge.estimators.items import ORDERS, order_of
from evomerge.report.rescore import objective_of
from evomerge.run.directory import open_run
from evomerge.run.estimates import scores_of
from evomerge.run.trial import TrialKind

Scores = NDArray[np.float64]
SEEDS = 4
"""Of what orders leave to chance."""


class Answers(NamedTuple):
    """Scores of a run's models on all search items, (models, items)."""

    baselines: Scores
    candidates: Scores
    endpoints: tuple[int, ...]
    """Rows of the base and the experts among the baselines."""


def main() -> None:
    """Estimate, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--items", type=int, nargs="+", default=[20, 50])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = [row for run in given.runs for row in measured(run.name, answers(run), given.items)]
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def answers(directory: Path) -> Answers:
    """What the models of a run answered that answered everything; a merge that came twice counts once."""
    run = open_run(directory)
    ledger, objective = run.ledger(), objective_of(run)
    baselines, candidates, endpoints = [], [], []
    for trial in ledger.trials():
        evaluation = ledger.evaluation(trial.number, "search")
        if evaluation is None or evaluation.table is None or evaluation.same_as is not None:
            continue
        tasks = [name for name, task in evaluation.table.tasks.items() for _ in task.items]
        row = scores_of(objective, evaluation.table, tasks, range(len(tasks)))
        if trial.kind is TrialKind.CANDIDATE:
            candidates.append(row)
        elif trial.kind.is_baseline:
            endpoints += [len(baselines)] if trial.kind.is_checkpoint else []
            baselines.append(row)
    return Answers(np.array(baselines), np.array(candidates), tuple(endpoints))


def measured(run: str, known: Answers, counts: Sequence[int]) -> list[dict[str, Any]]:
    """How well candidates are estimated, a row for each order, estimator and number of items."""
    truth = known.candidates.mean(axis=1)
    rows = []
    for order in ORDERS:
        for name in ESTIMATORS:
            for count in counts:
                found = []
                for seed in range(SEEDS):
                    items = order_of(order, known.baselines, seed)[:count]
                    values = estimated(name, known, items)
                    found.append((kendalltau(values, truth).statistic, np.sqrt(np.mean((values - truth) ** 2))))
                tau, error = np.mean(found, axis=0)
                row = {"run": run, "order": order, "estimator": name, "items": count}
                rows.append({**row, "tau": float(tau), "error": float(error)})
    return rows


def estimated(estimator: str, known: Answers, items: NDArray[np.intp]) -> Scores:
    """The candidates' scores as far as some items tell, with the baselines known on all."""
    seen = np.full_like(known.candidates, np.nan)
    seen[:, items] = known.candidates[:, items]
    responses = Responses(scores=np.vstack([known.baselines, seen]), endpoints=known.endpoints)
    first = len(known.baselines)
    return ESTIMATORS.get(estimator)({}).estimate(responses, range(first, first + len(seen))).values


def table(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each number of items, estimator and order: means over the runs with standard errors."""
    lines = ["| items | estimator | order | tau | − random | error | over random |", "|---" * 7 + "|"]
    by_key: dict[tuple[int, str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        by_key[row["items"], row["estimator"], row["order"]].append(row)
    for (items, estimator, order), found in sorted(by_key.items()):
        usual = by_key[items, estimator, "random"]
        tau, error, more, ratio = (
            mean_and_error(values)
            for values in (
                [row["tau"] for row in found],
                [row["error"] for row in found],
                [row["tau"] - other["tau"] for row, other in zip(found, usual, strict=True)],
                [row["error"] / other["error"] for row, other in zip(found, usual, strict=True)],
            )
        )
        lines.append(f"| {items} | {estimator} | {order} | {tau} | {more} | {error} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

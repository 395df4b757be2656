"""How far estimates from some items are off, on the responses of searches in which every candidate answered every item.

    python benchmarks/search/demo_models.py FOLDER --models 5 --spending plain --share 1
    python benchmarks/search/estimators.py FOLDER/plain-1-* --items 20 50 100 --json estimators.json

For each number of items and each estimator: the root of the mean squared error of a merge's score, the same over that
of the plain mean of the same answers, Kendall's rank correlation of estimated and true scores, and the share of 95%
intervals that hold the truth. Each is a mean over the runs with its standard error. Items are drawn at random, the same
for all estimators of a run; what an estimator learns from is other merges of the same search. For runs with covariates
(`--spending reference`) an estimator that uses them has a second line without, and what they change is said run by run.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from means import mean_and_error

from evomerge.report.calibration import calibrate

COLUMNS = ("error", "of the mean's", "tau", "coverage")


def main() -> None:
    """Calibrate each run, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--items", type=int, nargs="+", default=[20, 50, 100])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    reports = {str(run): calibrate(run, items=given.items).to_data() for run in given.runs}
    print(table(list(reports.values())))
    for sentence in worth(list(reports.values())):
        print(sentence)
    if given.json is not None:
        given.json.write_text(json.dumps(reports, indent=2) + "\n", encoding="utf-8")


def table(reports: Sequence[dict[str, Any]]) -> str:
    """A line for each number of items and estimator."""
    found: dict[tuple[int, str], list[tuple[float, ...]]] = defaultdict(list)
    trusted: dict[tuple[int, str], int] = defaultdict(int)
    for report in reports:
        for one in report["tried"]:
            key = one["items"], one["estimator"]
            trusted[key] += one["trusted"]
            if one.get("rmse") is not None:
                found[key].append((one["rmse"], one["rmse"] / one["rmse_of_mean"], one["tau"], one["coverage"]))
    width = max(len(name) for _, name in trusted)
    lines = [f"{'items':>5}  {'estimator':<{width}}  " + "  ".join(f"{name:<15}" for name in COLUMNS) + "  trusted"]
    for (items, name), rows in sorted(found.items()):
        cells = "  ".join(f"{mean_and_error(column):<15}" for column in np.array(rows).T)
        lines.append(f"{items:>5g}  {name:<{width}}  {cells}  {trusted[items, name]} of {len(reports)}")
    return "\n".join(lines)


def worth(reports: Sequence[dict[str, Any]]) -> list[str]:
    """What covariates change, run by run, a sentence for each number of items and estimator that uses them."""
    gains: dict[tuple[int, str], list[tuple[float, float]]] = defaultdict(list)
    for report in reports:
        found = {(one["items"], one["estimator"]): one for one in report["tried"] if one.get("rmse") is not None}
        for (items, name), one in found.items():
            without = found.get((items, f"{name} without covariate"))
            if without is not None:
                gains[items, name].append((one["rmse"] / without["rmse"], one["tau"] - without["tau"]))
    return [
        f"{items} items, {name}: error with the covariate over that without "
        f"{mean_and_error([ratio for ratio, _ in rows])}, "
        f"tau more by {mean_and_error([gain for _, gain in rows])}"
        for (items, name), rows in sorted(gains.items())
    ]


if __name__ == "__main__":
    main()

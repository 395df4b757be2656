"""Whether another rule would choose better among the merges that a search validates.

    python benchmarks/search/choosing.py DIR/fresh_50-0.1-* DIR/plain-1-* --json choosing.json

All merges that ended runs have validated answer the test items too, in a copy of the run, and each rule chooses one: by
the validation items, as searches do; by the search items; by both together, search items counting in part. What is
printed is how much better on the test items its merge is than the validation items', a mean over the runs with its
standard error.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from means import mean_and_error

from evomerge.run.directory import open_run
from evomerge.run.observer import SilentObserver
from evomerge.study.candidates import Candidates
from evomerge.study.session import Session

Merge = Mapping[str, Any]
"""Its trial, and for each split its score and its number of items, as [score, items]."""


def together(merge: Merge, share: float) -> float:
    """The score on search and validation items together, where a search item counts for this share of another."""
    (searched, many), (validated, few) = merge["search"], merge["validation"]
    return float((share * many * searched + few * validated) / (share * many + few))


RULES: dict[str, Callable[[Merge], float]] = {
    "validation items": lambda merge: float(merge["validation"][0]),
    "search items": lambda merge: float(merge["search"][0]),
    "both": partial(together, share=1.0),
    "both, search items for a half": partial(together, share=0.5),
    "both, search items for a quarter": partial(together, share=0.25),
    "test items": lambda merge: float(merge["test"][0]),
}
"""How good a merge is taken for. By the test items nobody may choose: it is the most that a rule could gain."""


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    found = {str(run): validated(run) for run in given.runs}
    print(table(list(found.values())))
    if given.json is not None:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def validated(directory: Path) -> list[dict[str, Any]]:
    """The merges that an ended run has validated, best on the search items first, tested in a copy of it."""
    result = open_run(directory).result()
    if result is None:
        raise SystemExit(f"{directory} hasn't ended; continue with: evomerge resume {directory}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(directory, Path(folder) / "run"))
        (copy / "result.json").unlink()
        with Session(open_run(copy).config, copy, SilentObserver(), str(copy)) as session:
            ledger, splits = session.ledger, session.benchmark.splits
            merges = [ledger.trial(row["trial"]) for row in result["shortlist"]]
            Candidates(session).evaluate_phase("test", merges, "test")
            return [
                {"trial": merge.number}
                | {split: [ledger.evaluation(merge.number, split).score, len(items)] for split, items in splits.items()}
                for merge in merges
            ]


def chosen(merges: Sequence[Merge], rule: Callable[[Merge], float]) -> float:
    """The test score of what a rule chooses; the one with more search items solved among equals."""
    return float(max(merges, key=rule)["test"][0])


def table(runs: Sequence[Sequence[Merge]]) -> str:
    """A line for each rule."""
    lines = ["| chosen by | test items − validation's | better | worse |", "|---|---|---|---|"]
    usual = np.array([chosen(merges, RULES["validation items"]) for merges in runs])
    for name, rule in RULES.items():
        more = np.array([chosen(merges, rule) for merges in runs]) - usual
        lines.append(f"| {name} | {mean_and_error(more, signed=True)} | {(more > 0).sum()} | {(more < 0).sum()} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

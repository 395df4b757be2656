"""Whether a surrogate within a search finds better merges: small searches of the demo's models, many seeds each.

    python benchmarks/search/within.py FOLDER --models 4 --seeds 4 --json within.json

The models are those of `demo_models.py`, and so is the cost: a tenth of what 300 candidates on all items take. Every
way has the answers of 65 uniform merges to all search items, and spends 10,800 item evaluations on candidates with 50
fresh items each; the best five and the distribution's mean then answer all items.

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
from pathlib import Path
from typing import Any

import numpy as np
from means import mean_and_error
from small_searches import ITEMS, Models, SmallSearch, chosen, every_search

COST = {"cma": 1.0, "more": 1.1, "within": 1.0, "full": 10.0}
"""Item evaluations of candidates by way, over a tenth of 300 candidates on all items."""


def searched(models: Models, way: str, seed: int) -> dict[str, float]:
    """One search."""
    search = SmallSearch(models, models.space, models.start, seed=seed, whole=way == "full")
    search.spend(models.cost(round(COST[way] * ITEMS)), guided=way == "within")
    search.end()
    found = chosen(models, search.whole)
    if way in {"cma", "within"}:
        search.extend()
        found |= {f"{name} with end": value for name, value in chosen(models, search.whole).items()}
    return found


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
                cells.append(mean_and_error([float(np.mean(found)) for found in gains.values()], signed=True))
        lines.append(f"| {way}{suffix} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def main() -> None:
    """Search, print each and a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=4, help="seeds of models")
    parser.add_argument("--seeds", type=int, default=4, help="searches of each way over the same models")
    parser.add_argument("--first", type=int, default=0, help="the first of these seeds")
    parser.add_argument("--ways", nargs="+", choices=sorted(COST), default=["cma", "more", "within"])
    parser.add_argument("--small", action="store_true", help="tiny models and few items, to see that it runs")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    seeds = range(given.first, given.first + given.seeds)
    rows = every_search(given.folder, range(given.models), seeds, given.ways, searched, small=given.small)
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

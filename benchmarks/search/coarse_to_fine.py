"""Whether a search finds better merges if it begins in a coarser space: small searches of the demo's models.

    python benchmarks/search/coarse_to_fine.py FOLDER --models 0 1 2 3 --seeds 0 1 --json coarse_to_fine.json

The models are those of `demo_models.py`, and so is the cost: every way spends 10,800 item evaluations on candidates,
with 50 fresh items each, from the best of 65 uniform merges; the best five of the last space and the distribution's
mean then answer all items. `layers` has a coefficient for each layer (9 dimensions), `kinds` one for attention, mlp and
norms of each (21).

- `layers`, `kinds`: the whole cost in one of the spaces.
- `within`: in the fine one, with what a Gaussian process expects the most of as the last candidate of each generation.
- `coarse`: half in the coarse space; then the mean of its distribution answers all items, and the rest is spent in the
  fine space from there.
- `steps`: the same, with first steps as `search.start: {steps: true}` has them.
- `full layers`, `full kinds`: ten times the cost in one of the spaces, 300 candidates that answer all items.

After each, three merges that a Gaussian process expects the most of answer all items as well (`end`). What is printed
is the accuracy on all search items of the best merge found, and on the test items of that which is the best on search
and validation items together.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from means import mean_and_error
from small_searches import ITEMS, Models, SmallSearch, chosen, every_search, point_in

from evomerge.study.start import steps_of_better_half

WAYS = ("layers", "kinds", "within", "coarse", "steps")
FULL = ("full layers", "full kinds")


def searched(models: Models, way: str, seed: int) -> dict[str, float]:
    """One search."""
    whole = way in FULL
    cost, fine = models.cost(10 * ITEMS if whole else ITEMS), models.by_kind
    start, steps, before = models.start, None, []
    if way in {"coarse", "steps"}:
        coarse = SmallSearch(models, models.space, start, seed=seed)
        coarse.spend(cost // 2)
        start, before = coarse.mean(), [coarse.mean()]
        cost -= coarse.spent + len(models.tasks)
        if way == "steps":
            later = coarse.told[len(coarse.told) // 2 :]
            points = [point_in(fine, models.space.decode(genome)) for genome, _ in later]
            scores = [score for _, score in later]
            steps = steps_of_better_half(scores, points.__getitem__, fine.dimensions, models.step_size)
    space = models.space if way in {"layers", "full layers"} else fine
    # Of another seed where it is the second, so that its items are others, too.
    search = SmallSearch(models, space, start, seed=seed + 500 * bool(before), whole=whole, steps=steps)
    search.spend(cost, guided=way == "within")
    search.whole += before
    search.end()
    found = chosen(models, search.whole)
    search.extend()
    return found | {f"{name} with end": value for name, value in chosen(models, search.whole).items()}


def table(rows: Sequence[dict[str, Any]], against: Sequence[str]) -> str:
    """Accuracies of each way, without and with its end, and what it gains over others, in pairs of the same models and
    seed: means with standard errors over the models.
    """
    found: dict[str, dict[tuple[int, int], dict[str, float]]] = {}
    for end in ("", " with end"):
        for row in rows:
            scores = {items: row[items + end] for items in ("search", "test")}
            found.setdefault(row["way"] + end, {})[row["models"], row["seed"]] = scores
    heads = ["test", *(f"{items} items − {other}" for other in against for items in ("search", "test"))]
    lines = [f"| | {' | '.join(heads)} | searches |", "|---" * (len(heads) + 2) + "|"]
    for way, own in found.items():
        cells = [mean_and_error(of_models({key: scores["test"] for key, scores in own.items()}))]
        for other in against:
            for items in ("search", "test"):
                beside = found.get(other, {}) if way != other else {}
                gains = {key: own[key][items] - beside[key][items] for key in own if key in beside}
                cells.append(mean_and_error(of_models(gains), signed=True))
        lines.append(f"| {way} | {' | '.join(cells)} | {len(own)} |")
    return "\n".join(lines)


def of_models(values: dict[tuple[int, int], float]) -> list[float]:
    """The mean over the searches of each models, which aren't independent of each other."""
    models = dict.fromkeys(key[0] for key in values)
    return [float(np.mean([value for key, value in values.items() if key[0] == one])) for one in models]


def main() -> None:
    """Search, print each and a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, nargs="+", default=[0, 1, 2, 3], help="seeds of models")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], help="of searches of each way over each models")
    parser.add_argument("--ways", nargs="+", choices=[*WAYS, *FULL], default=[*WAYS])
    parser.add_argument(
        "--against", nargs="+", choices=[*WAYS, *FULL], default=["layers", "kinds"], help="ways to compare with"
    )
    parser.add_argument("--small", action="store_true", help="tiny models and few items, to see that it runs")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = every_search(given.folder, given.models, given.seeds, given.ways, searched, small=given.small)
    print(table(rows, given.against))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

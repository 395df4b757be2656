"""What a way of spending evaluations finds: searches over the demo's models, whose items a generator makes.

    python benchmarks/search/demo_models.py FOLDER --models 5 --spending plain racing --share 0.1

Each seed trains models of its own, as `evomerge demo` does, on sums of smaller numbers. Every way of spending gets the
same number of item evaluations for its candidates, `--share` of what 300 candidates that answer all search items cost.
What is printed is the winner's accuracy on the test items, which no search sees, against the best uniform merge of the
same search, by models and as a mean with its standard error over the models' seeds.

Finished searches are kept in FOLDER and not made again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from means import mean_and_error
from spending import SPENDING

import evomerge
from evomerge.config.config import Config
from evomerge.demo.build import SMALL, Settings, build_demo

LARGER = replace(
    Settings(),
    largest=12,
    base_steps=500,
    expert_steps=300,
    search=360,
    test=330,
    items_per_candidate=None,
    evaluations=300,
)
"""With easier sums and less training than the demo's own: the models of the recorded figures."""
TINY = replace(SMALL, search=32, validation=16, test=32)
CANDIDATES = 300


def main() -> None:
    """Train, search, print and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=5, help="seeds of models, each searched once by each way")
    parser.add_argument("--spending", nargs="+", choices=sorted(SPENDING), default=sorted(SPENDING))
    parser.add_argument("--share", type=float, nargs="+", default=[0.1], help="of the full cost")
    parser.add_argument("--kinds", action="store_true", help="tell attention, mlp and norms of each layer apart")
    parser.add_argument("--small", action="store_true", help="tiny models and few items, to see that it runs")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    rows = []
    for seed in range(given.models):
        settings = TINY if given.small else LARGER
        config = build_demo(given.folder / f"models-{seed}", seed=seed, settings=settings)
        for share in given.share:
            for spending in given.spending:
                run = given.folder / f"{spending}{'_kinds' if given.kinds else ''}-{share:g}-{seed}"
                row = searched(config, run, spending, share, kinds=given.kinds)
                rows.append({"models": seed, "share": share, "spending": spending, **row})
                print(line(rows[-1]), flush=True)
    print(table(rows))
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


def searched(path: Path, run: Path, spending: str, share: float, *, kinds: bool) -> dict[str, Any]:
    """One search of a way of spending, and what its winner is worth on the test items."""
    plain = Config.from_file(path, settings=["space.kinds=true"] if kinds else [])
    items = sum(1 for _ in (path.parent / "tasks" / "search.jsonl").open(encoding="utf-8"))
    budget = round(share * CANDIDATES * items)
    own = plain.search.model_dump(exclude_unset=True, exclude={"evaluations"})
    settings = {**own, **SPENDING[spending](budget)}
    data = {**plain.model_dump(exclude_unset=True), "search": settings}
    result = evomerge.search(Config.model_validate(data), run, where=str(path)).data
    tested = result["test"]
    scores = {model["kind"]: model["score"] for model in tested["models"]}
    against = {found["winner_vs"]: found for found in tested["comparisons"]}
    return {
        "evolved": scores["winner"],
        "uniform": scores.get("uniform", scores["winner"]),
        "expert": max(model["score"] for model in tested["models"] if model["kind"] == "expert"),
        "p": against["uniform"]["p"] if "uniform" in against else 1.0,
        "candidates": result["evaluations"],
        "seconds": round(3600 * result["hours"], 1),
    }


def line(row: dict[str, Any]) -> str:
    """One search in a line."""
    return (
        f"models {row['models']}, {row['spending']} at {row['share']:g}: evolved {row['evolved']:.3f}, best uniform "
        f"{row['uniform']:.3f} (p {row['p']:.3f}), {row['candidates']} candidates, {row['seconds']:.0f} s"
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Means over the models with standard errors, a row for each way and share."""
    lines = ["| spending | share | evolved | − best uniform | p < .01 | candidates | seconds |", "|---" * 7 + "|"]
    for spending, share in dict.fromkeys((row["spending"], row["share"]) for row in rows):
        found = [row for row in rows if (row["spending"], row["share"]) == (spending, share)]
        gains = [row["evolved"] - row["uniform"] for row in found]
        lines.append(
            f"| {spending} | {share:g} | {mean_and_error([row['evolved'] for row in found])} | "
            f"{mean_and_error(gains)} | "
            f"{sum(row['p'] < 0.01 for row in found)} of {len(found)} | "
            f"{np.median([row['candidates'] for row in found]):.0f} | "
            f"{np.median([row['seconds'] for row in found]):.0f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

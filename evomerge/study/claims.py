"""What may be claimed of a winner: for how many it was chosen from, how it generalises, how often it was tested.

Pure functions over samples and what result.json holds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from evomerge.estimate.clusters import Clusters
from evomerge.estimate.intervals import Samples
from evomerge.estimate.proportions import Interval
from evomerge.estimate.selection import best_of, difference_of_independent
from evomerge.run.evaluation import Evaluation
from evomerge.run.trial import WINNER


def selection(
    models: Sequence[Samples],
    chosen: int,
    score: float,
    weights: Mapping[str, float],
    clusters: Clusters | None = None,
) -> dict[str, Any]:
    """The winner's validation score corrected for how many it was chosen from, as result.json holds it.

    Args:
        models: results on the validation items of all that could have been chosen.
        chosen: place of the winner.
        score: its own on the validation items.
        weights: of the tasks.
        clusters: of the items; None: every item is by itself.
    """
    found = best_of(models, chosen, weights, clusters=clusters)
    return {
        "looked_at": len(models),
        "validation": score,
        "corrected": found.corrected,
        "interval": list(found.interval),
    }


def generalisation(result: Mapping[str, Any]) -> dict[str, Any]:
    """The winner's score on the items of each split, and how much lower it is on test than on search items.

    Args:
        result: with `models` of each split.

    Returns: without a gap where one of the two scores is missing.
    """
    rows = {
        split: next((model for model in result[split]["models"] if model["kind"] == WINNER), None)
        for split in ("search", "validation", "test")
    }
    found: dict[str, Any] = {split: None if row is None else row["score"] for split, row in rows.items()}
    searched, tested = rows["search"], rows["test"]
    if searched is not None and tested is not None:
        difference, interval = difference_of_independent(
            searched["score"], Interval(*searched["interval"]), tested["score"], Interval(*tested["interval"])
        )
        found |= {"search_to_test": difference, "interval": list(interval)}
    return found


def looks_before(
    previous: Mapping[str, Any] | None,
    budget: Mapping[str, Any],
    tested: Collection[int],
    evaluations: Iterable[Evaluation],
) -> int:
    """How often the test items had been looked at for another result of the same run.

    The same result made again, since a file was lost or the driver stopped, is no second look.

    Args:
        previous: what result.json holds so far.
        budget: of the present result.
        tested: the trials that it tests.
        evaluations: all of the run, which tell of a result whose file is gone.
    """
    if previous is None:
        return int(any(found.split == "test" and found.trial not in tested for found in evaluations))
    looks = int(previous.get("test_looks", 1))
    same = previous["budget"] == budget and {model["trial"] for model in previous["test"]["models"]} <= set(tested)
    return looks - 1 if same else looks

"""What a run keeps of its experiment in run.json: what tells it from others, and what only a new run looks at.

Knows experiments. Does not know what is evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.benchmark.clusters import numbered
from evomerge.config.config import Config
from evomerge.models.alignment import digest
from evomerge.run.identity import versions
from evomerge.score.requests import LogLikelihoodRequest
from evomerge.study.costs import split_costs
from evomerge.study.experiment import Experiment, population_of
from evomerge.study.inputs import fingerprints_of
from evomerge.study.select import SELECTION
from evomerge.study.start import Start


def facts_of(
    experiment: Experiment,
    *,
    asked: Config,
    dtypes: Mapping[str, str],
    start: Start | None,
    as_themselves: Mapping[str, Sequence[str]],
) -> dict[str, Any]:
    """What a run is, found anew by each session of it.

    Args:
        experiment: with its models opened, and aligned if they are to be.
        asked: the experiment's config, with recipes in the place of models that were merged first.
        dtypes: in which weights are merged, and in which workers compute.
        start: where the search starts, if it goes on from a merge that is known.
        as_themselves: settings that models keep where they are scored by themselves.
    """
    return {
        "identity": asked.identity(),
        **dtypes,
        **({} if experiment.maps is None else {"alignment": digest(experiment.maps)}),
        "options": dict(experiment.options),
        "places": [list(place) for place in experiment.places],
        "unchanged": {name: sorted(map(list, same)) for name, same in experiment.unchanged.items()},
        "items": experiment.benchmark.fingerprint,
        "population": population_of(experiment, len(experiment.benchmark.splits["search"])),
        "selection": SELECTION,
        "elite": True,
        "space": experiment.space.describe(),
        **({} if start is None else {"start": start.to_data()}),
        "as_themselves": {name: list(keys) for name, keys in as_themselves.items()},
        "benchmark": experiment.benchmark.describe(),
        "versions": versions(),
    }


def facts_of_new(
    experiment: Experiment, files: Mapping[str, Path], references: Sequence[LogLikelihoodRequest]
) -> dict[str, Any]:
    """What a new run keeps besides: its files' content, what each split costs, for the time that is left, and which
    test items belong together.
    """
    return {
        "files": fingerprints_of(files),
        "costs": split_costs(experiment, references),
        "clusters": numbered(experiment.benchmark.splits["test"]),
    }

"""What a run keeps of its experiment in run.json: what tells it from others, and what only a new run looks at.

Knows a session. Does not know what is evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.benchmark.clusters import numbered
from evomerge.models.alignment import digest
from evomerge.run.identity import versions
from evomerge.study.costs import split_costs
from evomerge.study.experiment import population_of
from evomerge.study.inputs import fingerprints_of
from evomerge.study.select import SELECTION

if TYPE_CHECKING:
    from evomerge.study.session import Session


def facts_of(session: Session) -> dict[str, Any]:
    """What a run is, found anew by each session of it."""
    experiment, start = session.experiment, session.start
    return {
        "identity": session.asked.identity(),
        **session.dtypes,
        **({} if experiment.maps is None else {"alignment": digest(experiment.maps)}),
        "options": dict(experiment.options),
        "places": [list(place) for place in experiment.places],
        "unchanged": {name: sorted(map(list, same)) for name, same in experiment.unchanged.items()},
        "items": session.benchmark.fingerprint,
        "population": population_of(experiment, len(session.benchmark.splits["search"])),
        "selection": SELECTION,
        "elite": True,
        "space": session.space.describe(),
        **({} if start is None else {"start": start.to_data()}),
        "as_themselves": {name: list(keys) for name, keys in session.as_themselves.items()},
        "benchmark": session.benchmark.describe(),
        "versions": versions(),
    }


def facts_of_new(session: Session, files: Mapping[str, Path]) -> dict[str, Any]:
    """What a new run keeps besides: its files' content, what each split costs, for the time that is left, and which
    test items belong together.
    """
    return {
        "files": fingerprints_of(files),
        "costs": split_costs(session.experiment, session.references),
        "clusters": numbered(session.benchmark.splits["test"]),
    }

"""The maps of an experiment whose models are aligned: found once for all workers, with word of how far that is."""

from __future__ import annotations

from collections.abc import Callable

from evomerge.errors import AlignmentError
from evomerge.models.open import maps_of
from evomerge.study.each_minute import EachMinute
from evomerge.study.experiment import Experiment


def find_maps(experiment: Experiment, report: Callable[[str], None]) -> bytes:
    """The maps as bytes, from the file that the config names, or found now.

    Args:
        experiment: whose config aligns its models.
        report: called at once if they are to be found, and then after a step if a minute has passed.

    Raises: AlignmentError, CheckpointError.
    """
    sources = experiment.config.models.sources()
    if sources.align is None:
        raise AlignmentError("models.align: is missing, so there are no maps to find")
    if sources.align.maps is None:
        report("finding the maps that align the models")
    each_minute = EachMinute(report)

    def progress(done: int, total: int) -> None:
        if done < total:
            # A map that changes may ask for others, so that no share of the whole can be said.
            each_minute(f"finding the maps: {done} steps done, {total - done} more in sight")

    found = maps_of(experiment.opened, sources, progress=progress)
    assert found is not None
    return found


def with_maps(experiment: Experiment, report: Callable[[str], None]) -> Experiment:
    """The experiment with its models aligned; as it is if that is done or they aren't to be. Raises: `find_maps`."""
    if experiment.config.models.sources().align is None or experiment.maps is not None:
        return experiment
    return experiment.aligned(find_maps(experiment, report))

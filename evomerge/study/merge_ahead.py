"""Models that a config gives as recipes, for what looks at them before their search: merged where that looks for them.

Nothing is merged twice, and nothing lies in a place that a search, or workers on other machines, couldn't use.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection
from pathlib import Path

from evomerge.config.config import Config
from evomerge.errors import RunError
from evomerge.run.directory import Run
from evomerge.run.lock import lock
from evomerge.run.merged import MERGED, with_folders
from evomerge.run.observer import SilentObserver
from evomerge.study.merge_first import are_made, merge_first


def merge_ahead(
    config: Config,
    directory: str | Path,
    told: Callable[[str], None] = lambda what: None,
    *,
    only: Collection[str] | None = None,
    where: str = "config",
) -> Config:
    """Merge the models of a config that are recipes into the run directory of its search, unless they are there.

    Args:
        config: the experiment.
        directory: the run's, which may have begun: then its own models are taken.
        told: what is done, a sentence at a time.
        only: the models that are needed, "base" or experts; None: all. Those whose heads tasks name are besides.
        where: the config's file, for messages.

    Returns: the config with folders in the place of recipes; if none is needed, as it is.

    Raises: RunError for a run over other models, and as `merge_first`; LockedError while another process merges there.
    """
    recipes, directory = config.models.recipes, Path(directory)
    needed = {name: path for name, path in recipes.items() if only is None or name in only or _is_a_head(config, name)}
    if not needed:
        return config
    begun = (directory / "run.json").exists()
    if begun and Run(directory).config.models.recipes != recipes:
        raise RunError(
            f"{directory}: its search has begun with other recipes than {where}; give another run directory (--run)"
        )
    # A search that is at work has merged what it needs.
    if begun and are_made(config, directory, needed):
        return with_folders(config, directory)
    heard = _Heard(told)
    with lock(directory):
        found = merge_first(config, directory, heard, begun=begun, only=needed, where=where)
    if heard.merges and not begun:
        remove = shlex.join(["evomerge", "clean", str(directory), "--yes"])
        told(f"{directory / MERGED}: is kept for the search in {directory}; without one, remove it: {remove}")
    return found


class _Heard(SilentObserver):
    """Passes on what is said, and keeps whether anything is merged."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self.merges = False

    def message(self, text: str) -> None:
        """Pass it on."""
        self._told(text)

    def phase(self, name: str, total: int | None) -> None:
        """Merging is the one that there is."""
        self.merges = True


def _is_a_head(config: Config, name: str) -> bool:
    """Whether a task has the output head of a model."""
    labels, model = config.benchmark.labels, config.models.sources().references[name]
    return labels is not None and any(task.head == model.path for task in (labels.tasks or {}).values())

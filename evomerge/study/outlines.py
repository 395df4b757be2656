"""Models of the hub that aren't on this machine, as far as their small files and headers tell.

Made for a while, to be looked at as if the models were here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from evomerge.config.config import Config
from evomerge.errors import CheckpointError, EvomergeError
from evomerge.models.outline import fetch_outline
from evomerge.recipe.sources import Sources


@dataclass(frozen=True, slots=True)
class Outlines:
    """Folders with outlines of models, and why there are none of others."""

    root: Path
    folders: dict[str, Path]
    """By model, "base" or an expert."""
    reasons: dict[str, str]
    """By model, why the hub told nothing, in few words."""

    def put_in(self, config: Config) -> Config:
        """The config with the outlines in the place of the models."""
        models = config.models
        base = models.base.model_copy(update={"path": str(self.folders.get("base", models.base.path))})
        experts = {
            name: expert.model_copy(update={"path": str(self.folders.get(name, expert.path))})
            for name, expert in models.experts.items()
        }
        return config.model_copy(update={"models": models.model_copy(update={"base": base, "experts": experts})})

    def named(self, text: str) -> str:
        """A sentence with the models' hub ids in the place of their outlines' folders."""
        return re.sub(rf"{re.escape(str(self.root))}/\d+/", "", text)

    @property
    def unchecked(self) -> list[str]:
        """What wasn't looked at of the models, a sentence each."""
        found = [
            f"{self.named(str(folder))}: the numbers in its weights, of which the hub was asked for the headers alone"
            for folder in dict.fromkeys(self.folders.values())
        ]
        if self.reasons:
            offline = set(self.reasons.values()) == {"offline"}
            why = (
                "this machine is offline (HF_HUB_OFFLINE)"
                if offline
                else "; ".join(f"{name}: {reason}" for name, reason in self.reasons.items())
            )
            found.append(f"what the hub could tell of models that aren't here: {why}")
        return found


@contextmanager
def outlines_of(sources: Sources, away: Collection[str]) -> Iterator[Outlines]:
    """Outlines of those models of a merge that are away, while they are looked at.

    Errors raised within name the models by their hub ids.
    """
    with TemporaryDirectory(prefix="evomerge-") as folder:
        made = Outlines(Path(folder), {}, {})
        known: dict[tuple[str, str | None], Path | CheckpointError] = {}
        for name in away:
            reference = sources.references[name]
            key = (reference.path, reference.revision)
            if key not in known:
                try:
                    # Two revisions of a model may be among them.
                    known[key] = fetch_outline(reference, made.root / str(len(known)))
                except CheckpointError as error:
                    known[key] = error
            if isinstance(found := known[key], Path):
                made.folders[name] = found
            else:
                made.reasons[name] = str(found)
        try:
            yield made
        except EvomergeError as error:
            error.args = tuple(made.named(part) if isinstance(part, str) else part for part in error.args)
            raise

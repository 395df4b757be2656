"""The models of one merge, loaded: what merges, the live model that is merged into, and what answers with it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import torch

from evomerge.errors import CheckpointError
from evomerge.execute.base import WorkerSettings
from evomerge.inference.classify import Classifier
from evomerge.inference.forward import SharedPrefixes
from evomerge.inference.function import FunctionCaller
from evomerge.inference.live import LiveModel
from evomerge.inference.resident import ResidentModel
from evomerge.materialise.bind import Bound
from evomerge.materialise.distance import relative_distance
from evomerge.materialise.merger import Merger
from evomerge.models.open import open_models
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import Sources
from evomerge.score.requests import ClassificationRequest, FunctionRequest, Request


class LoadedModels:
    """Checkpoints, a live model with the base's config, and the planned requests that it is to answer.

    Args:
        sources: the models.
        settings: of the worker; its own sources aren't looked at, and its maps where `sources` are aligned.
        devices: where the live model is; over several, it is spread.
        states: where workers share what a method prepares; None: in memory.
        tokenizer: stands in for that of a base without one.

    Raises: CheckpointError if a model can't be opened, or the models don't fit each other; ExecutionError if the
        devices haven't the room for the live model.
    """

    def __init__(
        self,
        sources: Sources,
        settings: WorkerSettings,
        *,
        devices: Sequence[torch.device],
        states: Path | None = None,
        tokenizer: Callable[[], Any] | None = None,
    ) -> None:
        models = open_models(sources, settings.maps)
        self.live = LiveModel.build(models.base, dtype=getattr(torch, settings.live_dtype), devices=devices)
        self._device = self.live.device
        places = {name: target.device for name, target in self.live.targets.items()}
        self.merger = Merger(models, device=self._device, places=places, states=states)
        self.plans: dict[str, tuple[Any, Any]] = {}
        """By split, what answers its requests, and its plan of them."""
        self.live_key: str | None = None
        """Of the recipe whose merge the live model holds, if it was written whole and nothing has failed since."""
        self.distances: dict[str, float] = {}
        """Of the live model's weights from those of models, by name, as far as the settings ask for them."""
        self.prefixes = SharedPrefixes()
        self._prefixes_of = ""
        self._models = models
        self._squares: dict[str, dict[str, float]] = {name: {} for name in settings.distances}
        self._settings = settings
        self._stand_in = tokenizer

    def bind(self, recipe: Recipe) -> Bound:
        """Check a recipe against the models. Raises: RecipeError."""
        return self.merger.bind(recipe)

    def prepare(self, bound: Bound) -> str | None:
        """Compute what the method needs whatever the coefficients.

        Returns: why it can't be shared with other workers, a sentence for people; None if nothing is wrong.
        Raises: MergeError.
        """
        return self.merger.prepare(bound)

    def write(self, bound: Bound) -> None:
        """Make the live model that of a recipe. Raises: MergeError."""
        self.merger.write(bound, self.live.targets)

    def add_requests(
        self, split: str, requests: Sequence[Request], blocks: Sequence[Sequence[int]] | None = None
    ) -> None:
        """Plan the requests of a split, and of its blocks if jobs ask for blocks."""
        responder = self._responder(requests)
        self.plans[split] = responder, responder.plan(requests, blocks=blocks)

    def measure_distances(self) -> None:
        """Find how far the live model's weights are from the models that the settings name."""
        self.distances = {
            name: relative_distance(self.live.targets, self._models.by_name[name], squares)
            for name, squares in self._squares.items()
        }

    def prefixes_for(self, split: str) -> SharedPrefixes:
        """What earlier blocks of a split have computed with these weights, to be used and added to."""
        if self._prefixes_of != split:
            self.prefixes, self._prefixes_of = SharedPrefixes(), split
        return self.prefixes

    def tokenizer(self) -> Any:
        """The base's tokenizer, or the one that stands in. Raises: CheckpointError if there is none."""
        try:
            return self._models.base.tokenizer()
        except CheckpointError:
            if self._stand_in is None:
                raise
            return self._stand_in()

    @cached_property
    def _resident(self) -> ResidentModel:
        """The live model as one that continues text; only that needs a tokenizer."""
        return ResidentModel(
            self.live.model, self.tokenizer(), device=self._device, batch_tokens=self._settings.batch_tokens
        )

    def _responder(self, requests: Sequence[Request]) -> Any:
        """What answers requests of this kind."""
        kind = type(requests[0]) if requests else None
        if kind is ClassificationRequest:
            return Classifier(self.live.model, device=self._device, batch_tokens=self._settings.batch_tokens)
        if kind is FunctionRequest:
            return FunctionCaller(self.live.model, cache(self.tokenizer))
        return self._resident

"""What the models of a merge say of themselves, for its card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.errors import EvomergeError
from evomerge.models.card_facts import card_facts, task_of
from evomerge.models.headers import read_json
from evomerge.models.hub import resolve
from evomerge.recipe.sources import ModelReference
from evomerge.report.front_matter import About


def about_models(
    references: Mapping[str, ModelReference],
    *,
    license: str | None = None,
    languages: Sequence[str] = (),
    repository: str | None = None,
) -> About:
    """What the cards of models and the base's config say; models that can't be had are left out.

    Args:
        references: the models by name, the base as "base".
        license: instead of the models' own.
        languages: instead of the models' own.
        repository: where the merge goes on the hub.
    """
    found, task = {}, None
    for name, reference in references.items():
        try:
            folder = resolve(reference)
        except EvomergeError:
            # That it can't be had is said where its weights are needed.
            continue
        found[name] = card_facts(folder)
        if name == "base" and (folder / "config.json").is_file():
            task = task_of(read_json(folder / "config.json"))
    return About(models=found, license=license, languages=tuple(languages), task=task, repository=repository)

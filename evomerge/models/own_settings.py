"""Which models differ from a merge of them in more than their weights, so that their own score is another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.errors import listed
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.config_differences import config_differences, file_differences
from evomerge.models.open import Models
from evomerge.models.tokenizer_differences import tokenizer_differences


def own_settings(opened: Models, merged: Checkpoint) -> dict[str, tuple[str, ...]]:
    """By model, "base" or an expert, the settings that it has otherwise than the merge; those without any are left out.

    Adapters have the base's, and compressed experts can't be opened without the base, so neither is looked at.

    Args:
        opened: as they are on disk.
        merged: the base as the merge sees it.

    Raises: CheckpointError for settings and tokenizers that can't be read.
    """
    found = {}
    for name, model in opened.by_name.items():
        if type(model) is not Checkpoint or model is merged:
            continue
        keys = [item.key for item in config_differences(merged.config, model.config)]
        keys += [item.key for item in file_differences(merged.folder, model.folder, merged.config, model.config)]
        keys += tokenizer_differences(merged, model)
        if keys:
            found[name] = tuple(keys)
    return found


def own_notes(settings: Mapping[str, Sequence[str]]) -> list[str]:
    """A sentence for each model with settings of its own, as `own_settings` finds them."""
    return [
        f"{'the base' if name == 'base' else f'expert {name!r}'} is scored as it is by itself, with its own "
        f"{listed(keys)}; a worker loads it for that"
        for name, keys in settings.items()
    ]

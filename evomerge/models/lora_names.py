"""The base's stored name of a tensor that an adapter names by its module in a live model.

Knows prefixes, and how transformers renames what is stored when it loads it. Does not know factors.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import cached_property
from typing import Any

import torch

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.transformers_settings import settings_of

_log = logging.getLogger(__name__)


class Names:
    """Finds stored names.

    Args:
        base: the model that is adapted.
    """

    def __init__(self, base: Checkpoint) -> None:
        self._base = base

    def find(self, name: str) -> str | None:
        """The stored name of a tensor, such as "model.layers.0.self_attn.q_proj.weight"; None if there is none.

        It may differ by the base model's prefix ("transformer."), or as transformers renames tensors on loading: an
        adapter trained on "model.language_model.layers" belongs to what is stored as "language_model.model.layers". An
        adapter of a vision-language model fits its language model alone, and the other way round.
        """
        stored = self._base.tensors
        if name in stored:
            return name
        renamed = self._rename(name)
        for form in dict.fromkeys((name, renamed)):
            if form in self._stored:
                return self._stored[form]
        plain = name.replace("language_model.", "")
        return self._close(name) or (plain if plain in stored else self._close(plain))

    @property
    def live_model(self) -> Any | None:
        """The model as transformers builds it, without memory; None if transformers doesn't know it."""
        return None if self._renaming is None else self._renaming[0]

    def _close(self, name: str) -> str | None:
        names = self._base.names
        close = [stored for stored in names if stored.endswith(f".{name}") or name.endswith(f".{stored}")]
        return close[0] if len(close) == 1 else None

    def _rename(self, name: str) -> str:
        """As transformers would name it in a live model; the name itself where that isn't known."""
        if self._renaming is None:
            return name
        from transformers.core_model_loading import rename_source_key

        model, renamings, state = self._renaming
        renamed, stacked = rename_source_key(name, renamings, [], model.base_model_prefix, state)
        return name if stacked else renamed

    @cached_property
    def _stored(self) -> dict[str, str]:
        """Stored names by those in a live model, where one becomes one."""
        live = {name: self._rename(name) for name in self._base.names}
        times = Counter(live.values())
        return {new: name for name, new in live.items() if times[new] == 1}

    @cached_property
    def _renaming(self) -> tuple[Any, list[Any], dict[str, Any]] | None:
        """The model without memory, how transformers renames what it loads, and the model's own names."""
        import transformers

        try:
            from transformers.conversion_mapping import get_model_conversion_mapping
            from transformers.core_model_loading import WeightRenaming

            with torch.device("meta"):
                model = getattr(transformers, str(self._base.architecture))(settings_of(self._base.config))
            renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
            return model, renamings, model.state_dict()
        except Exception as error:  # these are inner parts of transformers, and configs may be of any kind
            _log.debug("%s: how transformers renames its tensors isn't known: %r", self._base.folder, error)
            return None

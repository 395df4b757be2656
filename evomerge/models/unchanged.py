"""Which tensors of an expert are those of its base, as far as files tell.

Two tensors that differ mostly do so in their first entries, so only those that are equal are read to their end.
"""

from __future__ import annotations

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.names import match_names
from evomerge.models.open import Models


def unchanged_tensors(models: Models) -> dict[str, frozenset[str]]:
    """By expert, the names of floating-point tensors whose numbers are the base's.

    A tensor that is worked out, as an adapter's or an aligned one is, counts as changed.

    Raises: CheckpointError for a file that can't be read, or models that haven't the same tensors.
    """
    base = models.base
    return {
        expert: frozenset(
            name
            for name, own in match_names(base, model).items()
            if base.tensors[name].kind.is_floating_point and _is_unchanged(base, name, model, own)
        )
        for expert, model in models.experts.items()
    }


def _is_unchanged(base: Checkpoint, name: str, expert: Checkpoint, own: str) -> bool:
    if base.computes(name) or expert.computes(own):
        return False
    ours, theirs = base.raw(name), expert.raw(own)
    # An adapter shows the base's own tensors where it has no update.
    return ours.data_ptr() == theirs.data_ptr() or ours.equals(theirs)

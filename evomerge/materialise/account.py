"""What becomes of every stored tensor: merged, copied from the base, or ignored, and by which rule.

Knows which tensors the models share. Does not know recipes: this is the same for all of them.
"""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.errors import listed
from evomerge.materialise.inputs import Inputs
from evomerge.models.checkpoint import Checkpoint


def account_of(inputs: Inputs) -> list[str]:
    """How many tensors each model has, and what becomes of them, a sentence each.

    Adapters and compressed experts, whose files hold something else, are told by the tensors that they change.
    """
    return [_counts(inputs), *_copied(inputs), *_ignored(inputs)]


def _counts(inputs: Inputs) -> str:
    base = inputs.base.original
    counts = {"base": _count(base, base)}
    for name, expert in inputs.experts.items():
        counts[f"expert {name!r}"] = _count(expert.original, base)
    if len(set(counts.values())) == 1:
        found = f"{counts['base']} in each model"
    else:
        found = ", ".join(f"{label} {count}" for label, count in counts.items())
    return f"tensors: {found}; {len(inputs.floating)} are merged"


def _count(model: Checkpoint, base: Checkpoint) -> str:
    if model.is_whole:
        return str(len(model.tensors) + len(model.ignored))
    changed = [
        name for name, info in model.tensors.items() if model.computes(name) or info.file != base.tensors[name].file
    ]
    return f"changes {len(changed)} of the base's"


def _copied(inputs: Inputs) -> list[str]:
    merged = set(inputs.floating)
    found: dict[str, list[str]] = {}
    for name in inputs.base.names:
        if name not in merged:
            lacking = " and ".join(f"expert {expert!r}" for expert in inputs.lacks(name))
            why = f"that {lacking} lacks ({inputs.base.unread[name]})" if lacking else "of integers"
            found.setdefault(why, []).append(name)
    return [f"tensors copied from the base: {len(names)} {why}: {listed(names)}" for why, names in found.items()]


def _ignored(inputs: Inputs) -> list[str]:
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for label, reasons in _reasons(inputs).items():
        by_reason: dict[str, list[str]] = {}
        for name, why in reasons.items():
            by_reason.setdefault(why, []).append(name)
        for why, names in by_reason.items():
            found.setdefault((why, tuple(names)), []).append(label)
    return [
        f"tensors ignored in {' and '.join(labels)}: {len(names)} {why}: {listed(names)}"
        for (why, names), labels in found.items()
    ]


def _reasons(inputs: Inputs) -> Mapping[str, Mapping[str, str]]:
    """Why each ignored tensor of each model is ignored."""
    reasons = {"base": {name: f"({rule})" for name, rule in inputs.base.ignored.items()}}
    for name, expert in inputs.experts.items():
        left = {tensor: f"that the base lacks ({expert.unread[tensor]})" for tensor in inputs.left_out(name)}
        reasons[f"expert {name!r}"] = {tensor: f"({rule})" for tensor, rule in expert.ignored.items()} | left
    return reasons

"""The card of a model that came of rounds of tuning and merging."""

from __future__ import annotations

from evomerge.errors import counted
from evomerge.models.checkpoint import Checkpoint
from evomerge.tuning.card import base_in_front, base_in_words
from evomerge.tuning.rounds_config import Rounds


def rounds_card(name: str, base: Checkpoint, rounds: Rounds) -> str:
    """Its README.md, without a path of the machine."""
    tasks, tune, merge = ", ".join(rounds.tasks), rounds.tune, rounds.merge
    length = f"{tune.steps} steps" if tune.steps is not None else f"{tune.epochs or 1.0:g} epochs"
    how = f"a LoRA adapter of rank {tune.lora_rank}" if tune.lora_rank is not None else "all weights"
    count = counted(rounds.rounds, "round")
    lines = [
        "---",
        "library_name: transformers",
        "tags: [merge, evomerge]",
        *base_in_front(base, "merge"),
        "---",
        "",
        f"# {name}",
        "",
        f"{count} of tuning and merging from {base_in_words(base)} by evomerge. In each, an expert for each of the "
        f"tasks {tasks} was tuned from the model of the round before ({how}, {length}, learning rate "
        f"{tune.learning_rate:g}), and the experts were merged over it with {merge.method}.",
        "",
        "`recipe.yaml` is the merge of the last round. The model was not scored on any task or test data here.",
    ]
    return "\n".join(lines) + "\n"

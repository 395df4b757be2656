"""The card of a tuned model, and the record beside it: what was done and measured, without a path of the machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import counted
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe.portable import is_local
from evomerge.tuning.examples import Examples
from evomerge.tuning.settings import TuneData, TuneSettings
from evomerge.tuning.training import Trained

RECORD = "tuning.json"


def base_name(base: Checkpoint) -> str:
    """A hub id, or the name of a local folder, which is all that means something elsewhere."""
    return base.folder.name if is_local(base.reference) else base.reference.path


def base_in_words(base: Checkpoint) -> str:
    """The base as a card names it."""
    return f"`{base_name(base)}`" + (" (a local model)" if is_local(base.reference) else "")


def base_in_front(base: Checkpoint, relation: str) -> list[str]:
    """Lines of a card's front matter that say what a model comes from; none for a model that only this machine has."""
    if is_local(base.reference):
        return []
    return [f"base_model: {base.reference.path}", f"base_model_relation: {relation}"]


def record(
    base: Checkpoint, data: TuneData, settings: TuneSettings, examples: Examples, trained: Trained, steps: int
) -> dict[str, Any]:
    """Everything about a tuning, as plain data."""
    from importlib.metadata import version

    files = [*data.data, *([data.validation_data] if data.validation_data else [])]
    return {
        "base": base_name(base),
        "data": {**data.model_dump(exclude={"data", "validation_data"}), "files": [Path(file).name for file in files]},
        "settings": settings.model_dump(),
        "examples": {"train": len(examples.train), "validation": len(examples.validation)},
        "steps": steps,
        "losses": {str(step): loss for step, loss in trained.losses.items()},
        "validation": {str(step): dict(found) for step, found in trained.validation.items()},
        "versions": {name: version(name) for name in ("evomerge", "torch", "transformers")},
    }


def card(
    name: str,
    base: Checkpoint,
    data: TuneData,
    settings: TuneSettings,
    examples: Examples,
    trained: Trained,
    steps: int,
) -> str:
    """The README.md of a tuned model."""
    lora = settings.lora_rank is not None
    kind = f"A LoRA adapter of rank {settings.lora_rank} for" if lora else "A fine-tuning of"
    lines = [
        "---",
        f"library_name: {'peft' if lora else 'transformers'}",
        "tags: [evomerge]",
        *base_in_front(base, "adapter" if lora else "finetune"),
        "---",
        "",
        f"# {name}",
        "",
        f"{kind} {base_in_words(base)}, trained for {counted(steps, 'step')} on {len(examples.train)} "
        f"{examples.unit} by evomerge.",
    ]
    if data.new_head:
        lines.append(f"Its head is new, for {len(examples.labels)} labels.")
    lines += ["", "## Training", "", "| setting | value |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in _settings(settings).items()]
    lines += ["", "## Measured", "", *_measured(examples, trained)]
    lines += ["", "It was not scored on any task or test data here."]
    return "\n".join(lines) + "\n"


def _settings(settings: TuneSettings) -> dict[str, Any]:
    adapter = {"lora_rank", "lora_alpha"} if settings.lora_rank is None else set()
    found = settings.model_dump(exclude={"steps", "save_every", *adapter}, exclude_none=True)
    return {key: f"{value:g}" if isinstance(value, float) else value for key, value in found.items()}


def _measured(examples: Examples, trained: Trained) -> list[str]:
    if not trained.validation:
        return ["No data were held out, so nothing is known of it but the loss on what it was trained on."]
    lines = [
        f"On {len(examples.validation)} {examples.unit} that it wasn't trained on ({examples.how}):",
        "",
    ]
    columns = [*next(iter(trained.validation.values()))]
    lines += [f"| step | {' | '.join(columns)} |", "|---" * (len(columns) + 1) + "|"]
    lines += [_row(step, found, columns) for step, found in sorted(trained.validation.items())]
    return lines


def _row(step: int, found: Mapping[str, float], columns: list[str]) -> str:
    return f"| {step} | {' | '.join(f'{found[column]:.4f}' for column in columns)} |"

"""What a model's own card and config say of it that a card of a merge can say, too: licence, languages, its task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.files.outside import read_text
from evomerge.files.outside_yaml import parse_yaml
from evomerge.models.hub import is_hub_id

CARD = "README.md"

_TASKS = {
    "ForCausalLM": "text-generation",
    "LMHeadModel": "text-generation",
    "ForMaskedLM": "fill-mask",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForQuestionAnswering": "question-answering",
    "ForImageClassification": "image-classification",
}
"""Tasks as the hub names them, by how the name of a model's class ends; of other classes none is claimed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CardFacts:
    """What is known of one model."""

    license: str | None = None
    languages: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()
    """Hub ids of the models that it is a merge of, if it is one."""


def card_facts(folder: Path) -> CardFacts:
    """What the front matter of a model's card says; nothing if it has none, or none that can be read."""
    try:
        front = _front_matter(read_text(folder / CARD, CheckpointError))
    except CheckpointError:
        return CardFacts()
    license_, languages = front.get("license"), front.get("language")
    found = [languages] if isinstance(languages, str) else languages if isinstance(languages, list) else []
    merged = front.get("base_model") if front.get("base_model_relation") == "merge" else []
    return CardFacts(
        license=license_ if isinstance(license_, str) and license_ not in {"", "other", "unknown"} else None,
        languages=tuple(language for language in found if isinstance(language, str)),
        merged=tuple(model for model in merged if is_hub_id(model)) if isinstance(merged, list) else (),
    )


def _front_matter(text: str) -> Mapping[str, Any]:
    parts = text.split("\n---", 1)
    if not text.startswith("---\n") or len(parts) < 2:
        return {}
    found = parse_yaml(parts[0].removeprefix("---\n"), CARD, CheckpointError)
    return found if isinstance(found, Mapping) else {}


def task_of(config: Mapping[str, Any]) -> str | None:
    """What a model is for, as the hub names it, from its config.json; None if that isn't told by its class."""
    for name in config.get("architectures") or ():
        for end, task in _TASKS.items():
            if str(name).endswith(end):
                return task
    return None

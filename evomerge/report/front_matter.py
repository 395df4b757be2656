"""The front matter of a model card, which the hub reads, and the snippet that loads the model.

Says only what is known: a licence where all models have the same or one is given, hub ids but no folders of a machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from evomerge.models.card_facts import CardFacts
from evomerge.recipe.portable import is_local
from evomerge.recipe.sources import ModelReference


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What a card says besides what was merged and measured."""

    models: Mapping[str, CardFacts] = field(default_factory=dict)
    """By name, what the models' own cards say."""
    license: str | None = None
    """As asked for, instead of theirs."""
    languages: tuple[str, ...] = ()
    """As asked for, instead of theirs."""
    task: str | None = None
    """What the model is for, as the hub names it."""
    repository: str | None = None
    """Where it goes on the hub."""

    def license_for(self, names: Sequence[str]) -> str | None:
        """The licence of a model made of these: as asked for, or theirs if all have the same."""
        known = {self.models[name].license if name in self.models else None for name in names}
        return self.license or (known.pop() if len(known) == 1 else None)

    def missing_license(self, names: Sequence[str]) -> str | None:
        """Why there is no licence, as a sentence; None if there is one."""
        if self.license_for(names) is not None:
            return None
        known = {name: facts.license for name in names if (facts := self.models.get(name)) and facts.license}
        if not known:
            return "no licence is known of its models, so the card names none; give one with --license"
        unknown = [name for name in names if name not in known]
        listed = ", ".join(f"{name} {license_}" for name, license_ in known.items())
        rest = f"; of {', '.join(unknown)} none is known" if unknown else ""
        return f"its models' licences differ or aren't all known ({listed}{rest}), so the card names none; --license"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One task's metric on the test items."""

    task: str
    metric: str
    value: float
    items: int
    num_fewshot: int | None = None


def front_matter(
    name: str,
    references: Mapping[str, ModelReference],
    about: About,
    *,
    is_merge: bool,
    languages: Sequence[str] = (),
    scores: Sequence[TaskScore] = (),
) -> list[str]:
    """The lines of a card's front matter, with those that mark it.

    Args:
        name: of the model.
        references: the models that it is made of, by name.
        about: what else is known.
        is_merge: whether it is a merge, and not one of them as it is.
        languages: of the tasks that it was searched for.
        scores: on test items.
    """
    # Of a merge that is only here, the models that it was made of.
    known = [
        about.models.get(role, CardFacts()).merged if is_local(model) else (model.path,)
        for role, model in references.items()
    ]
    hub_ids = list(dict.fromkeys(hub_id for ids in known for hub_id in ids))
    theirs = [language for name in references if name in about.models for language in about.models[name].languages]
    found: dict[str, Any] = {
        "language": list(about.languages or dict.fromkeys([*languages, *theirs])),
        "license": about.license_for([*references]),
        "library_name": "transformers",
        "pipeline_tag": about.task,
        "tags": ["merge", "evomerge"] if is_merge else ["evomerge"],
        "base_model": hub_ids,
        "base_model_relation": "merge" if hub_ids and is_merge else None,
        "model-index": [{"name": name, "results": [_result(score, about.task) for score in scores]}] if scores else [],
    }
    kept = {key: value for key, value in found.items() if value}
    return ["---", *yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=10_000).splitlines(), "---"]


def _result(score: TaskScore, task: str | None) -> dict[str, Any]:
    args = {} if score.num_fewshot is None else {"num_few_shot": score.num_fewshot}
    return {
        "task": {"type": task or "other"},
        "dataset": {
            "type": score.task,
            "name": f"{score.task} ({score.items} held-out items)",
            **({"args": args} if args else {}),
        },
        "metrics": [{"type": score.metric.partition(",")[0], "value": score.value, "name": score.metric}],
    }


def usage(name: str, task: str | None) -> list[str]:
    """The lines of a section on how to load the model."""
    if task == "text-generation":
        code = [
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            f'model = AutoModelForCausalLM.from_pretrained("{name}", dtype="auto")',
            f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
            'inputs = tokenizer("...", return_tensors="pt")',
            "print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0], skip_special_tokens=True))",
        ]
    elif task is not None:
        code = ["from transformers import pipeline", "", f'model = pipeline("{task}", model="{name}")']
    else:
        code = ["from transformers import AutoModel", "", f'model = AutoModel.from_pretrained("{name}", dtype="auto")']
    return ["## Use", "", "```python", *code, "```", ""]

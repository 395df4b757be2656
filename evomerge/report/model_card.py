"""The card of an exported model: what was merged, and what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.models.stack import described
from evomerge.recipe.recipe import Recipe
from evomerge.run.directory import Run
from evomerge.run.records import TrialRecord
from evomerge.run.trial import WINNER


def model_card(run: Run, record: TrialRecord, recipe: Recipe, *, name: str) -> str:
    """The README.md of an exported merge: what it is, what was measured and what that is worth."""
    result = run.result()
    is_winner = result is not None and result["winner"]["trial"] == record.number
    experts = ", ".join(f"`{model.path}` ({expert})" for expert, model in recipe.experts.items())
    lines = [
        "---",
        "library_name: transformers",
        "tags: [merge, evomerge]",
        *_base_model_metadata(recipe),
        "---",
        "",
        f"# {name}",
        "",
        f"A merge of {experts} over `{recipe.base.path}` with {recipe.method}, found by an evolutionary search of "
        f"merge coefficients with evomerge (trial {record.number}, {record.kind}). "
        "`recipe.yaml` beside this file makes it again: `evomerge merge recipe.yaml OUT`.",
        "",
    ]
    if recipe.vocabulary != "same":
        whose = "the base" if recipe.vocabulary == "base" else "all its models"
        lines += [f"Its vocabulary is that of {whose}.", ""]
    if recipe.slices:
        layers = sum(last - first + 1 for first, last in (next(iter(part.values())) for part in recipe.slices))
        lines += [f"It is a stack of {described(recipe.slices, layers)}.", ""]
    if result is not None and is_winner:
        lines += _measured(result)
    elif record.score is not None:
        lines += [
            "## Measured",
            "",
            f"Score on the search items: {record.score:.4f}. The search selected on these items, so this is "
            "optimistic. This trial was not tested on held-out items.",
            "",
        ]
    lines += ["## Tasks", ""]
    for task in run.facts["benchmark"]["tasks"]:
        better = "" if task["higher_is_better"] else " (lower is better; its sign is reversed in scores)"
        lines.append(f"- {task['task']}: {task['metric']}{better}")
    return "\n".join(lines) + "\n"


def _base_model_metadata(recipe: Recipe) -> list[str]:
    """Hub ids of the models; local folders mean nothing to a reader elsewhere."""
    references = [recipe.base, *recipe.experts.values()]
    hub_ids = [reference.path for reference in references if not Path(reference.path).is_absolute()]
    return ["base_model:", *(f"- {path}" for path in hub_ids), "base_model_relation: merge"] if hub_ids else []


def _measured(result: dict[str, Any]) -> list[str]:
    test = result["test"]
    lines = [
        "## Measured",
        "",
        "On test items that neither the search nor the choice of the winner saw, with 95% intervals:",
        "",
        "| model | test score | interval | items |",
        "|---|---|---|---|",
    ]
    for model in test["models"]:
        low, high = model["interval"]
        lines.append(f"| {model['name']} | {model['score']:.4f} | {low:.4f} to {high:.4f} | {model['items']} |")
    lines += [
        "",
        "Paired on the same items (p as found, and after Holm's correction):",
        "",
        "| winner against | difference | interval | p | p, Holm |",
        "|---|---|---|---|---|",
    ]
    for row in test["comparisons"]:
        low, high = row["interval"]
        lines.append(
            f"| {row['winner_vs']} | {row['difference']:+.4f} | {low:+.4f} to {high:+.4f} "
            f"| {row['p']:.2g} | {row['p_holm']:.2g} |"
        )
    for task, rule in result.get("languages", {}).items():
        shares = ", ".join(
            f"{model['name']} {model['languages'][task]:.0%}" for model in test["models"] if "languages" in model
        )
        lines += ["", f"Answers to {task} in the asked language ({rule['code']}): {shares}."]
    found = next((model["score"] for model in result["search"]["models"] if model["kind"] == WINNER), None)
    if found is not None:
        lines += [
            "",
            f"Its score on the search items was {found:.4f} after {result['evaluations']} candidates; that number "
            "is optimistic, since it was selected for.",
        ]
    return [*lines, ""]

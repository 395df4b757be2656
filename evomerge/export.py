"""Exporting: a trial of a run as a Hugging Face model folder with its recipe and an honest model card."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.folder import write_folder
from evomerge.prepared import folder_of
from evomerge.recipe import Recipe
from evomerge.run import PREPARED, Run, TrialRecord, open_run
from evomerge.slices import described


def export(
    directory: str | Path,
    out: str | Path,
    *,
    trial: int | None = None,
    shard_size: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    report: Callable[[str], None] | None = None,
) -> Path:
    """Write the winner of a run, or a trial by number, as a model folder.

    Args:
        directory: the run directory.
        out: the folder to make; refused if it already holds something.
        trial: number of the trial; None takes the winner, or the best so far if the search hasn't ended.
        shard_size: largest size of a safetensors file, such as "5GB"; None takes the config's.
        progress: called with bytes written and bytes in all.
        report: called with each sentence that a person should know of the models, such as tokens that were added.
    Returns: the folder.
    Raises: RunError if there is no such trial or none with a score, ExportError if `out` can't be
        written, CheckpointError if the run's models are gone or have changed.
    """
    run = open_run(directory)
    record = _chosen(run, trial)
    recipe = run.recipe(record.number)
    return write_folder(
        recipe,
        Path(out),
        shard_size=shard_size or run.config.export.shard_size,
        progress=progress,
        report=report,
        files={"README.md": model_card(run, record, recipe, name=Path(out).name)},
        states=_prepared(run),
    )


def _prepared(run: Run) -> Path:
    """Where the run's workers left what the method computes once, if they were on this machine or shared its disks."""
    given = run.config.execution.prepared_directory
    return run.directory / PREPARED if given is None else folder_of(given)


def recipe_of(directory: str | Path, *, trial: int | None = None) -> Recipe:
    """The recipe of the winner of a run, or of a trial by number.

    Raises: RunError if there is no such trial, or none with a score.
    """
    run = open_run(directory)
    return run.recipe(_chosen(run, trial).number)


def _chosen(run: Run, number: int | None) -> TrialRecord:
    trials = run.trials()
    if number is None:
        result = run.result()
        if result is not None:
            return trials[int(result["winner"]["trial"])]
        scored = [trial for trial in trials if trial.fitness is not None and trial.kind not in {"base", "expert"}]
        if not scored:
            raise RunError(f"{run.directory}: no merge has a score yet; see: evomerge status {run.directory}")
        return max(scored, key=lambda trial: (trial.fitness or 0.0, -trial.number))
    if not 0 <= number < len(trials):
        raise RunError(
            f"{run.directory}: no trial {number}; it has trials 0 to {len(trials) - 1}. "
            f"See: evomerge trials {run.directory}"
        )
    return trials[number]


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
    found = next((model["score"] for model in result["search"]["models"] if model["kind"] == "winner"), None)
    if found is not None:
        lines += [
            "",
            f"Its score on the search items was {found:.4f} after {result['evaluations']} candidates; that number "
            "is optimistic, since it was selected for.",
        ]
    return [*lines, ""]

"""The outcome of a search in a table, from what result.json holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from evomerge.cli import front
from evomerge.cli.console import table
from evomerge.errors import listed
from evomerge.report.finding import finding, label, metric_name
from evomerge.report.words import earlier_results
from evomerge.run.trial import WINNER
from evomerge.score.numbers import interval, probability


def outcome(result: Mapping[str, Any]) -> tuple[RenderableType, str]:
    """The tables of the test and what was found, of one objective or several."""
    if "picks" in result:
        return front.picks_table(result), finding(result)
    kept = normalised_table(result)
    made = result_table(result)
    return made if kept is None else Group(made, "", kept), finding(result)


def normalised_table(result: Mapping[str, Any]) -> Table | None:
    """What each model keeps of the experts' own test scores; None where tasks aren't experts' own."""
    models = [model for model in result["test"]["models"] if model.get("normalised")]
    if not models:
        return None
    measured = metric_name(result)
    columns = ("normalised", "least", "of task")
    title = f"{measured[0].upper() + measured[1:]} over that of each task's own expert, mean over tasks"
    made = table("model", *columns, title=title, right=columns[:2])
    for model in models:
        shares = model["normalised"]
        task = min(shares, key=shares.__getitem__)
        cells = (f"{sum(shares.values()) / len(shares):.3f}", f"{shares[task]:.3f}", task)
        style = "bold" if model["kind"] == WINNER else None
        made.add_row(Text(label(model, result["winner"]["kind"])), *map(Text, cells), style=style)
    return made


def result_table(result: Mapping[str, Any], split: str = "test") -> Table:
    """Every model's score on one split, and the winner's lead over it."""
    models = result[split]["models"]
    comparisons = {row["winner_vs"]: row for row in result[split]["comparisons"]}
    items = max((model["items"] for model in models), default=0)
    measured = metric_name(result)
    held_out = ", held out" if split == "test" else ""
    made = table(
        "model",
        measured,
        "winner's lead",
        "paired p",
        title=f"{measured[0].upper() + measured[1:]} on {items} {split} items{held_out}, with 95% intervals",
        right=(measured, "winner's lead", "paired p"),
    )
    notes: list[str] = []
    if own := dict.fromkeys(key for model in models for key in model.get("own_settings", ())):
        notes.append(f"own settings: scored with its own {listed(own)}, not those of the merges")
    if split == "test" and (looks := result.get("test_looks", 1)) > 1:
        notes.append(f"the test items had been looked at before, for {earlier_results(looks)} of this search")
    if (clusters := result[split].get("clusters")) is not None:
        notes.append(f"{clusters} clusters of items that belong together; intervals and p-values count these")
    if notes:
        made.caption = Text("\n".join(notes))
    for model in models:
        cells = [label(model, result["winner"]["kind"]), interval(model["score"], model["interval"])]
        if (row := comparisons.get(model["name"])) is not None and model["kind"] != WINNER:
            cells += [interval(row["difference"], row["interval"], signed=True), probability(row["p"])]
        made.add_row(*map(Text, cells), style="bold" if model["kind"] == WINNER else None)
    return made

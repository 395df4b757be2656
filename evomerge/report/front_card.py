"""What a model card says of a merge that was found in a search for several objectives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import counted
from evomerge.report.words import constraints_kept
from evomerge.run.trial import TrialKind

_PICKS = {"knee": "the knee", "worst": "the one whose lowest score is highest"}


def is_picked(result: Mapping[str, Any] | None, trial: int) -> bool:
    """Whether a result is that of several objectives, and a trial one of its picks."""
    return result is not None and trial in result.get("picks", {}).values()


def pick_name(pick: str) -> str:
    """A pick in words."""
    return _PICKS.get(pick, f"the best in {pick.partition(':')[2]}")


def measured_front(result: Mapping[str, Any], trial: int) -> list[str]:
    """The section of a card on a picked merge: its objectives on test items, beside the baselines."""
    row = next((row for row in result["front"] if row["trial"] == trial), None)
    row = row or next(row for row in result["baselines"] if row["trial"] == trial)
    picks = [pick_name(pick) for pick, number in result["picks"].items() if number == trial]
    names = [*result["objectives"]]
    validated = sum("validation" in one for one in result["front"])
    lines = [
        "## Measured",
        "",
        f"A search for {len(names)} objectives ({', '.join(map(_named, result['objectives'].items()))}) ended with "
        f"{counted(len(result['front']), 'merge')} {_where(result)}; "
        f"{counted(validated, 'of them was', 'of them were')} scored again on validation items. "
        f"By what these say, this merge is {' and '.join(picks)}. On test items that neither the search nor that "
        "choice saw:",
        "",
        f"| model | {' | '.join(names)} |",
        f"|---|{'---|' * len(names)}",
    ]
    others = [one for one in result["baselines"] if one["trial"] != trial]
    for one, name in [*((one, _baseline(one)) for one in others), (row, "this merge")]:
        found = one.get("test", {}).get("objectives", {})
        lines.append(f"| {name} | {' | '.join(_number(found.get(objective)) for objective in names)} |")
    lines += [""]
    if result["constraints"]:
        splits = {split: row[split] for split in ("search", "validation", "test") if split in row}
        lines += [constraints_kept(row["search"]["constraints"]["values"], splits), ""]
    rows = [one for one in result["pick_comparisons"] if one["trial"] == trial]
    if rows:
        lines += [
            "Paired on the same items (p as found, and after Holm's correction for all picks, models and objectives):",
            "",
            "| against | objective | difference | interval | p | p, Holm |",
            "|---|---|---|---|---|---|",
        ]
    for one in rows:
        found = ["–", "–", "–"]
        if "p" in one:
            low, high = one["interval"]
            found = [f"{low:+.4g} to {high:+.4g}", f"{one['p']:.2g}", f"{one['p_holm']:.2g}"]
        lines.append(f"| {one['against']} | {one['objective']} | {one['difference']:+.4g} | {' | '.join(found)} |")
    return [*lines, *([""] if rows else [])]


def _where(result: Mapping[str, Any]) -> str:
    """What the merges of a front are, in words."""
    if all(row["search"]["feasible"] for row in result["front"]):
        return "that no other beats in every objective on the search items"
    return "that come nearest to meeting the constraints, which none meets on the search items"


def _named(objective: tuple[str, Mapping[str, Any]]) -> str:
    name, facts = objective
    return name if facts["higher_is_better"] else f"{name}, less is better"


def _baseline(row: Mapping[str, Any]) -> str:
    return "best uniform merge" if row["kind"] == TrialKind.UNIFORM else str(row["name"])


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"

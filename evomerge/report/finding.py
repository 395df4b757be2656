"""What a search has found, in sentences that are the same on every screen, page and card.

From what result.json holds. Does not know where they are shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from evomerge.errors import counted
from evomerge.report.words import constraints_kept, earlier_results
from evomerge.run.trial import WINNER, TrialKind
from evomerge.score.numbers import probability

# Several comparisons are reported, so the claim rests on p-values corrected for their number.
_SIGNIFICANT = 0.05
_CLAIMS = 4

_WINNERS = {
    TrialKind.UNIFORM.value: "winner (uniform)",
    TrialKind.START.value: "winner (start)",
    TrialKind.METHOD.value: "winner (not evolved)",
}


def finding(result: Mapping[str, Any]) -> str:
    """What the search and the test showed, of one objective or several, whichever way it went."""
    return _of_several(result) if "picks" in result else _of_one(result)


def _of_one(result: Mapping[str, Any]) -> str:
    """What the test showed, in one sentence, whichever way it went."""
    models = result["test"]["models"]
    winner = next((model for model in models if model["kind"] == WINNER), None)
    if winner is None:
        return "The winner could not be tested: its evaluation on the test items failed."
    if result["winner"]["kind"] == TrialKind.UNIFORM:
        opening = "No evolved candidate did better on validation than a uniform merge, so that merge is the winner; "
    elif result["winner"]["kind"] == TrialKind.START:
        opening = "No candidate did better on validation than the merge that the search started from, which wins; "
    elif result["winner"]["kind"] == TrialKind.METHOD:
        opening = (
            "No evolved candidate did better on validation than a merge by another method "
            f"({_method_of(models, winner)}), so that merge is the winner; "
        )
    else:
        opening = ""
    experts = [model for model in models if model["kind"] == TrialKind.EXPERT]
    rivals = [max(experts, key=lambda model: model["score"])] if experts else []
    rivals += [model for model in models if model["kind"] == TrialKind.UNIFORM and model["trial"] != winner["trial"]]
    methods = [model for model in models if model["kind"] == TrialKind.METHOD and model["trial"] != winner["trial"]]
    rivals += [max(methods, key=lambda model: model["score"])] if methods else []
    comparisons = {row["winner_vs"]: row for row in result["test"]["comparisons"]}
    verdicts = [_verdict(rival, comparisons[rival["name"]]) for rival in rivals if rival["name"] in comparisons]
    measured = f"on {winner['items']} test items that the search never saw, the winner scores {winner['score']:.3f}"
    sentence = opening + measured + (": " + ", and ".join(verdicts) if verdicts else "")
    ending = _languages(result, models, winner)
    if required := result.get("requirements"):
        ending += " " + constraints_kept(next(iter(required.values()))["values"], required)
    if result.get("feasible_merges") == 0:
        ending += " No merge meets all of them on the search items, so those were validated that come nearest."
    return sentence[0].upper() + sentence[1:] + "." + ending


def cautions(result: Mapping[str, Any]) -> list[str]:
    """What a reader of the figures should know besides, a sentence each; empty if there is nothing."""
    found = []
    if (looks := result.get("test_looks", 1)) > 1:
        found.append(
            f"The test items had been looked at before, for {earlier_results(looks)} of this search: if that decided "
            "on going on, these scores are a little too good. A new claim needs items that nobody saw."
        )
    gap = result.get("generalisation", {})
    if "interval" in gap and gap["interval"][0] > 0:
        found.append(
            f"The winner scores {gap['search']:.3f} on the search items and {gap['test']:.3f} on the test items, "
            f"{gap['search_to_test']:.3f} less, which is more than chance explains: the search has fitted its items "
            "or the test items are harder. More search items help against the first."
        )
    return found


def _method_of(models: list[Mapping[str, Any]], winner: Mapping[str, Any]) -> str:
    """The name of the method's merge that won."""
    same = (model for model in models if model["kind"] == TrialKind.METHOD and model["trial"] == winner["trial"])
    return next((model["name"].removeprefix("method ") for model in same), "a baseline")


def _languages(result: Mapping[str, Any], models: list[Mapping[str, Any]], winner: Mapping[str, Any]) -> str:
    """For each task whose text is to be in a language, how much of it is; empty without such tasks."""
    found = ""
    for task, rule in result.get("languages", {}).items():
        if task not in winner.get("languages", {}):
            continue
        others = [
            f"{label(model, '')} {model['languages'][task]:.0%}"
            for model in models
            if model["kind"] != WINNER and task in model.get("languages", {})
        ]
        share, required = winner["languages"][task], rule["at_least"]
        found += f" Of its answers to {task}, {share:.0%} are in the asked language ({rule['code']})"
        if required is not None:
            found += f", {required:.0%} required" if share >= required else f", below the {required:.0%} required"
        found += f"; {', '.join(others)}." if others else "."
    return found


def _verdict(rival: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    names = {
        TrialKind.EXPERT: f"{rival['name']}, the best expert",
        TrialKind.METHOD: f"{rival['name'].removeprefix('method ')}, the best of other methods",
    }
    name = names.get(rival["kind"], "the best uniform merge")
    difference, p = row["difference"], row["p_holm"]
    shown = probability(p)
    evidence = f"({difference:+.3f}, corrected p {shown if shown.startswith('<') else '= ' + shown})"
    if p >= _SIGNIFICANT:
        return f"not clearly different from {name} {evidence}"
    return f"{'better' if difference > 0 else 'worse'} than {name} {evidence}"


def _of_several(result: Mapping[str, Any]) -> str:
    """What the search for several objectives and its test showed."""
    front = result["front"]
    validated = sum("validation" in row for row in front)
    merges = counted(len(front), "merge")
    if all(row["search"]["feasible"] for row in front):
        found = f"{merges} that no other beats in every objective on the search items, {validated} of them validated."
    else:
        least = front[0]["search"]["violation"]
        found = (
            f"No merge meets all constraints on the search items; trial {front[0]['trial']} comes nearest and misses "
            f"them by {least:.3g} in all."
        )
    tests = [row for row in result["pick_comparisons"] if "p" in row]
    clear = sorted((row for row in tests if row["p_holm"] < _SIGNIFICANT), key=lambda row: row["p_holm"])
    if not tests:
        return f"{found} No pick could be compared with another model on the test items."
    corrected = f"corrected for {len(tests)} comparisons" if len(tests) > 1 else "by one comparison"
    if not clear:
        return f"{found} On the test items no pick is clearly different from a baseline in any objective, {corrected}."
    claims = "; ".join(_claim(row, result) for row in clear[:_CLAIMS])
    more = f"; and {len(clear) - _CLAIMS} more in result.json" if len(clear) > _CLAIMS else ""
    return f"{found} On the test items, {corrected}: {claims}{more}."


def label(model: Mapping[str, Any], winner: str) -> str:
    """A model of a result in words.

    Args:
        model: one of those of a split.
        winner: the kind of trial that won.
    """
    names = {
        TrialKind.BASE: "base",
        TrialKind.EXPERT: f"expert {model['name']}",
        TrialKind.UNIFORM: "best uniform",
        TrialKind.METHOD: model["name"].removeprefix("method "),
        WINNER: _WINNERS.get(winner, "evolved winner"),
    }
    # Scored with its own config and tokenizer, where these aren't the base's.
    return str(names[model["kind"]]) + (" (own settings)" if model.get("own_settings") else "")


def _claim(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    """One clear difference in words."""
    difference = row["difference"]
    higher = result["objectives"][row["objective"]]["higher_is_better"]
    better = (difference > 0) == higher
    against = "the best uniform merge" if row["against"] == TrialKind.UNIFORM else row["against"]
    shown = probability(row["p_holm"])
    p = shown if shown.startswith("<") else f"= {shown}"
    value = f"{difference:+.3f}" if math.fabs(difference) < 10 else f"{difference:+.1f}"
    return (
        f"trial {row['trial']} ({', '.join(row['picks'])}) is {'better' if better else 'worse'} than {against} in "
        f"{row['objective']} ({value}, p {p})"
    )


def metric_name(result: Mapping[str, Any]) -> str:
    """What a score is called: the metric that was measured if all tasks share one, "minus" where lower is better."""
    metrics = {str(metric).partition(",")[0] for metric in result["metrics"].values()}
    if metrics and metrics <= {"acc", "acc_norm", "exact_match"}:
        return "accuracy"
    # Runs of earlier releases don't say which way is better.
    better = set(result.get("higher_is_better", {}).values())
    if len(metrics) != 1 or len(better) != 1:
        return "score"
    (metric,) = metrics
    return metric if True in better else f"minus {metric}"

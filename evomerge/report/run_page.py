"""One page of a run, the honest result first: for a phone, a desk and paper, whatever became of the search.

Knows the run and its charts. Texts of questions are given, since they stand in no run.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from datetime import datetime

import yaml

from evomerge.errors import counted, listed
from evomerge.files.places import local
from evomerge.models.stack import described
from evomerge.report import merge_figures, search_figures
from evomerge.report.all_alike import all_alike
from evomerge.report.chart import Chart
from evomerge.report.finding import cautions, finding, label
from evomerge.report.front_card import pick_name
from evomerge.report.items_won import Answered, Compared, Question, in_words
from evomerge.report.page import TextPage
from evomerge.report.run_facts import RunFacts
from evomerge.run.trial import WINNER, TrialKind, TrialState
from evomerge.score.numbers import duration, interval, probability, score

ITEMS = 5
"""Items won, and as many lost, that are shown with their texts."""

_MOST_TEXT = 1500
_MOST_REASONS = 20


def charts(facts: RunFacts) -> dict[str, Chart]:
    """Every chart that there is of a run, by the name under which it is asked for."""
    found: dict[str, Chart | None] = {
        "test": merge_figures.scores_on_test(facts),
        "convergence": search_figures.convergence(facts),
    }
    for place, front in enumerate(search_figures.fronts(facts), start=1):
        found["front" if place == 1 else f"front-{place}"] = front
    found["hypervolume"] = search_figures.hypervolume(facts)
    several = {
        "coefficients": merge_figures.coefficients(facts),
        "depth": merge_figures.curves(facts),
        "tasks": merge_figures.tasks(facts),
    }
    for name, made in several.items():
        for place, (parameter, chart) in enumerate(made.items()):
            found[name if place == 0 else f"{name}-{parameter}"] = chart
    found |= {
        "importances": merge_figures.importances(facts),
        "time": search_figures.times(facts),
    }
    return {name: chart for name, chart in found.items() if chart is not None}


def run_page(
    facts: RunFacts,
    *,
    compared: Compared | None = None,
    questions: Mapping[str, Question] | None = None,
    missing: str = "",
    items: int = ITEMS,
) -> TextPage:
    """The page of a run.

    Args:
        facts: of the run.
        compared: the shown merge against the best expert, item by item.
        questions: what the shown items ask, by item, as far as it is known.
        missing: why that isn't known.
        items: how many won and lost items are shown.
    """
    page, drawn = TextPage(facts.name), charts(facts)
    _result(page, facts, drawn)
    for heading, names in (
        ("The search", ("convergence", "front", "hypervolume")),
        ("The merge", ("coefficients", "depth")),
        ("Tasks", ("tasks",)),
    ):
        own = [chart for name, chart in drawn.items() if name.split("-")[0] in names]
        words = _words(facts, heading)
        if own or words:
            page.heading(heading)
            for text in words:
                page.say(text)
            for chart in own:
                page.chart(chart)
    _items(page, facts, compared, questions or {}, missing, items)
    if "importances" in drawn:
        page.heading("What mattered")
        page.chart(drawn["importances"])
    _cost(page, facts, drawn)
    _again(page, facts)
    return page


def _result(page: TextPage, facts: RunFacts, drawn: Mapping[str, Chart]) -> None:
    """What was found, how sure that is, and how far the run is."""
    result = facts.result
    if not facts.has_ended:
        page.say(facts.state(), kind="lead open")
    if result is not None:
        page.say(finding(result), kind="lead")
        for text in cautions(result):
            page.say(text)
    if facts.has_ended:
        page.say(facts.state(), kind="dim")
    remark = all_alike(facts.run, (trial.score for trial in facts.trials if trial.score is not None))
    if remark is not None:
        page.say(remark)
    if facts.candidates and facts.count(TrialState.FAILED) == len(facts.candidates):
        page.say("Every candidate failed; the reasons are below.")
    if result is None:
        _leaders(page, facts)
    elif "picks" in result:
        _picks(page, facts)
    elif result["test"]["models"]:
        if "test" in drawn:
            page.chart(drawn["test"])
        rows = {row["winner_vs"]: row for row in result["test"]["comparisons"]}
        table = []
        for model in result["test"]["models"]:
            row = rows.get(model["name"]) if model["kind"] != WINNER else None
            lead = interval(row["difference"], row["interval"], signed=True) if row else ""
            p = probability(row["p_holm"]) if row else ""
            name = label(model, result["winner"]["kind"])
            table.append((name, interval(model["score"], model["interval"]), lead, p))
        page.table(("model", "test score", "winner's lead", "corrected p"), table)
        _selection(page, facts)


def _selection(page: TextPage, facts: RunFacts) -> None:
    """What the winner was chosen from."""
    assert facts.result is not None
    chosen = facts.result.get("selection")
    if chosen is not None:
        corrected = "" if chosen["corrected"] is None else f", corrected for that choice {chosen['corrected']:.3f}"
        page.say(
            f"The winner, trial {facts.result['winner']['trial']}, was chosen from {chosen['looked_at']} merges by "
            f"its score on validation items, {chosen['validation']:.3f}{corrected}; then it was tested.",
            kind="dim",
        )


def _leaders(page: TextPage, facts: RunFacts) -> None:
    """The best of each kind so far."""
    rows = [(trial.model, score(trial.score), f"trial {trial.number}") for trial in facts.leaders.values()]
    if rows:
        page.table(("model", "search score", ""), rows, title="Leaders on the search items")
        page.say(
            "The best of many on the items that it was searched by: no estimate of what a test would show.", kind="dim"
        )


def _picks(page: TextPage, facts: RunFacts) -> None:
    """Baselines and picked merges with their objectives on test items."""
    assert facts.result is not None
    result, names = facts.result, [*facts.result["objectives"]]
    rows = {row["trial"]: row for row in [*result["front"], *result["baselines"]]}
    picks: dict[int, list[str]] = {}
    for pick, trial in result["picks"].items():
        picks.setdefault(trial, []).append(pick_name(pick))

    def values(row: Mapping[str, Mapping[str, Mapping[str, float]]]) -> list[str]:
        found = row.get("test", {}).get("objectives", {})
        return [f"{found[name]:.4g}" if name in found else "–" for name in names]

    table = [[f"trial {trial}: {' and '.join(ways)}", *values(rows[trial])] for trial, ways in picks.items()]
    for row in result["baselines"]:
        if row["trial"] not in picks:
            uniform = row["kind"] == TrialKind.UNIFORM
            table.append(["best uniform" if uniform else str(row["name"]), *values(row)])
    page.table(("model", *names), table, title="On test items")


def _words(facts: RunFacts, heading: str) -> list[str]:
    """What is said at the beginning of a section."""
    found = []
    if heading == "The search":
        search = facts.config.search
        dimensions = facts.run.facts.get("space", {}).get("dimensions", ())
        found.append(
            f"Algorithm {search.algorithm} over {counted(len(dimensions), 'dimension')} of merges with "
            f"{facts.config.merge.method}, seed {search.seed}."
        )
        if not facts.scored and facts.candidates and not facts.goals.are_several:
            found.append("No candidate has a score on all search items.")
    if heading == "The merge" and facts.shown is not None:
        recipe = facts.recipe
        if recipe is not None and recipe.slices:
            layers = sum(last - first + 1 for first, last in (next(iter(part.values())) for part in recipe.slices))
            found.append(f"A stack of {described(recipe.slices, layers)}.")
        if left_out := facts.run.facts.get("space", {}).get("left_out", ()):
            found.append(
                f"Without effect, and so not searched: {counted(len(left_out), 'coefficient')} of experts whose "
                f"tensors there are the base's ({listed(left_out)})."
            )
        if recipe is None:
            found.append(f"The recipe of {facts.shown_as} can't be made again from this run.")
    return found


def _items(
    page: TextPage,
    facts: RunFacts,
    found: Compared | None,
    questions: Mapping[str, Question],
    missing: str,
    most: int,
) -> None:
    if found is None:
        return
    page.heading("Items won and lost")
    page.say(
        f"On the test items, {facts.shown_as}, against {found.expert}, the best expert there: it does better on "
        f"{len(found.won)}, worse on {len(found.lost)} and as well on {found.equal}."
    )
    if found.left_out:
        page.say(f"Left out are tasks whose metric gives an item no score of its own: {', '.join(found.left_out)}.")
    shown = [*found.won[:most], *found.lost[:most]]
    if missing and shown:
        page.say(f"What was asked isn't shown, since models or data can't be read here: {missing}", kind="dim")
    for title, own in (("Won", found.won), ("Lost", found.lost)):
        if own[:most]:
            page.subheading(title if len(own) <= most else f"{title}: {most} of {len(own)}")
        for one in own[:most]:
            _item(page, one, found, questions.get(one.item))


def _item(page: TextPage, one: Answered, found: Compared, question: Question | None) -> None:
    parts = [("question", _cut(question.prompt))] if question is not None else []
    parts += [
        (f"{name} (score {number:g})", _cut(in_words(one, place, question)))
        for place, (name, number) in enumerate(zip((f"trial {found.merge}", found.expert), one.scores, strict=True))
    ]
    page.entry(f"{one.task}, item {one.item}", parts)


def _cost(page: TextPage, facts: RunFacts, drawn: Mapping[str, Chart]) -> None:
    page.heading("Time, cost and failures")
    rows = [("candidates proposed", f"{len(facts.candidates):,}")]
    for name, state in (("failed", TrialState.FAILED), ("stopped early", TrialState.PRUNED)):
        if count := facts.count(state):
            rows.append((name, f"{count:,}"))
    if count := facts.count(TrialState.RUNNING):
        rows.append(("being evaluated" if facts.is_driven else "interrupted", f"{count:,}"))
    if seconds := facts.progress.get("driving_seconds"):
        rows.append(("time of driving, all sessions", duration(float(seconds))))
    if seconds := facts.progress.get("gpu_seconds"):
        rows.append(("time of GPUs", duration(float(seconds))))
    if answered := facts.progress.get("items"):
        rows.append(("search items answered by candidates", f"{answered:,}"))
    took = sorted(sum(trial.seconds.values()) for trial in facts.candidates if trial.seconds)
    if took:
        rows.append(("a candidate, median", duration(took[len(took) // 2])))
    page.table(("what", "amount"), rows)
    if "time" in drawn:
        page.chart(drawn["time"])
    reasons: dict[str, list[int]] = {}
    for trial in facts.trials:
        if trial.reason is not None:
            reasons.setdefault(trial.reason, []).append(trial.number)
    if reasons:
        page.subheading("Failures")
        ordered = sorted(reasons.items(), key=lambda pair: -len(pair[1]))
        for reason, numbers in ordered[:_MOST_REASONS]:
            some = ", ".join(map(str, numbers[:6])) + (" …" if len(numbers) > 6 else "")
            page.entry(
                f"{len(numbers)} failed: trial{'s' if len(numbers) > 1 else ''} {some}", [("reason", _cut(reason))]
            )
        if len(ordered) > _MOST_REASONS:
            page.say(f"{len(ordered) - _MOST_REASONS} more reasons: evomerge trials RUN --format json")


def _again(page: TextPage, facts: RunFacts) -> None:
    """Environment, and how to reproduce the run."""
    page.heading("How to reproduce it")
    config = facts.config
    page.say(
        f"The same config, seed ({config.search.seed}), versions and hardware give the same trials with a generational "
        "algorithm; one that doesn't wait for its generation depends on timing."
    )
    run = shlex.quote(facts.name)
    go_on = f"evomerge export {run} OUT" if facts.has_ended else f"evomerge resume {run}"
    page.code(f"evomerge search config.yaml --run NEW\n{go_on}")
    data = _without_folders(config.model_dump(mode="json"))
    text = yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
    page.code(text, title="config.yaml, local folders by their names alone")
    versions = facts.run.facts.get("versions", {})
    rows = [(str(name), str(version)) for name, version in versions.items()]
    rows.append(("dtype", str(facts.run.facts.get("dtype", ""))))
    page.table(("package", "version"), rows, title="Environment")
    tasks = [
        (
            str(task["task"]),
            str(task["metric"]),
            *(str(task.get("items", {}).get(split, "–")) for split in ("search", "validation", "test")),
        )
        for task in facts.benchmark()["tasks"]
    ]
    page.table(("task", "metric", "search items", "validation", "test"), tasks, title="Benchmark")
    for sentence in facts.benchmark().get("searched_publicly", []):
        page.say(f"{sentence}.")
    page.say(f"Made on {datetime.now():%Y-%m-%d %H:%M} from what was on disk then.", kind="dim")


def _without_folders(value: object) -> object:
    """Plain data with the last name of each path of this machine, which means nothing elsewhere."""
    if isinstance(value, Mapping):
        return {key: _without_folders(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_folders(one) for one in value]
    return local(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _cut(text: str) -> str:
    if len(text) <= _MOST_TEXT:
        return text
    return f"{text[:_MOST_TEXT]}… ({len(text) - _MOST_TEXT:,} more characters)"

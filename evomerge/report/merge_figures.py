"""A merge as charts: its coefficients by layer and expert, its scores by task, and what coefficients matter."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.estimate.clusters import clustered_interval
from evomerge.estimate.intervals import Mean
from evomerge.recipe.group import Group
from evomerge.report.chart import Chart
from evomerge.report.figures import DASHES, MARKERS, Numbers, number
from evomerge.report.finding import label, metric_name
from evomerge.report.heat_map import Cell, HeatMap
from evomerge.report.plane import Plane, Series
from evomerge.report.rows import Row, Rows
from evomerge.report.run_facts import RunFacts
from evomerge.run.trial import WINNER, TrialKind
from evomerge.score.objective import LANGUAGE

FEWEST = 10
"""Candidates below which nothing is said of how coefficients and fitness go together."""
_SHOWN = 16
_MOST_LINES = 6
_OUTSIDE = ("embedding", "head")


def coefficients(facts: RunFacts) -> dict[str, Chart]:
    """Heat maps of the shown merge's coefficients, one for each parameter of the method."""
    recipe = facts.recipe
    if recipe is None or facts.shown is None:
        return {}
    made: dict[str, Chart] = {}
    for parameter in _parameters(recipe.groups):
        columns, kinds, known = _grid(recipe.groups, parameter)
        models = list(dict.fromkeys(model for _, _, by_model in known for model in by_model))
        if not models:
            continue
        cells = []
        for column, kind, by_model in known:
            for model, value in by_model.items():
                top = models.index(model) * len(kinds)
                spans = kind is None
                row = top if kind is None else top + kinds.index(kind)
                cells.append(Cell(row=row, column=columns.index(column), value=value, rows=len(kinds) if spans else 1))
        plain = kinds == [""]
        groups = [("", models)] if plain else [(model, kinds) for model in models]
        table = Numbers(
            columns=("group", *models),
            rows=tuple(
                (group.name, *(number(by_model[model]) if model in by_model else "–" for model in models))
                for group, (_, _, by_model) in zip(_with(recipe.groups, parameter), known, strict=True)
            ),
        )
        made[parameter] = HeatMap(
            title=f"{parameter.capitalize()} by layer and expert",
            caption=f"Of {facts.shown_as}, merged with {recipe.method}.",
            numbers=table,
            groups=groups,
            columns=columns,
            cells=cells,
            x="layers" if any(name[:1].isdigit() for name in columns) else "",
            unit=parameter,
        )
    return made


def curves(facts: RunFacts) -> dict[str, Chart]:
    """The same coefficients over depth, where there is more than one place in it."""
    recipe = facts.recipe
    if recipe is None or facts.shown is None:
        return {}
    made: dict[str, Chart] = {}
    for parameter in _parameters(recipe.groups):
        lines: dict[tuple[str, str], dict[float, float]] = {}
        for group in _with(recipe.groups, parameter):
            if group.layers is None or _is_outside(group):
                continue
            for model, value in _by_model(group.coefficients[parameter]).items():
                middle = (group.layers[0] + group.layers[1]) / 2
                lines.setdefault((model, _kinds(group)), {})[middle] = value
        if max((len(points) for points in lines.values()), default=0) < 2:
            continue
        models, kinds = ([*dict.fromkeys(part)] for part in zip(*lines, strict=True))
        # Lines that can still be told apart; of more, each kind of tensor has a chart.
        parts = [kinds] if len(lines) <= _MOST_LINES else [[kind] for kind in kinds]
        for own in parts:
            is_alone = len(own) == 1
            series = [
                Series(
                    name=model if is_alone else f"{model}: {kind or 'rest'}",
                    x=[*sorted(points)],
                    y=[points[at] for at in sorted(points)],
                    drawn="joined" if len(points) <= 60 else "line",
                    colour=models.index(model),
                    dash=DASHES[(models.index(model) if is_alone else own.index(kind)) % len(DASHES)],
                    shape=MARKERS[(models.index(model) if is_alone else own.index(kind)) % len(MARKERS)],
                )
                for (model, kind), points in lines.items()
                if kind in own
            ]
            of = f" of {own[0] or 'all tensors'}" if len(parts) > 1 else ""
            made[f"{parameter}{'-' + own[0].replace(', ', '+') if of else ''}"] = Plane(
                title=f"{parameter.capitalize()}{of} over depth",
                caption="The same numbers as above; a block of layers stands at its middle.",
                x="layer",
                y=parameter,
                series=series,
                whole_x=True,
                height=220,
            )
    return made


def scores_on_test(facts: RunFacts) -> Chart | None:
    """Every tested model's score with its interval."""
    result = facts.result
    if result is None or "picks" in result or not result["test"]["models"]:
        return None
    models, metric = result["test"]["models"], metric_name(result)
    colours = {WINNER: 1, TrialKind.EXPERT: 0, TrialKind.BASE: 2, TrialKind.UNIFORM: 3}
    rows = [
        Row(
            name=label(model, result["winner"]["kind"]),
            value=model["score"],
            low=model["interval"][0],
            high=model["interval"][1],
            colour=colours.get(model["kind"], 4),
            shape="diamond" if model["kind"] == WINNER else "circle",
            bold=model["kind"] == WINNER,
        )
        for model in models
    ]
    return Rows(title="Scores on test items", caption="With 95% intervals.", x=metric, groups=[("", rows)])


def tasks(facts: RunFacts) -> dict[str, Chart]:
    """The score of each task for every tested model, a chart for each metric, since scales differ.

    Intervals are given where the metric is a mean of items.
    """
    result = facts.result
    if result is None or "picks" in result or not result["test"]["models"]:
        return {}
    by_metric: dict[str, list[str]] = {}
    for task, metric in result["metrics"].items():
        by_metric.setdefault(metric.partition(",")[0], []).append(task)
    made: dict[str, Chart] = {}
    for metric, names in by_metric.items():
        groups = [(task, _task_rows(facts, task, result["metrics"][task])) for task in names]
        without = [task for task, rows in groups if any(row.low is None for row in rows)]
        lower = [task for task in names if not result.get("higher_is_better", {}).get(task, True)]
        if facts.run.knows_clusters:
            note = (
                f"On the test items, with 95% intervals over {'items' if facts.run.clusters is None else 'clusters'}."
            )
            note += f" No interval for {', '.join(without)}, whose metric is no mean of items." if without else ""
        else:
            note = "On the test items. Which of them belong together isn't known any more, so there are no intervals."
        note += f" Less is better in {', '.join(lower)}." if lower else ""
        title = "Task by task" if len(by_metric) == 1 else f"Task by task: {metric}"
        made[metric] = Rows(title=title, caption=note, x=metric, groups=groups)
    if any(model.get("normalised") for model in result["test"]["models"]):
        made["normalised"] = Rows(
            title="Normalised by the experts",
            caption="On the test items: the value over that of the task's own expert, mean over tasks.",
            x="share of the experts' own",
            groups=[("", _normalised_rows(result))],
        )
    languages = result.get("languages", {})
    if languages:
        made["language"] = Rows(
            title="Answers in the asked language",
            caption="Share of the test items" + (", with 95% intervals." if facts.run.knows_clusters else "."),
            x="share of items",
            groups=[(f"{task}: {rule['code']}", _task_rows(facts, task, LANGUAGE)) for task, rule in languages.items()],
        )
    return made


def _normalised_rows(result: Mapping[str, Any]) -> list[Row]:
    """What every tested model keeps of the experts' own scores."""
    models = [model for model in result["test"]["models"] if model.get("normalised")]
    return [
        Row(
            name=label(model, result["winner"]["kind"]),
            value=sum(model["normalised"].values()) / len(model["normalised"]),
            low=None,
            high=None,
            colour=1 if model["kind"] == WINNER else 0,
            shape="diamond" if model["kind"] == WINNER else "circle",
            bold=model["kind"] == WINNER,
        )
        for model in models
    ]


def _task_rows(facts: RunFacts, task: str, metric: str) -> list[Row]:
    """Every tested model's value of a metric; of the share in a language where `metric` is that."""
    assert facts.result is not None
    rows = []
    for model in facts.result["test"]["models"]:
        value = model.get("languages", {}).get(task) if metric == LANGUAGE else model["tasks"][task]
        if value is None:
            continue
        low, high = _task_interval(facts, model["trial"], task, metric)
        is_winner = model["kind"] == WINNER
        rows.append(
            Row(
                name=label(model, facts.result["winner"]["kind"]),
                value=float(value),
                low=low,
                high=high,
                colour=1 if is_winner else 0,
                shape="diamond" if is_winner else "circle",
                bold=is_winner,
            )
        )
    return rows


def importances(facts: RunFacts) -> Chart | None:
    """How each searched quantity and fitness went together over the candidates."""
    scored = facts.scored
    if facts.goals.are_several or len(scored) < FEWEST:
        return None
    fitness = np.array([trial.fitness for trial in scored], dtype=np.float64)
    found = []
    for name in dict.fromkeys(name for trial in scored for name in trial.parameters):
        values = [trial.parameters.get(name) for trial in scored]
        places = [at for at, value in enumerate(values) if isinstance(value, int | float)]
        numbers = np.array([values[at] for at in places], dtype=np.float64)
        if len(places) < FEWEST or np.ptp(numbers) == 0 or np.ptp(fitness[places]) == 0:
            continue
        found.append((name, rank_correlation(numbers, fitness[places]), len(places)))
    if not found:
        return None
    found.sort(key=lambda one: (-abs(one[1]), one[0]))
    rows = []
    for name, correlation, count in found[:_SHOWN]:
        low, high = _fisher(correlation, count)
        rows.append(
            Row(name=name, value=correlation, low=low, high=high, shown=f"{correlation:+.2f}".replace("-", "−"))
        )
    more = f" The {_SHOWN} largest of {len(found)} are shown." if len(found) > _SHOWN else ""
    return Rows(
        title="Which coefficients went with fitness",
        caption=(
            f"Spearman's rank correlation of each with fitness over {len(scored):,} candidates, with 95% intervals by "
            "Fisher's approximation. It is no effect: a search looks more and more where it is good, and coefficients "
            f"move together there.{more}"
        ),
        numbers=Numbers(
            columns=("searched", "rank correlation", "candidates"),
            rows=tuple((name, f"{correlation:+.3f}", str(count)) for name, correlation, count in found[:200]),
        ),
        x="rank correlation with fitness",
        groups=[("", rows)],
        zero=True,
    )


def rank_correlation(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    """Spearman's, of values with equal ones sharing their mean rank."""
    return float(np.corrcoef(_ranks(first), _ranks(second))[0, 1])


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks: NDArray[np.float64] = (np.cumsum(counts) - (counts - 1) / 2)[places]
    return ranks


def _fisher(correlation: float, count: int) -> tuple[float, float]:
    middle = math.atanh(min(max(correlation, -1 + 1e-12), 1 - 1e-12))
    half = 1.96 / math.sqrt(count - 3)
    return math.tanh(middle - half), math.tanh(middle + half)


def _task_interval(facts: RunFacts, trial: int, task: str, metric: str) -> tuple[float | None, float | None]:
    table = facts.table(trial, "test")
    means = facts.objective.means
    if table is None or task not in table.tasks or metric not in table.tasks[task].values:
        return None, None
    if not facts.run.knows_clusters or (metric != LANGUAGE and means is not None and task not in means):
        return None, None
    sample = Mean(np.array(table.tasks[task].values[metric], dtype=np.float64))
    interval = clustered_interval({task: sample}, {task: 1.0}, facts.run.clusters)
    return float(interval[0]), float(interval[1])


def _parameters(groups: Sequence[Group]) -> list[str]:
    return list(dict.fromkeys(name for group in groups for name in group.coefficients))


def _with(groups: Sequence[Group], parameter: str) -> list[Group]:
    return [group for group in groups if parameter in group.coefficients]


def _by_model(value: float | Mapping[str, float]) -> dict[str, float]:
    """A coefficient for each model that has one of its own."""
    return (
        {name: float(one) for name, one in value.items()}
        if isinstance(value, Mapping)
        else {"all experts": float(value)}
    )


def _is_outside(group: Group) -> bool:
    return group.kinds is not None and len(group.kinds) == 1 and group.kinds[0] in _OUTSIDE


def _kinds(group: Group) -> str:
    """The kinds of tensor that a group is of, in words; empty: all."""
    return ", ".join([*(group.kinds or ()), *(group.names or ())])


def _grid(
    groups: Sequence[Group], parameter: str
) -> tuple[list[str], list[str], list[tuple[str, str | None, dict[str, float]]]]:
    """Columns from the first layer to the last, rows for each model, and every group's place with its coefficients.

    A group that is of the embedding or the head alone has a column, and no row of its own.
    """
    known: list[tuple[str, str | None, dict[str, float]]] = []
    order: dict[str, tuple[float, float]] = {}
    for group in _with(groups, parameter):
        values = _by_model(group.coefficients[parameter])
        if _is_outside(group):
            assert group.kinds is not None
            name, kind = str(group.kinds[0]), None
            order[name] = (-1.0, 0.0) if name == "embedding" else (math.inf, 0.0)
        else:
            first, last = group.layers or (-0.5, -0.5)
            name = "all layers" if group.layers is None else str(first) if first == last else f"{first}–{last}"
            order[name], kind = (float(first), float(last)), _kinds(group)
        known.append((name, kind, values))
    kinds = list(dict.fromkeys(kind for _, kind, _ in known if kind is not None)) or [""]
    # One kind of group in all layers needs no name.
    if len(kinds) == 1:
        known = [(name, None if kind is None else "", values) for name, kind, values in known]
        kinds = [""]
    return sorted(order, key=lambda name: order[name]), kinds, known

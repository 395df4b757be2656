"""Tables of a run's trials: all of them in a line each, or one with everything known of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from evomerge.cli.console import say, table
from evomerge.cli.front import objective_cells
from evomerge.run.trial import TrialState
from evomerge.score.numbers import duration, score

if TYPE_CHECKING:
    from evomerge.run.directory import Run
    from evomerge.run.records import TrialRecord

WINNER, EARLIER_WINNER, SHORTLIST = "winner", "earlier winner", "shortlist"
_STYLES = {TrialState.FAILED: "red", TrialState.RUNNING: "dim", TrialState.PRUNED: "dim"}
_ROOM_FOR_PARAMETERS = 120
_ROOM_FOR_ALL = 72
_STAR = {WINNER: " ★"}
_NAMED_TRIALS = 6


def marks_of(run: Run) -> dict[int, str]:
    """By number, the trials that the result names: the winner, and those that were scored again on validation.

    A search with a larger budget that hasn't ended has the winner of the smaller one.
    """
    result = run.result()
    if result is None:
        return {}
    marks = {int(entry["trial"]): SHORTLIST for entry in result.get("shortlist", [])}
    if "picks" in result:
        return marks | picks_by_trial(result)
    return marks | {int(result["winner"]["trial"]): WINNER if run.has_ended() else EARLIER_WINNER}


def picks_by_trial(result: Mapping[str, Any]) -> dict[int, str]:
    """The picks of a search for several objectives, by the trial that they are."""
    picks: dict[int, str] = {}
    for pick, number in result["picks"].items():
        picks[int(number)] = f"{picks[number]}, {pick}" if number in picks else pick
    return picks


def print_trials(
    console: Console,
    records: Sequence[TrialRecord],
    marks: Mapping[int, str],
    *,
    alive: bool,
    anew: bool,
    objectives: Sequence[str] = (),
) -> None:
    """All trials in a line each, and under them why some failed.

    Args:
        console: where to.
        records: the trials, in the order of the lines.
        marks: of the winner and the shortlist, by number.
        alive: whether the run is being driven, so that unfinished trials are running.
        anew: whether scores are by another objective than the run's, which has no validation and test scores.
        objectives: names of several, whose values on the search items then stand in the place of scores.
    """
    if objectives:
        console.print(_front_table(records, marks, objectives, alive=alive))
    else:
        console.print(_table(console.width, records, marks, alive=alive, anew=anew))
    reasons: dict[str, list[int]] = {}
    for record in records:
        if record.reason is not None:
            reasons.setdefault(record.reason, []).append(record.number)
    for reason, numbers in reasons.items():
        say(console, f"\n{_numbered(numbers)} failed: {reason}")
    if objectives and not marks:
        say(console, "\nNothing is picked yet: that is done on the validation items when the search has ended.")
    if not anew and not objectives and WINNER not in marks.values():
        say(console, "\nNo winner yet: it is chosen on the validation items when the search has ended.")


def _table(width: int, records: Sequence[TrialRecord], marks: Mapping[int, str], *, alive: bool, anew: bool) -> Table:
    scores = ("search",) if anew else ("search", "valid.", "test")
    # Where all that answered have answered as much, it is no news.
    amounts = ("items",) if len({record.items for record in records if record.items}) > 1 else ()
    narrow = width < _ROOM_FOR_ALL
    figures = (*(() if narrow else ("gen.",)), *scores, *amounts, *(() if narrow else ("time",)))
    made = table("trial", "model", *figures, right=("trial", *figures))
    made.columns[1].no_wrap = width >= _ROOM_FOR_PARAMETERS
    wide = width >= _ROOM_FOR_PARAMETERS and any(record.parameters for record in records)
    if wide:
        # The one column that may shrink; its text is cut, not wrapped.
        made.add_column(Text("parameters", no_wrap=True, overflow="ellipsis"))
    for record in records:
        mark = marks.get(record.number)
        cells = [
            str(record.number),
            record.model
            + ("" if record.is_feasible else ", infeasible")
            + (f", {mark}{_STAR.get(mark, '')}" if mark else ""),
            *(() if narrow else ("" if record.generation is None else str(record.generation),)),
            _search(record, alive=alive),
            *(() if anew else (_or_empty(record.validation), _or_empty(record.test))),
            *((f"{record.items:,}" if record.items is not None else "",) if amounts else ()),
            *(() if narrow else (duration(sum(record.seconds.values())) if record.seconds else "",)),
        ]
        if wide:
            cells.append(" ".join(f"{name}={_value(value)}" for name, value in record.parameters.items()))
        style = "bold" if mark == WINNER else _STYLES.get(record.state)
        made.add_row(
            *(Text(cell) for cell in cells[: 2 + len(figures)]),
            *(_cut(cell) for cell in cells[2 + len(figures) :]),
            style=style,
        )
    return made


def _front_table(
    records: Sequence[TrialRecord], marks: Mapping[int, str], objectives: Sequence[str], *, alive: bool
) -> Table:
    """A line for each trial with its objectives on the search items."""
    made = table("trial", "model", "gen.", *objectives, right=("trial", "gen.", *objectives))
    for record in records:
        mark = marks.get(record.number)
        cells = objective_cells(record, objectives)
        if not any(cells):
            cells[0] = _state(record, alive=alive)
        missed = "" if record.is_feasible else ", infeasible"
        made.add_row(
            str(record.number),
            Text(record.model + missed + (f", {mark}" if mark else "")),
            "" if record.generation is None else str(record.generation),
            *map(Text, cells),
            style="bold" if mark and mark != SHORTLIST else _STYLES.get(record.state),
        )
    return made


def _cut(text: str) -> Text:
    return Text(text, no_wrap=True, overflow="ellipsis")


def _search(record: TrialRecord, *, alive: bool) -> str:
    """The score on the search items, or why there is none."""
    if record.score is not None:
        return score(record.score)
    return "–" if record.state is TrialState.COMPLETE else _state(record, alive=alive)


def _state(record: TrialRecord, *, alive: bool) -> str:
    return "interrupted" if record.state is TrialState.RUNNING and not alive else record.state.value


def _or_empty(value: float | None) -> str:
    return "" if value is None else score(value)


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _numbered(numbers: Sequence[int]) -> str:
    """Trials by number, the first few of many."""
    if len(numbers) == 1:
        return f"Trial {numbers[0]}"
    more = f" and {len(numbers) - _NAMED_TRIALS} more" if len(numbers) > _NAMED_TRIALS else ""
    return f"Trials {', '.join(map(str, numbers[:_NAMED_TRIALS]))}{more}"


def print_trial(console: Console, record: TrialRecord, mark: str | None, *, alive: bool) -> None:
    """Everything known of one trial, a line each."""
    facts = Table.grid(padding=(0, 2))
    rows = [
        ("trial", str(record.number)),
        ("model", record.model + (f", {mark}" if mark else "")),
        ("state", _state(record, alive=alive)),
        ("why", record.reason or ""),
        ("generation", "" if record.generation is None else str(record.generation)),
        ("search score", "" if record.score is None else score(record.score)),
        ("fitness", "" if record.fitness is None else score(record.fitness)),
        *((name, f"{value:.4g} on the search items") for name, value in record.measured.items()),
        ("requirements", "" if record.is_feasible else "missed on the search items"),
        ("search items", "" if record.items is None else f"{record.items:,} answered"),
        ("validation score", _or_empty(record.validation)),
        ("test score", _or_empty(record.test)),
        ("time", ", ".join(f"{phase} {duration(seconds)}" for phase, seconds in record.seconds.items())),
    ]
    for key, value in rows:
        if value:
            facts.add_row(Text(key, style="dim"), Text(value, overflow="fold"))
    console.print(facts)
    if record.parameters:
        made = table("parameter", "value", right=("value",))
        for name, parameter in record.parameters.items():
            made.add_row(Text(name), _value(parameter))
        console.print("", made, sep="\n")

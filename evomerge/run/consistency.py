"""Whether the files of a run say the same, and everything in them can be read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import EvomergeError, RunError
from evomerge.files.atomic import read_json
from evomerge.files.lines import DAMAGED, Lines, remedy
from evomerge.run.answers import PARTS, Part
from evomerge.run.clock import PROGRESS
from evomerge.run.directory import Run
from evomerge.run.ledger import EVALUATIONS, Ledger
from evomerge.run.trial import WINNER, Trial

RESULT = "result.json"


def is_supported(directory: Path, result: Mapping[str, Any], ledger: Ledger) -> bool:
    """Whether the ledger holds everything that a result was made from.

    Raises: RunError if the result says something else than the ledger, or isn't a result.
    """
    try:
        return _is_supported(directory / RESULT, result, ledger)
    except DAMAGED as error:
        raise RunError(
            f"{directory / RESULT}: is damaged ({type(error).__name__}: {error}); {remedy(directory)}"
        ) from error


def _is_supported(path: Path, result: Mapping[str, Any], ledger: Ledger) -> bool:
    trials = dict(enumerate(ledger.trials()))
    said: list[tuple[int, str, str, float | None]] = []
    for row in result["shortlist"]:
        said += [(row["trial"], row["kind"], split, row[split]) for split in ("search", "validation")]
    for split in ("search", "validation", "test"):
        for row in result[split]["models"]:
            kind = result["winner"]["kind"] if row["kind"] == WINNER else row["kind"]
            said.append((row["trial"], kind, split, row["score"]))
    said.append((result["winner"]["trial"], result["winner"]["kind"], "search", None))
    whole = True
    for number, kind, split, score in said:
        trial, found = trials.get(number), ledger.evaluation(number, split)
        if trial is None or found is None:
            whole = False
        elif trial.kind != kind or (score is not None and found.score != score):
            raise RunError(
                f"{path}: says of trial {number} that it is of kind {kind} and its {split} score {score}; by "
                f"{EVALUATIONS} and the study it is {_words(trial)} with {found.score}; {remedy(path.parent)}"
            )
    return whole and bool(result["budget"])


def _words(trial: Trial) -> str:
    return f"of kind {trial.kind}"


def problems(directory: Path) -> list[str]:
    """What is wrong with a run's files, each that can be read by itself. Changes nothing.

    Every line is read, every table and answer unpacked, and the files are compared with each other.
    """
    found = []
    try:
        run = Run(directory)
    except EvomergeError as error:
        return [str(error)]
    try:
        ledger = run.ledger()
        ledger.check()
        for evaluation in ledger.evaluations():
            if evaluation.table is not None:
                for task in evaluation.table.tasks.values():
                    if task.answers is not None:
                        task.answers.texts()
        if (result := run.result()) is not None:
            is_supported(directory, result, ledger)
    except EvomergeError as error:
        found.append(str(error))
    except DAMAGED as error:
        found.append(f"{directory / EVALUATIONS}: is damaged ({type(error).__name__}: {error}); {remedy(directory)}")
    lines = Lines(directory / PARTS, of=run.facts["study"])
    try:
        for _ in lines.read(lambda data, place: Part.from_data(data)) if lines.path.exists() else ():
            pass
    except EvomergeError as error:
        found.append(str(error))
    try:
        read_json(directory / PROGRESS, missing_ok=True)
    except EvomergeError as error:
        found.append(str(error))
    return found

"""A run's per-item table as Parquet: one row for each trial, split and item, for pandas, polars or DuckDB.

Columns: `trial`, `kind`, `name`, `generation`; `split`, `task`, `item` (a hash of document and prompt); one column
for each metric of the tasks, named `metric,filter` as lm-eval prints it and null where a task lacks it (a number,
or JSON text for corpus metrics, whose items are pairs such as reference and prediction); `tie_break`, the share of
probability that the right answer has; `covariate`, the reference answer's probability where a search asked for it;
`log_likelihoods` and `texts`, the model's answers; `tokens` of prompts and
answers; `seconds`, the candidate's time for all answers shared out by tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import RunError
from evomerge.files.obstacles import obstacle
from evomerge.run.directory import open_run
from evomerge.run.evaluation import Evaluation
from evomerge.run.trial import Trial
from evomerge.score.table import TaskScores

SUFFIX = ".parquet"


def export_items(
    directory: str | Path, out: str | Path, *, trial: int | None = None, split: str | None = None
) -> tuple[Path, int]:
    """Write a run's item scores and answers as one Parquet file. Safe while the run is being driven.

    Args:
        directory: the run directory.
        out: the file to make, `.parquet`; refused if it exists.
        trial: number of the one trial wanted; None takes all.
        split: search, validation or test; None takes all.

    Returns: the file, and its number of rows.
    Raises: RunError if nothing is recorded of what is asked for, or `out` can't be written or has another ending.
    """
    import pyarrow as pa
    from pyarrow import parquet

    run, out = open_run(directory), Path(out)
    if out.suffix != SUFFIX:
        raise RunError(f"{out}: items are written as Parquet; give a name that ends with {SUFFIX}")
    if out.exists():
        raise RunError(f"{out}: exists already; give another name")
    ledger = run.ledger()
    trials = ledger.trials()
    if trial is not None and not 0 <= trial < len(trials):
        raise RunError(f"{directory}: no trial {trial}; it has trials 0 to {len(trials) - 1}")
    wanted = [
        evaluation
        for evaluation in sorted(ledger.evaluations(), key=lambda item: item.trial)
        if evaluation.table is not None and trial in {None, evaluation.trial} and split in {None, evaluation.split}
    ]
    if not wanted:
        asked = f" of trial {trial}" if trial is not None else ""
        raise RunError(
            f"{directory}: no {split or 'item'} scores{asked} are recorded; see: evomerge trials {directory}"
        )
    originals = {(evaluation.trial, evaluation.split): evaluation for evaluation in ledger.evaluations()}
    metrics = _metrics(wanted)
    schema = pa.schema(
        [
            *(("trial", pa.int32()), ("kind", pa.string()), ("name", pa.string()), ("generation", pa.int32())),
            *(("split", pa.string()), ("task", pa.string()), ("item", pa.string())),
            *((name, pa.float64() if is_number else pa.string()) for name, is_number in metrics.items()),
            *(("tie_break", pa.float32()), ("covariate", pa.float32()), ("log_likelihoods", pa.list_(pa.float32()))),
            *(("texts", pa.list_(pa.string())), ("tokens", pa.int32()), ("seconds", pa.float32())),
        ]
    )
    temporary, rows = out.with_name(f".{out.name}.partial"), 0
    try:
        with parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
            for evaluation in wanted:
                original = originals.get((evaluation.same_as, evaluation.split), evaluation)  # type: ignore[arg-type]
                for columns in _tables(trials[evaluation.trial], evaluation, original, metrics):
                    table = pa.table(columns, schema=schema)
                    rows += table.num_rows
                    writer.write_table(table)
        temporary.replace(out)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RunError(f"{out}: can't be written: {obstacle(error, out)}") from error
    return out, rows


def _metrics(evaluations: Sequence[Evaluation]) -> dict[str, bool]:
    """Every metric in order of appearance, and whether all its values are numbers."""
    found: dict[str, bool] = {}
    for evaluation in evaluations:
        for scores in evaluation.table.tasks.values() if evaluation.table else ():
            for name, values in scores.values.items():
                found[name] = found.get(name, True) and all(isinstance(value, int | float) for value in values)
    return found


def _tables(
    trial: Trial, evaluation: Evaluation, original: Evaluation, metrics: dict[str, bool]
) -> Iterator[dict[str, list[Any]]]:
    """One table of columns for each task of an evaluation."""
    assert evaluation.table is not None
    tokens = {name: scores.answers.tokens() for name, scores in evaluation.table.tasks.items() if scores.answers}
    total = sum(map(sum, tokens.values()))
    # What one token took; a copy's own evaluation took no time.
    pace = original.seconds.get("respond", 0.0) / total if total else None
    for name, scores in evaluation.table.tasks.items():
        items = len(scores.items)
        counts: list[int | None] = list(tokens.get(name, [None] * items))
        yield {
            **{"trial": [trial.number] * items, "kind": [trial.kind] * items, "name": [trial.name] * items},
            "generation": [trial.generation] * items,
            **{"split": [evaluation.split] * items, "task": [name] * items, "item": list(scores.items)},
            **{metric: _values(scores, metric, is_number) for metric, is_number in metrics.items()},
            "tie_break": list(scores.tie_break or [None] * items),
            "covariate": list(scores.covariates or [None] * items),
            "log_likelihoods": scores.answers.log_likelihoods() if scores.answers else [None] * items,
            "texts": (scores.answers.texts() if scores.answers else None) or [None] * items,
            "tokens": counts,
            "seconds": [None if count is None or pace is None else count * pace for count in counts],
        }


def _values(scores: TaskScores, metric: str, is_number: bool) -> list[Any]:
    values = scores.values.get(metric)
    if values is None:
        return [None] * len(scores.items)
    return [float(value) for value in values] if is_number else [json.dumps(value) for value in values]

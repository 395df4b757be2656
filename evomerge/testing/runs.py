"""What two runs have to agree on for one to be taken for the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from evomerge.run.directory import open_run


def essence(directory: Path) -> dict[str, Any]:
    """Everything about a run that must not depend on interruptions or workers, for comparing two runs."""
    run = open_run(directory)
    ledger, result = run.ledger(), run.result()
    return {
        "trials": [
            (one.number, one.kind, one.name, one.generation, dict(one.parameters), one.recipe_key, one.score, one.state)
            for one in ledger.trials()
        ],
        "tables": {
            (one.trial, one.split): (
                *(one.score, one.tie_break, one.table, one.failure, one.same_as),
                {task: dict(values) for task, values in one.aggregates.items()},
            )
            for one in ledger.evaluations()
        },
        "result": None if result is None else {key: value for key, value in result.items() if key != "hours"},
    }

"""What makes two runs the same experiment, and by which versions a run began."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from contextlib import suppress
from importlib.metadata import version
from typing import Any

from evomerge.errors import ResumeError
from evomerge.run.directory import Run
from evomerge.run.frozen import differences_of, recorded_identity, short

_PACKAGES = ("evomerge", "torch", "transformers", "lm-eval", "cma", "cmaes", "comocma", "optuna", "numpy")


def versions() -> dict[str, str]:
    """Of Python and of the packages that results depend on, as far as they are installed."""
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        with suppress(ModuleNotFoundError):
            found[name] = version(name)
    return found


def check_same_experiment(run: Run, facts: Mapping[str, Any], *, where: str) -> None:
    """Compare the facts given with those of the run. Raises: ResumeError saying what differs."""
    recorded = recorded_identity(run.facts, run.config)
    differences = list(differences_of(recorded, facts["identity"]))
    for key, words in (
        ("places", "the models' tensors"),
        ("dtype", "the dtype"),
        ("items", "the benchmark's items"),
        ("as_themselves", "the models' own settings"),
    ):
        if key in facts and run.facts.get(key, facts[key]) != facts[key]:
            differences.append(f"{words} ({short(run.facts[key])} → {short(facts[key])})")
    if differences:
        raise ResumeError(
            f"{run.directory} is a run of another experiment than {where}: {'; '.join(differences)}. "
            "Restore the old values, or start a new run directory"
        )

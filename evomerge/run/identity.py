"""Whether a config is that of a run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from evomerge.errors import ResumeError
from evomerge.run.directory import Run


def check_same_experiment(run: Run, facts: Mapping[str, Any], *, where: str) -> None:
    """Compare the facts given with those of the run. Raises: ResumeError saying what differs."""
    # A run from before a key existed has no word on it; its frozen config then says what it was.
    recorded = _completed(run.facts["identity"], run.config.identity())
    differences = list(_differences(recorded, facts["identity"]))
    for key, words in (("places", "the models' tensors"), ("dtype", "the dtype"), ("items", "the benchmark's items")):
        if key in facts and run.facts[key] != facts[key]:
            differences.append(f"{words} ({_short(run.facts[key])} → {_short(facts[key])})")
    if differences:
        raise ResumeError(
            f"{run.directory} is a run of another experiment than {where}: {'; '.join(differences)}. "
            "Restore the old values, or start a new run directory"
        )


def _completed(recorded: Any, frozen: Any) -> Any:
    """What was recorded, with the keys that only the other has."""
    if isinstance(recorded, Mapping) and isinstance(frozen, Mapping):
        return {**frozen, **{key: _completed(value, frozen.get(key)) for key, value in recorded.items()}}
    if isinstance(recorded, list) and isinstance(frozen, list) and len(recorded) == len(frozen):
        return [_completed(*pair) for pair in zip(recorded, frozen, strict=True)]
    return recorded


def _differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for key in dict.fromkeys([*old, *new]):
            yield from _differences(old.get(key), new.get(key), f"{path}.{key}" if path else str(key))
    elif old != new:
        yield f"{path} ({_short(old)} → {_short(new)})"


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."

"""Phrases that screens and model cards share. Knows results, not where they are shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def constraints_kept(names: Iterable[str], splits: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether a merge keeps its constraints, split by split, in a sentence.

    Args:
        names: of the constraints.
        splits: by name, whether it is `feasible` there and the `violation` if not.
    """
    words = [
        f"{'met' if found['feasible'] else 'missed by ' + format(found['violation'], '.3g') + ' in all'} on the "
        f"{split} items"
        for split, found in splits.items()
    ]
    return f"Its constraints ({', '.join(names)}) are {', '.join(words)}."


def earlier_results(looks: int) -> str:
    """What the test items had been looked at for, at so many looks with the present one; 2 or more."""
    return "an earlier result" if looks == 2 else f"{looks - 1} earlier results"

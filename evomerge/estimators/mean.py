"""The plain mean of what a model answered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from evomerge.estimators.base import TYPICAL_ITEMS, Estimate, Responses, error_of_mean, typical_variance, with_defaults


class Mean:
    """A model's mean over the items that it answered, as if these were drawn from all at random."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        with_defaults(options, {})

    def estimate(self, responses: Responses, rows: Sequence[int]) -> Estimate:
        """The means. A model's variance counts together with what is typical, so that no few items are certain."""
        typical = typical_variance(responses.scores)
        values, errors = [], []
        for row in rows:
            scores = responses.scores[row]
            seen = scores[np.isfinite(scores)]
            around = float(np.sum((seen - seen.mean()) ** 2))
            variance = (around + TYPICAL_ITEMS * typical) / max(1, seen.size - 1 + TYPICAL_ITEMS)
            values.append(float(seen.mean()))
            errors.append(error_of_mean(variance, seen.size, scores.size))
        return Estimate(np.array(values, dtype=np.float64), np.array(errors, dtype=np.float64))

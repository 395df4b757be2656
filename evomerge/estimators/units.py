"""Scores of any units as shares of right answers, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from evomerge.estimators.base import Scores


class Units(NamedTuple):
    """What each item's score is at worst, and how far it reaches from there, (items,)."""

    low: Scores
    span: Scores

    def shares(self, scores: Scores) -> Scores:
        """Scores as shares from 0 to 1, (models, items)."""
        return np.clip((scores - self.low) / self.span, 0.0, 1.0)


def units_of(scores: Scores) -> Units:
    """Units by the scores themselves, (models, items) with NaN: from 0 to the item's best, or its worst to 0.

    An item that only scored 0 has what is usual among the others.
    """
    seen = np.isfinite(scores)
    low = np.minimum(np.where(seen, scores, np.inf).min(axis=0), 0.0)
    high = np.maximum(np.where(seen, scores, -np.inf).max(axis=0), 0.0)
    span = high - low
    usual = float(np.median(span[span > 0])) if (span > 0).any() else 1.0
    # Scores that are better the less they are below zero have their best there.
    if np.nansum(scores) < 0:
        low = np.where(span > 0, low, -usual)
    return Units(low, np.where(span > 0, span, usual))

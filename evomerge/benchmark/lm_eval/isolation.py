"""Keeping lm-eval to itself: it seeds global generators, logs, draws bars and compiles templates as it pleases."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np


@contextmanager
def undisturbed() -> Iterator[None]:
    """Keep lm-eval from changing the process's random state and from filling the log and the screen."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level, bars = logger.level, datasets.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        with same_random_state():
            yield
    finally:
        logger.setLevel(level)
        if bars:
            datasets.enable_progress_bars()


def compile_templates_once() -> None:
    """Have lm-eval keep the templates of its tasks that it has compiled.

    By itself it compiles one anew for each document, also to score it, which takes far longer than to fill it in. Where
    a release has no such environment, nothing is kept.
    """
    import lm_eval.utils

    environment = getattr(lm_eval.utils, "env", None)
    if environment is not None and not hasattr(environment.from_string, "cache_info"):
        environment.from_string = lru_cache(maxsize=1024)(environment.from_string)


@contextmanager
def same_random_state() -> Iterator[None]:
    """Leave the states of random, numpy and torch as they were."""
    import torch

    state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(state[0])
        np.random.set_state(state[1])
        torch.set_rng_state(state[2])

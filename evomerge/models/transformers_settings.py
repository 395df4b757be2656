"""What transformers' own classes make of a config, asked without a remark on the screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any


def settings_of(config: Mapping[str, Any]) -> Any:
    """The settings of a config.json with its model type's defaults; None if transformers can't make them.

    An instance of transformers' class for the model type. The config stays as it is.
    """
    from transformers import AutoConfig

    try:
        # A copy, since transformers fills in nested sections where they are.
        return AutoConfig.for_model(**deepcopy(dict(config)))
    except Exception:  # it raises whatever a config leads it to
        return None


def filled_in(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config.json with its model type's defaults; as it is if transformers doesn't know the type."""
    try:
        made: dict[str, Any] = settings_of(config).to_dict()
    except Exception:  # of what isn't there, or can't be written
        return dict(config)
    return made


@contextmanager
def without_remarks() -> Iterator[None]:
    """Within, transformers keeps its remarks, loading reports and progress bars to itself."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()

"""Any of Optuna's samplers by its import path, as a search algorithm: `optuna:package.module:Class`.

Knows constructors. What a sampler is asked is in `optuna_samplers`.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import optuna
from optuna.samplers import BaseSampler

from evomerge.algorithms import BY_PATH
from evomerge.algorithms.optuna_samplers import SamplerProposer, quiet
from evomerge.errors import ConfigError

_TYPES: dict[str, type] = {"bool": bool, "int": int, "float": float, "str": str}


def sampler_proposer(name: str) -> type[SamplerProposer]:
    """The search algorithm that asks the sampler at `optuna:package.module:Class`.

    Its options are those keywords of the constructor that are numbers, texts, or true or false.

    Raises: ConfigError if there is no such sampler, or one that takes no seed, whose search couldn't be resumed.
    """
    found = _imported(name)
    keywords = inspect.signature(found).parameters
    if "seed" not in keywords:
        raise ConfigError(
            f"search.algorithm: {name}: {found.__name__} takes no seed, so a search with it couldn't be resumed "
            "exactly; use a sampler with one"
        )
    options = {key: kind for key, keyword in keywords.items() if key != "seed" and (kind := _type(keyword)) is not None}

    class Sampler(SamplerProposer):
        def _sampler(self, seed: int) -> BaseSampler:
            try:
                sampler: BaseSampler = found(seed=seed, **self.option)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"search.options: {name}: {error}") from error
            return sampler

    named = ", ".join(f"`{key}`" for key in options) or "none"
    Sampler.__doc__ = f"Optuna's {found.__name__}, which its documentation describes. Options: {named}."
    Sampler.name = name
    Sampler.options = options
    Sampler.max_objectives = None if _takes_several_objectives(found) else 1
    return Sampler


def _imported(name: str) -> Any:
    """The sampler's class. Raises: ConfigError."""
    path = name.removeprefix(BY_PATH)
    module, _, attribute = path.partition(":")
    if not module or not attribute:
        raise ConfigError(
            f"search.algorithm: {name}: expected {BY_PATH}package.module:Class, such as "
            f"{BY_PATH}optuna.samplers:CmaEsSampler"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"search.algorithm: {name}: {error}; is its package installed?") from error
    if not (isinstance(found, type) and issubclass(found, BaseSampler)):
        raise ConfigError(f"search.algorithm: {name}: is no subclass of optuna.samplers.BaseSampler")
    return found


def _takes_several_objectives(sampler: Any) -> bool:
    """Whether a sampler can be asked for several objectives, which it says only then."""
    with quiet():
        study = optuna.create_study(directions=["maximize"] * 2)
        try:
            study.sampler = sampler(seed=0)
            study.ask().suggest_float("x", 0.0, 1.0)
        except ValueError:
            return False
        except TypeError:
            # It can't be made without more, which is refused where it is made.
            return True
    return True


def _type(keyword: inspect.Parameter) -> type | None:
    """The type of a constructor's keyword, if a config can say its values."""
    annotation = keyword.annotation
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    for part in (part.strip() for part in text.replace("Optional[", "").replace("]", "").split("|")):
        if part in _TYPES:
            return _TYPES[part]
    return None

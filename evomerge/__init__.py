"""evomerge: evolutionary search for the merge coefficients of fine-tuned language models.

    import evomerge

    config = evomerge.Config.from_file("experiment.yaml")
    result = evomerge.search(config, "runs/experiment")
    evomerge.export("runs/experiment", "merged-model")

Names are imported when first used, so `import evomerge` loads none of the large libraries.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.analysis.analyse import analyse as analyse
    from evomerge.analysis.connect import connect as connect
    from evomerge.config.config import Config as Config
    from evomerge.errors import EvomergeError as EvomergeError
    from evomerge.recipe.recipe import Recipe as Recipe
    from evomerge.run.directory import Run as Run
    from evomerge.run.directory import open_run as open_run
    from evomerge.run.observer import Observer as Observer
    from evomerge.run.records import TrialRecord as TrialRecord
    from evomerge.study.align import align as align
    from evomerge.study.check import check as check
    from evomerge.study.export import export as export
    from evomerge.study.merge import merge as merge
    from evomerge.study.rebase import rebase as rebase
    from evomerge.study.search import Result as Result
    from evomerge.study.search import resume as resume
    from evomerge.study.search import search as search
    from evomerge.tuning.alternate import alternate as alternate
    from evomerge.tuning.tune import tune as tune

    __version__: str

_NAMES = {
    "alternate": "evomerge.tuning.alternate:alternate",
    "Config": "evomerge.config.config:Config",
    "EvomergeError": "evomerge.errors:EvomergeError",
    "Observer": "evomerge.run.observer:Observer",
    "Recipe": "evomerge.recipe.recipe:Recipe",
    "Result": "evomerge.study.search:Result",
    "Run": "evomerge.run.directory:Run",
    "TrialRecord": "evomerge.run.records:TrialRecord",
    "align": "evomerge.study.align:align",
    "analyse": "evomerge.analysis.analyse:analyse",
    "check": "evomerge.study.check:check",
    "connect": "evomerge.analysis.connect:connect",
    "export": "evomerge.study.export:export",
    "merge": "evomerge.study.merge:merge",
    "open_run": "evomerge.run.directory:open_run",
    "rebase": "evomerge.study.rebase:rebase",
    "resume": "evomerge.study.search:resume",
    "search": "evomerge.study.search:search",
    "tune": "evomerge.tuning.tune:tune",
}

__all__ = [  # noqa: RUF022  (in the order in which a user meets them)
    "Config",
    "analyse",
    "check",
    "search",
    "resume",
    "Result",
    "open_run",
    "Run",
    "TrialRecord",
    "Observer",
    "export",
    "Recipe",
    "merge",
    "align",
    "rebase",
    "connect",
    "tune",
    "alternate",
    "EvomergeError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("evomerge")
    elif name in _NAMES:
        module, _, attribute = _NAMES[name].partition(":")
        value = getattr(import_module(module), attribute)
    else:
        raise AttributeError(f"module 'evomerge' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

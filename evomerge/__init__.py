"""evomerge: evolutionary search for the merge coefficients of fine-tuned language models.

    import evomerge

    config = evomerge.Config.from_file("experiment.yaml")
    result = evomerge.search(config, "runs/experiment")
    evomerge.export("runs/experiment", "merged-model")

Names are imported when first used, so `import evomerge` loads none of the large libraries.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from evomerge.config import Config as Config
    from evomerge.errors import EvomergeError as EvomergeError
    from evomerge.export import export as export
    from evomerge.folder import write_folder as merge
    from evomerge.preflight import check as check
    from evomerge.recipe import Recipe as Recipe
    from evomerge.run import Observer as Observer
    from evomerge.run import Run as Run
    from evomerge.run import TrialRecord as TrialRecord
    from evomerge.run import open_run as open_run
    from evomerge.search import Result as Result
    from evomerge.search import resume as resume
    from evomerge.search import search as search

    __version__: str

_NAMES = {
    "Config": "evomerge.config:Config",
    "EvomergeError": "evomerge.errors:EvomergeError",
    "Observer": "evomerge.run:Observer",
    "Recipe": "evomerge.recipe:Recipe",
    "Result": "evomerge.search:Result",
    "Run": "evomerge.run:Run",
    "TrialRecord": "evomerge.run:TrialRecord",
    "check": "evomerge.preflight:check",
    "export": "evomerge.export:export",
    "merge": "evomerge.folder:write_folder",
    "open_run": "evomerge.run:open_run",
    "resume": "evomerge.search:resume",
    "search": "evomerge.search:search",
}

__all__ = [  # noqa: RUF022  (in the order in which a user meets them)
    "Config",
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


class _Package(ModuleType):
    """Keeps `search`, `export` and `merge` the functions, though modules of these names exist.

    Importing a submodule binds it in its package, which would hide the function. The modules are
    still there for `from evomerge.search import ...`.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _NAMES and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

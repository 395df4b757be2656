"""The house's storeys: imports go down only, and each large library has one door."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from helpers.house import FLOOR

PACKAGE = Path(__file__).resolve().parents[1] / "evomerge"

# Library: the modules that may import it, as prefixes.
DOORS: dict[str, tuple[str, ...]] = {
    "lm_eval": ("evomerge.benchmark.lm_eval",),
    "ray": ("evomerge.execute.ray",),
    "cma": ("evomerge.algorithms",),
    "cmaes": ("evomerge.algorithms",),
    "optuna.samplers": ("evomerge.algorithms",),
    "optuna": (
        "evomerge.algorithms",
        "evomerge.run.journal",
        "evomerge.run.journal_studies",
        "evomerge.run.ledger",
        "evomerge.run.storage",
        "evomerge.run.stored_trial",
        "evomerge.space.distributions",
    ),
    "typer": ("evomerge.cli",),
    "rich": ("evomerge.cli",),
}

GROUND = ("errors", "registry", "streams", "score")
MATHEMATICS = ("kernels", "methods", "alignment", "estimate")

# Mathematics on tensors and arrays: no files, no config, no models.
MATHEMATICS_MAY_IMPORT = {"llvmlite", "sacrebleu", "numpy", "scipy", "torch", "numba", "triton"}
GROUND_MAY_IMPORT = {"numpy"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}
INNER = {name: path for name, path in MODULES.items() if name != "evomerge"}


@cache
def imports(path: Path) -> tuple[str, ...]:
    """Everything that a module imports, anywhere in it, as dotted names ("a.b" for `from a import b`)."""
    return tuple(names_imported(path))


def names_imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(module: str) -> str:
    return module.split(".")[1]


def inner_imports(path: Path) -> Iterator[str]:
    """Imports of the project's own modules. `import evomerge` alone, to find the package on disk, is no dependency."""
    for name in imports(path):
        if name.startswith("evomerge.") and name != "evomerge.__version__":
            yield name


def test_every_module_has_its_storey() -> None:
    without = [module for module in INNER if room(module) not in FLOOR]
    assert not without, "give these a floor in tests/helpers/house.py"


def test_imports_go_down_only() -> None:
    from_elsewhere, not_below = [], []
    for module, path in INNER.items():
        for name in inner_imports(path):
            if room(name) not in FLOOR:
                from_elsewhere.append(f"{module} imports {name}")
            elif room(name) != room(module) and FLOOR[room(name)] >= FLOOR[room(module)]:
                not_below.append(f"{module} imports {name}")
    assert not from_elsewhere, "import from where it is defined"
    assert not not_below, "a room imports rooms below it only"


def test_no_modules_import_each_other_in_a_circle() -> None:
    def defining(name: str) -> str:
        return name if name in MODULES else name.rpartition(".")[0]

    graph = {module: {defining(name) for name in inner_imports(path)} - {module} for module, path in INNER.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"circle of imports: {' → '.join(error.args[1])}")


@pytest.mark.parametrize(
    ("module", "also"), [("worker", ("device", "loaded", "stacked")), ("stacked", ("loaded",)), ("loaded", ())]
)
def test_the_worker_knows_of_executors_only_their_seam(module: str, also: tuple[str, ...]) -> None:
    known = {name for name in inner_imports(INNER[f"evomerge.execute.{module}"]) if room(name) == "execute"}
    assert all(name.startswith(tuple(f"evomerge.execute.{part}." for part in ("base", *also))) for name in known)


@pytest.mark.parametrize("library", DOORS)
def test_a_large_library_has_one_door(library: str) -> None:
    through = {
        module
        for module, path in MODULES.items()
        if any(f"{name}.".startswith(f"{library}.") for name in imports(path))
    }
    outside = {
        module for module in through if not f"{module}.".startswith(tuple(f"{door}." for door in DOORS[library]))
    }
    assert not outside, f"only {', '.join(DOORS[library])} may import {library}"


def test_the_ground_and_the_mathematics_need_no_models() -> None:
    found = {}
    for module, path in INNER.items():
        if room(module) in {*GROUND, *MATHEMATICS}:
            allowed = GROUND_MAY_IMPORT if room(module) in GROUND else MATHEMATICS_MAY_IMPORT
            libraries = {name.split(".")[0] for name in imports(path)} - {"evomerge"} - sys.stdlib_module_names
            found[module] = libraries - allowed
    assert found
    assert {module: more for module, more in found.items() if more} == {}


def test_relative_imports_and_wildcards_are_not_used() -> None:
    for path in MODULES.values():
        assert not [name for name in imports(path) if name.endswith(".*")]


@pytest.mark.parametrize("folder", ["evomerge", "tests", "benchmarks"])
def test_a_file_is_read_in_one_sitting(folder: str) -> None:
    files = (PACKAGE.parent / folder).rglob("*.py")
    lengths = {str(file): len(file.read_text(encoding="utf-8").splitlines()) for file in files}
    assert lengths
    assert not {name: lines for name, lines in lengths.items() if lines > 350}

"""Parts of loops become machine code with the loop that calls them, and not by themselves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from numba import njit
from numba.core import config
from numba.core.codegen import JITCodeLibrary

import evomerge
from evomerge.kernels.loops.compile import compiled, optimised, part
from helpers.patience import LONG_S

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("kind", [part, optimised])
def test_only_what_python_calls_becomes_machine_code(kind: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    finish = JITCodeLibrary._finalize_specific

    def note(library: Any) -> None:
        made.append(library.name.rpartition(".")[2])
        finish(library)

    def squared(number: Any) -> Any:
        return number * number

    def raised(number: Any) -> Any:
        return square(number) * number + square(number)

    def loop(number: Any) -> Any:
        return cube(number) - number

    square, call = kind(squared), njit(loop)
    cube = kind(raised)
    monkeypatch.setattr(JITCodeLibrary, "_finalize_specific", note)
    assert call(3) == 27 + 9 - 3
    assert call(0.5) == 0.125 + 0.25 - 0.5
    assert made.count("loop") == 2
    assert {"squared", "raised"}.isdisjoint(made)
    with pytest.raises(NotImplementedError, match="for compiled loops"):
        cube(3)


def test_parts_are_compiled_by_numba_alone_where_its_inner_workings_may_be_others() -> None:
    code = """
import numba
numba.__version__ = "0.99.0"
import sys
from evomerge.kernels.loops.compile import optimised, part
square = part(lambda number: number * number)
cube = optimised(lambda number: square(number) * number)
assert numba.njit(lambda number: cube(number) - number)(3) == 24
assert "evomerge.kernels.loops.linked" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=LONG_S)


def copied_to(folder: Path) -> Path:
    """The loops as another installation has them, whose files have other times."""
    source = Path(evomerge.__file__).parent
    loops = [f"kernels/loops/{path.name}" for path in (source / "kernels" / "loops").glob("*.py")]
    for name in (
        "__init__.py",
        "registry.py",
        "files/__init__.py",
        "files/user_cache.py",
        "kernels/__init__.py",
        *loops,
    ):
        target = folder / "evomerge" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((source / name).read_text())
    return folder


def run_there(folder: Path, script: str, **environment: str) -> str:
    """What a script prints that imports the copy."""
    given = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1", **environment}
    for name in {"XDG_CACHE_HOME", "NUMBA_CACHE_DIR"} - set(environment):
        given.pop(name, None)
    command = [sys.executable, "-W", "error", "-c", script]
    done = subprocess.run(command, env=given, capture_output=True, text=True, cwd=folder, timeout=LONG_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loops_compile_where_nothing_can_be_written(tmp_path: Path) -> None:
    copied_to(tmp_path)
    # A file where the folder would be: a permission alone wouldn't stop an administrator.
    (tmp_path / "home").write_text("")
    script = (
        "import numpy as np; from evomerge.kernels import loops\n"
        "source, out = np.arange(3.0), np.zeros(3)\n"
        "work = (source.ctypes.data,), (3,), (), (), (), (np.array([[2.0]]), 3), None, out.ctypes.data, 3, False\n"
        "loops.span(0, 3, work)\n"
        "assert out.tolist() == [0.0, 2.0, 4.0], out"
    )
    run_there(tmp_path, script, HOME=str(tmp_path / "home"))
    assert not list(tmp_path.rglob("*.nb?"))


def test_installations_share_what_was_compiled_of_the_same_files(tmp_path: Path) -> None:
    script = (
        "import numpy as np; from evomerge.kernels.loops import are_finite\n"
        "numbers = np.ones(3)\n"
        "assert are_finite(0, 3, numbers.ctypes.data, 3)\n"
        "print(sum(are_finite.stats.cache_hits.values()), sum(are_finite.stats.cache_misses.values()))"
    )
    kept = {"XDG_CACHE_HOME": str(tmp_path / "kept")}
    assert run_there(copied_to(tmp_path / "one"), script, **kept).split() == ["0", "1"]
    assert run_there(copied_to(tmp_path / "two"), script, **kept).split() == ["1", "0"]
    changed = copied_to(tmp_path / "three") / "evomerge" / "kernels" / "loops" / "tuples.py"
    changed.write_text(changed.read_text() + "\nANOTHER = 1\n")
    assert run_there(tmp_path / "three", script, **kept).split() == ["0", "1"]
    assert {path.relative_to(tmp_path).parts[0] for path in tmp_path.rglob("*.nb?")} == {"kept"}


def test_numbas_own_setting_says_where_loops_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(number: int) -> int:
        return 2 * number

    monkeypatch.setattr(config, "CACHE_DIR", str(tmp_path))
    assert compiled(doubled)(4) == 8
    assert len(list(tmp_path.glob("loops/*/doubled.*.nbc"))) == 1

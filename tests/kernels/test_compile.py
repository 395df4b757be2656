"""Parts of loops become machine code with the loop that calls them, and not by themselves."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from numba import njit
from numba.core.codegen import JITCodeLibrary

from evomerge.kernels.loops.compile import optimised, part


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
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)

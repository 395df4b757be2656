"""Registries: names bound to import paths, loaded when asked for, and extended for a while."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.errors import UnknownNameError
from evomerge.registry import Registry


def registry() -> Registry[object]:
    return Registry("kind of mapping", {"ordered": "collections:OrderedDict"}, group="evomerge.none_such")


def test_an_entry_is_imported_only_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    found: Registry[object] = Registry("conversion", {"hsv": "colorsys:rgb_to_hsv"}, group="evomerge.none_such")
    assert found.names() == ("hsv",)
    assert "colorsys" not in sys.modules
    entry = found.get("hsv")
    assert entry is sys.modules["colorsys"].rgb_to_hsv


def test_extended_adds_and_replaces_entries_until_its_end_even_after_an_error() -> None:
    import collections

    found = registry()
    with found.extended({"default": "collections:defaultdict", "ordered": "collections:Counter"}):
        assert found.names() == ("ordered", "default")
        assert found.get("default") is collections.defaultdict
        assert found.get("ordered") is collections.Counter
        with found.extended({"chain": "collections:ChainMap"}):
            assert "chain" in found
        assert "chain" not in found
    with pytest.raises(KeyError), found.extended({"default": "collections:defaultdict"}):
        raise KeyError
    assert found.names() == ("ordered",)
    assert found.get("ordered") is collections.OrderedDict
    with pytest.raises(UnknownNameError, match=r"unknown kind of mapping 'orderd'\. Did you mean 'ordered'"):
        found.get("orderd")


def test_other_packages_add_entries_through_entry_points(tmp_path: Path) -> None:
    kinds = ("merge_methods", "spaces", "proposers", "executors", "observers")
    groups = [f"evomerge.{kind}" for kind in kinds]
    package = tmp_path / "theirs-1.0.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (package / "entry_points.txt").write_text(
        "".join(f"[{group}]\ntheirs = collections:OrderedDict\ncma = collections:Counter\n" for group in groups)
    )
    script = (
        "from evomerge.algorithms import PROPOSERS\nfrom evomerge.execute import EXECUTORS\n"
        "from evomerge.methods import METHODS\n"
        "from evomerge.observers import OBSERVERS\nfrom evomerge.space import SPACES\n"
        "print([found.get('theirs').__name__ for found in (METHODS, SPACES, PROPOSERS, EXECUTORS, OBSERVERS)])\n"
        "print(PROPOSERS.get('cma').__name__)"
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": path}
    )
    assert done.stdout.splitlines() == [str(["OrderedDict"] * 5), "CMAES"], done.stderr

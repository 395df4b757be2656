"""Paths from outside: whatever they hold, the answer is whether something is there."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from evomerge.files.places import is_folder, is_there, local
from evomerge.mergekit.documents import reference
from evomerge.models.hub import whereabouts
from evomerge.recipe.portable import is_local
from evomerge.recipe.sources import ModelReference

NOWHERE = ("~no-such-user/model", "x" * 300, "x" * 100_000, "a\0b", "\udcff/x")


@given(st.text(min_size=1))
@example("~")
def test_no_path_is_too_strange_to_be_looked_at(text: str) -> None:
    path = local(text)
    assert is_folder(path) <= is_there(path)
    is_local(ModelReference(path=text))
    whereabouts(ModelReference(path=text))


@pytest.mark.parametrize("text", NOWHERE)
def test_names_that_no_file_system_has_are_not_there(text: str) -> None:
    assert not is_there(local(text))
    assert not is_folder(local(text))
    assert whereabouts(ModelReference(path=text)).path is None
    assert reference(text, "models[0]", Path("/")) == ModelReference(path=text)


def test_what_is_there_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "file").touch()
    assert is_folder(local("~/model"))
    assert is_there(local("~/file"))
    assert not is_folder(local("~/file"))

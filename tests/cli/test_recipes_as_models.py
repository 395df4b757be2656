"""Commands that look at a config's models, where one of them is a recipe, as a pipe sees them in 80 columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from helpers.first_merges import config_of, contents, weights, write_recipe
from helpers.search import write_task

pytestmark = pytest.mark.slow


@pytest.fixture
def recipe(tmp_path: Path, tiny_llama: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A merge of two models; config.yaml beside it has it as its expert x."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    made = write_recipe(tmp_path / "both.yaml", tiny_llama["a"], tiny_llama["b"])
    config_of(tmp_path, write_task(tmp_path / "tasks"), tiny_llama["base"], x=made, y=tiny_llama["a"])
    return made


@pytest.mark.parametrize(
    "command",
    [
        ("check", "config.yaml", "--pilot"),
        ("analyse", "config.yaml", "--spectra", "none"),
        ("connect", "base", "x", "--config", "config.yaml", "--points", "3"),
    ],
)
def test_a_recipe_is_merged_into_the_folder_of_the_search_and_said_to_be(
    cli: Any, recipe: Path, command: tuple[str, ...]
) -> None:
    done = cli(*command)
    assert done.exit_code == 0, done.output
    merged = Path("runs") / "config" / "merged" / "x"
    assert f"models.experts.x: merging {recipe} into {merged} (" in done.output
    assert f"{merged.parent}: is kept for the search in runs/config; without one" in done.output
    before = contents(merged)
    assert before
    again = cli(*command)
    assert again.exit_code == 0, again.output
    assert "merging" not in again.output
    assert contents(merged) == before


def test_a_run_directory_of_ones_own_is_named_to_the_search(cli: Any, recipe: Path) -> None:
    done = cli("check", "config.yaml", "--pilot", "--run", "elsewhere")
    assert done.exit_code == 0, done.output
    assert "the whole search: about" in done.output
    assert done.output.endswith("Next: evomerge search config.yaml --run elsewhere\n")
    assert weights(Path("elsewhere") / "merged" / "x")
    assert not Path("runs").exists()


def test_what_is_seen_of_a_recipe_is_what_is_seen_of_its_folder(cli: Any, recipe: Path) -> None:
    assert cli("merge", recipe, "folder").exit_code == 0
    text = Path("config.yaml").read_text()
    Path("by-folder.yaml").write_text(text.replace(str(recipe), "folder"))
    found = []
    for config in ("config.yaml", "by-folder.yaml"):
        done = cli("connect", "base", "x", "--config", config, "--points", "3", "--json", "found.json")
        assert done.exit_code == 0, done.output
        found.append(json.loads(Path("found.json").read_text())["surveys"])
    assert found[0] == found[1]


def test_check_merges_nothing_and_the_pilot_merges_nothing_that_it_couldnt_try(cli: Any, recipe: Path) -> None:
    Path("config.yaml").write_text(Path("config.yaml").read_text().replace("    y: ", "    y: org/elsewhere # "))
    for arguments in ((), ("--pilot",)):
        done = cli("check", "config.yaml", *arguments)
        assert done.exit_code == len(arguments), done.output
        assert not Path("runs").exists()
    assert "the pilot needs every model on this machine" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("connect", "x", "y", "--text", "both.yaml", "--run", "r"), "models of a --config are merged first"),
        (("analyse", "x", "y", "--run", "r"), "no config is given"),
        (("check", "both.yaml", "--run", "r"), "are for a search's config"),
    ],
)
def test_a_run_directory_without_a_config_is_refused(
    cli: Any, recipe: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = cli(*arguments)
    assert done.exit_code
    assert message in " ".join(done.output.replace("│", " ").split())

"""What the README shows is true: its snippets parse, its commands exist, its links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import yaml

from evomerge.config.config import Config
from evomerge.mergekit.methods import COUNTERPARTS
from evomerge.methods import METHODS
from evomerge.recipe.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_every_yaml_snippet_is_a_config_or_a_recipe() -> None:
    for text in snippets("yaml"):
        data = yaml.safe_load(text)
        if "evomerge" in data:
            assert Recipe.from_yaml(text).groups
        else:
            assert Config.from_yaml(text).merge.method in METHODS
    assert len(snippets("yaml")) >= 2


def test_python_snippets_use_names_that_exist() -> None:
    import evomerge

    for text in snippets("python"):
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "evomerge":
                assert hasattr(evomerge, node.attr), node.attr


def test_every_command_and_option_shown_exists() -> None:
    import typer.main

    from evomerge.cli import app

    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"^evomerge (\w+)(.*)$", "\n".join(snippets("sh")), flags=re.MULTILINE)
    assert len(shown) >= 6
    for name, rest in shown:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"\s(--[a-z-]+)", rest.partition("#")[0])) <= options, name


@pytest.mark.parametrize("target", re.findall(r"\]\((?!https?://)([^)#]+)\)", README))
def test_links_to_files_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()


def test_files_and_folders_named_in_code_exist() -> None:
    for name in set(re.findall(r"`((?:configs|launch|benchmarks|evomerge)/[\w./]*)`", README)):
        assert (ROOT / name).exists(), name


def test_the_page_on_mergekit_names_every_method_and_every_key_that_is_refused() -> None:
    page = (ROOT / "evomerge" / "mergekit" / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (.*) \|$", page.partition("## Other defaults")[0], flags=re.MULTILINE)
    assert [theirs for theirs, _ in rows] == [counterpart.theirs for counterpart in COUNTERPARTS]
    for counterpart, (_, ours) in zip(COUNTERPARTS, rows, strict=True):
        assert f"`{counterpart.ours}`" in ours
        assert all(f"`{name}`" in page for name in counterpart.inert)
    for key in (
        "modules", "chat_template", "tokenizer.tokens", "tokenizer.pad_to_multiple_of", "residual_weight",
        "override_architecture",
    ):  # fmt: skip
        assert f"`{key}`" in page.partition("## Refused by name")[2], key


def test_make_targets_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"^make ([\w-]+)", "\n".join(snippets("sh")), flags=re.MULTILINE)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target

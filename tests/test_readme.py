"""What the README shows is true: the picture of the house, its make targets, its length."""

from __future__ import annotations

import re

import pytest

from helpers.house import FLOOR, WORDS, block, picture
from helpers.pages import ROOT, snippets, text_of


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_the_picture_is_the_table_of_floors(page: str) -> None:
    assert block() in text_of(page), f"redraw it: PYTHONPATH=tests python -m helpers.house {page}"


def test_the_picture_fits_a_terminal_and_has_every_room_once_with_its_words() -> None:
    lines = picture().splitlines()
    assert [line[3:].split()[0] for line in lines] == [*reversed_floors()]
    assert max(map(len, lines)) <= 80
    for room in FLOOR:
        assert WORDS.get(room), f"{room}: say in WORDS of tests/helpers/house.py what it is for"


def reversed_floors() -> list[str]:
    return sorted(FLOOR, key=lambda room: -FLOOR[room])


def test_make_targets_shown_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = set(re.findall(r"\bmake ([a-z][\w-]*)", "\n".join(snippets("CONTRIBUTING.md", "sh"))))
    shown |= set(re.findall(r"`make ([\w-]+)`", text_of("README.md")))
    assert shown >= {"demo", "test", "docs"}
    for target in shown:
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target


def test_output_shown_fits_80_columns() -> None:
    for text in snippets("README.md", "text"):
        assert max(map(len, text.splitlines())) <= 80

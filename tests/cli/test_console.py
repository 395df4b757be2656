"""Text on screens and in pipes."""

from __future__ import annotations

import io
from collections import Counter

import pytest
from rich.text import Text

from evomerge.cli import console


@pytest.mark.parametrize("terminal", [False, True])
def test_text_from_files_does_not_act_on_the_terminal(terminal: bool) -> None:
    out = console.SafeConsole(file=io.StringIO(), force_terminal=terminal, width=80, color_system=None)
    made = console.table("name", title="\x1b[2Jtitle")
    made.add_row(Text("\x1b[31mred\x9b\u202e"))
    out.print(made, "plain \x1b]0;x\x07", Text("styled \x1b[1m", style="bold"))
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    for text in ("\\x1b[2Jtitle", "\\x1b[31mred\\x9b\\u202e", "\\x1b]0;x", "styled \\x1b[1m"):
        assert text in shown
    assert not {"\x1b[2J", "\x1b[31m", "\x1b]0", "\x9b", "\u202e"} & {
        shown[i : i + n] for n in (1, 3, 4, 5) for i in range(len(shown))
    }


@pytest.mark.parametrize("width", [20, 30, 40, 50, 60, 66, 70, 77, 80, 120])
def test_no_cell_is_cut_however_narrow_the_terminal_is(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # A dumb terminal has 80 columns whatever it says.
    monkeypatch.setenv("TERM", "xterm")
    rows = [
        ("base", "0.375 [0.252, 0.515]", "", ""),
        ("distribution mean", "0.781 [0.650, 0.880]", "+0.406 [+0.242, +0.571]", "< 0.001"),
        ("best uniform", "0.781 [0.650, 0.880]", "+0.406 [+0.242, +0.571]", "0.0012"),
    ]
    headings = ("model", "test", "winner − model", "p")
    made = console.table(*headings, right=headings[1:])
    for row in rows:
        made.add_row(*map(Text, row))
    out = console.SafeConsole(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    out.print(made)
    shown = out.file.getvalue()  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= width
    expected = Counter("".join("".join(row) for row in [headings, *rows]))
    assert {letter: count for letter, count in Counter(shown).items() if letter not in " \n─"} == {
        letter: count for letter, count in expected.items() if letter != " "
    }
    if width >= 76:
        assert "+0.406 [+0.242, +0.571]" in shown

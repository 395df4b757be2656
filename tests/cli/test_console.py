"""Text on screens and in pipes."""

from __future__ import annotations

import io

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

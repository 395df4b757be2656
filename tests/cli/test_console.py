"""Text on screens and in pipes."""

from __future__ import annotations

import ast
import io
from collections import Counter
from pathlib import Path

import pytest
from rich.text import Text

from evomerge.cli import console

ROOT = Path(__file__).resolve().parents[2]


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


def test_title_and_caption_of_a_table_begin_where_it_does() -> None:
    made = console.table("name", title="what it is of")
    made.caption = "more about it"
    made.add_row("x" * 40)
    out = console.SafeConsole(file=io.StringIO(), width=80, color_system=None)
    out.print(made)
    first, *_, last = out.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert (first, last) == ("what it is of", "more about it")


def test_prose_is_wrapped_on_a_terminal_and_a_line_in_a_pipe_unless_it_is_to_be_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # A dumb terminal has 80 columns whatever it says.
    monkeypatch.setenv("TERM", "xterm")
    prose = "word " * 40 + "word"

    def lines(*, terminal: bool, wrapped: bool = True) -> int:
        out = console.SafeConsole(file=io.StringIO(), force_terminal=terminal, width=60, color_system=None)
        console.say(out, prose, wrapped=wrapped)
        return out.file.getvalue().count("\n")  # type: ignore[attr-defined]

    assert lines(terminal=True) == 4
    assert lines(terminal=False) == 1
    assert lines(terminal=True, wrapped=False) == 1


def test_prose_is_printed_in_one_way() -> None:
    """Else it is wrapped in pipes, or has markup, in one command and not in the next."""
    for path in sorted((ROOT / "evomerge" / "cli").glob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if path.name == "console.py" or not isinstance(call, ast.Call) or not isinstance(call.func, ast.Attribute):
                continue
            if call.func.attr != "print":
                continue
            words = {text for part in call.args if (text := _text(part))}
            assert not words, f"{path.name}:{call.lineno}: printed without say: {words}"


def _text(part: ast.expr) -> str:
    """What an argument prints as prose, if it does."""
    if isinstance(part, ast.Constant):
        return str(part.value).strip()
    text = ast.unparse(part)
    made = isinstance(part, ast.JoinedStr | ast.BinOp | ast.IfExp | ast.Starred)
    return text if made or text.startswith("Text") or ".join(" in text else ""

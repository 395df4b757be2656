"""`evomerge align`: what it says, and what it refuses."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from evomerge.cli import screens
from evomerge.testing.models import tiny_checkpoint


@pytest.fixture
def apart(tmp_path: Path) -> list[Path]:
    """Three models of one architecture that have nothing in common."""
    return [tiny_checkpoint(tmp_path / f"m{seed}", seed=seed) for seed in range(3)]


def test_it_writes_a_folder_for_each_model_and_says_what_it_gained(cli: Any, tmp_path: Path, apart: list[Path]) -> None:
    done = cli("align", *apart, "--out", tmp_path / "out", "--option", "rounds=3")
    assert (done.exit_code, done.stderr) == (0, "")
    lines = done.output.splitlines()
    assert lines[0].split() == ["model", "kind", "cosine", "before", "after"]
    for name in ("m1", "m2"):
        assert (tmp_path / "out" / name / "model.safetensors").is_file()
        (row,) = (line.split() for line in lines if line.split()[:2] == [name, "all"])
        assert float(row[3]) > float(row[2])
        assert any(line.startswith(f"Wrote {tmp_path / 'out' / name}: 5 of 5") for line in lines)
    assert lines[-1] == f"{apart[0]} stays as it is, and is merged with them as it is"


def test_with_folded_norms_the_reference_is_written_too(cli: Any, tmp_path: Path, apart: list[Path]) -> None:
    done = cli("align", *apart[:2], "--out", tmp_path / "out", "--residual", "orthogonal")
    assert done.exit_code == 0
    assert {folder.name for folder in (tmp_path / "out").iterdir()} == {"m0", "m1"}
    assert "merge its folder here, with folded norms, with the others" in done.output


def test_a_spec_of_ones_own_says_what_may_move(cli: Any, tmp_path: Path, apart: list[Path]) -> None:
    hidden = "model.layers.{layer}.mlp.hidden"
    lines = {"gate": f"['{hidden}:gain', null]", "up": f"['{hidden}', null]", "down": f"[null, '{hidden}']"}
    tensors = "".join(f"  model.layers.{{layer}}.mlp.{name}_proj.weight: {axes}\n" for name, axes in lines.items())
    others = ("model.embed_tokens.*", "model.norm.*", "lm_head.*", "*.self_attn.*", "*_layernorm.weight")
    fixed = "".join(f"  '{name}': fixed\n" for name in others)
    (tmp_path / "own.yaml").write_text(f"labels: {{'{hidden}': signed}}\ntensors:\n{tensors}{fixed}")
    done = cli("align", *apart[:2], "--out", tmp_path / "out", "--spec", tmp_path / "own.yaml")
    assert (done.exit_code, done.stderr) == (0, "")
    assert f"Wrote {tmp_path / 'out' / 'm1'}: 2 of 2 sets of units moved" in done.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--method", "weight_match"], "unknown alignment method 'weight_match'. Did you mean 'weight_matching'?"),
        (["--option", "rounds"], "write --option NAME=VALUE"),
        (["--option", "rounds=many"], "weight_matching: rounds has to be a int, such as 100 (found 'many')"),
        (["--option", "round=1"], "unknown option of weight_matching 'round'"),
        (["--residual", "both"], "'both' is not one of"),
        (["--refine"], "--refine and --text FILE go together"),
        (["--text", "absent.txt"], "--refine and --text FILE go together"),
        (["--refine", "--text", "absent.txt"], "absent.txt: can't be read"),
    ],
)
def test_what_it_does_not_know_is_refused_without_a_traceback(
    cli: Any, tmp_path: Path, apart: list[Path], options: list[str], message: str
) -> None:
    done = cli("align", *apart, "--out", tmp_path / "out", *options)
    assert done.exit_code != 0
    assert message in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_stages_are_drawn_as_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "xterm"})
    monkeypatch.setattr(screens, "stderr", lambda: shown)
    with screens.stages("finding maps", "writing") as (first, second):
        first(1, 4)
        first(4, 4)
        second(10, 20)
    text = shown.file.getvalue()  # type: ignore[attr-defined]
    assert "finding maps" in text
    assert "100%" in text
    assert "writing" in text

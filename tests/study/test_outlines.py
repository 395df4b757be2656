"""Models that are on the hub and not here: `check` goes by their headers, and by nothing where it is offline."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from helpers.commands import run
from helpers.hub import serving
from helpers.search import write_config, write_task


def said(config: Path, **settings: str) -> str:
    done = run(["check", config], variables=settings)
    assert done.returncode == 0, done.stderr
    # What Python takes of the memory differs from process to process.
    return re.sub(r"\d+ MB for Python", "MB for Python", " ".join(done.stdout.split()))


def between(text: str, first: str, last: str) -> str:
    return text[text.index(first) : text.index(last)]


def test_headers_of_the_hub_tell_what_a_search_will_need(tmp_path: Path, tiny_llama: dict[str, Path]) -> None:
    tasks = write_task(tmp_path / "tasks")
    local = write_config(tmp_path / "local.yaml", tiny_llama, tasks)
    text = local.read_text()
    for name in ("base", "a"):
        shutil.copytree(tiny_llama[name], tmp_path / "hub" / "org" / name)
        (tmp_path / "hub" / "org" / name / "code.py").write_text("raise SystemExit")
        text = text.replace(str(tiny_llama[name]), f"org/{name}")
    remote = tmp_path / "remote.yaml"
    remote.write_text(text)
    stored = (tiny_llama["base"] / "model.safetensors").stat().st_size
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    with serving(tmp_path / "hub") as hub:
        online = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        shown = said(remote, **online, HF_HUB_DISABLE_XET="1", TMPDIR=str(temporary))
        sent = list(hub.sent)
    weights = [size for name, size in sent if name == "model.safetensors"]
    assert len(weights) == 2
    assert max(weights) < stored, "headers alone"
    assert "code.py" not in {name for name, _ in sent}
    assert not list(temporary.iterdir()), "nothing is left behind"
    assert not list((tmp_path / "home").rglob("*.safetensors"))
    known = said(local)
    assert between(shown, "searched ", "Note:" if "Note:" in known else "Not checked:") == between(
        known, "searched ", "Note:" if "Note:" in known else "No mistake"
    )
    for name in ("base", "a"):
        assert f"Not checked: org/{name}: the numbers in its weights" in shown
    assert "Next: evomerge prefetch" in shown

    offline = said(remote, HF_HOME=str(tmp_path / "home"))
    assert "models that aren't here: this machine is offline (HF_HUB_OFFLINE)" in offline
    assert "Not checked: whether the models fit each other; dimensions, memory" in offline


def test_what_does_not_fit_is_found_by_headers_and_named_by_the_hub_id(
    tmp_path: Path, tiny_llama: dict[str, Path]
) -> None:
    other = Path(shutil.copytree(tiny_llama["b"], tmp_path / "hub" / "org" / "other"))
    tensors = load_file(other / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"][:-1].clone()
    save_file(tensors, other / "model.safetensors", {"format": "pt"})
    config = write_config(tmp_path / "x.yaml", tiny_llama, write_task(tmp_path / "tasks"))
    config.write_text(config.read_text().replace(f"b: {tiny_llama['b']}\n", "b: org/other\n"))
    with serving(tmp_path / "hub") as hub:
        settings = {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home")}
        done = run(["check", config], variables=settings)
    assert done.returncode == 1, done.stdout
    assert "org/other" in done.stderr
    assert "evomerge-" not in done.stderr

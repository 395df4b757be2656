"""The files beside weights that go along, by a rule instead of a list of names."""

from __future__ import annotations

import json
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest

from evomerge.models import carried
from evomerge.models.carried import carry, not_carried, without_code

GOES = (
    "LICENSE", "tekken.json", "spm.model", "bpe.codes", "chat_template.jinja", "generation_config.json", "words.txt",
    "additional_chat_templates/tool.jinja", "1_Pooling/config.json", "some_processor_config.json",
)  # fmt: skip
STAYS = (
    "config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "consolidated.00.pth",
    "model-q4.gguf", "onnx/model.onnx", "tf_model.h5", "optimizer.pt", "scheduler.pt", "rng_state_0.pth",
    "trainer_state.json", "training_args.bin", "runs/events.out.tfevents.1", "checkpoint-10/trainer_state.json",
    "README.md", "recipe.yaml", "adapter_config.json", ".gitattributes", ".git/config", "modeling_x.py", "native.so",
    "run.sh", "state.pkl", "a/b/c/d/deep.txt",
)  # fmt: skip


def fill(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}" if name.endswith(".json") else f"text of {name}")
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source", (*GOES, *STAYS))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_everything_goes_along_but_weights_training_state_pickles_programs_and_code(source: Path, out: Path) -> None:
    notes = "\n".join(carry(source, out))
    assert names_in(out) == set(GOES)
    assert all((out / name).read_bytes() == (source / name).read_bytes() for name in GOES)
    for name in ("modeling_x.py", "native.so", "run.sh", "state.pkl"):
        assert name in notes
    assert "--carry-code" in notes


def test_code_goes_along_where_it_is_asked_for_and_that_is_said(source: Path, out: Path) -> None:
    notes = carry(source, out, code=True)
    assert names_in(out) == {*GOES, "modeling_x.py"}
    assert any("code is carried along (modeling_x.py)" in note for note in notes)


def test_what_names_code_is_taken_out_of_every_settings_file_however_it_is_spelled(source: Path, out: Path) -> None:
    named = '{"auto\\u005fmap": {"AutoTokenizer": ["tok.Mine", null]}, "a": {"auto_map": {"AutoModel": "x.Y"}, "b": 1}}'
    (source / "tokenizer_config.json").write_text(named)
    (source / "vocab.json").write_text('{"auto_map": 3}')
    (note,) = [note for note in carry(source, out) if "--carry-code" in note]
    assert json.loads((out / "tokenizer_config.json").read_text()) == {"a": {"b": 1}}
    assert (out / "vocab.json").read_text() == '{"auto_map": 3}'
    assert "auto_map of tokenizer_config.json" in note
    carry(source, out, code=True)
    assert (out / "tokenizer_config.json").read_text() == named


def test_config_is_left_to_the_caller_and_its_code_is_said(source: Path, out: Path) -> None:
    config = {"auto_map": {"AutoConfig": "other/repo--conf.Conf"}, "text_config": {"auto_map": {}, "depth": 2}}
    (source / "config.json").write_text(json.dumps(config))
    assert any("auto_map of config.json" in note for note in carry(source, out))
    assert "config.json" not in names_in(out)
    assert without_code(config) == {"text_config": {"depth": 2}}


def test_links_that_leave_the_folder_are_named_and_not_followed(source: Path, out: Path, tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", ("secret.txt", "more/secret.txt"))
    (source / "link.txt").symlink_to(tmp_path / "elsewhere" / "secret.txt")
    (source / "folder").symlink_to(tmp_path / "elsewhere" / "more")
    (source / "again").symlink_to(source)
    (source / "inside.txt").symlink_to("words.txt")
    (source / "gone.txt").symlink_to("nowhere")
    notes = "\n".join(carry(source, out))
    assert names_in(out) == {*GOES, "inside.txt"}
    assert "left out links to other places: again, folder, link.txt" in notes
    assert not any(path.is_symlink() for path in out.rglob("*"))


def test_the_hubs_cache_whose_files_are_all_links_is_carried(out: Path, tmp_path: Path) -> None:
    repository = tmp_path / "models--org--name"
    fill(repository, ("blobs/1a", "blobs/2b", "refs/secret"))
    snapshot = repository / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "LICENSE").symlink_to("../../blobs/1a")
    (snapshot / "tokenizer.model").symlink_to("../../blobs/2b")
    (snapshot / "other.txt").symlink_to("../../refs/secret")
    carry(snapshot, out)
    assert names_in(out) == {"LICENSE", "tokenizer.model"}
    assert (out / "LICENSE").read_text() == "text of blobs/1a"


def test_pickles_are_known_by_their_first_bytes_whatever_they_are_called(source: Path, out: Path) -> None:
    (source / "vocab.txt").write_bytes(pickle.dumps({"a": 1}))
    with zipfile.ZipFile(source / "other.model", "w") as archive:
        archive.writestr("data.pkl", b"")
    notes = "\n".join(carry(source, out))
    assert names_in(out) == set(GOES)
    assert "left out pickles, which can run code when read: " in notes
    assert "vocab.txt" in notes
    assert "other.model" in notes


def test_what_is_larger_than_files_beside_weights_is_left_out_by_name(
    source: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (source / "large.txt").write_text("x" * 2000)
    monkeypatch.setattr(carried, "_MAX_FILE_BYTES", 1000)
    assert any(note.endswith("larger than files beside weights are: large.txt") for note in carry(source, out))
    assert names_in(out) == set(GOES)
    monkeypatch.setattr(carried, "_MAX_FILES", 2)
    assert any("files beside weights" in note and " more" in note for note in carry(source, out))


def test_only_some_names_can_be_asked_for(source: Path, out: Path) -> None:
    carry(source, out, only=("tekken.json", "*.codes", "tool.jinja"))
    assert names_in(out) == {"tekken.json", "bpe.codes"}


def test_what_a_folder_lacks_or_has_otherwise_is_known(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    left = {"native.so", "run.sh", "state.pkl", "modeling_x.py"}
    carry(source, out)
    assert set(not_carried(source, out)) == left
    (out / "words.txt").write_text("other words")
    (out / "LICENSE").unlink()
    assert set(not_carried(source, out)) == left | {"words.txt", "LICENSE"}
    for name in left | {"words.txt", "LICENSE"}:
        shutil.copyfile(source / name, out / name)
    assert set(not_carried(source, out)) <= {"state.pkl"}
    elsewhere = tmp_path / "elsewhere.txt"
    elsewhere.write_text("the same")
    (source / "far.txt").symlink_to(elsewhere)
    (out / "far.txt").write_text("the same")
    assert "far.txt" in not_carried(source, out)

"""GGUF files, written here as llama.cpp's converter writes them, come back as the models that they were made from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.errors import CheckpointError, ExportError, MergeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.gguf import import_gguf
from evomerge.testing.models import tiny_checkpoint

gguf = pytest.importorskip("gguf")
from helpers.gguf_file import Types, write_gguf  # noqa: E402

TEXT = "The river rises in the hills; watoto wanasoma vitabu."


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("original") / "llama", tied=False)


@pytest.mark.parametrize(
    ("kind", "dtype", "tied"), [(Types.F32, torch.float32, False), (Types.F16, torch.float16, True)]
)
def test_what_was_written_comes_back_tensor_by_tensor(tmp_path: Path, kind: Any, dtype: Any, tied: bool) -> None:
    llama = tiny_checkpoint(tmp_path / "llama", tied=tied)
    made = import_gguf(write_gguf(tmp_path / "m.gguf", llama, kind), tmp_path / "out")
    original, found = Checkpoint.open(llama), Checkpoint.open(tmp_path / "out")
    assert set(found.names) == set(original.names)
    for name in original.names:
        assert torch.equal(found.tensor(name), original.tensor(name).to(dtype)), name
    one, two = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).float() for folder in (llama, tmp_path / "out")
    )
    ids = AutoTokenizer.from_pretrained(llama)(TEXT, add_special_tokens=False)["input_ids"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer(TEXT, add_special_tokens=False)["input_ids"] == ids
    assert tokenizer.chat_template == "{{ messages[0].content }}"
    with torch.no_grad():
        asked = torch.tensor([ids])
        torch.testing.assert_close(two(asked).logits, one(asked).logits, atol=1e-5, rtol=0)
    # Norms are in float32 in every such file.
    assert made.notes == (() if kind == Types.F32 else ("numbers of type F32 are rounded to float16",))


def test_a_quantised_file_gives_what_the_quantiser_kept_and_says_so(tmp_path: Path, llama: Path) -> None:
    made = import_gguf(
        write_gguf(tmp_path / "m.gguf", llama, Types.Q8_0, scaled=True), tmp_path / "out", dtype="float32"
    )
    original, found = Checkpoint.open(llama), Checkpoint.open(tmp_path / "out")
    name = "model.layers.0.mlp.down_proj.weight"
    kept = gguf.dequantize(gguf.quantize(original.tensor(name).numpy(), Types.Q8_0), Types.Q8_0)
    assert torch.equal(found.tensor(name), torch.from_numpy(kept))
    assert not torch.equal(found.tensor(name), original.tensor(name))
    matrices = sum(info.num_elements for info in original.tensors.values() if len(info.shape) == 2)
    share = f"Q8_0 {matrices / original.num_parameters:.1%}"
    assert [share in note for note in made.notes] == [True, False]
    assert "scales its rotary positions" in made.notes[1]
    assert "quantization_config" not in found.config


@pytest.mark.parametrize("kept", [0, 3, 60, 5_000, -100])
def test_a_file_that_is_cut_short_is_refused_in_words(tmp_path: Path, llama: Path, kept: int) -> None:
    file = write_gguf(tmp_path / "m.gguf", llama)
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"m\.gguf: can't be read as GGUF .* fetch it again"):
        import_gguf(file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_can_not_be_imported_is_refused_with_the_reason(tmp_path: Path, llama: Path) -> None:
    file = write_gguf(tmp_path / "m.gguf", llama, without="model.layers.1.self_attn.v_proj.weight")
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.1\.self_attn\.v_proj\.weight"):
        import_gguf(file, tmp_path / "out")
    with pytest.raises(ExportError, match="is there already"):
        import_gguf(file, llama)
    with pytest.raises(MergeError, match="unknown dtype 'int8'"):
        import_gguf(file, tmp_path / "out", dtype="int8")

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.compatible import check_compatible
from evomerge.models.hub import whereabouts
from evomerge.models.names import match_names
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import ARCHITECTURES, tiny_checkpoint, tiny_family


@pytest.fixture
def copy_of(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies of a folder that a test may spoil."""

    def copy(folder: Path) -> Path:
        return Path(shutil.copytree(folder, tmp_path / f"copy-{len(list(tmp_path.iterdir()))}"))

    return copy


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("sharded") / "model", max_shard_size="40KB")


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    config = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: value for key, value in config.items() if value is not ...}))


def edit_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def edit_index(folder: Path, change: Callable[[dict[str, str]], None]) -> None:
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"])
    path.write_text(json.dumps(index))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_headers_and_tensors_are_those_that_safetensors_reads(tmp_path: Path, architecture: str, dtype: str) -> None:
    folder = tiny_checkpoint(tmp_path / "model", architecture, dtype=dtype)
    expected = load_file(folder / "model.safetensors")
    checkpoint = Checkpoint.open(ModelReference(path=str(folder)))
    assert set(checkpoint.names) == set(expected)
    for name, tensor in expected.items():
        info = checkpoint.tensors[name]
        assert (info.shape, info.dtype, info.size_bytes) == (tuple(tensor.shape), tensor.dtype, tensor.nbytes)
        assert torch.equal(checkpoint.tensor(name), tensor)
    assert checkpoint.dtype == getattr(torch, dtype)
    assert checkpoint.model_type == architecture
    assert checkpoint.size_bytes == sum(tensor.nbytes for tensor in expected.values())
    assert checkpoint.num_parameters == sum(tensor.numel() for tensor in expected.values())
    assert checkpoint.layout.depth == 2


def test_shards_hold_together(sharded: Path) -> None:
    expected: dict[str, torch.Tensor] = {}
    for file in sorted(sharded.glob("*.safetensors")):
        expected |= load_file(file)
    assert len(list(sharded.glob("*.safetensors"))) > 2
    checkpoint = Checkpoint.open(str(sharded))
    assert set(checkpoint.names) == set(expected)
    assert all(torch.equal(checkpoint.tensor(name), tensor) for name, tensor in expected.items())


def test_a_tensor_is_mapped_and_not_copied(tiny_llama: dict[str, Path]) -> None:
    checkpoint = Checkpoint.open(tiny_llama["base"])
    first, second = (checkpoint.tensor("lm_head.weight") for _ in range(2))
    assert first.data_ptr() == second.data_ptr()


def test_a_checkpoint_travels_to_another_process(tiny_llama: dict[str, Path]) -> None:
    checkpoint = Checkpoint.open(tiny_llama["a"])
    before = checkpoint.tensor("model.norm.weight")
    copy = pickle.loads(pickle.dumps(checkpoint))
    assert torch.equal(copy.tensor("model.norm.weight"), before)


def test_the_dtype_is_that_of_most_numbers(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["base"])

    def mix(tensors: dict[str, torch.Tensor]) -> None:
        for name in tensors:
            if "norm" not in name:
                tensors[name] = tensors[name].bfloat16()
        tensors["model.layers.0.steps"] = torch.arange(100_000)

    edit_tensors(folder, mix)
    assert Checkpoint.open(folder).dtype == torch.bfloat16


def test_an_unknown_tensor_is_named(tiny_llama: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="no tensor 'nope'"):
        Checkpoint.open(tiny_llama["base"]).tensor("nope")


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(part=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused_by_name(tiny_llama: dict[str, Path], tmp_path: Path, part: float) -> None:
    folder = tmp_path / "cut"
    shutil.copytree(tiny_llama["base"], folder, dirs_exist_ok=True)
    weights = folder / "model.safetensors"
    whole = (tiny_llama["base"] / "model.safetensors").read_bytes()
    weights.write_bytes(whole[: int(part * len(whole))])
    with pytest.raises(CheckpointError, match=r"model\.safetensors: .*(cut short|damaged)"):
        Checkpoint.open(folder)


def test_a_file_cut_in_its_data_names_the_first_tensors_lost(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    folder = copy_of(tiny_llama["base"])
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-4])
    with pytest.raises(CheckpointError, match=r"so model\.norm\.weight can't be read"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("junk", [b"", b"\x00" * 7, b"\xff" * 64, b"<html>not found</html>" * 9])
def test_a_file_that_is_no_safetensors_is_refused(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path], junk: bytes
) -> None:
    folder = copy_of(tiny_llama["base"])
    (folder / "model.safetensors").write_bytes(junk)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        Checkpoint.open(folder)


def test_missing_shards_are_named(copy_of: Callable[[Path], Path], sharded: Path) -> None:
    folder = copy_of(sharded)
    gone = sorted(folder.glob("*.safetensors"))[1]
    gone.unlink()
    with pytest.raises(CheckpointError, match=rf"are missing: {gone.name}"):
        Checkpoint.open(folder)


def test_a_tensor_in_the_index_but_in_no_shard_is_named(copy_of: Callable[[Path], Path], sharded: Path) -> None:
    folder = copy_of(sharded)
    edit_index(folder, lambda index: index.update({"model.layers.9.lost": next(iter(index.values()))}))
    with pytest.raises(CheckpointError, match=r"aren't in their shards: model\.layers\.9\.lost"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("file", ["../model.safetensors", "/etc/passwd", "a/../../b", "..\\b", "C:\\b", ""])
def test_an_index_that_leaves_its_folder_is_refused(copy_of: Callable[[Path], Path], sharded: Path, file: str) -> None:
    folder = copy_of(sharded)
    edit_index(folder, lambda index: index.update({"model.norm.weight": file}))
    with pytest.raises(CheckpointError, match="outside its folder"):
        Checkpoint.open(folder)


def test_a_tensor_in_two_shards_is_refused(copy_of: Callable[[Path], Path], sharded: Path) -> None:
    folder = copy_of(sharded)
    first, second = sorted(folder.glob("*.safetensors"))[:2]
    save_file(load_file(second) | dict(list(load_file(first).items())[:1]), second)
    with pytest.raises(CheckpointError, match="stored twice"):
        Checkpoint.open(folder)


def test_pickled_weights_are_refused_with_the_remedy(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    folder = copy_of(tiny_llama["base"])
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=r"only pickled weights \(pytorch_model\.bin\).*save_pretrained"):
        Checkpoint.open(folder)


def test_folders_that_are_no_model_are_refused(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["base"])
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="holds no weights"):
        Checkpoint.open(folder)
    (folder / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Checkpoint.open(folder)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="LoRA adapter"):
        Checkpoint.open(folder)


def test_a_damaged_config_is_refused(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["base"])
    for text in ("{", "[]"):
        (folder / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"config\.json"):
            Checkpoint.open(folder)


def test_quantised_weights_are_refused(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["base"])
    edit_config(folder, quantization_config={"bits": 4})
    with pytest.raises(CheckpointError, match="quantised"):
        Checkpoint.open(folder)


@pytest.mark.parametrize("path", ["./nowhere", "/nowhere/at/all", "~/nowhere-at-all/x/y"])
def test_a_path_that_isnt_there_is_no_hub_id(path: str) -> None:
    with pytest.raises(CheckpointError, match="no such folder; give a model folder or a hub id"):
        Checkpoint.open(path)


def test_a_file_in_place_of_a_folder_is_refused(tiny_llama: dict[str, Path]) -> None:
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        Checkpoint.open(tiny_llama["base"] / "config.json")


def test_an_unreachable_hub_says_what_to_do() -> None:
    reference = ModelReference(path="some-org/some-model", revision="v1")
    with pytest.raises(CheckpointError, match=r"some-org/some-model at revision 'v1': .*HF_HUB_OFFLINE"):
        Checkpoint.open(reference)


def test_whereabouts_tells_folder_cache_and_unresolved_without_raising(
    tiny_llama: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--org--tiny"
    snapshot = cached / "snapshots" / ("0" * 40)
    shutil.copytree(tiny_llama["base"], snapshot)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert whereabouts(ModelReference(path=str(tiny_llama["base"]))).kind == "folder"
    assert whereabouts(ModelReference(path="org/tiny"))[:2] == ("cache", snapshot)
    assert whereabouts(ModelReference(path="org/tiny", revision="v2")).kind == "unresolved"
    assert whereabouts(ModelReference(path="org/other")).kind == "unresolved"
    assert whereabouts(ModelReference(path="./nowhere")) == ("unresolved", None, "./nowhere: no such folder")
    assert Checkpoint.open("org/tiny").folder == snapshot
    (snapshot / "model.safetensors").unlink()
    assert whereabouts(ModelReference(path="org/tiny")).kind == "unresolved"


def test_the_vocabulary_is_counted_and_fingerprinted(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    base, expert = (Checkpoint.open(tiny_llama[name]).vocabulary() for name in ("base", "a"))
    assert base is not None
    assert base == expert
    assert base.size == len(Checkpoint.open(tiny_llama["base"]).tokenizer())
    folder = copy_of(tiny_llama["base"])
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    other = Checkpoint.open(folder).vocabulary()
    assert other is not None
    assert (other.size, other.fingerprint == base.fingerprint) == (base.size, False)
    (folder / "tokenizer.json").unlink()
    assert Checkpoint.open(folder).vocabulary() is None


def test_a_missing_tokenizer_is_an_error_that_says_so(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    folder = copy_of(tiny_llama["base"])
    for path in folder.glob("tokenizer*"):
        path.unlink()
    with pytest.raises(CheckpointError, match="tokenizer can't be loaded"):
        Checkpoint.open(folder).tokenizer()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_family_is_compatible(tmp_path: Path, architecture: str) -> None:
    models = {name: Checkpoint.open(path) for name, path in tiny_family(tmp_path, architecture).items()}
    base = models.pop("base")
    check_compatible(base, models)
    assert match_names(base, models["a"]) == {name: name for name in base.names}


@pytest.mark.parametrize(
    ("settings_", "message"),
    [
        ({"layers": 3}, "has 3 layers, the base has 2"),
        ({"hidden": 16}, r"is 16 wide, the base 32 \(model.embed_tokens.weight\)"),
        ({"vocab_size": 320}, "embedding has 320 tokens, the base's has 384"),
        (
            {"intermediate_size": 48},
            r"shapes differ from the base's: .*down_proj.weight 32×48 \(base 32×64\).* and \d+ more",
        ),
        ({"architecture": "qwen2"}, r"is a Qwen2ForCausalLM \(qwen2\), the base is a LlamaForCausalLM \(llama\)"),
        ({"attention_bias": True}, r"has model.layers.0.self_attn.k_proj.bias, .* and \d more, which the base hasn't"),
    ],
)
def test_each_mismatch_is_found_from_headers_and_named(
    tiny_llama: dict[str, Path], tmp_path: Path, settings_: dict[str, Any], message: str
) -> None:
    base = Checkpoint.open(tiny_llama["base"])
    good, bad = Checkpoint.open(tiny_llama["a"]), Checkpoint.open(tiny_checkpoint(tmp_path / "bad", **settings_))
    with pytest.raises(CheckpointError, match=message) as error:
        check_compatible(base, {"good": good, "bad": bad})
    assert "expert 'bad'" in str(error.value)
    assert "expert 'good'" not in str(error.value)


def test_every_bad_expert_is_named_at_once(tiny_llama: dict[str, Path], tmp_path: Path) -> None:
    bad = {
        "deep": Checkpoint.open(tiny_checkpoint(tmp_path / "deep", layers=3)),
        "wide": Checkpoint.open(tiny_checkpoint(tmp_path / "wide", hidden=48)),
    }
    with pytest.raises(CheckpointError, match=r"(?s)expert 'deep'.*expert 'wide'"):
        check_compatible(Checkpoint.open(tiny_llama["base"]), bad)


def test_a_missing_tensor_is_named(copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]) -> None:
    folder = copy_of(tiny_llama["a"])
    edit_tensors(folder, lambda tensors: tensors.__delitem__("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"lacks model\.layers\.1\.mlp\.up_proj\.weight"):
        check_compatible(Checkpoint.open(tiny_llama["base"]), {"a": Checkpoint.open(folder)})


def test_tokens_numbered_otherwise_are_refused_but_renamed_added_ones_are_not(
    copy_of: Callable[[Path], Path], tiny_llama: dict[str, Path]
) -> None:
    base, folder = Checkpoint.open(tiny_llama["base"]), copy_of(tiny_llama["a"])
    text = (folder / "tokenizer.json").read_text()
    (folder / "tokenizer.json").write_text(text.replace('"<unk>"', '"<|im_start|>"'))
    check_compatible(base, {"a": Checkpoint.open(folder)})
    tokenizer = json.loads(text)
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(CheckpointError, match=r"numbers tokens otherwise than the base's: '[ab]' \d+ \(base \d+\)"):
        check_compatible(base, {"a": Checkpoint.open(folder)})


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_family(tmp_path_factory.mktemp("tied"), "llama", tied=True)


@pytest.fixture(scope="module")
def untied(tiny_llama: dict[str, Path]) -> dict[str, Path]:
    return tiny_llama


def store_head(folder: Path, change: float = 0.0) -> None:
    edit_tensors(
        folder,
        lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone() + change}),
    )


def test_a_tied_models_redundant_head_is_left_out(copy_of: Callable[[Path], Path], tied: dict[str, Path]) -> None:
    folder = copy_of(tied["a"])
    store_head(folder)
    base, expert = Checkpoint.open(tied["base"]), Checkpoint.open(folder)
    assert "lm_head.weight" not in expert.tensors
    assert base.head is None
    check_compatible(base, {"a": expert})


def test_a_config_that_doesnt_say_ties_as_its_architecture_does(
    copy_of: Callable[[Path], Path], tied: dict[str, Path], tmp_path: Path
) -> None:
    gemma = tiny_checkpoint(tmp_path / "gemma", "gemma")
    llama = copy_of(tied["a"])
    for folder in (gemma, llama):
        store_head(folder)
        edit_config(folder, tie_word_embeddings=...)
    assert Checkpoint.open(gemma).head is None
    assert Checkpoint.open(llama).head is not None


def test_a_head_that_differs_isnt_tied_whatever_the_config_says(
    copy_of: Callable[[Path], Path], tied: dict[str, Path]
) -> None:
    folder = copy_of(tied["a"])
    store_head(folder, change=0.5)
    expert = Checkpoint.open(folder)
    assert expert.head is not None
    with pytest.raises(CheckpointError, match="an output head of its own"):
        check_compatible(Checkpoint.open(tied["base"]), {"a": expert})


def test_a_tied_experts_head_is_its_embedding_where_the_base_has_one_of_its_own(
    tied: dict[str, Path], untied: dict[str, Path]
) -> None:
    base, expert = Checkpoint.open(untied["base"]), Checkpoint.open(tied["a"])
    check_compatible(base, {"a": expert})
    names = match_names(base, expert)
    assert names["lm_head.weight"] == "model.embed_tokens.weight"
    assert names["model.embed_tokens.weight"] == "model.embed_tokens.weight"
    assert list(names) == list(base.names)


@pytest.mark.parametrize("without", ["base", "a"])
@pytest.mark.parametrize(("architecture", "prefix"), [("gpt2", "transformer."), ("llama", "model.")])
def test_names_without_the_base_models_prefix_are_the_same_tensors(
    tmp_path: Path, without: str, architecture: str, prefix: str
) -> None:
    folders = tiny_family(tmp_path, architecture)

    def strip(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            tensors[name.removeprefix(prefix)] = tensors.pop(name)

    edit_tensors(folders[without], strip)
    models = {name: Checkpoint.open(folder) for name, folder in folders.items()}
    check_compatible(models["base"], {"a": models["a"]})
    for name, other in match_names(models["base"], models["a"]).items():
        assert name.removeprefix(prefix) == other.removeprefix(prefix)


def test_masks_that_old_releases_stored_are_no_tensors_of_the_model(tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "gpt2", "gpt2")
    before = Checkpoint.open(folder).names
    edit_tensors(
        folder, lambda tensors: tensors.update({"transformer.h.0.attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.bool)})
    )
    assert Checkpoint.open(folder).names == before

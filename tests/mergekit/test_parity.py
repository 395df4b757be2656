"""The same files run by mergekit itself and by evomerge: equal within rounding, method by method."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.materialise.folder import write_folder
from evomerge.mergekit.methods import BY_THEIRS, INERT_EVERYWHERE
from evomerge.mergekit.read import read_mergekit
from evomerge.mergekit.write import to_mergekit
from helpers.mergekit_files import assert_agree, by_evomerge, by_mergekit
from helpers.vocabulary import bpe, with_added, write_model

# Not "mergekit" alone, which this folder itself would answer to.
pytest.importorskip("mergekit.config")


# mergekit, its dependencies and the newest Python and transformers warn about each other.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


A, B, C, BASE = "a", "b", "c", "base"


TWO = {A: {"weight": 0.7}, B: {"weight": 0.4}}


DENSE = {A: {"weight": 0.7, "density": 0.6}, B: {"weight": 0.4, "density": 0.35}}


THINNED = {A: {"weight": 0.7, "density": 0.6, "gamma": 0.1}, B: {"weight": -0.2, "density": 0.8}}


FULL = {A: {"weight": 0.7, "density": 1.0}, B: {"weight": 0.4, "density": 1}}


CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any], bool]] = {
    "linear": ("linear", TWO, {}, False),
    "linear, not normalised": ("linear", TWO, {"normalize": False}, False),
    "linear, base among the models": ("linear", {A: {"weight": 0.7}}, {"weight": 0.2}, True),
    "task arithmetic": ("task_arithmetic", TWO, {"lambda": 0.8}, True),
    "task arithmetic, normalised": ("task_arithmetic", TWO, {"normalize": True, "int8_mask": True}, True),
    "task arithmetic, with what it doesn't use": ("task_arithmetic", DENSE, {"rescale": True}, True),
    "slerp": ("slerp", {A: {}}, {"t": 0.3}, True),
    "slerp, from a base listed second": ("slerp", {A: {}, BASE: {}}, {"t": 0.3}, True),
    "nuslerp": ("nuslerp", TWO, {}, True),
    "nuslerp, without base": ("nuslerp", TWO, {}, False),
    "nuslerp by rows": ("nuslerp", TWO, {"nuslerp_flatten": False}, True),
    "nuslerp by columns": ("nuslerp", TWO, {"nuslerp_flatten": False, "nuslerp_row_wise": True}, True),
    "multislerp": ("multislerp", {**TWO, C: {"weight": 0.2}}, {}, True),
    "multislerp, without base": ("multislerp", TWO, {"normalize_weights": False}, False),
    "karcher": ("karcher", {A: {}, B: {}, C: {}}, {"max_iter": 30, "tol": "1e-7"}, False),
    "model stock": ("model_stock", {A: {}, B: {}, C: {}}, {}, True),
    "model stock by rows": ("model_stock", {A: {}, B: {}}, {"filter_wise": True}, True),
    "ties": ("ties", DENSE, {"lambda": 1.2}, True),
    "ties, added up": ("ties", DENSE, {"normalize": False}, True),
    "dare, nothing dropped": ("dare_linear", FULL, {}, True),
    "dare with ties, nothing dropped": ("dare_ties", FULL, {"normalize": True, "rescale": False}, True),
    "della, nothing dropped": ("della", FULL, {"epsilon": 0.1}, True),
    "della added up, nothing dropped": ("della_linear", FULL, {"lambda": 0.5}, True),
    "breadcrumbs": ("breadcrumbs", THINNED, {"normalize": True}, True),
    "breadcrumbs, rescaled": ("breadcrumbs", THINNED, {"rescale": True}, True),
    "breadcrumbs with ties": ("breadcrumbs_ties", THINNED, {"lambda": 0.9}, True),
    "sce": ("sce", {A: {}, B: {}, C: {}}, {"select_topk": 0.4}, True),
    "ram": ("ram", {A: {}, B: {}}, {"epsilon": 0.01}, True),
    "ram plus": ("ramplus_tl", {A: {}, B: {}}, {"epsilon": 0.01, "r": 0.3, "alpha": 0.5}, True),
    "arcee fusion": ("arcee_fusion", {A: {}}, {}, True),
    "nearswap": ("nearswap", {A: {}}, {"t": 0.004}, True),
    "passthrough": ("passthrough", {A: {}}, {}, False),
    "passthrough, scaled": ("passthrough", {A: {"scale": [{"filter": "o_proj", "value": 0.5}]}}, {}, False),
}


def file(family: dict[str, Path], method: str, models: dict[str, Any], shared: dict[str, Any], based: bool) -> str:
    data: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(family[name]), "parameters": given} for name, given in models.items()],
        "parameters": shared,
        "dtype": "float32",
    }
    if based:
        data["base_model"] = str(family["base"])
    return yaml.safe_dump(data)


@pytest.mark.parametrize("case", CASES)
def test_a_merge_agrees_with_mergekit(case: str, family: dict[str, Path], tmp_path: Path) -> None:
    text = file(family, *CASES[case])
    # mergekit finds how many entries to drop at the bottom, evomerge how many to keep; and quartiles of
    # importance are rounded differently. An entry at the border may fall on the other side.
    odd = 2 / 32 if "breadcrumbs" in case else 1 / 1000 if case == "arcee fusion" else 0.0
    assert_agree(by_evomerge(text, tmp_path / "ours"), by_mergekit(text, tmp_path / "theirs"), odd=odd)


def test_an_adapter_agrees_with_mergekit(family: dict[str, Path], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(family["base"], dtype=torch.float32)
    model = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"]))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(tmp_path / "adapter")
    recipe = read_mergekit(
        yaml.safe_dump(
            {
                "merge_method": "ties",
                "base_model": str(family["base"]),
                "models": [
                    {
                        "model": f"{family['base']}+{tmp_path / 'adapter'}",
                        "parameters": {"weight": 0.8, "density": 0.5},
                    },
                    {"model": str(family[A]), "parameters": {"weight": 0.3, "density": 0.5}},
                ],
                "dtype": "float32",
            }
        )
    )
    ours = load_file(write_folder(recipe, tmp_path / "ours") / "model.safetensors")
    theirs = by_mergekit(to_mergekit(recipe), tmp_path / "theirs", lora_merge_cache=str(tmp_path / "cache"))
    # mergekit rounds the product to float32 before it ranks entries by magnitude.
    assert_agree(ours, theirs, odd=1 / 500)


def test_every_method_of_mergekit_has_a_counterpart_with_its_parameters_and_defaults() -> None:
    from mergekit.merge_methods.registry import registered_methods

    assert {method.spec.name for method in registered_methods()} == set(BY_THEIRS)
    for method in registered_methods():
        counterpart = BY_THEIRS[method.spec.name]
        defaults = {name: number.default for name, number in {**counterpart.per_model, **counterpart.shared}.items()}
        defaults |= {name: switch.default for name, switch in counterpart.switches.items()}
        if counterpart.folded:
            defaults |= {"lambda": 1.0, "normalize": False}
        for parameter in (*method.spec.shared_parameters, *method.spec.input_parameters):
            if parameter.name in {**counterpart.inert, **INERT_EVERYWHERE}:
                continue
            # A scale that isn't given is 1.
            theirs = None if parameter.required else 1.0 if parameter.name == "scale" else parameter.default
            assert defaults.pop(parameter.name) == theirs, (method.spec.name, parameter.name)
        assert not defaults


@pytest.fixture(scope="module")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A base and two experts with more tokens, added ones and words. mergekit would cut off a base's padding."""
    folder = tmp_path_factory.mktemp("speakers")
    return {
        "base": write_model(folder / "base", bpe(290), tied=False),
        A: write_model(folder / A, with_added(bpe(310), "<|x|>", "<|a|>"), seed=1, tied=False),
        B: write_model(folder / B, with_added(bpe(290), "<|b|>", "<|x|>"), seed=2, tied=False, rows=320),
    }


@pytest.mark.parametrize("source", ["base", "union"])
@pytest.mark.parametrize("case", ["task arithmetic", "ties", "linear, base among the models", "slerp"])
def test_vocabularies_agree_with_mergekit_token_by_token(
    case: str, source: str, speakers: dict[str, Path], tmp_path: Path
) -> None:
    data = yaml.safe_load(file(speakers, *CASES[case]))
    text = yaml.safe_dump({**data, "tokenizer_source": source})
    ours, theirs = by_evomerge(text, tmp_path / "ours"), by_mergekit(text, tmp_path / "theirs")
    vocabularies = [AutoTokenizer.from_pretrained(tmp_path / side).get_vocab() for side in ("ours", "theirs")]
    assert vocabularies[0].keys() == vocabularies[1].keys()
    order = list(vocabularies[0])
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        # mergekit numbers new tokens otherwise.
        for found, vocabulary in zip((ours, theirs), vocabularies, strict=True):
            found[name] = found[name][[vocabulary[token] for token in order]]
    assert_agree(ours, theirs)
    written = to_mergekit(read_mergekit(text))
    assert read_mergekit(written) == read_mergekit(text)

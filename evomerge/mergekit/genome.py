"""Searches of mergekit-evolve as configs to start from.

A genome file says what is searched and on which tasks. What has no counterpart here is said in comments.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from evomerge.config.config import Config
from evomerge.errors import ConfigError, RecipeError, shown, unknown
from evomerge.files.outside import read_json
from evomerge.mergekit.documents import mapping, named, parsed, reference, sequence
from evomerge.mergekit.settings import to_switch, to_whole
from evomerge.methods import METHODS
from evomerge.methods.base import MergeMethod
from evomerge.models.architecture import configured_depth
from evomerge.models.hub import whereabouts
from evomerge.recipe.group import Kind
from evomerge.recipe.sources import ModelReference

_METHODS = ("linear", "task_arithmetic", "ties", "dare_ties", "slerp")
_TOP = {
    "genome", "tasks", "limit", "num_fewshot", "shuffle", "random_init", "apply_chat_template", "fewshot_as_multiturn",
}  # fmt: skip
_GENOME = {
    "models", "merge_method", "base_model", "tokenizer_source", "layer_granularity", "normalize",
    "allow_negative_weights", "filters", "smooth",
}  # fmt: skip
_KIND_OF_FILTER: Mapping[str, Kind] = {
    "self_attn": "attention",
    "attn": "attention",
    "attention": "attention",
    "mlp": "mlp",
    "feed_forward": "mlp",
    "norm": "norm",
    "layernorm": "norm",
    "embed_tokens": "embedding",
    "embed": "embedding",
    "lm_head": "head",
}
_HEAD = """\
# From a mergekit-evolve file. Check it with `evomerge check`, run it with `evomerge search`.
# Other keys, with their meaning and defaults, are in the config that `evomerge init` writes.
"""


def genome_to_config(
    text: str, *, where: str = "genome file", folder: Path | None = None, num_layers: int | None = None
) -> str:
    """The config of a search like the one that a mergekit-evolve file describes.

    Args:
        text: the file's YAML.
        where: what to call the file in messages.
        folder: where local models are looked for after the current folder.
        num_layers: number of layers of the models; None looks into a model that is on this machine.

    Returns: YAML text that `Config.from_yaml` accepts, with comments on what couldn't be taken over.

    Raises: ConfigError with the place in the file.
    """
    try:
        return _config(text, where, folder, num_layers)
    except RecipeError as error:
        raise ConfigError(str(error)) from error


def _config(text: str, where: str, folder: Path | None, num_layers: int | None) -> str:
    data = parsed(text, where)
    if isinstance(data, Mapping) and "merge_method" in data and "genome" not in data:
        raise ConfigError(f"{where}: is a merge file, not a genome; run it with: evomerge merge {where} OUT")
    top = mapping(data, where, _TOP)
    genome = mapping(top.get("genome"), f"{where}: genome", _GENOME)
    method = genome.get("merge_method")
    if method not in _METHODS:
        raise ConfigError(f"{where}: genome.merge_method: {unknown('mergekit-evolve method', str(method), _METHODS)}")
    notes: list[str] = []
    base, experts = _models(genome, method, where, folder, notes)
    depth = num_layers if num_layers is not None else _depth((base, *experts.values()))
    config = {
        "models": {
            "base": _written(base),
            "experts": {name: _written(model) for name, model in experts.items()},
            **_vocabulary(genome, notes),
        },
        "merge": {"method": method, **_options(genome, method, where, notes)},
        "space": _space(genome, method, depth, where, notes),
        "benchmark": _benchmark(top, where, notes),
        "search": {"evaluations": 200},
    }
    notes.append("budget and first step (--max-fevals and --sigma0): set search.evaluations and search.step_size")
    if _flag(top, "random_init", where):
        notes.append("random_init: the search starts from the best uniform merge (search.initial)")
    comments = "".join(f"# - {note}.\n" for note in notes)
    made = (
        f"{_HEAD}# Not taken over as it was:\n{comments}\n{yaml.safe_dump(config, sort_keys=False, allow_unicode=True)}"
    )
    Config.from_yaml(made, where=where)
    return made


def _models(
    genome: Mapping[str, Any], method: str, where: str, folder: Path | None, notes: list[str]
) -> tuple[ModelReference, dict[str, ModelReference]]:
    models = [
        reference(model, f"{where}: genome.models[{index}]", folder)
        for index, model in enumerate(sequence(genome.get("models"), f"{where}: genome.models"))
    ]
    given = genome.get("base_model")
    base = models[0] if given is None else reference(given, f"{where}: genome.base_model", folder)
    if _method(method).base == "required":
        if given is None:
            raise ConfigError(f"{where}: genome.base_model: missing; {method} needs it")
        models = [model for model in models if model != base]
    elif given is None:
        notes.append("base_model: not given; the first model stands for it, and gives config and tokenizer")
    if not models:
        raise ConfigError(f"{where}: genome.models: name at least one beside the base")
    return base, named(models)


def _vocabulary(genome: Mapping[str, Any], notes: list[str]) -> dict[str, str]:
    source = genome.get("tokenizer_source")
    if source in ("base", "union"):
        return {"vocabulary": source}
    if source is not None:
        notes.append(f"tokenizer_source {source}: models.vocabulary is base or union; all models must share one here")
    return {}


def _method(name: str) -> type[MergeMethod]:
    method: type[MergeMethod] = METHODS.get(name)
    return method


def _depth(models: tuple[ModelReference, ...]) -> int | None:
    """Number of layers, from the config of the first model that is on this machine."""
    for model in models:
        found = whereabouts(model).path
        if found is not None and (found / "config.json").is_file():
            return configured_depth(read_json(found / "config.json", ConfigError))
    return None


def _written(model: ModelReference) -> Any:
    return model.path if model.revision is None else {"path": model.path, "revision": model.revision}


def _options(genome: Mapping[str, Any], method: str, where: str, notes: list[str]) -> dict[str, Any]:
    known = {option.name for option in _method(method).options}
    options: dict[str, Any] = {"rescale": "l1"} if "rescale" in known else {}
    if genome.get("normalize") is not None:
        normalize = _flag(genome, "normalize", f"{where}: genome")
        if "normalize" in known:
            options["normalize"] = normalize
        elif normalize:
            notes.append(f"normalize: {method} has no such option")
    return {"options": options} if options else {}


def _space(genome: Mapping[str, Any], method: str, depth: int | None, where: str, notes: list[str]) -> dict[str, Any]:
    layers = to_whole(genome.get("layer_granularity", 0), f"{where}: genome.layer_granularity")
    if depth is not None and layers > 0 and depth % layers:
        raise ConfigError(f"{where}: genome.layer_granularity: {layers} layers don't divide the models' {depth}")
    smooth = _flag(genome, "smooth", f"{where}: genome")
    blocks = None if depth is None or layers < 1 else depth // layers
    space: dict[str, Any] = {"granularity": "all"}
    if layers > 0 and blocks is None and (layers > 1 or smooth):
        space = {"granularity": "blocks", "blocks": 4}
        wanted = "granularity layer with smooth" if smooth else "blocks"
        notes.append(f"layer_granularity {layers}: set space to {wanted} = the number of layers / {layers}")
    elif layers == 1 or (blocks is not None and blocks == depth):
        space = {"granularity": "layer"}
    elif blocks is not None and smooth and blocks > 1:
        space = {"granularity": "layer", "smooth": blocks}
    elif blocks is not None and blocks > 1:
        space = {"granularity": "blocks", "blocks": blocks}
    kinds: list[str] = []
    filters = genome.get("filters")
    for text in [] if filters is None else sequence(filters, f"{where}: genome.filters"):
        kind = _KIND_OF_FILTER.get(str(text).strip("."))
        if kind is None:
            notes.append(f"filter {text!r}: no kind of module; space.kinds are {', '.join(_kinds())}")
        elif kind not in kinds:
            kinds.append(kind)
    if kinds:
        space["kinds"] = kinds
    if _flag(genome, "allow_negative_weights", f"{where}: genome") and method != "slerp":
        space["parameters"] = {"weight": {"low": -1.0}}
    return space


def _kinds() -> list[str]:
    return list(dict.fromkeys(_KIND_OF_FILTER.values()))


def _benchmark(top: Mapping[str, Any], where: str, notes: list[str]) -> dict[str, Any]:
    tasks = []
    for index, entry in enumerate(sequence(top.get("tasks"), f"{where}: tasks")):
        place = f"{where}: tasks[{index}]"
        task = mapping({"name": entry} if isinstance(entry, str) else entry, place, {"name", "weight", "metric"})
        if not isinstance(task.get("name"), str):
            raise ConfigError(f"{place}.name: expected a task's name, got {shown(task.get('name'))}")
        weight = task.get("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not weight > 0:
            raise ConfigError(f"{place}.weight: {weight!r}: a weight is a number above 0; scores are higher for better")
        shots = top.get("num_fewshot")
        few = {} if shots is None else {"num_fewshot": to_whole(shots, f"{where}: num_fewshot")}
        tasks.append({"task": task["name"], "metric": task.get("metric", "acc,none"), "weight": weight, **few})
    chat = _flag(top, "apply_chat_template", where, default=True)
    if chat and not _flag(top, "fewshot_as_multiturn", where, default=True):
        notes.append("fewshot_as_multiturn: with a chat template, examples always are turns of their own")
    if _flag(top, "shuffle", where):
        notes.append("shuffle: items are drawn at random, by benchmark.seed")
    benchmark: dict[str, Any] = {"tasks": tasks, "apply_chat_template": chat}
    if top.get("limit") is not None:
        benchmark["splits"] = {
            "search": {"items": to_whole(top["limit"], f"{where}: limit")},
            "validation": {"fraction": 0.3}, "test": {"fraction": 0.3},
        }  # fmt: skip
    notes.append(
        "items, all of which guided the search: parts are kept to choose and to test the winner (benchmark.splits)"
    )
    return benchmark


def _flag(data: Mapping[str, Any], key: str, where: str, *, default: bool = False) -> bool:
    separator = "." if where.endswith("genome") else ": "
    return to_switch(data.get(key, default), f"{where}{separator}{key}")

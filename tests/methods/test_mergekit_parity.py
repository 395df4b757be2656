"""The same merges by mergekit, on whole small models, within the rounding of its float32 arithmetic.

Where the two differ on purpose (all of it is in docs/mergekit.md), the case says how our options are set to
match, or what is left out:

- ties, breadcrumbs: entries that tie with the last one kept are all kept; mergekit keeps an arbitrary part.
- dare, della: masks are random in both, from different generators, so only a density of 1 compares. By
  default we divide by the probability of being kept, as the papers do, where mergekit restores the L1 norm.
- della: where density ± epsilon leaves [0, 1] we narrow epsilon; mergekit refuses.
- nuslerp: with a task vector of zero we interpolate linearly; mergekit as if at a right angle.
- model_stock: the step is kept in [0, 1]; `clamp: false` is mergekit's.
- sce: weights follow the energies however small; mergekit's are equal where these add up to less than 10⁻⁶.
- arcee_fusion: quartiles are exact; mergekit samples tensors of more than a million entries.
- karcher, multi_slerp: averaged linearly where directions cancel; mergekit refuses, or divides by almost zero.
- slerp, karcher: mergekit counts the base as one of the models; ours are the experts alone.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from evomerge.materialise.merger import Merger
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.open import Models
from evomerge.recipe.group import Group
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.testing.models import tiny_family
from helpers.merging import streamed

mergekit_config = pytest.importorskip("mergekit.config", reason="mergekit isn't installed")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
    """One merge in both languages."""

    method: str
    theirs: str
    coefficients: dict[str, Any]
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    per_model: dict[str, list[float]] = dataclasses.field(default_factory=dict)
    parameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    experts: int = 3
    base: bool = True
    first_is_base: bool = False


WEIGHTS = [0.7, 0.2, 0.5]
DENSITIES = [0.3, 0.6, 0.9]


def sparse(method: str, *, election: bool, densities: list[float], options: dict[str, Any], **more: Any) -> Case:
    scale = {"scale": 1.3} if election else {}
    normalize = options.get("normalize", False)
    return Case(
        method=method,
        theirs=method,
        coefficients={"weight": WEIGHTS, "density": densities, **scale, **more},
        options=options,
        per_model={"weight": WEIGHTS, "density": densities, **more},
        parameters={
            **({"lambda": 1.3, "normalize": normalize} if election else {"normalize": False}),
            "rescale": options.get("rescale", "none") == "l1",
        },
    )


ONES = [1.0, 1.0, 1.0]
CASES = {
    "linear": Case(
        method="linear", theirs="linear", coefficients={"weight": WEIGHTS}, per_model={"weight": WEIGHTS}, base=False
    ),
    "linear, not normalised": Case(
        method="linear",
        theirs="linear",
        coefficients={"weight": WEIGHTS},
        options={"normalize": False},
        per_model={"weight": WEIGHTS},
        parameters={"normalize": False},
        base=False,
    ),
    "task_arithmetic": Case(
        method="task_arithmetic",
        theirs="task_arithmetic",
        coefficients={"weight": WEIGHTS},
        per_model={"weight": WEIGHTS},
    ),
    "slerp": Case(
        method="slerp", theirs="slerp", coefficients={"t": 0.3}, parameters={"t": 0.3}, experts=2, first_is_base=True
    ),
    "slerp between unrelated models": Case(
        method="slerp", theirs="slerp", coefficients={"t": 0.6}, parameters={"t": 0.6}, experts=2, first_is_base=True
    ),
    "nuslerp": Case(
        method="nuslerp",
        theirs="nuslerp",
        coefficients={"weight": WEIGHTS[:2]},
        per_model={"weight": WEIGHTS[:2]},
        experts=2,
    ),
    "nuslerp by rows": Case(
        method="nuslerp",
        theirs="nuslerp",
        coefficients={"weight": WEIGHTS[:2]},
        options={"along": "rows"},
        per_model={"weight": WEIGHTS[:2]},
        parameters={"nuslerp_flatten": False},
        experts=2,
    ),
    "nuslerp by columns": Case(
        method="nuslerp",
        theirs="nuslerp",
        coefficients={"weight": WEIGHTS[:2]},
        options={"along": "columns", "origin": "zero"},
        per_model={"weight": WEIGHTS[:2]},
        parameters={"nuslerp_flatten": False, "nuslerp_row_wise": True},
        experts=2,
        base=False,
    ),
    "multi_slerp": Case(
        method="multi_slerp", theirs="multislerp", coefficients={"weight": WEIGHTS}, per_model={"weight": WEIGHTS}
    ),
    "multi_slerp of weights": Case(
        method="multi_slerp",
        theirs="multislerp",
        coefficients={"weight": WEIGHTS},
        options={"origin": "zero", "normalize": False},
        per_model={"weight": WEIGHTS},
        parameters={"normalize_weights": False},
        base=False,
    ),
    "karcher": Case(method="karcher", theirs="karcher", coefficients={"weight": ONES}, base=False),
    "model_stock": Case(
        method="model_stock", theirs="model_stock", coefficients={"scale": 1.0}, options={"clamp": False}
    ),
    "model_stock by rows": Case(
        method="model_stock",
        theirs="model_stock",
        coefficients={"scale": 1.0},
        options={"clamp": False, "along": "rows"},
        parameters={"filter_wise": True},
    ),
    "ties": sparse("ties", election=True, densities=DENSITIES, options={"normalize": True}),
    "ties, summed": sparse("ties", election=True, densities=DENSITIES, options={"normalize": False}),
    "breadcrumbs": sparse(
        "breadcrumbs", election=False, densities=DENSITIES, options={"rescale": "none"}, gamma=[0.01, 0.05, 0.2]
    ),
    "breadcrumbs, L1": sparse(
        "breadcrumbs", election=False, densities=DENSITIES, options={"rescale": "l1"}, gamma=[0.01, 0.05, 0.2]
    ),
    "breadcrumbs_ties": sparse(
        "breadcrumbs_ties",
        election=True,
        densities=DENSITIES,
        options={"rescale": "none", "normalize": True},
        gamma=[0.01, 0.05, 0.2],
    ),
    "dare_linear, all kept": sparse("dare_linear", election=False, densities=ONES, options={"rescale": "l1"}),
    "dare_ties, all kept": sparse(
        "dare_ties", election=True, densities=ONES, options={"rescale": "l1", "normalize": False}
    ),
    "della, all kept": sparse("della", election=True, densities=ONES, options={"rescale": "l1", "normalize": True}),
    "della_linear, all kept": sparse("della_linear", election=False, densities=ONES, options={"rescale": "l1"}),
    "sce": Case(
        method="sce", theirs="sce", coefficients={"density": 0.4, "scale": 1.0}, parameters={"select_topk": 0.4}
    ),
    "arcee_fusion": Case(
        method="arcee_fusion", theirs="arcee_fusion", coefficients={"weight": 1.0, "selectivity": 1.5}, experts=1
    ),
    "nearswap": Case(method="nearswap", theirs="nearswap", coefficients={"t": 0.01}, parameters={"t": 0.01}, experts=1),
    "ram": Case(
        method="ram",
        theirs="ram",
        coefficients={"weight": ONES},
        options={"epsilon": 0.02},
        parameters={"epsilon": 0.02},
    ),
    "ram_plus": Case(
        method="ram_plus",
        theirs="ramplus_tl",
        coefficients={"weight": ONES, "r": 0.3, "alpha": 0.9},
        options={"epsilon": 0.03},
        parameters={"epsilon": 0.03, "r": 0.3, "alpha": 0.9},
    ),
    "passthrough": Case(
        method="passthrough", theirs="passthrough", coefficients={}, options={"model": "a"}, experts=1, base=False
    ),
    "scaled": Case(
        method="scaled",
        theirs="passthrough",
        coefficients={"scale": 0.8},
        options={"model": "a"},
        parameters={"scale": 0.8},
        experts=1,
        base=False,
    ),
}


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny_family(tmp_path_factory.mktemp("family"), "llama", ("a", "b", "c"), scale=0.05)


@pytest.fixture(scope="module")
def strangers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models far enough from each other for arcs to bend."""
    return tiny_family(tmp_path_factory.mktemp("strangers"), "llama", ("a", "b", "c"), scale=1.0)


def by_mergekit(case: Case, models: dict[str, Path], out: Path) -> dict[str, torch.Tensor]:
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from safetensors.torch import load_file

    names = ("a", "b", "c")[: case.experts]
    merged_models = [
        {"model": str(models[name]), "parameters": {key: value[index] for key, value in case.per_model.items()}}
        for index, name in enumerate(names)
    ]
    config = {
        "merge_method": case.theirs,
        "models": merged_models,
        "parameters": case.parameters,
        "dtype": "float32",
        **({"base_model": str(models["base"])} if case.base else {}),
        **({"base_model": str(models["a"])} if case.first_is_base else {}),
    }
    run_merge(
        mergekit_config.MergeConfiguration.model_validate(config),
        out_path=str(out),
        options=MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=0),
    )
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(out.glob("*.safetensors")):
        tensors.update(load_file(file))
    return tensors


def by_evomerge(case: Case, models: dict[str, Path]) -> dict[str, torch.Tensor]:
    names = ("a", "b", "c")[: case.experts]
    recipe = Recipe(
        base=ModelReference(path=str(models["base"])),
        experts={name: ModelReference(path=str(models[name])) for name in names},
        method=case.method,
        options=case.options,
        dtype="float32",
        groups=(
            Group(
                name="all",
                coefficients={
                    key: dict(zip(names, value, strict=True)) if isinstance(value, list) else value
                    for key, value in case.coefficients.items()
                },
            ),
        ),
    )
    merger = Merger(Models(Checkpoint.open(models["base"]), {name: Checkpoint.open(models[name]) for name in names}))
    return streamed(merger, recipe)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # mergekit's own
@pytest.mark.parametrize("name", CASES)
def test_whole_models_equal_those_of_mergekit(
    name: str, family: dict[str, Path], strangers: dict[str, Path], tmp_path: Path
) -> None:
    case, models = CASES[name], strangers if "unrelated" in name else family
    ours, theirs = by_evomerge(case, models), by_mergekit(case, models, tmp_path / "merged")
    assert set(ours) == set(theirs)
    for tensor, expected in theirs.items():
        torch.testing.assert_close(
            ours[tensor], expected, rtol=1e-5, atol=2e-6, msg=lambda text, at=tensor: f"{at}: {text}"
        )

"""Which of mergekit's merge methods and parameters correspond to ours, in both directions.

Defaults are mergekit's own, so that a file means here what it means there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Setting = bool | int | float | str

INERT_EVERYWHERE: Mapping[str, str] = {
    "int8_mask": "only chooses how mergekit stores masks while it merges",
    "embed_slerp": "chose how earlier releases of mergekit averaged rows of embeddings",
}
"""Parameters that change no result in mergekit, whatever the method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A numeric parameter that may differ between tensors: our coefficient and mergekit's default (None: required)."""

    ours: str
    default: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """A setting of the whole merge: our option, mergekit's default, and our value for each of mergekit's.

    `values` None passes values through; `ours` None means that only the values listed can be had.
    """

    ours: str | None
    default: Setting
    values: Mapping[Setting, Setting | None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """One method in both vocabularies.

    Attributes:
        theirs: mergekit's name.
        ours: our name.
        base: whether mergekit needs a base model, takes its origin from one if given, or merges it like any other.
        per_model: parameters of each model that is merged, by mergekit's name.
        shared: parameters of the merge as a whole, by mergekit's name.
        switches: settings of the merge as a whole, by mergekit's name.
        folded: whether mergekit's `lambda` and `normalize` are factors of the weights here.
        fixed: our coefficients that mergekit has no parameter for, at the values that it amounts to.
        options: our options that mergekit has no parameter for, likewise.
        inert: parameters that mergekit takes for this method and that change nothing, with the reason.
        random: whether entries are drawn at random, so that results agree in distribution only.
    """

    theirs: str
    ours: str
    base: Literal["required", "optional", "ignored"]
    per_model: Mapping[str, Number] = field(default_factory=dict)
    shared: Mapping[str, Number] = field(default_factory=dict)
    switches: Mapping[str, Switch] = field(default_factory=dict)
    folded: bool = False
    fixed: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, Setting] = field(default_factory=dict)
    inert: Mapping[str, str] = field(default_factory=dict)
    random: bool = False

    @property
    def takes_absent(self) -> bool:
        """Whether a model may be missing from a slice: one of weight 0 then changes nothing."""
        return "weight" in self.per_model and self.theirs not in {"nuslerp", "multislerp"}


_WEIGHT = {"weight": Number(ours="weight")}
_DENSITY = {"density": Number(ours="density", default=1.0)}
_GAMMA = {"gamma": Number(ours="gamma", default=0.01)}
_EPSILON = {"epsilon": Number(ours="epsilon", default=0.15)}
_LAMBDA = {"lambda": Number(ours="scale", default=1.0)}
_WEIGHTED: Mapping[str, Setting] = {"election": "weighted"}
_RESTORED: Mapping[Setting, Setting | None] = {True: "l1", False: "none"}


def _normalize(default: bool) -> dict[str, Switch]:
    return {"normalize": Switch(ours="normalize", default=default)}


def _rescale(default: bool) -> dict[str, Switch]:
    return {"rescale": Switch(ours="rescale", default=default, values=_RESTORED)}


COUNTERPARTS: tuple[Counterpart, ...] = (
    Counterpart(theirs="linear", ours="linear", base="ignored", per_model=_WEIGHT, switches=_normalize(True)),
    Counterpart(
        theirs="task_arithmetic",
        ours="task_arithmetic",
        base="required",
        per_model=_WEIGHT,
        folded=True,
        inert={
            "density": "nothing is dropped by this method",
            "rescale": "nothing is dropped by this method",
        },
    ),
    Counterpart(
        theirs="slerp",
        ours="slerp",
        base="required",
        shared={"t": Number(ours="t")},
        options={"threshold": 0.9995},
    ),
    Counterpart(
        theirs="nuslerp",
        ours="nuslerp",
        base="optional",
        per_model=_WEIGHT,
        switches={
            "nuslerp_flatten": Switch(ours="along", default=True),
            "nuslerp_row_wise": Switch(ours="along", default=False),
        },
    ),
    Counterpart(
        theirs="multislerp",
        ours="multi_slerp",
        base="optional",
        per_model=_WEIGHT,
        switches={"normalize_weights": Switch(ours="normalize", default=True)},
        inert={"eps": "only keeps divisions from failing"},
    ),
    Counterpart(
        theirs="karcher",
        ours="karcher",
        base="ignored",
        switches={
            "max_iter": Switch(ours="max_iterations", default=10),
            "tol": Switch(ours="tolerance", default=1e-5),
        },
        fixed={"weight": 1.0},
        options={"origin": "zero"},
    ),
    Counterpart(
        theirs="model_stock",
        ours="model_stock",
        base="required",
        switches={"filter_wise": Switch(ours="along", default=False, values={False: "tensor", True: "rows"})},
        fixed={"scale": 1.0},
        options={"clamp": False},
    ),
    Counterpart(
        theirs="ties",
        ours="ties",
        base="required",
        per_model={**_WEIGHT, **_DENSITY},
        shared=_LAMBDA,
        switches={**_normalize(True), "rescale": Switch(ours=None, default=False, values={False: None})},
        options={**_WEIGHTED, "trim": "tensor"},
    ),
    Counterpart(
        theirs="dare_linear",
        ours="dare_linear",
        base="required",
        per_model={**_WEIGHT, **_DENSITY},
        switches=_rescale(True),
        folded=True,
        random=True,
    ),
    Counterpart(
        theirs="dare_ties",
        ours="dare_ties",
        base="required",
        per_model={**_WEIGHT, **_DENSITY},
        shared=_LAMBDA,
        switches={**_normalize(False), **_rescale(True)},
        options=_WEIGHTED,
        random=True,
    ),
    Counterpart(
        theirs="della_linear",
        ours="della_linear",
        base="required",
        per_model={**_WEIGHT, **_DENSITY, **_EPSILON},
        switches=_rescale(True),
        folded=True,
        random=True,
    ),
    Counterpart(
        theirs="della",
        ours="della",
        base="required",
        per_model={**_WEIGHT, **_DENSITY, **_EPSILON},
        shared=_LAMBDA,
        switches={**_normalize(True), **_rescale(True)},
        options=_WEIGHTED,
        random=True,
    ),
    Counterpart(
        theirs="breadcrumbs",
        ours="breadcrumbs",
        base="required",
        per_model={**_WEIGHT, **_DENSITY, **_GAMMA},
        switches=_rescale(False),
        folded=True,
    ),
    Counterpart(
        theirs="breadcrumbs_ties",
        ours="breadcrumbs_ties",
        base="required",
        per_model={**_WEIGHT, **_DENSITY, **_GAMMA},
        shared=_LAMBDA,
        switches={**_normalize(False), **_rescale(False)},
        options=_WEIGHTED,
    ),
    Counterpart(
        theirs="sce",
        ours="sce",
        base="required",
        shared={"select_topk": Number(ours="density", default=1.0)},
        fixed={"scale": 1.0},
    ),
    Counterpart(
        theirs="ram",
        ours="ram",
        base="required",
        switches={"epsilon": Switch(ours="epsilon", default=1e-5)},
        fixed={"weight": 1.0},
    ),
    Counterpart(
        theirs="ramplus_tl",
        ours="ram_plus",
        base="required",
        shared={"r": Number(ours="r", default=0.1), "alpha": Number(ours="alpha", default=0.2)},
        switches={"epsilon": Switch(ours="epsilon", default=1e-5)},
        fixed={"weight": 1.0},
    ),
    Counterpart(
        theirs="arcee_fusion",
        ours="arcee_fusion",
        base="required",
        fixed={"weight": 1.0, "selectivity": 1.5},
    ),
    Counterpart(theirs="nearswap", ours="nearswap", base="required", shared={"t": Number(ours="t")}),
    Counterpart(
        theirs="passthrough",
        ours="scaled",
        base="ignored",
        per_model={"scale": Number(ours="scale", default=1.0)},
    ),
)

BY_THEIRS = {counterpart.theirs: counterpart for counterpart in COUNTERPARTS}
BY_OURS = {counterpart.ours: counterpart for counterpart in COUNTERPARTS}

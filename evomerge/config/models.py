"""`models:`, the base and the experts."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from evomerge.config.section import Section
from evomerge.errors import ConfigError, unknown
from evomerge.files.places import YAML_ENDS, is_folder, local
from evomerge.recipe.align import Align, asked_besides, spec_content
from evomerge.recipe.sources import ModelReference, Sources, VocabularyPolicy


def key_of(name: str) -> str:
    """The key of a model in a config, "base" or an expert."""
    return "models.base" if name == "base" else f"models.experts.{name}"


class ModelConfig(Section):
    """A model: a local folder in Hugging Face layout, a hub id with an optional revision, or a recipe's file."""

    short = str

    path: str = Field(min_length=1)
    """A local folder in Hugging Face layout, a hub id, or a recipe or mergekit file, which a search merges first."""
    revision: str | None = None
    """A branch, tag or commit on the hub."""

    @model_validator(mode="before")
    @classmethod
    def _accept_a_bare_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    def reference(self) -> ModelReference:
        """The same, as recipes write it."""
        return ModelReference(path=self.path, revision=self.revision)


class AlignConfig(Section):
    """How models trained apart are brought together before they are merged."""

    method: str = "weight_matching"
    """How maps are found, such as `weight_matching`."""
    options: dict[str, Any] = Field(default_factory=dict)
    """The method's options by name."""
    reference: str = "base"
    """The model that stays as it is, `base` or an expert; the others are brought to it."""
    residual: Literal["none", "permutation", "signed", "orthogonal"] | None = None
    """What may act on the residual stream; `orthogonal` folds the norms, and unties the head. None: the most that
    keeps the models stored as they are."""
    heads: bool = True
    """Whether attention heads may change places."""
    rotations: bool = True
    """Whether heads may be turned inside."""
    hidden: bool = True
    """Whether hidden units may change places."""
    seed: int = 0
    """Of what is random in the method."""
    spec: dict[str, Any] | None = None
    """A spec of your own instead of the architecture's: a YAML or JSON file, or what it says."""

    @field_validator("spec", mode="before", json_schema_input_type=str | dict[str, Any] | None)
    @classmethod
    def _read_a_file(cls, value: Any) -> Any:
        return spec_content(value, ConfigError)

    @model_validator(mode="after")
    def _one_word_on_symmetries(self) -> AlignConfig:
        if (wrong := asked_besides(self.model_dump())) is not None:
            raise ValueError(wrong)
        return self

    def align(self) -> Align:
        """The same, as recipes write it."""
        return Align(**self.model_dump())


class ModelsConfig(Section):
    """The base that the experts were fine-tuned from, and the experts by name."""

    base: ModelConfig
    """The model that the experts were fine-tuned from."""
    experts: dict[str, ModelConfig] = Field(min_length=1)
    """The models to merge, by names of your own, in the order in which recipes list them."""
    vocabulary: VocabularyPolicy = "same"
    """Whose tokens the merge has: `same`, all models must agree; `base`, the base's; `union`, those of all models."""
    slices: tuple[dict[str, tuple[int, int]], ...] = ()
    """The layers of the merge in order, if not those of the base: for each slice one or more models (`base` or an
    expert), each with its first and last layer, both included. Models that a slice doesn't name take no part in it."""

    def sources(self) -> Sources:
        """The same, as recipes and workers take it."""
        return Sources(
            base=self.base.reference(),
            experts={name: model.reference() for name, model in self.experts.items()},
            vocabulary=self.vocabulary,
            slices=self.slices,
            head=self.head,
            align=None if self.align is None else self.align.align(),
        )

    @property
    def recipes(self) -> dict[str, Path]:
        """The models that are files of merges, "base" or experts, each with its file."""
        references = self.sources().references
        paths = {name: local(reference.path) for name, reference in references.items()}
        return {name: path for name, path in paths.items() if path.name.endswith(YAML_ENDS) and not is_folder(path)}

    head: str | None = None
    """`base` or an expert, whose output head and labels the merge has as they are; None: heads are merged like all
    else. Then the others' heads may be of any size, and tasks can be scored with a head each."""

    align: AlignConfig | None = None
    """How models that were trained apart, and not from the base, are brought together first; None: they aren't."""

    @model_validator(mode="after")
    def _aligned_with_a_known_model(self) -> ModelsConfig:
        if self.align is not None and self.align.reference not in {"base", *self.experts}:
            raise ValueError(f"align.reference: {unknown('model', self.align.reference, ('base', *self.experts))}")
        if self.align is not None and self.vocabulary != "same":
            raise ValueError("align: needs models of one vocabulary; leave out vocabulary, or align")
        return self

    @model_validator(mode="after")
    def _head_of_a_known_model(self) -> ModelsConfig:
        if self.head is not None and self.head not in {"base", *self.experts}:
            raise ValueError(f"head: {unknown('model', self.head, ('base', *self.experts))}")
        return self

    @model_validator(mode="after")
    def _slices_of_known_models(self) -> ModelsConfig:
        for index, part in enumerate(self.slices):
            if not part:
                raise ValueError(f"slices[{index}]: name at least one model with its layers")
            for name, (first, last) in part.items():
                if name != "base" and name not in self.experts:
                    raise ValueError(f"slices[{index}]: {unknown('model', name, ('base', *self.experts))}")
                if not 0 <= first <= last:
                    raise ValueError(f"slices[{index}].{name}: expected [first, last], both included")
        return self

    @field_validator("experts")
    @classmethod
    def _plain_names(cls, experts: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        for name in experts:
            if not name.replace("_", "").replace("-", "").isalnum() or name in {"base", "uniform", "winner", "mean"}:
                raise ValueError(
                    f"expert name {name!r}: use letters, digits, '-' and '_'; base, uniform, winner and mean are taken"
                )
        return experts

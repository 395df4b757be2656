"""Models that a config gives as recipes: looked at by names and shapes, and merged once before a search starts.

Knows recipes, runs' folders and what was merged from what. Does not know how a search goes on.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import yaml

from evomerge.config.config import Config
from evomerge.config.models import key_of
from evomerge.errors import (
    AlignmentError,
    CheckpointError,
    ConfigError,
    EvomergeError,
    MergeError,
    RecipeError,
    ResumeError,
    RunError,
    listed,
)
from evomerge.files.atomic import read_json, write_atomically, write_json
from evomerge.files.fingerprint import changed
from evomerge.files.outside_yaml import parse_documents
from evomerge.files.places import is_folder, is_there
from evomerge.mergekit.several import files_of
from evomerge.models.hub import content_files, resolve
from evomerge.recipe.portable import is_local, portable
from evomerge.recipe.recipe import Recipe
from evomerge.recipe.sources import ModelReference
from evomerge.run.directory import refuse_foreign
from evomerge.run.merged import MERGED, in_place, with_folders
from evomerge.run.observer import Observer
from evomerge.score.numbers import size
from evomerge.study.check_merge import Fetch, MergesFound, look_at_merges
from evomerge.study.each_minute import EachMinute
from evomerge.study.experiment import open_experiment
from evomerge.study.inputs import fingerprints_of
from evomerge.study.merge import merge_each

_OF_RECIPES = (RecipeError, CheckpointError, MergeError, AlignmentError)


@dataclass(frozen=True, slots=True, kw_only=True)
class SeenRecipes:
    """What the models that a config gives as recipes will be."""

    given: Config
    """With the recipes."""
    config: Config
    """With outlines in the place of those that could be looked at."""
    found: dict[str, MergesFound] = field(default_factory=dict)
    """By model, "base" or an expert."""
    files: dict[str, Path] = field(default_factory=dict)
    """The recipes' files, by model."""

    @property
    def unseen(self) -> list[str]:
        """Models of which there is no outline."""
        return [name for name, merges in self.found.items() if None not in merges.outlines]

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes of the weights of those that could be looked at, by model."""
        last = {name: merges.merges[-1].size_bytes for name, merges in self.found.items()}
        return {name: bytes_ for name, bytes_ in last.items() if bytes_ is not None}

    @property
    def disk_bytes(self) -> int:
        """What they take on disk; a recipe that is given twice is merged once."""
        return sum({self.files[name]: bytes_ for name, bytes_ in self.sizes.items()}.values())

    def notes(self) -> Iterator[str]:
        """A sentence on where each will lie, and what is worth knowing of it."""
        names = {path: name for name, path in reversed(self.files.items())}
        for name, merges in self.found.items():
            folder = f"RUN/{MERGED}/{names[self.files[name]]}"
            bytes_ = self.sizes.get(name)
            takes = "" if bytes_ is None else f", which takes {size(bytes_)} on disk"
            steps = [step.size_bytes for step in merges.merges[:-1] if step.size_bytes is not None]
            more = f" ({size(sum(steps))} more while the merges that it needs are there)" if steps else ""
            yield f"{key_of(name)} is a recipe; the search first merges it into {folder}{takes}{more}"
            yield from (f"{key_of(name)}: {note}" for note in merges.notes)

    def unchecked(self) -> Iterator[str]:
        """What couldn't be looked at of them, a sentence each."""
        for name, merges in self.found.items():
            yield from (f"{key_of(name)}: {sentence}" for sentence in merges.unchecked)

    def named(self, text: str) -> str:
        """A sentence with the recipes' files in the place of the outlines' folders."""
        places = {
            str(folder): str(self.files[name]) if step is None else f"{step} of {self.files[name]}"
            for name, merges in self.found.items()
            for step, folder in merges.outlines.items()
        }
        for place in sorted(places, key=len, reverse=True):
            text = text.replace(place, places[place])
        return text


@contextmanager
def seen_recipes(config: Config, *, where: str, fetch: Fetch = lambda role, reference: None) -> Iterator[SeenRecipes]:
    """Look at the recipes of a config, and at their results as outlines while these are needed. Writes no model.

    Args:
        config: the experiment.
        where: its file, for messages.
        fetch: is given each model of a recipe before it is looked at, by a name such as "x/base".

    Raises: ConfigError for a recipe that can't be merged; errors raised within name the recipes, not the outlines.
    """
    files = config.models.recipes
    found: dict[str, MergesFound] = {}
    with TemporaryDirectory(prefix="evomerge-") as place:
        for number, (name, path) in enumerate(files.items()):
            with _of_model(name, where):
                own = partial(_fetch, fetch, name)
                found[name] = look_at_merges(path, Path(place) / str(number), own)
        outlines = {name: str(merges.outlines[None]) for name, merges in found.items() if None in merges.outlines}
        seen = SeenRecipes(given=config, config=in_place(config, outlines), found=found, files=files)
        try:
            yield seen
        except EvomergeError as error:
            error.args = tuple(seen.named(part) if isinstance(part, str) else part for part in error.args)
            raise


def merge_first(
    config: Config,
    directory: Path,
    observer: Observer,
    *,
    begun: bool,
    only: Collection[str] | None = None,
    where: str = "config",
) -> Config:
    """Merge each model of a config that is a recipe into a folder of the run, unless it is there already.

    A folder that is there is whole, and is taken if the files of its recipe and of the models that this names have the
    content that they had. Those that aren't there any more aren't needed.

    Args:
        config: the experiment.
        directory: the run's, whose lock is held.
        observer: told when that begins, of what is done, and each minute of how far that is.
        begun: whether there is a run in it, whose models may not change.
        only: the models that are needed, by name; None: all.
        where: the config's file, for messages.

    Returns: the config with folders in the place of recipes.

    Raises: ConfigError for what can't be merged, or won't fit; ResumeError if what a begun run's model was merged from
        has changed; RunError for a directory or folder of something else; ExportError for one that can't be written.
    """
    files = _folders(config, only)
    if files and not begun:
        refuse_foreign(directory)
    wanted = {name: path for name, path in files.items() if not _is_made(directory / MERGED / name, path, begun)}
    for name in files:
        # Of a driver that was killed: whether they are of the present models isn't known, or they aren't needed.
        shutil.rmtree(_steps(directory / MERGED / name), ignore_errors=True)
    if wanted:
        observer.phase("merging", None)
        # What won't fit is said before hours of merging.
        with seen_recipes(config, where=where) as seen:
            if not seen.unseen:
                # Outlines hold no numbers.
                open_experiment(seen.config, where=where, unchanged={})
            takes = {name: f" ({size(bytes_)})" for name, bytes_ in seen.sizes.items()}
        for name, path in wanted.items():
            folder, key = directory / MERGED / name, key_of(name)
            observer.message(f"{key}: merging {path} into {folder}{takes.get(name, '')}")
            with _of_model(name, where):
                _merge(path, folder.absolute(), config.export.shard_size, partial(_say, observer.message, key))
    return with_folders(config, directory)


def are_made(config: Config, directory: Path, only: Collection[str]) -> bool:
    """Whether the run in `directory` has merged those models, by name. Raises: as `merge_first` for a begun run."""
    return all(_is_made(directory / MERGED / name, path, True) for name, path in _folders(config, only).items())


class KeptRecipe(NamedTuple):
    """A file of merges for others, and whether it names folders of this machine."""

    text: str
    is_private: bool


def recipe_of_merged(folder: Path, out: Path) -> KeptRecipe:
    """The recipe of a model that a run merged first, as a file in the folder `out` that others can use.

    It holds the merges that are needed first, too, as documents with names.

    Raises: RunError if it isn't known any more, RecipeError if it isn't one.
    """
    path = folder.with_name(f"{folder.name}.yaml")
    documents = [dict(document) for document in _read_documents(path)]
    names = {document["name"]: document["name"] for document in documents if "name" in document}
    texts, is_private = [], False
    for document in documents:
        recipe = Recipe.from_data(document, where=str(path))
        is_private |= any(is_local(model) for model in recipe.references.values() if model.path not in names)
        if recipe.align is not None and recipe.align.maps is not None:
            is_private = True
            recipe = replace(recipe, align=replace(recipe.align, maps=f"./{Path(recipe.align.maps).name}"))
        name = {"name": document["name"]} if "name" in document else {}
        texts.append({**name, **portable(recipe, out, names).to_data()})
    return KeptRecipe(yaml.safe_dump_all(texts, sort_keys=False, allow_unicode=True), is_private)


def _folders(config: Config, only: Collection[str] | None) -> dict[str, Path]:
    """The recipes of some models by the names of their folders: a recipe that is given twice is merged once."""
    recipes = config.models.recipes
    needed = {path for name, path in recipes.items() if only is None or name in only}
    first = {path: name for name, path in reversed(recipes.items())}
    return {name: path for path, name in reversed(first.items()) if path in needed}


def _read_documents(path: Path) -> list[Any]:
    """What was written of a model's merges. Raises: RunError."""
    try:
        return parse_documents(path.read_text(encoding="utf-8"), str(path), RunError)
    except (OSError, UnicodeDecodeError) as error:
        raise RunError(f"{path}: can't be read: {error}; without it nothing says how the model was merged") from error


def _is_made(folder: Path, recipe: Path, begun: bool) -> bool:
    """Whether a recipe's model is there; one of other content is removed. Raises: RunError, ResumeError."""
    record = _record(folder)
    kept = read_json(record, missing_ok=True)
    if not kept:
        if is_there(folder):
            raise RunError(
                f"{folder}: nothing says what it was merged from, since {record.name} beside it is missing; move it "
                "away, and the recipe is merged there"
            )
        return False
    there = {file: state for file, state in kept["files"].items() if is_there(Path(file))}
    try:
        other = changed({file: Path(file) for file in there}, there)
    except OSError as error:
        raise CheckpointError(f"{error.filename}: can't be read: {error.strerror}") from error
    if begun and other:
        raise ResumeError(
            f"{folder.parent.parent}: isn't the same experiment any more, since {key_of(folder.name)} was merged from "
            f"files whose content has changed: {listed(other)}. Restore them, or start a new run directory"
        )
    if not begun and (other or kept["recipe"] != str(recipe)):
        shutil.rmtree(folder, ignore_errors=True)
    return is_folder(folder)


def _fetch(fetch: Fetch, name: str, role: str, reference: ModelReference) -> None:
    fetch(f"{name}/{role}", reference)


def _say(told: Callable[[str], None], key: str, text: str) -> None:
    told(f"{key}: {text}")


def _merge(recipe: Path, folder: Path, shard_size: str, told: Callable[[str], None]) -> None:
    """Merge a recipe into a folder, and put beside it what it was made from."""
    steps = _steps(folder)
    folder.parent.mkdir(exist_ok=True)
    each_minute = EachMinute(told)
    recipes: dict[str | None, Recipe] = {}

    def found(step: str | None, found: Recipe) -> None:
        recipes[step] = found
        if step is None:
            _keep(recipe, folder, steps, recipes)

    def progress(written: int, total: int) -> None:
        each_minute(f"{size(written)} of {size(total)} written")

    merge_each(
        recipe, folder, lambda step: steps / step, shard_size=shard_size, progress=progress, report=told, found=found
    )
    shutil.rmtree(steps, ignore_errors=True)


def _keep(recipe: Path, folder: Path, steps: Path, recipes: Mapping[str | None, Recipe]) -> None:
    """Write what a model is merged from: before it is there, so that none is without."""
    made = {str(steps / step): step for step in recipes if step is not None}
    files = {str(path.resolve()): path for path in files_of(recipe)}
    documents = []
    for step, found in recipes.items():
        for reference in found.references.values():
            if reference.path not in made:
                models = content_files(resolve(reference).absolute())
                files |= {str(path): path for path in models.values()}
        by_name = {
            role: ModelReference(path=made[reference.path]) if reference.path in made else reference
            for role, reference in found.references.items()
        }
        named = replace(found, base=by_name.pop("base"), experts=by_name)
        documents.append({**named.to_data(), **({} if step is None else {"name": step})})
    text = yaml.safe_dump_all(documents, sort_keys=False, allow_unicode=True)
    write_atomically(folder.with_name(f"{folder.name}.yaml"), text)
    write_json(_record(folder), {"recipe": str(recipe), "files": fingerprints_of(files)})


def _record(folder: Path) -> Path:
    """The file that says what a model was merged from. No model is called so, since none has a dot in its name."""
    return folder.with_name(f"{folder.name}.json")


def _steps(folder: Path) -> Path:
    """Where the merges lie that a model's merge needs, while it is made."""
    return folder.with_name(f"{folder.name}.steps")


@contextmanager
def _of_model(name: str, where: str) -> Iterator[None]:
    """Say in errors of a recipe which model it stands for. Raises: ConfigError."""
    try:
        yield
    except _OF_RECIPES as error:
        raise ConfigError(f"{where}: {key_of(name)}: {error}") from error

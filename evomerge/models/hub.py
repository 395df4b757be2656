"""From a reference to a folder: local, in the hub's cache, or downloaded."""

from __future__ import annotations

import errno
import os
import re
import shlex
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evomerge.errors import CheckpointError
from evomerge.files.places import YAML_ENDS, is_folder, is_there, local
from evomerge.models.headers import INDEX, WEIGHTS, read_header, read_headers
from evomerge.recipe.sources import ModelReference, begins_here

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
COMPRESSED = "compressed.json"
VOCABULARY_FILES = (
    "tokenizer.json", "tokenizer*.model*", "vocab.json", "vocab.txt", "vocab.bpe", "merges.txt", "bpe.codes",
    "dict.txt", "added_tokens.json", "tekken*.json", "*.tiktoken", "tiktoken.model", "spiece.model", "spm.model",
    "*.spm", "sentencepiece*.model",
)  # fmt: skip
"""Patterns of the files that hold a tokenizer's tokens, in the forms that transformers reads."""

TOKENIZER_FILES = (
    *VOCABULARY_FILES,
    "tokenizer*",
    "special_tokens_map.json",
    "chat_template*",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
)
"""Patterns of the files that make up a tokenizer with its chat template, and of those that prepare images or sound."""

DOWNLOADED = (
    WEIGHTS,
    "model-*.safetensors",
    INDEX,
    "config.json",
    "generation_config.json",
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    COMPRESSED,
    "factors-*.safetensors",
    *TOKENIZER_FILES,
    "*.json",
    "*.txt",
    "*.model",
    "*.jinja",
    "*.py",
    "LICENSE*",
    "NOTICE*",
)
"""Patterns of the files of a model that are fetched from the hub."""

_GIVE = "give a model folder or a hub id such as org/name"
_HUB_ID = re.compile(r"^[\w.-]+(/[\w.-]+)?$")


_CONTENT = frozenset(
    {".safetensors", ".json", ".txt", ".model", ".jinja", ".tiktoken", ".codes", ".bpe", ".spm", ".index"}
)
"""Ends of the names of files that decide what a model or tokenizer is; others are for people."""


class Whereabouts(NamedTuple):
    """Where a model was found without asking the network, and how to say it to a person.

    An unresolved one may be on the hub; an impossible one is neither a folder nor a hub id.
    """

    kind: Literal["folder", "cache", "unresolved", "impossible"]
    path: Path | None
    message: str


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter as PEFT writes it, and no whole model."""
    return (folder / ADAPTER_CONFIG).is_file() and not any((folder / file).is_file() for file in (WEIGHTS, INDEX))


def is_compressed(folder: Path) -> bool:
    """Whether a folder holds an expert as `evomerge compress` writes it."""
    return (folder / COMPRESSED).is_file()


def whereabouts(reference: ModelReference) -> Whereabouts:
    """Where a model is, without network and without raising: a folder, the hub's cache, unresolved or impossible."""
    folder = local(reference.path)
    if is_folder(folder):
        return Whereabouts("folder", folder, f"{reference.path}: local folder")
    if not is_hub_id(reference.path):
        found = _of_a_file(folder) if is_there(folder) else f"no such folder; {_GIVE}"
        return Whereabouts("impossible", None, f"{reference.path}: {found}")
    try:
        cached = _snapshot(reference, local_files_only=True)
        if is_adapter(cached):
            read_header(cached / ADAPTER_WEIGHTS)
        elif is_compressed(cached):
            for file in cached.glob("factors-*.safetensors"):
                read_header(file)
        else:
            read_headers(cached)
    except Exception:
        at = f" at revision {reference.revision}" if reference.revision else ""
        return Whereabouts(
            "unresolved", None, f"{reference.path}{at}: not on this machine; fetched from the hub if it is there"
        )
    return Whereabouts("cache", cached, f"{reference.path}: in the hub's cache")


def resolve(reference: ModelReference) -> Path:
    """The folder of a model, downloaded if need be. Raises: CheckpointError if it can't be had."""
    folder = local(reference.path)
    if is_folder(folder):
        _refuse_broken_links(folder)
        return folder
    if os.path.islink(folder) and not is_there(folder):
        raise CheckpointError(f"{reference.path}: {_where_it_leads(folder)}; give the model folder itself")
    if is_there(folder):
        raise CheckpointError(f"{reference.path}: {_of_a_file(folder)}")
    if not is_hub_id(reference.path):
        raise CheckpointError(f"{reference.path}: no such folder; {_GIVE}")
    from huggingface_hub import errors as hub

    at = f" at revision {reference.revision!r}" if reference.revision else ""
    try:
        return _snapshot(reference, local_files_only=False)
    except hub.GatedRepoError as error:
        raise CheckpointError(
            f"{reference.path}: access is granted on request; accept its terms on the hub, then run `hf auth login`"
        ) from error
    except (hub.RepositoryNotFoundError, hub.RevisionNotFoundError) as error:
        raise CheckpointError(
            f"{reference.path}{at}: neither a folder here nor a model on the hub that you may read; check the "
            "spelling, or run `hf auth login` for a private one"
        ) from error
    except Exception as error:
        raise CheckpointError(
            f"{reference.path}{at}: no such folder, not in the hub's cache, and the hub can't be reached "
            f"({type(error).__name__}); connect, unset HF_HUB_OFFLINE, or give a local folder"
        ) from error


def _of_a_file(path: Path) -> str:
    """What is wrong with a file in a model's place, and what to do."""
    if not path.name.endswith(YAML_ENDS):
        return "is a file; give the folder that holds the model"
    made = path.with_suffix("")
    if is_there(made):
        made = made.with_name(f"{made.name}-merged")
    command = shlex.join(["evomerge", "merge", str(path), str(made)])
    return f"is a file; if it is of a merge, make that with `{command}`, and give its folder, {made}"


def content_files(folder: Path) -> dict[str, Path]:
    """The files in a model's folder that decide what it and its tokenizer are, by name."""
    return {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.suffix in _CONTENT and not path.name.startswith(".") and path.is_file()
    }


def _refuse_broken_links(folder: Path) -> None:
    """A missing file may be meant to be missing; one whose link is broken isn't, such as a tokenizer."""
    # Not by glob, which passes over broken links where a pattern is a plain name.
    for path in sorted(folder.iterdir()):
        if path.is_symlink() and not path.exists() and any(fnmatch(path.name, pattern) for pattern in DOWNLOADED):
            raise CheckpointError(f"{path}: {_where_it_leads(path)}; put the file itself there")


def _where_it_leads(link: Path) -> str:
    """What is wrong with a symbolic link that can't be followed."""
    try:
        link.stat()
    except OSError as error:
        if error.errno == errno.ELOOP:
            return "is a symbolic link that leads in a circle"
    return f"is a symbolic link to {link.readlink()}, which isn't there"


def _snapshot(reference: ModelReference, *, local_files_only: bool) -> Path:
    from huggingface_hub import snapshot_download

    return Path(
        snapshot_download(
            reference.path,
            revision=reference.revision,
            allow_patterns=[*DOWNLOADED, "README.md"],
            local_files_only=local_files_only,
        )
    )


def is_hub_id(path: Any) -> bool:
    """Whether something can be the id of a model on the hub, and isn't a path here."""
    if not isinstance(path, str):
        return False
    # No model is called like a recipe, whose name may be mistyped.
    of_file = path.endswith(YAML_ENDS)
    return bool(_HUB_ID.match(path)) and not path.startswith(".") and not of_file and not begins_here(path, Path())

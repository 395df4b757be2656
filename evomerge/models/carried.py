"""The files beside a model's weights, and which of them go along to a folder with other weights.

Everything does but weights, the state of a training, pickles, what tells of the model itself, links that leave the
folder, and code, unless it is asked for. Knows files. Runs and unpickles nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from filecmp import cmp
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal, NamedTuple

from evomerge.errors import listed

Reason = Literal["weights", "training", "about", "code", "program", "pickle", "link", "size"]

_WEIGHTS = re.compile(
    r"\.(safetensors|bin|pt|pth|ckpt|h5|msgpack|gguf|ggml|onnx|onnx_data|ot|npz|npy|tflite|mlmodel|nemo|pdparams)$"
    r"|\.index\.json$|\.data-\d+-of-\d+$",
    re.IGNORECASE,
)
_TRAINING = re.compile(
    r"^(optimizer|scheduler|rng_state|scaler|trainer_state|training_args|(all|train|eval|predict)_results)"
    r"|^events\.out\.tfevents|^zero_to_fp32\.py$|^latest$"
)
_TRAINING_FOLDER = re.compile(r"^(checkpoint-\d+|global_step\d+|runs|wandb|logs|original|alignment)$")
_ABOUT = re.compile(r"^(README(\..*)?|recipe\.yaml|tuning\.json|mergekit_config\.ya?ml|adapter_.*|compressed\.json)$")
_PROGRAMS = re.compile(r"\.(pyc|pyo|pyd|so|dll|dylib|exe|sh|bat|ps1|ipynb|jar)$", re.IGNORECASE)
_PICKLES = re.compile(r"\.(pkl|pickle|joblib|p)$", re.IGNORECASE)
_PICKLED = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04")  # how pickles, and archives of them, begin
_CODE_KEYS = frozenset({"auto_map", "custom_pipelines"})

_MAX_FILE_BYTES, _MAX_BYTES, _MAX_FILES, _MAX_DEPTH = 100_000_000, 500_000_000, 1000, 3


class _Found(NamedTuple):
    """A file by its name from the folder's top, and why it is left out; None if it goes along."""

    name: str
    path: Path
    reason: Reason | None


def carry(source: Path, out: Path, *, code: bool = False, only: Sequence[str] = ()) -> list[str]:
    """Copy the files beside a model's weights, but for config.json, into a folder.

    Args:
        source: the model's folder.
        out: where they are put, under the same names.
        code: also Python files, and the keys of JSON files that have transformers run them (`auto_map`).
        only: patterns of names; empty: every file.

    Returns: what a person should know of what was left out, a sentence each.
    """
    left: dict[Reason, list[str]] = {}
    copied: list[str] = []
    for name, path, reason in _files(source, code):
        if only and ("/" in name or not any(fnmatch(name, pattern) for pattern in only)):
            continue
        if reason is not None:
            left.setdefault(reason, []).append(name)
            continue
        plain = None if code or not name.endswith(".json") else _plain(path)
        if plain is not None:
            left.setdefault("code", []).append(f"auto_map of {name}")
        if name == "config.json":
            continue
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        if plain is None:
            shutil.copyfile(path, out / name)
        else:
            (out / name).write_text(plain, encoding="utf-8")
        copied.append(name)
    return _notes(source, left, [name for name in copied if name.endswith(".py")])


def not_carried(source: Path, out: Path) -> list[str]:
    """Files that may be read with a model's weights, but for config.json, which a folder lacks or has otherwise."""
    return [
        name
        for name, path, reason in _files(source, code=True)
        if reason not in {"weights", "training", "about"}
        and name != "config.json"
        and not (reason != "link" and (out / name).is_file() and cmp(path, out / name, shallow=False))
    ]


def without_code(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without the keys, at any depth, that have transformers run code from a model's folder."""
    return {
        key: without_code(value) if isinstance(value, Mapping) else value
        for key, value in settings.items()
        # A vocabulary may hold such a word too, with a number.
        if not (key in _CODE_KEYS and isinstance(value, Mapping | list | str))
    }


def with_dtype(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The config with its dtype replaced under every key that states it."""
    stated = {key: dtype if key in {"dtype", "torch_dtype"} else value for key, value in config.items()}
    if isinstance(text := stated.get("text_config"), Mapping):
        stated["text_config"] = with_dtype(text, dtype)
    return {**stated, "dtype": dtype}


def _plain(path: Path) -> str | None:
    """A JSON file's text without what has code run; None if it names none."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        plain = without_code(data) if isinstance(data, dict) else data
    except (ValueError, RecursionError):
        return None
    return None if plain == data else json.dumps(plain, indent=2, ensure_ascii=False) + "\n"


def _files(source: Path, code: bool) -> Iterator[_Found]:
    """Every file of a folder but hidden ones, in order, with the reason to leave it out."""
    root = source.resolve()
    number = total = 0
    for folder, inner, names in os.walk(root):
        here = Path(folder).relative_to(root)
        if len(here.parts) >= _MAX_DEPTH:
            inner.clear()
        inner[:] = sorted(name for name in inner if not name.startswith(".") and not _TRAINING_FOLDER.match(name))
        links = [name for name in inner if (root / here / name).is_symlink()]
        yield from (_Found(str(here / name), root / here / name, "link") for name in links)
        for name in sorted(names):
            path = root / here / name
            if name.startswith(".") or not path.is_file():
                continue
            reason = _reason(path, root, code)
            if reason is None:
                number, total = number + 1, total + path.stat().st_size
                if number > _MAX_FILES or total > _MAX_BYTES or path.stat().st_size > _MAX_FILE_BYTES:
                    reason = "size"
            yield _Found((here / name).as_posix(), path, reason)


def _reason(path: Path, root: Path, code: bool) -> Reason | None:
    for reason, pattern in _BY_NAME:
        if pattern.search(path.name):
            return reason
    if path.suffix.lower() == ".py" and not code:
        return "code"
    if not _stays(path.resolve(), root):
        return "link"
    with path.open("rb") as file:
        return "pickle" if _PICKLED.match(file.read(4)) else None


_BY_NAME: tuple[tuple[Reason, re.Pattern[str]], ...] = (
    ("weights", _WEIGHTS),
    ("training", _TRAINING),
    ("about", _ABOUT),
    ("program", _PROGRAMS),
    ("pickle", _PICKLES),
)


def _stays(target: Path, root: Path) -> bool:
    """Whether a file lies in the model's folder, or, as every file of the hub's cache, among the model's blobs."""
    roots = [root, root.parent.parent / "blobs"] if root.parent.name == "snapshots" else [root]
    return any(target.is_relative_to(allowed) for allowed in roots)


def _notes(source: Path, left: Mapping[Reason, list[str]], carried_code: Sequence[str]) -> list[str]:
    found = []
    if carried_code:
        found.append(
            f"{source}: its code is carried along ({listed(carried_code)}), unread; transformers runs it where the "
            "folder is loaded with trust_remote_code=True"
        )
    if names := left.get("code"):
        found.append(
            f"{source}: its code and what refers to it are left out ({listed(names)}), since it would run where the "
            "folder is loaded; read it, then carry it along with --carry-code (carry_code=True in Python)"
        )
    for reason, words in _WORDS.items():
        if names := left.get(reason):
            found.append(f"{source}: left out {words}: {listed(names)}")
    return found


_WORDS: Mapping[Reason, str] = {
    "link": "links to other places",
    "pickle": "pickles, which can run code when read",
    "program": "programs",
    "size": "what is larger than files beside weights are",
}

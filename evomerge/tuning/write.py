"""Writing what was tuned: a model in the base's own format and with its other files, or an adapter."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.errors import ExportError
from evomerge.files.atomic import json_text
from evomerge.files.fresh_folder import fresh_folder
from evomerge.files.obstacles import obstacle
from evomerge.models.carried import carry, without_code
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.headers import read_json
from evomerge.models.hub import ADAPTER_CONFIG
from evomerge.recipe.portable import is_local


def write_model(out: Path, model: Any, base: Checkpoint, files: Mapping[str, str], *, new_head: bool) -> None:
    """Write the model's folder, complete or not at all.

    Args:
        out: the folder.
        model: what was trained; its weights become those of the base's format.
        base: where it started.
        files: text files to add, by name.
        new_head: whether its config is its own, and not the base's.

    Raises: ExportError.
    """

    def fill(folder: Path) -> None:
        # So that it merges with others of the base; a computation in float64 keeps its digits for a base in float64.
        model.to(base.dtype)
        model.save_pretrained(folder)
        saved = read_json(folder / "config.json")
        (folder / "generation_config.json").unlink(missing_ok=True)
        carry(base.folder, folder)
        dtypes: dict[str, Any] = {key: saved[key] for key in ("dtype", "torch_dtype") if key in saved}
        config = saved if new_head else {**without_code(base.config), **dtypes}
        (folder / "config.json").write_text(json_text(config), encoding="utf-8")

    _write(out, fill, files)


def write_adapter(out: Path, model: Any, base: Checkpoint, files: Mapping[str, str]) -> None:
    """Write the adapter's folder, complete or not at all. Raises: ExportError."""

    def fill(folder: Path) -> None:
        model.save_pretrained(folder)
        settings = read_json(folder / ADAPTER_CONFIG)
        # PEFT keeps sets, whose order is another in each process.
        settings = {key: sorted(value) if isinstance(value, list) else value for key, value in settings.items()}
        settings["base_model_name_or_path"] = None if is_local(base.reference) else base.reference.path
        (folder / ADAPTER_CONFIG).write_text(json_text(settings), encoding="utf-8")

    _write(out, fill, files)


def _write(out: Path, fill: Any, files: Mapping[str, str]) -> None:
    try:
        with fresh_folder(out) as folder:
            fill(folder)
            for name, content in files.items():
                (folder / name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise ExportError(f"{out}: can't be written: {obstacle(error, out)}; checkpoints are kept") from error

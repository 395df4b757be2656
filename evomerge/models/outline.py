"""A hub model's outline: its small files and the headers of its weights, without the weights.

Knows the hub. What it makes is a folder that opens as the model does, whose tensors read as zeros.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from evomerge.errors import CheckpointError, shown
from evomerge.models.headers import stays_inside
from evomerge.models.hub import DOWNLOADED
from evomerge.recipe.sources import ModelReference

_WEIGHTS = ".safetensors"


def fetch_outline(reference: ModelReference, folder: Path) -> Path:
    """Make a folder with everything of a hub model but code and weights, and files of the weights' form and size.

    Of each file of weights only its header is fetched, by requests for a range of bytes. The files are sparse, so they
    take next to no room.

    Args:
        reference: of a model that isn't on this machine.
        folder: where to make it; it is made as `folder`/org/name.

    Raises: CheckpointError, its reason in few words, if the hub can't be reached, or has no such model.
    """
    from huggingface_hub import HfApi, constants, snapshot_download

    if constants.HF_HUB_OFFLINE:
        raise CheckpointError("offline")
    made = folder / reference.path
    texts = [pattern for pattern in DOWNLOADED if not pattern.endswith((_WEIGHTS, ".py"))]
    try:
        snapshot_download(reference.path, revision=reference.revision, allow_patterns=texts, local_dir=made)
        api = HfApi()
        siblings = api.model_info(reference.path, revision=reference.revision).siblings or []
        names = [sibling.rfilename for sibling in siblings]
        for name in _weights(names):
            found = api.parse_safetensors_file_metadata(reference.path, name, revision=reference.revision)
            entries = {
                tensor: {"dtype": info.dtype, "shape": info.shape, "data_offsets": info.data_offsets}
                for tensor, info in found.tensors.items()
            }
            end = max((info.data_offsets[1] for info in found.tensors.values()), default=0)
            _write(made / name, json.dumps(entries).encode(), end)
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(f"{type(error).__name__}") from error
    return made


def _weights(names: Iterable[str]) -> list[str]:
    """Those of the files that are read as the model's weights: in its folder itself, named by no path."""
    found = [name for name in names if name.endswith(_WEIGHTS) and "/" not in name]
    if unsafe := [name for name in found if not stays_inside(name)]:
        raise CheckpointError(f"holds a file named {shown(unsafe[0])}")
    return found


def _write(path: Path, header: bytes, size: int) -> None:
    """A file with a header, and zeros in the place of `size` bytes of numbers."""
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + size)

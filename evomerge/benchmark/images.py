"""Images as a classifier's inputs: read from files or data sets, made into pixel values when they are asked for.

Knows where a row's image is and the base's own image processor. Does not know labels.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from evomerge.benchmark.base import BaseModel
from evomerge.benchmark.rows import Rows
from evomerge.errors import BenchmarkError

Inputs = Mapping[str, NDArray[np.generic]]


class ImageEncoder:
    """Makes pixel values of images. Raises: BenchmarkError if the model's image processor can't be loaded."""

    def __init__(self, model: BaseModel, place: str) -> None:
        from transformers import AutoImageProcessor

        try:
            self._processor = AutoImageProcessor.from_pretrained(
                model.folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:
            raise BenchmarkError(
                f"{place}: {model.folder}: its image processor can't be loaded; it needs preprocessor_config.json "
                f"there, and Pillow (pip install 'evomerge[vision]') ({type(error).__name__}: {error})"
            ) from error
        self.cut = 0
        """Items that lost their end: none."""

    def encode(self, values: Sequence[Any], folder: Path) -> LazyImage:
        """The inputs of one image, which aren't kept. Raises: OSError, ValueError or TypeError if it is none."""
        stored = stored_image(values[0], folder)
        return LazyImage(self, stored, tuple(self.pixels(stored)))

    def pixels(self, stored: bytes | list[Any]) -> dict[str, NDArray[np.generic]]:
        """The model's arguments for one image, without the side of the batch."""
        found = self._processor(_image(stored), return_tensors="np")
        return {name: np.asarray(column[0]) for name, column in found.items()}


@dataclass(frozen=True, slots=True, eq=False)
class LazyImage(Mapping[str, NDArray[np.generic]]):
    """The inputs of one image, made anew at each use: a batch's are in memory, not those of all items."""

    encoder: ImageEncoder
    stored: bytes | list[Any]
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        if name not in self.names:
            raise KeyError(name)
        return self.encoder.pixels(self.stored)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def stored_image(value: Any, folder: Path) -> bytes | list[Any]:
    """The bytes of an image's file, or rows of pixels from 0 to 255.

    Args:
        value: the file's name, its bytes, what `datasets` stores, or rows of pixels.
        folder: where names are looked for.

    Raises: OSError if there is no such file, ValueError for anything else.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") or value.get("path")
    if isinstance(value, str):
        return (folder / value).read_bytes()
    if not isinstance(value, bytes | list):
        raise ValueError(f"expected an image, found {value!r:.80}")
    return value


def image_key(value: Any, folder: Path) -> Any:
    """What is the same for the same image, under whatever name: a hash of its file, or its pixels.

    Raises: as `stored_image`.
    """
    stored = stored_image(value, folder)
    return hashlib.sha256(stored).hexdigest() if isinstance(stored, bytes) else stored


def by_content(data: Mapping[str, Rows], column: str, place: str) -> dict[str, Rows]:
    """The same rows, each image by its content: one picture may have two names, and two pictures one."""
    found = {}
    for source, known in data.items():
        rows = []
        for index, row in enumerate(known.rows):
            try:
                rows.append({**row, column: image_key(row[column], known.folder)})
            except (OSError, ValueError) as error:
                raise BenchmarkError(f"{place}.data: row {index} of {source}: {error}") from error
        found[source] = Rows(rows, known.folder)
    return found


def _image(stored: bytes | list[Any]) -> Any:
    from PIL import Image

    if isinstance(stored, list):
        return Image.fromarray(np.array(stored, dtype=np.uint8)).convert("RGB")
    with Image.open(io.BytesIO(stored)) as image:
        return image.convert("RGB")

"""fastText model files (.bin, version 12) that tell languages by letters: written from the format, without fastText."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

_MAGIC, _VERSION = 793712314, 12
_SOFTMAX, _SUPERVISED = 3, 3
_WORD, _LABEL = 0, 1


def write_identifier(path: Path, words: Mapping[str, Sequence[str]]) -> Path:
    """A model that takes a text for the label that has most of its words, and for the first if none is known.

    Args:
        path: of the file, whose folder is made if it isn't there.
        words: by label without prefix, such as "twi_Latn", words of its language; no word twice.
    """
    labels = [f"__label__{label}" for label in words]
    known = [(word, index) for index, own in enumerate(words.values()) for word in own]
    size = len(labels)
    data = struct.pack("<2i", _MAGIC, _VERSION)
    # dim, ws, epoch, minCount, neg, wordNgrams, loss, model, bucket, minn, maxn, lrUpdateRate; t
    data += struct.pack("<12id", size, 5, 1, 1, 5, 1, _SOFTMAX, _SUPERVISED, 0, 0, 0, 100, 1e-4)
    # The end of a line is a word too, so that every text has one.
    entries = [("</s>", _WORD), *((word, _WORD) for word, _ in known), *((label, _LABEL) for label in labels)]
    data += struct.pack("<3i2q", len(entries), 1 + len(known), size, len(entries), -1)
    for name, kind in entries:
        data += name.encode() + b"\0" + struct.pack("<qb", 1, kind)
    rows = [[0.01] + [0.0] * (size - 1), *([float(column == index) for column in range(size)] for _, index in known)]
    outputs = [[20.0 * (column == row) for column in range(size)] for row in range(size)]
    for matrix in (rows, outputs):
        data += struct.pack("<?2q", False, len(matrix), size)
        for values in matrix:
            data += struct.pack(f"<{size}f", *values)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def put_in_cache(cache: Path, words: Mapping[str, Sequence[str]], *, commit: str = "c" * 40) -> Path:
    """Such a model as GlotLID's in a hub cache. Returns: the folder to be the cache."""
    repository = cache / "models--cis-lmu--glotlid"
    write_identifier(repository / "snapshots" / commit / "model.bin", words)
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    return cache

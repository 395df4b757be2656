"""What stands in the way of writing, as people are told."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from evomerge.errors import ExportError, RunError
from evomerge.files.atomic import write_atomically
from evomerge.files.fresh_folder import written_folder
from evomerge.files.obstacles import is_full, obstacle


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    said = rf"can't be written: {tmp_path}/file is a file and no folder; choose another place"
    with pytest.raises(RunError, match=said):
        write_atomically(tmp_path / "file" / "page.html", "x")
    for out in (tmp_path / "file" / "x", tmp_path / "file" / "deeper" / "x"):
        with pytest.raises(ExportError, match=rf"^{out}: {said}\. Nothing was left there$"), written_folder(out):
            pass


def test_a_file_that_was_to_become_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError) as error:
        (tmp_path / "file").mkdir(parents=True, exist_ok=True)
    assert obstacle(error.value, tmp_path / "file") == f"{tmp_path}/file is a file and no folder; choose another place"


def test_a_missing_folder_and_one_in_the_place_of_a_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=rf"there is no folder {tmp_path}/none; make it, or choose another place"):
        write_atomically(tmp_path / "none" / "deeper" / "page.html", "x")
    with pytest.raises(RunError, match="a folder of that name is there; choose another name"):
        write_atomically(tmp_path, "x")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (errno.ENOSPC, "the disk is full; make room"),
        (errno.EDQUOT, "the disk quota is used up; make room"),
        (errno.EFBIG, "no file may be as large as that there"),
        (errno.EROFS, "the disk is read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EIO, "in the system's words"),
        (errno.ENOENT, "in the system's words"),
    ],
)
def test_what_the_system_says_is_said_with_its_remedy_or_as_it_is(tmp_path: Path, code: int, said: str) -> None:
    error = OSError(code, "in the system's words")
    assert obstacle(error, tmp_path / "x").startswith(said)
    assert is_full(error) == (code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

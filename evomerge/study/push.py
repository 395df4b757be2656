"""A finished model folder on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from evomerge.errors import ExportError, first_line

_REPOSITORY = re.compile(r"^[\w][\w.-]*/[\w][\w.-]*$", re.ASCII)


def check_push(repository: str) -> None:
    """Find out whether a push can be begun, before a folder is written for it.

    Raises: ExportError if the name isn't one, the hub can't be reached, or nobody is logged in.
    """
    if not _REPOSITORY.match(repository):
        raise ExportError(f"--push {repository}: give USER/NAME, or ORGANISATION/NAME, of the repository to make")
    from huggingface_hub import HfApi

    try:
        HfApi().whoami()
    except Exception as error:
        raise _explained(repository, error) from error


def push(folder: Path, repository: str, *, private: bool = True) -> tuple[str, bool]:
    """Upload a model folder. A repository that is there gets another commit, and stays as private as it is.

    Args:
        folder: the model's.
        repository: USER/NAME, made if it isn't there.
        private: whether a new one can be seen by its owner alone.

    Returns: its address, and whether it is private.
    Raises: ExportError if it can't be made or written to.
    """
    from huggingface_hub import HfApi

    api = HfApi()
    try:
        api.create_repo(repository, private=private, exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message=f"Add {folder.name}")
        info: Any = api.model_info(repository)
    except Exception as error:
        raise _explained(repository, error, folder) from error
    return f"https://huggingface.co/{repository}", bool(info.private)


def _explained(repository: str, error: Exception, folder: Path | None = None) -> ExportError:
    """What went wrong, in words, and what is left to do."""
    from huggingface_hub import errors as hub

    status = getattr(getattr(error, "response", None), "status_code", None)
    kept = "" if folder is None else f" The model is in {folder}; with a remedy: hf upload {repository} {folder}"
    if isinstance(error, hub.OfflineModeIsEnabled):
        why = "HF_HUB_OFFLINE is set, so nothing can be sent; unset it"
    elif isinstance(error, hub.LocalTokenNotFoundError):
        why = "nobody is logged in to the hub; run `hf auth login`, or set HF_TOKEN"
    elif status == 401:
        why = "the hub doesn't accept the token; run `hf auth login` again, or renew HF_TOKEN"
    elif status == 403:
        why = "the token may not write there; give it the right to write, or choose a name of your own"
    elif status is not None:
        why = f"the hub refuses it with status {status}: {first_line(error)}"
    else:
        why = f"the hub can't be reached ({type(error).__name__}); try again"
    return ExportError(f"--push {repository}: {why}.{kept}")

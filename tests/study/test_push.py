"""A push says in words what the hub says; the hub itself is stood in for at the network's edge."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from evomerge.errors import ExportError
from evomerge.study.push import check_push, push


class Hub:
    """Records what it is asked; raises what it is told to."""

    calls: list[tuple[str, dict[str, Any]]]
    trouble: Exception | None = None

    def _asked(self, name: str, **values: Any) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.calls.append((name, values))

    def whoami(self) -> None:
        self._asked("whoami")

    def create_repo(self, repository: str, **values: Any) -> None:
        self._asked("create", repository=repository, **values)

    def upload_folder(self, **values: Any) -> None:
        self._asked("upload", **values)

    def model_info(self, repository: str) -> SimpleNamespace:
        return SimpleNamespace(private=self.calls[0][1].get("private"))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    made = Hub()
    made.calls = []
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    return made


def refused(status: int) -> Exception:
    response: Any = SimpleNamespace(status_code=status, headers={}, request=None)
    return errors.HfHubHTTPError("no", response=response)


def test_a_new_repository_is_private_unless_asked_otherwise(hub: Hub, tmp_path: Path) -> None:
    assert push(tmp_path, "me/x") == ("https://huggingface.co/me/x", True)
    assert hub.calls[0] == ("create", {"repository": "me/x", "private": True, "exist_ok": True})
    assert hub.calls[1][1]["folder_path"] == tmp_path
    hub.calls.clear()
    assert push(tmp_path, "me/x", private=False)[1] is False


@pytest.mark.parametrize(
    ("trouble", "words"),
    [
        (refused(401), "doesn't accept the token"),
        (refused(403), "may not write there"),
        (refused(500), "with status 500"),
        (errors.LocalTokenNotFoundError("x"), "nobody is logged in.*hf auth login"),
        (errors.OfflineModeIsEnabled("x"), "HF_HUB_OFFLINE is set"),
        (ConnectionError("x"), "can't be reached"),
    ],
)
def test_what_the_hub_refuses_is_said_before_anything_is_written(hub: Hub, trouble: Exception, words: str) -> None:
    hub.trouble = trouble
    with pytest.raises(ExportError, match=f"--push me/x: .*{words}"):
        check_push("me/x")


def test_a_name_that_is_none_is_refused_and_what_was_written_stays_named(hub: Hub, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="give USER/NAME"):
        check_push("just-a-name")
    hub.trouble = refused(403)
    with pytest.raises(ExportError, match=f"The model is in {tmp_path}"):
        push(tmp_path, "me/x")

"""Whether the storage of a config can be used, before anything is written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from evomerge.errors import ConfigError
from evomerge.study.storage import check_storage


def test_the_journal_and_a_database_file_in_a_folder_that_is_there_are_accepted(tmp_path: Path) -> None:
    assert check_storage("journal", where="x.yaml") is None
    assert check_storage(f"sqlite:///{tmp_path}/trials.db", where="x.yaml") is None
    assert list(tmp_path.iterdir()) == [], "nothing is written"


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("somewhere", "neither `journal` nor the URL of a database"),
        ("", "neither `journal` nor the URL of a database"),
        ("postgrez://host/trials", "needs a driver that isn't installed"),
        ("sqlite:////no/such/folder/trials.db", "no such folder: /no/such/folder"),
        ("sqlite:////tmp", "/tmp can't be written"),
        (f"sqlite:///{__file__}", "can't be opened as a database: file is not a database"),
        ("sqlite://", "kept in memory"),
        ("sqlite:///:memory:", "kept in memory"),
    ],
)
def test_what_cannot_hold_trials_is_refused_with_the_key(storage: str, message: str) -> None:
    with pytest.raises(ConfigError, match=r"x\.yaml: storage: ") as refused:
        check_storage(storage, where="x.yaml")
    assert message in str(refused.value)


def test_a_server_that_does_not_answer_is_unchecked_and_its_password_is_not_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sqlalchemy

    def unanswered() -> None:
        raise OSError("connection refused")

    real = sqlalchemy.create_engine
    # SQLite's engine with a connection that fails stands for one.
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda url, **settings: real("sqlite://", creator=unanswered))
    sentence = check_storage("postgresql://me:secret@host/trials", where="x.yaml")
    assert sentence is not None
    assert "postgresql://me:***@host/trials, which doesn't answer from here: connection refused" in sentence

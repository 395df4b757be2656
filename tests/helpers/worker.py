"""Jobs over a tiny family of models, for the tests of workers and executors."""

from __future__ import annotations

from evomerge.testing.jobs import REQUESTS, answers, failure, job, make_settings

__all__ = ["REQUESTS", "answers", "failure", "job", "make_settings"]

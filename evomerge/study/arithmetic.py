"""What a run computes in: decided when it begins, and kept on whatever machine it goes on.

Scores differ in their last digits from format to format, so that candidates of one run are all scored in one.
"""

from __future__ import annotations

from evomerge.config.execution import ExecutionConfig
from evomerge.errors import ResumeError
from evomerge.execute.settings import arithmetic_of
from evomerge.inference.arithmetic import Arithmetic
from evomerge.run.directory import Run


def arithmetic_of_run(run: Run, execution: ExecutionConfig, *, where: str) -> Arithmetic:
    """What a run goes on in.

    Args:
        run: as it began.
        execution: of the config that it goes on by.
        where: the config's file, for messages.

    Raises: ResumeError if the config asks for another.
    """
    stored: str = run.facts["dtype"]
    # Runs from before there was a choice computed in the weights' own format.
    begun: str = run.facts.get("compute_dtype", stored)
    here = arithmetic_of(execution, stored)
    if here.dtype == begun:
        return here
    if execution.compute_dtype != "auto":
        asked = "float32" if begun == "float32" else "stored"
        raise ResumeError(
            f"{where}: execution.compute_dtype: {execution.compute_dtype} computes in {here.dtype}, and "
            f"{run.directory} was begun in {begun}; scores differ in their last digits between the two. Restore "
            f"{asked} or auto, or start a new run directory"
        )
    reason = f"; {here.why}" if here.why else ""
    return Arithmetic(dtype=begun, why=f"the run began so, and goes on so on this machine{reason}")


def remarks(arithmetic: Arithmetic, dtype: str, *, resumed: bool = False) -> list[str]:
    """A sentence for people, unless weights are computed with in their own format and nothing else was to be expected.

    Args:
        arithmetic: what is computed in.
        dtype: of the weights.
        resumed: whether it is that of a run that goes on.
    """
    if arithmetic.dtype == dtype and not (resumed and arithmetic.why):
        return []
    return [f"weights are in {in_words(arithmetic, dtype)}"]


def in_words(arithmetic: Arithmetic, dtype: str) -> str:
    """In which formats weights are kept and computed with, and why."""
    why = f": {arithmetic.why}" if arithmetic.why else ""
    return f"{dtype}{why}" if arithmetic.dtype == dtype else f"{dtype}, computed with in {arithmetic.dtype}{why}"

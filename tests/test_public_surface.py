"""What `import evomerge` offers, and that it costs nothing until used."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import evomerge

HEAVY = ("torch", "transformers", "datasets", "lm_eval", "ray", "optuna", "scipy", "pydantic", "numpy", "pandas", "cma")


def loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running `code`."""
    script = f"import sys\n{code}\nprint(' '.join(sorted({{name.partition('.')[0] for name in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_importing_the_package_loads_no_large_library() -> None:
    assert not loaded_after("import evomerge") & {*HEAVY, "typer", "rich", "yaml"}


def test_importing_the_command_line_loads_no_large_library() -> None:
    assert not loaded_after("import evomerge.cli") & set(HEAVY)


@pytest.mark.slow
def test_help_of_the_program_and_of_every_command_loads_no_large_library() -> None:
    code = """
import typer.testing
from evomerge.cli import app
runner = typer.testing.CliRunner()
assert runner.invoke(app, ["--help"]).exit_code == 0
for command in app.registered_commands:
    assert runner.invoke(app, [command.name or command.callback.__name__, "--help"]).exit_code == 0
"""
    # typer looks for pydantic types in the signatures of commands, and imports it for that.
    assert not loaded_after(code) & (set(HEAVY) - {"pydantic"})


@pytest.mark.parametrize("name", evomerge.__all__)
def test_every_public_name_can_be_had_and_is_listed(name: str) -> None:
    assert getattr(evomerge, name) is not None
    assert name in dir(evomerge)


def test_the_version_is_that_of_the_installed_package() -> None:
    assert evomerge.__version__ == version("evomerge")


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        evomerge.serach  # noqa: B018


def test_no_public_name_is_a_module_too() -> None:
    """Importing a submodule binds it in its package, which would hide the function of its name."""
    package = Path(evomerge.__file__).parent
    modules = {path.stem for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert not modules & set(evomerge.__all__)

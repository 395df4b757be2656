"""The card of a merge that was made from a recipe, without a search."""

from __future__ import annotations

from evomerge.errors import listed
from evomerge.recipe.portable import is_local
from evomerge.recipe.recipe import Recipe
from evomerge.report.front_matter import About, front_matter, usage


def merge_card(recipe: Recipe, *, name: str, about: About) -> str:
    """The README.md of a merge of which nothing was measured here."""
    references = {"base": recipe.base, **recipe.experts}
    named = [
        f"`{name}` (a local model)" if is_local(model) else f"`{model.path}`" for name, model in references.items()
    ]
    lines = [
        *front_matter(name, references, about, is_merge=True),
        "",
        f"# {name}",
        "",
        f"A merge of {listed(named[1:], limit=len(named))} over {named[0]} with {recipe.method}, by evomerge, from a "
        "recipe. `recipe.yaml` beside this file makes it again where the models that it names are at hand: "
        "`evomerge merge recipe.yaml OUT`.",
        "",
        *usage(name, about.task),
        "It was not scored on any task here.",
    ]
    return "\n".join(lines) + "\n"

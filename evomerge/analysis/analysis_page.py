"""What an analysis found, as figures on one page."""

from __future__ import annotations

from evomerge.analysis.analyse import Analysis
from evomerge.report.figures import Curve, bars, heat_map, lines
from evomerge.report.page import Page


def analysis_page(found: Analysis) -> Page:
    """A page of the verdicts, distances by expert, kind and layer, cosines and, with texts, descent.

    Raises: MissingPackageError without plotly.
    """
    weights, moments = found.weights, found.weights.whole.moments
    experts = weights.experts
    page = Page(f"{found.sources.base.path} and its experts", "What the weights say before a search.")
    page.heading("What it means")
    for verdict in found.verdicts:
        page.say(verdict.text)
    page.heading("Distances")
    share = "share of the base's length"
    page.figure(bars("Change of each expert", experts, {"change": moments.relative_norms.tolist()}, y=share))
    kinds = {str(group.kind): group.moments.relative_norms.tolist() for group in weights.kinds}
    series = {expert: [values[place] for values in kinds.values()] for place, expert in enumerate(experts)}
    page.figure(bars("Change by kind of tensor", list(kinds), series, y=share))
    if blocks := list(weights.blocks(weights.depth)):
        at = [float(first) for first, _, _ in blocks]
        curves = [
            Curve(name=expert, x=at, y=[float(group.moments.relative_norms[place]) for _, _, group in blocks])
            for place, expert in enumerate(experts)
        ]
        page.figure(lines("Change by layer", curves, x="layer", y=share))
    if len(experts) > 1:
        page.heading("Directions")
        page.figure(
            heat_map(
                "Cosine between task vectors", moments.cosines, rows=experts, columns=experts, signed=True, limit=1.0
            )
        )
    if (gradients := found.gradients) is not None:
        page.heading("Gradients")
        page.figure(
            heat_map(
                "Cosine of each task vector with the negative gradient at the base",
                gradients.descent,
                rows=experts,
                columns=gradients.texts,
                signed=True,
                limit=1.0,
            )
        )
    return page

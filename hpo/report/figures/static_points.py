"""The static points by score, among them the best one and E_t[w]: a line, a plane or profiles, as T asks."""

from __future__ import annotations

import plotly.graph_objects as go

from hpo.report.figures.points_line import line
from hpo.report.figures.points_plane import plane
from hpo.report.figures.points_profiles import profiles
from hpo.report.figures.style import clip, clip_note
from hpo.report.report_data import ReportData, static_points

TITLE = "Where the good weights are"
MISSING = "The static search has no scored point yet."
WIDE = True
_CAPTIONS = {
    2: "A static point's score against the ratio of its two weights; vertical lines are GradNorm's E_t[w] "
    "(geometric average).",
    3: "Equal weights are in the centre; along a ray the named task's weight grows to 10, 100, ... times each of "
    "the other two, and straight distance is the Aitchison distance. Thin lines are the paths of w(t), large markers "
    "their geometric average E_t[w]. Points with a thick rim are not distinguishable from the best one.",
}
_PROFILES = (
    "Each line is a static point: its weights relative to their geometric mean; thick lines are the best static "
    "point and GradNorm's E_t[w] (geometric average). Below, score against the ratio of two weights, for the pairs "
    "whose ratio matters most."
)


def caption(data: ReportData) -> str:
    """How to read it."""
    T = len(data.comparison.tasks)
    clipped = clip(static_points(data.comparison)["score"], 0.5)
    note = (
        clip_note(clipped)
        if T == 2
        else " The colour scale ends where scores are far out." * bool(clipped.beyond.any())
    )
    return _CAPTIONS.get(T, _PROFILES) + _surface_note(data) + note


def _surface_note(data: ReportData) -> str:
    """What the background shows; for more than three tasks there is none."""
    if len(data.comparison.tasks) > 3:
        return ""
    if not data.comparison.surface.identified:
        return " Response surface not identified."
    drawn = "The thin curve" if len(data.comparison.tasks) == 2 else "The shading"
    located = "" if data.comparison.surface.located else ", which does not locate the best weights"
    return f" {drawn} is the fitted response surface{located}."


def figure(data: ReportData) -> go.Figure | None:
    """Drawn in the form that shows T weights best."""
    points = static_points(data.comparison)
    if points.empty:
        return None
    draw = {2: line, 3: plane}.get(len(data.comparison.tasks), profiles)
    return draw(data, points)

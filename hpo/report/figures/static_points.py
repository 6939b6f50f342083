"""The static points by score, with the best one and E_t[w]: a line, a plane or profiles, depending on T."""

from __future__ import annotations

import plotly.graph_objects as go

from hpo.report.figures.points_line import line
from hpo.report.figures.points_plane import plane
from hpo.report.figures.points_profiles import profiles
from hpo.report.figures.style import clip, clip_note
from hpo.report.report_data import ReportData, drawn_note, drawn_points

TITLE = "Where the good weights are"
MISSING = "No static point has a score yet."
WIDE = True
_CAPTIONS = {
    2: "Score of the static points over the ratio of the two weights. Vertical lines are GradNorm's E_t[w] "
    "(geometric average).",
    3: "Equal weights are in the centre. Along a ray, the named task's weight grows to 10, 100, ... times each of "
    "the other two; distances are Aitchison distances. Thin lines are the paths of w(t), large markers their "
    "geometric average E_t[w]. Points with a thick rim cannot be distinguished from the best one.",
}
_PROFILES = (
    "Each line is a static point: its weights relative to their geometric mean. Thick lines are the best static "
    "point and GradNorm's E_t[w] (geometric average). The panels below show the score over the ratio of two weights, "
    "for the pairs whose ratio matters most."
)


def caption(data: ReportData) -> str:
    """Return the explanation below the figure."""
    T = len(data.comparison.tasks)
    clipped = clip(drawn_points(data.comparison)["score"], 0.5)
    note = (
        clip_note(clipped)
        if T == 2
        else " Scores far out have the last colour of the scale." * bool(clipped.beyond.any())
    )
    return _CAPTIONS.get(T, _PROFILES) + _surface_note(data) + note + drawn_note(data.comparison)


def _surface_note(data: ReportData) -> str:
    """Return a sentence on the response surface, which is drawn for two and three tasks."""
    if len(data.comparison.tasks) > 3:
        return ""
    if not data.comparison.surface.identified:
        return " The response surface is not identified."
    drawn = "The thin curve" if len(data.comparison.tasks) == 2 else "The shading"
    located = "" if data.comparison.surface.located else ", which does not locate the best weights"
    return f" {drawn} is the fitted response surface{located}."


def figure(data: ReportData) -> go.Figure | None:
    """Draw the static points in the form that suits T weights."""
    points = drawn_points(data.comparison)
    if points.empty:
        return None
    draw = {2: line, 3: plane}.get(len(data.comparison.tasks), profiles)
    return draw(data, points)

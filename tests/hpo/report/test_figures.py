import json
from dataclasses import replace
from functools import cache

import numpy as np
import pytest

import hpo.report.report_data
from hpo.compare import fit_surface
from hpo.report.figures import FIGURES
from hpo.report.figures.points_plane import _places
from hpo.report.figures.style import RECIPES, STATIC, TASKS, TEMPLATES, clip, thinned
from hpo.report.report_data import drawn_points, static_points
from search_spaces import ilr
from tests.helpers.report_builder import Builder


@cache
def finished(T):
    return Builder(T=T, tuned=True).data()


@cache
def begun():
    return replace(Builder(phases=()).data(), trajectories={})


@pytest.mark.parametrize("T", [2, 3, 5, 7])
@pytest.mark.parametrize("name", FIGURES)
def test_a_finished_study_has_every_figure(name, T):
    data = finished(T)
    figure = FIGURES[name].figure(data)
    assert figure is not None
    assert json.loads(figure.to_json())["data"]
    assert FIGURES[name].caption(data).endswith(".")


@pytest.mark.parametrize("name", FIGURES)
def test_without_its_data_a_figure_is_none_and_says_why(name):
    data = begun()
    figure = FIGURES[name].figure(data)
    assert figure is None
    assert FIGURES[name].MISSING.endswith(".")


def test_plane_keeps_aitchison_distances():
    from hpo.compare import distance

    random = np.random.default_rng(0)
    v, w = random.dirichlet(np.ones(3), 50), random.dirichlet(np.ones(3), 50)
    between = np.linalg.norm(_places(v) - _places(w), axis=1)
    np.testing.assert_allclose(between, [distance(a, b).aitchison for a, b in zip(v, w, strict=True)])


def test_clip_pulls_in_what_is_far_out_and_keeps_what_it_must():
    values = [1.0, 1.1, 1.2, 1.3, 900.0, np.nan]
    clipped = clip(values, 2.0)
    assert clipped.beyond.tolist() == [False] * 4 + [True, False]
    assert clipped.shown[4] == clipped.top < 3
    assert clip(values, 2.0, keep=[900.0]).beyond.sum() == 0
    assert np.isnan(clip([np.nan], 2.0).top)


def test_thinned_keeps_both_ends():
    table = Builder().trajectory("robust", steps=100_000)
    short = thinned(table, 600)
    assert (len(short), short["step"].iloc[0], short["step"].iloc[-1]) == (600, 0, 99_999)


def _luminance(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def _contrast(a, b):
    low, high = sorted([_luminance(a), _luminance(b)])
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", TEMPLATES)
def test_colours_stand_out_on_light_and_dark(scheme):
    layout = TEMPLATES[scheme]["layout"]
    surface = layout["annotationdefaults"]["bgcolor"]
    assert min(_contrast(color, surface) for color in {STATIC, *RECIPES, *TASKS}) >= 3
    assert _contrast(layout["font"]["color"], surface) >= 7
    assert _contrast(layout["xaxis"]["tickfont"]["color"], surface) >= 4.5


def test_tasks_named_like_numbers_stay_names():
    data = Builder(T=5, tasks=("1", "2", "10", "20", "2021-01-01")).data()
    assert FIGURES["static_points"].figure(data).layout.xaxis.type == "category"


def test_a_surface_without_any_noise_has_a_region_of_one_place():
    data = Builder(T=3).data()
    search = data.comparison.search
    points = search["kind"].isin(("static", "equal")) & search["score"].notna()
    z = ilr(search.loc[points, [f"geometric/{task}" for task in data.comparison.tasks]].to_numpy(dtype=float))
    search.loc[points, "score"] = ((z - z.mean(axis=0)) ** 2).sum(axis=1)
    surface = fit_surface(search, data.comparison.tasks)
    assert surface.located
    drawn = FIGURES["static_points"].figure(replace(data, comparison=replace(data.comparison, surface=surface)))
    assert any("lowest point" in (trace.name or "") for trace in drawn.data)


def test_the_budget_shows_a_recipe_that_is_worse_than_any_point():
    data = Builder(verdict="worse").data()
    low, high = FIGURES["budget"].figure(data).layout.yaxis.range
    assert all(low < score < high for score in data.comparison.budget.table["score"])


@pytest.mark.parametrize("T", [2, 3, 5])
def test_of_many_static_points_the_best_and_some_of_the_others_are_drawn(T, monkeypatch):
    data = finished(T)
    points = static_points(data.comparison)
    assert drawn_points(data.comparison).equals(points)
    monkeypatch.setattr(hpo.report.report_data, "MOST_DRAWN", 8)
    drawn = drawn_points(data.comparison)
    assert list(drawn["arm"][:4]) == list(points["arm"][:4])
    assert drawn["arm"].iloc[-1] == points["arm"].iloc[-1]
    assert len(drawn) == drawn["arm"].nunique() == 8
    arms = set(drawn["arm"])
    for name in ("static_points", "distance"):
        figure = FIGURES[name].figure(data)
        named = {arm for trace in figure.data for arm in (trace.customdata if trace.customdata is not None else ())}
        assert named <= arms
        assert f"Of {len(points)} points, the best 4 and as many of the others" in FIGURES[name].caption(data)

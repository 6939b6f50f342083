import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import hpo.report.tables
from hpo.compare import compare
from hpo.core.number_format import NOTHING, ratio, signed, weight
from hpo.report import html_page as page
from hpo.report import write_report
from hpo.report.arm_labels import arm_label
from hpo.report.tables import (
    all_trials,
    arms_table,
    cost_table,
    distances_table,
    figure4_table,
    gap_table,
    metrics_table,
    ranks_table,
    surface_table,
    trials_caption,
    trials_table,
)
from tests.helpers.report_builder import Builder

UNFINISHED = [(), ("references",), ("references", "static"), ("references", "static", "sweep")]


def test_the_arms_table_marks_recommended_and_best_static():
    data = Builder().data()
    table = arms_table(data).set_index("Arm")
    comparison = data.comparison
    assert "recommended" in table.loc[arm_label(comparison.recommended), "Notes"]
    assert "best static" in table.loc[arm_label(comparison.verdict.static), "Notes"]
    assert not any(arm.startswith("single task") for arm in table.index)
    row = comparison.arms.iloc[0]
    assert table.iloc[0]["Score, validation"] == signed(row["score_val"])
    assert table.iloc[0]["w age"] == weight(row["w/age"])


def test_arms_that_lost_trials_say_so():
    lost, gone = "gradnorm_static/paper/tail", "frozen/loss"
    data = Builder(diverged=(lost, gone), seeds=4).data()
    table = arms_table(data).set_index("Arm")
    assert table.loc[arm_label(lost), "Notes"].endswith("diverged: seed 2, 3 of 4 seeds")


def test_an_arm_of_which_nothing_finished_stays_in_the_table():
    row = arms_table(Builder(diverged=("frozen/loss",), diverged_seeds=(1, 2), seeds=2).data()).set_index("Arm")
    assert row.loc["first-step weights (1 / first loss)", "Notes"] == "diverged: seed 1 and 2"
    assert row.loc["first-step weights (1 / first loss)", "Seeds"] == NOTHING


def test_the_metrics_table_starts_with_the_single_task_networks():
    table = metrics_table(Builder().data())
    assert table["Arm"][0] == "single-task networks"
    assert list(table.columns[2:-1]) == [
        "income: AUC (higher is better)",
        "never_married: AUC (higher is better)",
        "age: MAE (lower is better)",
    ]
    assert table.iloc[0, 2].startswith("0.94")


def test_cost_distances_and_ranks():
    comparison = Builder().data().comparison
    assert cost_table(comparison)["Steps, times static"][0] == "1"
    assert list(distances_table(comparison)["Recipe"]) == list(comparison.distances["recipe"])
    for told, (_, row) in zip(ranks_table(comparison)["Rank"], comparison.ranks.iterrows(), strict=True):
        assert told == f"{row['rank']} of 25 ({row['rank_low']:.0f} to {row['rank_high']:.0f})"
    match = comparison.budget.table.iloc[0]
    most = f"{match['k_high']}" if match["k_high"] < 24 else "24 or more"
    told = f"{match['k']} ({match['k_low']} to {most})"
    told = f"more than 24 ({match['k_low']} or more)" if match["beyond"] else told
    assert ranks_table(comparison)["Static points to match"][0] == told


def test_only_a_problem_made_for_it_has_a_known_optimum_to_be_far_from():
    heads = ["Aitchison distance to the known best", "Largest factor to the known best"]
    builder = Builder()
    comparison = builder.data().comparison
    assert not set(heads) & set(distances_table(comparison))
    far = comparison.distances.assign(known_aitchison=1.25, known_l2=0.5, known_factor=3.0)
    table = distances_table(replace(comparison, distances=far))
    assert table[heads].iloc[0].tolist() == ["1.25", "3"]


def test_points_drawn_at_random_have_a_share_with_its_interval():
    builder = Builder()
    comparison = compare(builder.trials(), builder.scoring, 1.0, random_points=True)
    table, found = ranks_table(comparison), comparison.ranks.iloc[0]
    assert table["Random points that are better"][0] == (
        f"{found['better']:.0%} ({found['better_low']:.0%} to {found['better_high']:.0%})"
    )
    assert "(" not in table["Rank"][0]


def test_the_lowest_point_of_the_response_surface_is_a_table_if_it_is_located():
    data = Builder().data()
    surface = replace(
        data.comparison.surface, identified=True, located=True, score=-1.5, optimum=np.array([2, 0.9, 0.1])
    )
    located = surface_table(replace(data.comparison, surface=surface))
    assert located.to_dict("records") == [
        {"Score there": "-1.50", "w income": "2", "w never_married": "0.9", "w age": "0.1"}
    ]
    assert surface_table(replace(data.comparison, surface=replace(surface, located=False))).empty


def test_figure_4_and_the_gap():
    comparison = Builder().data().comparison
    assert list(figure4_table(comparison)["Recipe"]) == list(comparison.figure4["recipe"])
    gaps = gap_table(comparison).set_index("arm")
    for _, row in comparison.arms[comparison.arms["kind"] != "single_task"].iterrows():
        assert gaps.loc[row["arm"], "Gap, percentage points"] == signed(row["gap"])
        assert 0.2 < row["gap"] < 1.6  # test was built 0.8 worse than train


def test_the_metrics_table_marks_the_pareto_front():
    data = Builder().data()
    table = metrics_table(data).set_index("arm")["Pareto front"]
    arms = data.comparison.arms.set_index("arm")["dominated_by"]
    for arm, by in arms.items():
        if not arm.startswith("single_task"):
            assert table[arm] == (f"dominated by {arm_label(by)}" if by else "on the front")
    assert "on the front" in set(table)


@pytest.mark.parametrize("T", [2, 3, 5])
def test_csv_holds_every_number_as_it_is(T, tmp_path):
    data = Builder(T=T).data()
    files = write_report(data, tmp_path / "new" / "folder")
    arms = pd.read_csv(files["arms"], dtype=str)  # pandas 2 reads floats to within rounding, astype exactly
    expected = data.comparison.arms
    assert list(arms["arm"]) == list(expected["arm"])
    for column in expected.select_dtypes("number"):
        np.testing.assert_array_equal(arms[column].astype(float), expected[column].astype(float))
    trials = pd.read_csv(files["trials"], dtype=str).set_index("identity")
    assert trials.index.is_unique
    assert len(trials) == len(Builder(T=T).trials())
    for table, score in ((data.comparison.search, "score"), (data.comparison.confirm, "score_test")):
        column = "score_val" if score == "score" else score
        np.testing.assert_array_equal(trials.loc[table["identity"], column].astype(float), table[score])


def test_trials_link_to_their_runs():
    table = trials_table(Builder().data())
    assert table["Run"].str.startswith("http://127.0.0.1:5000/").all()
    assert "diverged" in set(table["Status"])


@pytest.mark.parametrize("phases", UNFINISHED)
def test_an_unfinished_study_has_a_report(phases, tmp_path):
    files = write_report(Builder(phases=phases).data(), tmp_path)
    assert set(files) == {"html", "markdown", "json", "arms", "trials"}
    assert "No verdict" in files["html"].read_text()
    names = ["arms.csv", "comparison.json", "report.html", "report.md", "trials.csv"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert json.loads(files["json"].read_text())["verdict"]["kind"] == "none"


def test_markdown_says_what_the_page_says(tmp_path):
    data = Builder(verdict="worse").data()
    text = write_report(data, tmp_path)["markdown"].read_text()
    assert text.startswith("# census-quick: GradNorm loses to the static search\n")
    for said in (
        "## Alarms",
        "## Arms on the test split",
        "## Cost of finding weights",
        "- **regret**: The score of an arm minus ",
        '"age": 2.9',
        "```yaml\nname: census-quick",
        "## Trials",
    ):
        assert said in text
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.count(" | ") for line in rows[:2]} == {rows[0].count(" | ")}


def test_markdown_keeps_text_from_becoming_markup(tmp_path):
    data = Builder(tasks=("<script>", "a|b", "c")).data()
    text = write_report(data, tmp_path)["markdown"].read_text()
    assert "w \\<script\\>" in text
    assert "w a\\|b" in text


@pytest.mark.parametrize("arm", ["gradnorm_static/paper/tail", "gradnorm/robust/alpha=0.25"])
def test_the_distance_in_the_verdict_is_that_of_its_arm_not_the_smallest(arm):
    comparison = Builder().data().comparison
    comparison = replace(comparison, verdict=replace(comparison.verdict, arm=arm))
    kind, recipe, average = arm.split("/")
    table = comparison.distances.set_index(["recipe", "average"])["factor"]
    row = page._statistics(comparison)[-1]
    assert row.value == ratio(table[recipe, average if kind == "gradnorm_static" else "arithmetic"])
    assert f"({recipe} recipe, " in row.name


def test_of_a_large_search_the_worst_trials_are_left_out_of_the_table(monkeypatch):
    data = Builder().data()
    every = trials_table(data)
    assert trials_caption(data) == f"All {len(every)} trials (also in trials.csv)"
    monkeypatch.setattr(hpo.report.tables, "MOST_ROWS", len(every) - 5)
    table = trials_table(data)
    left_out = every[~every["Identity"].isin(table["Identity"])]
    assert list(left_out["Identity"]) == list(data.comparison.search["identity"][-5:])
    assert trials_caption(data).startswith(f"{len(table)} of {len(every)} trials, without the worst of the search")
    assert len(all_trials(data)) == len(every)
    monkeypatch.setattr(hpo.report.tables, "MOST_ROWS", 1)
    assert set(trials_table(data)["Phase"]) >= {"confirm"}

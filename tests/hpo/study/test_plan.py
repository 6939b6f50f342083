"""From a study to its trials: arms, seeds, counts and identities."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hpo.core.errors import StudyError
from hpo.core.trial import PlannedTrial, TrialConfig
from hpo.problems.training_function import FunctionProblem
from hpo.study.phases.base import chosen_arms
from hpo.study.phases.confirm import confirm_fixed, confirm_trials
from hpo.study.phases.gradnorm_sweeps import sweep_recipe, sweep_trial
from hpo.study.phases.references import reference_trials
from hpo.study.phases.static_search import static_trials
from hpo.study.plan import Plan, short_weights
from hpo.study.plan_table import needs_in_words
from hpo.study.schedule import Schedule
from hpo.study.spec import Resources, Study
from tests.helpers.plans import arms, make_plan, sizes
from tests.helpers.rank_functions import shared
from tests.helpers.small_problem import TASKS, Small, run

AVERAGES = ("arithmetic", "geometric", "tail")


def search_table(plan: Plan, scores: dict[str, float], averages: dict[str, dict[str, list[float]]]) -> pd.DataFrame:
    """A scored search, best first: ``averages`` by GradNorm arm and average."""
    rows: list[dict[str, Any]] = []
    for arm, score in scores.items():
        kind, *rest = arm.split("/")
        row: dict[str, Any] = {"arm": arm, "kind": kind, "recipe": "", "alpha": np.nan}
        row |= {"score": score, "objective": score}
        if kind == "gradnorm":
            row |= {"recipe": rest[0], "alpha": float(rest[1].removeprefix("alpha="))}
            row |= {f"{a}/{t}": w for a, ws in averages[arm].items() for t, w in zip(TASKS, ws, strict=True)}
        rows.append(row)
    return pd.DataFrame(rows).sort_values("score", kind="stable").reset_index(drop=True)


CENTRE = {average: [1.0, 1.0, 1.0] for average in AVERAGES}


def chosen_in(plan: Plan, search: pd.DataFrame) -> list[PlannedTrial]:
    """Trials that the phases of a plan choose from a scored search."""
    return confirm_trials(plan, chosen_arms(Schedule(plan, runs=False).phases, search))


def test_references_are_single_tasks_and_uncertainty() -> None:
    trials = reference_trials(make_plan())
    assert [(p.arm, p.config.method, p.config.settings) for p in trials] == [
        ("single_task/near", "single_task", {"task": "near"}),
        ("single_task/far", "single_task", {"task": "far"}),
        ("single_task/tiny", "single_task", {"task": "tiny"}),
        ("uncertainty", "uncertainty", {}),
    ]
    assert {p.phase for p in trials} == {"references"}
    assert arms(reference_trials(make_plan(references=["single_task"]))) == [f"single_task/{task}" for task in TASKS]


def test_static_points_are_numbered_after_equal_weights() -> None:
    trials = static_trials(make_plan(static={"points": 4}))
    assert arms(trials) == ["equal", "static/01", "static/02", "static/03"]
    assert (trials[0].config.method, trials[0].config.settings) == ("equal", {})
    for planned in trials[1:]:
        weights = planned.config.settings["weights"]
        assert list(weights) == list(TASKS)
        assert sum(weights.values()) == pytest.approx(3, rel=1e-5)
        assert len(set(weights.values())) > 1  # not equal weights again


def test_the_numbers_of_more_than_a_hundred_points() -> None:
    numbered = arms(static_trials(make_plan(static={"points": 121})))
    assert (numbered[9], numbered[99], numbered[120]) == ("static/09", "static/99", "static/120")


def test_explicit_points_are_scaled_and_equal_weights_come_once() -> None:
    points = [[2, 2, 2], [4, 1, 1], {"tiny": 4, "near": 1, "far": 1}, [8, 2, 2]]
    trials = static_trials(make_plan(static=points))
    assert [(p.arm, p.config.settings) for p in trials] == [
        ("equal", {}),
        ("static/01", {"weights": {"near": 2.0, "far": 0.5, "tiny": 0.5}}),
        ("static/02", {"weights": {"near": 0.5, "far": 0.5, "tiny": 2.0}}),  # [8, 2, 2] is the direction of 01
    ]


TASK_LIST = "expected a number for each of the tasks near, far, tiny"


@pytest.mark.parametrize(
    ("static", "message"),
    [
        ([[1, 2, 3], [1, 2]], f"static[1]: {TASK_LIST}, got (1.0, 2.0)"),
        ([{"near": 1, "far": 2}], f"static[0]: {TASK_LIST}, got {{'near': 1.0, 'far': 2.0}}"),
        ([{"near": 1, "far": 2, "big": 3}], f"static[0]: {TASK_LIST}, got {{'near': 1.0, 'far': 2.0, 'big': 3.0}}"),
        ({"ratio": 0.5}, "static.ratio: expected a number > 1 and <= 1e+300, got 0.5"),
    ],
)
def test_points_that_do_not_fit_the_tasks(static: Any, message: str) -> None:
    with pytest.raises(StudyError) as caught:
        make_plan(static=static)
    assert str(caught.value) == message


def test_weights_known_to_be_best_are_an_arm_of_the_confirm_phase() -> None:
    problem = Small()
    problem.known_weights = {"tiny": 8, "near": 2, "far": 2}
    content = {"name": "small", "problem": {"name": "small", "size": 3}, "static": {"points": 6}, "seeds": 2}
    plan = Plan(Study.model_validate(content | {"shortlist": "off"}), problem)
    last = confirm_fixed(plan)[-1]
    assert last.arm == "known_optimum"
    assert last.config.settings == {"weights": {"near": 0.5, "far": 0.5, "tiny": 2.0}}
    assert sizes(plan)["confirm"][0] == sizes(make_plan())["confirm"][0] + 1


def test_every_search_trial_has_the_search_seed_and_no_test_split() -> None:
    plan = make_plan(seed=5, seeds=3)
    search = [*reference_trials(plan), *static_trials(plan), sweep_trial(plan, "paper", {"alpha": 1.0})]
    assert {(p.config.seed, p.config.test) for p in search} == {(5, False)}


def test_every_confirm_trial_has_a_fresh_seed_and_the_test_split() -> None:
    plan = make_plan(seed=5, seeds=3)
    chosen = chosen_in(plan, search_table(plan, {"equal": 0.0}, {}))
    trials = confirm_fixed(plan) + chosen
    assert {(p.config.seed, p.config.test, p.phase) for p in trials} == {(s, True, "confirm") for s in (6, 7, 8)}
    for seed in (6, 7, 8):
        assert arms([p for p in trials if p.config.seed == seed]) == arms(trials)


def test_epochs_are_the_study_s_or_else_the_problem_s() -> None:
    assert {p.config.epochs for p in static_trials(make_plan())} == {Small.epochs}
    assert {p.config.epochs for p in static_trials(make_plan(epochs=7))} == {7}


def test_a_config_carries_problem_arguments_and_data() -> None:
    config = static_trials(make_plan())[0].config
    assert (config.problem, config.arguments, config.data_hash) == ("small", {"size": 3}, "small")


def test_fixed_confirm_arms_are_references_and_frozen_rules() -> None:
    assert arms(confirm_fixed(make_plan())) == [
        *(f"single_task/{task}" for task in TASKS),
        "equal",
        "uncertainty",
        "frozen/loss",
        "frozen/gradient",
    ]


def test_the_search_chooses_the_best_static_points_and_the_best_alpha() -> None:
    plan = make_plan(static={"points": 6}, confirm={"top_static": 2})
    scores = {
        "uncertainty": -20.0,  # no point of the static search
        "static/04": -9.0,
        "gradnorm/robust/alpha=0.5": -8.0,
        "equal": -7.0,
        "static/01": -6.0,
        "gradnorm/paper/alpha=2": -5.0,
        "gradnorm/robust/alpha=1": -4.0,
        "gradnorm/paper/alpha=0": np.nan,  # diverged
    }
    best = {"arithmetic": [0.1234567, 1.0, 1.8765433], "geometric": [0.5, 0.5, 2.0], "tail": [1.5, 0.75, 0.75]}
    averages = dict.fromkeys(scores, CENTRE) | {"gradnorm/robust/alpha=0.5": best}
    chosen = chosen_in(plan, search_table(plan, scores, averages))
    assert arms(chosen) == [
        "static/04",
        "equal",
        "gradnorm/paper/alpha=2",
        *(f"gradnorm_static/paper/{average}" for average in AVERAGES),
        "gradnorm/robust/alpha=0.5",
        *(f"gradnorm_static/robust/{average}" for average in AVERAGES),
    ]
    settings = {p.arm: p.config.settings for p in chosen}
    static = {p.arm: p.config.settings for p in static_trials(plan)}
    assert settings["static/04"] == static["static/04"]
    assert settings["equal"] == {}
    assert settings["gradnorm/robust/alpha=0.5"] == {"recipe": "robust", "alpha": 0.5}
    robust = {average: settings[f"gradnorm_static/robust/{average}"]["weights"] for average in AVERAGES}
    assert robust == {
        "arithmetic": {"near": 0.123457, "far": 1.0, "tiny": 1.87654},
        "geometric": {"near": 0.5, "far": 0.5, "tiny": 2.0},
        "tail": {"near": 1.5, "far": 0.75, "tiny": 0.75},
    }


def test_only_the_averages_asked_for() -> None:
    plan = make_plan(gradnorm={"recipes": ["paper"]}, confirm={"averages": ["tail", "arithmetic"]})
    table = search_table(plan, {"gradnorm/paper/alpha=1": 0.0}, {"gradnorm/paper/alpha=1": CENTRE})
    assert arms(chosen_in(plan, table)) == [
        "gradnorm/paper/alpha=1",
        "gradnorm_static/paper/arithmetic",
        "gradnorm_static/paper/tail",
    ]


def test_a_search_without_any_score_chooses_nothing() -> None:
    plan = make_plan()
    scores = {"equal": np.nan, "static/01": np.nan, "gradnorm/paper/alpha=0": np.nan}
    assert chosen_in(plan, search_table(plan, scores, {"gradnorm/paper/alpha=0": CENTRE})) == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"references": ["single_task"], "seeds": 5},
        {"static": [[1, 1, 1], [4, 1, 1]], "confirm": {"top_static": 2, "averages": ["tail"]}},
        {"static": {"points": 1}, "confirm": {"top_static": 3}, "gradnorm": {"recipes": ["robust"], "trials": 4}},
    ],
)
def test_size_counts_what_the_lists_hold(fields: dict[str, Any]) -> None:
    plan = make_plan(**fields)
    size = sizes(plan)
    points = [p.arm for p in static_trials(plan)]
    scores = {arm: float(i) for i, arm in enumerate(points)}
    recipes = plan.study.gradnorm.recipes
    scores |= {f"gradnorm/{recipe}/alpha=1": 0.0 for recipe in recipes}
    table = search_table(plan, scores, {f"gradnorm/{recipe}/alpha=1": CENTRE for recipe in recipes})
    confirm = confirm_fixed(plan) + chosen_in(plan, table)
    assert size["references"] == (len(arms(reference_trials(plan))), len(reference_trials(plan)))
    assert size["static"] == (len(points), len(static_trials(plan)))
    assert size["sweep"] == (len(recipes) * plan.study.gradnorm.trials,) * 2
    assert size["confirm"][1] == len(confirm)
    assert size["confirm"][0] * plan.study.seeds == size["confirm"][1]


def test_a_trial_s_name_is_its_arm_and_seed() -> None:
    assert static_trials(make_plan(seed=4))[1].name == "static/01 seed 4"
    assert sweep_trial(make_plan(), "robust", {"alpha": 0.5}).name == "gradnorm/robust/alpha=0.5 seed 0"


def test_sweep_parameters_have_four_digits_in_the_label_and_in_training() -> None:
    plan = make_plan(gradnorm={"learning_rate": [0.001, 1.0]})
    planned = sweep_trial(plan, "paper", {"alpha": 1.23456789, "learning_rate": 0.02345678})
    assert planned.arm == "gradnorm/paper/alpha=1.235,lr=0.02346"
    assert planned.config.settings == {"recipe": "paper", "alpha": 1.235, "learning_rate": 0.02346}


@pytest.mark.parametrize("bound", [0.12344, 1.23456])
def test_rounding_does_not_leave_the_range(bound: float) -> None:
    plan = make_plan(gradnorm={"alpha": [0.12344, 1.23456]})
    config = sweep_trial(plan, "paper", {"alpha": bound}).config
    assert config.settings["alpha"] == bound
    assert sweep_recipe(plan, config) == "paper"


def test_a_sweep_recognises_its_trials() -> None:
    plan = make_plan(gradnorm={"recipes": ["robust"], "alpha": [0.5, 2.0]})
    own = sweep_trial(plan, "robust", {"alpha": 1.0}).config
    assert sweep_recipe(plan, own) == "robust"
    again = TrialConfig(**asdict(own))  # as it comes back from MLflow
    assert sweep_recipe(plan, again) == "robust"
    others = {
        "recipe": sweep_trial(plan, "paper", {"alpha": 1.0}).config,
        "below": replace(own, settings={"recipe": "robust", "alpha": 0.4}),
        "above": replace(own, settings={"recipe": "robust", "alpha": 2.1}),
        "searches lr": replace(own, settings={"recipe": "robust", "alpha": 1.0, "learning_rate": 0.1}),
        "seed": replace(own, seed=1),
        "epochs": replace(own, epochs=99),
        "confirm": replace(own, test=True),
        "data": replace(own, data_hash="other"),
        "arguments": replace(own, arguments={"size": 4}),
        "static": static_trials(plan)[1].config,
    }
    assert {name: sweep_recipe(plan, config) for name, config in others.items()} == dict.fromkeys(others)


def test_a_sweep_over_two_parameters_refuses_trials_of_one() -> None:
    one, two = make_plan(), make_plan(gradnorm={"learning_rate": [0.01, 0.1]})
    assert sweep_recipe(two, sweep_trial(one, "paper", {"alpha": 1.0}).config) is None
    assert sweep_recipe(two, sweep_trial(two, "paper", {"alpha": 1.0, "learning_rate": 0.05}).config) == "paper"
    settings = {"recipe": "paper", "alpha": 1.0, "learning_rate": 0.5}
    outside = replace(sweep_trial(one, "paper", {"alpha": 1.0}).config, settings=settings)
    assert sweep_recipe(two, outside) is None


def test_a_study_planned_twice_has_the_same_identities() -> None:
    one, two = make_plan(static={"design": "sobol"}), make_plan(static={"design": "sobol"})
    identities = [[p.config.identity for p in static_trials(plan) + confirm_fixed(plan)] for plan in (one, two)]
    assert identities[0] == identities[1]
    assert len(set(identities[0])) == len(identities[0])


def test_the_order_of_task_names_in_a_point_makes_no_other_trial() -> None:
    one = static_trials(make_plan(static=[{"near": 4, "far": 1, "tiny": 1}]))[1]
    two = static_trials(make_plan(static=[{"tiny": 1, "far": 1, "near": 4}]))[1]
    assert one.config.identity == two.config.identity


def test_the_weights_shown_are_those_trained_with() -> None:
    weights = short_weights(TASKS, np.array([1 / 3, 1e-7 / 3, 3 - 1 / 3]))
    assert weights == {"near": 0.333333, "far": 3.33333e-08, "tiny": 2.66667}
    planned = static_trials(make_plan(static=[list(weights.values())]))[1]
    trained = run(planned.config).averages["arithmetic"]
    assert trained == pytest.approx(planned.config.settings["weights"], rel=2e-6)
    assert short_weights(TASKS, [trained[task] for task in TASKS]) == planned.config.settings["weights"]


def test_the_baseline_is_an_arm_of_the_confirm_phase_scaled_to_sum_to_the_number_of_tasks() -> None:
    plan = make_plan(baseline={"far": 1, "near": 1, "tiny": 4})
    (arm,) = {
        p.config.identity: p for p in confirm_fixed(plan) if p.arm == "baseline" and p.config.seed == 1
    }.values()
    assert arm.config.settings == {"weights": {"near": 0.5, "far": 0.5, "tiny": 2.0}}


def test_trials_do_not_depend_on_priorities_and_limits() -> None:
    plain, other = make_plan(), make_plan(priorities={"near": 3, "far": 0}, limits={"tiny": 2})
    for trials in (confirm_fixed, static_trials, reference_trials):
        assert [p.config.identity for p in trials(plain)] == [p.config.identity for p in trials(other)]
    assert [how.priority for how in plain.scoring.values()] == [1, 1, 1]
    assert [(how.priority, how.limit) for how in other.scoring.values()] == [(3, None), (0, None), (1, 2)]


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"priorities": {"x": 1}}, "priorities: expected tasks of the problem (near, far, tiny), got 'x'"),
        ({"limits": {"near": 1, "x": 1}}, "limits: expected tasks of the problem (near, far, tiny), got 'x'"),
        (
            {"priorities": dict.fromkeys(TASKS, 0)},
            "priorities: expected a number > 0 for at least one task, got {'near': 0.0, 'far': 0.0, 'tiny': 0.0}",
        ),
    ],
)
def test_priorities_and_limits_of_other_tasks_are_refused(fields: dict[str, Any], line: str) -> None:
    with pytest.raises(StudyError) as error:
        make_plan(**fields)
    assert str(error.value) == line


@pytest.mark.parametrize("baseline", ["equal", {"near": 7, "far": 7, "tiny": 7}])
def test_equal_weights_of_today_are_the_arm_of_equal_weights(baseline: Any) -> None:
    plan = make_plan(baseline=baseline)
    assert plan.baseline is not None
    assert plan.baseline.arm.key == "equal"
    assert arms(confirm_fixed(plan)) == arms(confirm_fixed(make_plan()))


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        ({"near": 1, "far": 1}, "a number for each of the tasks near, far, tiny, got {'near': 1.0, 'far': 1.0}"),
        (
            {"near": 1, "far": 1, "tiny": 1, "huge": 1},
            "a number for each of the tasks near, far, tiny, got {'near': 1.0,",
        ),
        ({"near": 1, "far": 1, "tiny": 1e-300}, "weights >= 1.2e-38 of a sum of 3, got 1.5e-300"),
    ],
)
def test_a_baseline_of_other_tasks_is_refused(baseline: dict[str, float], words: str) -> None:
    with pytest.raises(StudyError) as error:
        make_plan(baseline=baseline)
    assert str(error.value).startswith(f"baseline: expected {words}")


def test_a_baseline_may_have_numbers_whose_sum_is_infinite() -> None:
    baseline = make_plan(baseline={"near": 1e308, "far": 1e308, "tiny": 5e307}).baseline
    assert baseline is not None
    assert baseline.settings["weights"] == {"near": 1.2, "far": 1.2, "tiny": 0.6}


def test_without_a_search_references_equal_weights_and_the_baseline_alone_are_confirmed_at_once() -> None:
    plan = make_plan(static="off", gradnorm="off", shortlist={}, baseline={"near": 1, "far": 2, "tiny": 3})
    assert arms(confirm_fixed(plan)) == [*(f"single_task/{task}" for task in TASKS), "equal", "baseline"]


def test_a_study_without_a_static_search_confirms_equal_weights_to_compare_with() -> None:
    plan = make_plan(static="off", references=["single_task"])
    assert "equal" in arms(confirm_fixed(plan))
    assert static_trials(plan) == []


def test_trials_of_several_processes_are_others_and_are_told() -> None:
    one, two = (
        Plan(Study(name="ranks", problem="any", resources=Resources(workers=workers)), FunctionProblem(shared, {}))
        for workers in (1, 2)
    )
    assert [reference_trials(plan)[0].config.workers for plan in (one, two)] == [1, 2]
    assert needs_in_words(two).startswith("Each trial takes 2 processes of 1 CPU. A training function trains one")
    of_class = needs_in_words(make_plan(resources={"workers": 2}))
    assert of_class.startswith("Each trial takes 2 processes of 1 CPU. Trials of several processes are trained one")

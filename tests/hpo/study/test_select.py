"""Studies whose trials count at their best epoch on validation, in every phase."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import tests.helpers.studies
from hpo.compare import compare
from hpo.core.trial import EpochMetrics, TrialConfig, TrialResult
from hpo.problems.census import Census
from hpo.report.answers import answers
from hpo.study.phases.confirm import confirm_fixed
from hpo.study.plan import Plan
from hpo.study.schedule import Next
from hpo.study.spec import Study as Spec
from hpo.study.trial_rows import trial_table
from hpo.training.trial import run_trial
from tests.helpers.small_problem import TASKS
from tests.helpers.studies import Fate, Study, fine, small, train

SMALL_CENSUS = {"preset": "small", "hidden": 32, "epochs": 3, "batch_size": 512, "learning_rate": 0.03}


def train_and_overfit(config: TrialConfig, fate: Fate = fine) -> TrialResult:
    """Return the result of `train` at epoch 2 of 3; epoch 1 is better on one task alone, the last is worst."""
    result = train(config, fate)
    at_best, test = result.validation, result.test
    early = {task: value * (0.99 if task == TASKS[0] else 2.0) for task, value in at_best.items()}
    others = dict.fromkeys(test, 9.0)
    epochs = [EpochMetrics(1, early, others, others), EpochMetrics(2, at_best, test, test)]
    kept = epochs[1:] if config.method == "single_task" else epochs
    return replace(result, validation=dict.fromkeys(TASKS, 9.0), test={}, best_epochs=kept)


def test_every_phase_ranks_by_the_best_epoch_and_a_second_launch_finds_the_same(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tests.helpers.studies, "train", train_and_overfit)
    study = Study(small(select="best"))
    study.drive(study.schedule(), slots=3, stop=10)
    schedule = study.schedule()
    study.drive(schedule, slots=1)
    table = schedule.table()
    assert set(table["epoch"]) == {2}
    assert not table.duplicated(["arm", "identity"]).any()
    monkeypatch.undo()
    last = Study(small())
    plain = last.schedule()
    last.drive(plain, slots=1)
    assert [config.select for config in study.configs.values()] == ["best"] * len(study.configs)
    assert set(study.configs).isdisjoint(last.configs)
    assert table["arm"].tolist() == plain.table()["arm"].tolist()
    np.testing.assert_allclose(table["val/far"], plain.table()["val/far"], atol=0.01)  # noise is of the identity
    again = study.schedule()
    assert again.next() is Next.FINISHED
    assert again.table().equals(table)


def test_the_answer_says_which_epochs_counted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tests.helpers.studies, "train", train_and_overfit)
    study = Study(small(select="best"))
    schedule = study.schedule()
    study.drive(schedule, slots=1)
    comparison = compare(schedule.table(), study.plan.scoring, 1.0)
    told = "Keep the network of the best epoch on validation, as every trial here (epoch 2)."
    assert comparison.best_epochs == (2, 2)
    assert told in answers(comparison)[0].sentences


@pytest.mark.slow
def test_on_census_test_metrics_are_those_of_a_trial_that_ends_at_its_best_epoch():
    problem = Census(**SMALL_CENSUS)  # type: ignore[arg-type]
    try:
        problem.prepare()
    except FileNotFoundError as error:
        pytest.skip(f"needs the census data: {error}")
    content = {"name": "census", "problem": {"name": "census", **SMALL_CENSUS}, "seeds": 1, "select": "best"}
    off = dict.fromkeys(("shortlist", "static", "gradnorm"), "off") | {"shortlist": {"seeds": 1}}
    plan = Plan(Spec.model_validate(content | off), problem)
    pairs = [
        (planned, run_trial(planned.config, problem, id, torch.device("cpu"))) for planned in confirm_fixed(plan)
    ]
    table = trial_table(pairs, plan.scoring).set_index("arm")
    best = table["epoch"]
    assert best["single_task/income"] == 1  # this step is so large that income alone is soon overfitted
    assert set(best) > {1}
    found = table.loc["equal"]
    (planned,) = (planned for planned, _ in pairs if planned.arm == "equal")
    alone = replace(planned.config, select="last", epochs=int(found["epoch"]))
    ended = run_trial(alone, problem, id, torch.device("cpu"))
    for split, metrics in (("val", ended.validation), ("test", ended.test), ("train", ended.train)):
        assert {task: found[f"{split}/{task}"] for task in metrics} == metrics

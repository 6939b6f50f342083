"""Trials of a problem whose losses may be below 0: what can train does, what cannot is left out and says why."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from balancers.torchjd_methods import installed
from hpo.core.trial import TrialConfig, TrialResult, TrialStatus
from hpo.training.cohort import run_cohort
from hpo.training.methods import METHODS
from hpo.training.stacking_check import check_stackable
from hpo.training.trial import run_trial
from tests.helpers.cohorts import CPU, ONE_OF_EACH, Heard, cohort_of
from tests.helpers.small_problem import Small


class Likelihood(Small):
    """The loss of `far` is a Gaussian log-likelihood whose variance is learned; it falls as the fit gets better.

    Args:
        start: of the log variance; at -5 the loss is below 0 from the first step.
    """

    def __init__(self, start: float) -> None:
        super().__init__()
        self.start = start

    def build_model(self, seed: int) -> nn.Module:
        model = super().build_model(seed)
        model.register_parameter("log_variance", nn.Parameter(torch.tensor(self.start)))
        return model

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        return torch.optim.Adam(model.parameters(), lr=0.1)

    def losses(self, model: Any, batch: Any) -> dict[str, Tensor]:
        losses = super().losses(model, batch)
        scaled = 1e-5 * losses["far"] * torch.exp(-model.log_variance)
        return losses | {"far": 0.5 * (scaled + model.log_variance)}


FROM_THE_FIRST_STEP, LATER = -5.0, 0.5
METHODS_OF_A_STUDY = [
    *ONE_OF_EACH,
    *((name, {}) for name, method in METHODS.items() if method.reference and name not in ("equal", "uncertainty")),
]


def ended(method: str, settings: dict[str, Any], start: float, epochs: int = 2) -> TrialResult:
    config = TrialConfig("small", {}, "small", method, settings, 0, epochs)
    return run_trial(config, Likelihood(start), lambda _: None, CPU)


@pytest.mark.skipif(not installed(), reason="needs torchjd")
@pytest.mark.parametrize(("method", "settings"), METHODS_OF_A_STUDY, ids=str)
def test_a_method_trains_from_a_loss_below_0_or_says_why_not(method: str, settings: dict[str, Any]) -> None:
    found = ended(method, settings, FROM_THE_FIRST_STEP, epochs=1)
    if not METHODS[method].positive(settings):
        assert found.status is TrialStatus.FINISHED, found.error
        return
    assert found.status is TrialStatus.REFUSED
    assert found.error.startswith("losses['far']: expected a")
    assert found.alarms == [f"left out: {found.error}"]


@pytest.mark.parametrize(("method", "settings"), ONE_OF_EACH, ids=str)
def test_every_arm_of_a_study_trains_where_a_loss_falls_below_0(method: str, settings: dict[str, Any]) -> None:
    found = ended(method, settings, LATER)
    assert found.status is TrialStatus.FINISHED, found.error
    assert found.trajectory["L"][0, 1] > 0 > found.trajectory["L"][-1, 1]


def test_a_cohort_trains_on_without_the_trials_that_are_refused() -> None:
    methods = [("frozen", {"rule": "loss"}), ("equal", {}), ("frozen", {"rule": "gradient"})]
    configs = cohort_of(*methods, test=False)
    heard = Heard()
    run_cohort(configs, Likelihood(FROM_THE_FIRST_STEP), CPU, heard)
    results = [heard.results[config.identity] for config in configs]
    assert [result.status for result in results] == ["refused", "finished", "finished"]
    assert [result.together for result in results] == [1, 2, 2]
    assert "losses['far']: expected a finite number > 0 in the first step, since w is 1/L" in results[0].error
    assert heard.whys == []


def test_a_refused_trial_does_not_make_a_problem_unstackable() -> None:
    check_stackable(Likelihood(FROM_THE_FIRST_STEP), cohort_of(("equal", {}), ("frozen", {"rule": "loss"})), CPU)


def test_a_refused_trial_never_runs_again_and_has_no_score() -> None:
    status = TrialStatus.REFUSED
    assert status.is_final
    assert status.has_ended
    assert not status.has_score

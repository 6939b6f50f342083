"""Alarms of a trial, each on a trajectory made for it."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.training.gradnorm_diagnostics import LONG_ENOUGH, UNLIKE, trajectory_alarms

TASKS = ("depth", "normals", "edges")
STEPS = 60


def trajectory(steps: int = STEPS, alpha: float = 0.5) -> dict[str, np.ndarray]:
    """A run as it should be: weights move, and gradient norms swing around their targets."""
    random = np.random.default_rng(0)
    t = np.linspace(0, 1, steps)[:, None]
    w = 1 + t * [0.4, -0.1, -0.3]
    r = 1 + 0.2 * random.uniform(-1, 1, (steps, 3))
    target = r**alpha / (r**alpha).mean(axis=1, keepdims=True)  # its mean is 1, and so is that of G
    around = random.uniform(-0.2, 0.2, (steps, 3))
    return {"w": w, "G": target * (1 + around), "r": r, "L": np.tile([3.0, 1.0, 0.1], (steps, 1))}


def never_met(found: dict[str, np.ndarray], alpha: float) -> dict[str, float]:
    """For each task the sign of what is always more than 5% off its target in the second half, by loops; else 0."""
    steps = [
        (G, [one**alpha for one in r])
        for G, r in zip(found["G"].tolist(), found["r"].tolist(), strict=True)
        if np.isfinite([*G, *r]).all()
    ]
    late, signs = steps[len(steps) // 2 :], {}
    for i, task in enumerate(TASKS):
        off = [G[i] / sum(G) / (target[i] / sum(target)) - 1 for G, target in late]
        signs[task] = float(all(x > 0.05 for x in off)) - float(all(x < -0.05 for x in off))
    return signs


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_a_good_run_sounds_no_alarm(alpha: float) -> None:
    assert list(trajectory_alarms(trajectory(alpha=alpha), TASKS, alpha)) == []
    assert list(never_met(trajectory(alpha=alpha), alpha).values()) == [0, 0, 0]


def test_weights_that_never_moved() -> None:
    found = trajectory()
    found["w"] = 1 + 0.009 * np.linspace(0, 1, STEPS)[:, None] * [1, -1, 0]
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []  # since its norms swing around their targets
    found["G"][:, 1] *= 1.15
    said = list(trajectory_alarms(found, TASKS, 0.5))
    assert said == ["the weights never moved by more than 1%: a larger learning_rate of GradNorm, or more steps"]


def test_one_weight_that_moved_is_enough() -> None:
    found = trajectory()
    found["w"] = np.ones((STEPS, 3)) + 0.02 * np.linspace(0, 1, STEPS)[:, None] * [1, 0, 0]
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []


def test_a_small_weight_moves_by_its_own_size() -> None:
    found = trajectory()
    found["w"] = np.ones((STEPS, 3)) * [2.9, 0.099, 0.001]
    found["w"][-1] = [2.9, 0.099, 0.0011]  # by 10% of itself, by nothing of the whole
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []


@pytest.mark.parametrize(("factor", "side"), [(0.6, "below"), (1.8, "above")])
def test_a_target_that_is_never_met(factor: float, side: str) -> None:
    found = trajectory()
    found["G"][:, 1] *= factor
    signs = never_met(found, 0.5)
    assert signs["normals"] == (1 if side == "above" else -1)
    assert list(trajectory_alarms(found, TASKS, 0.5)) == [
        "GradNorm's target was never met in the second half of the run: the gradient norm of "
        f"{', '.join(tasks)} stayed {at} it"
        for at, sign in (("below", -1), ("above", 1))
        if (tasks := [task for task in TASKS if signs[task] == sign])
    ]


def test_the_target_depends_on_alpha() -> None:
    found = trajectory(alpha=2.0)
    found["r"] = np.tile([2.0, 0.8, 0.2], (STEPS, 1))
    target = found["r"] ** 2.0
    found["G"] = target / target.mean(axis=1, keepdims=True)
    said = {alpha: list(trajectory_alarms(found, TASKS, alpha)) for alpha in (0.0, 2.0)}
    where = [one.split("norm of ")[1] for one in said[0.0]]
    assert where == ["normals, edges stayed below it", "depth stayed above it"]
    assert said[2.0] == []  # mean_j r_j^2 is not 1 here: what counts is where they can be met


def test_a_run_that_begins_on_its_targets_and_leaves_them_is_an_alarm() -> None:
    found = trajectory()
    found["G"][1:, 0] *= 10  # the balanced start: the first step is on target by construction
    assert any("depth stayed above it" in alarm for alarm in trajectory_alarms(found, TASKS, 0.5))


def test_one_step_within_reach_of_the_target_is_enough() -> None:
    found = trajectory()
    found["G"][:, 1] *= 0.6
    found["G"][37] = found["r"][37] = 1.0  # all three on their target
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []


def test_steps_that_were_not_measured_do_not_count() -> None:
    found = trajectory()
    found["G"][:, 1] *= 0.6
    expected = list(trajectory_alarms(found, TASKS, 0.5))
    found["G"][::2] = np.nan
    found["r"][::2] = np.nan
    assert len(expected) == 1
    assert list(trajectory_alarms(found, TASKS, 0.5)) == expected
    found["r"][1] = np.nan  # norms alone are no measurement
    assert list(trajectory_alarms(found, TASKS, 0.5)) == expected
    found["G"][1::2][: STEPS // 2 - LONG_ENOUGH + 1, 0] = np.nan  # one task alone not measured; 19 whole steps left
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []


def test_short_runs_say_nothing() -> None:
    for steps, alarms in ((LONG_ENOUGH - 1, 0), (LONG_ENOUGH, 2)):
        found = trajectory(steps)
        found["w"] = np.ones((steps, 3))
        found["G"][:, 1] *= 0.6
        assert len(list(trajectory_alarms(found, TASKS, 0.5))) == alarms


def test_one_task_or_no_trajectory_gives_no_alarm() -> None:
    one = {name: np.ones((STEPS, 1)) for name in ("w", "G", "r", "L")}
    assert list(trajectory_alarms(one, TASKS[:1], 0.5)) == []
    assert list(trajectory_alarms({}, TASKS, 0.5)) == []


def test_gradient_norms_of_zero_are_below_no_target_that_is_zero_too() -> None:
    found = trajectory()
    found["G"] = np.zeros((STEPS, 3))
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []


@pytest.mark.parametrize(("times", "due"), [(1.0, False), (3.9, False), (4.1, True), (0.26, False), (0.24, True)])
def test_a_first_loss_unlike_the_next_ones(times: float, due: bool) -> None:
    found = trajectory()
    found["L"][0, 1] *= times
    found["L"][5, 1] *= 1000  # one odd batch among the others does not count
    said = [alarm for alarm in trajectory_alarms(found, TASKS, 0.5) if alarm.startswith("L(0)")]
    assert len(said) == due == (times > UNLIKE or times < 1 / UNLIKE)
    for alarm in said:
        assert alarm == (
            f"L(0) of normals is {times:.2g} times the losses of the next 10 steps: "
            "alpha acts on a first batch that does not stand for the data"
        )


def test_learning_fast_is_no_odd_first_batch() -> None:
    found = trajectory(2000)
    found["L"] = np.exp(-np.linspace(0, 12, 2000))[:, None] * [1.0, 50.0, 0.01]  # 160,000-fold within the epoch
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []


@pytest.mark.parametrize("first", [0.0, float("nan"), -5.0])
def test_no_ratio_no_alarm(first: float) -> None:
    found = trajectory()
    found["L"][0, 0] = first
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []

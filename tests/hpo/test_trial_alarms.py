"""Alarms of a trial, each on a trajectory made for it."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.trial_alarms import LONG_ENOUGH, UNLIKE, first_loss_alarms, trajectory_alarms

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
    return {"w": w, "G": target * (1 + around), "r": r}


def never_met(found: dict[str, np.ndarray], alpha: float) -> dict[str, float]:
    """For each task the sign of what is always more than 5% above or below the target, by loops; 0 if neither."""
    signs = {}
    for i, task in enumerate(TASKS):
        off = [
            G[i] / (sum(G) / len(G) * r[i] ** alpha) - 1
            for G, r in zip(found["G"].tolist(), found["r"].tolist(), strict=True)
            if np.isfinite([*G, *r]).all()
        ]
        signs[task] = float(all(x > 0.05 for x in off)) - float(all(x < -0.05 for x in off))
    return signs


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.5])
def test_a_good_run_sounds_no_alarm(alpha: float) -> None:
    assert list(trajectory_alarms(trajectory(alpha=alpha), TASKS, alpha)) == []
    assert list(never_met(trajectory(alpha=alpha), alpha).values()) == [0, 0, 0]


def test_weights_that_never_moved() -> None:
    found = trajectory()
    found["w"] = 1 + 0.009 * np.linspace(0, 1, STEPS)[:, None] * [1, -1, 0]
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
        f"GradNorm's target was never met: in every step the gradient norm of {', '.join(tasks)} stayed {at} it"
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
    assert said[2.0] == []  # mean_j r_j^2 is not 1 here: all norms lie the same factor below, which is no fault


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


def test_nothing_to_say_of_one_task_or_no_trajectory() -> None:
    one = {name: np.ones((STEPS, 1)) for name in ("w", "G", "r")}
    assert list(trajectory_alarms(one, TASKS[:1], 0.5)) == []
    assert list(trajectory_alarms({}, TASKS, 0.5)) == []


def test_gradient_norms_of_zero_are_below_no_target_that_is_zero_too() -> None:
    found = trajectory()
    found["G"] = np.zeros((STEPS, 3))
    assert list(trajectory_alarms(found, TASKS, 0.5)) == []


@pytest.mark.parametrize(("times", "due"), [(1.0, False), (9.9, False), (10.1, True), (0.101, False), (0.099, True)])
def test_a_first_loss_unlike_the_first_epoch(times: float, due: bool) -> None:
    losses = np.array([[3.0 * times, 1.0], *[[3.0, 1.1]] * 7])  # one odd batch of few does not hide in the mean
    epoch = dict(zip(("depth", "normals"), losses.mean(axis=0), strict=True))
    said = list(first_loss_alarms({"depth": 3.0 * times, "normals": 1.0}, epoch, len(losses)))
    assert len(said) == due
    for alarm in said:
        assert alarm == (
            f"L(0) of depth is {times:.2g} times the mean loss of the rest of the first epoch: "
            "alpha acts on a first batch that does not stand for the data"
        )
    assert (times > UNLIKE or times < 1 / UNLIKE) == due


def test_first_losses_of_every_task_are_looked_at() -> None:
    first, epoch = {"depth": 1.0, "normals": 50.0, "edges": 1.0}, {"depth": 20.0, "normals": 1.0, "edges": 1.0}
    assert [one.split()[2] for one in first_loss_alarms(first, epoch, 1000)] == ["depth", "normals"]


@pytest.mark.parametrize(
    ("first", "epoch"),
    [(0.0, 5.0), (float("nan"), 5.0), (5.0, 0.0), (5.0, float("nan")), (-5.0, 1.0), (50.0, None)],
)
def test_no_ratio_no_alarm(first: float, epoch: float | None) -> None:
    means = {} if epoch is None else {"depth": epoch}
    assert list(first_loss_alarms({"depth": first}, means, 1000)) == []


def test_an_epoch_of_one_step_says_nothing_of_its_first_loss() -> None:
    assert list(first_loss_alarms({"depth": 5.0}, {"depth": 0.01}, 1)) == []

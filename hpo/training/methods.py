"""The methods that a study can train with, by name. Depends only on torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from balancers import Balancer, Equal, Frozen, GradNorm, SingleTask, Static, Uncertainty
from balancers.shared_layer import SharedOrAuto
from balancers.torchjd_methods import POSITIVE, installed, torchjd_balancer

Factory = Callable[[Sequence[str], SharedOrAuto, Mapping[str, Any]], Balancer]

# The recipes that a study may name. Each gets the tasks, W, alpha and, if it is searched, `lr`.
RECIPES: dict[str, Callable[..., GradNorm]] = {
    "paper": GradNorm.paper,
    "robust": GradNorm.robust,
    "annealed": GradNorm.annealed,
    "direct": GradNorm.direct,
}
WITHOUT_RATE = ("direct",)  # recipes whose weights have no learning rate to search
OVER_THE_RUN = ("annealed",)  # recipes that need the number of steps of a run


def _gradnorm(tasks: Sequence[str], shared: SharedOrAuto, settings: Mapping[str, Any]) -> Balancer:
    names = {"learning_rate": "lr", "steps": "decay_steps"}
    told = {parameter: settings[name] for name, parameter in names.items() if name in settings}
    return RECIPES[settings["recipe"]](tasks, shared, settings["alpha"], **told)


@dataclass(frozen=True)
class Method:
    """A method for weighting losses that a study can train with.

    Attributes:
        name: in study files, MLflow and arms.
        build: builds a balancer from ``(tasks, shared layer, settings)``.
        label: its name in reports.
        reference: whether `references` of a study may name it.
        stackable: whether `balancers.Stack` supports its balancer, so that its trials are trained in a cohort. Other
            trials are trained one by one and do not slow down a cohort.
        call: the code that creates the balancer in production, for methods that a weights file cannot represent;
            ``tasks`` in it are the names of the tasks.
        missing: returns the package to install before the method can run; empty if none is missing.
        positive: whether it refuses first losses below 0 with given settings (`balancers.weights.LossRefused`).
    """

    name: str
    build: Factory
    label: str
    reference: bool = True
    stackable: bool = False
    call: str = ""
    missing: Callable[[], str] = str
    positive: Callable[[Mapping[str, Any]], bool] = lambda _: False


def _torchjd(name: str, label: str) -> Method:
    return Method(
        name,
        lambda tasks, _, settings: torchjd_balancer(name, tasks, **settings),
        label,
        call=f'balancers.torchjd_methods.torchjd_balancer("{name}", tasks)',
        missing=lambda: "" if installed() else "pip install 'gradsweep[torchjd]'",
        positive=lambda _: name in POSITIVE,
    )


def _table(*methods: Method) -> dict[str, Method]:
    return {method.name: method for method in methods}


# One line adds a method: references, cohorts, labels and the report's advice use it.
METHODS = _table(
    Method(
        "static", lambda tasks, _, s: Static(tasks, s["weights"]), "fixed weights", reference=False, stackable=True
    ),
    Method("equal", lambda tasks, _, __: Equal(tasks), "equal weights", stackable=True),
    Method(
        "single_task",
        lambda tasks, _, s: SingleTask(tasks, s["task"]),
        "single task",
        reference=False,
        stackable=True,
    ),
    Method(
        "uncertainty",
        lambda tasks, _, __: Uncertainty(tasks),
        "uncertainty weighting",
        stackable=True,
        call="balancers.Uncertainty(tasks)",
    ),
    Method(
        "frozen",
        lambda tasks, shared, s: Frozen(tasks, s["rule"], shared),
        "first-step weights",
        reference=False,
        stackable=True,
        positive=lambda s: bool(s["rule"] == "loss"),
    ),
    Method(
        "gradnorm", _gradnorm, "GradNorm", reference=False, stackable=True, positive=lambda s: bool(s["alpha"] > 0)
    ),
    _torchjd("dwa", "DWA"),
    _torchjd("famo", "FAMO"),
    _torchjd("geometric_mean", "geometric mean of the losses"),
    _torchjd("imtl_l", "IMTL-L"),
    _torchjd("random", "random weights in every step (RLW)"),
    _torchjd("aligned_mtl", "Aligned-MTL"),
    _torchjd("cagrad", "CAGrad"),
    _torchjd("excess_mtl", "ExcessMTL"),
    _torchjd("fairgrad", "FairGrad"),
    _torchjd("gradvac", "GradVac"),
    _torchjd("imtl_g", "IMTL-G"),
    _torchjd("mgda", "MGDA"),
    _torchjd("nash_mtl", "Nash-MTL"),
    _torchjd("pcgrad", "PCGrad"),
    _torchjd("upgrad", "UPGrad"),
)


def reference_names() -> list[str]:
    """Return the names that a study's `references` may contain besides ``single_task``, one network per task."""
    return [method.name for method in METHODS.values() if method.reference]


def build_balancer(
    method: str, settings: Mapping[str, Any], tasks: Sequence[str], shared: SharedOrAuto, steps: int
) -> Balancer:
    """Build the balancer of a trial.

    Args:
        method: a key of `METHODS`.
        settings: of the method.
        tasks: names, in the problem's order.
        shared: W.
        steps: optimizer steps of the run; used only by the recipes in `OVER_THE_RUN`.
    """
    over_the_run = {"steps": steps} if settings.get("recipe") in OVER_THE_RUN else {}
    return METHODS[method].build(tasks, shared, {**settings, **over_the_run})

"""Arms in words: "GradNorm static (robust recipe, tail average)" for ``gradnorm_static/robust/tail``."""

from __future__ import annotations

from collections.abc import Callable

from hpo.core.arm import BASELINE, KNOWN, REFERENCE, REFINED, Arm
from hpo.training.methods import METHODS

_RULES = {"loss": "1 / first loss", "gradient": "1 / first gradient norm"}


def arm_label(key: str) -> str:
    """An arm's key as a person says it; a key of unknown form comes back as it is."""
    arm = Arm.parse(key)
    words = _WORDS.get(arm.kind)
    if (words is not None and arm.key != arm.kind) or arm.kind in (KNOWN, BASELINE):
        return _WORDS[arm.kind](arm)
    return METHODS[key].label if key in METHODS else key


def _settings(arm: Arm) -> str:
    return ", ".join(f"{_NAMES.get(name, name)} {value:.3g}" for name, value in arm.parameters.items())


def _run(arm: Arm) -> str:
    return ", ".join([f"{arm.recipe} recipe", *([_settings(arm)] if arm.parameters else [])])


_NAMES = {"learning_rate": "lr"}
_WORDS: dict[str, Callable[[Arm], str]] = {
    "static": lambda arm: f"static point {arm.number:02d}",
    REFINED: lambda arm: f"refined point {arm.number:02d}",
    REFERENCE: lambda arm: f"single task {arm.task}",
    "frozen": lambda arm: f"frozen weights ({_RULES.get(arm.rule, arm.rule)})",
    BASELINE: lambda _: "the weights of today",
    KNOWN: lambda _: "the weights that the problem was made for",
    "gradnorm": lambda arm: f"GradNorm ({arm.recipe} recipe, {_settings(arm)})",
    "gradnorm_static": lambda arm: f"GradNorm static ({_run(arm)}, {arm.average.replace('_', ' ')} average)",
}

"""Labels of arms: "GradNorm static (robust recipe, tail average)" for ``gradnorm_static/robust/tail``."""

from __future__ import annotations

from collections.abc import Callable

from hpo.core.arm import BASELINE, KNOWN, REFERENCE, REFINED, Arm
from hpo.training.methods import METHODS

_RULES = {"loss": "1 / first loss", "gradient": "1 / first gradient norm"}


def arm_label(key: str) -> str:
    """Return the label of an arm; a key of unknown form is returned unchanged."""
    arm = Arm.parse(key)
    return f"{_base_label(arm.base)}{arguments_words(arm.arguments)}"


def arguments_words(label: str) -> str:
    """Return a set of the problem's arguments as the end of an arm's label; nothing for the problem's own.

    >>> arguments_words("learning_rate=0.01,width=64")
    ', learning_rate=0.01, width=64'
    """
    return f", {label.replace(',', ', ')}" if label else ""


def _base_label(arm: Arm) -> str:
    words, key = _WORDS.get(arm.kind), arm.key
    if (words is not None and key != arm.kind) or arm.kind in (KNOWN, BASELINE):
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
    "frozen": lambda arm: f"first-step weights ({_RULES.get(arm.rule, arm.rule)})",
    BASELINE: lambda _: "the weights of today",
    KNOWN: lambda _: "weights known to be best",
    "gradnorm": lambda arm: f"GradNorm ({arm.recipe} recipe, {_settings(arm)})",
    "gradnorm_static": lambda arm: f"GradNorm static ({_run(arm)}, {arm.average.replace('_', ' ')} average)",
}
